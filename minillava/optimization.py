"""What a stage trains, in which precision, and at which rate."""

import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from minillava.config import StageConfig
from minillava.model import MiniLlava


def freeze(model: MiniLlava, stage: StageConfig) -> list[str]:
    """Let exactly the parameters of `stage.trains` require gradients; returns their names.

    With LoRA these are the language model's adapters in place of its own (`lora.adapt` puts them in).
    """
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        replaced = stage.lora is not None and part == "language_model" and ".lora_" not in name
        parameter.requires_grad_(part in stage.trains and not replaced)
    return [name for name, p in model.named_parameters() if p.requires_grad]


def lift(module: nn.Module) -> None:
    """Bring what trains to float32, for mixed precision."""
    for parameter in module.parameters():
        if parameter.requires_grad and not isinstance(parameter, DTensor):  # a shard was lifted before
            parameter.data = parameter.data.float()


def lower(model: MiniLlava, dtypes: dict[str, torch.dtype]) -> None:
    """Bring every parameter back to what it was, rounding once."""
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes[name])


def parameter_groups(model: MiniLlava, stage: StageConfig) -> list[dict]:
    """The original's groups: {decayed, not decayed} x {projector, the rest} (llava_trainer.py).

    Biases and norm weights, the one-dimensional parameters, do not decay. The projector has its own
    learning rate if the stage gives one.
    """
    own = stage.projector_learning_rate
    projector_rate = stage.learning_rate if own is None else own
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (parameter.ndim > 1, name.startswith("multi_modal_projector"))
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": params,
            "weight_decay": stage.weight_decay if decays else 0.0,
            "lr": projector_rate if is_projector else stage.learning_rate,
        }
        for (decays, is_projector), params in groups.items()
    ]


def cosine_with_warmup(step: int, warmup: int, total: int) -> float:
    """Share of the peak learning rate at `step`: a linear rise, then half a cosine down to 0."""
    if step < warmup:
        return step / max(1, warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
