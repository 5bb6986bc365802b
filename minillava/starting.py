"""What `minillava train` starts from: a model, records that have been looked at, and what to watch."""

import json
import os
from argparse import Namespace as Arguments
from itertools import islice
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from minillava import checkpoints, data
from minillava.config import DATA, Preset, StageConfig
from minillava.doctor import need
from minillava.model import MiniLlava
from minillava.records import Records, first_question, less, load_records, text_problem
from minillava.saving import write_whole
from minillava.toybox import store
from minillava.weights import find_projector

LEFT_OUT = "MINILLAVA_LEFT_OUT_"
"""What environment variables begin with that name a file of record numbers."""


def is_first() -> bool:
    """Is this the first of the processes that run this command, or the only one?"""
    return rank_zero_only.rank == 0


def say(text: str) -> None:
    """Print once, however many processes run this."""
    if is_first():
        print(text)


def model_of(preset: Preset, stage: StageConfig, args: Arguments) -> MiniLlava:
    """`--from`: a whole model, or a projector for the preset's bases; stage 2 begins with stage 1's."""
    start = Path(args.start) if args.start else None
    if start is None and "language_model" in stage.trains:
        start = args.run_dir / "stage1"
        if not (start / "projector.safetensors").is_file():
            raise FileNotFoundError(
                f"{stage.name} goes on where stage 1 ended, but {start} has no "
                f"projector.safetensors. First: minillava train stage1 --run-dir {args.run_dir} "
                f"--preset {preset.name} (or say --from FOLDER)."
            )
    projector = find_projector(start) if start and start.exists() else None
    if start and not projector:
        need(args.start)
        return checkpoints.load(args.start)
    need(preset.vision_tower, preset.language_model)
    model = checkpoints.from_bases(
        preset.vision_tower,
        preset.language_model,
        projector_type=preset.projector,
        seed=args.seed,
        select_layer=preset.select_layer,
        dtype=torch.bfloat16 if stage.precision.startswith("bf16") else torch.float32,
    )
    if projector:
        checkpoints.load_projector(model, projector)
    return model


def records_of(preset: Preset, stage: StageConfig, args: Arguments, model: MiniLlava) -> Records:
    """The records of `--data`, or Toybox's where the preset's bases were made from Toybox."""
    if args.data:
        return _audited(load_records(args.data, skip=say if args.skip_broken else None), stage, args, model)
    if Path(preset.language_model).parent != DATA:
        raise ValueError(
            f"The preset {preset.name} has no data of its own: give --data FILE (LLaVA's JSON) and "
            "--image-root FOLDER."
        )
    make = store.captions if stage.template == "plain" else store.instructions
    return _audited(make("train", stage.samples, args.seed), stage, args, model)


def watched(stage: StageConfig, args: Arguments, model: MiniLlava) -> tuple[Records | None, list]:
    """The records of `--validation`, and where the stage learns to answer the first questions of two."""
    if not args.validation:
        return None, []
    records = load_records(args.validation, skip=say if args.skip_broken else None)
    records = _audited(records, stage, args, model, "validation-")
    each = (records[index] for index in range(len(records) if stage.template != "plain" else 0))
    asked = (first_question(record, args.image_root) for record in each if not text_problem(record))
    return records, list(islice((one for one in asked if one[1].strip()), 2))


def _audited(
    records: Records, stage: StageConfig, args: Arguments, model: MiniLlava, kind: str = ""
) -> Records:
    """The records, looked at before training: by the first process, or by all that have to skip some. Those
    that Lightning starts once the first one is through find in their environment what it left out."""
    if args.no_audit or not (is_first() or args.skip_broken):
        return records
    left_out = f"{LEFT_OUT}{kind.upper().replace('-', '_')}"
    if left_out in os.environ and not is_first():
        return less(records, json.loads(Path(os.environ[left_out]).read_text()))

    report = data.audit(
        records,
        args.image_root,
        model.tokenizer,
        stage.template,
        model.num_image_tokens,
        stage.max_length,
        progress=is_first(),
    )
    say(f"{kind.replace('-', ': ')}{report}")
    if is_first() and (report.problems or report.notes):
        file = args.run_dir / stage.name / f"{kind}audit.json"
        _write(file, report.to_dict())
        print(f"All of them, by id: {file}")
    broken = len({problem.index for problem in report.problems})
    if broken == report.records:
        raise ValueError(f"None of {report.records} records can be trained on; see above.")
    if not broken or args.skip_broken:
        if is_first() and args.skip_broken:
            file = args.run_dir / stage.name / f"{kind}left-out.json"
            _write(file, sorted({problem.index for problem in report.problems}))
            os.environ[left_out] = str(file)
        return report.without_problems(records)
    raise ValueError(
        f"{broken} of {report.records} records cannot be trained on; they are listed above. Repair "
        "them, or leave them out with --skip-broken."
    )


def _write(file: Path, content: dict | list) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(content, indent=2) + "\n")


def forget() -> None:
    """Leave nothing in the environment of what was left out."""
    for name in [name for name in os.environ if name.startswith(LEFT_OUT)]:
        del os.environ[name]
