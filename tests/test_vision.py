"""vision.py: the selected layer, no CLS, and no work above it."""

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from minillava.vision import encode_patches


@pytest.fixture(scope="module")
def tower() -> CLIPVisionModel:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=16,
        patch_size=4,
    )
    return CLIPVisionModel(config).eval()


@pytest.mark.parametrize("layer", [-5, -2, -1, 0, 1, 4])
def test_equals_hidden_states_without_cls(tower, layer):
    pixels = torch.randn(2, 3, 16, 16)
    expected = tower(pixels, output_hidden_states=True).hidden_states[layer][:, 1:]
    found = encode_patches(tower, pixels, layer)
    assert found.shape == (2, 16, 16)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_layers_above_do_not_run(tower):
    ran = []
    hooks = [
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, layer in enumerate(tower.encoder.layers)
    ]
    encode_patches(tower, torch.randn(1, 3, 16, 16))
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1, 2]


def test_patches_run_row_by_row_from_the_top_left(tower):
    plain, dotted = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    dotted[..., 4:8, 8:12] = 3.0  # row 1, column 2 of the 4 x 4 grid
    change = (encode_patches(tower, dotted, 0) - encode_patches(tower, plain, 0)).abs().sum(-1)
    assert change[0].nonzero().flatten().tolist() == [1 * 4 + 2]


def test_no_picture_gives_no_features(tower):
    assert encode_patches(tower, torch.empty(0, 3, 16, 16)).shape == (0, 16, 16)


def test_wrong_size_names_both(tower):
    with pytest.raises(ValueError, match=r"\[B, 3, 16, 16\], not \[1, 3, 20, 16\]"):
        encode_patches(tower, torch.zeros(1, 3, 20, 16))


@pytest.mark.parametrize("layer", [-6, 5])
def test_no_such_layer(tower, layer):
    with pytest.raises(ValueError, match=f"select_layer is {layer}.*4 layers"):
        encode_patches(tower, torch.zeros(1, 3, 16, 16), layer)
