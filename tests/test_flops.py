"""flops.py: the formulas, against torch's own counter and by hand."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minillava import lora
from minillava.config import PRESETS, LoraConfig
from minillava.flops import Flops, Shapes, sample_flops
from minillava.optimization import freeze
from minillava.shapes import meta_config

STAGES = PRESETS["llava-1.5-7b"].stages
TEXT, N = 21, 16
"""Positions of text and of a picture."""


@pytest.fixture
def counted(make_model, tokenizer):
    """counted(stage, pictures=1, ...): torch's count of one sample, and the model."""

    def count(stage, pictures=1, checkpointing=False, adapters=None, backward=True):
        model = make_model()
        if adapters:
            lora.adapt(model, adapters)
            stage = replace(stage, lora=adapters)
        freeze(model, stage)
        model.train(checkpointing)  # transformers recomputes in training only
        for part in (model.language_model, model.vision_tower):
            part.set_attn_implementation("eager")  # fused kernels are not all counted
        if checkpointing:
            model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
        image = tokenizer.convert_tokens_to_ids("<image>")
        ids = torch.tensor([[1] + [image] * N * pictures + list(range(270, 269 + TEXT))])
        labels = torch.full_like(ids, -100)
        labels[:, -5:] = ids[:, -5:]
        with FlopCounterMode(display=False) as counter:
            out = model(ids, torch.randn(pictures, 3, 16, 16), labels=labels)
            if backward:
                out.loss.backward()
        return counter.get_total_flops(), model

    return count


@pytest.mark.parametrize("pictures", [0, 1, 2])
@pytest.mark.parametrize("name", ["stage1", "stage2"])
def test_training_costs_what_torch_counts(counted, name, pictures):
    stage = STAGES[name]
    found, model = counted(stage, pictures)
    shapes = Shapes.of(model.config)
    assert (shapes.patches, shapes.vision_layers) == (N, 2)  # of three: the feature is the last but one's
    wanted = sample_flops(shapes, TEXT + N * pictures, pictures, stage.trains)
    assert found == pytest.approx(wanted.model, rel=1e-3)


def test_a_forward_pass_alone(counted):
    found, model = counted(STAGES["stage2"], backward=False)
    assert found == pytest.approx(sample_flops(Shapes.of(model.config), TEXT + N).model, rel=1e-3)


def test_recomputed_layers_are_hardware_flops_and_no_model_flops(counted):
    trains = STAGES["stage2"].trains
    found, model = counted(STAGES["stage2"], checkpointing=True)
    wanted = sample_flops(Shapes.of(model.config), TEXT + N, 1, trains, checkpointing=True)
    assert found == pytest.approx(wanted.hardware, rel=1e-3)
    assert wanted.model == sample_flops(Shapes.of(model.config), TEXT + N, 1, trains).model


def test_adapters(counted):
    found, model = counted(STAGES["stage2"], adapters=LoraConfig(rank=4, alpha=8, dropout=0.0))
    adapters = sum(p.numel() for name, p in model.named_parameters() if ".lora_" in name)
    wanted = sample_flops(Shapes.of(model.config), TEXT + N, 1, STAGES["stage2"].trains, adapters)
    assert found == pytest.approx(wanted.model, rel=1e-3)


def test_a_hundred_positions_of_7b_by_hand():
    shapes = Shapes.of(meta_config("llava-1.5-7b"))
    assert shapes.layer_weights * 32 == 6_476_005_376  # Vicuna-7B without embeddings, head and norms
    forward = sample_flops(shapes, 100, pictures=0)
    assert forward == Flops(
        layers=2 * 100 * 6_476_005_376, attention=4 * 32 * 100**2 * 4096, head=2 * 100 * 4096 * 32064
    )
    stage1 = sample_flops(shapes, 100, 0, STAGES["stage1"].trains)
    stage2 = sample_flops(shapes, 100, 0, STAGES["stage2"].trains)
    assert stage1.layers == 2 * forward.layers and stage2.layers == 3 * forward.layers
    assert stage1.attention == stage2.attention == 3 * forward.attention
    assert (forward + forward * 2).model == 3 * forward.model
