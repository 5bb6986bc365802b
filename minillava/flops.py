"""What a sample costs in arithmetic: floating-point operations of one training step, by formula.

A matrix product [a, b] x [b, c] takes 2abc of them, and training is little else. Letters as everywhere:
T positions (pictures included), N patches, D width, L layers, V vocabulary. A linear layer costs once for
its output, once for the gradient of its input and, if it trains, once for that of its weight: "6 per
parameter and token" where everything trains, 4 in stage 1, where the frozen language model only passes the
projector's gradient on.

These are counts by formula because no counter sees all of it: torch's FlopCounterMode, to which a test
holds them, misses the attention of fused kernels on a CPU.
"""

from dataclasses import dataclass

from transformers import LlavaConfig


@dataclass(frozen=True)
class Shapes:
    """What the formulas need of a model. `vision_layers` counts those that run (23 of 24 in LLaVA-1.5)."""

    patches: int
    patch_pixels: int
    vision_width: int
    vision_mlp: int
    vision_layers: int
    width: int
    mlp: int
    layers: int
    heads: int
    key_value_width: int
    vocabulary: int

    @classmethod
    def of(cls, config: LlavaConfig) -> "Shapes":
        """The shapes of a model's config, as `MiniLlava` runs it."""
        vision, text = config.vision_config, config.text_config
        return cls(
            patches=(vision.image_size // vision.patch_size) ** 2,
            patch_pixels=vision.num_channels * vision.patch_size**2,
            vision_width=vision.hidden_size,
            vision_mlp=vision.intermediate_size,
            vision_layers=range(vision.num_hidden_layers + 1)[config.vision_feature_layer],
            width=text.hidden_size,
            mlp=text.intermediate_size,
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            key_value_width=text.hidden_size // text.num_attention_heads * text.num_key_value_heads,
            vocabulary=text.vocab_size,
        )

    @property
    def layer_weights(self) -> int:
        """Weights of one decoder layer's matrices: q, o; k, v; gate, up, down. 4D² + 3D·MLP in a LLaMA."""
        return 2 * self.width**2 + 2 * self.width * self.key_value_width + 3 * self.width * self.mlp


@dataclass(frozen=True)
class Flops:
    """Floating-point operations by part; "layers" are the decoder's matrices, "attention" T x T products."""

    vision_tower: float = 0
    projector: float = 0
    layers: float = 0
    attention: float = 0
    head: float = 0
    adapters: float = 0
    recomputed: float = 0

    @property
    def model(self) -> float:
        """What the model asks for: the numerator of MFU, whatever is computed twice."""
        return sum(vars(self).values()) - self.recomputed

    @property
    def hardware(self) -> float:
        """What is computed, recomputation included: the numerator of HFU."""
        return self.model + self.recomputed

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(**{part: value + getattr(other, part) for part, value in vars(self).items()})

    def __mul__(self, times: float) -> "Flops":
        return Flops(**{part: value * times for part, value in vars(self).items()})


def sample_flops(
    shapes: Shapes,
    length: int,
    pictures: int = 1,
    trains: tuple[str, ...] = (),
    adapter_weights: int = 0,
    checkpointing: bool = False,
) -> Flops:
    """FLOPs of one sample of `length` positions, forward and, for what `trains`, backward.

    `trains` is `StageConfig.trains`; () is a forward pass alone. `adapter_weights` (LoRA) train in place
    of the language model. As MFU has it, the head and the last layer count at every position, although
    `decoder.decode` runs them only where an answer is read, and causal attention is not counted half.
    `checkpointing` computes each decoder layer twice but for its last matrix, whose result nothing needs.
    """
    n, d_v, d = shapes.patches, shapes.vision_width, shapes.width
    whole_model = "language_model" in trains and not adapter_weights
    passes = 3 if whole_model else 2 if trains else 1
    vision = 2 * (n + 1) * (4 * d_v**2 + 2 * d_v * shapes.vision_mlp) + 4 * (n + 1) ** 2 * d_v
    projector = 2 * n * (d_v * d + d**2)
    if "multi_modal_projector" in trains:  # its own weights, and the input of its second layer
        projector = 2 * projector + 2 * n * d**2
    layers = 2 * length * shapes.layers * shapes.layer_weights
    attention = 4 * shapes.layers * length**2 * d
    adapters = 2 * length * adapter_weights
    again = layers - 2 * length * shapes.layers * shapes.mlp * d + attention + adapters
    return Flops(
        vision_tower=pictures * (shapes.vision_layers * vision + 2 * n * shapes.patch_pixels * d_v),
        projector=pictures * projector,
        layers=passes * layers,
        attention=(3 if trains else 1) * attention,
        head=passes * 2 * length * d * shapes.vocabulary,
        adapters=(3 if trains else 1) * adapters,
        recomputed=again * checkpointing,
    )
