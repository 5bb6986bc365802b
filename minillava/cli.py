"""`minillava …`: what can be typed, and how a mistake ends. What a command does is in `commands`."""

import argparse
import os
import sys
import textwrap
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from minillava import commands
from minillava.config import PRESETS, STRATEGIES

MISTAKE, INTERRUPTED, TERMINATED = 2, 130, 143
"""Exit codes: 2 as argparse's own, 128 + SIGINT and 128 + SIGTERM as shells have it."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    What a user can mend (a wrong value, a missing file, a full disk, a loss that is NaN) ends with
    code 2 and a sentence on stderr; `--traceback` shows where it came from.
    """
    args = build_parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except BrokenPipeError:  # `| head` has seen enough; Python must not flush into the pipe again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return MISTAKE
    except (KeyboardInterrupt, SystemExit) as stop:
        # Lightning turns Ctrl-C into SystemExit(1), raised while it handles the KeyboardInterrupt, and
        # SIGTERM (kill, SLURM's time limit) into a SystemExit without a code, which would be success.
        terminated = type(stop).__name__ == "SIGTERMException"
        pressed = isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt)
        if not (terminated or pressed):
            raise
        resume = " The same command goes on from the last checkpoint." if args.resumes else ""
        print(f"\nminillava: interrupted.{resume}", file=sys.stderr)
        return TERMINATED if terminated else INTERRUPTED
    except Exception as error:
        left_alone = isinstance(error, RuntimeError) and "by peer" in str(error)  # gloo's words for it
        if not (left_alone or is_mistake(error)):
            raise
        if args.traceback:
            traceback.print_exc()
        if left_alone:
            print("minillava: another process of this run has ended, and this one with it.", file=sys.stderr)
            return MISTAKE
        hint = " `minillava doctor` says what is missing." if isinstance(error, ImportError) else ""
        print(f"minillava: {error}{hint}", file=sys.stderr)
        return MISTAKE


def is_mistake(error: Exception) -> bool:
    """Is it the user's to mend, rather than a fault of the program?

    A full disk has many faces: OSError, or what safetensors and torch make of it. Lightning's own kind (such
    as more devices than there are) goes by its name: to import it would take seconds.
    """
    full = any(sign in str(error) for sign in ("No space left", "PytorchStreamWriter failed"))
    lightnings = type(error).__name__ == "MisconfigurationException"
    return full or lightnings or isinstance(error, ValueError | OSError | FloatingPointError | ImportError)


def positive(text: str, least: int = 1) -> int:
    """A count, as argparse takes it: a whole number, at least 1."""
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, not {text!r}")
    return int(text)


def natural(text: str) -> int:
    """A count that may be none."""
    return positive(text, least=0)


def utf8(text: str) -> str:
    """A text for the model: bytes that are no UTF-8 come as surrogates, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8: check the terminal's encoding") from error
    return text


def build_parser() -> argparse.ArgumentParser:
    """What can be typed. Each command's help has an example and says what it leaves where."""
    parser = argparse.ArgumentParser(
        prog="minillava",
        description="LLaVA-1.5, small enough to read and to train in one sitting.",
        epilog="Start with `minillava doctor`, then `minillava reproduce`. "
        "`minillava COMMAND --help` has an example of each command.",
    )
    parser.add_argument("--version", action="version", version=f"minillava {version('minillava')}")
    parser.set_defaults(run=lambda args: parser.print_help(), resumes=False, traceback=False)

    command = _adder(parser.add_subparsers(title="commands", metavar="COMMAND"))
    number, count = {"type": int, "metavar": "N"}, {"type": positive, "metavar": "N"}
    path = {"type": Path, "metavar": "PATH"}

    p = command(
        "reproduce", commands.reproduce, "join the tiny bases by both stages, evaluate, draw figures",
        example="minillava reproduce --fast-dev-run",
        leaves="RUN_DIR/stage1 and stage2 (curves, checkpoints, stage2/model), accuracy.md and .json, "
        "PNG figures, summary.json. Interrupted, the same command goes on where it was.",
        resumes=True,
    )  # fmt: skip
    p.add_argument(
        "--preset", choices=("tiny", "tiny-long"), default="tiny",
        help="tiny-long: 25,600 captions and 48,000 conversations, an hour: how the shipped model was made",
    )  # fmt: skip
    p.add_argument("--run-dir", **path, help="default: runs/PRESET")
    p.add_argument("--fast-dev-run", action="store_true", help="a few steps, to see that it works")
    p.add_argument(
        "--processes", **count, help="that ask held-out questions; default: 2 on a CPU of several cores"
    )
    _seed_and_threads(p)

    p = command(
        "pretrain", commands.pretrain, "make a tiny base anew: clip (vision tower) or lm (language model)",
        example="minillava pretrain clip",
        leaves="a transformers folder with its card (README.md: steps, minutes, scores, hash) and "
        "history.json (curves), in --folder. Interrupted, the same command goes on where it was.",
        resumes=True,
    )  # fmt: skip
    p.add_argument("base", choices=("clip", "lm"))
    p.add_argument("--folder", **path, help="default: runs/bases/tiny-clip or tiny-vicuna")
    _seed_and_threads(p)

    p = command(
        "train", commands.train, "train one stage of a preset, on Toybox or your own records",
        example="minillava train stage1 --max-steps 20\n"
        "  minillava train stage2 --preset llava-1.5-7b --data llava_v1_5_mix665k.json \\\n"
        "    --image-root images --run-dir runs/7b --devices 8 --device-batch 16 --activation-checkpointing",
        leaves="RUN_DIR/STAGE with curve.csv, last.ckpt, and projector.safetensors (stage 1) or the "
        "finished model/ (stage 2), with LoRA adapter/ too; audit.json if records are broken or cut. "
        "Interrupted, the same command goes on where it was.",
        resumes=True,
    )  # fmt: skip
    stages = dict.fromkeys(name for preset in PRESETS.values() for name in preset.stages)
    p.add_argument("stage", choices=stages, metavar="STAGE", help=", ".join(stages))
    p.add_argument("--preset", choices=PRESETS, default="tiny", help="default: %(default)s")
    p.add_argument("--data", metavar="FILE", help=".json, .jsonl, .parquet or shards; default: Toybox")
    p.add_argument(
        "--validation", metavar="FILE", help="records like --data's, to watch the loss and two answers on"
    )
    p.add_argument("--image-root", **path, help="where the records' picture paths begin")
    p.add_argument("--run-dir", default=Path("runs/train"), **path, help="default: %(default)s")
    p.add_argument(
        "--from", dest="start", metavar="FOLDER",
        help="start from this model, or from this stage-1 folder (or projector file) on the "
        "preset's bases; default: fresh bases for stage 1, RUN_DIR/stage1 for stage 2",
    )  # fmt: skip
    p.add_argument("--max-steps", **count, help="stop after N optimizer steps")
    p.add_argument("--device-batch", **count, help="samples in one forward pass of one device")
    p.add_argument(
        "--workers", default=0, type=natural, metavar="N", help="processes that prepare each device's batches"
    )
    p.add_argument("--devices", default=1, **count, help="GPUs of a node, default: %(default)s")
    p.add_argument("--nodes", default=1, **count, help="as SLURM or torchrun starts them: see examples/")
    p.add_argument(
        "--strategy", choices=STRATEGIES, default="auto",
        help="ddp: whole copies; fsdp2: shards. By default the one that suits the stage",
    )  # fmt: skip
    p.add_argument(
        "--weighing", choices=("pass", "token"),
        help="what counts alike in a step's loss; default: the preset's, a device's pass as in the original",
    )  # fmt: skip
    p.add_argument(
        "--activation-checkpointing", action="store_true", help="less memory, more work, the same numbers"
    )
    p.add_argument("--compile", action="store_true", help="torch.compile, for a GPU: a minute, then faster")
    p.add_argument("--save-every", default=50, **count, help="steps between checkpoints; default: 50")
    _seed_and_threads(p)
    broken = p.add_mutually_exclusive_group()
    broken.add_argument("--skip-broken", action="store_true", help="leave out what cannot be used")
    broken.add_argument("--no-audit", action="store_true", help="an earlier audit found no problem")

    p = command(
        "plan", commands.plan, "what a stage takes before it starts: memory, steps, FLOPs, hours, disk",
        example="minillava plan --preset llava-1.5-13b --devices 8 --gpu a100-80gb\n"
        "  minillava plan --preset tiny --stage stage1 --gpu cpu",
        leaves="the plan on the screen; exit code 2 if the stage cannot fit, with what would. With --json "
        "the numbers for programs, in bytes.",
    )  # fmt: skip
    p.add_argument("--preset", choices=PRESETS, default="tiny", help="default: %(default)s")
    p.add_argument("--stage", choices=stages, default="stage2", metavar="STAGE", help="default: %(default)s")
    p.add_argument("--gpu", default="a100-80gb", help="of the table, or cpu: this one; default: %(default)s")
    p.add_argument("--devices", **count, help="GPUs of a node; default: 8, of a cpu 1")
    p.add_argument("--nodes", default=1, **count, help="default: %(default)s")
    p.add_argument("--strategy", choices=STRATEGIES, default="auto", help="as of train; default: %(default)s")
    p.add_argument("--checkpointing", "--activation-checkpointing", action="store_true", help="as of train")
    p.add_argument("--compile", action="store_true", help="as of train")
    p.add_argument(
        "--micro-batch", "--device-batch", **count,
        help="samples in one pass of one device; default: the most that fit",
    )  # fmt: skip
    p.add_argument("--mfu", type=float, default=0.5, metavar="SHARE", help="default: %(default)s")
    p.add_argument("--samples", **count, help="default: the preset's own data")
    p.add_argument("--length", **count, help="mean positions of a sample with a picture")
    p.add_argument("--longest", **count, help="positions of the longest sample")
    p.add_argument("--json", **path, help="also write the numbers here")

    p = command(
        "evaluate", commands.evaluate, "held-out accuracy by question type, beside its baselines",
        example="minillava evaluate --split compositional --json accuracy.json\n"
        "  minillava evaluate --model runs/seed-0 runs/seed-1 runs/seed-2",
        leaves="a table on the screen: of one model with its baselines, of several their mean with an "
        "interval and each one's own; with --json the same numbers for programs.",
    )  # fmt: skip
    _model(p, several=True)
    p.add_argument("--split", default="test", help="test, paraphrase, compositional, more or val")
    p.add_argument("--baselines", nargs="*", metavar="NAME", help="blind shuffled majority (default), oracle")
    p.add_argument("--types", nargs="+", metavar="TYPE", help="only these types of question")
    p.add_argument("--limit", **count, help="only the first N questions")
    p.add_argument(
        "--processes", default=1, **count, help="that ask, each with its copy of the model; default: 1"
    )
    p.add_argument("--json", **path, help="also write the numbers here")
    _seed_and_threads(p, seed=False)

    p = command(
        "ask", commands.ask, "ask one question about a picture",
        example='minillava ask --image picture.png "What color is the circle?"',
        leaves="the answer on the screen.",
    )  # fmt: skip
    _question(p)

    p = command(
        "attend", commands.attend, "show where a word of the question or the answer looks",
        example='minillava attend --image picture.png "What color is the circle?" --word circle',
        leaves="a PNG: the answer word by word, or the map of one word (attention.png); beside it a page "
        "for a browser in which each word shows its map (attention.html); with --json the numbers.",
    )  # fmt: skip
    _question(p)
    p.add_argument("--word", type=utf8, help="a word of the question or answer; default: the whole answer")
    p.add_argument("--layer", **number, help="default: the mean over all")
    p.add_argument("--head", **number, help="default: the mean over all")
    p.add_argument("--methods", action="store_true", help="add the methods of relevance to the page")
    p.add_argument("--out", default=Path("attention.png"), **path, help="the PNG; default: %(default)s")
    p.add_argument("--json", **path, help="also write the numbers here")

    p = command(
        "inspect", commands.inspect, "show what a record teaches, token by token, or audit a whole file",
        example="minillava inspect --data records.json --image-root images --index 0\n"
        "  minillava inspect --data llava_v1_5_mix665k.json --image-root images --model llava-1.5-7b",
        leaves="on the screen: with --index one sample, its supervised tokens in bold green; without "
        "it, a report about all records, and exit code 1 if one cannot be trained on. With --html the "
        "sample as a page with its picture, with --json the report for programs, every record listed.",
    )  # fmt: skip
    p.add_argument("--data", required=True, metavar="FILE", help=".json, .jsonl or .parquet")
    p.add_argument("--index", **number, help="number of the record, from 0")
    p.add_argument("--image-root", **path, help="where the records' picture paths begin")
    p.add_argument("--template", choices=("v1", "plain"), default="v1", help="default: %(default)s")
    p.add_argument("--max-length", default=2048, **count, help="positions kept, default: %(default)s")
    p.add_argument("--html", **path, help="also write the sample here")
    p.add_argument("--json", **path, help="also write the report here")
    p.add_argument(
        "--model", default="tiny",
        help="whose tokenizer and patches: a preset's name, a llava-hf folder or hub id; default: tiny",
    )  # fmt: skip

    p = command(
        "check", commands.check, "is a folder of LLaVA's published data complete, and what is missing",
        example="minillava check playground/data\n"
        "  minillava check LLaVA-Pretrain/blip_laion_cc_sbu_558k.json --image-root LLaVA-Pretrain/images",
        leaves="a table by picture folder on the screen; exit code 1 if something is not as published. "
        "Names only: `minillava inspect` opens every picture.",
    )  # fmt: skip
    p.add_argument("folder", type=Path, metavar="FOLDER", help="a folder with the JSON as published, or it")
    p.add_argument("--set", choices=("pretrain", "mix665k"), help="default: by the file's name")
    p.add_argument("--image-root", **path, help="where the records' picture paths begin; default: FOLDER")
    p.add_argument("--json", **path, help="also write the numbers here")

    p = command(
        "convert", commands.convert, "records between LLaVA's JSON, JSON Lines, and parquet with pictures",
        example="minillava convert llava_v1_5_mix665k.json mix.parquet --image-root images\n"
        "  minillava convert llava_v1_5_mix665k.json mix --image-root images --shard-records 5000\n"
        "  minillava convert mix.parquet mix.jsonl --pictures pictures",
        leaves="TARGET, and with --pictures that folder: whole, or nothing. Parquet has the bytes of the "
        "pictures inside, as `datasets` reads them; --data takes all of these. How many records and "
        "pictures, and what was left out, is on the screen.",
    )  # fmt: skip
    p.add_argument("source", type=Path, metavar="SOURCE", help=".json, .jsonl, .parquet or folder of shards")
    p.add_argument("target", type=Path, metavar="TARGET", help="the same")
    p.add_argument("--image-root", **path, help="where the records' picture paths begin")
    p.add_argument("--shard-records", **count, help="make TARGET a folder of parquet files of N records")
    p.add_argument("--pictures", **path, help="new folder for the pictures that come out of parquet")
    p.add_argument("--skip-broken", action="store_true", help="leave out what cannot be used, and say so")

    p = command(
        "toybox", commands.toybox, "draw Toybox pictures and print their records",
        example="minillava toybox show --domain signs --split test --number 6",
        leaves="a sheet of captioned pictures (toybox.png); the records on the screen.",
    )  # fmt: skip
    p.add_argument("action", choices=("show",))
    domains = "scenes, crowds, signs, creatures, lessons, sketch, elsewhere"
    p.add_argument("--domain", default="scenes", help=domains)
    p.add_argument("--split", default="train", help="default: %(default)s")
    p.add_argument("--number", default=12, **count, help="default: %(default)s")
    p.add_argument("--seed", default=0, **number, help="default: %(default)s")
    p.add_argument("--out", default=Path("toybox.png"), **path, help="default: %(default)s")

    p = command(
        "export", commands.export, "write a model for transformers, lmms-eval and others",
        example="minillava export --model runs/tiny/stage2/model --folder my-llava",
        leaves="a llava-hf folder: weights, config, tokenizer, image processor, chat template.",
    )  # fmt: skip
    _model(p)
    p.add_argument("--folder", required=True, **path)

    command(
        "doctor", commands.doctor, "what is installed, what is missing, and how to get it",
        example="minillava doctor",
        leaves="a report on the screen; exit code 1 if something required is missing.",
    )  # fmt: skip
    return parser


def _adder(subparsers) -> Callable[..., argparse.ArgumentParser]:
    """command(name, run, about, example, leaves): a command whose help teaches it."""

    def command(
        name: str, run: Callable, about: str, example: str, leaves: str, resumes: bool = False
    ) -> argparse.ArgumentParser:
        added = subparsers.add_parser(
            name,
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"example:\n  {example}\n\nleaves:\n{textwrap.indent(textwrap.fill(leaves), '  ')}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        added.add_argument("--traceback", action="store_true", help="show where an error came from")
        added.set_defaults(run=run, resumes=resumes)
        return added

    return command


def _seed_and_threads(parser: argparse.ArgumentParser, seed: bool = True) -> None:
    if seed:
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads; default: all cores")


def _model(parser: argparse.ArgumentParser, several: bool = False) -> None:
    parser.add_argument(
        "--model",
        **({"nargs": "+", "dest": "models", "default": ["tiny"]} if several else {"default": "tiny"}),
        metavar="MODEL",
        help="a preset's name, a folder (llava-hf's, a run's, LoRA's), a projector, a hub id; default: tiny",
    )
    parser.add_argument("--base", metavar="FOLDER", help="the model to put adapters or a projector in")


def _question(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", required=True, metavar="FILE")
    parser.add_argument("question", type=utf8)
    parser.add_argument("--max-new-tokens", type=positive, default=96, metavar="N")
    _model(parser)
