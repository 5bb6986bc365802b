"""Stage 2 with LoRA: what moves, what is saved, and that an interrupted run ends as the whole one."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import same

from minillava import checkpoints, lora, training
from minillava.config import PRESETS, LoraConfig
from minillava.optimization import freeze, parameter_groups
from minillava.training import train_stage

STAGE = replace(PRESETS["tiny"].stages["stage2-lora"], batch_size=2)


@pytest.fixture
def records(picture):
    def turns(question, answer):
        return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]

    seen = [
        {"id": f"r{i}", "image": picture, "conversations": turns("<image>\nWhat is there?", "a red thing")}
        for i in range(6)
    ]
    return seen + [{"id": f"t{i}", "conversations": turns("Say yes.", "yes")} for i in range(2)]


@pytest.fixture
def base(make_model, tmp_path):
    return checkpoints.save(make_model(), tmp_path / "base")


def test_adapters_and_projector_train_and_nothing_else(make_model):
    model = make_model()
    lora.adapt(model, STAGE.lora)
    names = freeze(model, STAGE)
    layers = {f"{name}.lora_{half}.default.weight" for name in lora.adapted(model) for half in "AB"}
    projector = {n for n, _ in model.named_parameters() if n.startswith("multi_modal_projector.")}
    assert set(names) == layers | projector
    groups = parameter_groups(model, STAGE)
    assert {group["lr"] for group in groups} == {STAGE.learning_rate, STAGE.projector_learning_rate}
    own = [g["params"] for g in groups if g["lr"] == STAGE.projector_learning_rate]
    assert sum(len(params) for params in own) == len(projector) == 4


def test_a_stage_with_lora_moves_every_adapted_layer(base, records, tmp_path):
    before, model = checkpoints.load(base), checkpoints.load(base)
    result = train_stage(model, STAGE, records, tmp_path, max_steps=2, warmup_ratio=0.5)
    weights, old = model.state_dict(), before.state_dict()
    moved = {name for name in weights if not torch.equal(weights[name], old[name])}
    targets = {name for name in old if name.split(".")[-2] in lora.TARGETS and "vision" not in name}
    assert moved == targets | {name for name in old if name.startswith("multi_modal_projector.")}
    assert result.steps == 2 and not lora.adapted(model)


def test_it_leaves_adapters_and_a_merged_model(base, records, tmp_path):
    model = checkpoints.load(base)
    train_stage(model, STAGE, records, tmp_path, max_steps=2, save_every=1, warmup_ratio=0.5)
    folder = tmp_path / "stage2-lora"
    saved = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    assert all(".lora_" in key or "multi_modal_projector" in key for key in saved)
    assert len(saved) == 2 * 2 * len(lora.TARGETS) + 4
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base)
    assert settings["target_modules"] == sorted(lora.TARGETS)
    assert same(checkpoints.load(folder / "model"), model)
    assert same(checkpoints.load(folder / "adapter"), model)
    assert same(checkpoints.load(tmp_path / "stage2-lora"), model)


def test_a_model_with_adapters_does_not_train_without(base, records, tmp_path):
    model = checkpoints.load(base)
    lora.adapt(model, STAGE.lora)
    with pytest.raises(ValueError, match="stage2 trains no adapters, but the model has some"):
        train_stage(model, PRESETS["tiny"].stages["stage2"], records, tmp_path)


def test_training_leaves_the_random_state_alone_and_its_seed_decides(base, records, tmp_path):
    models = [checkpoints.load(base) for _ in range(3)]
    torch.manual_seed(7)
    expected = torch.rand(3)
    for model, seed, folder in zip(models, (1, 1, 2), "abc", strict=True):
        torch.manual_seed(7)
        train_stage(model, STAGE, records, tmp_path / folder, max_steps=2, seed=seed)
        assert torch.equal(torch.rand(3), expected)
    assert same(models[0], models[1]) and not same(models[0], models[2])


def test_an_interrupted_stage_goes_on_to_the_same_bits_though_dropout_draws(
    base, records, tmp_path, monkeypatch
):
    options = {"max_steps": 6, "epochs": 3, "save_every": 1, "device_batch": 1}
    stage = replace(STAGE, lora=LoraConfig(4, 8, dropout=0.5))

    class Plug(training.FiniteLoss):
        at = -1

        def on_train_batch_start(self, trainer, *args):
            if trainer.global_step == self.at:
                raise KeyError("plug pulled")

    monkeypatch.setattr(training, "FiniteLoss", Plug)
    train_stage(checkpoints.load(base), stage, records, tmp_path / "whole", **options)
    Plug.at = 3
    with pytest.raises(KeyError, match="plug pulled"):
        train_stage(checkpoints.load(base), stage, records, tmp_path / "cut", **options)
    Plug.at = -1
    torch.manual_seed(9)  # what the second process starts with must not matter
    result = train_stage(checkpoints.load(base), stage, records, tmp_path / "cut", **options)
    assert result.resumed_from == 3
    whole, cut = (tmp_path / run / "stage2-lora" for run in ("whole", "cut"))
    for name in ("adapter/adapter_model.safetensors", "model/model.safetensors", "curve.csv"):
        assert (whole / name).read_bytes() == (cut / name).read_bytes(), name


@pytest.mark.parametrize("name", ["stage1", "stage2", "stage2-lora"])
def test_every_stage_of_a_half_precision_model_in_mixed_precision(
    make_model, records, picture, tmp_path, name
):
    """As the real presets run: frozen weights in bfloat16, those that train in float32, answers between."""
    model = make_model().bfloat16()
    stage = replace(PRESETS["tiny"].stages[name], batch_size=2, precision="bf16-mixed")
    data = records[:6] if name == "stage1" else records
    options = {"validation": data[:2], "validations": 1, "probes": [(picture, "How many?"), (None, "How?")]}
    result = train_stage(model, stage, data, tmp_path, max_steps=2, save_every=1, **options)
    saved = torch.load(result.folder / "last.ckpt", weights_only=True)["state_dict"]
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert len(result.generations) == 2 and len(result.curve["val"][0]) == 1
