"""The card beside each base's weights: what it is, how it was made, what it can do."""

import hashlib
import json
import os
import platform
import shutil
from pathlib import Path

import torch
import transformers


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def save_base(model, tokenizer, folder: Path, history: dict, card: tuple[str, str], scores: dict) -> dict:
    """Save a finished base with its tokenizer and card; its training checkpoints go. Returns `history`."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_card(folder, *card, history, scores)
    for checkpoints in folder.glob("training-*"):
        shutil.rmtree(checkpoints)
    return history


def write_card(folder: Path, title: str, command: str, history: dict, scores: dict[str, str]) -> Path:
    """Write `README.md` and `history.json` (loss curves) into `folder`.

    `history` is what `pretrain_clip` or `pretrain_language` returned, `scores` a table of what was measured
    ("what" to "how much"). The card names the weights' hash, so that a damaged copy shows.
    """
    weights = folder / "model.safetensors"
    (folder / "history.json").write_text(json.dumps(history) + "\n")
    phases = ""
    for name, row in history.items():
        first, last = row["curve"][0][1], row["curve"][-1][1]
        phases += f"| {name} | {row['steps']} | {row['seconds'] / 60:.0f} | {first} | {last} |\n"
    table = "\n".join(f"| {what} | {value} |" for what, value in scores.items())
    machine = f"{os.cpu_count()} CPU cores ({platform.machine()}), one thread"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    card = folder / "README.md"
    card.write_text(
        f"# {title}\n\n"
        f"Made from nothing by `{command}`, on Toybox alone (license: CC0-1.0).\n"
        "It knows that small world and nothing else.\n\n"
        f"| phase | steps | minutes | first loss | last loss |\n|---|---:|---:|---:|---:|\n{phases}\n"
        f"Machine: {machine}; {versions}. Curves: `history.json`.\n\n"
        f"| measured on held-out pictures and tellings | |\n|---|---:|\n{table}\n\n"
        f"`model.safetensors`: {weights.stat().st_size / 1e6:.1f} MB, sha256 `{sha256(weights)}`\n"
    )
    return card
