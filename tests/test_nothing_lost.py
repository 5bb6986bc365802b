"""benchmarks/nothing_lost.py in small: a stage of a random model, killed at random moments."""

import json
import subprocess
import sys
from pathlib import Path

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
    assert "undisturbed: 10 steps" in done.stdout and "killed after" in done.stdout
    assert "3 of 3 runs ended with the weights of the undisturbed one." in done.stdout
