"""Kill -9 at random points of a stage, then the same command: are the final weights the same, bit for bit?

    python benchmarks/nothing_lost.py                                   # ten kills of a short stage 2
    python benchmarks/nothing_lost.py --kills 3 -- stage1 --max-steps 20 --save-every 3

What follows `--` goes to `minillava train`. The stage runs once undisturbed; then, each time in a new folder,
it is killed after a random share of that run's time and started again with the same arguments. A run that
ends before its kill tries nothing: an earlier moment is drawn. Weights (and the loss curve) are compared byte
by byte; the exit code is 1 if any differ.
"""

import argparse
import csv
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from minillava.cli import main as minillava

STAGE = ["stage2", "--from", "tiny", "--max-steps", "40", "--save-every", "4", "--no-audit"]


def quietly(argv: list[str]) -> None:
    """A command in a process of its own, its bars and lines thrown away."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(minillava(argv))


def run(context, argv: list[str], seconds: float | None = None) -> int:
    """Exit code of `minillava train`; killed after `seconds`, if it runs that long, it is -9."""
    process = context.Process(target=quietly, args=(["train", *argv],))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def killed(context, argv: list[str], folder: Path, seconds: float, draw: random.Random) -> float:
    """Kill a stage that writes into `folder` at a random moment within `seconds` -> that moment."""
    moment = draw.uniform(0, seconds)
    while run(context, argv, moment) != -9:
        shutil.rmtree(folder, ignore_errors=True)
        moment = draw.uniform(0, moment)
    return moment


def left(folder: Path) -> dict[str, bytes]:
    """What has to be equal: every file of weights, and the curve."""
    files = [path for path in folder.rglob("*") if path.suffix == ".safetensors" or path.name == "curve.csv"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def steps(folder: Path) -> int:
    """Steps in the curve of a stage that was killed."""
    rows = [row for file in folder.rglob("curve.csv") for row in csv.reader(file.open(newline=""))]
    return len(rows[1:])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("train", nargs="*", default=STAGE, metavar="ARGUMENT", help="of `minillava train`")
    args = parser.parse_args()

    # A server that has imported everything forks each command, so that a kill hits the stage and no import.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["minillava.training", "minillava.toybox.store"])
    draw, different = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as work:
        whole = Path(work, "whole")
        for folder in (Path(work, "warm-up"), whole):  # the first also waits for the server's imports
            begun = time.perf_counter()
            if run(context, [*args.train, "--run-dir", str(folder)]):
                sys.exit("The stage does not run undisturbed: try `minillava train` with these arguments.")
        seconds, expected = time.perf_counter() - begun, left(whole)
        print(f"undisturbed: {steps(whole)} steps in {seconds:.1f} s, {len(expected)} files to compare")
        for number in range(args.kills):
            folder = Path(work, str(number))
            argv = [*args.train, "--run-dir", str(folder)]
            moment = killed(context, argv, folder, seconds, draw)
            reached, saved = steps(folder), bool(list(folder.rglob("last.ckpt")))
            again = run(context, argv)
            same = not again and left(folder) == expected
            different += not same
            print(
                f"killed after {moment:5.1f} s at step {reached:3}, "
                f"{'with' if saved else 'no'} checkpoint: {'same bits' if same else 'DIFFERENT'}",
                flush=True,
            )
    print(f"{args.kills - different} of {args.kills} runs ended with the weights of the undisturbed one.")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
