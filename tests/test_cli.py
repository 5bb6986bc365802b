"""The command line itself: its help, what it takes, and how mistakes and interruptions end."""

import os
import shlex
import signal
import subprocess
import sys

import pytest
from helpers import mistake
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from minillava import commands
from minillava.cli import build_parser, main

COMMANDS = """reproduce pretrain train plan evaluate ask attend inspect check convert toybox export
doctor""".split()


def test_help_is_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys\nfrom minillava.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "assert not {'torch', 'transformers', 'lightning', 'datasets', 'PIL'} & sys.modules.keys()"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert all(f"    {name}" in shown.stdout for name in COMMANDS)


def test_the_package_itself_is_the_command():
    shown = subprocess.run([sys.executable, "-m", "minillava", "--version"], capture_output=True, text=True)
    assert shown.returncode == 0 and shown.stdout.startswith("minillava "), shown.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_that_parses_and_says_what_is_left(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    example = text.split("example:")[1].split("leaves:")[0].replace("\\\n", " ")
    for line in filter(str.strip, example.splitlines()):
        program, *words = shlex.split(line)
        assert program == "minillava"
        assert build_parser().parse_args(words).run is getattr(commands, name)
    assert len(text.split("leaves:")[1]) > 20


def test_no_command_shows_the_help(capsys):
    assert main([]) == 0
    assert "minillava doctor" in capsys.readouterr().out


def test_sigterm_says_how_to_go_on_and_is_no_success(model_folder, records, tmp_path, capsys, monkeypatch):
    """As SLURM's time limit or `kill` sends it, in step 2."""
    from minillava import training

    class Killed(training.FiniteLoss):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 2:
                signal.raise_signal(signal.SIGTERM)

    argv = ["train", "stage1", "--data", str(records), "--from", model_folder, "--save-every", "1"]
    argv += ["--run-dir", str(tmp_path), "--max-steps", "4", "--device-batch", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(training, "FiniteLoss", Killed)
        assert main(argv) == 143
    assert "interrupted. The same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "stage1" / "projector.safetensors").exists()
    assert main(argv) == 0
    assert (tmp_path / "stage1" / "projector.safetensors").is_file()


@pytest.mark.parametrize(
    "words",
    [
        *(f"train stage1 {option}" for option in (
            "--max-steps -1", "--max-steps 0", "--threads -1", "--devices 0", "--nodes 0", "--device-batch 0",
            "--save-every 0",
        )),
        *(f"plan {option}" for option in (
            "--devices 0", "--micro-batch 0", "--samples -5", "--length -1", "--device-batch -4",
            "--longest -9",
        )),
        "evaluate --limit 0", "evaluate --limit -1", "inspect --data a.json --max-length 0",
        "convert a.json b --shard-records 0", "toybox show --number 0",
    ],
)  # fmt: skip
def test_counts_start_at_one(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    *_, option, value = words.split()
    assert stop.value.code == 2
    assert f"expected a whole number of at least 1, not '{value}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, complaint",
    [
        ("train stage1 --workers -1", "expected a whole number of at least 0, not '-1'"),
        ("plan --strategy zero", "invalid choice: 'zero'"),
    ],
)
def test_other_wrong_options(words, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 2 and complaint in capsys.readouterr().err


def test_a_process_whose_peer_has_died_says_so_and_other_faults_are_raised(monkeypatch, capsys):
    def fails(args):
        raise RuntimeError(message)

    monkeypatch.setattr(commands, "doctor", fails)
    message = "[pair.cc:553] Connection closed by peer [127.0.0.1]:5553."
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    message = "a fault of the program"
    with pytest.raises(RuntimeError, match=message):
        main(["doctor"])


def test_a_question_that_is_no_text(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["ask", "--image", "a.png", os.fsdecode(b"What color\xff?")])
    assert stop.value.code == 2 and "is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        ValueError("A sentence."),
        FileNotFoundError("A sentence."),
        FloatingPointError("A sentence."),
        OSError(28, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file"),
        ModuleNotFoundError("No module named 'peft'"),
        MisconfigurationException("You requested 8 GPUs, but there is 1."),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(error, capsys, monkeypatch):
    def fail(args):
        raise error

    monkeypatch.setattr(commands, "doctor", fail)
    line = mistake(capsys, "doctor")
    assert str(error) in line
    assert ("minillava doctor" in line) == isinstance(error, ImportError)
    assert main(["doctor", "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_faults_of_the_program_keep_their_traceback(monkeypatch):
    def fail(args):
        raise KeyError("x")

    monkeypatch.setattr(commands, "doctor", fail)
    with pytest.raises(KeyError):
        main(["doctor"])


def press(args):
    raise KeyboardInterrupt


def press_in_lightning(args):
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize("interrupt", [press, press_in_lightning])
def test_ctrl_c_says_how_to_go_on(interrupt, capsys, monkeypatch):
    monkeypatch.setattr(commands, "reproduce", interrupt)
    monkeypatch.setattr(commands, "doctor", interrupt)
    assert main(["reproduce"]) == 130
    assert "The same command goes on" in capsys.readouterr().err
    assert main(["doctor"]) == 130
    assert "goes on" not in capsys.readouterr().err


def test_a_reader_that_stops_early_is_no_error():
    code = "import os, sys; from minillava.cli import main; sys.exit(main(['doctor']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    process.stdout.close()
    _, error = process.communicate()
    assert b"Traceback" not in error and b"BrokenPipe" not in error
