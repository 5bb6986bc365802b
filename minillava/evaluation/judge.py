"""LLaVA's judged relative score: a text-only judge reads the scene in words and grades two answers.

The judge never sees the picture. It gets captions and boxes, the question, a reference answer that a
text-only model gave from the same words, and the answer of the model under test, and gives each 1 to 10.
The relative score is 100 x the model's mean / the reference's, by kind of question: conversation, detailed
description, complex reasoning (P1, section 5.1).

Prompts are the original's to the last newline (llava/eval/eval_gpt_review_visual.py, and _bench.py for
In-the-Wild, of haotian-liu/LLaVA at c121f04). On purpose otherwise:

- `RULE`, what the judge is asked to do, is in our words; pass the original's (llava/eval/table/rule.json)
  for numbers that are to be compared.
- A review that cannot be read is kept and counted, not averaged in as (-1, -1); nothing is retried.
- `swap` puts the model's answer first: the original's reference is always first, and judges prefer a place.
- The judge's name is kept with every review: gpt-4-0314, which the papers used, is gone, and another
  judge's scores are not comparable.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from minillava.evaluation.metrics import JudgeScore, Pair, judge_table, parse_review

SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
"""What the original sends as the system message, with `TEMPERATURE` and `MAX_TOKENS`."""

TEMPERATURE, MAX_TOKENS = 0.2, 1024

CATEGORIES = ("conv", "detail", "complex")
"""The three kinds of question of LLaVA-Bench (COCO), by the names in its files; one rule serves all."""

RULE = """\
Two assistants have answered the question above, which a user asked about a picture. You cannot see the \
picture; the context describes it, in sentences and, where there are any, in boxes (x1, y1, x2, y2) of its \
things, as fractions of its width and height from the top left.
Judge how helpful, relevant, correct and detailed each answer is, and give each a score from 1 to 10, where \
10 is best.
Write the two scores, of Assistant 1 and of Assistant 2, alone on the first line, with a space between.
From the second line on, give your reasons, without favor to either answer or to the one that comes first."""


def describe(captions: str | Sequence[str], instances: Iterable[dict] | None = None) -> str:
    """The picture in words: captions, one a line, then its things as `category: [x1, y1, x2, y2]`.

    `instances` have `category` and `bbox` in 0..1. None, as In-the-Wild, leaves the part out; an empty list
    leaves it empty, as the original does.
    """
    text = captions if isinstance(captions, str) else "\n".join(captions)
    if instances is None:
        return text
    return f"{text}\n\n" + "\n".join(f"{thing['category']}: {list(thing['bbox'])}" for thing in instances)


def judge_prompt(context: str, question: str, first: str, second: str, rule: str = RULE) -> str:
    """The user's message to the judge; `context` is of `describe`, `first` and `second` are the answers."""
    blocks = [f"[Context]\n{context}", f"[Question]\n{question}"]
    for number, answer in enumerate((first, second), 1):
        blocks += [f"[Assistant {number}]\n{answer}", f"[End of Assistant {number}]"]
    return "\n\n".join([*blocks, f"[System]\n{rule}", ""])


@dataclass(frozen=True)
class Judgment:
    """One answer to be judged. `category` is one of CATEGORIES, or a name of your own."""

    id: str | int
    category: str
    context: str
    question: str
    reference: str
    answer: str


@dataclass(frozen=True)
class Review:
    """What a judge said: `pair` is (reference's score, model's), None where `text` holds no two scores."""

    id: str | int
    category: str
    judge: str
    swapped: bool
    prompt: str
    text: str
    pair: Pair | None


def review(
    judgments: Iterable[Judgment], ask: Callable[[str], str], judge: str, rule: str = RULE, swap: bool = False
) -> list[Review]:
    """Let `ask`, which answers a prompt and is named `judge`, grade every answer once.

    With `swap` the model's answer is Assistant 1 and the reference's 2; `pair` is put right again.
    """
    reviews = []
    for item in judgments:
        answers = (item.answer, item.reference) if swap else (item.reference, item.answer)
        prompt = judge_prompt(item.context, item.question, *answers, rule=rule)
        text = ask(prompt)
        pair = parse_review(text)
        if pair and swap:
            pair = pair[::-1]
        reviews.append(Review(item.id, item.category, judge, swap, prompt, text, pair))
    return reviews


def relative_scores(reviews: Iterable[Review]) -> dict[str, JudgeScore]:
    """The relative score of "all" and of each category; unread reviews are counted beside it.

    Raises ValueError for reviews by several judges, or in a category without a single one that was read.
    """
    reviews = list(reviews)
    if len(judges := {review.judge for review in reviews}) > 1:
        raise ValueError(f"Scores of different judges do not compare: {', '.join(sorted(judges))}.")
    return judge_table((review.category, review.pair) for review in reviews)
