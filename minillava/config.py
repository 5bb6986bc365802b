"""Presets: every number of the recipe, as data.

A preset names its bases and holds one `StageConfig` per training stage. The tiny preset and the real ones
run the same code; they differ only in the values on this page. Sources: `P1` is LLaVA (arXiv 2304.08485),
`P2` is LLaVA-1.5 (arXiv 2310.03744), script names are those of haotian-liu/LLaVA at c121f04.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

IGNORE_INDEX = -100
"""Label of a position that does not enter the loss (PyTorch's `ignore_index`)."""

STRATEGIES = ("auto", "ddp", "fsdp2")
"""How several devices divide the work: `parallel.choose` makes Lightning's strategies of these names."""

DATA = Path(__file__).resolve().parent.parent / "data"
"""The shipped bases, finished model and evaluation set."""


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on the language model's linear layers (scripts/v1_5/finetune_lora.sh)."""

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05


@dataclass(frozen=True)
class StageConfig:
    """One training stage: what trains, on which kind of sample, with which optimizer settings.

    `trains` names submodules of `MiniLlava`; everything else is frozen. `batch_size` is the global batch
    (all devices and accumulation steps together). `max_length` counts image positions. `max_grad_norm`,
    None for none, is our choice: the original's DeepSpeed files set no clipping. `precision` is Lightning's;
    "bf16-mixed" computes in bfloat16 and keeps the weights that train in float32, as DeepSpeed does in the
    original: in bfloat16 alone, of weights drawn from N(0, 0.02) seven in ten are too large to feel a step
    of 2e-5.

    `group_by_modality_length` orders the samples so that those of a step have one modality and like lengths
    (`sampler.grouped_indices`), as the original does in stage 2 alone; else their order is drawn by lot.
    `weighing` is what counts alike in a step's loss: the "pass" of a device, as in the original (the mean
    over its tokens, then over passes and devices), or the "token", whatever pass it came in.
    `activation_checkpointing` computes a decoder layer's activations again for its gradients: less memory,
    the same numbers, one more forward pass of work.
    `compiled` has torch.compile fuse what decoder layers do around attention: worth its minute on a GPU.
    """

    name: str
    trains: tuple[str, ...]
    template: str
    aspect: str
    learning_rate: float
    batch_size: int
    projector_learning_rate: float | None = None
    epochs: int = 1
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float | None = 1.0
    max_length: int = 2048
    samples: int | None = None
    precision: str = "bf16-mixed"
    lora: LoraConfig | None = None
    group_by_modality_length: bool = False
    weighing: Literal["pass", "token"] = "pass"
    activation_checkpointing: bool = False
    compiled: bool = False

    def steps(self, samples: int | None = None) -> int:
        """Optimizer steps of the stage over `samples` records (default: the preset's own data)."""
        samples = self.samples if samples is None else samples
        if not samples:
            raise ValueError(f"{self.name}: give a positive number of samples, not {samples}.")
        return -(-samples // self.batch_size) * self.epochs

    def warmup_steps(self, samples: int | None = None) -> int:
        """Linear warm-up steps: `warmup_ratio` of all steps, rounded up as `transformers` does."""
        return math.ceil(self.warmup_ratio * self.steps(samples))


STAGE1 = StageConfig(
    name="stage1",
    trains=("multi_modal_projector",),
    template="plain",
    aspect="square",
    learning_rate=1e-3,
    batch_size=256,
    samples=558_128,
)
"""Feature alignment on LLaVA-Pretrain 558K (scripts/v1_5/pretrain.sh)."""

STAGE2 = StageConfig(
    name="stage2",
    trains=("multi_modal_projector", "language_model"),
    template="v1",
    aspect="pad",
    learning_rate=2e-5,
    batch_size=128,
    samples=665_298,
    group_by_modality_length=True,
)
"""Visual instruction tuning on llava_v1_5_mix665k (scripts/v1_5/finetune.sh)."""

STAGE2_LORA = replace(
    STAGE2, name="stage2-lora", learning_rate=2e-4, projector_learning_rate=2e-5, lora=LoraConfig()
)
"""Stage 2 with adapters in place of the full language model (scripts/v1_5/finetune_lora.sh)."""

SCIENCEQA = replace(
    STAGE2, name="scienceqa", aspect="square", epochs=12, samples=12_726, group_by_modality_length=False
)
"""The ScienceQA recipe of LLaVA v1 (scripts/finetune_sqa.sh)."""


CLIP_L_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
"""CLIP ViT-L/14 at 336 pixels, by transformers' names (config.json of openai/clip-vit-large-patch14-336)."""

VICUNA_7B = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,  # transformers' LlamaConfig would take 1e-6
}
"""Vicuna-7B v1.5 is LLaMA-2-7B in shape (config.json of lmsys/vicuna-7b-v1.5)."""

VICUNA_13B = VICUNA_7B | {
    "hidden_size": 5120,
    "intermediate_size": 13_824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
}
"""Vicuna-13B v1.5 (config.json of lmsys/vicuna-13b-v1.5)."""


@dataclass(frozen=True)
class Preset:
    """Two bases, a projector between them, and the stages that join them.

    `vision_tower` and `language_model` are folders or hub ids; `finished` is the trained result.
    `vision_sizes` and `text_sizes` are the bases in numbers, where these are not in a folder here.
    `select_layer` -2 and the dropped CLS token: llava/model/multimodal_encoder/clip_encoder.py.
    """

    name: str
    vision_tower: str
    language_model: str
    finished: str
    stages: dict[str, StageConfig] = field(default_factory=dict)
    projector: str = "mlp2x_gelu"
    select_layer: int = -2
    vision_sizes: dict[str, float] | None = None
    text_sizes: dict[str, float] | None = None

    def stage(self, name: str) -> StageConfig:
        """The row of a stage; ValueError, with those there are, if the preset has none of that name."""
        if name not in self.stages:
            raise ValueError(f"The preset {self.name} has the stages {', '.join(self.stages)}, not {name}.")
        return self.stages[name]


SHORT = {
    "betas": (0.9, 0.98),
    "warmup_ratio": 0.05,
    "max_length": 512,
    "precision": "32-true",
    "group_by_modality_length": True,
}
"""What both stages of minutes have in common."""

TINY = Preset(
    name="tiny",
    vision_tower=str(DATA / "tiny-clip"),
    language_model=str(DATA / "tiny-vicuna"),
    finished=str(DATA / "tiny-llava"),
    stages={
        # Small batches, high rates, a short memory: the models are a thousandth of the size, and have
        # minutes. With the original's beta of 0.999 the first steps' gradients, the largest, hold the
        # others back to the end (objects in captions: F1 0.82; with 0.98 and a longer warm-up 0.85).
        # Of the same captions, in batches of 16 stage 1 learned 45 % of signs' first characters, in
        # batches of 8 it learned 70 %, of 4 89 %. At 2e-3 the language model forgot in stage 2: of
        # counts told in words it had 83 % right before, 65 % after; at 1e-3 79 %.
        "stage1": replace(
            STAGE1,
            batch_size=4,
            learning_rate=6e-3,
            samples=6_400,
            **SHORT,
        ),
        "stage2": replace(
            STAGE2,
            batch_size=8,
            learning_rate=1e-3,
            projector_learning_rate=2e-3,
            samples=8_400,
            **SHORT,
        ),
        # About the share of the width that 128 is of 4096, and the same alpha / r.
        "stage2-lora": replace(
            STAGE2_LORA,
            batch_size=16,
            learning_rate=2e-3,
            projector_learning_rate=1e-3,
            samples=8_400,
            max_length=512,
            precision="32-true",
            lora=LoraConfig(rank=8, alpha=16),
        ),
    },
)

TINY_LONG = replace(
    TINY,
    name="tiny-long",
    stages=TINY.stages
    | {
        "stage1": replace(TINY.stages["stage1"], samples=25_600),
        "stage2": replace(TINY.stages["stage2"], samples=48_000),
    },
)
"""Four times the captions and nearly six times the conversations, an hour: signs, lessons, sketches, boxes
and counts gain. It made the shipped tiny-llava."""

PRESETS = {
    preset.name: preset
    for preset in (
        TINY,
        TINY_LONG,
        Preset(
            name="llava-1.5-7b",
            vision_tower="openai/clip-vit-large-patch14-336",
            language_model="lmsys/vicuna-7b-v1.5",
            finished="llava-hf/llava-1.5-7b-hf",
            stages={s.name: s for s in (STAGE1, STAGE2, STAGE2_LORA, SCIENCEQA)},
            vision_sizes=CLIP_L_336,
            text_sizes=VICUNA_7B,
        ),
        Preset(
            name="llava-1.5-13b",
            vision_tower="openai/clip-vit-large-patch14-336",
            language_model="lmsys/vicuna-13b-v1.5",
            finished="llava-hf/llava-1.5-13b-hf",
            stages={s.name: s for s in (STAGE1, STAGE2, STAGE2_LORA, SCIENCEQA)},
            vision_sizes=CLIP_L_336,
            text_sizes=VICUNA_13B,
        ),
    )
}
