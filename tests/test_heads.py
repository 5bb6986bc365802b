"""The finder without labels, on maps whose scatter is known."""

import numpy as np
import pytest

from minillava.heads import connected, elbow, find_heads, spatial_entropy


def test_spots_are_joined_along_diagonals_too():
    lit = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
    labels = connected(lit)
    assert ((labels > 0) == lit).all()
    assert labels[0, 0] == labels[1, 1] and labels[0, 3] == labels[1, 3] and labels[3, 0] == labels[3, 1]
    assert len(np.unique(labels[lit])) == 3


def test_a_winding_spot_is_one():
    snake = np.zeros((7, 7), bool)
    snake[::2] = True
    snake[1, 6] = snake[3, 0] = snake[5, 6] = True
    assert len(np.unique(connected(snake)[snake])) == 1


def test_spatial_entropy_by_hand():
    one, two, three = np.zeros((3, 4, 4))
    one[1:3, 1:3] = 1
    two[0, 0] = two[3, 3] = 1
    three[0, :3] = three[3, 0] = 1
    maps = np.stack([one, two, three, np.ones((4, 4))])
    expected = [0, np.log(2), 0.75 * np.log(4 / 3) + 0.25 * np.log(4), np.log(16)]
    assert spatial_entropy(maps) == pytest.approx(expected)
    assert spatial_entropy(maps * 1e-3) == pytest.approx(expected)


def test_the_elbow_is_where_the_curve_bends():
    assert elbow(np.array([0.5, 0.01, 0.02, 0.03, 0.9, 0.04])) == 0.04
    assert elbow(np.array([1.0, 1.0])) == 1


def test_heads_that_look_at_one_spot_are_found():
    """Head (0, 1) is sharp but looks elsewhere; (1, 2) looks at a spot; all others look at noise."""
    rng = np.random.default_rng(0)
    maps = rng.random((20, 2, 4, 6, 6)) / 36 * 0.4
    maps[:, 0, 1] = 0
    maps[:, 0, 1, 2, 2] = 1e-4
    maps[:, 1, 2] /= 100
    maps[:, 1, 2, 3:5, 1:3] += 0.2
    maps[:, 1, 3] /= 100
    maps[:, 1, 3, 0, ::2] += 0.25
    assert find_heads(maps, count=1, shortlist=1) == [(1, 2)]
    assert find_heads(maps, count=2, shortlist=2)[0] == (1, 2)
