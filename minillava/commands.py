"""What each command of `minillava …` does: find the pieces, call the function, print what came of it.

Everything heavy is imported inside the functions, so that `minillava --help` answers at once.
"""

import json
import os
import textwrap
from argparse import Namespace as Arguments
from pathlib import Path

from minillava.config import PRESETS
from minillava.doctor import need


def _threads(args: Arguments) -> None:
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # else Lightning deals the cores to its processes


def _load(args: Arguments, device=None):
    """The model of `--model`, by default on the GPU if there is one."""
    need(args.model)
    from minillava import checkpoints
    from minillava.device import usable

    return checkpoints.load(args.model, base=args.base).to(device or usable())


def _output(file: Path | None, *read: str | Path | None, ending: str = "") -> None:
    """Before any work: can `file` be written, and is it none that is read? Raises ValueError or OSError."""
    if file is None:
        return
    if ending and file.suffix != ending:
        raise ValueError(f"--out names the PNG, so {file} is to end in {ending}.")
    if any(one and file.resolve() == Path(one).resolve() for one in read):
        raise ValueError(f"What is written would replace {file}, which is read. Name another file.")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder: name a file in it.")
    file.parent.mkdir(parents=True, exist_ok=True)


def _write_json(file: Path | None, content: dict | list) -> None:
    if file:
        file.write_text(json.dumps(content, indent=2) + "\n")


def reproduce(args: Arguments) -> None:
    preset = PRESETS[args.preset]
    need(preset.vision_tower, preset.language_model)
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
    from minillava import starting
    from minillava.training import split_batch, train_stage

    preset = PRESETS[args.preset]
    stage = preset.stage(args.stage)
    split_batch(stage, args.device_batch, args.devices * args.nodes)  # before minutes of loading and audit
    model = starting.model_of(preset, stage, args)
    try:
        records = starting.records_of(preset, stage, args, model)
        validation, probes = starting.watched(stage, args, model)
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
        starting.forget()
    _, losses = result.curve["train"]
    fall = f", loss {losses[0]:.3f} -> {losses[-1]:.3f}" if losses else ""
    starting.say(f"{stage.name}: {result.steps} steps in {result.seconds:.0f} s{fall}.")
    if result.skipped:
        starting.say(f"{result.skipped} records broke and were left out: {result.folder / 'skipped.txt'}")
    starting.say(f"In {result.folder}: {', '.join(sorted(p.name for p in result.folder.iterdir()))}")


def plan(args: Arguments) -> None:
    from dataclasses import replace

    from minillava.plan import CPU, plan_stage, workload

    _output(args.json)
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
    from minillava import weights
    from minillava.evaluation import evaluate as run
    from minillava.evaluation import seeds
    from minillava.evaluation.toybox import BASELINES

    for model in args.models:  # before hours of asking the first
        need(model)
        if not Path(model).is_file():
            weights.find(model, tensors=False)
    _output(args.json)
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
    page = args.out.with_suffix(".html")
    _output(args.out, args.image, ending=".png")
    for file in (page, args.json):
        _output(file, args.image)
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
    print(f"The map is in {args.out}, and each word's in {page}: open it in a browser.")
    _write_json(args.json, found)


def inspect(args: Arguments) -> int:
    need(args.model)
    from minillava import checkpoints, weights
    from minillava.inspection import sample
    from minillava.records import audit, load_records

    if args.index is None and args.html:
        raise ValueError("--html shows one record: say which, with --index.")
    if args.index is not None and args.json:
        raise ValueError("--json has the audit of all records: leave --index out.")
    for file in (args.json, args.html):
        _output(file, args.data)
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
        args.html.write_text(shown.page(), encoding="utf-8")
        print(f"The same with its pictures, for a browser: {args.html}")
    return 0


def check(args: Arguments) -> int:
    from minillava.published import check_layout

    _output(args.json, args.folder)
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
    _output(args.out, ending=".png")
    made = [domain.specimen(one, args.split, index, args.seed) for index in range(args.number)]
    for index in range(args.number):
        record = records.record(one, "questions", args.split, index, args.seed)
        print(record["id"])
        for turn in record["conversations"]:
            print(textwrap.indent(f"{turn['from']:>5}: {turn['value']}", "  "))
    figure = contact_sheet([one.draw(shown) for shown in made], [one.captions(shown)[0] for shown in made])
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
