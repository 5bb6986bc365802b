"""Is the run that is asked for the one that was interrupted? What a checkpoint was made of, and the check."""

import hashlib
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from torch import nn

from minillava.config import StageConfig
from minillava.records import Records

MAY_CHANGE = ("name", "samples", "batch_size", "activation_checkpointing", "compiled")
"""Fields of a stage that change no number of a run, and those that the order of the samples answers for."""

LOOKED_AT = 64
"""Records, and numbers of each frozen weight, that stand for all: enough to tell other data from the same."""


def origin(
    model: nn.Module, trained: Collection[str], stage: StageConfig, steps: int, records: Records
) -> dict[str, Any]:
    """What the numbers of a run follow from, as plain values: the stage's row, its steps, digests of what it
    reads and of the weights that it leaves alone. `trained` names the others, which the checkpoint holds."""
    settings = {name: value for name, value in asdict(stage).items() if name not in MAY_CHANGE}
    shown = range(0, len(records), max(1, len(records) // LOOKED_AT))
    frozen = (
        (name, list(weight.shape), weight.detach().flatten()[:LOOKED_AT].float().tolist())
        for name, weight in model.named_parameters()
        if name not in trained
    )
    return settings | {
        "steps": steps,
        "records": _digest(records[index].get("conversations") for index in shown),
        "frozen weights": _digest(frozen),
    }


def _digest(parts) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode())
    return digest.hexdigest()[:12]


def check_origin(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises ValueError, naming what differs, where a run would go on as another than it began."""
    changed = [name for name in now if name in then and then[name] != now[name]]
    if changed:
        old, new = (", ".join(f"{name} = {what[name]}" for name in changed) for what in (then, now))
        raise ValueError(
            f"The checkpoint was made with {old}; this run has {new}. To go on, ask for the same as before; "
            "to start anew, give another run folder or delete that stage's."
        )
