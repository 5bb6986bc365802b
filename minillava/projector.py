"""The projector: turns what the vision tower sees into what the language model reads.

It is the only part of LLaVA that starts from nothing. Stage 1 trains it alone.
"""

from torch import Tensor, nn
from transformers import LlavaConfig


class Projector(nn.Module):
    """One or two linear layers from the vision tower's width D_v to the language model's width D.

    LLaVA-1.5's `mlp2x_gelu` is linear, exact (erf) GELU, linear, with biases
    (llava/model/multimodal_projector/builder.py); LLaVA v1's `linear` is the first layer alone.
    The layers bear the names that llava-hf gives them; the original calls them `mm_projector.0`
    and `mm_projector.2`.

    The weights start as PyTorch's `nn.Linear` does (uniform in ±1/sqrt(fan_in)), as in the
    original; `transformers` would draw from N(0, 0.02) with zero bias.
    """

    def __init__(self, vision_width: int, text_width: int, hidden: bool) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision_width, text_width)
        if hidden:
            self.act = nn.GELU()
            self.linear_2 = nn.Linear(text_width, text_width)

    def forward(self, features: Tensor) -> Tensor:
        """Patch features [..., N, D_v] -> embeddings [..., N, D], each patch on its own."""
        embeds = self.linear_1(features)
        return self.linear_2(self.act(embeds)) if hasattr(self, "linear_2") else embeds


def projector_type(config: LlavaConfig) -> str:
    """The projector a config asks for; llava-hf's own configs only know LLaVA-1.5's."""
    return getattr(config, "mm_projector_type", "mlp2x_gelu")


def build_projector(kind: str, vision_width: int, text_width: int) -> Projector:
    """A freshly initialized projector of `kind` "linear" or "mlp2x_gelu".

    At LLaVA-1.5's sizes (D_v 1024) `mlp2x_gelu` has 20,979,712 parameters for D 4096 (7B) and
    31,467,520 for D 5120 (13B). Any other `kind` raises ValueError.
    """
    if kind not in ("linear", "mlp2x_gelu"):
        raise ValueError(
            f"Unknown projector {kind!r}: use 'mlp2x_gelu' (LLaVA-1.5) or 'linear' (v1)."
        )
    return Projector(vision_width, text_width, hidden=kind == "mlp2x_gelu")
