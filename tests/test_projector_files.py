"""Projectors saved alone, ours and the original's."""

import pytest
import torch
from helpers import same

from minillava import checkpoints


@pytest.mark.parametrize("kind", ["mlp2x_gelu", "linear"])
def test_projector_alone(make_model, tmp_path, kind):
    model, other = make_model(mm_projector_type=kind), make_model(mm_projector_type=kind)
    with torch.no_grad():
        for parameter in model.multi_modal_projector.parameters():
            parameter.add_(1)
    file = checkpoints.save_projector(model, tmp_path / "stage1" / "projector.safetensors")
    checkpoints.load_projector(other, file)
    assert same(model, other)


@pytest.mark.parametrize("prefix", ["model.", "base_model.model.model.", ""])
def test_the_originals_projector(make_model, tmp_path, prefix):
    model, file = make_model(), tmp_path / "mm_projector.bin"
    shapes = {"0.weight": (64, 16), "0.bias": (64,), "2.weight": (64, 64), "2.bias": (64,)}
    original = {f"{prefix}mm_projector.{k}": torch.randn(s) for k, s in shapes.items()}
    torch.save(original, file)
    checkpoints.load_projector(model, file)
    for ours, theirs in (("linear_1", "0"), ("linear_2", "2")):
        for kind in ("weight", "bias"):
            found = getattr(getattr(model.multi_modal_projector, ours), kind)
            assert torch.equal(found, original[f"{prefix}mm_projector.{theirs}.{kind}"])


def test_the_originals_linear_projector(make_model, tmp_path):
    model, file = make_model(mm_projector_type="linear"), tmp_path / "mm_projector.bin"
    original = {"weight": torch.randn(64, 16), "bias": torch.randn(64)}
    torch.save({f"model.mm_projector.{k}": v for k, v in original.items()}, file)
    checkpoints.load_projector(model, file)
    assert torch.equal(model.multi_modal_projector.linear_1.weight, original["weight"])
    with pytest.raises(ValueError, match=r"missing     linear_2.bias \[64\]"):
        checkpoints.load_projector(make_model(), file)


def test_projector_of_another_width(make_model, tmp_path):
    model, file = make_model(), tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.weight": torch.zeros(128, 16)}, file)
    with pytest.raises(ValueError, match=r"linear_1.weight: the file has \[128, 16\]"):
        checkpoints.load_projector(model, file)


def test_pickle_that_would_run_code_does_not(make_model, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    file = tmp_path / "mm_projector.bin"
    torch.save({"model.mm_projector.0.weight": Trap()}, file)
    with pytest.raises(ValueError, match="not a file of weights alone"):
        checkpoints.load_projector(make_model(), file)
    assert not (tmp_path / "sprung").exists()


def test_no_projector_file(make_model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no projector file"):
        checkpoints.load_projector(make_model(), tmp_path / "projector.safetensors")
