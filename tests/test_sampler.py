import pytest
import torch

from minillava.data import GroupedSampler, grouped_indices

LENGTHS = [(i * 37 % 101 + 1) * (-1 if i % 4 == 0 else 1) for i in range(90)]


def test_mega_batches_hold_one_modality_and_every_sample_comes_once():
    order = grouped_indices(LENGTHS, batch_size=4, world_size=2, seed=5)
    assert sorted(order) == list(range(90))
    signs = [{LENGTHS[i] > 0 for i in order[start : start + 8]} for start in range(0, 90, 8)]
    assert all(
        len(sign) == 1 for sign in signs[:-2]
    )  # the two last mega-batches are the mixed tail


def test_order_follows_its_seed_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (grouped_indices(LENGTHS, 4, 2, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(7)
    assert grouped_indices(LENGTHS, 4, 2, 1) == first


def test_length_zero_and_senseless_sizes_are_refused():
    with pytest.raises(ValueError, match="Sample 1 has length 0"):
        grouped_indices([3, 0, -2], 2, 2, 0)
    with pytest.raises(ValueError, match="positive"):
        grouped_indices([3, 1], 0, 2, 0)


def test_each_epoch_has_its_own_order():
    sampler = GroupedSampler(LENGTHS, 4)
    first = list(sampler)
    assert first == grouped_indices(LENGTHS, 4, 1, 42) == list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) != first and sorted(sampler) == sorted(first)


@pytest.mark.parametrize("n, world, accumulation", [(90, 2, 1), (90, 4, 2), (3, 4, 1), (64, 2, 4)])
def test_processes_share_each_mega_batch(n, world, accumulation):
    lengths = LENGTHS[:n]
    ranks = [GroupedSampler(lengths, 4, world, r, accumulation, seed=3) for r in range(world)]
    shares = [list(sampler) for sampler in ranks]
    assert {len(share) for share in shares} == {len(ranks[0])} and len(ranks[0]) % 4 == 0
    batches = [share[i : i + 4] for i in range(0, len(ranks[0]), 4) for share in shares]
    together = [index for batch in batches for index in batch]
    order = grouped_indices(lengths, 4, world * accumulation, 3)
    assert together[:n] == order  # ranks in turn read the one order
    assert together[n:] == (order * 9)[: len(together) - n]  # then its own start once more


@pytest.mark.parametrize("steps", [0, 1, 5, 11, 12, 13, 24])
@pytest.mark.parametrize("other", [(4, 2, 1), (2, 2, 2), (1, 1, 8), (8, 1, 1)])
def test_a_position_in_the_data_is_the_same_for_any_division_of_a_step(steps, other):
    """90 samples in steps of 8, two epochs of twelve; the last step of each has 2 samples."""

    def batches(layout):
        epochs, rest = divmod(steps, 12)
        return epochs * layout.batches + rest * layout.accumulation

    here = GroupedSampler(LENGTHS, 2, world_size=1, accumulation=4).layout
    size, world, accumulation = other
    there = GroupedSampler(LENGTHS, size, world, 0, accumulation).layout
    assert here.step == there.step == 8
    assert here.elsewhere(batches(here), there) == batches(there)
    assert there.elsewhere(batches(there), here) == batches(here)
    first = [sorted(order[:8]) for order in (GroupedSampler(LENGTHS, 2, accumulation=4).order(),)]
    ranks = [GroupedSampler(LENGTHS, size, world, rank, accumulation).order() for rank in range(world)]
    assert first == [sorted(i for order in ranks for i in order[: 8 // world])]


def test_start_skips_batches_once():
    sampler = GroupedSampler(LENGTHS, 4, world_size=2, rank=1)
    whole = list(sampler)
    sampler.start = 3
    assert len(sampler) == len(whole)
    assert list(sampler) == whole[12:]
    assert list(sampler) == whole


def test_an_order_by_lot_is_shared_and_resumed_like_the_other():
    lengths = [*range(1, 8), -3, -4, -5]
    whole = GroupedSampler(lengths, 2, seed=5, grouped=False)
    assert sorted(whole) == list(range(10)) and list(whole) == list(whole)
    assert list(whole) != list(GroupedSampler(lengths, 2, seed=5))
    shares = [list(GroupedSampler(lengths, 2, 2, rank, seed=5, grouped=False)) for rank in (0, 1)]
    assert sorted({*shares[0], *shares[1]}) == list(range(10)) and len(shares[0]) == len(shares[1]) == 6
    order = list(whole)
    whole.start = 2
    assert list(whole) == order[4:]
