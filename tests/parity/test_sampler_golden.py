"""The order of samples against LLaVA's, index by index."""

import json
from pathlib import Path

import pytest
import torch

from minillava.data import GroupedSampler, grouped_indices

FILE = Path(__file__).parent / "golden" / "order_and_metrics" / "sampler.jsonl"
ROWS = [json.loads(line) for line in FILE.read_text().splitlines()]


def arguments(row):
    sizes = [row[name] for name in ("lengths", "batch_size", "world_size", "seed")]
    return *sizes, row["group_by_modality"]


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['id']} {row['note']}" for row in ROWS])
def test_order_is_the_originals(row):
    if row["raises"]:
        with pytest.raises(ValueError, match="length 0"):
            grouped_indices(*arguments(row))
    else:
        assert grouped_indices(*arguments(row)) == row["indices"]


def test_a_private_generator_draws_what_the_global_one_would():
    for row in ROWS:
        generator = torch.Generator().manual_seed(row["seed"])
        for draw in row["randperm_draws"] or []:
            assert torch.randperm(len(draw), generator=generator).tolist() == draw


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_processes_in_turn_walk_the_originals_order(row, accumulation):
    """As `accelerate` deals the batches of that order: batch b to process b mod n, the end filled up."""
    world, rest = divmod(row["world_size"], accumulation)
    if row["raises"] or not row["group_by_modality"] or rest:
        return
    lengths, size = row["lengths"], row["batch_size"]
    shares = [
        list(GroupedSampler(lengths, size, world, rank, accumulation, seed=row["seed"]))
        for rank in range(world)
    ]
    batches = [share[at : at + size] for at in range(0, len(shares[0]), size) for share in shares]
    walked = [index for batch in batches for index in batch]
    assert walked[: len(lengths)] == row["indices"]
    assert len({len(share) for share in shares}) == 1 and len(walked) - len(lengths) < size * world
    assert walked[len(lengths) :] == (row["indices"] * size * world)[: len(walked) - len(lengths)]
