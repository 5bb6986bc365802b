"""The benchmarks' metrics, in plain Python: what counts as a right answer, and how LLaVA reads one.

Each rule names its file in haotian-liu/LLaVA at c121f04. Parsers keep the original's quirks, since
published numbers contain them; where it stops or averages a failure in, we say what we do instead.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

NUMBERS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}

PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
"""Commas and question marks are gone before this set is looked at."""

CONTRACTIONS = {
    form[:i] + form[i + 1 :]: form
    for form in """
        ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've
        hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't
        mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't
        she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
        someone'd've someone'll someone's something'd something'd've something'll that's there'd
        there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've
        we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've
        who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
        y'all'd've you'd you'd've you'll you're you've
    """.split()
    for i, letter in enumerate(form)
    if letter == "'"
} | {"somebody'd": "somebodyd"}
"""Each form with any one of its apostrophes left out, and one entry that is the wrong way round."""


def normalise_answer(text: str) -> str:
    """A VQA answer in the form in which answers are compared.

    Lower case; without `,` and `?`; punctuation removed if any of its kind touches a space, else a
    space; full stops removed except before a digit; numbers to ten as digits; no articles;
    apostrophes restored. `'s` becomes a word of its own. As `EvalAIAnswerProcessor` in
    llava/eval/m4c_evaluator.py, two slips included: a stop after a digit goes too (a mistyped
    look-behind lets it), and at most 32 stops go (`re.UNICODE`, which is 32, is passed where the
    count belongs).
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = spaced = text.replace("\n", " ").replace("\t", " ").strip()
    for mark in PUNCTUATION:
        touches_space = f"{mark} " in spaced or f" {mark}" in spaced
        text = text.replace(mark, "" if touches_space else " ")
    text = re.sub(r"\.(?!\d)", "", text, count=32)
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(
        CONTRACTIONS.get(word, word) for word in words if word not in ("a", "an", "the")
    )


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA's soft accuracy, 0..1, of one prediction against the answers of ten people.

    Leaving out each person in turn, the prediction scores a third for every other one who said the
    same, at most 1. As `TextVQAAccuracyEvaluator` in llava/eval/m4c_evaluator.py. Raises ValueError
    unless there are ten answers.
    """
    if len(answers) != 10:
        raise ValueError(f"VQA accuracy is defined for ten answers, {len(answers)} were given.")
    prediction = normalise_answer(prediction)
    same = [normalise_answer(answer) == prediction for answer in answers]
    return sum(min(1, (sum(same) - one) / 3) for one in same) / len(same)


def exact_match(prediction: str, answer: str) -> bool:
    """GQA's rule: equal but for case, outer spaces and final stops (convert_gqa_for_eval.py)."""
    return prediction.strip().rstrip(".").lower() == answer.strip().rstrip(".").lower()


def multiset_f1(found: Iterable[Hashable], expected: Iterable[Hashable]) -> float:
    """F1, 0..1, of what a text names against what is there, repeats counted; 1 for none."""
    found, expected = Counter(found), Counter(expected)
    total = found.total() + expected.total()
    return 2 * (found & expected).total() / total if total else 1.0


# POPE ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PopeScores:
    """POPE's numbers, 0..1; "yes" is the positive class, `yes_ratio` the share *predicted*."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int

    def __str__(self) -> str:
        """The original's summary line: F1, accuracy, precision, recall, yes ratio."""
        values = (self.f1, self.accuracy, self.precision, self.recall, self.yes_ratio)
        return ", ".join(f"{value:.3f}" for value in values)


def says_yes(answer: str) -> bool:
    """Whether POPE reads an answer as yes: all but those with No, no or not in the first sentence.

    Words are what single spaces separate, so `NO`, `No!` and the empty answer are yes
    (llava/eval/eval_pope.py).
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not {"No", "no", "not"}.intersection(words)


def pope_scores(predictions: Sequence[str], labels: Sequence[str]) -> PopeScores:
    """POPE's scores of free-text answers against "yes" and "no" (llava/eval/eval_pope.py).

    A ratio whose denominator is 0 is 0; the original stops there. Raises ValueError for another
    label, for lists of unequal length and for none at all.
    """
    if len(predictions) != len(labels) or not labels:
        raise ValueError(
            f"POPE needs a label per answer: {len(predictions)} answers, {len(labels)} labels."
        )
    if unknown := set(labels) - {"yes", "no"}:
        raise ValueError(f"POPE's labels are 'yes' and 'no', found {sorted(unknown)[:3]}.")
    counts = Counter(
        (says_yes(answer), label == "yes")
        for answer, label in zip(predictions, labels, strict=True)
    )
    tp, fp = counts[True, True], counts[True, False]
    tn, fn = counts[False, False], counts[False, True]
    precision, recall = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
    return PopeScores(
        accuracy=(tp + tn) / len(labels),
        precision=precision,
        recall=recall,
        f1=_ratio(2 * precision * recall, precision + recall),
        yes_ratio=(tp + fp) / len(labels),
        true_positives=tp,
        false_positives=fp,
        true_negatives=tn,
        false_negatives=fn,
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


# Multiple choice ----------------------------------------------------------------------------------


def choice_letter(text: str) -> str | None:
    """The option a ScienceQA answer names, "A".."Z", or None where it cannot be told.

    In this order: the answer is one letter A..E; it starts with such a letter, a stop and a space;
    it holds `The answer is X` exactly once, X followed by any character. No blanks are stripped
    (llava/eval/eval_science_qa.py, whose FAILED is our None).
    """
    if text and text[0] in "ABCDE" and (len(text) == 1 or text[1:3] == ". "):
        return text[0]
    named = re.findall(r"The answer is ([A-Z]).", text)
    return named[0] if len(named) == 1 else None


def choice_index(text: str, n_choices: int) -> int:
    """Position of the chosen option, -1 for none of the first `n_choices` (`get_pred_idx`)."""
    letter = choice_letter(text)
    return "ABCDE"[:n_choices].find(letter) if letter else -1


# Judged answers -----------------------------------------------------------------------------------

Pair = tuple[float, float]
"""(score of the reference answer, score of the model), 1..10 by the judge's prompt."""


@dataclass(frozen=True)
class JudgeScore:
    """LLaVA's relative score in percent, and both means times ten, each to one decimal."""

    relative: float
    reference_x10: float
    model_x10: float
    reviews: int
    unparsed: int


def parse_review(text: str) -> Pair | None:
    """The two scores in a judge's first line, or None where they cannot be read.

    Commas count as spaces, and single spaces must give exactly two numbers: "8,9" is read, "8, 9"
    is not (`parse_score` in llava/eval/eval_gpt_review_visual.py, whose [-1, -1] is our None).
    Infinity and NaN, which the original lets through, are None too.
    """
    parts = text.split("\n")[0].replace(",", " ").split(" ")
    try:
        reference, model = map(float, parts)
    except ValueError:
        return None
    return (reference, model) if math.isfinite(reference) and math.isfinite(model) else None


def judge_score(pairs: Sequence[Pair | None]) -> JudgeScore:
    """100 x mean model score / mean reference score (llava/eval/summarize_gpt_review.py).

    Rounded as there: means to 3 decimals before the division, the result to 1. Reviews that could
    not be parsed (None) are left out and counted; the original averages them in as (-1, -1). Raises
    ValueError where no pair is left or the reference's mean is 0.
    """
    parsed = [pair for pair in pairs if pair is not None]
    if not parsed:
        raise ValueError(f"None of the {len(pairs)} reviews has two scores to average.")
    reference, model = (round(fmean(scores), 3) for scores in zip(*parsed, strict=True))
    if reference == 0:
        raise ValueError(
            "The reference answers score 0 on average: no score can be relative to that."
        )
    return JudgeScore(
        relative=round(model / reference * 100, 1),
        reference_x10=round(reference * 10, 1),
        model_x10=round(model * 10, 1),
        reviews=len(parsed),
        unparsed=len(pairs) - len(parsed),
    )


def judge_table(reviews: Iterable[tuple[str | None, Pair | None]]) -> dict[str, JudgeScore]:
    """`judge_score` of "all" reviews, then of each category; None is no category."""
    groups: dict[str, list[Pair | None]] = {"all": []}
    for category, pair in reviews:
        groups["all"].append(pair)
        if category is not None:
            groups.setdefault(category, []).append(pair)
    names = ["all", *sorted(groups.keys() - {"all"})]
    return {name: judge_score(groups[name]) for name in names}


# Uncertainty --------------------------------------------------------------------------------------


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, level: float = 0.95, resamples: int = 1000
) -> Pair:
    """(low, high) of the mean of `values`: percentiles over means of samples drawn with
    replacement.

    Deterministic in `seed`. Raises ValueError for no values.
    """
    if not values:
        raise ValueError("There are no values to draw from.")
    rng = random.Random(seed)
    means = sorted(fmean(rng.choices(values, k=len(values))) for _ in range(resamples))
    tail = round((1 - level) / 2 * (resamples - 1))
    return means[tail], means[-1 - tail]
