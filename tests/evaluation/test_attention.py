"""A model that sees is told from one that does not, in every measure, in a world of a test's size.

The models of `seeing` take seconds to train. What holds of the one that sees is the pilot's story: the
referring word looks at its object in layer 0; the answer's row does not look there, and knows all the same.
"""

import json
import math

import numpy as np
import pytest
import seeing
import torch

import minillava
from minillava.ablation import mean_feature
from minillava.evaluation import damage
from minillava.evaluation.attention import best_heads, case, compare_methods, evaluate_attention
from minillava.evaluation.looking import Sight, look, sights, toybox_sights, untrained

MEASURES = ("pointing", "mass", "rank", "iou")
ROWS = ("referring word", "caption: color", "caption: shape", "answer's row")


@pytest.fixture(scope="module")
def models():
    return {"seeing": seeing.trained(), "shuffled": seeing.trained(shuffled=True)}


@pytest.fixture(scope="module")
def pictures():
    return list(sights(seeing.rows(80, seed=7)))


@pytest.fixture(scope="module")
def report(models, pictures):
    return evaluate_attention(
        models["seeing"], controls={"shuffled": models["shuffled"]}, seen={0: pictures}, explained=20
    )


def line(report, model, row, measure):
    (found,) = [one for one in report.models[model] if (one.row, one.measure) == (row, measure)]
    return found


def cost(costs, removed, rows="", layers=""):
    (found,) = [one for one in costs if (one.removed, one.rows, one.layers) == (removed, rows, layers)]
    return found


def test_one_model_has_learned_to_see_and_its_twin_to_guess(models, pictures, report):
    assert report.accuracy >= 0.9
    asked = [one.asked for one in pictures]
    answers = models["shuffled"].answer_batch(
        [row["image"]["bytes"] for row in asked], [row["question"] for row in asked], max_new_tokens=4
    )
    right = [answer == row["answer"] for answer, row in zip(answers, asked, strict=True)]
    assert 0.1 < np.mean(right) < 0.45  # one of four shapes


def test_words_that_say_the_looks_and_words_that_say_the_place_are_told_apart():
    seen = toybox_sights("test", 40, 0)
    report = evaluate_attention(minillava.load("tiny"), seen={0: seen}, explained=2, ablated=0)
    whole, looks, place = (
        line(report, "model", "referring word", f"pointing{which}")
        for which in ("", ", named by its looks", ", named by its place")
    )
    by_place = np.array(["object at the" in sight.asked["references"][0] for sight in seen])
    assert 0 < by_place.sum() < len(seen)
    assert looks.scores.tolist() == whole.scores[~by_place].tolist()
    assert place.scores.tolist() == whole.scores[by_place].tolist()


def test_the_seeing_models_words_point_at_their_objects(report):
    for row in ROWS[:3]:
        found = line(report, "model", row, "pointing")
        mean_map, untrained = found.baselines["mean map"].mean(), found.baselines["untrained"].mean()
        assert mean_map >= 0.8 and mean_map >= 1.5 * untrained, row
        for measure in MEASURES:
            found = line(report, "model", row, measure)
            assert np.mean(found.scores) >= np.nanmean(found.baselines["other object"]) + 0.2, (row, measure)
    assert np.mean(line(report, "model", "referring word", "mass/area").scores) >= 5
    specific = line(report, "model", "referring word", "specificity")
    assert np.mean(specific.scores) >= 0.45 and np.mean(specific.scores) >= 1.4 * 0.25


@pytest.mark.parametrize("control", ["untrained", "shuffled"])
@pytest.mark.parametrize("row", ROWS)
def test_no_head_of_a_control_prefers_the_right_object(report, control, row):
    for measure in MEASURES:
        found = line(report, control, row, measure)
        gap = found.baselines["any head"].mean() - np.nanmean(found.baselines["any head, other"])
        assert abs(gap) <= 0.1, (measure, gap)
    assert np.mean(line(report, control, row, "mass/area").scores) <= 4.5


@pytest.mark.parametrize("control", ["untrained", "shuffled"])
def test_a_control_is_not_specific_and_its_heads_are_not_found(report, control):
    specific = line(report, control, "referring word", "specificity")
    assert abs(specific.baselines["any head"].mean() - 0.25) <= 0.1
    found = line(report, control, "referring word", "pointing, heads found without boxes")
    assert abs(np.mean(found.scores) - np.nanmean(found.baselines["other object"])) <= 0.1


def test_what_the_word_sees_in_layer_0_the_answer_needs(report):
    """The row before the head: cutting the word's edges costs the answer, cutting its own does not."""
    target, random = damage.TARGET, damage.RANDOM
    for layers in ("all", "0"):
        assert cost(report.costs, target, damage.WORD, layers).damage >= 0.3
        assert cost(report.costs, target, damage.QUESTION, layers).damage >= 0.5
        assert abs(cost(report.costs, target, damage.ANSWER, layers).damage) <= 0.05
    assert abs(cost(report.costs, target, damage.QUESTION, "1").damage) <= 0.05
    assert cost(report.costs, target, damage.PATCHES).damage >= 0.5
    for one in report.costs:
        assert one.removed not in (random, damage.OTHER) or abs(one.damage) <= 0.05, one
        assert one.interval[0] <= one.damage <= one.interval[1]
        assert one.damage == pytest.approx(one.intact - one.accuracy)
    assert cost(report.costs, "3 heads").damage >= cost(report.costs, "3 other heads").damage + 0.2


@pytest.mark.parametrize("box, left", [([0.25, 0.25, 0.75, 0.75], 3), ([0.25, 0.25, 0.5, 0.5], None)])
def test_another_objects_patches_are_none_of_the_targets(make_model, box, left):
    things = [{"category": "red bar", "bbox": [0, 0, 0.5, 0.5]}, {"category": "blue bar", "bbox": box}]
    asked = {"image": {"bytes": seeing.draw([])}, "instances": things, "question": "?", "answer": "bar"}
    found = case(make_model(), Sight(asked | {"boxes": [[0, 0, 8, 8]], "references": ["red"]}, None, 0))
    assert found.target.sum() == 4
    if left is None:
        assert found.other is None
    else:
        assert found.other.sum() == left and not (found.other & found.target).any()


@pytest.mark.parametrize("control", ["untrained", "shuffled"])
def test_nothing_can_be_taken_from_a_control(models, pictures, control):
    model = models.get(control) or untrained(models["seeing"])
    costs = damage.ablate(model, [case(model, one) for one in pictures], bands=[[0, 1]], heads=[(0, 0)])
    assert {one.layers for one in costs} == {"", "all"}
    for one in costs:
        if "head" not in one.removed:  # a guess may hang on any head
            assert abs(one.damage) <= 0.1, one


def test_methods_that_follow_attention_find_what_the_answers_row_hides(report):
    pointing = {name: scores["pointing"] for name, scores in report.methods.items()}
    assert pointing["raw"][0] <= 0.6
    for name in ("rollout", "gradient"):
        assert pointing[name][0] >= pointing["raw"][0] + 0.15, pointing
        assert pointing[name][0] >= pointing[name][1] + 0.4, pointing
        deletion, insertion = (report.methods[name][kind] for kind in ("deletion", "insertion"))
        assert deletion[0] <= deletion[1] - 0.1 and insertion[0] >= insertion[1] + 0.1


@pytest.mark.parametrize("control", ["untrained", "shuffled"])
def test_no_method_explains_a_control(models, pictures, control):
    model = models.get(control) or untrained(models["seeing"])
    for name, scores in compare_methods(model, pictures[:20]).items():
        for measure in ("mass", "deletion", "insertion"):
            value, baseline = scores[measure]
            assert abs(value - baseline) <= 0.1, (name, measure, value, baseline)


def test_the_report_prints_and_saves_the_same_numbers(report, tmp_path):
    saved, printed = report.save(tmp_path)
    found = json.loads(saved.read_text())
    assert "NaN" not in saved.read_text()
    first = found["models"]["model"][0]
    assert (first["row"], first["measure"], first["pictures"]) == ("referring word", "pointing", 80)
    low, high = first["interval95"]
    text = printed.read_text()
    assert f"| referring word | pointing | {first['best head']:.2f} [{low:.2f}, {high:.2f}] |" in text
    assert {"model", "untrained", "shuffled"} == found["models"].keys()
    assert np.shape(found["pointing_by_head"]["answer's row"]) == (2, 4)
    for goal in found["goals"]:
        assert f"| {goal['what']} | {goal['value']:.2f} | {goal['goal']} |" in text
    met = {goal["what"]: goal["met"] for goal in found["goals"]}
    for control in ("untrained", "shuffled"):
        assert met[f"{control}, referring word: specificity of any head off its baseline"]
        assert f"{control}, caption: color: mass/area of any head off its baseline" in met
    assert met["points lost: target hidden from everything"]
    assert met["points lost: target hidden from all of the question"]
    assert met["points lost: as many other patches hidden from all of the question"]


def test_a_second_seed_adds_pictures_and_stands_alone_too(models):
    seen = {seed: list(sights(seeing.rows(6, seed))) for seed in (3, 4)}
    both = evaluate_attention(models["seeing"], seen=seen, explained=4, ablated=5)
    one = evaluate_attention(models["seeing"], seen={3: seen[3]}, explained=4, ablated=0)
    assert one.costs == [] and cost(both.costs, damage.TARGET, damage.PATCHES).n == 6  # three of each
    joined = line(both, "model", "answer's row", "mass").scores
    assert len(joined) == 12
    assert joined[:6] == pytest.approx(line(one, "model", "answer's row", "mass").scores)
    assert [len(lines[0].scores) for lines in both.seeds.values()] == [6, 6]


def test_little_to_look_at_leaves_gaps_and_prints(models, make_model, tmp_path):
    few = {3: list(sights(seeing.rows(2, 3)))}
    found = evaluate_attention(models["seeing"], seen=few, explained=0, ablated=0)
    assert found.methods == {} and found.costs == []
    for one in found.save(tmp_path):
        assert one.read_text()
    json.loads((tmp_path / "attention.json").read_text(), parse_constant=pytest.fail)
    with pytest.raises(ValueError, match="at least one seed"):
        evaluate_attention(models["seeing"], seeds=())
    with pytest.raises(ValueError, match="two pictures|two examples"):
        evaluate_attention(models["seeing"], seen={3: few[3][:1]}, explained=0, ablated=0)
    with pytest.raises(ValueError, match="mean of no pictures"):
        mean_feature(make_model(), [])


def test_toyboxs_own_pictures_can_be_looked_at(make_model):
    """Sights of Toybox hold what is needed, and words of its captions are found."""
    found = toybox_sights("test", 4, seed=0)
    assert len(found) == 4 and len({one.image for one in found}) == 4
    for one in found:
        assert one.asked["references"][0] in one.asked["question"]
        (box,) = one.asked["boxes"]
        assert len(one.others(box)) == len(one.things) - 1
        assert one.also is None or one.also["boxes"] != one.asked["boxes"]
        for name, _ in one.things:
            assert name in one.asked["captions"][0]


def test_the_best_heads_are_those_that_point(pictures, models):
    looks = look(models["seeing"], pictures[:20]).word
    (layer, head), *_ = best_heads(looks)
    scores = np.mean([_points(one, layer, head) for one in looks])
    others = [np.mean([_points(one, i, j) for one in looks]) for i in range(2) for j in range(4)]
    assert scores == max(others)


def _points(one, layer, head):
    """Does any row's map, brightest patch first, hit the object? The best row counts."""
    heats = one.maps[:, layer, head].reshape(len(one.maps), -1)
    return one.cover.reshape(-1)[heats.argmax(-1)] == 1


def test_untrained_is_fresh_and_leaves_the_random_state_alone(models):
    model = models["seeing"]
    state = torch.random.get_rng_state()
    one, same, other = untrained(model, 1), untrained(model, 1), untrained(model, 2)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [m.language_model.lm_head.weight for m in (one, same, other, model)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])
    assert one.answer(seeing.draw([("red", "bar", 3)]), "What?", max_new_tokens=1) is not None


def test_nothing_to_ablate_is_an_error(models):
    with pytest.raises(ValueError, match="nothing to ablate"):
        damage.ablate(models["seeing"], [])


def test_a_reference_has_to_be_in_its_question(models, pictures):
    wrong = case(models["seeing"], pictures[0])
    wrong = damage.Case(wrong.image, "What is it?", wrong.answer, wrong.target, wrong.reference)
    with pytest.raises(ValueError, match="is not in the question"):
        damage.ablate(models["seeing"], [wrong])


def test_edges_start_where_their_names_say(models, pictures, monkeypatch):
    """Of two questions of unequal length: the rows that are cut, and the patches they are cut from."""
    model, seen = models["seeing"], [pictures[0], pictures[1]]
    cut, real = [], damage.knock_out
    monkeypatch.setattr(damage, "knock_out", lambda *given: cut.append(given) or real(*given))
    cases = [case(model, one) for one in seen]
    long = "Tell me: " + cases[1].question
    cases[1] = damage.Case(cases[1].image, long, "", cases[1].target, cases[1].reference)
    damage.ablate(model, cases, bands=[[0, 1]])
    turns = [
        [{"from": "human", "value": f"<image>\n{one.question}"}, {"from": "gpt", "value": None}]
        for one in cases
    ]
    ids = model.prepare(turns, [[one.image] for one in cases])["input_ids"]
    image = ids == model.config.image_token_id
    for (_, rows, columns, layers), kind in zip(
        cut[::2], (damage.WORD, damage.NEXT, damage.QUESTION, damage.ANSWER), strict=True
    ):
        assert list(layers) == [0, 1]
        for one, row, column, patches, tokens in zip(cases, rows, columns, image, ids, strict=True):
            assert (
                torch.equal(column[patches], torch.tensor(one.target).flatten())
                and not column[~patches].any()
            )
            if kind == damage.WORD:
                assert model.tokenizer.decode(tokens[row]).strip() == one.reference
            elif kind == damage.NEXT:
                (at,) = row.nonzero().flatten().tolist()
                assert model.tokenizer.decode(tokens[:at]).endswith(one.reference)
            else:
                first = int(patches.nonzero()[-1]) + 1 if kind == damage.QUESTION else len(tokens) - 1
                assert row.nonzero().flatten().tolist() == list(range(first, len(tokens)))


def test_costs_can_be_drawn_by_layer():
    costs = [
        damage.Cost(damage.TARGET, damage.PATCHES, "", 4, 1, 0.5, (0.2, 0.7)),
        damage.Cost(damage.TARGET, damage.WORD, "all", 4, 1, 0.25, (0.5, 1)),
        damage.Cost(damage.RANDOM, damage.WORD, "all", 4, 1, 1, (0, 0)),
        damage.Cost(damage.TARGET, damage.WORD, "0", 4, 1, 0.5, (0.2, 0.8)),
        damage.Cost(damage.RANDOM, damage.WORD, "0", 4, 1, 0.75, (0, 0.5)),
    ]
    bands, lost, control = damage.by_layer(costs)
    assert bands == ["all", "0"]
    assert lost == {damage.WORD: [(0.75, 0.5, 1), (0.5, 0.2, 0.8)]}
    assert control == {damage.WORD: [(0, 0, 0), (0.25, 0, 0.5)]}
    assert not math.isnan(costs[0].damage)
