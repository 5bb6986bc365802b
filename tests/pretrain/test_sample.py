"""sample.py: several words and a thing's edges in one position."""

import pytest
import torch

from minillava.pretrain.language import build_language_model
from minillava.pretrain.sample import Heap, Reader, Sample, next_token_loss, waves

EDGES = (0.1, 0.2, 0.3, 0.4)


@pytest.fixture
def reader():
    torch.manual_seed(0)
    return Reader(build_language_model(64, pad=2))


def test_a_heap_is_the_sum_of_its_words_and_edges(reader):
    plain, heaped = Sample([5, 6, 7], [-100] * 3), Sample([5, 6, 7], [-100] * 3, (Heap(1, (8, 9), EDGES),))
    bare, held = reader.embed([plain, plain, heaped])[1:]
    words = reader.model.get_input_embeddings().weight
    there = reader.edges(waves(torch.tensor([EDGES])))[0]
    torch.testing.assert_close(held[1], words[6] + words[8] + words[9] + there)
    assert torch.equal(held[[0, 2]], bare[[0, 2]]) and torch.equal(bare, words[[5, 6, 7]])


def test_a_heap_may_hold_edges_alone(reader):
    samples = [Sample([5], [-100], (Heap(0, (), EDGES),)), Sample([6], [-100], (Heap(0, (7,), EDGES),))]
    words = reader.model.get_input_embeddings().weight
    there = reader.edges(waves(torch.tensor([EDGES])))
    expected = torch.stack([words[5], words[6] + words[7]]) + there
    torch.testing.assert_close(reader.embed(samples)[:, 0], expected)


def test_edges_are_told_apart_to_a_pixel():
    """Neighbors by a hundredth of the side differ, each edge in numbers of its own."""
    one = waves(torch.tensor([EDGES]))
    for edge in range(4):
        moved = list(EDGES)
        moved[edge] += 0.01
        change = (waves(torch.tensor([moved])) - one).view(4, -1).norm(dim=1)
        assert change[edge] > 0.1 and change.sum() == change[edge]


def test_who_looks_finds_what_heaps_hold(reader):
    """A model learns to say which of two edges a heap holds: the loss reaches the edges' matrix."""
    heaps = [Heap(1, (), (left, 0, 1, 1)) for left in (0, 0.5)]
    samples = [Sample([3, 4, 10 + i], [-100, -100, 10 + i], (heap,)) for i, heap in enumerate(heaps)]
    optimizer = torch.optim.AdamW(reader.parameters(), 1e-3)
    losses = []
    for _ in range(40):
        losses.append(next_token_loss(reader, samples))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 2 and losses[-1] < 0.2  # without the heap: ln 2 = 0.69 at best
    torch.testing.assert_close(next_token_loss(reader, samples[:1] * 2), next_token_loss(reader, samples[:1]))
