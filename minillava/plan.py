"""Before a stage starts: does it fit, how long does it take, how much disk. Arithmetic; nothing is run.

`plan_stage` puts together parameters and steps (`shapes`), FLOPs (`flops`), and the memory of a device
(`memory`). What had to be assumed says so.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from statistics import mean

import psutil
import torch

from minillava.bases import read_tokenizer
from minillava.config import PRESETS, STRATEGIES, Preset, StageConfig
from minillava.conversation import encode
from minillava.flops import Flops, Shapes, sample_flops
from minillava.memory import GB, GPUS, Gpu, Memory, Setup, device_memory
from minillava.parallel import Sharded, choose
from minillava.records import pictures
from minillava.shapes import StageSize, meta_config, stage_size
from minillava.toybox import records as toybox
from minillava.training import CACHE_BYTES, split_batch
from minillava.weights import find


@dataclass(frozen=True)
class Workload:
    """The samples of a stage: how many with and without a picture, and their lengths in positions.

    The means count for time; `longest` for memory, which a batch of the longest samples fills most. Raises
    ValueError for numbers that no samples can have.
    """

    with_picture: int
    length: float
    text_only: int
    text_length: float
    longest: int
    source: str

    def __post_init__(self) -> None:
        if min(self.with_picture, self.text_only) < 0 or self.with_picture + self.text_only == 0:
            raise ValueError(
                f"There cannot be {self.with_picture} samples with a picture and {self.text_only} without."
            )
        kinds = (
            ("with a picture", self.with_picture, self.length),
            ("without", self.text_only, self.text_length),
        )
        for kind, number, length in kinds:
            if number and not 1 <= length <= self.longest:
                raise ValueError(
                    f"Samples {kind} cannot have {length:g} positions on average where the longest has "
                    f"{self.longest}."
                )

    def resized(self, samples: int) -> "Workload":
        """The same mixture, of so many samples."""
        texts = round(samples * self.text_only / (self.with_picture + self.text_only))
        return replace(self, with_picture=samples - texts, text_only=texts)


CAPTIONS = Workload(558_128, 600, 0, 0, 768, "lengths assumed: captions of 24 tokens, at most 192")
MIXTURE = Workload(624_610, 820, 40_688, 1100, 2048, "lengths assumed, the longest are cut at 2048")
SCIENCE = Workload(10_332, 850, 10_876, 300, 2048, "lengths assumed; pictures as often as in all its splits")
PUBLISHED = {"stage1": CAPTIONS, "stage2": MIXTURE, "stage2-lora": MIXTURE, "scienceqa": SCIENCE}
"""LLaVA-Pretrain 558K, llava_v1_5_mix665k with its texts (LLaVA #546), and ScienceQA, of whose 21,208
questions 10,332 have a picture (arXiv 2209.09513, section 3). `minillava inspect` measures lengths; ten
percent of length are ten percent of time."""

CPU = "cpu"
"""The name of `this_machine`."""

TOYBOX_SAMPLE = 200
"""Toybox records that are drawn to learn their lengths."""


@dataclass(frozen=True)
class Reported:
    """Hours that LLaVA's authors give for a stage, on which GPUs."""

    hours: float
    gpu: str
    devices: int = 8
    source: str = "README of haotian-liu/LLaVA at c121f04"


REPORTED = {
    ("llava-1.5-7b", "stage1"): Reported(3.5, "a100-80gb"),
    ("llava-1.5-13b", "stage1"): Reported(5.5, "a100-80gb"),
    ("llava-1.5-7b", "stage2"): Reported(10, "a100-40gb"),
    ("llava-1.5-13b", "stage2"): Reported(20, "a100-80gb"),
}


@dataclass(frozen=True)
class Plan:
    """One stage on one setup. `flops` are those of all samples, `passes` the passes to one optimizer step.

    On the disk, `checkpoint` bytes of a run that can go on, and `result` bytes of what the stage leaves.
    `reported` is there where the samples are LLaVA's own.
    """

    preset: Preset
    stage: StageConfig
    setup: Setup
    shapes: Shapes
    size: StageSize
    workload: Workload
    memory: Memory
    flops: Flops
    mfu: float
    passes: int
    checkpoint: float
    result: float
    reported: Reported | None = None

    @property
    def fits(self) -> bool:
        """Is there room for it on each device?"""
        return self.memory.peak <= self.setup.gpu.memory

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return self.size.steps

    @property
    def hours(self) -> float:
        """Time for all samples at the stated MFU, without loading, saving and validating."""
        return self.flops.model / (self._peak(self.setup) * self.mfu) / 3600

    @property
    def disk(self) -> float:
        """Bytes of the last checkpoint, of the one being written beside it, and of the result."""
        return 2 * self.checkpoint + self.result

    @property
    def implied_mfu(self) -> float | None:
        """The MFU that the reported hours come to, by the same count of FLOPs."""
        if self.reported is None:
            return None
        theirs = Setup(GPUS[self.reported.gpu], self.reported.devices)
        return self.flops.model / (self.reported.hours * 3600 * self._peak(theirs))

    def _peak(self, setup: Setup) -> float:
        return setup.world * setup.gpu.peak(self.stage.precision)

    def raise_if_too_large(self) -> None:
        """Raises ValueError where it does not fit: one sentence, with what would."""
        if self.fits:
            return
        others = list(alternatives(self))
        advice = f"what would fit: {'; or '.join(others)}" if others else "nothing in the table would fit"
        raise ValueError(
            f"{self.preset.name} {self.stage.name} needs {self.memory.peak / GB:.1f} GB on each device, "
            f"where there are {self.setup.gpu.memory / GB:.1f} ({self.setup}); {advice}."
        )

    def to_dict(self) -> dict:
        """Everything, as JSON takes it: bytes, FLOPs, hours."""
        derived = ("fits", "steps", "hours", "disk", "implied_mfu")
        return (
            asdict(self)
            | {name: getattr(self, name) for name in derived}
            | {
                "preset": self.preset.name,
                "memory": vars(self.memory) | {"peak": self.memory.peak},
                "flops": asdict(self.flops) | {"model": self.flops.model},
            }
        )

    def __str__(self) -> str:
        setup, work, total = self.setup, self.workload, self.flops
        lines = [f"{self.preset.name} {self.stage.name}: {setup}", "memory of each device, GB"]
        lines += [f"  {name:<12}{value / GB:>9.2f}" for name, value in vars(self.memory).items() if value]
        lines += [
            f"  {'together':<12}{self.memory.peak / GB:>9.2f}  as the backward pass begins",
            f"  {'room':<12}{setup.gpu.memory / GB:>9.2f}  {setup.gpu.source}",
            f"steps         {self.steps} ({self.size.warmup_steps} of warm-up), each of {self.passes} passes "
            f"of {setup.micro_batch} samples on {setup.world} devices",
            f"samples       {work.with_picture} with a picture ({work.length:.0f} positions), "
            f"{work.text_only} without ({work.text_length:.0f}), the longest {work.longest}; {work.source}",
            f"FLOPs         {total.model:.3e}"
            + (f", and {total.recomputed:.3e} computed again" if total.recomputed else ""),
            f"hours         {self.hours:.2f} at {self.mfu:.0%} MFU (loading and saving come on top)",
            f"disk          {self.disk / GB:.1f} GB: a checkpoint of {self.checkpoint / GB:.1f}, twice while "
            f"it is written, and what is left, {self.result / GB:.1f}",
        ]
        if self.reported:
            lines.append(
                f"LLaVA's       {self.reported.hours:g} hours on {self.reported.devices} x "
                f"{self.reported.gpu}, which is {self.implied_mfu:.0%} MFU ({self.reported.source})"
            )
        return "\n".join(lines)


def plan_stage(
    preset: str | Preset,
    stage: str,
    gpu: str | Gpu = "a100-80gb",
    devices: int = 8,
    nodes: int = 1,
    strategy: str = "auto",
    checkpointing: bool = False,
    compiled: bool = False,
    micro_batch: int | None = None,
    mfu: float = 0.5,
    samples: int | None = None,
    work: Workload | None = None,
) -> Plan:
    """Plan one stage; the plan may not fit (`Plan.fits`).

    `gpu` may be "cpu": this machine, of which there is one. `devices` are those of a node. `strategy` "auto"
    is `parallel.choose`'s: fsdp2 where the language model trains on several devices, else ddp. `micro_batch`
    defaults to the largest that fits (or 1). `samples` and `work` replace the preset's own data. Raises
    ValueError for a name, number or combination that there is not.
    """
    preset = PRESETS[preset] if isinstance(preset, str) else preset
    row = preset.stage(stage)
    gpu = named(gpu) if isinstance(gpu, str) else gpu
    if min(devices, nodes) < 1 or not 0 < mfu <= 1:
        raise ValueError(
            f"Give at least one device and node and an MFU in (0, 1], not {devices}, {nodes}, {mfu}."
        )
    if gpu.name == CPU and devices * nodes > 1:
        raise ValueError(f"This machine is one device, whose memory is there once, not {devices * nodes}.")
    for name, number in (("micro_batch", micro_batch), ("samples", samples)):
        if number is not None and number < 1:
            raise ValueError(f"Give {name} as a positive number, not {number}.")
    if strategy not in STRATEGIES:
        raise ValueError(f"A strategy is {', '.join(STRATEGIES)}, not {strategy}.")
    strategy = "fsdp2" if isinstance(choose(row, strategy, devices, nodes), Sharded) else "ddp"
    setup = Setup(gpu, devices, nodes, strategy, checkpointing, compiled=compiled)

    shapes, reported = Shapes.of(meta_config(preset)), REPORTED.get((preset.name, stage))
    work = work or workload(preset, row)
    work = work.resized(samples) if samples else work
    if work.longest > row.max_length:
        raise ValueError(
            f"{stage} cuts samples at {row.max_length} positions, so the longest cannot have {work.longest}."
        )
    if work.with_picture and work.length < shapes.patches:
        raise ValueError(
            f"A picture alone takes {shapes.patches} positions: samples with one cannot have {work.length:g} "
            "on average."
        )
    size = stage_size(preset, stage, samples)
    itemsize = 2 if row.precision.startswith("bf16") else 4
    # Features are kept where pictures come again: in another epoch. (`train --validation` keeps up to as
    # many, too; a plan knows of no validation.)
    features = work.with_picture * shapes.patches * shapes.vision_width * itemsize
    cache = min(CACHE_BYTES, features) if row.epochs > 1 else 0
    if micro_batch is None:
        setup = largest_micro_batch(shapes, size, row, setup, work.longest, cache) or setup
    else:
        setup = replace(setup, micro_batch=micro_batch)
    _, passes = split_batch(row, setup.micro_batch, setup.world)

    def cost(length: float, seen: int) -> Flops:
        adapters = size.trainable["adapters"]
        return sample_flops(shapes, length, seen, row.trains, adapters, checkpointing=checkpointing)

    total = cost(work.length, 1) * work.with_picture + cost(work.text_length, 0) * work.text_only
    return Plan(
        preset=preset,
        stage=row,
        setup=setup,
        shapes=shapes,
        size=size,
        workload=work,
        memory=device_memory(shapes, size, row, setup, work.longest, cache),
        flops=total * row.epochs,
        mfu=mfu,
        passes=passes,
        checkpoint=12 * size.total_trainable,
        result=itemsize * _left(size),
        reported=reported if reported and work == workload(preset, row) else None,
    )


def _left(size: StageSize) -> int:
    """Weights that a stage writes at its end: the projector alone, or a whole model, and adapters too."""
    parts = size.parameters
    if not size.trainable["language_model"] and not parts["adapters"]:
        return parts["multi_modal_projector"]
    adapter = parts["adapters"] + parts["multi_modal_projector"] if parts["adapters"] else 0
    return size.total - parts["adapters"] + adapter


def largest_micro_batch(
    shapes: Shapes, size: StageSize, stage: StageConfig, setup: Setup, longest: int, cache: float
) -> Setup | None:
    """`setup` with the largest micro-batch that makes the stage's batch and fits; None if there is none."""
    share, rest = divmod(stage.batch_size, setup.world)
    for micro_batch in () if rest else range(share, 0, -1):
        found = replace(setup, micro_batch=micro_batch)
        if share % micro_batch == 0:
            if device_memory(shapes, size, stage, found, longest, cache).peak <= setup.gpu.memory:
                return found
    return None


def first_fit(plan: Plan, setups: Iterable[Setup]) -> Setup | None:
    """The first of `setups` on which the plan's stage fits: without recomputing, if that will do."""
    whole = plan.size.trainable["language_model"] > 0
    for setup in setups:
        for strategy in dict.fromkeys((setup.strategy, "fsdp2" if whole and setup.world > 1 else "ddp")):
            for again in sorted({setup.checkpointing, True}):
                way = replace(setup, strategy=strategy, checkpointing=again)
                fixed = plan.shapes, plan.size, plan.stage, way
                if found := largest_micro_batch(*fixed, plan.workload.longest, plan.memory.cache):
                    return found
    return None


def alternatives(plan: Plan) -> Iterator[str]:
    """What would fit in place of `plan`: another way on its devices; else larger GPUs, or more of them,
    or training less."""
    now = plan.setup
    if found := first_fit(plan, [now]):
        yield str(found)
        return
    larger = sorted(GPUS.values(), key=lambda gpu: gpu.memory)
    worlds = [now.world * 2**k for k in range(1, 8)] if now.gpu.name != CPU else []
    for setups in (
        [replace(now, gpu=gpu) for gpu in larger],
        [replace(now, devices=min(world, 8), nodes=max(1, world // 8)) for world in worlds],
    ):
        if found := first_fit(plan, setups):
            yield str(found)
    less = f"{plan.stage.name}-lora"
    if less in plan.preset.stages:
        other = plan_stage(plan.preset, less, now.gpu, now.devices, now.nodes, work=plan.workload)
        if found := first_fit(other, [other.setup]):
            yield f"--stage {less} {found}"


def workload(preset: Preset, stage: StageConfig) -> Workload:
    """The samples of a stage of a preset: the published ones, or Toybox's, of which some are drawn."""
    if preset.text_sizes is not None:
        return PUBLISHED[stage.name].resized(stage.samples)
    tokenizer = read_tokenizer(find(preset.language_model))
    make = toybox.caption_record if stage.template == "plain" else toybox.instruction_record
    patches = Shapes.of(meta_config(preset)).patches
    lengths: dict[bool, list[int]] = {True: [], False: []}
    for record in (make("train", index) for index in range(TOYBOX_SAMPLE)):
        seen = bool(pictures(record))
        encoded = encode(record["conversations"], tokenizer, stage.template, seen, patches, stage.max_length)
        lengths[seen].append(len(encoded.input_ids))
    seen, texts = lengths[True], lengths[False]
    return Workload(
        len(seen), mean(seen), len(texts), mean(texts or [0]), max(seen + texts),
        f"lengths of the first {TOYBOX_SAMPLE} Toybox records",
    ).resized(stage.samples)  # fmt: skip


def named(gpu: str) -> Gpu:
    """The device of that name, in capitals or not: of the table, or this machine. ValueError if none is."""
    if gpu.lower() == CPU:
        return this_machine()
    if gpu.lower() not in GPUS:
        raise ValueError(f"The table has the GPUs {', '.join(GPUS)}, and {CPU} is this machine, not {gpu}.")
    return GPUS[gpu.lower()]


def this_machine(edge: int = 512, rounds: int = 100) -> Gpu:
    """This machine's processor as a device: free memory, and the peak that float32 matrix products of
    `edge` x `edge` reach now, with the threads that torch uses."""
    matrix = torch.ones(edge, edge)
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    peak, free = 2 * edge**3 / best, psutil.virtual_memory().available
    return Gpu(CPU, free, peak, peak, "free memory; the peak is measured", runtime=0.5 * GB)
