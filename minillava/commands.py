"""What each command of `minillava …` does: find the pieces, call the function, print what came of it.

Everything heavy is imported inside the functions, so that `minillava --help` answers at once.
"""

import json
import os
import textwrap
from argparse import Namespace as Arguments
from itertools import islice
from pathlib import Path

from minillava.config import DATA, PRESETS, Preset, StageConfig


def _need(*names: str | Path) -> None:
    """Raise FileNotFoundError, with the command that makes it, for a shipped folder that is not there."""
    from minillava.doctor import SHIPPED

    for name in names:
        folder = Path(PRESETS[name].finished if name in PRESETS else name)
        if folder.parent == DATA and folder.name in SHIPPED and not folder.is_dir():
            raise FileNotFoundError(
                f"There is no {folder}. Restore it from the repository, or make it: {SHIPPED[folder.name]}"
            )


def _threads(args: Arguments) -> None:
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # else Lightning deals the cores to its processes


def _load(args: Arguments, device=None):
    """The model of `--model`, by default on the GPU if there is one."""
    _need(args.model)
    from minillava import checkpoints
    from minillava.device import usable

    return checkpoints.load(args.model, base=args.base).to(device or usable())


LEFT_OUT = "MINILLAVA_LEFT_OUT_"
"""What environment variables begin with that name a file of record numbers."""


def _write_json(file: Path | None, content: dict | list) -> None:
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n")


def reproduce(args: Arguments) -> None:
    preset = PRESETS[args.preset]
    _need(preset.vision_tower, preset.language_model)
    _threads(args)
    import torch

    from minillava.reproduce import reproduce as run

    alone = args.fast_dev_run or torch.accelerator.is_available() or torch.get_num_threads() == 1
    processes = args.processes or (1 if alone else 2)
    options = {"seed": args.seed, "fast_dev_run": args.fast_dev_run, "processes": processes}
    run(args.run_dir, preset.name, **options)


def pretrain(args: Arguments) -> None:
    _threads(args)
    from minillava.pretrain.clip import pretrain_clip
    from minillava.pretrain.corpus import vocabulary_corpus
    from minillava.pretrain.language import pretrain_language
    from minillava.pretrain.tokenizer import train_tokenizer

    make, name = {
        "clip": (pretrain_clip, "tiny-clip"),
        "lm": (pretrain_language, "tiny-vicuna"),
    }[args.base]
    folder = args.folder or Path("runs/bases", name)
    folder.mkdir(parents=True, exist_ok=True)
    make(folder, train_tokenizer(vocabulary_corpus()), seed=args.seed)
    print(f"{name} is in {folder}; how it was made and what it can do: {folder / 'README.md'}.")


def train(args: Arguments) -> None:
    _threads(args)
    from minillava.training import split_batch, train_stage

    preset = PRESETS[args.preset]
    stage = preset.stage(args.stage)
    split_batch(stage, args.device_batch, args.devices * args.nodes)  # before minutes of loading and audit
    model = _starting_model(preset, stage, args)
    records = _audited(_records(preset, stage, args), model, stage, args)
    validation, probes = _watched(model, stage, args)
    try:
        result = train_stage(
            model,
            stage,
            records,
            args.run_dir,
            validation=validation,
            probes=probes,
            image_root=args.image_root,
            device_batch=args.device_batch,
            num_workers=args.workers,
            skip_broken=args.skip_broken,
            max_steps=args.max_steps,
            save_every=args.save_every,
            seed=args.seed,
            weighing=args.weighing or stage.weighing,
            activation_checkpointing=args.activation_checkpointing,
            compiled=args.compile,
            trainer={"devices": args.devices, "num_nodes": args.nodes, "strategy": args.strategy},
        )
    finally:
        for name in [name for name in os.environ if name.startswith(LEFT_OUT)]:
            del os.environ[name]
    _, losses = result.curve["train"]
    fall = f", loss {losses[0]:.3f} -> {losses[-1]:.3f}" if losses else ""
    _say(f"{stage.name}: {result.steps} steps in {result.seconds:.0f} s{fall}.")
    if result.skipped:
        _say(f"{result.skipped} records broke and were left out: {result.folder / 'skipped.txt'}")
    _say(f"In {result.folder}: {', '.join(sorted(p.name for p in result.folder.iterdir()))}")


def _is_first() -> bool:
    """Is this the first of the processes that run this command, or the only one?"""
    from lightning.pytorch.utilities import rank_zero_only

    return rank_zero_only.rank == 0


def _say(text: str) -> None:
    """Print once, however many processes run this."""
    if _is_first():
        print(text)


def _starting_model(preset: Preset, stage: StageConfig, args: Arguments):
    """`--from`: a whole model, or a projector for the preset's bases; stage 2 begins with stage 1's."""
    from minillava import checkpoints
    from minillava.weights import find_projector

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
        _need(args.start)
        return checkpoints.load(args.start)
    _need(preset.vision_tower, preset.language_model)
    import torch

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


def _records(preset: Preset, stage: StageConfig, args: Arguments):
    """The records of `--data`, or Toybox's where the preset's bases were made from Toybox."""
    if args.data:
        from minillava.records import load_records

        return load_records(args.data, skip=_say if args.skip_broken else None)
    if Path(preset.language_model).parent != DATA:
        raise ValueError(
            f"The preset {preset.name} has no data of its own: give --data FILE (LLaVA's JSON) and "
            "--image-root FOLDER."
        )
    from minillava.toybox import store

    make = store.captions if stage.template == "plain" else store.instructions
    return make("train", stage.samples, args.seed)


def _watched(model, stage: StageConfig, args: Arguments) -> tuple:
    """The records of `--validation`, and where the stage learns to answer the first questions of two."""
    if not args.validation:
        return None, []
    from minillava.records import first_question, load_records, text_problem

    records = _audited(load_records(args.validation), model, stage, args, "validation-")
    each = (records[index] for index in range(len(records) if stage.template != "plain" else 0))
    sound = islice((record for record in each if not text_problem(record)), 2)
    return records, [first_question(record, args.image_root) for record in sound]


def _audited(records, model, stage: StageConfig, args: Arguments, kind: str = ""):
    """The records, looked at before training: by the first process, or by all that have to skip some. Those
    that Lightning starts once the first one is through find in their environment what it left out."""
    if args.no_audit or not (_is_first() or args.skip_broken):
        return records
    from minillava.data import audit
    from minillava.records import less

    left_out = f"{LEFT_OUT}{kind.upper().replace('-', '_')}"
    if left_out in os.environ and not _is_first():
        return less(records, json.loads(Path(os.environ[left_out]).read_text()))

    report = audit(
        records,
        args.image_root,
        model.tokenizer,
        stage.template,
        model.num_image_tokens,
        stage.max_length,
        progress=_is_first(),
    )
    _say(str(report))
    if _is_first() and (report.problems or report.notes):
        file = args.run_dir / stage.name / f"{kind}audit.json"
        _write_json(file, report.to_dict())
        print(f"All of them, by id: {file}")
    broken = len({problem.index for problem in report.problems})
    if broken == report.records:
        raise ValueError(f"None of {report.records} records can be trained on; see above.")
    if not broken or args.skip_broken:
        if _is_first() and args.skip_broken:
            file = args.run_dir / stage.name / f"{kind}left-out.json"
            _write_json(file, sorted({problem.index for problem in report.problems}))
            os.environ[left_out] = str(file)
        return report.without_problems(records)
    raise ValueError(
        f"{broken} of {report.records} records cannot be trained on; they are listed above. Repair "
        "them, or leave them out with --skip-broken."
    )


def plan(args: Arguments) -> None:
    from dataclasses import replace

    from minillava.plan import CPU, plan_stage, workload

    preset = PRESETS[args.preset]
    given = {"length": args.length, "longest": args.longest}
    given = {name: value for name, value in given.items() if value is not None}
    work = workload(preset, preset.stage(args.stage))
    if given:
        source = f"{work.source}; {', '.join(given)} as given"
        texts = min(work.text_length, given.get("longest", work.longest))
        work = replace(work, **given, text_length=texts, source=source)
    usual = 1 if args.gpu.lower() == CPU else 8
    found = plan_stage(
        preset,
        args.stage,
        args.gpu,
        usual if args.devices is None else args.devices,
        args.nodes,
        args.strategy,
        args.checkpointing,
        args.compile,
        args.micro_batch,
        args.mfu,
        args.samples,
        work,
    )
    print(found)
    _write_json(args.json, found.to_dict())
    found.raise_if_too_large()


def evaluate(args: Arguments) -> None:
    _threads(args)
    from minillava.evaluation import evaluate as run
    from minillava.evaluation import seeds
    from minillava.evaluation.toybox import BASELINES

    baselines = BASELINES if args.baselines is None else args.baselines
    options = {"types": args.types, "baselines": baselines, "limit": args.limit}
    reports = []
    for model in args.models:
        loaded = _load(Arguments(model=model, base=args.base))
        reports.append(run(loaded, args.split, **options, processes=args.processes))
    print(reports[0].to_markdown() if len(reports) == 1 else seeds.to_markdown(reports))
    found = [report.to_dict() for report in reports]
    _write_json(args.json, found[0] if len(found) == 1 else found)


def ask(args: Arguments) -> None:
    print(_load(args).answer(args.image, args.question, max_new_tokens=args.max_new_tokens))


def attend(args: Arguments) -> None:
    if args.out.suffix == ".html":
        raise ValueError(f"--out names the PNG; the page is put beside it. Not {args.out}, but .png.")
    if args.out.resolve() == Path(args.image).resolve():
        raise ValueError(f"The map would replace the picture {args.image}. Name another file with --out.")
    model = _load(args)
    from minillava.attend import attend as run

    options = {"word": args.word, "layer": args.layer, "head": args.head, "methods": args.methods}
    options["max_new_tokens"] = args.max_new_tokens
    found = run(model, args.image, args.question, args.out, **options)
    top, padding = found["strongest"], found["padding_mass"]
    beside = f" and {padding:.1%} on its padding" if padding else ""
    grid = len(found["heat"])  # counted from one, as the page does; the JSON has indices into `heat`
    where = f"row {top['row'] + 1}, column {top['column'] + 1} of {grid}, pixels {top['box']}"
    print(found["answer"])
    print(f"{found['word']!r}, layers {found['layers']}, heads {found['heads']}: ", end="")
    print(f"{found['image_mass']:.1%} of the attention is on the picture{beside},")
    print(f"{top['share']:.1%} on its strongest patch, {where}.")
    page = args.out.with_suffix(".html")
    print(f"The map is in {args.out}, and each word's in {page}: open it in a browser.")
    _write_json(args.json, found)


def inspect(args: Arguments) -> int:
    _need(args.model)
    from minillava import checkpoints, weights
    from minillava.inspection import sample
    from minillava.records import audit, load_records

    folder = weights.find(args.model, tensors=False)
    config = checkpoints.read_config(folder)
    tokenizer = checkpoints.read_tokenizer(folder, config.image_token_id)
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    records = load_records(args.data)
    if args.index is None:
        options = {"max_length": args.max_length, "progress": True}
        report = audit(records, args.image_root, tokenizer, args.template, patches, **options)
        print(report)
        _write_json(args.json, report.to_dict())
        return 1 if report.problems or not report.records else 0
    if not 0 <= args.index < len(records):
        raise ValueError(f"{args.data} has records 0 to {len(records) - 1}, not {args.index}.")
    shown = sample(
        records[args.index], tokenizer, patches, args.template, args.image_root, args.max_length, args.index
    )
    print(shown)
    if args.html:
        args.html.parent.mkdir(parents=True, exist_ok=True)
        args.html.write_text(shown.page(), encoding="utf-8")
        print(f"The same with its pictures, for a browser: {args.html}")
    return 0


def check(args: Arguments) -> int:
    from minillava.published import check_layout

    found = check_layout(args.folder, args.set, args.image_root, progress=True)
    print(found)
    _write_json(args.json, found.to_dict())
    return 1 if found.problems else 0


def convert(args: Arguments) -> int:
    from minillava.convert import convert as run

    done = run(
        args.source,
        args.target,
        args.image_root,
        args.pictures,
        skip_broken=args.skip_broken,
        progress=True,
        shard_records=args.shard_records,
    )
    print(f"{done}\nThey are in {args.target}{f', the pictures in {args.pictures}' * bool(args.pictures)}.")
    return 0 if done.records else 1


def toybox(args: Arguments) -> None:
    from minillava.plots import contact_sheet
    from minillava.toybox import domain, mix, records

    domains = {row.domain.name: row.domain for row in mix.STAGE_2}
    if args.domain not in domains:
        raise ValueError(f"Toybox has no domain {args.domain!r}. Choose one of {', '.join(domains)}.")
    one = domains[args.domain]
    made = [domain.specimen(one, args.split, index, args.seed) for index in range(args.number)]
    for index in range(args.number):
        record = records.record(one, "questions", args.split, index, args.seed)
        print(record["id"])
        for turn in record["conversations"]:
            print(textwrap.indent(f"{turn['from']:>5}: {turn['value']}", "  "))
    figure = contact_sheet([one.draw(shown) for shown in made], [one.captions(shown)[0] for shown in made])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(figure.png())
    print(f"{args.number} pictures are in {args.out}.")


def export(args: Arguments) -> None:
    model = _load(args, "cpu")  # which may have more room than the GPU
    from minillava import checkpoints

    folder = checkpoints.export(model, args.folder)
    print(f"{folder}: transformers.LlavaForConditionalGeneration opens it.")


def doctor(args: Arguments) -> int:
    from minillava.doctor import examine

    found = examine()
    print("\n".join(found.lines))
    return 1 if found.missing else 0
