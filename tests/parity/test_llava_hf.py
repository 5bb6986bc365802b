"""Against transformers' own LLaVA: an exported folder opens without a word and behaves the same.

Both sides run the same random weights.
"""

from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from minillava import checkpoints
from minillava.config import PRESETS
from minillava.conversation import encode
from minillava.images import preprocess

GOLDEN = Path(__file__).parent / "golden"
QUESTION = "What color is the ball?"
TINY = Path(PRESETS["tiny"].finished)


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def pair(request, make_model, tmp_path):
    """(ours, theirs, their processor), theirs opened from our export."""
    ours = make_model(tied=request.param)
    checkpoints.export(ours, tmp_path / "export")
    theirs, report = LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "export", output_loading_info=True
    )
    assert not any(report.values()), report
    return ours, theirs.eval(), LlavaProcessor.from_pretrained(tmp_path / "export")


@pytest.fixture
def batch(tokenizer):
    """A picture with two rounds, text alone, and a picture with one round; padded right."""

    def turns(*values):
        return [{"from": ("human", "gpt")[i % 2], "value": v} for i, v in enumerate(values)]

    samples = [
        (turns(f"<image>\n{QUESTION}", "red", "How many boxes are there?", "Two boxes."), True),
        (turns("How many?", "Two."), False),
        (turns("<image>\nHow many boxes?", "The ball is red."), True),
    ]
    rows = [encode(t, tokenizer, has_image=image, num_image_tokens=16) for t, image in samples]
    length = max(len(row.input_ids) for row in rows)

    def pad(values, filler):
        return values + [filler] * (length - len(values))

    torch.manual_seed(1)
    return {
        "input_ids": torch.tensor([pad(r.input_ids, tokenizer.pad_token_id) for r in rows]),
        "labels": torch.tensor([pad(r.labels, -100) for r in rows]),
        "attention_mask": torch.tensor([pad([1] * len(r.input_ids), 0) for r in rows]),
        "pixel_values": torch.randn(2, 3, 16, 16),
    }


def test_logits_and_loss(pair, batch):
    ours, theirs, _ = pair
    a, b = ours(**batch), theirs(**batch)
    torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(a.loss, b.loss, rtol=0, atol=1e-6)
    lean = ours(**batch, all_logits=False)
    torch.testing.assert_close(lean.loss, b.loss, rtol=0, atol=1e-6)


def test_gradients(pair, batch):
    ours, theirs, _ = pair
    ours(**batch, all_logits=False).loss.backward()
    theirs(**batch).loss.backward()
    for layer in ("linear_1", "linear_2"):
        a = getattr(ours.multi_modal_projector, layer).weight.grad
        b = getattr(theirs.model.multi_modal_projector, layer).weight.grad
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    a = ours.language_model.get_input_embeddings().weight.grad
    b = theirs.get_input_embeddings().weight.grad
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_image_features(pair, batch):
    ours, theirs, _ = pair
    found = ours.project(ours.encode_images(batch["pixel_values"]))
    expected = torch.stack(list(theirs.get_image_features(batch["pixel_values"]).pooler_output))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("content", ["list", "string", "string with <image> at its end"])
def test_processor_gives_our_prompt_ids_and_pixels(pair, picture, tokenizer, content):
    _, _, processor = pair
    content = {
        "list": [{"type": "image"}, {"type": "text", "text": QUESTION}],
        "string": f"<image>\n{QUESTION}",
        "string with <image> at its end": f"{QUESTION}\n<image>",
    }[content]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    # lmms-eval renders with the tokenizer, which has to know the same template.
    assert text == processor.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False
    )
    turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": None}]
    expected = encode(turns, tokenizer, num_image_tokens=16)
    assert text.replace("<image> \n", "<image>\n") == expected.prompt
    found = processor(images=picture, text=text, return_tensors="pt")
    assert found["input_ids"][0].tolist() == expected.input_ids
    assert torch.equal(found["pixel_values"][0], preprocess(picture, 16, "pad"))


@pytest.mark.parametrize("template_content", ["string", "list"])
def test_chat_template_over_several_turns(pair, tokenizer, template_content):
    _, _, processor = pair
    texts = [f"<image>\n{QUESTION}", "The ball is red.", "How many boxes are there?", "Two boxes."]
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    expected = encode(turns, tokenizer, num_image_tokens=16)

    messages = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)
    ]
    if template_content == "list":
        for message in messages:
            words = {"type": "text", "text": message["content"].removeprefix("<image>\n")}
            images = [{"type": "image"}] * message["content"].count("<image>")
            message["content"] = images + [words]
    text = processor.apply_chat_template(messages)
    assert text.replace("<image> \n", "<image>\n") == expected.prompt
    ids = processor.tokenizer(text.replace("<image>", "<image>" * 16))["input_ids"]
    assert ids == expected.input_ids


@pytest.fixture(params=["vicuna_like", "vicuna_like_legacy", "single_user"])
def golden_processor(request):
    """Whether a text piece after a special token gets a `▁` of its own differs between these."""
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "tokenizer" / request.param)
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)])
    return LlavaProcessor(
        LlavaImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer,
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=checkpoints.CHAT_TEMPLATE,
    )


def test_processor_gives_our_ids_with_any_kind_of_llama_tokenizer(golden_processor, picture):
    texts = [f"<image>\n{QUESTION}", "Red.", "Sure?"]
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)
    ]
    text = golden_processor.apply_chat_template(messages, add_generation_prompt=True)
    found = golden_processor(images=picture, text=text)["input_ids"][0]
    assert found == encode(turns, golden_processor.tokenizer, num_image_tokens=16).input_ids


def parts(text: str) -> list[dict]:
    """A turn as list content, its pictures where they stand in the text."""
    words = [{"type": "text", "text": piece} for piece in text.split("<image>")]
    return [part for piece in words for part in ({"type": "image"}, piece)][1:]


ODD = {
    "an image only": ["<image>", "Red."],
    "images in several turns, in the middle": ["a <image> b", "x", "<image><image>", "", "c\n<image>\n"],
    "spaces and newlines": ["  two  spaces \n\n", "\tx\n", " <image>  \n y ", "  z  "],
    "no text": ["", "x", "", "", "y"],
    "template words": ["USER: a ASSISTANT:", "ASSISTANT: b USER:", "</s>", "<s>"],
    "Jinja and quotes": ["{{ x }} {% if %} {# c #}", '"a" \\n \'b\'', "<image>{%- y -%}", "<b>&amp;"],
    "other scripts": ["猫 😀 é e\u0301\u200b", "العربية", "한국어\u00a0", "\x00"],
}


@pytest.mark.parametrize("content", [str, parts], ids=["string", "list"])
@pytest.mark.parametrize("texts", ODD.values(), ids=ODD)
def test_chat_template_on_odd_turns(golden_processor, texts, content):
    """The same ids as `encode`, so as the original: of an empty turn nothing but its role is left."""
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": content(t)} for i, t in enumerate(texts)
    ]
    has_image = any("<image>" in text for text in texts)
    asks = len(texts) % 2 == 1
    text = golden_processor.apply_chat_template(messages, add_generation_prompt=asks)
    found = golden_processor.tokenizer(text.replace("<image>", "<image>" * 16))["input_ids"]
    expected = encode(turns, golden_processor.tokenizer, has_image=has_image, num_image_tokens=16)
    assert found == expected.input_ids


def test_chat_template_takes_another_system_prompt_and_no_picture(pair):
    _, _, processor = pair
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "text", "text": "How many?"}]},
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == "Be brief. USER: How many? ASSISTANT:"


def test_greedy_answer(pair, picture):
    ours, theirs, processor = pair
    messages = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=picture, text=text, return_tensors="pt")
    ids = theirs.generate(**inputs, max_new_tokens=12)[:, inputs["input_ids"].shape[1] :]
    expected = processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
    assert expected and ours.answer(picture, QUESTION, max_new_tokens=12) == expected


def test_greedy_answers_in_a_batch(pair, picture):
    """Prompts of unequal length: the exported tokenizer pads on the left, as generation needs."""
    ours, theirs, processor = pair
    questions = [QUESTION, "How many boxes are there?"]
    prompts = [
        processor.apply_chat_template(
            [{"role": "user", "content": f"<image>\n{question}"}], add_generation_prompt=True
        )
        for question in questions
    ]
    pictures = [picture, picture.rotate(90, expand=True)]
    inputs = processor(images=pictures, text=prompts, return_tensors="pt", padding=True)
    ids = theirs.generate(**inputs, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :]
    expected = [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
    assert ours.answer_batch(pictures, questions, max_new_tokens=8) == expected


@pytest.mark.skipif(not TINY.is_dir(), reason="tiny-LLaVA is not shipped yet")
def test_tiny_llava_is_the_same_in_transformers(tmp_path, picture):
    """The shipped model, exported: ids, pixels, logits and greedy text of several pictures and questions."""
    ours = checkpoints.load(TINY)
    folder = checkpoints.export(ours, tmp_path / "export")
    theirs, report = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    processor = LlavaProcessor.from_pretrained(folder)
    assert not any(report.values()), report
    theirs.eval()
    pictures = [picture, picture.rotate(90, expand=True), picture.crop((0, 0, 20, 20)).resize((200, 200))]
    questions = [QUESTION, "Describe the picture.", "Is there a circle?\nAnswer with yes or no."]
    for image, question in zip(pictures, questions, strict=True):
        messages = [{"role": "user", "content": f"<image>\n{question}"}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = processor(images=image, text=text, return_tensors="pt")
        turns = [{"from": "human", "value": f"<image>\n{question}"}]
        batch = ours.prepare([turns], [[image]])
        assert torch.equal(batch["input_ids"], inputs["input_ids"])
        assert torch.equal(batch["pixel_values"], inputs["pixel_values"])
        with torch.no_grad():
            found, expected = ours(**batch).logits, theirs(**inputs).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        ids = theirs.generate(**inputs, max_new_tokens=24)[:, inputs["input_ids"].shape[1] :]
        answer = processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
        assert ours.answer(image, question, max_new_tokens=24) == answer != ""


def test_folders_saved_by_transformers_load(pair, picture, tmp_path):
    """Its own save_pretrained, as a hub author would have written it."""
    ours, theirs, processor = pair
    theirs.save_pretrained(tmp_path / "theirs")
    processor.save_pretrained(tmp_path / "theirs")
    again = checkpoints.load(tmp_path / "theirs")
    for key, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key
    assert again.answer(picture, QUESTION, max_new_tokens=6) == ours.answer(
        picture, QUESTION, max_new_tokens=6
    )
