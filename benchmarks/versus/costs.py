"""What a figure alone does not tell: the machine's own peak, memory of a process, and the time to start."""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from versus.timing import interleaved, wall


def matrix_product(
    size: int = 1024, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[Callable[[], Tensor], int]:
    """(a product of two square matrices that can be run again and again, its FLOPs)."""
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    return partial(torch.mm, a, b), 2 * size**3


def matmul_peak(size: int = 1024, rounds: int = 5, dtype=torch.float32, device="cpu") -> float:
    """FLOP/s of the best of `rounds` square matrix products, by CPU time (on a GPU by the clock)."""
    product, flops = matrix_product(size, dtype, device)
    clock = time.process_time if device == "cpu" else wall
    return flops / min(interleaved({"product": product}, rounds, clock=clock)["product"])


def peak_rss() -> float:
    """Most bytes this process has held in memory.

    From Linux's own count: `ru_maxrss` begins at the peak of whoever started the process.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (kilobytes,) = (row.split()[1] for row in status.read_text().splitlines() if row.startswith("VmHWM"))
        return int(kilobytes) * 1024
    unit = 1024 if sys.platform != "darwin" else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fresh(*arguments: str) -> dict:
    """What a process of its own prints as its last line, JSON; RuntimeError with its words if it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


COMMANDS = {
    "`minillava --help`": ["-m", "minillava", "--help"],
    "`import minillava`": ["-c", "import minillava"],
    "`import minillava.training`": ["-c", "import minillava.training"],
    "`minillava.load('tiny')`": ["-c", "import minillava; minillava.load('tiny')"],
    "`from transformers import` model, processor, `Trainer`": [
        "-c",
        "from transformers import LlavaForConditionalGeneration, LlavaProcessor, Trainer",
    ],
}


def start_times(rounds: int = 3) -> dict[str, float]:
    """Median CPU seconds of fresh processes, by what they do; their files warm in the system's cache."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for round_ in range(-1, rounds):
        for name, arguments in COMMANDS.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(
                [sys.executable, *arguments],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=Path(__file__).resolve().parents[2],
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            if round_ >= 0:
                spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                seconds[name].append(spent)
    return {name: statistics.median(values) for name, values in seconds.items()}
