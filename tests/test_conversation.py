import re
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from minillava.config import IGNORE_INDEX
from minillava.conversation import SYSTEM, encode, show, to_html

FOLDER = Path(__file__).parent / "parity/golden/tokenizer"


def human(text):
    return {"from": "human", "value": text}


def gpt(text):
    return {"from": "gpt", "value": text}


def load(name: str = "vicuna_like"):
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / name)
    tokenizer.add_tokens("<image>", special_tokens=True)
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load()


def learned(encoded, tokenizer) -> list[str]:
    return tokenizer.convert_ids_to_tokens([t for t in encoded.labels if t != IGNORE_INDEX])


def kinds(encoded) -> list[str]:
    return [problem.split(":")[0] for problem in encoded.problems]


def test_v1_renders_the_chat_and_learns_only_the_answers(tokenizer):
    encoded = encode(
        [human("Is it red?\n<image>"), gpt("Yes"), human("Sure?"), gpt("No")],
        tokenizer,
        num_image_tokens=4,
    )
    assert encoded.prompt == (
        f"{SYSTEM} USER: <image>\nIs it red? ASSISTANT: Yes</s>USER: Sure? ASSISTANT: No</s>"
    )
    assert learned(encoded, tokenizer) == ["▁Yes", "</s>", "▁No", "</s>"]
    assert encoded.n_supervised == 4 and encoded.num_images == 1 and not encoded.problems
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    first = encoded.input_ids.index(image_id)
    assert encoded.input_ids[first : first + 5] == [image_id] * 4 + [
        tokenizer.convert_tokens_to_ids("▁")  # the text after an image starts a text of its own
    ]
    assert encoded.input_ids.count(tokenizer.bos_token_id) == 1


def test_plain_is_image_and_caption(tokenizer):
    encoded = encode([human("Describe.\n<image>"), gpt("a cat")], tokenizer, "plain", True, 3)
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    assert encoded.prompt == "<image>a cat\n"
    assert encoded.input_ids[:4] == [1, image_id, image_id, image_id]
    assert encoded.labels[:4] == [IGNORE_INDEX] * 4
    assert encoded.labels[4:] == encoded.input_ids[4:]
    assert learned(encoded, tokenizer)[-1] == "<0x0A>"


@pytest.mark.parametrize("last", [[], [gpt(None)]])
def test_prompts_for_generation(tokenizer, last):
    question = [human("<image>\nIs it red?"), *last]
    encoded = encode(question, tokenizer, num_image_tokens=2)
    assert encoded.prompt.endswith("USER: <image>\nIs it red? ASSISTANT:")
    trained = encode([question[0], gpt("Yes")], tokenizer, num_image_tokens=2)
    assert encoded.input_ids == trained.input_ids[: -len(["▁Yes", "</s>"])]
    assert encoded.n_supervised == 0 and "no_answer" not in kinds(encoded)

    plain = encode(question, tokenizer, "plain", num_image_tokens=2)
    assert plain.prompt == "<image>" and len(plain.input_ids) == 3


@pytest.mark.parametrize(
    "turns, answers, found",
    [
        ([human("<image>\nA?"), gpt("Yes"), human("B?"), gpt("")], "▁Yes </s>", "empty_answer"),
        ([human("<image>\nA?"), gpt("Yes"), human("B?")], "▁Yes </s>", "ends_with_question"),
        ([gpt("Hi"), human("<image>\nA?"), gpt("Yes")], "▁Yes </s>", "leading_answer"),
        ([human("A?"), gpt("Yes")], "▁Yes </s>", "image_missing"),
        ([human("<image> A?"), gpt("Yes"), human("<image>"), gpt("No")], None, "several_images"),
        ([human("<image>\nA?"), gpt("Yes </s> No")], None, "end_token_in_turn"),
        ([human("<image>\nA?"), gpt("")], "", "no_answer"),
    ],
)
def test_poor_samples_are_reported_and_the_rest_is_kept(tokenizer, turns, answers, found):
    encoded = encode(turns, tokenizer, num_image_tokens=2)
    assert found in kinds(encoded)
    if answers is not None:
        assert learned(encoded, tokenizer) == answers.split()
    assert (encoded.n_supervised == 0) == ("no_answer" in kinds(encoded))


@pytest.mark.parametrize(
    "question, answer",
    [
        ("<image>\nA?", "Sure. ASSISTANT: Yes"),
        ("<image>\nsay ASSISTANT: now", "Yes"),
        ("<image>\nsay ASSISTANT:", "Yes"),
        ("<image>\nA?", "USER: Yes"),
        ("<image>", "<unk> Yes"),
        ("<image>\nA?", "  Yes\n"),
        ("<image>\nA?", "猫 😀"),
    ],
)
@pytest.mark.parametrize("name", ["vicuna_like", "vicuna_like_legacy", "single_user"])
def test_every_answer_is_learned_whole_whatever_it_contains(name, question, answer):
    tokenizer = load(name)
    encoded = encode([human(question), gpt(answer), human("B?"), gpt("No")], tokenizer)
    labels = [token for token in encoded.labels if token != IGNORE_INDEX]
    alone = tokenizer(f"x {answer}</s>", add_special_tokens=False)["input_ids"]
    prefix = len(tokenizer("x", add_special_tokens=False)["input_ids"])
    ending = [*tokenizer("No", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert labels == alone[prefix:] + ending and not encoded.problems


def test_a_tokenizer_without_bos_keeps_all_rounds():
    backend = Tokenizer.from_file(str(FOLDER / "vicuna_like/tokenizer.json"))
    backend.post_processor = None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.add_tokens("<image>", special_tokens=True)
    encoded = encode([human("<image>\nA?"), gpt("Yes"), human("B?"), gpt("No")], tokenizer)
    assert encoded.input_ids[0] != 1
    assert learned(encoded, tokenizer) == ["▁Yes", "</s>", "▁No", "</s>"]


def test_an_image_in_an_answer_is_not_learned(tokenizer):
    encoded = encode([human("Draw."), gpt("<image>")], tokenizer, num_image_tokens=3)
    assert learned(encoded, tokenizer) == ["▁", "</s>"]


def test_a_record_without_a_picture_reads_image_as_text(tokenizer):
    turns = [human("What does <image> mean?"), gpt("A picture.")]
    tokenizer.add_tokens("<pad>", special_tokens=True)  # must keep its id
    encoded = encode([*turns, human("<pad>"), gpt("x")], tokenizer, has_image=False)
    assert tokenizer.convert_tokens_to_ids("<image>") not in encoded.input_ids
    assert tokenizer.convert_tokens_to_ids("<pad>") in encoded.input_ids
    assert "What does <image> mean?" in tokenizer.decode(encoded.input_ids)
    assert encoded.num_images == 0 and not encoded.problems
    plain = AutoTokenizer.from_pretrained(FOLDER / "vicuna_like")  # knows no <image>
    assert encode(turns, tokenizer, has_image=False) == encode(turns, plain, has_image=False)
    turns = [human("\ue000 <image>"), gpt("An icon of some font.")]
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    assert image_id not in encode(turns, tokenizer, has_image=False).input_ids


def test_max_length_counts_image_positions(tokenizer):
    turns = [human("<image>\nA?"), gpt("Yes, it is red."), human("B?"), gpt("No")]
    whole = encode(turns, tokenizer, num_image_tokens=64)
    cut = encode(turns, tokenizer, num_image_tokens=64, max_length=len(whole.input_ids) - 1)
    assert cut.input_ids == whole.input_ids[:-1] and cut.labels == whole.labels[:-1]
    assert cut.problems == (
        f"truncated: {len(whole.labels)} positions cut to {len(cut.labels)}, "
        f"1 of {whole.n_supervised} answer tokens lost",
    )
    assert kinds(encode(turns, tokenizer, num_image_tokens=64, max_length=60)) == [
        "truncated",
        "image_truncated",
        "no_answer",
    ]
    assert encode(turns, tokenizer, num_image_tokens=64, max_length=10_000) == whole


def test_settings_left_by_another_call_do_not_cut_the_sample(tokenizer):
    turns = [human("<image>\nA?"), gpt("Yes")]
    whole = encode(turns, tokenizer)
    tokenizer(["x", "x y z"], truncation=True, max_length=3, padding="max_length")
    assert encode(turns, tokenizer) == whole


@pytest.mark.parametrize(
    "turns, message",
    [
        ([], "no turns"),
        ([human("<image>"), human("B?"), gpt("Yes")], "Turn 1 is from 'human' where 'gpt'"),
        ([gpt("x"), gpt("<image>")], "Turn 1 is from 'gpt' where 'human'"),
        ([{"from": "system", "value": "x"}], "Turn 0 is from 'system'"),
        ([{"value": "x"}], "Turn 0 is from None"),
        ([human(None), gpt("x")], r"Turn 0 \(human\) has the value None"),
        ([human("<image>"), gpt(None), human("x"), gpt("y")], r"Turn 1 \(gpt\)"),
        ([human("<image>"), gpt(3)], r"Turn 1 \(gpt\) has the value 3"),
    ],
)
def test_broken_conversations_name_the_turn(tokenizer, turns, message):
    with pytest.raises(ValueError, match=message):
        encode(turns, tokenizer)


def test_wrong_use_says_what_to_do(tokenizer):
    turns = [human("<image>\nA?"), gpt("Yes")]
    with pytest.raises(ValueError, match="choose one of plain, v1"):
        encode(turns, tokenizer, template="v0")
    with pytest.raises(ValueError, match="at least 1"):
        encode(turns, tokenizer, max_length=0)
    with pytest.raises(ValueError, match=r"add_tokens\(\"<image>\", special_tokens=True\)"):
        encode(turns, AutoTokenizer.from_pretrained(FOLDER / "vicuna_like"))
    with pytest.raises(ValueError, match="Text-only records belong to template v1"):
        encode([human("A?"), gpt("Yes")], tokenizer, "plain", has_image=False)
    with pytest.raises(ValueError, match="human, gpt, human"):
        encode([*turns, human("B?")], tokenizer, "plain")


def test_encode_changes_nothing_it_was_given(tokenizer):
    turns = [human("A? <image> "), gpt("Yes")]
    encode(turns, tokenizer)
    assert turns == [human("A? <image> "), gpt("Yes")]


def test_show_colors_answers_and_collapses_images(tokenizer):
    encoded = encode([human("<image>\nA < B?"), gpt("Yes\nso")], tokenizer, num_image_tokens=64)
    text = show(encoded, tokenizer)
    assert re.findall(r"\033\[1;32m(.*?)\033\[0m", text) == [
        token.replace("▁", " ").replace("<0x0A>", "⏎") for token in learned(encoded, tokenizer)
    ]
    assert text.count("<image> x 64") == 1 and text.count("<image>") == 1
    page = to_html(encoded, tokenizer)
    assert page.count('class="answer"') == encoded.n_supervised
    assert page.count('class="image"') == 1 and "&lt;image&gt; x 64" in page
    assert "A < B" not in page and "&lt;" in page


def test_encoding_takes_less_than_a_millisecond_or_so(tokenizer):
    turns = [human("<image>\nWhat is the dog doing?"), gpt("A brown dog is on the beach. " * 14)]
    encode(turns, tokenizer, num_image_tokens=64)
    start = time.process_time()
    for _ in range(50):
        encoded = encode(turns, tokenizer, num_image_tokens=64)
    assert len(encoded.input_ids) > 200
    assert (time.process_time() - start) / 50 < 5e-3  # about 0.4 ms; room for a busy machine
