"""What several tests of weight files need."""

import torch
from safetensors.torch import load_file, save_file


def rewrite(folder, change):
    """Replace the weight file of `folder` by `change(its tensors)`."""
    tensors = change(load_file(folder / "model.safetensors"))
    save_file({k: v.clone() for k, v in tensors.items()}, folder / "model.safetensors")


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
