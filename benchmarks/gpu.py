"""LLaVA-1.5-7B's shapes on one GPU, random weights: our stages against transformers under its Trainer.

    python benchmarks/gpu.py                  # stage 1, stage 2 with LoRA and in full, as far as they fit
    python benchmarks/gpu.py --shapes tiny    # the same logic on the tiny shapes, on a CPU too

Each side trains in processes of its own, in turns; ours also with its layers compiled. Weights are drawn
alike by their names, and the samples, pictures of noise and words at random, are of the lengths that real
ones have on average. A step has the same samples on all sides, in passes as large as fit by plan; where not
even one sample does, layers are computed again. The whole language model trains by fsdp2 on our side, as it
does on a node. MFU counts useful work, by the formula of `minillava.flops`: the head and the last layer at
every position, of which our side leaves out what nothing reads. Prints a markdown table and leaves the
numbers in --folder.
"""

import argparse
import json
import os
import statistics
import zlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from versus import costs, table
from versus.timing import Ratio, check_same_loss, ratio_of_runs, wall

from minillava.config import IGNORE_INDEX, PRESETS, StageConfig

CASES = {"stage1": (600, 16), "stage2-lora": (820, 8), "stage2": (820, 32)}
"""Stage -> (positions of a sample, samples in a step): 576 of a picture and the words of an average caption
or conversation (estimated, not counted). The stages are those of the preset llava-1.5-7b, and of tiny; their
steps have 256 and 128 samples."""

SIDES = {"peer": "transformers", "ours": "minillava", "compiled": "minillava --compile"}

CARDS = {
    "NVIDIA A100-SXM4-40GB": "a100-40gb",
    "NVIDIA A100-PCIE-40GB": "a100-40gb",
    "NVIDIA A100-SXM4-80GB": "a100-80gb",
    "NVIDIA A100 80GB PCIe": "a100-80gb",
    "NVIDIA H100 80GB HBM3": "h100-80gb",
    "NVIDIA H200": "h200",
    "NVIDIA L40S": "l40s",
    "NVIDIA RTX A6000": "a6000",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
    "NVIDIA GeForce RTX 3090": "rtx-3090",
}
"""A card's own name -> its name in `memory.GPUS`. Whole names: an H100 PCIe or a 3090 Ti has another peak."""

SAFE = 0.97
"""Of a GPU's memory, what a plan may fill: fragments fit nothing."""

WARMUP = 2
"""Steps that do not count: the first ones choose kernels and fill the allocator."""

TOLERANCE = 0.05
"""Nats between the losses of the two sides, in bfloat16 and, with LoRA, under another dropout."""


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@torch.no_grad()
def draw(model: nn.Module) -> None:
    """Weights from N(0, 0.02), each from a seed that its name in our state_dict decides; no biases."""
    from minillava.weights import ours

    for name, weight in model.named_parameters():
        name = ours(name.replace(".base_layer.", "."))
        if name.endswith("bias"):
            weight.zero_()
        elif (weight.ndim > 1 or name.endswith("class_embedding")) and ".lora_B." not in name:
            generator = torch.Generator(weight.device).manual_seed(zlib.crc32(name.encode()))
            weight.normal_(0, 0.02, generator=generator)


def samples(config, length: int, count: int, dtype: torch.dtype) -> list[dict[str, Tensor]]:
    """One picture and then words, of which the last two thirds are learned; no padding on either side."""
    vision, generator = config.vision_config, torch.Generator().manual_seed(0)
    patches = (vision.image_size // vision.patch_size) ** 2
    found = []
    for _ in range(count):
        ids = torch.randint(3, min(600, config.image_token_id), (length,), generator=generator)
        ids[1 : 1 + patches] = config.image_token_id
        labels = ids.clone()
        labels[: patches + (length - patches) // 3] = IGNORE_INDEX
        pixels = torch.randn(3, vision.image_size, vision.image_size, generator=generator)
        ones = torch.ones_like(ids)
        found.append({"input_ids": ids, "labels": labels, "attention_mask": ones, "pixel_values": pixels})
    return [sample | {"pixel_values": sample["pixel_values"].to(dtype)} for sample in found]


def train_ours(
    config, stage: StageConfig, data: list[dict], steps: int, size: int, strategy: str
) -> tuple[nn.Module, list, list]:
    """Our stage under Lightning, set up as `train_stage` does; checkpoints and files left out."""
    from lightning import Trainer
    from torch.utils.data import DataLoader, default_collate
    from versus.hf import watched

    from minillava import lora
    from minillava.model import MiniLlava
    from minillava.parallel import choose
    from minillava.training import FeatureCache, Stage, settings_kept

    with torch.device(device()):
        model = MiniLlava(config).train()
    if stage.lora:
        lora.adapt(model, stage.lora)
    draw(model)

    def collate(rows: list[dict]) -> dict:
        return {"ids": ["sample"] * len(rows), "image_keys": []} | default_collate(rows)

    engine = Trainer(
        accelerator="auto",
        devices=1,
        strategy=choose(stage, strategy, 1, 1),
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=stage.batch_size // size,
        precision=stage.precision,
        gradient_clip_val=stage.max_grad_norm,
        deterministic=True,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    with watched(model, wall) as (stamps, losses), settings_kept():
        engine.fit(
            Stage(model, stage, steps, FeatureCache(0)),
            DataLoader(data, batch_size=size, collate_fn=collate),
        )
    return model, stamps, losses


def train_peer(
    config, stage: StageConfig, data: list[dict], steps: int, size: int, strategy: str
) -> tuple[nn.Module, list, list]:
    """transformers' model under its Trainer: the same weights and precisions, peft where it is LoRA.

    The Trainer divides each pass's sum by the tokens of the whole step; here that is a pass's mean by passes.
    """
    import tempfile

    from transformers import LlavaForConditionalGeneration, default_data_collator
    from versus import hf

    from minillava.lora import TARGETS

    with torch.device(device()):
        model = LlavaForConditionalGeneration(config)
    hf.trains_as(model, stage)
    if stage.lora:
        import peft

        row = stage.lora
        settings = peft.LoraConfig(
            r=row.rank, lora_alpha=row.alpha, lora_dropout=row.dropout, target_modules=list(TARGETS)
        )
        model.model.language_model.requires_grad_(False)
        model.lm_head.requires_grad_(False)
        peft.inject_adapter_in_model(settings, model.model.language_model)
        model.train()
    draw(model)
    if stage.precision.endswith("mixed"):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    with tempfile.TemporaryDirectory() as folder, hf.watched(model, wall) as (stamps, losses):
        hf.fit(
            model,
            stage,
            data,
            default_data_collator,
            folder,
            steps,
            size,
            gradient_checkpointing=stage.activation_checkpointing,
            gradient_accumulation_steps=stage.batch_size // size,
        )
    return model, stamps, [loss * (stage.batch_size // size) for loss in losses]


def affordable(
    preset: str, stage: StageConfig, length: int, memory: float, strategy: str
) -> tuple[int, bool]:
    """(samples in a pass that fits, by plan, into `memory` bytes of one GPU; are its layers computed again?)

    The step is halved until it fits; where not even one sample does, layers are computed again and the pass
    is halved from where it was. Where nothing fits, it is one sample and recomputed.
    """
    from minillava.flops import Shapes
    from minillava.memory import Gpu, Setup, device_memory
    from minillava.shapes import meta_config, stage_size

    shapes, size = Shapes.of(meta_config(preset)), stage_size(preset, stage.name)
    card = Gpu("this one", memory, 0, 0, "")
    for again in (stage.activation_checkpointing, True):
        samples = stage.batch_size
        while samples:
            setup = Setup(card, 1, 1, strategy, again, samples, stage.compiled)
            if device_memory(shapes, size, stage, setup, length).peak <= SAFE * memory:
                return samples, again
            samples //= 2
    return 1, True


def one_side(args: argparse.Namespace, preset: str) -> dict:
    """Train one side in this process: did it fit, in which passes; its seconds a step, losses, peak bytes."""
    from minillava.flops import Shapes, sample_flops
    from minillava.shapes import meta_config

    length, batch = CASES[args.case]
    config, stage = meta_config(preset), PRESETS[preset].stages[args.case]
    if args.shapes == "tiny":
        length, batch = 96, 4
    stage = replace(stage, batch_size=batch, compiled=args.side == "compiled")
    size, again = args.size or batch, args.activation_checkpointing
    whole = "language_model" in stage.trains and not stage.lora
    strategy = "fsdp2" if whole and device() == "cuda" and args.side != "peer" else "auto"
    if device() == "cuda" and not args.size:
        total = torch.cuda.get_device_properties(0).total_memory
        size, again = affordable(preset, stage, length, total, strategy)
    if batch % size:
        raise SystemExit(f"A step of {args.case} has {batch} samples, which passes of {size} do not make.")
    stage = replace(stage, activation_checkpointing=again)
    used = {"pass": size, "recomputed": again}
    dtype = torch.bfloat16 if stage.precision.startswith("bf16") else torch.float32
    torch.set_default_dtype(dtype)
    steps, passes = WARMUP + args.steps + 1, batch // size
    data = samples(config, length, batch * steps, dtype)
    train = train_peer if args.side == "peer" else train_ours
    try:
        model, stamps, losses = train(config, stage, data, steps, size, strategy)
    except torch.OutOfMemoryError:
        return {"fits": False} | used
    stamps = stamps[WARMUP * passes :: passes]  # where steps begin
    adapters = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    flops = sample_flops(Shapes.of(config), length, 1, stage.trains, adapter_weights=adapters).model
    values = [loss.item() for loss in losses]
    return used | {
        "fits": True,
        "seconds": [b - a for a, b in zip(stamps, stamps[1:], strict=False)],
        "losses": [statistics.mean(values[i : i + passes]) for i in range(0, len(values), passes)],
        "peak_bytes": torch.cuda.max_memory_allocated() if device() == "cuda" else costs.peak_rss(),
        "tokens": length * batch,
        "flops": flops * batch,
    }


def machine_peak(dtype: torch.dtype) -> tuple[str, float, float | None]:
    """(name, FLOP/s of our own matrix product, the datasheet's if the card is in `memory.GPUS`)."""
    from minillava.memory import GPUS

    if device() == "cpu":
        return "CPU, one thread", costs.matmul_peak(dtype=dtype), None
    name = torch.cuda.get_device_name()
    peak = GPUS[CARDS[name]].bfloat16 if name in CARDS and dtype is torch.bfloat16 else None
    return name, costs.matmul_peak(8192, dtype=dtype, device="cuda"), peak


def compare(case: str, args: argparse.Namespace) -> dict:
    """All sides of one stage, `args.rounds` processes each, in turns."""
    options = ["--case", case, "--shapes", args.shapes, "--steps", str(args.steps)]
    options += ["--size", str(args.size)] if args.size else []
    options += ["--activation-checkpointing"] if args.activation_checkpointing else []
    runs: dict[str, list[dict]] = {side: [] for side in args.sides}
    for _ in range(args.rounds):
        for side, done in runs.items():
            done.append(costs.fresh(str(Path(__file__).resolve()), *options, "--side", side))
    found = {}
    for side, done in runs.items():
        found[side] = done[0] | {"fits": all(run["fits"] for run in done)}
        if found[side]["fits"]:
            found[side]["seconds"] = [run["seconds"] for run in done]
    peer = found.get("peer", {"fits": False})
    for side, run in found.items():
        if side != "peer" and run["fits"] and peer["fits"]:
            run["loss_gap"] = check_same_loss(run["losses"], peer["losses"], TOLERANCE)
            run["ratio"] = vars(ratio_of_runs(peer["seconds"], run["seconds"]))
    return found


def rows(found: dict, peak: float) -> str:
    lines = [["stage", "side", "a pass", "tokens/s", "MFU", "peak memory", "times as fast (95 %)"]]
    for case, sides in found.items():
        for side, run in sides.items():
            used = f"{run['pass']} samples{', layers computed again' * run['recomputed']}"
            if not run["fits"]:
                lines.append([case, SIDES[side], used, "does not fit", "", "", ""])
                continue
            seconds = statistics.median(sum(run["seconds"], []))
            faster = str(Ratio(**run["ratio"])) if "ratio" in run else ""
            mfu = f"{100 * run['flops'] / seconds / peak:.1f} %"
            held = f"{run['peak_bytes'] / 1e9:.1f} GB"
            lines.append([case, SIDES[side], used, f"{run['tokens'] / seconds:.0f}", mfu, held, faster])
    return table.rows(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shapes", choices=("7b", "tiny"), default="7b")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=10, help="measured steps of a run; default: 10")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each side; default: 2")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--size", type=int, help="samples in a pass; default: as many as fit")
    parser.add_argument("--activation-checkpointing", action="store_true", help="on both sides")
    parser.add_argument("--folder", type=Path, default=Path("runs/gpu"), help="default: runs/gpu")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if device() == "cpu":
        torch.set_num_threads(1)
        if args.shapes == "7b":
            raise SystemExit(
                "No GPU was found, so nothing was measured: LLaVA-1.5-7B needs one. "
                "`--shapes tiny` tries the same steps here."
            )
    preset = {"7b": "llava-1.5-7b", "tiny": "tiny"}[args.shapes]
    if args.side:
        print("\n" + json.dumps(one_side(args, preset)))
        return
    found = {case: compare(case, args) for case in args.cases}
    name, measured, datasheet = machine_peak(torch.bfloat16 if args.shapes == "7b" else torch.float32)
    source = "the datasheet's" if datasheet else "a matrix product's, measured here"
    text = (
        f"On {name}; MFU of {(datasheet or measured) / 1e12:.2f} TFLOP/s, {source} "
        f"(a matrix product reaches {measured / 1e12:.2f}).\n\n{rows(found, datasheet or measured)}"
    )
    args.folder.mkdir(parents=True, exist_ok=True)
    numbers = {"gpu": name, "matmul": measured, "datasheet": datasheet, "cases": found}
    (args.folder / "gpu.json").write_text(json.dumps(numbers | {"load": os.getloadavg()[0]}, indent=1))
    (args.folder / "gpu.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
