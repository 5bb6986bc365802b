"""The scripts in examples/ say what the command line understands, and what the recipe's batches allow."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from minillava.cli import build_parser
from minillava.config import PRESETS

SCRIPTS = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.sh"))


def commands(script: Path) -> list[list[str]]:
    """The words of every command of a script that trains, continued lines joined."""
    lines = re.sub(r"\\\n", " ", script.read_text()).splitlines()
    return [shlex.split(line) for line in lines if not line.startswith("#") and " train " in line]


def parsed(words: list[str]):
    return build_parser().parse_args(words[words.index("train") :])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_trains_both_stages_with_the_batch_of_the_recipe(script):
    from minillava.parallel import Sharded, choose
    from minillava.training import split_batch

    assert subprocess.run(["bash", "-n", script], timeout=60).returncode == 0
    one, two = (parsed(words) for words in commands(script))
    assert (one.stage, two.stage) == ("stage1", "stage2") and one.run_dir == two.run_dir
    for args in (one, two):
        stage = PRESETS[args.preset].stage(args.stage)
        batch, passes = split_batch(stage, args.device_batch, args.devices * args.nodes)
        assert batch * passes * args.devices * args.nodes == stage.batch_size
        assert not args.activation_checkpointing or "language_model" in stage.trains
        assert choose(stage, args.strategy, args.devices, args.nodes) is not None
    assert (one.strategy, choose(PRESETS[two.preset].stage("stage2"), two.strategy, 8, 2).__class__) == (
        "ddp",
        Sharded,
    )


def test_slurm_starts_as_many_processes_as_the_commands_expect():
    (script,) = (script for script in SCRIPTS if script.name == "slurm.sh")
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)", script.read_text(), re.M))
    for words in commands(script):
        args = parsed(words)
        assert words[0] == "srun"
        assert args.nodes == int(asked["nodes"])
        assert args.devices == int(asked["ntasks-per-node"]) == int(asked["gpus-per-node"])
        assert args.workers < int(asked["cpus-per-task"])


def test_torchrun_starts_as_many_processes_as_the_commands_expect():
    from torch.distributed.run import get_args_parser

    (script,) = (script for script in SCRIPTS if script.name == "torchrun.sh")
    for words in commands(script):
        launch, args = get_args_parser().parse_args(words[1:]), parsed(words)
        assert words[0] == "torchrun"
        assert (launch.module, launch.training_script) == (True, "minillava")
        assert (int(launch.nnodes), int(launch.nproc_per_node)) == (args.nodes, args.devices)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_the_audits_that_a_script_advises_can_be_typed(script):
    for line in re.findall(r"^#   (minillava .+)$", script.read_text(), re.M):
        build_parser().parse_args(shlex.split(line)[1:])
