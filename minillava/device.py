"""Where models run."""

import torch


def usable() -> torch.device:
    """The GPU that CUDA has here, else the CPU. (On Apple's GPUs nothing here was ever tried.)"""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
