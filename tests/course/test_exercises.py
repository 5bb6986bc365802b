"""Exercises: what `check` says to stubs, to solutions, to typical mistakes and to anything else."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minillava import course
from minillava.course import exercises as machinery
from minillava.course import lesson07, lesson07b
from minillava.course.exercises import find, source, verdict
from minillava.course.lesson05 import bits
from minillava.toybox.language import SHORT_ANSWER

ROOT = Path(__file__).resolve().parents[2]
LESSONS = sorted(path.stem.removeprefix("lesson") for path in Path(course.__file__).parent.glob("lesson*.py"))
NAMES = [
    f"{lesson}.{title}"
    for lesson in LESSONS
    for title in __import__(f"minillava.course.lesson{lesson}", fromlist=["EXERCISES"]).EXERCISES
]


@pytest.mark.parametrize("name", NAMES)
def test_a_solution_passes_its_own_check(name):
    assert verdict(find(name), find(name).answer).startswith("✓ right")


@pytest.mark.parametrize("name", NAMES)
def test_the_code_that_is_shown_passes_when_pasted(name):
    exercise = find(name)
    cell = {"torch": torch, "F": F, "math": math}
    exec("from collections import Counter\n" + source(exercise), cell)
    answer = cell[exercise.solution.__name__]
    assert verdict(exercise, answer).startswith("✓")


@pytest.mark.parametrize("name", NAMES)
def test_a_stub_is_not_yet_and_not_wrong(name):
    stubs = [NotImplemented, ...]
    if find(name).answer is find(name).solution:
        stubs.append(lambda *_: NotImplemented)
    for stub in stubs:
        said = verdict(find(name), stub, name)
        assert said.startswith("… not yet") and f'hint("{name}")' in said


@pytest.mark.parametrize("name", NAMES)
def test_no_answer_whatever_stops_the_notebook(name):
    odd = [None, True, 3, -1.5, "text", [], {}, (1,), {"a": 1}, torch.zeros(2, 3), float("nan"), object()]
    for value in odd:
        for answer in (value, lambda *_, value=value: value):
            assert verdict(find(name), answer).startswith("✗"), f"{name} takes {value!r}"


@pytest.mark.parametrize("name", NAMES)
def test_an_exercise_can_be_read(name):
    exercise = find(name)
    for words in (exercise.statement, exercise.hint, exercise.shows):
        assert words.strip() == words and words[-1] in ".?"
    assert exercise.solution.__name__ not in exercise.hint


def test_an_error_is_reported_with_its_line():
    def stops(size, patch):
        return size // 0

    line = stops.__code__.co_firstlineno + 1
    said = verdict(find("02.count"), stops)
    assert said.startswith("✗") and "ZeroDivisionError" in said and f"line {line}" in said
    assert said.endswith("It was given 336 and 14.")


def test_an_error_inside_a_library_is_reported_with_the_line_that_called_it():
    def calls(logits, labels):
        return F.cross_entropy(logits[:-1], labels)

    line = calls.__code__.co_firstlineno + 1
    said = verdict(find("04.loss"), calls)
    assert f"in line {line} with ValueError" in said
    assert said.endswith("It was given a tensor of shape [6, 5] and a tensor of shape [6].")


def test_unknown_names_say_what_there_is():
    with pytest.raises(ValueError, match="box, record, majority, adversarial, not 'boxes'"):
        course.check("01.boxes", None)
    with pytest.raises(ValueError, match="looks like '03.splice'"):
        course.hint("splice")


def test_the_four_verbs_print_for_a_notebook(capsys):
    shown = course.exercise("02.layer")
    assert shown.data.startswith("### Exercise 02.layer\n") and "24 layers" in shown.data
    course.check("02.layer", NotImplemented)
    course.hint("02.layer")
    check, *verbs, hint = capsys.readouterr().out.strip().split("\n")
    assert check.startswith("02.layer: … not yet") and "index" in hint
    assert verbs == ['hint("02.layer")', 'solution("02.layer")']  # each a line to copy
    course.solution("02.layer")
    code = capsys.readouterr().out.strip().split("\n")
    assert code == ["layers = 23"]


THINGS = [("red", "star"), ("blue", "heart"), ("blue", "star")]


def turns(*pairs, key="from"):
    return [{key: role, "value": text} for role, text in pairs]


def record(conversations, **more):
    return lambda name, image, caption: (
        {"id": name, "image": image, "conversations": conversations(caption)} | more
    )


def gelu_like(inner=F.gelu, outer=lambda x: x, bias=True):
    def project(features, w1, b1, w2, b2):
        return outer(inner(features @ w1.T + bias * b1) @ w2.T + bias * b2)

    return project


def splice(change):
    def answer(ids, table, patches, image_id):
        rows = table[ids]
        rows[ids == image_id] = change(patches)
        return rows

    return answer


def counted(shift=1, divide=None):
    def loss(logits, labels):
        logits, labels = (logits[:-1], labels[1:]) if shift else (logits, labels)
        total = F.cross_entropy(logits, labels, reduction="sum")
        return total / (divide or (labels != -100).sum())

    return loss


def cut(pixels, patch):
    return F.unfold(pixels[None], patch, stride=patch)[0].T


def rounds(answer="ASSISTANT: {}</s>", between="", start="{} "):
    def v1(system, pairs):
        return start.format(system) + between.join(f"USER: {q} {answer.format(a)}" for q, a in pairs)

    return v1


DESCRIBED = "<image>\nDescribe the picture in detail."


def labels_of(ids, spans, answers):
    learned = [any(first <= start < last for first, last in answers) for start, _ in spans]
    return [token if learn else -100 for token, learn in zip(ids, learned, strict=True)]


def strip(learn):
    def labels(ids, spans, answers):
        ((first, last),) = answers
        return [
            i if learn(start, end, first, last) else -100 for i, (start, end) in zip(ids, spans, strict=True)
        ]

    return labels


def schedule(share):
    """A learning rate that rises as it should and then falls as `share` of what is left says."""
    return lambda step, warmup, total: step / warmup if step < warmup else share(step, warmup, total)


def cosine(part):
    return 0.5 * (1 + math.cos(math.pi * part))


MISTAKES = [
    ("01.majority", lambda answers: answers.count("no") / len(answers), "red, blue and blue"),
    ("04.room", lambda limit, n, words: max(0, limit - (576 if n else 0) - words), "each of two"),
    ("04.loss", lambda logits, labels: F.cross_entropy(logits[-4:-1], labels[-3:]), "one answer at the end"),
    ("05.bits", lambda *given: round(bits(*given), 1), "is rounded"),
    ("01.box", lambda box, edge: [v / edge for v in box], "not rounded"),
    ("01.box", lambda box, edge: list(box), "beyond 1"),
    ("01.box", lambda box, edge: [0.25, 0.125, 0.25, 0.812], "width and height"),
    ("01.record", lambda name, image, caption: {"id": name, "messages": []}, "no image and no conversations"),
    ("01.record", record(lambda c: turns(("user", "<image>\nWhat?"), ("assistant", c))), "from user"),
    ("01.record", record(lambda c: turns(("human", "<image>"), ("gpt", c), key="role")), "keys `from`"),
    ("01.record", record(lambda c: turns(("human", "<image>")) + turns(("gpt", c), key="role")), "has role"),
    ("01.record", record(lambda c: turns(("human", "What?"), ("gpt", c))), "holds <image> once"),
    ("01.record", record(lambda c: turns(("human", "What?\n<image>"), ("gpt", c))), "stands first"),
    ("01.record", record(lambda c: turns(("human", DESCRIBED), ("gpt", "A cat."))), "nothing else"),
    ("01.record", record(lambda c: turns(("human", "<image>\nWhat?"), ("gpt", c))), "wanted is 'Describe"),
    ("01.record", record(lambda c: turns(("human", DESCRIBED), ("gpt", c)), id="cat"), "was given"),
    ("01.record", record(lambda c: turns(("human", "<image>\nWhat?"))), "list of two turns"),
    ("01.majority", lambda answers: max(set(answers), key=answers.count), "how often it is right"),
    ("01.majority", lambda answers: max(map(answers.count, answers)), "divide it"),
    ("01.majority", lambda answers: 1 / len(set(answers)), "blind chance"),
    ("01.adversarial", lambda things: {(c, s) for c, _ in things for _, s in things}, "would be yes"),
    ("01.adversarial", lambda things: {("red", "heart"), ("green", "star")}, "easy to deny"),
    ("01.adversarial", lambda things: {("red", "heart"), ("red", "circle")}, "easy to deny"),
    ("01.adversarial", lambda things: set(), "finds nothing"),
    ("01.adversarial", lambda all: {(a[0], b[1]) for a, b in combinations(all, 2)} - {*all}, "*two*"),
    ("02.count", lambda size, patch: size // patch, "in one row"),
    ("02.count", lambda size, patch: (size // patch) ** 2 + 1, "CLS"),
    ("02.count", lambda size, patch: 576, "wanted is 64"),
    ("02.cut", lambda pixels, patch: pixels.reshape(4, 8), "a reshape alone"),
    ("02.cut", lambda p, _: cut(p, 2)[[0, 2, 1, 3]], "column by column"),
    ("02.cut", lambda p, _: cut(p, 2)[:, [0, 4, 1, 5, 2, 6, 3, 7]], "all of channel 0"),
    ("02.cut", lambda pixels, patch: cut(pixels, 2).T, "has shape [8, 4]"),
    ("02.layer", 22, "one fewer"),
    ("02.layer", 24, "all of them"),
    ("02.layer", 25, "how many hidden states"),
    ("02.nearest", lambda query, others: int((others @ query).argmax()), "dot product"),
    ("02.nearest", lambda query, others: int((others - query).norm(dim=1).argmin()), "closest point"),
    ("02.nearest", lambda query, others: F.cosine_similarity(query[None], others).max(), "similarity"),
    ("03.parameters", lambda v, t: v * t + t, "first layer alone"),
    ("03.parameters", lambda v, t: v * t + t * t, "bias as well"),
    ("03.parameters", lambda v, t: 2 * (v * t + t), "second layer"),
    ("03.parameters", lambda v, t: v * t + v + t * t + t, "puts out"),
    ("03.parameters", lambda v, t: 20_979_712, "128 and 192"),
    ("03.project", gelu_like(lambda x: x), "nothing between"),
    ("03.project", gelu_like(F.relu), "ReLU"),
    ("03.project", gelu_like(lambda x: F.gelu(x, approximate="tanh")), "tanh approximation"),
    ("03.project", gelu_like(outer=F.gelu), "as well"),
    ("03.project", gelu_like(bias=False), "biases are missing"),
    ("03.project", lambda f, w1, b1, w2, b2: f @ w1 + b1, "your function stops"),
    ("03.project", lambda f, w1, b1, w2, b2: F.gelu(f @ w1.T + b1), "first layer alone"),
    ("03.project", lambda f, w1, b1, w2, b2: f, "has shape [5, 2]"),
    ("03.splice", lambda ids, table, patches, image_id: table[ids], "own embedding"),
    ("03.splice", splice(lambda patches: patches.flip(0)), "reverse"),
    ("03.splice", splice(lambda patches: patches[0]), "one each"),
    ("03.splice", lambda ids, table, p, i: torch.cat([table[ids[:1]], p, table[ids[1:]]]), "put in beside"),
    ("03.splice", lambda ids, table, p, i: F.pad(p, (0, 0, 1, 2)), "beside them have changed"),
    ("03.length", 618, "gives way"),
    ("03.length", 42, "more than the one position"),
    ("03.length", 577, "words count too"),
    ("04.prompt", rounds("ASSISTANT: {}"), "never learns to stop"),
    ("04.prompt", rounds(between=" "), "space after </s>"),
    ("04.prompt", rounds(between="\n"), "nothing but spaces"),
    ("04.prompt", rounds("ASSISTANT:{}</s>"), "differs from letter"),
    ("04.prompt", rounds(start="{}"), "system prompt, a space"),
    ("04.labels", strip(lambda start, end, first, last: True), "trained to ask"),
    ("04.labels", strip(lambda start, end, first, last: first <= start < last - 4), "never stop talking"),
    ("04.labels", strip(lambda start, end, first, last: end >= first), "colon"),
    ("04.labels", strip(lambda start, end, first, last: first < start), "first token is not learned"),
    ("04.labels", lambda i, s, a: labels_of(i, s, a[:1]), "with a second"),
    ("04.labels", lambda i, s, a: labels_of(i, s, [(x, y + 1) for x, y in a]), "USER is learned"),
    ("04.labels", lambda ids, spans, answers: [0] * 5 + ids[5:], "-100, not 0"),
    ("04.labels", lambda ids, spans, answers: [-100] * 5 + [True] * 3, "not True"),
    ("04.loss", counted(shift=0), "token t + 1"),
    ("04.loss", counted(divide=1), "that is the sum"),
    ("04.loss", counted(divide=6), "length of the text"),
    ("04.loss", counted(divide=5), "all positions"),
    ("04.room", lambda limit, pictures, words: limit - words, "forgets"),
    ("04.room", lambda limit, pictures, words: limit - pictures - words, "one position"),
    ("04.room", lambda limit, pictures, words: limit - 576 * pictures - words, "never below 0"),
    ("05.bits", lambda without, sighted, tokens: (without - sighted) * tokens, "those are nats; a bit"),
    ("05.bits", lambda without, sighted, tokens: (without - sighted) / math.log(2), "of one token"),
    ("05.bits", lambda without, sighted, tokens: without - sighted, "count all tokens"),
    ("05.bits", lambda without, sighted, tokens: (without - sighted) * tokens * math.log(2), "smaller unit"),
    ("05.bits", lambda without, sighted, tokens: (sighted - without) * tokens / math.log(2), "sign"),
    ("05.trains", lambda names: names, "CLIP stays frozen"),
    ("05.trains", lambda names: [n for n in names if not n.startswith("vision")], "that is stage 2"),
    ("05.trains", lambda names: [n for n in names if "projector" in n and "weight" in n], "is missing"),
    ("05.trains", lambda names: [n for n in names if n == "projector"], "keeps nothing"),
    ("05.rate", schedule(lambda s, w, t: cosine(s / t)), "where the warm-up ends"),
    ("05.rate", schedule(lambda s, w, t: 1 - (s - w) / (t - w)), "straight line down"),
    ("05.rate", lambda s, w, t: cosine((s - w) / (t - w)), "straight line from 0"),
    ("05.rate", schedule(lambda s, w, t: 0.9), "at its peak"),
    ("05.others", lambda number: list(range(number)), "keeps its own"),
    ("05.others", lambda number: [number - 1] + [0] * (number - 1), "used twice"),
    ("05.others", lambda number: [index + 1 for index in range(number)], "numbered from 0"),
    ("05.others", lambda number: [0], "each caption gets one"),
    ("05.others", lambda number: [[index] for index in range(number)], "a list of lists"),
    ("01.box", lambda box, edge: [round(value / 96, 3) for value in box], "and the edge 50"),
    ("02.count", lambda size, patch: math.ceil(size / patch) ** 2, "8 fit side by side"),
    ("02.nearest", lambda query, others: (F.normalize(others, dim=0) @ query).argmax().item(), "each *row*"),
    ("02.nearest", lambda query, others: F.cosine_similarity(query[None], others).abs().argmax().item(),
     "points away"),
    ("03.parameters", lambda v, t: v * v + v + v * t + t, "already ends in the text width"),
    ("03.parameters", lambda v, t: v * t + t + t * t, "second layer has a bias"),
    ("03.project", lambda f, w1, b1, w2, b2: (F.gelu(f @ w1.T) + b1) @ w2.T + b2, "belongs to the layer"),
    ("03.project", lambda f, w1, b1, w2, b2: F.gelu(f @ w1.T + b1) @ w2.T, "second layer's bias"),
    ("03.project", lambda f, w1, b1, w2, b2: F.gelu(f @ w1.T) @ w2.T + b2, "first layer's bias"),
    ("03.splice", lambda ids, table, patches, image_id: table[ids].masked_scatter(
        (ids == 4)[:, None], patches), "come from `image_id`"),
    ("04.labels", lambda ids, spans, answers: [
        i if any(s < b and e > a for a, b in answers) else -100
        for i, (s, e) in zip(ids, spans, strict=True)], "where a token *begins*"),
    ("04.labels", lambda ids, spans, answers: [
        i if any(a <= s and e <= b for a, b in answers) else -100
        for i, (s, e) in zip(ids, spans, strict=True)], "where a token *begins*"),
    ("04.room", lambda limit, pictures, words: max(0, limit - 64 * pictures - words), "tiny-LLaVA's"),
    ("10.passes", lambda batch, devices, micro: batch // (devices * micro) or None, "do not make 256"),
    ("06.loss", lambda passes: sum(map(sum, passes)) / sum(map(len, passes)), "over all tokens"),
    ("06.loss", lambda passes: sum(map(sum, passes)), "sum of all tokens"),
    ("06.loss", lambda passes: sum(sum(p) / len(p) for p in passes), "added up"),
    ("06.loss", lambda passes: sum(map(sum, passes)) / len(passes), "not the sum"),
    ("06.merge", lambda rounds, merged: rounds * 631, "read once"),
    ("06.merge", lambda rounds, merged: 616 + 15 * rounds, "system prompt again"),
    ("06.merge", lambda rounds, merged: 576 + 55 * rounds, "however long"),
    ("06.length", lambda record: sum(len(t["value"].split()) for t in record["conversations"]), "negative"),
    ("06.length", lambda record: sum(len(t["value"].replace("<image>", "").split())
                                     for t in record["conversations"]), "counts as a word"),
    ("06.length", lambda record: sum(len(t["value"]) for t in record["conversations"]), "letters"),
    ("06.length", lambda record: len(record["conversations"][0]["value"].split()), "in all rounds"),
    ("06.padding", lambda lengths: sum(lengths) / (len(lengths) * max(lengths)), "*not* padding"),
    ("06.padding", lambda lengths: sum(max(lengths) - n for n in lengths), "divide by all"),
    ("06.padding", lambda lengths: sum(max(lengths) - n for n in lengths) / sum(lengths), "padded ones"),
    ("10.memory", lambda trained, frozen: 16 * trained + 4 * frozen, "is bfloat16"),
    ("10.memory", lambda trained, frozen: 12 * trained + 2 * frozen, "*two* averages"),
    ("10.memory", lambda trained, frozen: 8 * trained + 2 * frozen, "as large as the weight"),
    ("10.memory", lambda trained, frozen: 16 * (trained + frozen), "has no gradient"),
    ("10.flops", lambda weights, positions, trained: weights * positions * (3 if trained else 2), "a sum"),
    ("10.flops", lambda weights, positions, trained: 2 * weights * positions, "forward pass alone"),
    ("10.flops", lambda weights, positions, learn: weights * positions * (6 if learn else 2), "passed on"),
    ("10.flops", lambda weights, positions, trained: 6 * weights * positions, "passes the gradient on"),
    ("10.passes", lambda batch, devices, micro_batch: batch // micro_batch, "at the same time"),
    ("10.passes", lambda batch, devices, micro_batch: batch // devices, "samples of one device"),
    ("10.passes", lambda batch, devices, micro_batch: batch // (devices * micro_batch), "do not make 128"),
    ("10.hours", lambda operations, devices, peak, mfu: operations / (devices * peak * mfu), "seconds"),
    ("10.hours", lambda operations, devices, peak, mfu: operations / (devices * peak) / 3600, "at its peak"),
    ("10.hours", lambda operations, devices, peak, mfu: operations / (peak * mfu) / 3600, "single device"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "words"), MISTAKES, ids=[f"{n}-{w}" for n, _, w in MISTAKES])
def test_a_typical_mistake_is_explained(name, answer, words):
    said = verdict(find(name), answer)
    assert said.startswith("✗") and words in said, said


RIGHT = [
    ("00.ask", lambda model, picture, color: model.answer(
        image=picture, question=f"Shape of the {color} object?\n{SHORT_ANSWER}", max_new_tokens=4)),
    ("01.box", lambda box, edge: torch.round(torch.tensor(box) / edge, decimals=3).tolist()),
    ("02.nearest", lambda query, others: np.int64(F.cosine_similarity(query[None], others).argmax())),
    ("04.labels", lambda ids, spans, answers: tuple(labels_of(ids, spans, answers))),
    ("04.labels", lambda ids, spans, answers: np.array(labels_of(ids, spans, answers))),
    ("05.others", lambda number: np.roll(np.arange(number), 1)),
    ("05.others", lambda number: list(np.roll(np.arange(number), 1))),
    ("07b.points", lambda heat, inside: torch.from_numpy(inside).flatten()[int(heat.argmax())].item()),
    ("07b.points", lambda heat, inside: torch.from_numpy(inside).flatten()[int(heat.argmax())]),
    ("07.attend", lambda queries, keys: F.scaled_dot_product_attention(
        queries[None], keys[None], torch.eye(len(keys))[None], is_causal=True)[0]),
    ("07.attend", lambda queries, keys: lesson07.attend(queries.mul_(2), keys.div_(2))),  # in place
    ("07.rows", lambda prompt, answer: list(torch.arange(prompt - 1, prompt + answer - 1))),
    ("07b.honest", lambda scores: np.array(lesson07b.honest(scores.astype(np.float32)))),
    ("01.box", lambda box, edge: np.round(np.array(box) / edge, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer"), RIGHT, ids=[name for name, _ in RIGHT])
def test_what_is_right_in_another_way_is_right(name, answer):
    said = verdict(find(name), answer)
    assert said.startswith("✓"), said


def test_pointing_by_what_lies_inside_or_by_the_first_patch_is_told():
    said = verdict(find("07b.points"), lambda heat, inside: heat[inside].sum() > heat[~inside].sum())
    assert said.startswith("✗"), said
    assert verdict(find("07b.points"), lambda heat, inside: heat.argmax() == inside.argmax()).startswith("✗")


def test_a_splice_that_spoils_the_embedding_table_is_told():
    def spoils(ids, table, patches, image_id):
        rows = table[ids]
        rows[ids == image_id] = patches
        table[image_id] = patches[0]
        return rows

    assert "overwrites the embedding table" in verdict(find("03.splice"), spoils)


def test_every_exercise_has_a_mistake_that_is_explained():
    elsewhere = {name for name in NAMES if name.partition(".")[0] in ("00", "07", "07b", "07c")}
    assert set(NAMES) <= {name for name, _, _ in MISTAKES} | elsewhere


def test_tensors_are_compared_in_words():
    wanted = torch.zeros(2)
    assert machinery.same_tensor(torch.zeros(2), wanted) is None
    assert "is a list" in machinery.same_tensor([0, 0], wanted)
    assert "[1, 2]" in machinery.same_tensor(torch.zeros(1, 2), wanted)
    assert "by up to 1" in machinery.same_tensor(torch.ones(2), wanted)
    assert "other values" in machinery.same_tensor(torch.full((2,), float("nan")), wanted)
