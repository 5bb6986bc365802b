"""A stage that was interrupted: it goes on to the same bits, and no other run is taken for it."""

import csv
import math
from dataclasses import replace

import pytest
import torch
from helpers import captions, pictures_and_texts

from minillava import training
from minillava.config import PRESETS
from minillava.optimization import cosine_with_warmup
from minillava.training import train_stage

STAGES = {
    name: replace(stage, batch_size=2, max_length=512) for name, stage in PRESETS["tiny"].stages.items()
}


@pytest.fixture
def records(picture):
    return pictures_and_texts(picture)


def test_an_interrupted_stage_goes_on_to_the_same_bits(make_model, records, tmp_path):
    kwargs = {"max_steps": 6, "save_every": 1, "epochs": 3}
    whole = make_model()
    train_stage(whole, STAGES["stage2"], records, tmp_path / "whole", **kwargs)

    class Stop(Exception):
        pass

    from lightning import Callback

    class PullThePlug(Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 4:
                raise Stop

    broken = make_model()
    original = training.FiniteLoss
    try:
        training.FiniteLoss = PullThePlug
        with pytest.raises(Stop):
            train_stage(broken, STAGES["stage2"], records, tmp_path / "cut", **kwargs)
    finally:
        training.FiniteLoss = original
    again = make_model()
    result = train_stage(again, STAGES["stage2"], records, tmp_path / "cut", **kwargs)
    assert result.resumed_from == 4
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    curves = [(tmp_path / f / "stage2" / "curve.csv").read_text() for f in ("whole", "cut")]
    assert curves[0] == curves[1]
    rates = [float(row["learning_rate"]) for row in csv.DictReader(curves[0].splitlines())]
    peak, warmup = STAGES["stage2"].projector_learning_rate, STAGES["stage2"].warmup_ratio
    expected = [peak * cosine_with_warmup(step, math.ceil(warmup * 6), 6) for step in range(6)]
    assert rates == pytest.approx(expected)  # the first step's is 0: it is the step's own, not the next one's


def test_a_finished_stage_asked_for_again_trains_nothing_and_forgets_nothing(make_model, records, tmp_path):
    kwargs = {"max_steps": 4, "save_every": 2, "validation": records[:2], "validations": 2}
    first, again = make_model(), make_model()
    one = train_stage(first, STAGES["stage2"], records, tmp_path, **kwargs)
    two = train_stage(again, STAGES["stage2"], records, tmp_path, **kwargs)
    assert (two.resumed_from, two.steps) == (4, 4)
    assert 0 < two.seconds <= one.seconds  # how long training took, not how long it took to find it done
    assert one.curve == two.curve and len(one.curve["val"][0]) == 2
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_checkpoints_hold_only_what_changed(make_model, records, tmp_path):
    model = make_model()
    train_stage(model, STAGES["stage1"], captions(records), tmp_path, max_steps=2, save_every=1)
    saved = torch.load(tmp_path / "stage1" / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[1] for name in saved} == {"multi_modal_projector"}


def test_a_checkpoint_of_another_shape_is_named_with_both_shapes(make_model, records, tmp_path):
    train_stage(make_model(), STAGES["stage1"], captions(records), tmp_path, max_steps=2, save_every=1)
    file = tmp_path / "stage1" / "last.ckpt"
    saved = torch.load(file, weights_only=True)
    key = "model.multi_modal_projector.linear_1.bias"
    saved["state_dict"][key] = torch.zeros(3)
    torch.save(saved, file)
    with pytest.raises(ValueError, match=r"linear_1.bias is \[3\] there"):
        train_stage(make_model(), STAGES["stage1"], captions(records), tmp_path, max_steps=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": 0.5}, r"learning_rate = 0\.\d+; this run has learning_rate = 0\.5"),
        ({"max_steps": 3}, "steps = 2; this run has steps = 3"),
        ({"weighing": "token"}, "weighing = pass"),
    ],
)
def test_another_run_is_not_taken_for_the_interrupted_one(make_model, records, tmp_path, change, words):
    same = {"max_steps": 2, "save_every": 1}
    train_stage(make_model(), STAGES["stage1"], captions(records), tmp_path, **same)
    with pytest.raises(ValueError, match=words):
        train_stage(make_model(), STAGES["stage1"], captions(records), tmp_path, **same | change)


def test_a_finished_stage_shorter_than_a_save_is_known_again(make_model, records, tmp_path):
    same = captions(records), tmp_path
    train_stage(make_model(), STAGES["stage1"], *same, max_steps=2)
    with pytest.raises(ValueError, match="steps = 2; this run has steps = 3"):
        train_stage(make_model(), STAGES["stage1"], *same, max_steps=3)
    assert train_stage(make_model(), STAGES["stage1"], *same, max_steps=2).resumed_from == 2


def test_other_data_of_the_same_size_and_other_bases_are_not_taken_for_the_same(
    make_model, records, tmp_path
):
    same = {"max_steps": 2, "save_every": 1}
    train_stage(make_model(), STAGES["stage1"], captions(records), tmp_path, **same)
    others = captions(records)
    asked = others[0]["conversations"][0]
    others[0] = others[0] | {"conversations": [asked, {"from": "gpt", "value": "No."}]}
    with pytest.raises(ValueError, match=r"records = \w+; this run has records"):
        train_stage(make_model(), STAGES["stage1"], others, tmp_path, **same)
    model = make_model()
    with torch.no_grad():
        model.language_model.lm_head.weight[0] += 1
    with pytest.raises(ValueError, match="frozen weights"):
        train_stage(model, STAGES["stage1"], captions(records), tmp_path, **same)
    recomputing = train_stage(
        make_model(), STAGES["stage1"], captions(records), tmp_path, activation_checkpointing=True, **same
    )
    assert recomputing.resumed_from == 2


def test_an_answer_that_speaks_of_steps_is_no_step(make_model, records, picture, tmp_path, monkeypatch):
    said = "first:\nstep by step\nstep 900\né"
    monkeypatch.setattr("minillava.model.MiniLlava.answer_batch", lambda *given, **options: [said])
    options = {"validation": records[:2], "validations": 2, "probes": [(picture, "How?")], "save_every": 2}
    for _ in range(2):
        train_stage(make_model(), STAGES["stage2"], records, tmp_path, max_steps=4, **options)
        text = (tmp_path / "stage2" / "generations.txt").read_text(encoding="utf-8")
        assert text.count("step by step") == text.count("é") == 2


def test_answers_of_steps_that_are_done_again_are_written_once(make_model, records, picture, tmp_path):
    options = {"validation": records[:2], "validations": 2, "probes": [(picture, "How?")], "save_every": 2}
    train_stage(make_model(), STAGES["stage2"], records, tmp_path, max_steps=4, **options)
    file = tmp_path / "stage2" / "generations.txt"
    whole = file.read_text()
    with file.open("a") as out:
        out.write("step 6\n  'How?' -> of a run that was killed after\n")
    with (tmp_path / "stage2" / "curve.csv").open("a") as out:
        out.write("5,train")  # cut off by the kill
    train_stage(make_model(), STAGES["stage2"], records, tmp_path, max_steps=4, **options)
    assert file.read_text() == whole
