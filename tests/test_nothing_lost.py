"""benchmarks/nothing_lost.py in small: a stage of a random model, killed at random moments."""

import json
import random
import subprocess
import sys
from pathlib import Path

import nothing_lost
from helpers import record

from minillava import checkpoints

BENCHMARK = Path(__file__).resolve().parent.parent / "benchmarks" / "nothing_lost.py"


def test_a_stage_killed_at_random_ends_with_the_bits_of_one_that_was_not(make_model, tmp_path):
    checkpoints.save(make_model(), tmp_path / "base")
    texts = [record(i, answer="Two boxes. " * (1 + i % 4)) for i in range(80)]
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    stage = ["stage2", "--from", tmp_path / "base", "--data", tmp_path / "texts.json", "--no-audit"]
    command = [sys.executable, BENCHMARK, "--kills", "3", "--", *stage, "--save-every", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "undisturbed: 10 steps" in done.stdout and done.stdout.count("killed after") == 3
    assert "3 of 3 runs ended with the weights of the undisturbed one." in done.stdout


def test_a_stage_that_ends_before_its_kill_is_tried_again_in_an_empty_folder(monkeypatch, tmp_path):
    codes, moments = [0, 0, -9], []

    def run(context, argv, seconds):
        assert not tmp_path.exists() or not list(tmp_path.iterdir())
        tmp_path.mkdir(exist_ok=True)
        (tmp_path / "curve.csv").touch()
        moments.append(seconds)
        return codes.pop(0)

    monkeypatch.setattr(nothing_lost, "run", run)
    moment = nothing_lost.killed(None, [], tmp_path, 10.0, random.Random(0))
    assert not codes and moments == sorted(moments, reverse=True) and moment == moments[-1] > 0
    assert (tmp_path / "curve.csv").exists()  # what the killed one left is what the next goes on from
