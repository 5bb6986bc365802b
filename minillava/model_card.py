"""The card beside a model that `reproduce` has made: how it was made, and what it can do."""

import os
import textwrap
from pathlib import Path

import torch
import transformers

from minillava.config import Preset
from minillava.pretrain.card import sha256


def write_model_card(folder: Path, preset: Preset, summary: dict, table: str) -> Path:
    """Write `README.md` into the model's folder, which holds its `model.safetensors`; returns its path.

    `summary` is what `reproduce` leaves in `summary.json`, `table` its report in Markdown. The card names the
    weights' hash, so that a damaged copy, or a second run that came to others, shows.
    """
    weights = folder / "model.safetensors"
    rows = "\n".join(
        f"| {name} | {stage['steps']:,} | {stage['seconds']:.0f} | {stage['val_loss'][-1]:.3f} |"
        for name, stage in summary["stages"].items()
    )
    f1, loss = summary["caption_f1"], summary["text_loss"]
    paragraphs = [
        f"# {Path(preset.finished).name}",
        f"Made by `minillava reproduce --preset {preset.name}` (seed {summary['seed']}) from "
        f"`{Path(preset.vision_tower).name}` and `{Path(preset.language_model).name}`, on Toybox alone "
        "(license: CC0-1.0). It knows that small world and nothing else.",
        f"| stage | steps | seconds | last validation loss (nats a token) |\n|---|---:|---:|---:|\n{rows}",
        f"{os.cpu_count()} CPU cores, threads: {summary['threads']}, {summary['seconds'] / 60:.1f} minutes "
        f"in all, {summary['peak_memory_gb']:.1f} GB where it trained; "
        f"torch {torch.__version__}, transformers {transformers.__version__}. Objects in captions of "
        f"stage 1: F1 {f1['before stage 1']:.2f} before it, {f1['after stage 1']:.2f} after. Loss on "
        f"held-out text, in nats: {loss['before stage 2']:.3f} before stage 2, "
        f"{loss['after stage 2']:.3f} after.",
        "Accuracy in percent on held-out questions, one seed; brackets: 95 % bootstrap interval over "
        'questions. "oracle" is the language model before stage 2, given the picture\'s caption in words (no '
        "caption tells boxes). Rows named after a domain are means over its short answers, rows "
        '"domain, kind" over another kind of conversation; how each type is scored is in '
        "`minillava/evaluation/scoring.py`.",
        table,
        f"`model.safetensors`: {weights.stat().st_size / 1e6:.1f} MB, sha256 `{sha256(weights)}`",
    ]
    card = folder / "README.md"
    card.write_text("\n\n".join(p if "|" in p else textwrap.fill(p, 116) for p in paragraphs) + "\n")
    return card
