"""reproduce.py as a command: two processes share the work and come to what one comes to."""

import json
import os
import subprocess
import sys

import pytest
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`minillava reproduce --fast-dev-run` on one process and on two: folders, and what was printed."""
    folder = tmp_path_factory.mktemp("reproduced")
    found = {}
    for devices in (1, 2):
        run_dir = folder / str(devices)
        command = [sys.executable, "-m", "minillava.cli", "reproduce", "--fast-dev-run", "--threads", "1"]
        command += ["--run-dir", run_dir, "--devices", str(devices)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=os.environ)
        assert done.returncode == 0, done.stderr[-3000:]
        found[devices] = (run_dir / "fast-dev-run", done.stdout)
    return found


def test_two_processes_come_to_the_numbers_of_one(runs):
    one, two = (json.loads((folder / "summary.json").read_text()) for folder, _ in runs.values())
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["accuracy"] == one["accuracy"] and two["caption_f1"] == one["caption_f1"]
    for name, stage in one["stages"].items():
        assert two["stages"][name]["val_loss"] == pytest.approx(stage["val_loss"], abs=1e-4)


def test_two_processes_come_to_the_weights_and_answers_of_one(runs):
    one, two = (folder for folder, _ in runs.values())
    assert (two / "predictions.jsonl").read_text() == (one / "predictions.jsonl").read_text()
    files = "stage1/projector.safetensors", "stage2/model/model.safetensors"
    for found, expected in ((load_file(two / file), load_file(one / file)) for file in files):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert (found[name] - tensor).abs().max() < 1e-3 * tensor.abs().max(), name


def test_of_two_processes_one_speaks_and_all_that_is_named_is_there(runs):
    one, two = (out for _, out in runs.values())
    assert two.count("Stage 2, visual instruction tuning") == two.count("| test | questions |") == 1
    folder, _ = runs[2]
    for name in ("accuracy.md", "accuracy.png", "answers.png", "attention.png", "loss-stage1.png"):
        assert (folder / name).stat().st_size > 500
    named = [[line.split()[0] for line in out.splitlines()[-9:]] for out in (one, two)]
    assert named[0] == named[1] and named[0][-1] == "card"
