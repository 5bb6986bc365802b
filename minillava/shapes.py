"""What a stage of a preset comes to before anything is downloaded or trained: parameters and steps.

The model stands on PyTorch's meta device, which knows shapes and holds no numbers: LLaVA-1.5-13B takes
seconds there and no memory.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from transformers import LlavaConfig
from transformers.initialization import no_init_weights

from minillava import lora
from minillava.bases import base_configs, join_configs, read_tokenizer
from minillava.config import PRESETS, Preset
from minillava.conversation import IMAGE_TOKEN
from minillava.model import MiniLlava
from minillava.optimization import freeze
from minillava.weights import find

PARTS = ("vision_tower", "multi_modal_projector", "language_model", "adapters")


@dataclass(frozen=True)
class StageSize:
    """One stage in numbers. `parameters` and `trainable` count the weights of each of PARTS."""

    preset: str
    stage: str
    parameters: dict[str, int]
    trainable: dict[str, int]
    steps: int
    warmup_steps: int

    @property
    def total(self) -> int:
        """All parameters of the model, adapters included."""
        return sum(self.parameters.values())

    @property
    def total_trainable(self) -> int:
        """Those that the stage trains."""
        return sum(self.trainable.values())


def meta_config(preset: str | Preset) -> LlavaConfig:
    """The config of the preset's model, its vocabulary with `<image>` and `<pad>`. Takes no network."""
    preset = PRESETS[preset] if isinstance(preset, str) else preset
    vision, text = base_configs(preset)
    image_token_id = text.vocab_size
    if preset.text_sizes is None:
        image_token_id = read_tokenizer(find(preset.language_model)).get_vocab()[IMAGE_TOKEN]
    else:  # as `bases.grow_vocabulary`: two tokens more, rounded up to a multiple of 64
        text.vocab_size = -(-(text.vocab_size + 2) // 64) * 64
    return join_configs(vision, text, image_token_id, preset.select_layer)


def meta_model(preset: str | Preset) -> MiniLlava:
    """The preset's model on the meta device: bases and projector. The real ones are built from numbers."""
    with torch.device("meta"), no_init_weights():
        return MiniLlava(meta_config(preset))


def stage_size(preset: str | Preset, stage: str, samples: int | None = None) -> StageSize:
    """Parameters, steps and warm-up of one stage, over `samples` records (default: the preset's own).

    Raises ValueError for a stage that the preset does not have.
    """
    preset = PRESETS[preset] if isinstance(preset, str) else preset
    row = preset.stage(stage)
    model = meta_model(preset)
    freeze(model, row)
    parameters, trainable = Counter(dict.fromkeys(PARTS, 0)), Counter(dict.fromkeys(PARTS, 0))
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        parameters[part] += parameter.numel()
        trainable[part] += parameter.numel() * parameter.requires_grad
    if row.lora:
        parameters["adapters"] = trainable["adapters"] = lora.weights(model, row.lora)
    return StageSize(
        preset=preset.name,
        stage=stage,
        parameters=dict(parameters),
        trainable=dict(trainable),
        steps=row.steps(samples),
        warmup_steps=row.warmup_steps(samples),
    )
