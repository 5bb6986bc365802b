"""The training loop of both bases: it shows where it stands, and goes on after an interruption."""

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minillava.pretrain.muon import Muon


@dataclass(frozen=True)
class Schedule:
    """Learning rate over `steps`: a short warm-up, flat, then down to 2 % over the last `cooldown`."""

    steps: int
    peak: float = 2e-3
    warmup: int = 50
    cooldown: float = 0.4

    def __call__(self, step: int) -> float:
        left = (self.steps - step) / (self.cooldown * self.steps)
        return self.peak * min(1.0, (step + 1) / self.warmup) * max(0.02, min(1.0, left))


def muon_and_adamw(module: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the weight matrices inside the layers, AdamW for embeddings, norms, biases and heads."""
    hidden = [p for n, p in module.named_parameters() if p.ndim == 2 and ".layers." in n]
    others = [p for n, p in module.named_parameters() if p.ndim != 2 or ".layers." not in n]
    return [Muon(hidden), torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)]


def fit(
    module: nn.Module,
    loss: Callable[[int], Tensor],
    optimizers: list[torch.optim.Optimizer],
    schedule: Schedule,
    folder: Path,
    name: str,
    save_every: int = 100,
    watch: Callable[[int], str] | None = None,
) -> dict:
    """Minimize `loss(step)` over the schedule; `loss` draws its own batch from the step's number.

    Writes `curve.csv` and a checkpoint into `folder` every `save_every` steps, and goes on from the
    checkpoint if there is one. `watch` is called at each checkpoint; its text goes to the log.
    Returns steps, seconds of training, and the loss at each checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "checkpoint.pt"
    start, seconds, curve = 0, 0.0, []
    if file.is_file():
        state = torch.load(file, weights_only=True)
        module.load_state_dict(state["module"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start, seconds, curve = state["step"], state["seconds"], state["curve"]
    begun, average = time.perf_counter() - seconds, None
    module.train()
    bar = tqdm(range(start, schedule.steps), initial=start, total=schedule.steps, desc=name)
    for step in bar:
        value = loss(step)
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
            optimizer.step()
            optimizer.zero_grad()
        average = value.item() if average is None else 0.95 * average + 0.05 * value.item()
        if not average < float("inf"):
            raise FloatingPointError(f"{name}: the loss is {value.item()} at step {step}.")
        bar.set_postfix(loss=f"{average:.3f}", refresh=False)
        if (step + 1) % save_every == 0 or step + 1 == schedule.steps:
            curve.append((step + 1, round(average, 4)))
            seconds = time.perf_counter() - begun
            state = {
                "module": module.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step + 1,
                "seconds": seconds,
                "curve": curve,
            }
            torch.save(state, file.with_suffix(".partial"))
            file.with_suffix(".partial").replace(file)
            if watch:
                tqdm.write(f"{name} step {step + 1}, {seconds:.0f} s: {watch(step + 1)}")
                module.train()
    with (folder / "curve.csv").open("w", newline="") as out:
        csv.writer(out).writerows([("step", "loss"), *curve])
    return {"steps": schedule.steps, "seconds": round(seconds), "curve": curve}
