"""One stage as `train_stage` runs it on one or on two processes; as a program, `processes.py FOLDER JOBS`."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from minillava import checkpoints, training
from minillava.config import PRESETS

STAGE = replace(PRESETS["tiny"].stages["stage2"], batch_size=4, max_length=512, epochs=99)


class Stop(training.FiniteLoss):
    """Ends a run early, as an interruption after a checkpoint would."""

    at = -1

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = trainer.global_step == self.at


def run(folder, name, devices=1, strategy="auto", stop=-1, steps=12, device_batch=2, **options):
    """Train `folder/base` on `folder/records.json`; leaves `folder/<name>/stage2`, and marks each export."""

    def save(model, where, weights=None):
        with (folder / name / "exports").open("a") as file:
            file.write("x")
        return usual_save(model, where, weights)

    Stop.at = stop
    usual, usual_save = training.FiniteLoss, checkpoints.save
    training.FiniteLoss, checkpoints.save = Stop, save
    try:
        return training.train_stage(
            checkpoints.load(folder / "base"),
            replace(STAGE, **options.pop("stage", {})),
            folder / "records.json",
            folder / name,
            image_root=folder,
            device_batch=device_batch,
            max_steps=steps,
            save_every=6,
            trainer={"accelerator": "cpu", "devices": devices, "strategy": strategy},
            **options,
        )
    finally:
        training.FiniteLoss, checkpoints.save = usual, usual_save


if __name__ == "__main__":
    for job in json.loads(sys.argv[2]):
        run(Path(sys.argv[1]), **job)
