"""Scores worked out by hand, and baselines that behave as chance does."""

import numpy as np
import pytest

from minillava.grounding import (
    THRESHOLDS,
    chosen_elsewhere,
    concentration,
    mass_in_box,
    measure,
    overlap,
    pointing,
    rank_accuracy,
    specificity,
    truth,
)

COVER = np.array([[1, 0.6, 0], [0.4, 0.2, 0], [0, 0, 0]])
"""A box over the top left: two patches count as the object's."""


def one_hot(row, col, grid=3):
    heat = np.zeros((grid, grid))
    heat[row, col] = 1
    return heat


def test_a_patch_is_the_objects_if_half_covered_or_else_the_most_covered():
    assert truth(COVER).sum() == 2
    small = np.array([[0.1, 0.3], [0, 0]])
    assert truth(small).tolist() == [[False, True], [False, False]]
    with pytest.raises(ValueError, match="covers no patch"):
        truth(np.zeros((3, 3)))


def test_scores_by_hand_for_many_maps_at_once():
    spread = np.array([[4, 1, 0], [3, 0, 0], [0, 0, 2]]) / 20
    maps = np.stack([spread, one_hot(0, 1), one_hot(2, 2), np.zeros((3, 3))]).reshape(2, 2, 3, 3)
    assert pointing(maps, COVER).tolist() == [[1, 1], [0, 0]]
    assert mass_in_box(maps, COVER) == pytest.approx(np.array([[0.58, 0.6], [0, 0]]))
    # One of two patches stands out; for the other place eight are equal, one of them the object's.
    assert rank_accuracy(maps[0], COVER).tolist() == [0.5, (1 + 1 / 8) / 2]


def test_a_map_that_says_nothing_scores_what_lots_would_or_nothing():
    share = truth(COVER).mean()
    level, nothing = np.ones((3, 3)), np.zeros((3, 3))
    for turn in range(4):  # wherever the object is
        cover = np.rot90(COVER, turn)
        assert pointing(level, cover) == rank_accuracy(level, cover) == rank_accuracy(nothing, cover) == share
        assert pointing(nothing, cover) == 0
    broken = one_hot(0, 1)
    broken[2, 2] = np.nan
    for score in (pointing, rank_accuracy):
        with pytest.raises(ValueError, match="NaN"):
            score(broken, COVER)


def test_a_maps_scale_does_not_matter_and_a_uniform_map_scores_the_area():
    heat = np.random.default_rng(0).random((5, 3, 3))
    for score in (pointing, mass_in_box, rank_accuracy):
        assert score(heat, COVER) == pytest.approx(score(heat * 1e-3, COVER))
    assert mass_in_box(np.ones((3, 3)), COVER) == pytest.approx(COVER.mean())


def pointer_and_noise(n, seed=0, grid=8):
    """Maps of 2x3 heads: head (1, 2) always points at the true box, (0, 1) at the other's."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        here, there = rng.choice(grid * grid, 2, replace=False)
        here, there = (one_hot(*divmod(i, grid), grid) for i in (here, there))
        maps = rng.random((2, 3, grid, grid))
        maps[1, 2] += 9 * here
        maps[0, 1] += 9 * there
        yield maps, here, [there]


def test_the_head_that_points_is_found_and_scored_beside_its_baselines():
    result = measure(pointer_and_noise(60))["pointing"]
    assert result.heads.shape == (60, 2, 3) and result.grid.shape == (2, 3)
    assert result.best_head == (1, 2)
    assert result.other.mean(0)[0, 1] == 1
    assert result.grid[0, 0] < 0.1
    summary = result.summary()
    assert list(summary) == ["best_head", "mean_map", "other_object", "center", "area"]
    assert summary["best_head"] == 1 and summary["other_object"] == 0
    assert summary["area"] == 1 / 64 and summary["center"] < 0.1


def test_the_head_is_chosen_on_one_half_and_scored_on_the_other():
    """Forty heads of pure noise: the luckiest looks good where it was chosen, and only there."""
    rng = np.random.default_rng(1)
    noise = [(rng.random((4, 10, 2, 2)), one_hot(0, 0, 2), []) for _ in range(20)]
    result = measure(noise)["pointing"]
    assert result.grid[result.best_head] >= 0.45
    assert result.summary()["best_head"] < 0.4
    assert np.isnan(result.summary()["other_object"])


def test_halves_by_hand():
    """Even examples favor head 0, odd ones head 1, so each half is scored by the wrong head."""
    examples = [
        (np.stack([one_hot(i % 2, 0), one_hot(1 - i % 2, 0)])[None], one_hot(0, 0), []) for i in range(4)
    ]
    result = measure(examples)["pointing"]
    assert result.heads[:, 0].tolist() == [[1, 0], [0, 1]] * 2
    assert result.summary()["best_head"] == 0


def test_mass_by_area_is_one_for_a_map_that_is_even():
    assert concentration(np.ones((3, 3)), COVER) == pytest.approx(1)
    assert concentration(one_hot(0, 0), COVER) == pytest.approx(1 / COVER.mean())


def test_overlap_by_hand_at_every_threshold():
    heat = np.array([[1.0, 0.5, 0.5], [0, 0, 0], [0, 0, 0]])  # of the object's two patches, and a third
    expected = [2 / 3 if t <= 0.5 else 1 / 2 for t in THRESHOLDS]
    assert overlap(heat, COVER) == pytest.approx(np.array(expected))
    assert overlap(np.stack([heat, 9 * heat])[:, None], COVER).shape == (2, 1, 9)
    assert overlap(np.zeros((3, 3)), COVER) == pytest.approx(0)
    summary = measure([(one_hot(0, 0)[None, None], one_hot(0, 0), [one_hot(2, 2)])] * 2)["iou"].summary()
    assert summary["best_head"] == 1 and summary["other_object"] == 0 and summary["area"] == 1 / 9


def test_specific_is_what_follows_the_question():
    here, there = one_hot(0, 0), one_hot(2, 2)
    both, elsewhere = here + there, one_hot(1, 1)
    assert specificity(here, here, there, there) == 1
    assert specificity(there, here, here, there) == 0  # swapped
    assert specificity(both, here, both, there) == 0  # points at both, whatever is asked
    assert specificity(here, here, here, there) == 0  # points at one, whatever is asked
    assert specificity(both + here, here, both + there, there) == 1
    many = np.stack([here, there, elsewhere]).reshape(3, 1, 3, 3)
    assert specificity(many, here, np.stack([there] * 3).reshape(3, 1, 3, 3), there).tolist() == [
        [1],
        [0],
        [0],
    ]


def test_specificity_of_noise_is_a_quarter():
    rng = np.random.default_rng(0)
    scores = specificity(
        rng.random((4000, 6, 6)), one_hot(0, 1, 6), rng.random((4000, 6, 6)), one_hot(4, 4, 6)
    )
    assert scores.mean() == pytest.approx(0.25, abs=0.03)


def test_rows_are_candidates_like_heads():
    """Row 1 of head (0, 1) points; the same head's row 0 does not."""
    rng = np.random.default_rng(0)
    examples = []
    for maps, here, others in pointer_and_noise(30):
        rows = rng.random((2, *maps.shape))
        rows[1, 0, 1] += 9 * here
        examples.append((rows, here, others))
    result = measure(examples)["pointing"]
    assert result.heads.shape == (30, 2, 2, 3) and result.mean_map.shape == (30, 2)
    assert result.best_head == (1, 0, 1)
    assert result.summary()["best_head"] == 1
    assert result.summary()["mean_map"] > 0.9


def test_right_and_wrong_are_scored_by_the_same_heads():
    examples = list(pointer_and_noise(40))
    right = np.arange(40) % 4 < 2
    for i in np.flatnonzero(~right):
        maps, here, others = examples[i]
        examples[i] = (maps[:, ::-1], here, others)  # the pointing head is elsewhere when wrong
    examples += list(pointer_and_noise(40, seed=1))
    result = measure(examples)["pointing"]
    of_first = np.arange(80) < 40
    assert result.summary(of_first & np.append(right, right))["best_head"] == 1
    assert result.summary(of_first & ~np.append(right, right))["best_head"] < 0.2
    assert np.isnan(result.summary(np.zeros(80, bool))["best_head"])
    assert result.scores()["best_head"].shape == (80,)


def test_what_was_chosen_is_read_along():
    scores = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], float)  # each half is served by the wrong candidate
    chosen, along = chosen_elsewhere(scores, np.array([[1, 2]] * 4))
    assert chosen.tolist() == [0, 0, 0, 0]
    assert along.tolist() == [2, 1, 2, 1]


def test_too_little_to_measure_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        measure([])
    with pytest.raises(ValueError, match="two examples"):
        measure(pointer_and_noise(1))["mass"].summary()
