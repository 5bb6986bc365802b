"""The order of samples against LLaVA's, index by index."""

import json
from pathlib import Path

import pytest
import torch

from minillava.data import grouped_indices

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
