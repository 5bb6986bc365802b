"""LoRA: small trainable matrices beside frozen ones, W x + (alpha / r) B (A x), and their merging.

A [r, in] starts at random and B [out, r] at zero, so that nothing changes at first (arXiv 2106.09685).
`adapt` lets `peft` put them in; folding them into W is one line of arithmetic and needs no peft.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minillava.config import LoraConfig
from minillava.model import MiniLlava
from minillava.weights import ours

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""All linear layers of a LLaMA but its head (`find_all_linear_names` in llava/train/train.py)."""

DRAWN = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to begin adapters (`init_lora_weights`) that leave the base's own weights as they were."""

UNSUPPORTED = ("use_dora", "use_qalora", "use_bdlora", "layer_replication", "trainable_token_indices")
"""Settings of peft's LoRA under which it is more than W + scaling * B A."""


def adapt(model: MiniLlava, config: LoraConfig, seed: int = 0) -> None:
    """Put adapters beside the language model's linear layers, in place.

    The vision tower's layers bear the same names; it and the projector are left alone, for peft sees
    the language model only. `seed` draws the A. Raises ImportError without `peft`, ValueError if the
    model has adapters already.
    """
    if adapted(model):
        raise ValueError("The model has adapters already: merge them first (lora.merge).")
    try:
        import peft
    except ImportError as error:
        raise ImportError('LoRA needs the package peft: pip install -e ".[lora]".') from error
    settings = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(TARGETS),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(settings, model.language_model)
    model.train(model.training)  # the new layers, too


def weights(model: MiniLlava, config: LoraConfig) -> int:
    """How many numbers `adapt` would add, without `peft`: an A and a B beside each linear layer."""
    layers = (m for name, m in model.language_model.named_modules() if name.split(".")[-1] in TARGETS)
    return sum(config.rank * (layer.in_features + layer.out_features) for layer in layers)


def adapted(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that have adapters, by name; none of a model that never met peft."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def fold(weight: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """W [out, in], A [r, in] and B [out, r] -> W + scaling * B A, rounded once, to W's precision."""
    return (weight.double() + scaling * (b.double() @ a.double())).to(weight.dtype)


@torch.no_grad()
def merged_state(model: MiniLlava) -> dict[str, Tensor]:
    """`model.state_dict()` as it is once the adapters are merged; the model keeps them."""
    state = model.state_dict()
    for name, layer in adapted(model).items():
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        merged = fold(layer.base_layer.weight, a, b, layer.scaling["default"])
        state = {key: tensor for key, tensor in state.items() if not key.startswith(f"{name}.")}
        state[f"{name}.weight"] = merged
    return state


def merge(model: MiniLlava) -> None:
    """Merge the adapters, in place: afterwards the model is as if it had never had any."""
    state = merged_state(model)
    for name, layer in adapted(model).items():
        model.set_submodule(name, layer.base_layer)
    if hasattr(model.language_model, "peft_config"):
        del model.language_model.peft_config
    model.language_model.requires_grad_(True)  # peft froze it
    model.load_state_dict(state)


def adapter_state(model: MiniLlava) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The adapters under the names the original gives them, and peft's settings for them.

    Raises ValueError if there are none.
    """
    layers = adapted(model)
    if not layers:
        raise ValueError("The model has no adapters to save: lora.adapt puts them in.")
    tensors = {
        f"base_model.model.{name.removeprefix('language_model.')}.{half}.weight": getattr(layer, half)[
            "default"
        ].weight
        for name, layer in layers.items()
        for half in ("lora_A", "lora_B")
    }
    settings = model.language_model.peft_config["default"].to_dict()
    settings |= {"inference_mode": True, "target_modules": sorted(settings["target_modules"])}
    return tensors, json.loads(json.dumps(settings))  # enums become plain text


@torch.no_grad()
def merge_saved(model: MiniLlava, tensors: dict[str, Tensor], settings: dict, source: Path) -> None:
    """Merge adapters read from a folder into `model`; tensors that are none replace the model's own.

    `tensors` have the names of the original, of peft on transformers' LLaVA, or ours; the layers may be
    any of the model's, `settings` is adapter_config.json. Raises ValueError for another kind of adapter,
    and with the shapes of both sides for every tensor that does not fit; then nothing is merged.
    """
    unsupported = [name for name in UNSUPPORTED if settings.get(name)]
    if settings.get("init_lora_weights") not in DRAWN:  # PiSSA and its kind take a part out of the base
        unsupported.append(f"init_lora_weights {settings['init_lora_weights']!r}")
    if settings.get("peft_type") != "LORA" or unsupported:
        raise ValueError(
            f"{source} holds adapters that are not plain LoRA (peft_type {settings.get('peft_type')!r}, "
            f"{', '.join(unsupported) or 'nothing else'} set): merge them with peft first."
        )
    state, changed, halves, lines = model.state_dict(), {}, {}, []
    for key, tensor in tensors.items():
        if match := re.fullmatch(r"(.+)\.lora_([AB])\.weight", key):
            halves.setdefault(match[1], {})[match[2]] = tensor
        else:
            changed[ours(key)] = tensor
    for name, pair in halves.items():
        key = ours(f"{name}.weight")
        a, b = (list(pair[half].shape) if half in pair else None for half in "AB")
        if a is None or b is None:
            lines.append(f"half a pair  {key}: the file has A {a} and B {b}")
        elif key not in state:
            lines.append(f"unexpected   {key}: the file has A {a} and B {b}")
        elif [b[0], a[1]] != list(state[key].shape) or a[0] != b[1]:
            shapes = f"the file has A {a} and B {b}, the model {list(state[key].shape)}"
            lines.append(f"wrong shape  {key}: {shapes}")
        else:
            scaling = _scaling(name, pair["A"].shape[0], settings)
            changed[key] = fold(state[key], pair["A"], pair["B"], scaling)
    for key, tensor in changed.items():
        if key not in state:
            lines.append(f"unexpected   {key} {list(tensor.shape)}")
        elif tensor.shape != state[key].shape:
            shapes = f"the file has {list(tensor.shape)}, the model {list(state[key].shape)}"
            lines.append(f"wrong shape  {key}: {shapes}")
    if lines:
        raise ValueError(
            f"The adapters in {source} are not those of this model (nothing was merged):\n  "
            + "\n  ".join(sorted(lines))
        )
    for key, tensor in changed.items():
        state[key].copy_(tensor)


def _scaling(name: str, rank: int, settings: dict) -> float:
    """alpha / r of one layer, alpha / sqrt(r) with rank stabilization, as peft reads its settings."""
    patterns = (settings.get("alpha_pattern") or {}).items()
    own = (alpha for pattern, alpha in patterns if re.fullmatch(rf"(.*\.)?({pattern})", name))
    alpha = next(own, settings["lora_alpha"])
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
