"""tiny-CLIP as a model: its sizes, its grid of positions, and what it makes of pictures and of texts."""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from minillava.images import preprocess
from minillava.toybox.scene import SIZE

PATCH = 12
"""Edge of a patch in pixels: a picture of SIZE pixels has 8 x 8 of them."""


def build_clip(vocab_size: int, bos: int, pad: int) -> CLIPModel:
    """A CLIP of 1.9 M parameters: pictures of SIZE pixels in patches of PATCH, layers of width 128."""
    return CLIPModel(
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


def set_grid(model: CLIPModel, edge: int, strength: float) -> None:
    """Let the tower take pictures of `edge` pixels: write a new table of position embeddings.

    Sines and cosines of row and column, at `strength` times the scale of the patch embeddings; 0 for crops,
    where a place means nothing. CLIP's own initialization stays a hundred times smaller than what these
    crisp pictures' patches embed to, and after 500 steps the tower could not tell left from right.
    """
    embeddings = model.vision_model.embeddings
    width, grid = model.config.vision_config.hidden_size, edge // PATCH
    frequency = 2.0 ** (-torch.arange(width // 4) / (width // 16))
    angle = torch.arange(grid)[:, None] * frequency  # [grid, width / 4]
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = axis[:, None].expand(-1, grid, -1)
    columns = axis[None].expand(grid, -1, -1)
    table = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    with torch.no_grad():
        patches = embeddings.patch_embedding(preprocess(Image.new("RGB", (edge, edge), "gray"), edge)[None])
    table = torch.cat([torch.zeros(1, width), table]) * strength * patches.std() / table.std()
    embeddings.position_embedding = nn.Embedding.from_pretrained(table, freeze=False)
    embeddings.register_buffer("position_ids", torch.arange(len(table))[None], persistent=False)
    embeddings.image_size = model.config.vision_config.image_size = edge
    embeddings.num_patches, embeddings.num_positions = grid**2, len(table)


def embed_pictures(model: CLIPModel, pixel_values: Tensor) -> Tensor:
    """[B, 3, S, S] -> unit vectors [B, 128]."""
    pooled = model.vision_model(pixel_values=pixel_values).pooler_output
    return F.normalize(model.visual_projection(pooled), dim=-1)


def embed_texts(model: CLIPModel, tokenizer, texts: list[str]) -> Tensor:
    """Texts -> unit vectors [C, 128], taken at the first `<pad>` after `</s>`.

    Why there: `transformers` takes a CLIP text's vector at the token `eos_token_id` says, but reads the id 2,
    LLaMA's `</s>`, as a sign of old checkpoints and then takes the largest id. So our config names `<pad>`,
    the largest id in any text, and every text brings at least one.
    """
    limit = model.config.text_config.max_position_embeddings - 2
    end = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    rows = [torch.tensor([*ids[:limit], *end]) for ids in tokenizer(texts).input_ids]
    input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    pooled = model.text_model(input_ids=input_ids).pooler_output
    return F.normalize(model.text_projection(pooled), dim=-1)
