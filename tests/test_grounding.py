"""Scores worked out by hand, and baselines that behave as chance does."""

import numpy as np
import pytest

from minillava.grounding import mass_in_box, measure, pointing, rank_accuracy, truth

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
    assert pointing(maps, COVER).tolist() == [[1, 1], [0, 1]]
    assert mass_in_box(maps, COVER) == pytest.approx(np.array([[0.58, 0.6], [0, 0]]))
    assert rank_accuracy(maps[0], COVER).tolist() == [0.5, 1]


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
        (np.stack([one_hot(i % 2, 0), one_hot(1 - i % 2, 0)])[None], one_hot(0, 0), [])
        for i in range(4)
    ]
    result = measure(examples)["pointing"]
    assert result.heads[:, 0].tolist() == [[1, 0], [0, 1]] * 2
    assert result.summary()["best_head"] == 0


def test_too_little_to_measure_is_an_error():
    with pytest.raises(ValueError, match="empty"):
        measure([])
    with pytest.raises(ValueError, match="two examples"):
        measure(pointer_and_noise(1))["mass"].summary()
