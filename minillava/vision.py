"""The vision tower's patch features: CLIP, read one layer before its last, without the CLS token.

CLIP is trained to answer through CLS, so its last layer is tuned to feed that one token. One layer
earlier the patches still say what is where, which is what a language model can use (P1: the
last layer scores 0.96 lower on ScienceQA).
"""

from torch import Tensor
from transformers import CLIPVisionModel


def encode_patches(tower: CLIPVisionModel, pixel_values: Tensor, select_layer: int = -2) -> Tensor:
    """Pictures [B, 3, S, S] -> patch features [B, N, D_v], row by row from the top left.

    Equal to `tower(..., output_hidden_states=True).hidden_states[select_layer][:, 1:]`: index 0 is
    what enters the first layer and index L what leaves the last, before CLIP's final layer norm
    (llava/model/multimodal_encoder/clip_encoder.py). Layers above `select_layer` do not run: they
    could not change the result. An empty batch gives an empty result.

    Raises ValueError where the pictures are not of the tower's size or the tower has no such layer.
    """
    config = tower.config
    size, layers = config.image_size, config.num_hidden_layers
    if tuple(pixel_values.shape[1:]) != (config.num_channels, size, size):
        raise ValueError(
            f"The vision tower takes pictures of shape [B, {config.num_channels}, {size}, {size}], "
            f"not {list(pixel_values.shape)}: use images.preprocess(image, size={size})."
        )
    if not -layers - 1 <= select_layer <= layers:
        raise ValueError(
            f"select_layer is {select_layer}, but the vision tower has {layers} layers."
        )
    depth = range(layers + 1)[select_layer]

    if len(pixel_values) == 0:
        patches = (size // config.patch_size) ** 2
        return pixel_values.new_zeros(0, patches, config.hidden_size)
    hidden = tower.pre_layrnorm(tower.embeddings(pixel_values))  # [B, 1 + N, D_v]
    for layer in tower.encoder.layers[:depth]:
        hidden = layer(hidden, attention_mask=None)
    return hidden[:, 1:]
