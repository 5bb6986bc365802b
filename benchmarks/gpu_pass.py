"""One pass of a stage at LLaVA-1.5-7B's shapes on one GPU: forward and backward, with nothing around them.

    python benchmarks/gpu_pass.py stage1            # 16 samples of 600 positions
    python benchmarks/gpu_pass.py stage2 --size 4   # 4 of 820, in fsdp2's shards, and AdamW's step

Milliseconds, MFU and peak memory as the layers come and compiled, random weights; then the kernels that take
longest. What Lightning and the data add is in `gpu.py`, beside transformers.
"""

import argparse
import os
import statistics
from collections.abc import Callable

import gpu
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import default_collate
from versus.timing import wall

ROUNDS = 4
"""Passes of which the median counts, after two that do not."""


def timed(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median seconds of one run."""
    seconds = []
    for round_ in range(-2, rounds):
        started = wall()
        run()
        if round_ >= 0:
            seconds.append(wall() - started)
    return statistics.median(seconds)


def kernels(run: Callable[[], object], most: int) -> str:
    """The kernels of one run that take longest, with milliseconds and how many there are."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        run()
        torch.cuda.synchronize()
    events = [e for e in found.key_averages() if e.device_type.name == "CUDA"]
    events.sort(key=lambda event: -event.self_device_time_total)
    rows = [(e.self_device_time_total / 1e3, e.count, e.key[:90]) for e in events[:most]]
    return "\n".join("{:8.1f} ms {:5} {}".format(*row) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stage", choices=("stage1", "stage2"))
    parser.add_argument("--size", type=int, default=16, help="samples in the pass; default: %(default)s")
    parser.add_argument("--kernels", type=int, default=20, metavar="N", help="list as many; default: 20")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("No GPU was found, so nothing was measured: LLaVA-1.5-7B needs one.")

    from torch.distributed.device_mesh import init_device_mesh

    from minillava.config import PRESETS
    from minillava.decoder import compile_layers
    from minillava.flops import Shapes, sample_flops
    from minillava.model import MiniLlava
    from minillava.optimization import lift
    from minillava.parallel import shard
    from minillava.shapes import meta_config
    from minillava.training import FeatureCache, Stage, settings_kept

    config, stage = meta_config("llava-1.5-7b"), PRESETS["llava-1.5-7b"].stage(args.stage)
    length, _ = gpu.CASES[args.stage]
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = MiniLlava(config).train()
    gpu.draw(model)
    module = Stage(model, stage, 100, FeatureCache(0))
    if args.stage == "stage1":
        lift(model)
    else:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "RANK": "0", "WORLD_SIZE": "1"}
        torch.distributed.init_process_group("nccl")
        shard(model, init_device_mesh("cuda", (1,)), stage.precision, lift)
    optimizer = module.configure_optimizers()["optimizer"]
    batch = default_collate(gpu.samples(config, length, args.size, torch.bfloat16))
    batch = {name: tensor.cuda() for name, tensor in batch.items()} | {"image_keys": []}
    flops = args.size * sample_flops(Shapes.of(config), length, 1, stage.trains).model
    name, measured, datasheet = gpu.machine_peak(torch.bfloat16)
    peak = datasheet or measured

    def one_pass() -> None:
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            loss = module.loss(batch)
        loss.backward()

    print(f"{name}: {args.size} samples of {length} positions, MFU of {peak / 1e12:.0f} TFLOP/s")
    with settings_kept():
        torch.use_deterministic_algorithms(True)
        for layers in ("as they come", "compiled"):
            if layers == "compiled":
                compile_layers(model.language_model)
            one_pass()
            optimizer.step()  # so that AdamW's averages are there as memory is counted
            torch.cuda.reset_peak_memory_stats()
            seconds, step = timed(one_pass), timed(optimizer.step)
            held = torch.cuda.max_memory_allocated()
            print(
                f"\nlayers {layers}: {1e3 * seconds:.0f} ms, MFU {100 * flops / seconds / peak:.1f} %, "
                f"{held / 1e9:.1f} GB; AdamW's step {1e3 * step:.0f} ms\n{kernels(one_pass, args.kernels)}"
            )


if __name__ == "__main__":
    main()
