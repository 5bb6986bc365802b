"""On a GPU, where there is one: the CPU's answers and losses, and the same bits after an interruption."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import png, record
from lightning import Callback

import minillava
from minillava import attention, decoder, training
from minillava.config import PRESETS
from minillava.evaluation.toybox import held_out
from minillava.training import train_stage

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

STAGES = {
    name: replace(stage, batch_size=4, max_length=512) for name, stage in PRESETS["tiny"].stages.items()
}


@pytest.fixture
def records():
    colors = ["red", "blue", "green"] * 4
    return [record(str(i), png(color), f"A {color} ball.") for i, color in enumerate(colors)]


@pytest.fixture(scope="module")
def tiny():
    """The shipped model, on the CPU and on the GPU."""
    return minillava.load("tiny"), minillava.load("tiny").to("cuda")


def losses(make_model, records, folder, stage="stage2", device="gpu", strategy="auto", **changes):
    """The model that a short training leaves, and its losses step by step."""
    model = make_model()
    changes |= {"max_steps": 6, "epochs": 3, "trainer": {"accelerator": device, "strategy": strategy}}
    result = train_stage(model, STAGES[stage], records, folder, **changes)
    return model, result.curve["train"][1]


def test_answers_are_those_of_the_cpu(tiny):
    rows = held_out("test").select(range(64))
    pictures, questions = [row["image"]["bytes"] for row in rows], [row["question"] for row in rows]
    there, here = (model.answer_batch(pictures, questions, max_new_tokens=8) for model in tiny)
    assert sum(a == b for a, b in zip(there, here, strict=True)) >= 63  # a tie may fall the other way


def test_recorded_attention_is_that_of_the_cpu(tiny):
    row = held_out("test")[0]
    asked = (row["image"]["bytes"], row["question"])
    there, here = (attention.answer_maps(model, *asked, max_new_tokens=8) for model in tiny)
    assert there.answer == here.answer
    np.testing.assert_allclose(there.prompt.maps, here.prompt.maps, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shared", [0, 3])
def test_documents_at_once_are_those_one_by_one(make_model, monkeypatch, shared):
    model = make_model().language_model.to("cuda", torch.bfloat16)
    inputs = torch.randn(3, 40, 64, device="cuda", dtype=torch.bfloat16).requires_grad_()
    mask = (torch.arange(40) < torch.tensor([[40], [17], [9]])).to("cuda")
    read = mask & (torch.arange(40, device="cuda") > 5)
    found = []
    for at_once in (False, True):
        if not at_once:
            monkeypatch.setattr(decoder, "flashes", lambda *_: False)
        hidden = decoder.decode(model, inputs, mask, read, shared)
        found.append((hidden, torch.autograd.grad(hidden.float().square().sum(), inputs)[0]))
        monkeypatch.undo()
    for apart, together in zip(*found, strict=True):
        assert (together - apart).norm() < 0.02 * apart.norm()


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_float32_trains_as_on_the_cpu(make_model, records, tmp_path, stage):
    _, there = losses(make_model, records, tmp_path / "cpu", stage, "cpu")
    model, here = losses(make_model, records, tmp_path / "gpu", stage)
    assert here == pytest.approx(there, abs=2e-4)
    assert model.device.type == "cpu"  # where it came from


@pytest.mark.parametrize("changes", [{}, {"activation_checkpointing": True}, {"strategy": "fsdp2"}])
def test_mixed_precision_trains_alike(make_model, records, tmp_path, changes):
    _, exact = losses(make_model, records, tmp_path / "exact")
    _, mixed = losses(make_model, records, tmp_path / "mixed", precision="bf16-mixed", **changes)
    assert mixed == pytest.approx(exact, abs=0.05)
    assert (tmp_path / "mixed" / "stage2" / "model" / "model.safetensors").is_file()


def test_compiled_layers_train_alike(make_model, records, tmp_path):
    _, plain = losses(make_model, records, tmp_path / "plain")
    _, compiled = losses(make_model, records, tmp_path / "compiled", compiled=True)
    assert compiled == pytest.approx(plain, abs=2e-4)


def test_an_interrupted_stage_goes_on_to_the_same_bits(make_model, records, tmp_path, monkeypatch):
    class PullThePlug(Callback):
        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == 4:
                raise InterruptedError

    options = {"precision": "bf16-mixed", "save_every": 1}
    whole, _ = losses(make_model, records, tmp_path / "whole", **options)
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(training, "FiniteLoss", PullThePlug)
        losses(make_model, records, tmp_path / "cut", **options)
    again, _ = losses(make_model, records, tmp_path / "cut", **options)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_adapters_train_alike(make_model, records, tmp_path):
    pytest.importorskip("peft")
    _, there = losses(make_model, records, tmp_path / "cpu", "stage2-lora", "cpu")
    _, here = losses(make_model, records, tmp_path / "gpu", "stage2-lora")
    assert here[0] == pytest.approx(there[0], abs=2e-3)  # from here on dropout, drawn anew on each device
    assert here[-1] < here[0] - 1 and there[-1] < there[0] - 1
