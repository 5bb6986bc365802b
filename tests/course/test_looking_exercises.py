"""Exercises of lessons 00 and 07 to 07c: mistakes are explained; solutions do what the package does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from minillava.ablation import blanked
from minillava.course import lesson00, lesson07, lesson07b, lesson07c
from minillava.course.__main__ import main
from minillava.course.exercises import find, lessons, source, verdict
from minillava.grounding import chosen_elsewhere, pointing, specificity, truth
from minillava.images import PatchGeometry
from minillava.toybox.language import SHORT_ANSWER


def stretched(row, column, width, height, grid):
    x, y = column * width / grid, row * height / grid
    return x, y, x + width / grid, y + height / grid


def with_margin(row, column, width, height, grid):
    step = max(width, height) / grid
    return column * step, row * step, (column + 1) * step, (row + 1) * step


def turned(*given):
    x1, y1, x2, y2 = lesson07c.to_picture(*given)
    return y1, x1, y2, x2


def unrounded(row, column, width, height, grid):
    side = max(width, height)
    step = side / grid
    x, y = column * step - (side - width) / 2, row * step - (side - height) / 2
    return x, y, x + step, y + step


def in_whole_pixels(row, column, width, height, grid):
    side = max(width, height)
    step = side // grid
    x, y = column * step - (side - width) // 2, row * step - (side - height) // 2
    return x, y, x + step, y + step


def masked(scores):
    return scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)


def within_each_map(about_a, about_b, a, b):
    return about_a[a].sum() > about_a[b].sum() and about_b[b].sum() > about_b[a].sum()


def in_all(about_a, about_b, a, b):
    return about_a[a].sum() + about_b[b].sum() > about_b[a].sum() + about_a[b].sum()


def by_peaks(about_a, about_b, a, b):
    return about_a[a].max() > about_b[a].max() and about_b[b].max() > about_a[b].max()


def one_out(scores):
    rest = [np.delete(scores, row, 0).mean(0).argmax() for row in range(len(scores))]
    return scores[np.arange(len(scores)), rest].mean()


def at_home(scores):
    one, two = scores[0::2].mean(0), scores[1::2].mean(0)
    return (one.max() + two.max()) / 2


def emptied(row, columns, value=0):
    return row.index_fill(0, torch.tensor(columns), value)


MISTAKES = [
    ("00.ask", lambda model, picture, color: "star", "never asks"),
    ("00.ask", lambda model, picture, color: model.answer("What?", picture), "picture first"),
    ("00.ask", lambda model, picture, color: model.answer(picture, "What shape is red?"), "from `color`"),
    ("00.ask", lambda model, picture, color: model.answer(picture, f"Is it {color}?"), "not about a shape"),
    ("00.ask", lambda model, picture, color: model.answer(picture, f"shape of {color}?"), "format prompt"),
    ("00.ask", lambda m, p, color: m.answer(p, f"shape of {color}? {SHORT_ANSWER}"), "line of its own"),
    ("00.ask", lambda m, p, color: print(m.answer(p, f"shape {color}?\n{SHORT_ANSWER}")), "not the answer"),
    ("00.worth", 22, "the shuffled one got 55"),
    ("00.worth", 74, "come without its picture"),
    ("07.attend", lambda q, k: (q @ k.T / k.shape[1] ** 0.5).softmax(-1), "see the future"),
    ("07.attend", lambda q, k: (q @ k.T / k.shape[1] ** 0.5).softmax(-1).tril(), "before softmax"),
    ("07.attend", lambda q, k: (q @ k.T / k.shape[1] ** 0.5).tril().softmax(-1), "e⁰ is 1"),
    ("07.attend", lambda q, k: masked(q @ k.T).softmax(-1), "root of 2"),
    ("07.attend", lambda q, k: masked(q @ k.T / k.shape[1] ** 0.5).softmax(0), "down each column"),
    ("07.attend", lambda q, k: masked((q @ k.T / k.shape[1] ** 0.5).T).T.softmax(-1), "the past masked"),
    ("07.attend", lambda q, k: masked(q @ k.T / k.shape[1] ** 0.5), "softmax makes shares"),
    ("07.attend", lambda q, k: lesson07.attend(q, k)[:3, :3].clone(), "for six"),
    ("07.attend", lambda q, k: (q @ k.T - torch.inf * torch.ones(len(q), len(q)).triu(1)).softmax(-1), "nan"),
    ("07.attend", lambda q, k: lesson07.attend(k, q), "a row for each key"),
    ("07.attend", lambda q, k: masked(q @ k.T / k.shape[1]).softmax(-1), "its root"),
    ("07.rows", lambda prompt, answer: [[9, 10, 11]], "each a number"),
    ("07.mass", lambda row, patches: row[patches].sum(), "is the image mass"),
    ("07.mass", lambda row, patches: row[patches].mean(), "mean of the patches"),
    ("07.mass", lambda row, patches: row[patches].sum() / (1 - row[patches].sum()), "to all the rest"),
    ("07.mass", lambda row, patches: len(patches) / len(row) / row[patches].sum(), "turned round"),
    ("07.mass", lambda row, patches: row[patches], "one number"),
    ("07.mass", lambda row, patches: 0.75, "for another"),
    ("07.rows", lambda prompt, answer: list(range(prompt, prompt + answer)), "the answer's own rows"),
    ("07.rows", lambda prompt, answer: [prompt - 1], "there are three"),
    ("07.rows", lambda prompt, answer: list(range(prompt - 1, prompt + answer)), "the end"),
    ("07.rows", lambda prompt, answer: [9, 10, 11], "right for one prompt"),
    ("07b.points", lambda heat, inside: heat.max() > 0.5, "one strongest patch"),
    ("07b.points", lambda heat, inside: not lesson07b.points(heat, inside), "turned round"),
    ("07b.points", lambda heat, inside: heat.argmax(), "True or False"),
    ("07b.points", lambda heat, inside: bool(inside[1, 1]), "one map only"),
    ("07b.honest", at_home, "its own best head"),
    ("07b.honest", lambda scores: scores.mean(0).max(), "the very examples"),
    ("07b.honest", lambda scores: scores.max(1).mean(), "or each example"),
    ("07b.honest", lambda scores: scores.mean(0), "one number"),
    ("07b.follows", lambda about_a, about_b, a, b: about_a[a].sum() > about_b[a].sum(), "B gets more"),
    ("07b.follows", lambda about_a, about_b, a, b: about_b[b].sum() > about_a[b].sum(), "A gets less"),
    ("07b.follows", within_each_map, "not two things in one map"),
    ("07b.follows", lambda about_a, about_b, a, b: not lesson07b.follows(about_a, about_b, a, b), "False"),
    ("07b.follows", lambda about_a, about_b, a, b: about_a[a].sum() - about_b[a].sum(), "True or False"),
    ("07b.follows", lambda about_a, about_b, a, b: True, "other question's thing"),
    ("07b.follows", lambda about_a, about_b, a, b: in_all(about_a, about_b, a, b), "however much A gains"),
    ("07b.follows", lambda about_a, about_b, a, b: by_peaks(about_a, about_b, a, b), "their sum counts"),
    ("07b.points", lambda heat, inside: bool((heat[inside] > 0.5).any()), "one map only"),
    ("07b.points", lambda heat, inside: bool(inside[heat.sum(1).argmax(), heat.sum(0).argmax()]), "one map"),
    ("07b.honest", one_out, "for another"),
    ("07c.cut", lambda row, columns: torch.tensor([1 / 3, 0, 2 / 3, 0]), "for another"),
    ("07c.pixels", stretched, "stretches the grid"),
    ("07c.pixels", with_margin, "take the margin off"),
    ("07c.pixels", turned, "changed places"),
    ("07c.pixels", unrounded, "rounded down"),
    ("07c.pixels", in_whole_pixels, "whole pixels"),
    ("07c.blank", lambda features, gone, mean: features * ~gone[:, None], "no patch of a picture"),
    ("07c.blank", lambda features, gone, mean: lesson07c.blank(features, ~gone, mean), "patch is kept"),
    ("07c.blank", lambda rows, gone, mean: lesson07c.blank(rows, gone, rows.mean(0)), "many pictures"),
    ("07c.pixels", lambda *given: tuple(max(0, v) for v in lesson07c.to_picture(*given)), "do not clip"),
    ("07c.blank", lambda rows, gone, mean: rows.index_put((gone.nonzero()[0],), mean), "not each of two"),
    ("07c.blank", lambda features, gone, mean: features[~gone], "fewer patches"),
    ("07c.blank", lambda features, gone, mean: features.masked_fill_(gone[:, None], 9), "overwrites"),
    ("07c.blank", lambda features, gone, mean: features, "by up to"),
    ("07c.cut", lambda row, columns: emptied(row, columns), "all of 1"),
    ("07c.cut", lambda row, columns: emptied(row, columns, -torch.inf).softmax(0), "through it once"),
    ("07c.cut", lambda row, columns: emptied(row, columns).softmax(0), "still gets something"),
    ("07c.cut", lambda row, columns: row[columns] / row[columns].sum(), "shape [2]"),
    ("07c.cut", lambda row, columns: row - emptied(row, columns), "the cut columns alone"),
    ("07c.cut", lambda row, columns: row[[0, 2]] / 0.3, "a shorter row"),
    ("07c.cut", lambda row, columns: row.index_fill_(0, torch.tensor(columns), 0), "overwrites"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "answer", "words"), MISTAKES, ids=[f"{n}-{w}" for n, _, w in MISTAKES])
def test_a_typical_mistake_is_explained(name, answer, words):
    said = verdict(find(name), answer)
    assert said.startswith("✗") and words in said, said


def test_asking_ends_in_the_format_prompt_that_the_model_was_trained_with():
    class Model:
        def answer(self, picture, question):
            return picture, question

    picture, question = lesson00.ask(Model(), "picture", "blue")
    assert picture == "picture" and question == f"What shape is the blue object?\n{SHORT_ANSWER}"


def test_pointing_and_choosing_are_the_packages():
    rng = np.random.default_rng(0)
    covers = rng.random((9, 4, 4))
    maps = rng.random((9, 6, 4, 4))  # nine examples, six heads
    scores = np.array([pointing(heads, cover) for heads, cover in zip(maps, covers, strict=True)])
    ours = [
        [lesson07b.points(heat, truth(c)) for heat in heads] for heads, c in zip(maps, covers, strict=True)
    ]
    assert (scores == np.array(ours)).all()
    halves = chosen_elsewhere(scores[:8])[0]
    assert lesson07b.honest(scores[:8]) == pytest.approx(halves.mean())


def test_rows_by_hand_are_torchs():
    queries, keys = torch.randn(7, 5), torch.randn(7, 5)
    rows = F.scaled_dot_product_attention(queries[None], keys[None], torch.eye(7)[None], is_causal=True)[0]
    torch.testing.assert_close(lesson07.attend(queries, keys), rows)


def test_following_the_question_is_the_packages():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 4, 4)) > 0.6
    said = [(rng.random((4, 4)), rng.random((4, 4))) for _ in range(40)]
    said = [(one / one.sum(), two / two.sum()) for one, two in said]
    package = [bool(specificity(one, a.astype(float), two, b.astype(float))) for one, two in said]
    assert [lesson07b.follows(one, two, a, b) for one, two in said] == package
    assert 0 < sum(package) < len(package)


def test_blanking_is_the_packages():
    features, mean = torch.randn(9, 5), torch.randn(5)
    gone = torch.rand(9) < 0.5
    assert torch.equal(lesson07c.blank(features, gone, mean), blanked(features[None], gone[None], mean)[0])


@pytest.mark.parametrize("columns", [[0], [1, 4], [5]])
def test_a_cut_edge_is_one_whose_score_is_minus_infinity(columns):
    scores = torch.randn(6)
    wanted = scores.index_fill(0, torch.tensor(columns), -torch.inf).softmax(0)
    torch.testing.assert_close(lesson07c.cut(scores.softmax(0), columns), wanted)


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (96, 96)])
def test_pixels_are_those_of_the_packages_geometry(size):
    geometry = PatchGeometry(*size, 336, 14, "pad")
    for patch in ((0, 0), (3, 17), (23, 23)):
        assert lesson07c.to_picture(*patch, *size, 24) == pytest.approx(geometry.box(*patch))


def test_all_solutions_are_printed_from_where_they_are_kept(capsys):
    main(["00", "07", "07b", "07c"])
    said = capsys.readouterr().out
    for lesson in ("00", "07", "07b", "07c"):
        for name in __import__(f"minillava.course.lesson{lesson}", fromlist=["EXERCISES"]).EXERCISES:
            assert f"### {lesson}.{name}\n" in said and source(find(f"{lesson}.{name}")) in said
    main([])
    assert capsys.readouterr().out.count("## Lesson ") == len(lessons()) > 2
    with pytest.raises(ValueError, match="no exercises of lesson '77'"):
        main(["77"])
