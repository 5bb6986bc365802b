"""What each command does, through `main`, on a tiny random model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import QUESTION, mistake
from PIL import Image
from transformers import CLIPVisionModel

from minillava import attend, checkpoints, commands, doctor, plots
from minillava.attention import AnswerMaps, TokenMaps, answer_maps
from minillava.cli import main
from minillava.config import PRESETS
from minillava.images import PatchGeometry


def test_ask_prints_the_answer_of_the_model(model_folder, image, capsys):
    argv = ["ask", "--model", model_folder, "--image", image, QUESTION, "--max-new-tokens", "5"]
    assert main(argv) == 0
    expected = checkpoints.load(model_folder).answer(image, QUESTION, max_new_tokens=5)
    assert capsys.readouterr().out.strip() == expected


def test_attend_leaves_a_map_and_its_numbers(model_folder, image, tmp_path, capsys):
    out, numbers = tmp_path / "new" / "map.png", tmp_path / "map.json"
    argv = ["attend", "--model", model_folder, "--image", image, QUESTION, "--max-new-tokens", "4"]
    argv += ["--out", str(out), "--json", str(numbers)]
    assert main([*argv, "--word", "ball", "--layer", "1", "--head", "-1"]) == 0
    found = json.loads(numbers.read_text())
    assert (found["word"], found["layers"], found["heads"]) == ("ball", [1], [3])
    assert found["question"] == QUESTION
    heat = found["heat"]
    assert [len(row) for row in heat] == [4] * 4
    assert sum(map(sum, heat)) == pytest.approx(found["image_mass"], abs=1e-6)
    strongest = found["strongest"]
    assert heat[strongest["row"]][strongest["column"]] == max(map(max, heat)) == strongest["share"]
    assert Image.open(out).format == "PNG"
    said = capsys.readouterr().out
    assert f"{found['image_mass']:.1%}" in said
    assert f"row {strongest['row'] + 1}, column {strongest['column'] + 1} of 4, pixels" in said

    assert main([*argv, "--methods"]) == 0  # the whole answer, over all layers and heads
    found = json.loads(numbers.read_text())
    assert (found["layers"], found["heads"]) == ([0, 1], [0, 1, 2, 3])
    masses = [token["image_mass"] for token in found["tokens"]]
    assert sum(masses) / len(masses) == pytest.approx(found["image_mass"], abs=1e-6)
    page = out.with_suffix(".html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "method: gradient" in page
    assert "--out names the PNG" in mistake(capsys, *argv, "--out", str(tmp_path / "page.html"))


def test_attend_knows_only_words_that_were_said(model_folder, image, tmp_path, capsys):
    argv = ["attend", "--model", model_folder, "--image", image, "--out", str(tmp_path / "a.png")]
    argv += ["--max-new-tokens", "2"]
    said = mistake(capsys, *argv, QUESTION, "--word", "zebra")
    assert f"'zebra' is neither in the question {QUESTION!r} nor in the answer '" in said
    assert "Question 0 is empty" in mistake(capsys, *argv, "")
    assert main([*argv, "What color is the café?", "--word", "é"]) == 0
    assert main([*argv, r"What is $\foo$?", "--word", r"$\foo$"]) == 0


def test_attend_takes_a_word_before_a_part_of_one(image, tmp_path, monkeypatch):
    def row(text, share):
        return TokenMaps([text], np.full((1, 1, 1, 4, 4), share / 16))

    said = AnswerMaps("is", row(" is", 0.25), row(" this", 0.5), [0], [0], PatchGeometry(16, 16, 16, 4))
    monkeypatch.setattr(attend, "answer_maps", lambda *_, **__: said)
    for word, share in (("is", 0.25), ("this", 0.5), ("thi", 0.5)):
        found = attend.attend(None, image, "this", tmp_path / "a.png", word=word)
        assert found["image_mass"] == pytest.approx(share)


def test_attend_counts_padding_apart(model_folder, tmp_path, capsys):
    """80 x 20 pixels in the middle of a square: the first and last of four rows of patches are padding."""
    photo, numbers = tmp_path / "wide.png", tmp_path / "map.json"
    Image.new("RGB", (80, 20), "red").save(photo)
    argv = ["attend", "--model", model_folder, "--image", str(photo), QUESTION, "--word", "ball"]
    assert main([*argv, "--out", str(tmp_path / "a.png"), "--json", str(numbers)]) == 0
    found = json.loads(numbers.read_text())
    maps = answer_maps(checkpoints.load(model_folder), str(photo), QUESTION, max_new_tokens=1)
    rows = maps.prompt.maps[maps.prompt.find("ball")].mean((0, 1, 2)).sum(-1)
    assert found["image_mass"] == pytest.approx(rows[1:3].sum(), rel=1e-4)
    assert found["padding_mass"] == pytest.approx(rows[[0, 3]].sum(), rel=1e-4)
    assert found["tokens"][0]["image_mass"] < rows.sum() and found["strongest"]["row"] in (1, 2)
    assert not any(found["heat"][0] + found["heat"][3])
    assert f"picture and {found['padding_mass']:.1%} on its padding" in capsys.readouterr().out


def test_attend_draws_a_photo_at_a_size_for_the_screen(model_folder, tmp_path, monkeypatch):
    drawn, draw = [], plots.attention_overlay

    def kept(image, heat, **options):
        drawn.append((image.size, heat.shape))
        return draw(image, heat, **options)

    monkeypatch.setattr(plots, "attention_overlay", kept)
    Image.new("RGB", (1600, 900)).save(tmp_path / "photo.png")
    argv = ["attend", "--model", model_folder, "--image", str(tmp_path / "photo.png"), QUESTION]
    assert main([*argv, "--word", "ball", "--out", str(tmp_path / "a.png")]) == 0
    assert drawn == [((768, 432), (432, 768))]


def test_attend_leaves_the_picture_alone(model_folder, picture, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture.save("attention.png")
    before = Path("attention.png").read_bytes()
    argv = ["attend", "--model", model_folder, QUESTION]
    for more in (["--image", "attention.png"], ["--image", "./attention.png", "--out", "attention.png"]):
        assert "would replace attention.png" in mistake(capsys, *argv, *more)
    assert Path("attention.png").read_bytes() == before


def test_nothing_that_is_read_is_written_over(model_folder, image, records, tmp_path, capsys):
    page = Path(image).rename(tmp_path / "photo.html")
    before = records.read_bytes(), page.read_bytes()
    for argv in (
        ["inspect", "--model", model_folder, "--data", str(records), "--json", str(records)],
        ["inspect", "--model", model_folder, "--data", str(records), "--index", "0", "--html", str(records)],
        ["check", str(records), "--set", "pretrain", "--json", str(records)],
        ["convert", str(records), str(records)],
        ["attend", "--model", model_folder, "--image", str(page), QUESTION, "--json", str(page)],
        ["attend", "--model", model_folder, "--image", str(page), QUESTION, "--out", f"{tmp_path}/photo.png"],
    ):
        assert "would replace" in mistake(capsys, *argv), argv
    assert (records.read_bytes(), page.read_bytes()) == before
    clip = shutil.copytree(PRESETS["tiny"].vision_tower, tmp_path / "clip")
    line = mistake(capsys, "export", "--model", model_folder, "--folder", str(clip))
    assert "holds a 'clip' model, which a LLaVA would replace" in line
    CLIPVisionModel.from_pretrained(clip)


def test_outputs_are_looked_at_before_the_work(model_folder, image, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(commands, "_load", lambda args: pytest.fail("a model was loaded"))
    ask = ["attend", "--model", model_folder, "--image", image, QUESTION, "--out"]
    assert "is to end in .png" in mistake(capsys, *ask, str(tmp_path / "map.jpg"))
    assert "is to end in .png" in mistake(capsys, "toybox", "show", "--out", str(tmp_path / "t.jpg"))
    assert "is a folder" in mistake(capsys, *ask, str(tmp_path / "map.png"), "--json", str(tmp_path))
    several = ["evaluate", "--model", model_folder, str(tmp_path / "typo")]
    assert "typo" in mistake(capsys, *several)


def test_evaluate_prints_and_saves_the_same_numbers(model_folder, tmp_path, capsys, monkeypatch):
    from minillava.toybox import store

    draw = store.evaluation
    monkeypatch.setattr(store, "evaluation", lambda split, pictures, *which: draw(split, 1, *which))
    file = tmp_path / "accuracy.json"
    argv = ["evaluate", "--model", model_folder, "--split", "val", "--limit", "3"]
    assert main([*argv, "--baselines", "majority", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["questions"]["all"] == 3
    assert list(found["accuracy"]) == ["sighted", "majority"]
    assert f"{100 * found['accuracy']['majority']['all']:.1f}" in capsys.readouterr().out


def test_evaluate_shows_several_seeds_side_by_side(model_folder, tmp_path, capsys, monkeypatch):
    from minillava.toybox import store

    draw = store.evaluation
    monkeypatch.setattr(store, "evaluation", lambda split, pictures, *which: draw(split, 1, *which))
    file = tmp_path / "accuracy.json"
    argv = ["evaluate", "--split", "val", "--limit", "3", "--baselines", "majority", "--json", str(file)]
    assert main([*argv, "--model", model_folder, model_folder]) == 0
    one, two = json.loads(file.read_text())
    assert one == two
    value = f"{100 * one['accuracy']['sighted']['all']:.1f}"
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| all |")]
    assert f"| {value}, {value} |" in line and line.startswith(f"| all | {value} |")


def test_inspect_colors_what_is_supervised(model_folder, records, capsys):
    assert main(["inspect", "--model", model_folder, "--data", str(records), "--index", "3"]) == 0
    out = capsys.readouterr().out
    assert "r3" in out and "30 x 20" in out and "<image> x 16" in out
    assert "\033[1;32m" in out
    assert main(["inspect", "--model", model_folder, "--data", str(records)]) == 0
    assert "32 records: 32 with a picture" in capsys.readouterr().out


def test_inspect_leaves_a_page_of_the_sample_and_a_report_of_all(model_folder, records, tmp_path, capsys):
    page, report = tmp_path / "new" / "sample.html", tmp_path / "new" / "report.json"
    argv = ["inspect", "--model", model_folder, "--data", str(records)]
    assert main([*argv, "--index", "0", "--html", str(page)]) == 0
    assert 'class="answer"' in page.read_text() and "<img " in page.read_text()
    rows = json.loads(records.read_text())
    for row in rows[:25]:
        row["image"] = "nowhere.png"
    records.write_text(json.dumps(rows))
    assert main([*argv, "--json", str(report), "--max-length", "60"]) == 1
    found = json.loads(report.read_text())
    missing = [row["id"] for row in found["problems"] if row["kind"] == "missing picture"]
    assert missing == [f"r{i}" for i in range(25)]  # the screen lists 20
    assert {row["kind"] for row in found["problems"]} == {"missing picture", "picture cut"}
    assert "and 5 more" in capsys.readouterr().out


def test_convert_says_what_it_did(records, image, tmp_path, capsys):
    target = tmp_path / "records.parquet"
    assert "--image-root" in mistake(capsys, "convert", str(records), str(target))  # its path is absolute
    assert main(["convert", str(records), str(target), "--image-root", str(tmp_path)]) == 0
    assert "32 records, 32 pictures" in capsys.readouterr().out
    again = tmp_path / "again.jsonl"
    assert main(["convert", str(target), str(again), "--pictures", str(tmp_path / "out")]) == 0
    assert "32 records, 1 pictures" in capsys.readouterr().out
    (path,) = {json.loads(line)["image"] for line in again.read_text().splitlines()}
    assert (tmp_path / "out" / path).read_bytes() == open(image, "rb").read()  # though it was absolute


def test_a_file_without_records_is_no_success(model_folder, records, tmp_path, capsys):
    records.write_text("[]")
    assert main(["inspect", "--model", model_folder, "--data", str(records)]) == 1
    assert main(["convert", str(records), str(tmp_path / "out.jsonl")]) == 1
    assert "every record" not in capsys.readouterr().out
    argv = ["train", "stage1", "--data", str(records), "--from", model_folder]
    assert "None of 0 records" in mistake(capsys, *argv, "--run-dir", str(tmp_path / "run"))


def test_inspect_says_which_records_there_are(model_folder, records, capsys):
    argv = ["inspect", "--model", model_folder, "--data", str(records), "--index", "32"]
    assert "records 0 to 31, not 32" in mistake(capsys, *argv)


def test_toybox_shows_records_and_leaves_a_sheet(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert main(["toybox", "show", "--number", "2", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "toybox/scenes/questions/train/0/0" in shown and "human: " in shown and "gpt: " in shown
    assert Image.open(out).format == "PNG"
    assert "has no split 'nope'" in mistake(capsys, "toybox", "show", "--split", "nope")


def test_export_writes_a_folder_that_loads(model_folder, tmp_path):
    folder = tmp_path / "exported"
    assert main(["export", "--model", model_folder, "--folder", str(folder)]) == 0
    assert checkpoints.load(folder).config.image_seq_length == 16


def test_looking_at_records_fetches_no_weights(monkeypatch, model_folder, records, capsys):
    import huggingface_hub

    asked = []

    def snapshot(hub_id, allow_patterns):
        asked.append((hub_id, allow_patterns))
        return model_folder

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert main(["inspect", "--data", str(records), "--model", "llava-1.5-7b"]) == 0
    ((hub_id, patterns),) = asked
    assert hub_id == PRESETS["llava-1.5-7b"].finished and "*.json" in patterns
    assert not [pattern for pattern in patterns if "safetensors" in pattern or "bin" in pattern]


def test_what_is_not_shipped_yet_names_the_command_that_makes_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(doctor, "DATA", tmp_path)
    for name, made_by in (("tiny-clip", "pretrain clip"), ("tiny-llava", "reproduce")):
        argv = ["ask", "--model", str(tmp_path / name), "--image", "x.png", "What?"]
        line = mistake(capsys, *argv)
        assert f"no {tmp_path / name}" in line and f"minillava {made_by}" in line


def test_reproduce_and_pretrain_pass_their_arguments_on(tmp_path, monkeypatch, capsys):
    from minillava import reproduce
    from minillava.pretrain import clip, language

    calls = {}
    monkeypatch.setattr(commands, "need", lambda *folders: None)
    monkeypatch.setattr(reproduce, "reproduce", lambda *a, **k: calls.update(reproduce=(a, k)))
    assert main(["reproduce", "--run-dir", "there", "--seed", "3", "--fast-dev-run"]) == 0
    (folder, preset), options = calls["reproduce"]
    assert (str(folder), preset) == ("there", "tiny")
    assert options == {"seed": 3, "fast_dev_run": True, "processes": 1}
    assert main(["reproduce", "--preset", "tiny-long"]) == 0
    assert calls["reproduce"][0] == (None, "tiny-long")  # in runs/tiny-long
    cases = ([], 4, False, 2), ([], 1, False, 1), ([], 4, True, 1), (["3"], 1, True, 3)
    for given, threads, gpu, processes in cases:
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda gpu=gpu: gpu)
        assert main(["reproduce", *(word for n in given for word in ("--processes", n))]) == 0
        assert calls["reproduce"][1]["processes"] == processes

    for base, module, function in (
        ("clip", clip, "pretrain_clip"),
        ("lm", language, "pretrain_language"),
    ):
        monkeypatch.setattr(module, function, lambda *a, **k: calls.update(pretrain=(a, k)))
        folder = tmp_path / base
        assert main(["pretrain", base, "--folder", str(folder), "--seed", "4"]) == 0
        (given, tokenizer), options = calls["pretrain"]
        assert (given, options) == (folder, {"seed": 4})
        assert len(tokenizer) > 300
        assert str(folder / "README.md") in capsys.readouterr().out


def test_plan(capsys, tmp_path):
    wanted = ["plan", "--preset", "llava-1.5-13b", "--devices", "8", "--gpu", "a100-80gb"]
    assert main([*wanted, "--json", str(tmp_path / "plan.json")]) == 0
    assert "llava-1.5-13b stage2: --gpu a100-80gb --devices 8 --strategy fsdp2" in capsys.readouterr().out
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["fits"] and found["steps"] == 5198
    crowded = ["--micro-batch", "16", "--json", str(tmp_path / "other.json")]
    assert "what would fit: --gpu a100-80gb --devices 8" in mistake(capsys, *wanted, *crowded)
    assert not json.loads((tmp_path / "other.json").read_text())["fits"]
    assert main([*wanted, "--checkpointing", "--longest", "1024"]) == 0
    assert "the longest 1024; " in capsys.readouterr().out
    assert "so the longest cannot have 4096" in mistake(capsys, *wanted, "--longest", "4096")
    assert "3000 positions on average" in mistake(capsys, *wanted, "--length", "3000")
    assert main(["plan", "--preset", "llava-1.5-7b", "--gpu", "A100-80GB"]) == 0
    assert "memory is there once" in mistake(capsys, "plan", "--gpu", "cpu", "--devices", "8")
    assert "has the stages" in mistake(capsys, *wanted[:-2], "--preset", "tiny", "--stage", "scienceqa")
    assert main(["plan", "--preset", "tiny", "--stage", "stage1", "--gpu", "cpu"]) == 0
    assert "--gpu cpu --devices 1" in capsys.readouterr().out
