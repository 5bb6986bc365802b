"""model.py: the splice, the loss and what trains, generation, and what users get wrong."""

import pytest
import torch
import torch.nn.functional as F
from transformers import GenerationConfig

from minillava.config import PRESETS
from minillava.images import open_image
from minillava.model import MiniLlava

N = 16
"""Patches of a picture in these tests."""


def batch_of(tokenizer):
    """Three samples, padded right: picture and text, text only, picture and longer text."""
    image, pad = tokenizer.convert_tokens_to_ids("<image>"), tokenizer.pad_token_id
    rows = [
        [1, 270, *[image] * N, 300, 301, 302, 2],
        [1, 270, 303, 304, 2],
        [1, *[image] * N, 305, 306, 307, 308, 309, 2],
    ]
    length = max(map(len, rows))
    input_ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
    attention_mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    labels = torch.full_like(input_ids, -100)
    for b, row in enumerate(rows):
        labels[b, len(row) - 3 : len(row)] = torch.tensor(row[-3:])
    torch.manual_seed(1)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "pixel_values": torch.randn(2, 3, 16, 16),
    }


def test_splice_puts_pictures_in_reading_order(make_model, tokenizer):
    model, batch = make_model(), batch_of(tokenizer)
    image_embeds = torch.randn(2, N, 64)
    spliced = model.splice(batch["input_ids"], image_embeds)
    text = model.language_model.get_input_embeddings()(batch["input_ids"])
    expected = text.clone()
    expected[0, 2 : 2 + N], expected[2, 1 : 1 + N] = image_embeds[0], image_embeds[1]
    torch.testing.assert_close(spliced, expected, rtol=0, atol=0)


def test_several_pictures_in_one_sample(make_model, tokenizer):
    model = make_model()
    image = tokenizer.convert_tokens_to_ids("<image>")
    ids = torch.tensor([[1, *[image] * N, 300, *[image] * N, 301]])
    embeds = torch.randn(2, N, 64)
    spliced = model.splice(ids, embeds)
    torch.testing.assert_close(spliced[0, 1 : 1 + N], embeds[0])
    torch.testing.assert_close(spliced[0, 2 + N : 2 + 2 * N], embeds[1])


def test_splice_names_the_sample_with_a_cut_picture(make_model, tokenizer):
    model, batch = make_model(), batch_of(tokenizer)
    batch["input_ids"][2, 1] = 300
    with pytest.raises(ValueError, match="Sample 2 of the batch has 15 .* brings 16"):
        model.splice(batch["input_ids"], torch.randn(2, N, 64))


@pytest.mark.parametrize("pictures", [0, 1, 3])
def test_splice_names_the_samples_if_pictures_are_missing_or_left_over(
    make_model, tokenizer, pictures
):
    model, batch = make_model(), batch_of(tokenizer)
    message = rf"32 image positions but {16 * pictures} .*\[1, 0, 1\].*{pictures} came"
    with pytest.raises(ValueError, match=message):
        model.splice(batch["input_ids"], torch.randn(pictures, N, 64))


def test_features_given_equal_features_computed(make_model, tokenizer):
    model, batch = make_model(), batch_of(tokenizer)
    features = model.encode_images(batch["pixel_values"])
    cached = {**batch, "pixel_values": None, "image_features": features}
    torch.testing.assert_close(model(**cached).logits, model(**batch).logits, rtol=0, atol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_loss_is_the_mean_over_supervised_tokens_whichever_logits_are_wanted(
    make_model, tokenizer, tied
):
    model, batch = make_model(tied), batch_of(tokenizer)
    output = model(**batch)
    flat = output.logits[:, :-1].reshape(-1, output.logits.shape[-1])
    expected = F.cross_entropy(flat, batch["labels"][:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(output.loss, expected)

    rows = []
    head = model.language_model.lm_head
    hook = head.register_forward_hook(lambda _, args, __: rows.append(args[0].shape[:-1].numel()))
    lean = model(**batch, all_logits=False)
    hook.remove()
    assert lean.logits is None and rows == [9]  # three supervised tokens in each of three samples
    torch.testing.assert_close(lean.loss, expected)


def test_gradients_are_the_same_whichever_logits_are_wanted(make_model, tokenizer):
    model, batch = make_model(), batch_of(tokenizer)
    weight = model.multi_modal_projector.linear_1.weight
    (full,) = torch.autograd.grad(model(**batch).loss, weight)
    (lean,) = torch.autograd.grad(model(**batch, all_logits=False).loss, weight)
    assert full.abs().sum() > 0
    torch.testing.assert_close(lean, full)


def test_padding_does_not_change_a_sample(make_model, tokenizer):
    model, batch = make_model(), batch_of(tokenizer)
    together = model(**batch).logits
    for b, pixels in ((0, batch["pixel_values"][:1]), (1, None), (2, batch["pixel_values"][1:])):
        length = int(batch["attention_mask"][b].sum())
        alone = model(batch["input_ids"][b : b + 1, :length], pixels).logits
        torch.testing.assert_close(together[b, :length], alone[0], rtol=1e-4, atol=1e-5)


def test_training_leaves_padding_out_and_comes_to_the_same(make_model, tokenizer):
    """Right or left of the tokens, with the gradients of everything that trains."""
    model, batch = make_model(), batch_of(tokenizer)
    lengths = batch["attention_mask"].sum(dim=1).tolist()

    def left(rows):
        return torch.stack([row.roll(-length) for row, length in zip(rows, lengths, strict=True)])

    found = []
    for all_logits, turn in ((True, None), (False, None), (False, left)):
        inputs = {k: turn(v) if turn and k != "pixel_values" else v for k, v in batch.items()}
        loss = model(**inputs, all_logits=all_logits).loss
        trained = [p for p in model.parameters() if p.requires_grad]
        found.append((loss, *torch.autograd.grad(loss, trained)))
    for padded, right, other in zip(*found, strict=True):
        torch.testing.assert_close(right, padded, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(other, padded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("empty", ["None", "zero pictures"])
def test_text_only_batch_keeps_the_projector_in_the_graph(make_model, tokenizer, empty):
    """Its gradient is zero, not missing: DDP and FSDP wait for every parameter."""
    model, batch = make_model(), batch_of(tokenizer)
    batch = {key: value[1:2] for key, value in batch.items()}
    batch["pixel_values"] = None if empty == "None" else torch.empty(0, 3, 16, 16)
    loss = model(**batch, all_logits=False).loss
    loss.backward()
    for parameter in model.multi_modal_projector.parameters():
        assert parameter.grad is not None and not parameter.grad.any()
    plain = model.language_model(batch["input_ids"], attention_mask=batch["attention_mask"])
    torch.testing.assert_close(model(**batch).logits, plain.logits)


def test_the_vision_tower_is_frozen(make_model, tokenizer):
    model, batch = make_model(), batch_of(tokenizer)
    model(**batch).loss.backward()
    assert all(p.grad is None for p in model.vision_tower.parameters())
    assert all(p.grad is not None for p in model.multi_modal_projector.parameters())
    assert all(p.grad is not None for p in model.language_model.parameters())


def test_batch_without_a_supervised_token(make_model, tokenizer):
    model, batch = make_model(), batch_of(tokenizer)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    with pytest.raises(ValueError, match="None of the 3 samples"):
        model(**batch)
    batch["labels"][:, 0] = 5  # nothing comes before the first position to predict it from
    with pytest.raises(ValueError, match="None of the 3 samples"):
        model(**batch)


def test_generate_returns_new_ids_that_repeat_the_greedy_choice(make_model, tokenizer):
    model, batch = make_model(), batch_of(tokenizer)
    ids, pixels = batch["input_ids"][:1, : 4 + N], batch["pixel_values"][:1]
    new = model.generate(ids, pixels, max_new_tokens=5, min_new_tokens=5)
    assert new.shape == (1, 5)
    for _ in range(5):  # the same, without a cache
        logits = model(ids, pixels).logits[:, -1]
        logits[:, model.language_model.generation_config.eos_token_id] = -torch.inf
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    assert new.tolist() == ids[:, -5:].tolist()


@pytest.mark.parametrize("way", ["max_new_tokens", "generation_config", "max_length", "config's max_length"])
def test_however_an_answer_is_limited_it_is(make_model, tokenizer, way):
    model, batch = make_model(), batch_of(tokenizer)
    ids, pixels = batch["input_ids"][:1, : 4 + N], batch["pixel_values"][:1]
    both = ids.shape[1] + 3
    config = {"min_new_tokens": 3, "pad_token_id": 0}
    given = {
        "max_new_tokens": {"max_new_tokens": 3},
        "generation_config": {"generation_config": GenerationConfig(max_new_tokens=3, **config)},
        "max_length": {"max_length": both},
        "config's max_length": {"generation_config": GenerationConfig(max_length=both, **config)},
    }[way]
    assert model.generate(ids, pixels, min_new_tokens=3, **given).shape == (1, 3)
    with pytest.raises(ValueError, match="max_length 4 counts the prompt"):
        model.generate(ids, pixels, max_length=4)


def test_each_picture_takes_a_turn_of_its_own(make_model, picture):
    model = make_model()
    ask = {"from": "human", "value": "<image>\nWhat?"}
    said = {"from": "gpt", "value": None}
    turns = [ask, said | {"value": "Red."}, ask, said]
    assert len(model.prepare([turns], [[picture, picture]])["pixel_values"]) == 2
    for words, pictures in (("<image>\n<image>\nWhich?", 2), ("<image>\nWhich?", 2), ("Which?", 1)):
        turns = [{"from": "human", "value": words}, said]
        with pytest.raises(ValueError, match=f"Conversation 1 has . turns with <image>, but {pictures} pic"):
            model.prepare([[ask, said], turns], [[picture], [picture] * pictures])


def test_batch_of_two_equals_two_singles(make_model, picture):
    model = make_model()
    questions = ["What color is the ball?", "How many?"]
    images = [picture, picture.rotate(90, expand=True)]
    together = model.answer_batch(images, questions, max_new_tokens=8)
    alone = [model.answer(i, q, max_new_tokens=8) for i, q in zip(images, questions, strict=True)]
    assert together == alone
    assert alone[0] and alone[0] != alone[1]


def test_a_batch_is_searched_with_beams_as_one_question_is(make_model, picture):
    model, questions = make_model(), ["What color is the ball?", "How many?"]
    together = model.answer_batch([picture, picture], questions, num_beams=3, max_new_tokens=6)
    assert together == [model.answer(picture, q, num_beams=3, max_new_tokens=6) for q in questions]


def test_batch_mixes_questions_with_and_without_picture(make_model, picture):
    model = make_model()
    questions = ["What color is the ball?", "How many boxes are there?"]
    together = model.answer_batch([picture, None], questions, max_new_tokens=8)
    assert together == [
        model.answer(picture, questions[0], max_new_tokens=8),
        model.answer(None, questions[1], max_new_tokens=8),
    ]


def test_answer_looks_at_the_picture(make_model, picture):
    model = make_model()
    black = picture.point(lambda _: 0)
    question = "What color is the ball?"
    assert model.answer(picture, question, max_new_tokens=8) != model.answer(
        black, question, max_new_tokens=8
    )


def test_a_picture_asked_about_twice_is_looked_at_once(make_model, picture, monkeypatch):
    """Whose answer is whose stays as it was, with questions about nothing in between."""
    model, looked = make_model(), []
    black = picture.point(lambda _: 0)
    images = [picture, None, black, picture]
    questions = ["How many?", "How many?", "How many?", "What color is the ball?"]
    alone = [model.answer(i, q, max_new_tokens=6) for i, q in zip(images, questions, strict=True)]
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda pixels: looked.append(len(pixels)) or encode(pixels))
    opened = []
    monkeypatch.setattr("minillava.model.open_image", lambda one: opened.append(one) or open_image(one))
    assert model.answer_batch(images, questions, max_new_tokens=6) == alone
    assert looked == [2] and opened == [picture, black]


def test_what_prompts_begin_with_is_read_once_for_each_picture(make_model, picture, monkeypatch):
    """Ten questions: two passes over the beginning, one a picture, and what is left of each prompt."""
    model, lengths = make_model(), []
    images = [picture] * 6 + [picture.point(lambda _: 0)] * 4
    questions = [f"How many {'very ' * i}red balls are there?" for i in range(10)]
    alone = [model.answer(i, q, max_new_tokens=6) for i, q in zip(images, questions, strict=True)]
    decoder = model.language_model.model.layers[0]
    decoder.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[:2]))
    assert model.answer_batch(images, questions, max_new_tokens=6) == alone
    (read, beginning), (asked, rest) = lengths[:2]
    assert (read, asked) == (2, 10)
    assert beginning > N > 0 and rest < beginning


def test_reading_the_beginning_first_changes_no_logit(make_model, picture):
    model = make_model()
    turns = [[{"from": "human", "value": f"<image>\n{q}"}, {"from": "gpt", "value": None}]
             for q in ("How many?", "What color is the ball?", "Is there a ball, and how many?")]  # fmt: skip
    batch = model.prepare(turns, [[picture]] * 3)
    features = model.encode_images(batch.pop("pixel_values"))
    new = {"max_new_tokens": 1, "return_dict_in_generate": True, "output_logits": True}
    plain = model.generate(**batch, image_features=features, **new).logits[0]
    early = model.read_beginning(**batch, image_features=features, places=[0, 0, 0])
    assert early["past_key_values"].get_seq_length() > N
    torch.testing.assert_close(model.generate(**early, image_features=features, **new).logits[0], plain)


def test_image_token_in_the_question_is_not_doubled(make_model, picture):
    model = make_model()
    plain = model.answer(picture, "How many?", max_new_tokens=4)
    assert model.answer(picture, "<image>\nHow many?", max_new_tokens=4) == plain


def test_answer_batch_of_nothing(make_model):
    assert make_model().answer_batch([], []) == []


@pytest.mark.parametrize("question", ["", "  \n"])
def test_empty_question(make_model, picture, question):
    with pytest.raises(ValueError, match="Question 1 is empty"):
        make_model().answer_batch([picture, picture], ["How many?", question])


def test_unequal_lists(make_model, picture):
    with pytest.raises(ValueError, match="1 pictures but 2 questions"):
        make_model().answer_batch([picture], ["a", "b"])


def test_question_too_long_names_the_lengths(make_model, picture):
    with pytest.raises(ValueError, match=r"\d{3} tokens long .*takes 16.* 256 positions"):
        make_model().answer(picture, "how many balls " * 40)


def test_answer_that_does_not_fit_is_cut_with_a_warning(make_model, tokenizer):
    model = make_model()
    ids = torch.full((1, 250), 300)
    with pytest.warns(UserWarning, match="limited to 6 tokens, not 10.* 256 positions"):
        new = model.generate(ids, max_new_tokens=10, min_new_tokens=6)
    assert new.shape == (1, 6)


def test_padding_on_the_right_is_refused(make_model, tokenizer):
    batch = batch_of(tokenizer)
    del batch["labels"]
    with pytest.raises(ValueError, match="Pad on the left"):
        make_model().generate(**batch)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy is 'full'"),
        ({"vision_feature_layer": [-2, -1]}, "vision_feature_layer"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu'"),
        ({"multimodal_projector_bias": False}, "multimodal_projector_bias"),
        ({"mm_projector_type": "qformer"}, "Unknown projector 'qformer'"),
    ],
)
def test_config_of_something_else(make_config, change, message):
    config = make_config()
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(ValueError, match=message):
        MiniLlava(config)


def test_image_token_outside_the_vocabulary(make_config):
    config = make_config()
    config.image_token_index = 4000
    with pytest.raises(ValueError, match="image_token_index is 4000"):
        MiniLlava(config)


@pytest.mark.parametrize(
    "preset, hidden, inner, layers, heads, parameters",
    [
        ("llava-1.5-7b", 4096, 11008, 32, 32, 20_979_712),
        ("llava-1.5-13b", 5120, 13824, 40, 40, 31_467_520),
    ],
)
def test_the_real_sizes_on_the_meta_device(preset, hidden, inner, layers, heads, parameters):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=text, vision_feature_layer=PRESETS[preset].select_layer
    )
    with torch.device("meta"):
        model = MiniLlava(config)
    assert sum(p.numel() for p in model.multi_modal_projector.parameters()) == parameters
    assert model.num_image_tokens == 576
