"""projector.py: sizes, names and the start."""

import math

import pytest
import torch
import torch.nn.functional as F

from minillava.projector import build_projector


@pytest.mark.parametrize(
    "kind, width, parameters",
    [
        ("mlp2x_gelu", 4096, 20_979_712),
        ("mlp2x_gelu", 5120, 31_467_520),
        ("linear", 4096, 4_198_400),
        ("linear", 5120, 5_248_000),
    ],
)
def test_parameters_at_the_real_sizes(kind, width, parameters):
    with torch.device("meta"):
        projector = build_projector(kind, 1024, width)
    assert sum(p.numel() for p in projector.parameters()) == parameters


def test_mlp_is_linear_exact_gelu_linear():
    projector = build_projector("mlp2x_gelu", 8, 12)
    w = projector.state_dict()
    assert list(w) == ["linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"]
    features = torch.randn(2, 3, 8) * 3
    inner = features @ w["linear_1.weight"].T + w["linear_1.bias"]
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    expected = inner @ w["linear_2.weight"].T + w["linear_2.bias"]
    torch.testing.assert_close(projector(features), expected)


def test_linear_is_one_layer():
    projector = build_projector("linear", 8, 12)
    w = projector.state_dict()
    assert list(w) == ["linear_1.weight", "linear_1.bias"]
    features = torch.randn(2, 3, 8)
    expected = F.linear(features, w["linear_1.weight"], w["linear_1.bias"])
    torch.testing.assert_close(projector(features), expected)


def test_starts_as_torch_linear_does():
    """Uniform in ±1/sqrt(fan_in), bias included; transformers would take N(0, 0.02) and zero."""
    projector = build_projector("mlp2x_gelu", 64, 256)
    for layer, fan_in in ((projector.linear_1, 64), (projector.linear_2, 256)):
        bound = 1 / math.sqrt(fan_in)
        for tensor in (layer.weight, layer.bias):
            assert tensor.abs().max() <= bound
            assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)


def test_unknown_kind():
    with pytest.raises(ValueError, match="'mlp3x'.*mlp2x_gelu"):
        build_projector("mlp3x", 8, 12)
