"""How a reply is compared with the right one: each measure that a Toybox question can name.

    exact    equal after `metrics.normalise_answer`, as VQA does
    number   the same number; beside it, how far off it is
    written  equal, capitals and all; beside it, the share of characters read (1 - character error rate)
    letter   the option's letter, read as ScienceQA's evaluation reads it; beside it, the same by right letter
    box      the box in the reply overlaps the true one by half or more (Acc@IoU .5, as in RefCOCO)
    svg      F1 of the shapes in the code; beside it, whether it parses, and the IoU of what it draws
    because  the answer before "because"; beside it, the share of stated facts that are true
    pope     yes or no, read as POPE does; beside it, whether the reply is yes, right or not, and whether a
             yes is right (precision) and a right yes is said (recall)
    objects  F1 of the objects named, each with all its attributes; beside it, the share that is not there
"""

import re

from minillava.evaluation.metrics import choice_letter, multiset_f1, normalise_answer, says_yes
from minillava.evaluation.sketch import MATCH, box_iou, sketch_score

Scores = dict[str, float]
"""The score, 0-1, by its name; the first, named "", is the one that a table's row is about."""

FARTHEST = 1000.0
"""Numbers beyond are as wrong as this one: a reply of a hundred digits is no reason to forget all others."""

PRECISION, RECALL, F1 = "precision", "recall", "F1"
ERROR = "mean absolute error"
"""Names of scores; an error is no share of one, but in units of what is counted."""


def score(measure: str, reply: str, answer: str) -> Scores:
    """Scores of a reply against the right one. Raises ValueError for an unknown measure."""
    match measure:
        case "exact":
            return {"": float(normalise_answer(reply) == normalise_answer(answer))}
        case "number":
            right = float(normalise_answer(reply) == normalise_answer(answer))
            return {"": right, ERROR: _off(reply, answer)}
        case "written":
            read = reply.strip().rstrip(".")  # no VQA rules here: to them THE is an article and HED is "he'd"
            wrong = min(1.0, edits(read, answer) / len(answer))
            return {"": float(read == answer), "characters": 1 - wrong}
        case "letter":
            letter = choice_letter(answer)
            right = float(choice_letter(reply.strip()) == letter)
            return {"": right, f"right is {letter}": right}
        case "box":
            return {"": float(box_iou(box(reply), box(answer)) >= MATCH)}
        case "svg":
            found = sketch_score(reply, answer)
            return {"": found.f1, "parses": float(found.parses), "drawn alike (IoU)": found.iou}
        case "objects":
            said, there = phrases(reply), phrases(answer)
            invented = sum(phrase not in there for phrase in said) / len(said) if said else 0.0
            return {"": multiset_f1(said, there), "not there": invented}
        case "because":
            given, facts = _reasoned(reply)
            right, true = _reasoned(answer)
            known = sum(fact in true for fact in facts) / len(facts) if facts else 0.0
            return {"": float(given == right), "true facts": known}
        case "pope":
            said, true = says_yes(reply), says_yes(answer)
            scores = {"": float(said == true), "says yes": float(said)}
            scores |= {PRECISION: float(true)} if said else {}
            return scores | ({RECALL: float(said)} if true else {})
    known = "exact, number, written, letter, box, svg, because, pope, objects"
    raise ValueError(f"There is no measure {measure!r}. Choose one of {known}.")


def _off(reply: str, answer: str) -> float:
    """How far a number is off; a reply that is none is as far off as zero."""
    found = re.search(r"\d+(?:\.\d+)?", normalise_answer(reply))
    return abs(min(float(found[0] if found else 0), FARTHEST) - int(answer))


def edits(text: str, other: str) -> int:
    """Levenshtein distance: how many characters to put in, take out or change."""
    before = list(range(len(other) + 1))
    for i, one in enumerate(text, 1):
        now = [i]
        for j, two in enumerate(other, 1):
            now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (one != two)))
        before = now
    return before[-1]


def _reasoned(text: str) -> tuple[str, list[str]]:
    """The answer, and the facts that are stated for it."""
    given, _, reason = text.lower().rstrip(". ").partition(", because ")
    return normalise_answer(given), [fact.strip() for fact in reason.split(" and ") if fact.strip()]


def box(text: str) -> tuple[float, ...]:
    """The first four numbers of a text; a box without an area where there are fewer."""
    numbers = [float(number) for number in re.findall(r"-?\d*\.?\d+", text)[:4]]
    return tuple(numbers) if len(numbers) == 4 else (0.0, 0.0, 0.0, 0.0)


def phrases(caption: str) -> list[str]:
    """The parts of a dense caption's first line, each of which stands for one object."""
    parts = caption.strip().split("\n")[0].rstrip(".").lower().split(",")
    return [part.strip() for part in parts if part.strip()]
