"""Conversations: templates, and text -> token ids AND labels from one tokenization.

    USER: <image>\\nWhat color is it? ASSISTANT: A red one.</s>USER: Sure? ASSISTANT: Yes.</s>
    ─────── prompt, label -100 ─────────────── ──answer────── ── prompt ──────── ─answer─

Only answers are learned: a token gets a label if it begins inside an answer, which extends from the
space before it through its `</s>`. The rule looks at the tokenizer's character offsets, so it needs
no assumption on how long a text is in tokens, which is what fails in the original.

Source: haotian-liu/LLaVA at c121f04, llava/conversation.py (`conv_vicuna_v1`, `conv_llava_plain`),
llava/train/train.py (`preprocess_multimodal`, `preprocess_v1`, `preprocess_plain`) and
llava/mm_utils.py (`tokenizer_image_token`). Prompt, ids and labels are the original's, except for
these choices of ours:

- Image positions hold the tokenizer's `<image>` id, `num_image_tokens` times, labeled -100; the
  original has one -200 there until the model splices the features in. `max_length` counts the
  expanded sequence.
- The original drops a whole sample, with a printed warning at most, after an empty answer at the
  end, an empty question without an image, ` ASSISTANT: ` or `</s>` inside a turn, a literal
  `<unk>`, an odd number of turns, or with a tokenizer that adds no `<s>` or in which `USER` after
  `</s>` is not exactly one token shorter than at the start of a text. Here all non-empty answers
  are kept.
- Where the original supervises the wrong tokens (a question that ends in ` ASSISTANT:`; samples
  whose length check is skipped because they reach `model_max_length`), we supervise the answers.
- An answer that `max_length` cuts away whole is reported (`no_answer`), and `data.audit` rules the
  sample out; the original trains on the rest, with no label in it.
- `plain` takes a human and a gpt turn, in this order; the original takes any two.
- A conversation that ends with a question ends with ` ASSISTANT:` (a prompt for generation); the
  original's training code ends it with a space.
- A text piece that starts with a space (` ASSISTANT:` right after an image) follows today's fast
  tokenizer, which does not put another `▁` before it; the slow tokenizer of the original did.
- What the original meets with an AssertionError or KeyError is a ValueError that names the turn.
"""

import html
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from minillava.config import IGNORE_INDEX

IMAGE_TOKEN = "<image>"
END = "</s>"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""Vicuna v1.1's system prompt, used for training and all of LLaVA-1.5's evaluation (issue #129)."""

HALF = "half of a character (a lone surrogate, such as \\ud83d): write the whole one, or leave it out"
"""What is said of a text that is not `whole`."""

Turn = dict[str, str | None]
Span = tuple[int, int]


@dataclass(frozen=True)
class Encoded:
    """One sample: `input_ids` and `labels`, T integers each, labels -100 where nothing is learned.

    `prompt` is the rendered text with `<image>` unexpanded, `num_images` how often it stands there.
    `problems` says what a data audit should count, as "kind: what was found". The kinds:
    empty_answer, leading_answer, ends_with_question, image_missing, several_images,
    end_token_in_turn, truncated, image_truncated, no_answer.
    """

    prompt: str
    input_ids: list[int]
    labels: list[int]
    problems: tuple[str, ...] = ()
    num_images: int = 0

    @property
    def n_supervised(self) -> int:
        """How many positions enter the loss."""
        return sum(label != IGNORE_INDEX for label in self.labels)


def encode(
    conversations: Sequence[Turn],
    tokenizer: PreTrainedTokenizerBase,
    template: str = "v1",
    has_image: bool = True,
    num_image_tokens: int = 576,
    max_length: int | None = None,
) -> Encoded:
    """Render a conversation and turn it into token ids and labels.

    Args:
        conversations: LLaVA's records, `{"from": "human" | "gpt", "value": text}` in turn. If the
            last turn is a question, or an answer whose value is None, the prompt is one for
            generation: it ends with "ASSISTANT:" (v1) or right after the image (plain).
        tokenizer: a fast tokenizer; for pictures one that knows `<image>` as a token.
        template: "plain" (stage 1: image and caption, no question) or "v1" (stage 2, chat).
        has_image: whether the record has a picture. If not, `<image>` in a turn is ordinary text.
        num_image_tokens: positions per picture; 576 = 24 x 24 patches of CLIP ViT-L/14 at 336.
        max_length: keep at most this many positions, image positions included; None keeps all.

    Raises:
        ValueError: turns that do not alternate or have no text, an unknown template, a tokenizer
            without offsets or without `<image>`. Samples that are merely poor are reported in
            `Encoded.problems`, never dropped.
    """
    if template not in TEMPLATES:
        raise ValueError(f"Template {template!r} is unknown; choose one of {', '.join(TEMPLATES)}.")
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1, not {max_length}.")
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} gives no offsets; use a fast tokenizer.")

    turns = [move_image_to_front(turn) for turn in conversations] if has_image else conversations
    turns, problems = _checked(turns)
    prompt, answers = TEMPLATES[template](turns)

    num_images = prompt.count(IMAGE_TOKEN) if has_image else 0
    image_id = _image_token_id(tokenizer)
    if num_images and image_id is None:
        raise ValueError(
            f"The tokenizer has no {IMAGE_TOKEN} token. Add it with "
            f'tokenizer.add_tokens("{IMAGE_TOKEN}", special_tokens=True).'
        )
    if has_image and num_images != 1:
        kind = "several_images" if num_images else "image_missing"
        problems.append(f"{kind}: the prompt has {num_images} {IMAGE_TOKEN}, expected one")

    backend = tokenizer.backend_tokenizer
    if IMAGE_TOKEN in prompt and not has_image and image_id is not None:
        backend = _backend_without_image_token(tokenizer)
    input_ids, labels = _tokenize(prompt, answers, backend, image_id, num_images, num_image_tokens)

    total, learnable = len(labels), sum(label != IGNORE_INDEX for label in labels)
    if max_length is not None and total > max_length:
        images_cut = num_images and image_id in input_ids[max_length:]
        input_ids, labels = input_ids[:max_length], labels[:max_length]
        lost = learnable - sum(label != IGNORE_INDEX for label in labels)
        problems.append(
            f"truncated: {total} positions cut to {max_length}, "
            f"{lost} of {learnable} answer tokens lost"
        )
        if images_cut:
            problems.append(f"image_truncated: {max_length} positions do not hold the picture")
        learnable -= lost
    asks = turns and (turns[-1]["from"] == "human" or turns[-1]["value"] is None)
    if not learnable and not asks:
        problems.append("no_answer: no token of this sample is supervised")
    return Encoded(prompt, input_ids, labels, tuple(problems), num_images)


def whole(text: str) -> bool:
    """Whether a text has no lone surrogate: half of a character, which JSON can hold, tokenizers not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def move_image_to_front(turn: Turn) -> Turn:
    """The turn with `<image>`, wherever it stood, as its first line (`preprocess_multimodal`)."""
    text = turn.get("value")
    if not isinstance(text, str) or IMAGE_TOKEN not in text:
        return turn
    text = text.replace(IMAGE_TOKEN, "").strip()
    return {**turn, "value": f"{IMAGE_TOKEN}\n{text}".strip()}


def render_v1(turns: Sequence[Turn]) -> tuple[str, list[Span]]:
    """Vicuna v1.1's chat format -> the prompt and the character spans of its answers.

    An empty text loses its separator, as in the original: `USER:ASSISTANT:`, and no `</s>`.
    """
    prompt, answers = f"{SYSTEM} ", []
    for turn in turns:
        is_answer, text = turn["from"] == "gpt", turn["value"]
        prompt += "ASSISTANT:" if is_answer else "USER:"
        if not text:
            continue
        start = len(prompt)
        prompt += f" {text}{END if is_answer else ' '}"
        if is_answer:
            answers.append((start, len(prompt)))
    if turns and turns[-1]["from"] == "human":
        prompt += "ASSISTANT:"
    return prompt, answers


def render_plain(turns: Sequence[Turn]) -> tuple[str, list[Span]]:
    """Stage 1: the image, then the caption and a newline; what the user said is discarded."""
    if [turn["from"] for turn in turns] not in (["human"], ["human", "gpt"]):
        roles = ", ".join(str(turn["from"]) for turn in turns)
        raise ValueError(f"Template plain takes one human and one gpt turn, not: {roles}.")
    if IMAGE_TOKEN not in turns[0]["value"]:
        raise ValueError(
            f"Template plain needs a record with a picture and {IMAGE_TOKEN} in its first turn; "
            f"found {turns[0]['value']!r}. Text-only records belong to template v1."
        )
    caption = turns[1]["value"] if len(turns) == 2 else None
    if caption is None:
        return IMAGE_TOKEN, []
    prompt = f"{IMAGE_TOKEN}{caption}\n"
    return prompt, [(len(IMAGE_TOKEN), len(prompt))]


TEMPLATES: dict[str, Callable] = {"plain": render_plain, "v1": render_v1}


def _checked(conversations: Sequence[Turn]) -> tuple[list[Turn], list[str]]:
    """Validated turns without a leading answer, and the problems seen so far."""
    turns, problems = list(conversations), []
    if not turns:
        raise ValueError("The conversation has no turns; expected at least one from 'human'.")
    for i, turn in enumerate(turns):
        role, text = turn.get("from"), turn.get("value")
        if role not in ("human", "gpt"):
            raise ValueError(f"Turn {i} is from {role!r}; expected 'human' or 'gpt'.")
        for_generation = text is None and role == "gpt" and i == len(turns) - 1
        if not isinstance(text, str) and not for_generation:
            raise ValueError(
                f"Turn {i} ({role}) has the value {text!r}; expected text. "
                "Only the last answer may be None, to ask for it."
            )
        if text and not whole(text):
            raise ValueError(f"Turn {i} ({role}) has {HALF}.")
    if turns[0]["from"] == "gpt":
        turns = turns[1:]
        problems.append("leading_answer: the conversation starts with an answer, which is left out")
    for i, turn in enumerate(turns):
        expected = ("human", "gpt")[i % 2]
        if turn["from"] != expected:
            place = i + len(conversations) - len(turns)
            raise ValueError(
                f"Turn {place} is from {turn['from']!r} where {expected!r} was expected: "
                "turns must alternate. Merge or remove one of the two."
            )
        if turn["from"] == "gpt" and turn["value"] == "":
            problems.append(f"empty_answer: answer {i // 2 + 1} is empty")
        if turn["value"] and END in turn["value"]:
            problems.append(f"end_token_in_turn: {expected} turn {i // 2 + 1} contains {END}")
    if turns and turns[-1]["from"] == "human":
        problems.append("ends_with_question: the last question has no answer")
    return turns, problems


def _tokenize(
    prompt: str,
    answers: list[Span],
    backend: Tokenizer,
    image_id: int | None,
    num_images: int,
    num_image_tokens: int,
) -> tuple[list[int], list[int]]:
    """Prompt and answer spans -> ids and labels, with every `<image>` expanded.

    why piece by piece: the original tokenizes each text around an image on its own, so the text
    after one starts with a `▁` of its own (`tokenizer_image_token`); one call over all has none.
    """
    supervised = bytearray(len(prompt))  # one flag per character
    for start, end in answers:
        supervised[start:end] = b"\1" * (end - start)

    input_ids, labels, position = [], [], 0
    if backend.truncation or backend.padding:  # left switched on by a call elsewhere
        backend.no_truncation()
        backend.no_padding()
    for i, text in enumerate(prompt.split(IMAGE_TOKEN) if num_images else [prompt]):
        if i:
            input_ids += [image_id] * num_image_tokens
            labels += [IGNORE_INDEX] * num_image_tokens
            position += len(IMAGE_TOKEN)
        encoding = backend.encode(text)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if start == end:  # no characters: the tokenizer's own <s>, wanted once and in front
                if not input_ids:
                    input_ids.append(token)
                    labels.append(IGNORE_INDEX)
                continue
            input_ids.append(token)
            labels.append(token if supervised[position + start] else IGNORE_INDEX)
        position += len(text)
    return input_ids, labels


def _image_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    token = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return None if token == tokenizer.unk_token_id else token


@lru_cache(maxsize=2)
def _backend_without_image_token(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A copy that reads `<image>` as plain text, for text-only records that happen to contain it.

    The token is renamed, not removed, so that every other id stays what it is.
    """
    text = tokenizer.backend_tokenizer.to_str(pretty=False)
    # Code points that Unicode keeps out of texts: a private one may be an icon in some font.
    return Tokenizer.from_str(text.replace(json.dumps(IMAGE_TOKEN), '"\\ufdd0image\\ufdd1"'))


def pieces(encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, str]]:
    """(text, kind) of each token, in order: "image" (a run of them is one), "answer" or "prompt"."""
    image_id, run = _image_token_id(tokenizer), 0
    tokens = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    for i, (token, label) in enumerate(zip(tokens, encoded.labels, strict=True)):
        if encoded.num_images and encoded.input_ids[i] == image_id:
            run += 1
            if encoded.input_ids[i + 1 : i + 2] != [image_id]:
                yield f"{IMAGE_TOKEN} x {run}", "image"
                run = 0
            continue
        text = token.replace("▁", " ").replace("<0x0A>", "⏎").replace("\n", "⏎")
        yield text, "prompt" if label == IGNORE_INDEX else "answer"


def show(encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokens for a terminal (ANSI), `|` between: answers bold green, images magenta."""
    colors = {"prompt": "\033[2m", "image": "\033[35m", "answer": "\033[1;32m"}
    return "|".join(f"{colors[kind]}{text}\033[0m" for text, kind in pieces(encoded, tokenizer))


def to_html(encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokens for a notebook (`IPython.display.HTML`): supervised ones green and underlined."""
    styles = {
        "prompt": "color:#666;background:#f3f3f3",
        "image": "color:#7b1fa2;background:#f3e5f5",
        "answer": "color:#1b5e20;background:#c8e6c9;font-weight:bold;text-decoration:underline",
    }
    spans = "".join(
        f'<span class="{kind}" style="{styles[kind]};margin:1px;padding:0 1px;white-space:pre">'
        f"{html.escape(text)}</span><wbr>"
        for text, kind in pieces(encoded, tokenizer)
    )
    return f'<div style="font-family:monospace;line-height:1.8">{spans}</div>'
