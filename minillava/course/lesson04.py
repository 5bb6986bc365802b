"""Exercises of lesson 04: the prompt, the mask, the loss, and what a picture leaves room for."""

from typing import Any

import torch
import torch.nn.functional as F

from minillava.course.exercises import Exercise, is_number


def v1(system, pairs):
    text = system
    for question, answer in pairs:
        separator = " " if text == system else ""
        text += f"{separator}USER: {question} ASSISTANT: {answer}</s>"
    return text


def _v1(answer: Any) -> str | None:
    pairs = [("What color is it?", "red"), ("Sure?", "yes")]
    found, wanted = answer("Be polite.", pairs), v1("Be polite.", pairs)
    if found == wanted:
        return None
    if not isinstance(found, str):
        return f"it returns a {type(found).__name__}; a text is wanted."
    if "</s>" not in found:
        return "no answer ends in </s>: a model trained on this never learns to stop."
    if found == wanted.replace("</s>", "</s> ").rstrip():
        return "there is a space after </s>; the next USER follows at once."
    if found.count("</s>") != 2:
        return f"</s> stands {found.count('</s>')} times; it ends every answer, so it stands twice here."
    if "\n" in found:
        return "nothing but spaces stands between the parts; `<image>\\n` would come with the question."
    if not found.startswith("Be polite. USER: "):
        return f"it begins {found[:20]!r}; the system prompt, a space, then USER: and a space."
    at = next((i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), len(wanted))
    return (
        f"it differs from letter {at} on: {found[at : at + 20]!r} where {wanted[at : at + 20]!r} is wanted."
    )


def _listed(found: Any) -> Any:
    """A tensor, an array or a tuple as the list that it holds."""
    if hasattr(found, "tolist"):
        return found.tolist()
    return list(found) if isinstance(found, tuple) else found


def labels(ids, spans, answers):
    learned = [any(first <= start < last for first, last in answers) for start, _ in spans]
    return [token if learn else -100 for token, learn in zip(ids, learned, strict=True)]


def _labels(answer: Any) -> str | None:
    # "<s>USER: Hi ASSISTANT: yes sir</s>" with the spans of its characters
    ids = [1, 31, 32, 33, 34, 35, 36, 2]
    spans = [(0, 0), (0, 5), (5, 8), (8, 18), (18, 19), (19, 23), (23, 27), (27, 31)]
    found, wanted = _listed(answer(ids, spans, [(19, 31)])), [-100] * 5 + [35, 36, 2]
    if found == wanted:
        # "...</s>USER: Sure? ASSISTANT: yes</s>" goes on: a second answer, and a token where the first ends
        ids, wanted = [*ids, 31, 37, 33, 34, 35, 2], [*wanted, *[-100] * 4, 35, 2]
        spans = [*spans, (31, 36), (36, 42), (42, 52), (52, 53), (53, 57), (57, 61)]
        found = _listed(answer(ids, spans, [(19, 31), (53, 61)]))
        if found == wanted:
            return _labels_across_edges(answer)
        if isinstance(found, list) and len(found) == len(ids) and found[8] == 31:
            return "with a second round its USER is learned: it begins where the first answer ends, outside."
        return f"one round is right; with a second, of the answers (19, 31) and (53, 61), it returns {found}."
    if not isinstance(found, list) or len(found) != len(ids):
        return f"it returns {found!r}; a list with one label for each of the {len(ids)} tokens is wanted."
    if 0 in found and -100 not in found:
        return "what is not learned gets -100, not 0: 0 is a token, <unk>."
    if found == ids:
        return "every token is learned, the question too: the model would be trained to ask."
    if found[-1] == -100 and found[:-1] == wanted[:-1]:
        return "the answer's </s> is not learned: the model would never stop talking."
    if found[4] == 34:
        return "the colon of ASSISTANT: is learned; an answer begins with the space after it."
    if found[5] == -100 and found[6:] == wanted[6:]:
        return "the answer's first token is not learned; it begins exactly where the answer does."
    if all(label in (-100, True, False) for label in found):
        return "a label is the token's id where it is learned, not True."
    return f"it returns {found}; wanted is {wanted}."


def _labels_across_edges(answer: Any) -> str | None:
    ids, spans, edges = [11, 12, 13], [(0, 5), (5, 9), (9, 14)], [(3, 11)]
    found, wanted = _listed(answer(ids, spans, edges)), labels(ids, spans, edges)
    if found == wanted:
        return None
    where = f"of tokens with the spans {spans} and the answer {edges[0]} it returns {found}"
    return f"{where}; where a token *begins* decides, wherever it ends: {wanted}."


def masked_loss(logits, labels):
    predictions, targets = logits[:-1], labels[1:]
    learned = targets != -100
    return F.cross_entropy(predictions[learned], targets[learned])


def _masked_loss(answer: Any) -> str | None:
    draw = torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(6, 5, generator=draw)
    labels = torch.tensor([-100, -100, -100, 3, 1, 2])
    found, wanted = answer(logits, labels), masked_loss(logits, labels)
    if not is_number(found):
        return f"it returns a {type(found).__name__}; one number is wanted."
    found = float(found)
    if abs(found - wanted.item()) < 1e-4:
        gap = torch.tensor([-100, 4, -100, 3, -100, 2])  # two answers and more
        found, wanted = float(answer(logits, gap)), masked_loss(logits, gap).item()
        if abs(found - wanted) < 1e-4:
            return None
        where = f"right for one answer at the end; for labels {gap.tolist()}"
        return f"{where} it returns {found:.4f}, not {wanted:.4f}."
    shifted = F.cross_entropy(logits[:-1], labels[1:], reduction="sum")
    known = {
        "position t is held against label t; but the logits of position t are about token t + 1.": (
            F.cross_entropy(logits, labels)
        ),
        "the shift goes the wrong way: logits lose their last row, labels their first.": (
            F.cross_entropy(logits[1:], labels[:-1])
        ),
        "that is the sum; wanted is the mean over the learned tokens.": shifted,
        "the sum is divided by all positions; only the learned ones count.": shifted / 5,
        "the sum is divided by the length of the text; only the learned ones count.": shifted / 6,
    }
    for sentence, value in known.items():
        if abs(found - value.item()) < 1e-4:
            return sentence
    return f"it returns {found:.4f}; wanted is {wanted.item():.4f}."


def room(max_length, pictures, words):
    return max(0, max_length - 576 * pictures - words)


def _room(answer: Any) -> str | None:
    for given, wanted in (
        ((2048, 1, 60), 1412), ((2048, 0, 60), 1988), ((600, 1, 60), 0), ((2048, 2, 60), 836)
    ):  # fmt: skip
        found = answer(*given)
        if not is_number(found):
            return f"it returns a {type(found).__name__}; a number is wanted."
        if found == wanted:
            continue
        where = f"for room{given}"
        if found < 0:
            return f"{where} it returns {found}: nothing is left, and a room is never below 0."
        if given[1] == 2 and found == given[0] - 576 - given[2]:
            return f"{where} it returns {found}: each of two pictures takes 576 positions."
        if found == given[0] - given[2]:
            return f"{where} it returns {found}, which forgets that a picture takes 576 positions."
        if found == given[0] - given[2] - 1:
            return f"{where} it returns {found}, which gives a picture one position; it takes 576."
        if found == given[0] - given[2] - 64 * given[1]:
            return f"{where} it returns {found}: 64 is tiny-LLaVA's picture; LLaVA-1.5's takes 576."
        return f"{where} it returns {found}; wanted is {wanted}."
    return None


EXERCISES = {
    "prompt": Exercise(
        statement=(
            "Write `v1(system, pairs)`: a system prompt and a list of `(question, answer)` → the text of "
            "LLaVA-1.5's conversation, the very string, spaces and all."
        ),
        hint=(
            "The system prompt, a space, then for each pair: USER: question ASSISTANT: answer</s>, and "
            "nothing between </s> and the next USER."
        ),
        solution=v1,
        mistake=_v1,
        shows="One wrong space is another token, which the model has never seen at that place.",
    ),
    "labels": Exercise(
        statement=(
            "Write `labels(ids, spans, answers)`: token ids, each token's `(start, end)` in characters, "
            "and the answers' spans → one label a token: its id if it *begins* inside an answer, else "
            "-100. Spans end before their `end`."
        ),
        hint="A token with the span (start, end) begins inside (first, last) if first <= start < last.",
        solution=labels,
        mistake=_labels,
        shows="No counting of tokens, so no count can be off: this is the rule in `conversation.encode`.",
    ),
    "loss": Exercise(
        statement=(
            "Write `masked_loss(logits, labels)`: `[T, V]` and `[T]` → the mean cross-entropy of the "
            "learned tokens. The logits of position t are about token t + 1. F is `torch.nn.functional`."
        ),
        hint=(
            "Drop the last row of the logits and the first label, keep where the label is not -100, and "
            "call F.cross_entropy."
        ),
        solution=masked_loss,
        mistake=_masked_loss,
        shows="The mean is over learned tokens only: a long question makes no loss smaller.",
    ),
    "room": Exercise(
        statement=(
            "LLaVA-1.5 cuts every sample to `max_length` positions, pictures included. Write "
            "`room(max_length, pictures, words)`: how many positions are left for the answer after "
            "`pictures` pictures and `words` tokens of prompt, never below 0."
        ),
        hint="A picture takes 24 × 24 positions. What if more is gone than there was?",
        solution=room,
        mistake=_room,
        shows="Where it is 0, the sample has nothing to learn from: the second way to a loss of 0.",
    ),
}
