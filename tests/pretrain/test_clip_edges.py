"""clip_edges.py: where things are, read off their patches."""

import pytest
import torch

from minillava.pretrain.clip_edges import edge_head, edges_loss
from minillava.toybox.scene import SIZE

BOX = (12, 24, 36, 60)


def saying(box):
    """A head that says this box, whatever it sees."""
    head = edge_head(8)
    head.bias.data.copy_(torch.tensor(box) / SIZE)
    return head


def seeing():
    """A head that heeds what it sees."""
    head = edge_head(8)
    torch.nn.init.normal_(head.weight)
    return head


def test_a_fresh_head_says_the_middle_of_the_picture():
    assert edge_head(8)(torch.randn(5, 8)).tolist() == [[0.5] * 4] * 5


def test_the_loss_is_how_far_off_the_edges_are():
    patches = torch.randn(2, 64, 8)
    assert edges_loss(saying(BOX), patches, [(1, BOX)]).item() == pytest.approx(0, abs=1e-6)
    for edge in range(4):
        said = list(BOX)
        said[edge] += 8
        assert edges_loss(saying(said), patches, [(1, BOX)]).item() == pytest.approx(8 / SIZE / 4)


def test_only_the_patches_under_a_thing_are_asked_and_each_thing_counts_once():
    head, patches = seeing(), torch.randn(2, 64, 8, requires_grad=True)
    small, large = (0, 12, 12, 24), (36, 36, 84, 84)
    edges_loss(head, patches, [(0, small), (1, large)]).backward()
    touched = patches.grad.abs().sum(-1).view(2, 8, 8)
    assert touched[0].nonzero().tolist() == [[1, 0]]
    assert touched[1].nonzero().tolist() == [[r, c] for r in range(3, 7) for c in range(3, 7)]
    both = edges_loss(head, patches, [(0, small), (1, large)])
    alone = [edges_loss(head, patches, [one]) for one in ((0, small), (1, large))]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)


def test_a_sliver_that_fills_no_patch_does_not_count():
    assert edges_loss(seeing(), torch.randn(1, 64, 8), [(0, (0, 0, 2, 2))]).item() == 0
