"""`minillava train`: which records, from which model, watched by what, and what it says."""

import json
import os

import datasets
import pytest
from helpers import QUESTION, mistake

from minillava import checkpoints, starting
from minillava.cli import main


def test_train_audits_trains_and_says_what_it_left(model_folder, records, tmp_path, capsys):
    run = tmp_path / "run"
    argv = ["train", "stage2", "--data", str(records), "--from", model_folder]
    argv += ["--run-dir", str(run), "--max-steps", "1", "--device-batch", "4"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "every record can be trained on" in out
    assert "stage2: 1 steps" in out and "model" in out
    checkpoints.load(run / "stage2" / "model")


def test_train_watches_the_loss_and_two_answers_on_records_held_out(model_folder, records, tmp_path):
    run, held_out = tmp_path / "run", tmp_path / "held-out.json"
    held_out.write_text(json.dumps(json.loads(records.read_text())[:3]))
    argv = ["train", "stage2", "--data", str(records), "--from", model_folder, "--max-steps", "4"]
    argv += ["--run-dir", str(run), "--device-batch", "4", "--validation", str(held_out)]
    assert main(argv) == 0
    splits = [line.split(",")[1] for line in (run / "stage2" / "curve.csv").read_text().splitlines()]
    assert splits.count("val") == 4 and splits.count("train") == 4
    said = (run / "stage2" / "generations.txt").read_text()
    first = json.loads(held_out.read_text())[0]["conversations"][0]["value"]
    assert said.count("step ") == 4 and said.count(repr(first)[1:-1]) in (4, 8) and said.count(" -> ") == 8


def test_train_looks_at_the_records_to_watch_as_well(model_folder, records, tmp_path, capsys):
    held_out = tmp_path / "held-out.json"
    rows = json.loads(records.read_text())[:3]
    rows[0]["conversations"] = []
    rows[1]["conversations"].insert(0, {"from": "gpt", "value": "I speak first."})
    held_out.write_text(json.dumps(rows))
    argv = ["train", "stage2", "--data", str(records), "--from", model_folder, "--max-steps", "1"]
    argv += ["--run-dir", str(tmp_path / "run"), "--device-batch", "4", "--validation", str(held_out)]
    assert "1 of 3 records cannot be trained on" in mistake(capsys, *argv)
    assert not (tmp_path / "run" / "stage2" / "curve.csv").exists()
    assert main([*argv, "--skip-broken"]) == 0
    said = (tmp_path / "run" / "stage2" / "generations.txt").read_text()
    assert said.count(QUESTION) == said.count(" -> ") == 2 and "I speak first" not in said


def test_train_stops_at_broken_records_unless_told_to_skip(model_folder, records, tmp_path, capsys):
    rows = json.loads(records.read_text())
    rows[5]["image"] = "nowhere.png"
    records.write_text(json.dumps(rows))
    argv = ["train", "stage1", "--data", str(records), "--from", model_folder]
    argv += ["--run-dir", str(tmp_path / "run"), "--max-steps", "1", "--device-batch", "4"]
    assert "1 of 32 records cannot be trained on" in mistake(capsys, *argv)
    assert not (tmp_path / "run" / "stage1" / "curve.csv").exists()
    assert main([*argv, "--skip-broken"]) == 0
    assert "nowhere.png" in capsys.readouterr().out
    assert (tmp_path / "run" / "stage1" / "projector.safetensors").is_file()


def test_train_says_that_skipping_leaves_nothing(model_folder, records, tmp_path, capsys):
    rows = json.loads(records.read_text())
    records.write_text(json.dumps([row | {"image": "nowhere.png"} for row in rows]))
    argv = ["train", "stage1", "--data", str(records), "--from", model_folder, "--skip-broken"]
    line = mistake(capsys, *argv, "--run-dir", str(tmp_path / "run"))
    assert "None of 32 records can be trained on" in line


def test_train_looks_at_the_batch_before_it_loads_anything(capsys):
    line = mistake(capsys, "train", "stage1", "--from", "nowhere", "--devices", "7")
    assert "take one of 1, 2, 4" in line


def test_train_from_shards_is_training_from_the_file_and_a_cut_shard_is_named(
    model_folder, records, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shards = tmp_path / "mix"
    argv = ["convert", str(records), str(shards), "--image-root", str(records.parent)]
    assert main([*argv, "--shard-records", "16"]) == 0

    def train(run, data):
        argv = ["train", "stage2", "--from", model_folder, "--max-steps", "2", "--device-batch", "8"]
        return [*argv, "--run-dir", str(tmp_path / run), "--data", str(data)]

    assert main(train("one", records)) == main(train("two", shards)) == 0
    one, two = ((tmp_path / run / "stage2" / "curve.csv").read_text() for run in ("one", "two"))
    assert one == two
    last = shards / "00001-of-00002.parquet"
    last.write_bytes(last.read_bytes()[:-50])
    assert "00001-of-00002.parquet is cut off" in mistake(capsys, *train("three", shards))
    assert main([*train("three", shards), "--skip-broken"]) == 0
    out = capsys.readouterr().out
    assert "left out: " in out and "\n16 records: " in out


def test_train_stage2_lora_then_ask_its_adapters(model_folder, records, image, tmp_path, capsys):
    run = tmp_path / "run"
    argv = ["train", "stage2-lora", "--data", str(records), "--from", model_folder, "--workers", "1"]
    argv += ["--run-dir", str(run), "--max-steps", "2", "--device-batch", "16"]
    assert main(argv) == 0
    assert "adapter" in capsys.readouterr().out
    argv = ["ask", "--image", image, QUESTION, "--max-new-tokens", "4", "--model"]
    answers = []
    for name in ("model", "adapter"):
        assert main([*argv, str(run / "stage2-lora" / name)]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]
    assert main([*argv, str(run / "stage2-lora" / "adapter"), "--base", str(tmp_path / "no")]) == 2
    assert "base=" in capsys.readouterr().err


def test_a_stage_the_preset_does_not_have(capsys):
    line = mistake(capsys, "train", "scienceqa")
    assert "has the stages stage1, stage2, stage2-lora, not scienceqa" in line


@pytest.mark.parametrize("skip", [False, True])
def test_of_several_processes_the_first_audits_and_prints(
    model_folder, records, tmp_path, capsys, monkeypatch, skip
):
    """Unless records are to be skipped: then all have to know which."""
    from lightning.pytorch.utilities import rank_zero_only

    from minillava import data, training

    audited, trained = [], []
    audit = data.audit
    monkeypatch.setattr(data, "audit", lambda *a, **k: audited.append(1) or audit(*a, **k))

    def train_stage(model, stage, rows, run_dir, **options):
        trained.append(len(rows))
        return training.StageResult(tmp_path, 1, {"train": ([], [])}, 0.0, 0, [], 0)

    monkeypatch.setattr(training, "train_stage", train_stage)
    rows = json.loads(records.read_text())
    rows[5]["image"] = "nowhere.png"
    records.write_text(json.dumps(rows))
    argv = ["train", "stage1", "--data", str(records), "--from", model_folder]
    argv += ["--run-dir", str(tmp_path / "run")] + ["--skip-broken"] * skip
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert main(argv) == 0
    assert capsys.readouterr().out == "" and (len(audited), trained) == (skip, [31 if skip else 32])
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    assert main(argv) == (0 if skip else 2)
    assert "nowhere.png" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "stage1" / "audit.json").read_text())["records"] == 32


def test_processes_started_after_the_audit_read_what_it_left_out(
    model_folder, records, tmp_path, monkeypatch
):
    """As Lightning starts them: from within the first one's training, with its environment."""
    from lightning.pytorch.utilities import rank_zero_only

    from minillava import data, training

    audited, trained = [], []
    audit = data.audit
    monkeypatch.setattr(data, "audit", lambda *a, **k: audited.append(1) or audit(*a, **k))
    rows = json.loads(records.read_text())
    rows[5]["image"] = "nowhere.png"
    records.write_text(json.dumps(rows))
    argv = ["train", "stage1", "--data", str(records), "--from", model_folder, "--skip-broken"]
    argv += ["--run-dir", str(tmp_path / "run")]

    def train_stage(model, stage, rows, run_dir, **options):
        trained.append([row["id"] for row in rows])
        if len(trained) == 1:
            monkeypatch.setattr(rank_zero_only, "rank", 1)
            assert main(argv) == 0
            monkeypatch.setattr(rank_zero_only, "rank", 0)
        return training.StageResult(tmp_path, 1, {"train": ([], [])}, 0.0, 0, [], 0)

    monkeypatch.setattr(training, "train_stage", train_stage)
    assert main(argv) == 0
    assert len(audited) == 1 and trained[0] == trained[1] and len(trained[0]) == 31
    assert not any(name.startswith(starting.LEFT_OUT) for name in os.environ)


def test_stage_2_asks_for_stage_1(tmp_path, capsys):
    line = mistake(capsys, "train", "stage2", "--run-dir", str(tmp_path))
    assert f"minillava train stage1 --run-dir {tmp_path} --preset tiny" in line


def test_a_preset_without_data_asks_for_it(model_folder, capsys):
    argv = ["train", "stage1", "--preset", "llava-1.5-7b", "--from", model_folder]
    assert "give --data FILE" in mistake(capsys, *argv)
