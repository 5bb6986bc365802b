"""Checkpoints of a running stage, whole or not at all: a kill or a full disk leaves the one before.

Lightning writes to the system's temporary folder and moves from there, which on another disk is a copy: one
that is cut off takes the last good checkpoint with it. Here the new one is written beside the old one,
flushed, and renamed.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.distributed.checkpoint.api import CheckpointException

from minillava.checkpoints import flush
from minillava.weights import first_line

UNFINISHED, BEFORE = "unfinished", "before"
"""Ends of the names, beside the checkpoint's own, of the one being written and of the one it replaces."""


class WholeFile(TorchCheckpointIO):
    """Lightning's file of a checkpoint. A failed save raises OSError and leaves the file as it was."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options=None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(path) as new:
            torch.save(checkpoint, new)
            flush(new)
            os.replace(new, path)

    def load_checkpoint(self, path: str | Path, *args, **options) -> dict[str, Any]:
        """Raises ValueError for a folder of shards, and for a file that is cut off."""
        if Path(path).is_dir():
            raise ValueError(
                f"{path} was made by fsdp2, in shards: go on with that (--strategy fsdp2), on any number of "
                "devices, or start anew in another run folder."
            )
        try:
            return super().load_checkpoint(path, *args, **options)
        except (EOFError, RuntimeError, UnpicklingError) as error:
            raise ValueError(
                f"{path} is damaged ({first_line(error)}): delete {path} to start anew."
            ) from error


def write_whole(path: Path, text: str) -> None:
    """A text file that is the old one or the new one, whenever it is read."""
    new = beside(path, UNFINISHED)
    new.write_text(text, encoding="utf-8", newline="")
    os.replace(new, path)


def beside(path: Path, end: str) -> Path:
    """`run/last.ckpt` -> `run/.last.ckpt.<end>`"""
    return path.with_name(f".{path.name}.{end}")


@contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Where to write what is to become `path`; a failure empties it again and says what is left.

    Raises OSError.
    """
    new = beside(path, UNFINISHED)
    remove(new)  # of a process that was killed
    try:
        yield new
    except (OSError, RuntimeError, CheckpointException) as error:  # of a full disk torch makes all three
        remove(new)
        if isinstance(error, CheckpointException):
            error, _ = next(iter(error.failures.values()))
        left = "The one saved before is whole" if path.exists() else "None was saved before"
        raise OSError(
            f"The checkpoint {path} could not be saved ({str(error).splitlines()[0]}). {left}. Is the disk "
            "full? Make room; the same command goes on from the last checkpoint."
        ) from error


def replace_folder(new: Path, path: Path) -> None:
    """Let folder `new` take the place of `path`. Killed in between, `recover` brings `path` back."""
    for file in new.iterdir():
        flush(file)
    before = beside(path, BEFORE)
    remove(before)
    if path.exists():
        path.rename(before)
    new.rename(path)
    remove(before)


def recover(path: Path, first: bool = True) -> Path | None:
    """The checkpoint to go on from, if there is one; of several processes the first puts it in its place."""
    before = beside(path, BEFORE)
    if path.exists() or not before.exists():
        return path if path.exists() else None
    if first:
        before.rename(path)
    return path


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)  # of several processes each may be at it
    else:
        path.unlink(missing_ok=True)
