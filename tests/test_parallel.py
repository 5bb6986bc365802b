"""Two processes train as one does, sharded or not; and a run goes on with another number of them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
from helpers import png, record
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from minillava import checkpoints
from minillava.config import PRESETS
from minillava.model import MiniLlava
from minillava.parallel import Sharded, choose

TOKENS = {"stage": {"weighing": "token"}}
MIXED = {"stage": {"precision": "bf16-mixed"}}


def launch(folder, *jobs):
    """The jobs one after the other, in processes of their own: Lightning starts the second of two."""
    command = [sys.executable, processes.__file__, folder, json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]


def job(name, strategy, devices=2, **options):
    return {"name": name, "strategy": strategy, "devices": devices, **options}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_config, tokenizer):
    """A folder of runs: on one process, then on two, then again on one.

    Ten pictures and six texts in batches of four: some steps are text alone, and in the last step of each
    epoch one of two processes has texts and the other pictures. Answers are of unequal length.
    """
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    checkpoints.save(checkpoints.attach(MiniLlava(make_config()), tokenizer), folder / "base")
    for color in ("red", "blue"):
        (folder / f"{color}.png").write_bytes(png(color))
    pictures = [record(f"p{i}", ("red.png", "blue.png")[i % 2], "A red ball. " * (i + 1)) for i in range(10)]
    texts = [record(f"t{i}", answer="Two boxes. " * (6 - i)) for i in range(6)]
    (folder / "records.json").write_text(json.dumps(pictures + texts))

    validated = {"steps": 50, "validation": pictures[:3], "validations": 1}
    red = str(folder / "red.png")
    validated["probes"] = [(red, "What color is the ball?"), (None, "How many boxes are there?")]
    processes.run(folder, "one", **validated)
    processes.run(folder, "twelve")
    three = {"validation": pictures[:3], "validations": 1}
    processes.run(folder, "one-token", device_batch=4, **TOKENS, **three)
    processes.run(folder, "from-one", stop=6)
    launch(
        folder,
        job("ddp", "ddp", **validated),
        job("fsdp2", "fsdp2", **validated),
        job("ddp-token", "ddp", **TOKENS),
        job("fsdp2-token", "fsdp2", device_batch=1, **TOKENS, **three),
        job("from-one", "ddp"),
        job("from-ddp", "ddp", stop=6),
        job("from-fsdp2", "fsdp2", stop=6),
        job("ddp-mixed", "ddp", **MIXED),
        job("fsdp2-mixed", "fsdp2", **MIXED),
    )
    processes.run(folder, "from-ddp")
    weights = folder / "fsdp2" / "stage2" / "model" / "model.safetensors"
    weights.rename(folder / "of-two-processes.safetensors")
    launch(folder, job("from-fsdp2", "fsdp2", 1), job("fsdp2", "fsdp2", 1, **validated))
    return folder


def losses(runs: Path, name: str, split: str = "train") -> torch.Tensor:
    """Every step's loss, each written once; or those of validation."""
    rows = list(csv.DictReader((runs / name / "stage2" / "curve.csv").open()))
    steps, values = zip(
        *((int(r["step"]), float(r["loss"])) for r in rows if r["split"] == split), strict=True
    )
    assert split == "val" or list(steps) == list(range(1, len(steps) + 1))
    return torch.tensor(values)


def weights(runs: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(runs / name / "stage2" / "model" / "model.safetensors")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_have_the_loss_curve_of_one(runs, strategy):
    curve, expected = losses(runs, strategy), losses(runs, "one")
    assert len(curve) == 50 and expected[-1] < 0.6 * expected[0]
    torch.testing.assert_close(curve, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_validate_on_three_records_as_one_does(runs, strategy):
    """Each takes two: the fourth, which is the first again, does not count."""
    torch.testing.assert_close(losses(runs, strategy, "val"), losses(runs, "one", "val"), rtol=0, atol=1e-5)


def test_a_process_whose_last_batch_is_filled_up_whole_goes_on(runs):
    """One sample a pass: the second process ends with the first sample again, of which nothing counts."""
    found, expected = (losses(runs, f"{name}-token", "val") for name in ("fsdp2", "one"))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_answer_the_probes_and_the_first_one_writes(runs, strategy):
    said, expected = ((runs / name / "stage2" / "generations.txt").read_text() for name in (strategy, "one"))
    assert said == expected and said.count("How many boxes are there?") == 1
    exports = {"ddp": "x", "fsdp2": "xx"}  # the latter once more by one process, see `runs`
    assert (runs / strategy / "exports").read_text() == exports[strategy]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_end_with_the_weights_of_one(runs, strategy):
    """Under the names and in the file of one process: what was in shards is whole again."""
    found, expected = weights(runs, strategy), weights(runs, "one")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=name)
    assert checkpoints.load(runs / strategy).num_image_tokens == 16


@pytest.mark.parametrize("name", ["ddp-token", "fsdp2-token"])
def test_where_tokens_weigh_the_division_into_passes_is_nothing(runs, name):
    """Four samples in one pass; in one of two on each of two devices; in two of one."""
    expected = losses(runs, "one-token")
    torch.testing.assert_close(losses(runs, name), expected, rtol=0, atol=1e-5)
    assert (expected - losses(runs, "twelve")).abs().max() > 1e-3  # unequal answers weigh otherwise


@pytest.mark.parametrize("name", ["from-one", "from-ddp", "from-fsdp2"])
def test_a_run_goes_on_with_another_number_of_processes(runs, name):
    """From the middle of an epoch, and with other passes to a step."""
    torch.testing.assert_close(losses(runs, name), losses(runs, "twelve"), rtol=0, atol=1e-5)


def test_shards_of_two_processes_read_by_one_are_the_same_weights(runs):
    """The finished run again, on one process: from the shards of step 48, two steps at a rate of almost 0."""
    found = load_file(runs / "fsdp2" / "stage2" / "model" / "model.safetensors")
    expected = load_file(runs / "of-two-processes.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():  # within the last bit of a weight of 0.1
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-8, msg=name)


def test_shards_hold_only_what_the_stage_trains(runs):
    folder = runs / "fsdp2" / "stage2" / "last.ckpt"
    names = FileSystemReader(folder).read_metadata().state_dict_metadata
    assert not [name for name in names if "vision_tower" in name]
    assert [name for name in names if name.startswith("state_dict.model.multi_modal_projector")]
    left = sorted(path.name for path in folder.parent.iterdir())
    assert left == ["curve.csv", "generations.txt", "last.ckpt", "model"]


def test_mixed_precision_in_shards_is_near_that_on_whole_copies(runs):
    torch.testing.assert_close(losses(runs, "fsdp2-mixed"), losses(runs, "ddp-mixed"), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("stage", "strategy", "devices", "expected"),
    [
        ("stage1", "auto", 1, "auto"),
        ("stage2", "auto", 1, "auto"),
        ("stage1", "auto", 8, "ddp"),
        ("stage2", "auto", 8, Sharded),
        ("stage2-lora", "auto", 8, "ddp"),
        ("stage2", "ddp", 8, "ddp"),
        ("stage2", "auto", "auto", "ddp"),
    ],
)
def test_the_strategy_suits_the_stage(stage, strategy, devices, expected):
    found = choose(PRESETS["llava-1.5-7b"].stages[stage], strategy, devices, nodes=1)
    assert found == expected if isinstance(expected, str) else isinstance(found, expected)


@pytest.mark.parametrize("devices", [1, 2])
def test_a_run_goes_on_by_the_strategy_that_made_its_checkpoint(tmp_path, devices):
    stage = PRESETS["tiny"].stages["stage2"]
    (tmp_path / "file").touch()
    assert isinstance(choose(stage, "auto", devices, 1, tmp_path), Sharded)
    assert choose(stage, "auto", devices, 1, tmp_path / "file") == ("auto" if devices == 1 else "ddp")
    assert choose(stage, "ddp", devices, 1, tmp_path) == "ddp"  # what is asked for is not overruled


@pytest.mark.parametrize(
    ("stage", "devices", "why"),
    [("stage1", 8, "use ddp"), ("stage2-lora", 8, "use ddp"), ("stage2", "auto", "number of devices")],
)
def test_shards_where_they_do_not_fit_are_refused(stage, devices, why):
    with pytest.raises(ValueError, match=why):
        choose(PRESETS["llava-1.5-7b"].stages[stage], "fsdp2", devices, nodes=1)
