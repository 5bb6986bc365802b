"""tiny-CLIP as a model: its sizes, its grid of positions, and what it makes of pictures and of texts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from minillava.images import PatchGeometry
from minillava.toybox.scene import SIZE

PATCH = 12
"""Edge of a patch in pixels: a picture of SIZE pixels has 8 x 8 of them."""

GEOMETRY = PatchGeometry(SIZE, SIZE, SIZE, PATCH, "square")
"""Where the patches of a picture lie."""

_TOGETHER = 64
"""Texts that pass the text model at once."""

POSITIONS = 0.1
"""Standard deviation of the position embeddings at the start."""


def build_clip(vocab_size: int, bos: int, pad: int) -> CLIPModel:
    """A CLIP of 1.9 M parameters: pictures of SIZE pixels in patches of PATCH, layers of width 128.

    Its positions start as sines, POSITIONS loud. CLIP's own start, random and at 0.02, is a whisper beside
    what these crisp pictures' patches embed to: after 500 steps the tower could not tell left from right.
    """
    model = CLIPModel(
        CLIPConfig(
            vision_config={
                "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6,
                "num_attention_heads": 4, "image_size": SIZE, "patch_size": PATCH,
            },
            text_config={
                "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3,
                "num_attention_heads": 4, "max_position_embeddings": 64, "vocab_size": vocab_size,
                "bos_token_id": bos, "eos_token_id": pad, "pad_token_id": pad,
            },
            projection_dim=128,
        )
    )  # fmt: skip
    positions = model.vision_model.embeddings.position_embedding.weight
    positions.data.copy_(POSITIONS * sines(SIZE // PATCH, positions.shape[1]))
    return model


def sines(grid: int, width: int) -> Tensor:
    """Sines and cosines of row and column, [1 + grid**2, width], of unit scale; zeros for CLS."""
    frequency = 2.0 ** (-torch.arange(width // 4) / (width // 16))
    angle = torch.arange(grid)[:, None] * frequency  # [grid, width / 4]
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = axis[:, None].expand(-1, grid, -1)
    columns = axis[None].expand(grid, -1, -1)
    table = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(1, width), table / table.std()])


def embed_pictures(model: CLIPModel, pixel_values: Tensor, kept: Tensor | None = None) -> Tensor:
    """[B, 3, S, S] -> unit vectors [B, 128]; `kept` as for `see`."""
    return see(model, pixel_values, kept)[0]


def see(model: CLIPModel, pixel_values: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """[B, 3, S, S] -> unit vectors [B, 128] and, as LLaVA reads them, the patches of layer -2 [B, P, 128].

    `kept` [B, K] names the only patches the tower is to see. Each of them brings its own position, so a
    picture of which a quarter is shown costs a quarter and still teaches where things are (FLIP, arXiv
    2212.00794).
    """
    tower = model.vision_model
    hidden = tower.embeddings(pixel_values)
    if kept is not None:
        index = kept[..., None].expand(-1, -1, hidden.shape[-1])
        hidden = torch.cat([hidden[:, :1], hidden[:, 1:].gather(1, index)], dim=1)
    hidden = tower.pre_layrnorm(hidden)
    *layers, last = tower.encoder.layers
    for layer in layers:
        hidden = layer(hidden, attention_mask=None)
    patches = hidden[:, 1:]
    hidden = last(hidden, attention_mask=None)
    return _projected(model, hidden[:, 0]), patches


def embed_regions(model: CLIPModel, patches: Tensor, covers: Tensor) -> Tensor:
    """Patches of layer -2 [R, P, 128] and how much of each a thing covers [R, P] -> unit vectors [R, 128].

    They pass the same norm and projection as a picture's CLS, so that texts are compared with both.
    """
    weights = covers / covers.sum(1, keepdim=True)
    return _projected(model, (weights[:, None] @ patches)[:, 0])


def _projected(model: CLIPModel, hidden: Tensor) -> Tensor:
    return F.normalize(model.visual_projection(model.vision_model.post_layernorm(hidden)), dim=-1)


def embed_texts(model: CLIPModel, tokenizer, texts: list[str]) -> Tensor:
    """Texts -> unit vectors [C, 128], taken at the first `<pad>` after `</s>`.

    Why there: `transformers` takes a CLIP text's vector at the token `eos_token_id` says, but reads the id 2,
    LLaMA's `</s>`, as a sign of old checkpoints and then takes the largest id. So our config names `<pad>`,
    the largest id in any text, and every text brings at least one.
    """
    limit = model.config.text_config.max_position_embeddings - 2
    end = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    encoded = tokenizer(texts, add_special_tokens=False).input_ids
    rows = [torch.tensor([*ids[:limit], *end]) for ids in encoded]
    # Texts of one length go together: most are short, and padding costs what words cost.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    pooled = []
    for first in range(0, len(rows), _TOGETHER):
        chunk = [rows[i] for i in order[first : first + _TOGETHER]]
        input_ids = nn.utils.rnn.pad_sequence(chunk, batch_first=True, padding_value=tokenizer.pad_token_id)
        pooled.append(model.text_model(input_ids=input_ids).pooler_output)
    back = torch.tensor(order).argsort()
    return F.normalize(model.text_projection(torch.cat(pooled)[back]), dim=-1)
