"""What can be seen of a training as it runs: the bar, the loss curve, sample answers, and a stop at NaN."""

import csv
import io
import itertools
import logging
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from minillava.saving import write_whole

# Lightning recommends its cloud services at the start of every stage, in red in a notebook. Which of the two
# loggers it speaks through depends on what was imported last.
for _part in ("pytorch", "fabric"):
    logging.getLogger(f"lightning.{_part}.utilities.rank_zero").addFilter(
        lambda record: "💡 Tip" not in record.getMessage()
    )


@contextmanager
def undisturbed() -> Iterator[None]:
    """Without the warning of Lightning's own code that torch 2.13 finds it out of date."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
        yield


class Progress(TQDMProgressBar):
    """A bar with the stage's name, the loss, samples a second, and the time left."""

    def __init__(self, name: str, batch_size: int):
        super().__init__(refresh_rate=5)
        self.name, self.batch_size = name, batch_size

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_start(trainer, module)
        self.started, self.first = time.perf_counter(), trainer.global_step

    def on_train_epoch_start(self, trainer: Trainer, *args) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(self.name)

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, str]:
        done = (trainer.global_step - self.first) * self.batch_size
        rate = done / (time.perf_counter() - self.started)
        loss = trainer.callback_metrics.get("loss", torch.tensor(float("nan")))
        return {"loss": f"{loss:.3f}", "samples/s": f"{rate:.1f}"}


class FiniteLoss(Callback):
    """Stops at the first loss or gradient that is not a number, before it reaches the weights.

    Names the samples of the step, and the last checkpoint: it is good, for nothing bad was ever saved.
    Of several processes the one that had those samples speaks first.
    """

    def __init__(self):
        self.ids: list[str] = []

    def on_train_batch_start(self, trainer: Trainer, module, batch: dict, batch_index: int) -> None:
        self.ids += batch["ids"]

    def on_before_backward(self, trainer: Trainer, module, loss: Tensor) -> None:
        self.check("loss", loss, trainer)

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer) -> None:
        norm = get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
        self.check("gradient's norm", norm.full_tensor() if isinstance(norm, DTensor) else norm, trainer)
        self.ids.clear()

    def check(self, what: str, value: Tensor, trainer: Trainer) -> None:
        """Raises FloatingPointError unless `value` is finite."""
        if not torch.isfinite(value):
            last = next((c.best_model_path for c in trainer.checkpoint_callbacks), "")
            raise FloatingPointError(
                f"The {what} is {value.item()} at step {trainer.global_step + 1}, with the samples "
                f"{', '.join(self.ids)}. Look at them with `minillava inspect`, or lower the "
                f"learning rate. The last good checkpoint is {last or 'none yet'}."
            )


class Skipped(Callback):
    """Keeps `skipped.txt`: the records that broke as training ran, where it was to go on without them."""

    def __init__(self, folder: Path):
        self.file = folder / "skipped.txt"

    def on_train_batch_end(self, trainer: Trainer, module, outputs, batch: dict, *args) -> None:
        if batch["skipped"]:
            with self.file.open("a", encoding="utf-8") as out:  # of several processes, too: whole lines
                out.writelines(f"step {trainer.global_step}: {reason}\n" for reason in batch["skipped"])

    def on_validation_batch_end(self, trainer: Trainer, module, outputs, batch: dict, *args) -> None:
        if batch["skipped"]:
            with self.file.open("a", encoding="utf-8") as out:
                out.writelines(f"validation: {reason}\n" for reason in batch["skipped"])

    def count(self) -> int:
        """How many; a step that an interruption has made twice counts once."""
        return len(set(self.file.read_text(encoding="utf-8").splitlines())) if self.file.is_file() else 0


class Curve(Callback):
    """Keeps `curve.csv` (step, split, loss, learning rate), and answers the probes as training runs.

    The rate is the step's, of the first group: the projector's, where it has its own. `seconds` is how long
    training has taken, over all its interruptions. After one, the rows and answers that the checkpoint had
    not seen yet are dropped and written again. Of several processes all count, with the mean of their
    losses, and the first one writes.
    """

    COLUMNS = ("step", "split", "loss", "learning_rate")

    def __init__(self, folder: Path, probes: list[tuple]):
        self.file, self.probes = folder / "curve.csv", probes
        self.answers = folder / "generations.txt"
        self.rows: list[tuple[int, str, float, float]] = []
        self.generations: list[tuple[str, str]] = []
        self.resumed_from = self._step = 0
        self.seconds, self._rate = 0.0, 0.0
        self._sums: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.resume(trainer)
        self._begun = time.perf_counter() - self.seconds

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.seconds = time.perf_counter() - self._begun

    def state_dict(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._begun}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.seconds = state["seconds"]

    def resume(self, trainer: Trainer) -> None:
        """Take over what the file holds so far; Lightning starts no training that is finished."""
        self.resumed_from = self._step = trainer.global_step
        if self.resumed_from and self.file.is_file():
            with self.file.open(newline="") as lines:
                rows = [r for r in csv.reader(lines) if len(r) == len(self.COLUMNS)]  # a kill cuts the last
            stored = [(int(step), split, float(loss), float(rate)) for step, split, loss, rate in rows[1:]]
            self.rows = [row for row in stored if row[0] <= self.resumed_from]
        trainer.strategy.barrier()  # all have read before the first one writes
        if trainer.is_global_zero:
            out = io.StringIO(newline="")
            csv.writer(out).writerows([self.COLUMNS, *self.rows])
            write_whole(self.file, out.getvalue())
            if self.answers.is_file():
                said = self.answers.read_text(encoding="utf-8").splitlines(True)
                write_whole(self.answers, "".join(self._seen(said)))

    def _seen(self, lines: list[str]) -> list[str]:
        """Of the lines of `generations.txt`, those up to the step of the checkpoint."""

        def later(line: str) -> bool:
            step = re.fullmatch(r"step (\d+)\n?", line)
            return step is not None and int(step[1]) > self.resumed_from

        return list(itertools.takewhile(lambda line: not later(line), lines))

    def _add(self, trainer: Trainer, split: str, loss: float) -> None:
        self.rows.append((trainer.global_step, split, loss, self._rate))
        if trainer.is_global_zero:
            with self.file.open("a", newline="") as out:
                csv.writer(out).writerow(self.rows[-1])

    def on_train_batch_start(self, trainer: Trainer, *args) -> None:
        self._rate = trainer.optimizers[0].param_groups[0]["lr"]  # at the end it is the next step's

    def on_train_batch_end(self, trainer: Trainer, module, outputs, *args) -> None:
        loss, weight = outputs["mean"], outputs["weight"]
        self._sums.append(torch.stack([loss * weight, weight.to(loss.dtype)]))
        trainer.callback_metrics["loss"] = loss
        if trainer.global_step > self._step:  # the passes so far made a step
            self._step = trainer.global_step
            loss, weight = trainer.strategy.reduce(torch.stack(self._sums).sum(dim=0), reduce_op="sum")
            self._sums.clear()
            self._add(trainer, "train", (loss / weight).item())

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.sanity_checking or "val" not in trainer.callback_metrics:
            return
        self._add(trainer, "val", trainer.callback_metrics["val"].item())
        if self.probes:
            images, questions = zip(*self.probes, strict=True)
            replies = module.model.answer_batch(images, questions, max_new_tokens=96)
            self.generations = list(zip(questions, replies, strict=True))
            if trainer.is_global_zero:
                with self.answers.open("a", encoding="utf-8") as out:
                    out.write(f"step {trainer.global_step}\n")
                    for question, reply in self.generations:  # whose further lines are no steps
                        out.write(f"  {question!r} -> {reply.replace(chr(10), chr(10) + '    ')}\n")

    def losses(self) -> dict[str, tuple[list[int], list[float]]]:
        """`{"train": (steps, losses), "val": (steps, losses)}`, losses in nats a token."""
        return {
            split: (
                [step for step, s, *_ in self.rows if s == split],
                [loss for _, s, loss, _ in self.rows if s == split],
            )
            for split in ("train", "val")
        }
