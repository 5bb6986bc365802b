"""What each exact technique saves: CPU seconds of a training step without it and with it, tiny preset.

    python benchmarks/techniques.py                   # stage 2, a few minutes
    python benchmarks/techniques.py --stage stage1
    python benchmarks/techniques.py --compile         # `--compile` of train as well; needs a C++ compiler

In a round each way takes the same 32 samples through forward, backward, clipping and AdamW on one thread, in
turns; ratios are of medians, intervals from drawing rounds with replacement. The learning rate is 0: all work
with the same weights, so their losses have to agree, to 1e-5 nats, or it stops.

Left out of the package is a fused or chunked cross-entropy: at labels only, the logits are small.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from versus import table
from versus.timing import interleaved, ratio
from versus.work import SEED, Work, step

from minillava.config import IGNORE_INDEX
from minillava.data import Collator
from minillava.decoder import compile_layers, decode, release_layers
from minillava.model import MiniLlava
from minillava.prefix import shared_length
from minillava.training import FeatureCache, Stage

SAMPLES, TOLERANCE = 32, 1e-5

TECHNIQUES = {
    "no padding": ("padded", "all"),
    "a common beginning computed once": ("repeated", "all"),
    "last layer and head where an answer is read": ("everywhere", "all"),
    "tower stopped at its layer": ("whole tower", "all"),
    "features kept from an earlier epoch": ("all", "kept"),
    "batches grouped by modality and length": ("shuffled", "all"),
    "the same, where padding is computed": ("shuffled, padded", "padded"),
}
"""Technique -> (the way without it, the way with it), of `ways`."""

COMPILED = {"torch.compile around attention": ("all", "compiled")}


def loss_without(model: MiniLlava, batch: dict, without: str) -> Tensor:
    """The loss of `MiniLlava.forward`, one technique taken away: a scalar, of a batch padded on the right."""
    ids, pixels, real = batch["input_ids"], batch["pixel_values"], batch["attention_mask"]
    targets = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE_INDEX)
    read = targets != IGNORE_INDEX
    shared = shared_length(ids, real, read | (ids == model.config.image_token_id))
    if without == "repeated":
        shared = 0
    if without == "everywhere":
        read = real.bool() & (real.cumsum(dim=1) > shared)
    if without == "whole tower" and len(pixels):
        states = model.vision_tower(pixels, output_hidden_states=True).hidden_states
        features = states[model.config.vision_feature_layer][:, 1:]
    else:
        features = model.encode_images(pixels)
    embeds = model.splice(ids, model.project(features))
    mask = None if without == "padded" else real  # no token sees what is behind it
    hidden = decode(model.language_model, embeds, mask, read, shared)
    return F.cross_entropy(model.language_model.lm_head(hidden).float(), targets[read])


def compiled_loss(model: MiniLlava, loss: Callable[[dict], Tensor]) -> Callable[[dict], Tensor]:
    """The same loss, the layers compiled while it is computed; what goes back stays so."""

    def run(batch: dict) -> Tensor:
        compile_layers(model.language_model)
        try:
            return loss(batch)
        finally:
            release_layers(model.language_model)

    return run


def over(batches: list[dict], loss: Callable[[dict], Tensor], finish: Callable[[Tensor], float]) -> float:
    """A training step on each batch -> the mean loss of all their tokens."""
    tokens = [int((batch["labels"][:, 1:] != IGNORE_INDEX).sum()) for batch in batches]
    losses = [finish(loss(batch)) for batch in batches]
    return sum(a * n for a, n in zip(losses, tokens, strict=True)) / sum(tokens)


def ways(work: Work, compiled: bool = False) -> dict[str, Callable[[], float]]:
    """Name -> function that trains on all of the work's samples once and returns their mean loss."""
    model, data, size = work.ours, work.dataset(), work.stage.batch_size
    stage = replace(work.stage, learning_rate=0.0)
    module, keeping = (Stage(model, stage, 1_000, FeatureCache(limit)) for limit in (0, 1 << 30))
    trained = [p for p in model.parameters() if p.requires_grad]
    finish = step(trained, module.configure_optimizers()["optimizer"], stage.max_grad_norm)
    shuffled = torch.randperm(len(data), generator=torch.Generator().manual_seed(SEED)).tolist()
    collate = Collator(model.tokenizer.pad_token_id)
    grouped, mixed = (
        [collate([data[i] for i in order[at : at + size]]) for at in range(0, len(order), size)]
        for order in (work.order, shuffled)
    )

    def without(technique: str) -> Callable[[dict], Tensor]:
        return partial(loss_without, model, without=technique)

    taken = {name: (grouped, without(name)) for name in ("padded", "repeated", "everywhere", "whole tower")}
    found = taken | {
        "all": (grouped, module.loss),
        "kept": (grouped, keeping.loss),
        "shuffled": (mixed, module.loss),
        "shuffled, padded": (mixed, without("padded")),
    }
    if compiled:
        found["compiled"] = (grouped, compiled_loss(model, module.loss))
    return {name: partial(over, *both, finish) for name, both in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--stage", choices=("stage1", "stage2"), default="stage2")
    parser.add_argument("--rounds", type=int, default=6, help="default: 6")
    parser.add_argument("--compile", action="store_true", help="compiled layers as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = ways(Work.of(args.stage, SAMPLES), args.compile)
    losses = {name: run() for name, run in found.items()}  # features are kept from here on
    gaps = {name: abs(loss - losses["all"]) for name, loss in losses.items()}
    assert max(gaps.values()) <= TOLERANCE, f"The ways differ in their loss: {losses}."
    seconds = interleaved(found, args.rounds, warmup=0)
    lines = [["exact technique", "times as fast with it (95 %)", "difference of the losses"]]
    for technique, (without, having) in (TECHNIQUES | (COMPILED if args.compile else {})).items():
        gap = abs(losses[without] - losses[having])
        lines.append([technique, str(ratio(seconds[without], seconds[having])), f"{gap:.0e}"])
    print(table.rows(lines))


if __name__ == "__main__":
    main()
