"""The measurements on a CPU, each a dictionary of plain numbers."""

import contextlib
import copy
import itertools
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from minillava.flops import Shapes, sample_flops
from minillava.training import FeatureCache, Stage, train_stage
from versus import hf
from versus.costs import fresh, matrix_product
from versus.timing import check_same_loss, interleaved, ratio, ratio_of_runs
from versus.work import AXES, SEED, Work, check_same_batches, for_peer, grown_batch, step

TOLERANCE = 1e-3
"""Nats between the two loss curves at any step: float32 sums in another order, over some dozen steps."""

BATCHES = 4
"""Distinct batches of a round of the model step, so that lengths and pictures vary."""


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Both trainers draw their bars; here nobody reads them."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
            yield


def both_steps(work: Work) -> tuple[Callable, Callable, Callable]:
    """(ours, the peer's, ours with kept features): functions of a batch that train one step, -> the loss.

    The first two begin at the work's weights, in copies of their own; AdamW is `Stage`'s, and what
    `Trainer` takes by default, both fused. The learning rate is the stage's, without its schedule.
    """
    stage, ours, peer = work.stage, copy.deepcopy(work.ours), copy.deepcopy(work.peer)
    module, keeping = (Stage(ours, stage, 1_000, FeatureCache(limit)) for limit in (0, 1 << 30))
    trained = [p for p in peer.parameters() if p.requires_grad]
    options = dict(lr=stage.learning_rate, betas=stage.betas, weight_decay=stage.weight_decay)
    theirs = step(trained, torch.optim.AdamW(trained, fused=True, **options), stage.max_grad_norm)
    trained = [p for p in ours.parameters() if p.requires_grad]
    optimizer = module.configure_optimizers()["optimizer"]
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"]  # the schedule has set it to the warm-up's first rate, 0
    finish = step(trained, optimizer, stage.max_grad_norm)
    return (
        lambda batch: finish(module.loss(batch)),
        lambda batch: theirs(peer(**for_peer(batch)).loss),
        lambda batch: finish(keeping.loss(batch)),
    )


COUNTED = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.convolution)
"""Products with weights. Attention's are left out: torch's counter misses those of fused kernels on a CPU."""


def executed_flops(run: Callable[[], object]) -> int:
    """FLOPs of the products with weights that `run` does compute, whatever they are for."""
    with FlopCounterMode(display=False) as counter:
        run()
    return sum(counter.get_flop_counts()["Global"].get(product, 0) for product in COUNTED)


def flops_of(work: Work, batches: list[dict]) -> float:
    """Useful work: what the stage's formula asks for these batches, padding left out, the head and all
    layers at every position."""
    shapes, total = Shapes.of(work.ours.config), 0.0
    for batch in batches:
        pictures = len(batch["pixel_values"]) / len(batch["input_ids"])
        for length in batch["attention_mask"].sum(dim=1).tolist():
            total += sample_flops(shapes, length, pictures, work.stage.trains).model
    return total


def on_next(run: Callable, batches: Iterator[dict]) -> float:
    """`run` on the batch whose turn it is: the same for all sides of a round."""
    return run(next(batches))


def model_step(work: Work, rounds: int) -> dict:
    """Forward, backward, clipping and the optimizer's step on batches that lie ready.

    A square matrix product takes its turn in each round: a side's percentage is of what that reaches, and
    counts the products that the side computes itself.
    """
    batches = work.batches(BATCHES)
    ours, peer, cached = both_steps(work)
    losses = [(ours(batch), peer(batch)) for batch in batches]
    gap = check_same_loss(*zip(*losses, strict=True), TOLERANCE)
    sides = {"peer": peer, "ours": ours, "ours, features kept": cached}
    for batch in batches:
        cached(batch)  # its features are kept from here on
    product, flops = matrix_product()
    product()
    turns = {name: partial(on_next, run, itertools.cycle(batches)) for name, run in sides.items()}
    seconds = interleaved(turns | {"matrix product": product}, rounds, warmup=0)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    executed = {
        name: sum(executed_flops(partial(run, batch)) for batch in batches) / BATCHES
        for name, run in sides.items()
    }
    peak = flops / medians["matrix product"]
    return {
        "seconds": seconds,
        "median_seconds": medians,
        "ratio": vars(ratio(seconds["peer"], seconds["ours"])),
        "ratio_features_kept": vars(ratio(seconds["peer"], seconds["ours, features kept"])),
        "loss_gap": gap,
        "matmul_peak_flops": peak,
        "useful_flops_per_step": flops_of(work, batches) / BATCHES,
        "executed_flops_per_step": executed,
        "percent_of_peak": {name: 100 * executed[name] / medians[name] / peak for name in sides},
        "positions_padded": padding(batches),
    }


def padding(batches: list[dict]) -> float:
    """Share of the positions that are padding."""
    real = sum(int(batch["attention_mask"].sum()) for batch in batches)
    return 1 - real / sum(batch["attention_mask"].numel() for batch in batches)


def run_ours(work: Work, steps: int) -> tuple[list, list]:
    """(times of the steps' beginnings, losses) of `train_stage`, from the work's weights."""
    model = copy.deepcopy(work.ours)
    with tempfile.TemporaryDirectory() as folder, silent():
        with hf.watched(model, time.process_time) as (stamps, losses):
            train_stage(model, work.stage, work.records, folder, max_steps=steps, seed=SEED)
    return stamps, [loss.item() for loss in losses]


def run_peer(work: Work, steps: int, own: bool = False) -> tuple[list, list]:
    """The same of transformers' Trainer, on the records in our order, or in its own by default."""
    torch.use_deterministic_algorithms(False)  # Lightning has asked for them; the Trainer would not
    model, size = copy.deepcopy(work.peer), work.stage.batch_size
    data = work.records if own else work.records.select(work.order)
    changes = {"train_sampling_strategy": "random"} if own else {}
    with tempfile.TemporaryDirectory() as folder, silent():
        with hf.watched(model, time.process_time) as (stamps, losses):
            hf.fit(model, work.stage, hf.opened(data), work.collator, folder, steps, size, **changes)
    return stamps, [loss.item() for loss in losses]


def periods(stamps: list[float]) -> list[float]:
    """Seconds from step to step: data, model, optimizer, and all that the trainer does. Not the first."""
    return [b - a for a, b in zip(stamps[1:], stamps[2:], strict=False)]


def end_to_end(work: Work, rounds: int, steps: int) -> dict:
    """`train_stage` against `Trainer`, on the same records in the same order, to the same loss.

    Then the same records in the order that the Trainer draws itself, which knows no modality.
    """
    data, size = hf.opened(work.records.select(work.order)), work.stage.batch_size
    for index, batch in enumerate(work.batches(2)):
        rows = [data[i] for i in range(index * size, (index + 1) * size)]
        check_same_batches(batch, work.collator(rows))
    kept: dict[str, list] = {"peer": [], "ours": [], "peer, its own order": []}
    sides = {
        "peer": lambda: kept["peer"].append(run_peer(work, steps)),
        "ours": lambda: kept["ours"].append(run_ours(work, steps)),
        "peer, its own order": lambda: kept["peer, its own order"].append(run_peer(work, steps, own=True)),
    }
    interleaved(sides, rounds, warmup=0)
    gap = max(
        check_same_loss(ours, peer, TOLERANCE)
        for (_, ours), (_, peer) in zip(kept["ours"], kept["peer"], strict=True)
    )
    seconds = {name: [periods(stamps) for stamps, _ in runs] for name, runs in kept.items()}
    return {
        "seconds": seconds,
        "samples_per_second": {name: size / statistics.median(sum(v, [])) for name, v in seconds.items()},
        "ratio": vars(ratio_of_runs(seconds["peer"], seconds["ours"])),
        "ratio_own_order": vars(ratio_of_runs(seconds["peer, its own order"], seconds["ours"])),
        "loss_gap": gap,
        "last_loss": {name: runs[0][1][-1] for name, runs in kept.items()},
    }


def memory(stage: str, batch: int | None, samples: int, steps: int) -> dict:
    """Peak resident bytes of either side, each training in a process of its own."""
    script = str(Path(__file__).resolve().parents[1] / "alone.py")
    options = [stage, "--samples", str(samples), "--steps", str(steps)]
    options += [] if batch is None else ["--batch", str(batch)]
    return {side: fresh(script, side, *options)["peak_bytes"] for side in ("peer", "ours")}


def growth(work: Work, rounds: int, times: tuple[int, ...] = (1, 2, 4, 8), size: int = 2) -> dict:
    """Seconds of a step as a record grows along each axis; near-linear means: per position no dearer."""
    ours, peer, _ = both_steps(work)
    found = {}
    for axis in AXES:
        batches = {n: grown_batch(work, axis, n, size) for n in times}
        sides = {(n, name): partial(run, b) for n, b in batches.items() for name, run in
                 (("ours", ours), ("peer", peer))}  # fmt: skip
        seconds = interleaved(sides, rounds)
        found[axis] = {
            "positions": {n: batch["input_ids"].shape[1] for n, batch in batches.items()},
            **{name: {n: statistics.median(seconds[n, name]) for n in times} for name in ("ours", "peer")},
        }
    return found


def generation(work: Work, rounds: int, new: int = 32, sizes: tuple[int, ...] = (1, 16)) -> dict:
    """New tokens a second of greedy answers of `new` tokens; the same tokens on both sides."""
    ours, peer = work.ours.eval(), work.peer.eval()
    row, found = work.records[0], {}
    options = dict(max_new_tokens=new, min_new_tokens=new, do_sample=False)
    question = [
        {"from": "human", "value": "<image>\nWhat is in the picture?"},
        {"from": "gpt", "value": None},
    ]

    @torch.no_grad()
    def answer(model, **batch):
        return model.generate(**batch, **options)

    for size in sizes:
        batch = ours.prepare([question] * size, [[row["image"]["bytes"]]] * size)
        length = batch["input_ids"].shape[1]
        same = torch.equal(answer(ours, **batch), answer(peer, **batch)[:, length:])
        assert same, "The two sides answered with other tokens."
        seconds = interleaved(
            {"peer": partial(answer, peer, **batch), "ours": partial(answer, ours, **batch)}, rounds
        )
        found[size] = {
            "tokens_per_second": {k: size * new / statistics.median(v) for k, v in seconds.items()},
            "ratio": vars(ratio(seconds["peer"], seconds["ours"])),
        }
    work.ours.train(), work.peer.train()
    return found
