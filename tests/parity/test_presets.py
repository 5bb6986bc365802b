"""Presets: what each stage of the real models comes to, against the paper's and the original's numbers.

The counts are arithmetic on the shapes of CLIP ViT-L/14-336 and Vicuna v1.5, with llava-hf's 32064 rows of
vocabulary where the original has 32000; batches, rates and epochs are those of scripts/v1_5 on 8 GPUs.
"""

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from minillava import lora
from minillava.config import PRESETS
from minillava.shapes import meta_model, stage_size

TOWER = 303_507_456
PROJECTOR = {"7b": 20_979_712, "13b": 31_467_520}
LANGUAGE = {"7b": 6_738_415_616 + 2 * 64 * 4096, "13b": 13_015_864_320 + 2 * 64 * 5120}
LORA = {"7b": 319_815_680, "13b": 500_695_040}
TRAINED = {
    "stage1": ("multi_modal_projector",),
    "stage2": ("multi_modal_projector", "language_model"),
    "stage2-lora": ("multi_modal_projector", "adapters"),
    "scienceqa": ("multi_modal_projector", "language_model"),
}
STEPS = {"stage1": (2181, 66), "stage2": (5198, 156), "stage2-lora": (5198, 156), "scienceqa": (1200, 36)}


@pytest.mark.parametrize("stage", TRAINED)
@pytest.mark.parametrize("size", PROJECTOR)
def test_parameters_and_steps_of_the_real_models(size, stage):
    found = stage_size(f"llava-1.5-{size}", stage)
    assert found.parameters == {
        "vision_tower": TOWER,
        "multi_modal_projector": PROJECTOR[size],
        "language_model": LANGUAGE[size],
        "adapters": LORA[size] if stage == "stage2-lora" else 0,
    }
    trained = {part: found.parameters[part] if part in TRAINED[stage] else 0 for part in found.parameters}
    assert found.trainable == trained
    assert found.total == sum(found.parameters.values())
    assert found.total_trainable == sum(trained.values())
    assert (found.steps, found.warmup_steps) == STEPS[stage]


def test_the_totals():
    assert stage_size("llava-1.5-7b", "stage1").total == 7_063_427_072
    assert stage_size("llava-1.5-13b", "stage1").total == 13_351_494_656


@pytest.mark.parametrize("size", PROJECTOR)
def test_the_real_models_have_the_names_and_shapes_that_transformers_gives_them(size):
    """Ours on the meta device, against transformers' LLaVA of the same config."""
    ours = meta_model(f"llava-1.5-{size}")
    with torch.device("meta"):
        theirs = LlavaForConditionalGeneration(ours.config)
    found = sorted(tuple(p.shape) for p in ours.parameters())
    assert found == sorted(tuple(p.shape) for p in theirs.parameters())
    assert all(p.is_meta for p in ours.parameters())
    text, vision = ours.config.text_config, ours.config.vision_config
    assert (text.vocab_size, ours.config.image_token_id, text.rms_norm_eps) == (32064, 32000, 1e-5)
    assert (text.max_position_embeddings, text.tie_word_embeddings) == (4096, False)
    assert (vision.hidden_act, vision.layer_norm_eps) == ("quick_gelu", 1e-5)
    assert (ours.config.vision_feature_layer, ours.num_image_tokens) == (-2, 576)


def test_tiny_is_counted_from_its_own_files():
    found = stage_size("tiny", "stage2-lora")
    model = meta_model("tiny")
    assert found.total - found.parameters["adapters"] == sum(p.numel() for p in model.parameters())
    assert found.trainable["language_model"] == 0
    lora.adapt(model, PRESETS["tiny"].stages["stage2-lora"].lora)
    assert found.trainable["adapters"] == sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)


def test_only_stage_2_groups_by_length_as_the_scripts_do():
    """--group_by_modality_length stands in finetune.sh and finetune_lora.sh, not in pretrain.sh and
    finetune_sqa.sh."""
    stages = PRESETS["llava-1.5-7b"].stages
    grouped = [name for name, stage in stages.items() if stage.group_by_modality_length]
    assert grouped == ["stage2", "stage2-lora"]


def test_steps_follow_the_records():
    assert stage_size("tiny", "stage1", samples=33).steps == 9  # batches of 4
    with pytest.raises(ValueError, match="tiny has the stages .*, not scienceqa"):
        stage_size("tiny", "scienceqa")


@pytest.mark.parametrize("preset", ["llava-1.5-7b", "llava-1.5-13b"])
def test_recipes(preset):
    """Batch, rates, epochs, template and aspect of scripts/v1_5/*.sh and scripts/finetune_sqa.sh."""
    stages = PRESETS[preset].stages
    rows = {
        name: (s.batch_size, s.learning_rate, s.projector_learning_rate, s.epochs, s.template, s.aspect)
        for name, s in stages.items()
    }
    assert rows == {
        "stage1": (256, 1e-3, None, 1, "plain", "square"),
        "stage2": (128, 2e-5, None, 1, "v1", "pad"),
        "stage2-lora": (128, 2e-4, 2e-5, 1, "v1", "pad"),
        "scienceqa": (128, 2e-5, None, 12, "v1", "square"),
    }
    lora = stages["stage2-lora"].lora
    assert (lora.rank, lora.alpha, lora.dropout) == (128, 256, 0.05)
    for stage in stages.values():
        assert (stage.warmup_ratio, stage.weight_decay, stage.max_length) == (0.03, 0.0, 2048)
        assert (stage.betas, stage.precision) == ((0.9, 0.999), "bf16-mixed")
    assert {s.lora for name, s in stages.items() if name != "stage2-lora"} == {None}
