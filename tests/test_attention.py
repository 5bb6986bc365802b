"""The recorder gives eager attention's rows while sdpa runs; the maps belong to the answer."""

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch.testing import assert_close
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    PreTrainedTokenizerFast,
)

from minillava.attention import TokenMaps, answer_maps, pieces, record
from minillava.conversation import IMAGE_TOKEN, SYSTEM
from minillava.model import MiniLlava

VISION = dict(
    hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
    image_size=16, patch_size=4,
)
TEXT = dict(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
    bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.3,
)
CLOSE = dict(rtol=0, atol=1e-5)


@pytest.fixture
def llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**TEXT)).eval()


def eager(model, **inputs):
    """Attention of every layer by transformers' own eager path, [B, L, H, T, T]."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation(before)
    return torch.stack(weights, dim=1)


def ids(batch, length, seed=1):
    return torch.randint(3, 60, (batch, length), generator=torch.Generator().manual_seed(seed))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_equals_eager_attention_while_sdpa_runs(llama):
    inputs = {"input_ids": ids(2, 9)}
    expected = eager(llama, **inputs)
    plain = llama(**inputs).logits
    with record(llama) as recording:
        logits = llama(**inputs).logits
    assert llama.config._attn_implementation == "sdpa"
    assert torch.equal(logits, plain)
    assert recording.weights.shape == (2, 3, 4, 9, 9)
    assert_close(recording.weights, expected, **CLOSE)
    assert_close(recording.weights.sum(-1), torch.ones(2, 3, 4, 9))
    assert not recording.weights.triu(1).any()


def test_without_a_cache_keys_are_rotated_here(llama):
    inputs = {"input_ids": ids(2, 9)}
    with record(llama) as recording:
        llama(**inputs, use_cache=False)
    assert_close(recording.weights, eager(llama, **inputs), **CLOSE)


@pytest.mark.parametrize("rows, picked", [
    (-1, [8]), ([2, -1], [2, 8]), (slice(6, None), [6, 7, 8]),
    (torch.arange(9) == 4, [4]), (..., list(range(9))),
])
def test_keeps_only_what_is_asked_for(llama, rows, picked):
    inputs = {"input_ids": ids(2, 9)}
    with record(llama, layers=[-1, 0], heads=[3, 1], rows=rows) as recording:
        llama(**inputs)
    assert recording.layers == [0, 2] and recording.heads == [1, 3]
    assert recording.rows.tolist() == [picked] * 2
    expected = eager(llama, **inputs)[:, [0, 2]][:, :, [1, 3]][:, :, :, picked]
    assert_close(recording.weights, expected, **CLOSE)


def test_each_sample_may_have_its_own_rows(llama):
    inputs = {"input_ids": ids(2, 9)}
    with record(llama, rows=[[3, 8], [0, 5]]) as recording:
        llama(**inputs)
    expected = eager(llama, **inputs)
    assert_close(recording.weights[0], expected[0][:, :, [3, 8]], **CLOSE)
    assert_close(recording.weights[1], expected[1][:, :, [0, 5]], **CLOSE)


def test_left_padding_is_never_looked_at(llama):
    tokens, mask = ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    with record(llama, rows=-1) as recording:
        llama(tokens, attention_mask=mask)
    assert_close(
        recording.weights, eager(llama, input_ids=tokens, attention_mask=mask)[..., -1:, :], **CLOSE
    )
    assert not recording.weights[1, ..., :4].any()
    with record(llama, rows=-1) as alone:
        llama(tokens[1:, 4:])
    assert_close(recording.weights[1:, ..., 4:], alone.weights, **CLOSE)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_appends_a_row_for_each_step(llama, cache):
    tokens, mask = ids(2, 6), torch.ones(2, 6, dtype=torch.long)
    mask[0, :2] = 0
    with record(llama, rows=-1) as recording:
        out = llama.generate(
            tokens, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False,
            cache_implementation=cache, disable_compile=True,
        )
    assert recording.rows.tolist() == [[5, 6, 7, 8]] * 2
    whole = torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], dim=1)
    expected = eager(llama, input_ids=out[:, :9], attention_mask=whole)[..., 5:, :]
    assert_close(recording.weights, expected, **CLOSE)


def test_a_new_pass_replaces_the_last(llama):
    with record(llama, rows=-1) as recording:
        llama(ids(2, 9))
        llama.generate(ids(1, 5), max_new_tokens=2, min_new_tokens=2, do_sample=False)
        assert recording.rows.tolist() == [[4, 5]]
        llama(ids(3, 4))
    assert recording.weights.shape == (3, 3, 4, 1, 4)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_forward_is_recorded_and_unchanged(llama, checkpointing):
    llama.train()
    if checkpointing:
        llama.gradient_checkpointing_enable()
    tokens = ids(2, 9)
    expected = eager(llama, input_ids=tokens)
    llama(tokens, labels=tokens).loss.backward()
    gradient = llama.model.layers[0].self_attn.q_proj.weight.grad.clone()
    llama.zero_grad()
    with record(llama, rows=[4]) as recording:
        llama(tokens, labels=tokens).loss.backward()
    assert torch.equal(llama.model.layers[0].self_attn.q_proj.weight.grad, gradient)
    assert not recording.weights.requires_grad
    assert_close(recording.weights, expected[..., 4:5, :], **CLOSE)


def test_the_loss_alone_is_recorded_too(make_model):
    """What training asks for, which otherwise goes past the layers' attention modules."""
    model = make_model().train()
    tokens, mask = ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[1, 7:] = 0
    labels = torch.full_like(tokens, -100)
    labels[:, 4:6] = tokens[:, 4:6]
    inputs = dict(input_ids=tokens, attention_mask=mask, labels=labels, all_logits=False)
    plain = model(**inputs).loss
    with record(model) as recording:
        loss = model(**inputs).loss
    assert_close(loss, plain)
    expected = eager(model.language_model, input_ids=tokens, attention_mask=mask)
    assert_close(recording.weights, expected, **CLOSE)


@pytest.mark.parametrize("same", [True, False])
def test_rows_of_a_batch_of_questions_are_those_of_each_question(make_model, picture, same):
    """About one picture or two: no part of the prompts is read before the rest."""
    model = make_model()
    images = [picture, picture if same else picture.rotate(90)]
    questions = ["What color?", "How many balls?"]
    with record(model, rows=-1) as together:
        model.answer_batch(images, questions, max_new_tokens=1)
    for image, question, weights in zip(images, questions, together.weights, strict=True):
        with record(model, rows=-1) as alone:
            model.answer(image, question, max_new_tokens=1)
        assert weights.shape[2] == 1
        assert_close(weights[..., -alone.weights.shape[-1] :], alone.weights[0], **CLOSE)


def test_eager_models_and_bfloat16_can_be_recorded(llama):
    inputs = {"input_ids": ids(1, 7)}
    expected = eager(llama, **inputs)
    llama.set_attn_implementation("eager")
    with record(llama) as recording:
        llama(**inputs)
    assert_close(recording.weights, expected, **CLOSE)
    llama.bfloat16()
    with record(llama) as recording:
        llama(**inputs)
    assert recording.weights.dtype == torch.float32
    assert_close(recording.weights, eager(llama, **inputs).float(), rtol=0, atol=2e-2)


def test_nothing_is_left_behind_even_after_an_error(llama):
    with pytest.raises(ZeroDivisionError), record(llama):
        assert hooks(llama) == 9
        raise ZeroDivisionError
    assert hooks(llama) == 0


def test_vision_tower_and_its_early_stop():
    torch.manual_seed(0)
    tower = CLIPVisionModel(CLIPVisionConfig(**VISION)).eval()
    pixels = torch.randn(2, 3, 16, 16)
    with record(tower, rows=0) as recording:
        tower(pixels)
    assert_close(recording.weights, eager(tower, pixel_values=pixels)[..., :1, :], **CLOSE)
    with record(tower) as recording:
        tower.encoder.layers[0](torch.randn(1, 5, 16), None)
    assert recording.layers == [0]
    with pytest.raises(RuntimeError, match=r"layers \[2\]"), record(tower, [2]) as recording:
        tower.encoder.layers[0](torch.randn(1, 5, 16), None)
        _ = recording.weights


def llava_config(image=63, **text):
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION), text_config=LlamaConfig(**{**TEXT, **text}),
        image_token_index=image, image_seq_length=16,
    )


def test_llava_of_transformers_is_recorded_in_its_language_model():
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(llava_config()).eval()
    tokens = torch.cat([ids(1, 3), torch.full((1, 16), 63), ids(1, 4)], dim=1)
    inputs = {"input_ids": tokens, "pixel_values": torch.randn(1, 3, 16, 16)}
    with record(model, rows=slice(19, None)) as recording:
        model(**inputs)
    assert_close(recording.weights, eager(model, **inputs)[..., 19:, :], **CLOSE)
    with record(model.model.vision_tower, rows=0) as recording:
        model(**inputs)
    assert recording.weights.shape == (1, 3, 2, 1, 17)


@pytest.mark.parametrize("arguments, message", [
    ({"layers": [3]}, "no layer 3; the model has 0 to 2"),
    ({"heads": [-5]}, "no head -5; the model has 0 to 3"),
])
def test_an_index_out_of_range_is_named(llama, arguments, message):
    with pytest.raises(ValueError, match=message), record(llama, **arguments):
        pass


@pytest.mark.parametrize("rows", [9, [[0], [1], [2]], [[0, 1], [2]]])
def test_rows_that_do_not_fit_are_refused(llama, rows):
    with pytest.raises(ValueError), record(llama, rows=rows):
        llama(ids(2, 9))


def test_models_that_cannot_be_recorded_are_refused():
    both = CLIPModel(CLIPConfig(
        vision_config=VISION,
        text_config=dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2),
    ))
    for model, message in [(torch.nn.Linear(2, 2), "no LLaMA or CLIP"), (both, "two stacks")]:
        with pytest.raises(ValueError, match=message), record(model):
            pass


def test_a_language_model_of_another_kind_is_named():
    """Not passed over for the vision tower beside it."""
    text = MistralConfig(**{k: v for k, v in TEXT.items() if k != "initializer_range"})
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=CLIPVisionConfig(**VISION), text_config=text, image_token_index=63)
    )
    with pytest.raises(ValueError, match="is 'mistral'; only LLaMA's kind"), record(model):
        pass
    with record(model.model.vision_tower) as recording:
        model.model.vision_tower(torch.randn(1, 3, 16, 16))
    assert recording.layers == [0, 1, 2]


def test_32_rows_of_a_7b_fit_in_100_megabytes():
    """LLaVA-1.5-7B's layers, heads and positions, at a width that a test can afford."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{
        **TEXT, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "hidden_size": 64, "max_position_embeddings": 1024,
    })).eval()
    with torch.no_grad(), record(model, rows=slice(-32, None)) as recording:
        model.model(ids(1, 650), use_cache=False)
    assert recording.weights.shape == (1, 32, 32, 32, 650)
    numbers = 32 * 32 * 32 * 650
    assert 4 * numbers <= recording.nbytes < 4 * numbers + 1e5 < 100e6


def test_an_empty_recording_says_so(llama):
    with record(llama) as recording:
        pass
    with pytest.raises(RuntimeError, match="No forward pass"):
        _ = recording.weights


QUESTION = "What shape is the yellow object?"


@pytest.fixture(scope="module")
def mini():
    """An untrained MiniLlava that sees 4x4 patches, with a tokenizer of a few words."""
    special = ["<unk>", "<s>", "</s>", IMAGE_TOKEN, "<pad>"]
    words = BpeTrainer(vocab_size=150, special_tokens=special)
    backend = Tokenizer(BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.train_from_iterator([f"{SYSTEM} USER: \n{QUESTION} ASSISTANT:"] * 4, words)
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        additional_special_tokens=[IMAGE_TOKEN],
    )
    config = llava_config(image=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN), vocab_size=150)
    torch.manual_seed(2)
    model = MiniLlava(config).eval()
    for parameter in model.parameters():  # why: fresh weights hardly tell one patch from another
        torch.nn.init.normal_(parameter, std=0.3)
    model.tokenizer = tokenizer
    return model


def test_answer_maps_are_those_of_the_rows_that_spoke(mini):
    picture = Image.linear_gradient("L").resize((40, 20))
    result = answer_maps(mini, picture, QUESTION, max_new_tokens=5, min_new_tokens=5)
    assert result.answer == mini.answer(picture, QUESTION, max_new_tokens=5, min_new_tokens=5)
    assert result.answered.text.strip() == result.answer
    assert result.answered.maps.shape == (5, 3, 4, 4, 4)
    assert result.prompt.text.strip().startswith("What shape is the yellow object?")
    assert result.prompt.text.endswith("ASSISTANT:")

    # the same, by hand: one eager pass over prompt and answer, the row before each answer token
    asked = {"from": "human", "value": f"{IMAGE_TOKEN}\n{QUESTION}"}
    batch = mini.prepare([[asked, {"from": "gpt", "value": None}]], [[picture]])
    new = mini.generate(**batch, max_new_tokens=5, min_new_tokens=5)
    embeds = mini.splice(
        torch.cat([batch["input_ids"], new], dim=1),
        mini.project(mini.encode_images(batch["pixel_values"])),
    )
    weights = eager(mini.language_model, inputs_embeds=embeds)[0]
    start = batch["input_ids"][0].tolist().index(mini.config.image_token_id)
    length = batch["input_ids"].shape[1]
    on_picture = weights[..., start : start + 16].unflatten(-1, (4, 4)).permute(2, 0, 1, 3, 4)
    assert_close(torch.tensor(result.answered.maps), on_picture[length - 1 : length + 4], **CLOSE)
    assert_close(torch.tensor(result.prompt.maps), on_picture[start + 16 : length], **CLOSE)
    mass = torch.tensor(result.answered.mass)
    assert_close(mass, on_picture.sum((3, 4))[length - 1 : -1], **CLOSE)


def test_answer_maps_lead_back_to_the_pictures_pixels(mini):
    result = answer_maps(mini, Image.new("RGB", (40, 20)), QUESTION, [1], [0, 2], max_new_tokens=1)
    assert (result.layers, result.heads) == ([1], [0, 2])
    heat = result.geometry.heatmap(result.prompt.maps[0, 0, 1])
    assert heat.shape == (20, 40)
    assert heat[0, 0] == result.prompt.maps[0, 0, 1, 1, 0]  # the padding above is the grid's row 0
    assert result.geometry.cells((0, 0, 10, 10))[1].tolist() == [1, 0, 0, 0]


def test_an_answer_ends_before_its_end_token(mini):
    eos = mini.tokenizer.eos_token_id
    picture = Image.new("RGB", (16, 16))
    result = answer_maps(mini, picture, QUESTION, max_new_tokens=4, forced_eos_token_id=eos)
    assert len(result.answered.tokens) == len(result.answered.maps) == 3


def test_beam_search_is_refused(mini):
    with pytest.raises(ValueError, match="one path"):
        answer_maps(mini, Image.new("RGB", (16, 16)), QUESTION, num_beams=2)


@pytest.mark.parametrize("question", ["", " \n"])
def test_an_empty_question_is_refused(mini, question):
    with pytest.raises(ValueError, match="Question 0 is empty"):
        answer_maps(mini, Image.new("RGB", (16, 16)), question)


def test_a_character_in_bytes_is_one_piece_and_is_found(tokenizer):
    ids = tokenizer("ball é猫!\n", add_special_tokens=False).input_ids
    found = pieces(ids, tokenizer)
    assert "".join(found) == " ball é猫!\n" and len(found) == len(ids)
    at = found.index("é")
    assert found[at : at + 5] == ["é", "", "猫", "", ""]
    maps = TokenMaps(found, np.zeros((len(found), 1, 1, 2, 2)))
    assert maps.find("猫") == [at + 2, at + 3, at + 4] and maps.find("é") == [at, at + 1]
    assert maps.find("é猫") == list(range(at, at + 5)) and maps.find("!") == [at + 5]
    assert pieces(ids[: at + 4], tokenizer)[at:] == ["é", "", "\ufffd", ""]  # cut off by max_new_tokens


def test_words_are_found_among_their_pieces():
    maps = TokenMaps([" ye", "ll", "ow", " or", " yell", "ow", "?"], np.zeros((7, 1, 1, 2, 2)))
    assert maps.find("yellow") == [4, 5]
    assert maps.find("or") == [3] and maps.find("yell") == [4]
    with pytest.raises(ValueError, match="'blue' is not in ' yellow or yellow\\?'"):
        maps.find("blue")
    maps = TokenMaps([" What", " is", " in", " this", "?"], np.zeros((5, 1, 1, 2, 2)))
    assert maps.find("is") == [1] and maps.find("this") == [3]
