"""How a reply is compared with the right one: each measure that a Toybox question can name.

    exact    equal after `metrics.normalise_answer`, as VQA does
    letter   the option's letter, read as ScienceQA's evaluation reads it
    box      the box in the reply overlaps the true one by half or more (Acc@IoU .5, as in RefCOCO)
    svg      F1 of the shapes in the code; beside it, whether it parses, and the IoU of what it draws
    because  the answer before "because"; beside it, the share of stated facts that are true
    pope     yes or no, read as POPE does; beside it, whether the reply is yes, right or not
    objects  F1 of the objects named, each with all its attributes; beside it, the share that is not there
"""

import re

from minillava.evaluation.metrics import choice_letter, multiset_f1, normalise_answer, says_yes
from minillava.evaluation.sketch import MATCH, box_iou, sketch_score

Scores = dict[str, float]
"""The score, 0-1, by its name; the first, named "", is the one that a table's row is about."""


def score(measure: str, reply: str, answer: str) -> Scores:
    """Scores of a reply against the right one. Raises ValueError for an unknown measure."""
    match measure:
        case "exact":
            return {"": float(normalise_answer(reply) == normalise_answer(answer))}
        case "letter":
            return {"": float(choice_letter(reply.strip()) == choice_letter(answer))}
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
            return {"": float(says_yes(reply) == says_yes(answer)), "says yes": float(says_yes(reply))}
    known = "exact, letter, box, svg, because, pope, objects"
    raise ValueError(f"There is no measure {measure!r}. Choose one of {known}.")


def _reasoned(text: str) -> tuple[str, list[str]]:
    """The answer, and the facts that are stated for it."""
    given, _, reason = text.lower().rstrip(". ").partition(", because ")
    return normalise_answer(given), [fact.strip() for fact in reason.split(" and ") if fact.strip()]


def box(text: str) -> tuple[float, ...]:
    """The first four numbers of a text; a box without an area where there are fewer."""
    numbers = [float(number) for number in re.findall(r"\d*\.?\d+", text)[:4]]
    return tuple(numbers) if len(numbers) == 4 else (0.0, 0.0, 0.0, 0.0)


def phrases(caption: str) -> list[str]:
    """The parts of a dense caption's first line, each of which stands for one object."""
    parts = caption.strip().split("\n")[0].rstrip(".").lower().split(",")
    return [part.strip() for part in parts if part.strip()]
