"""Muon: momentum whose every matrix update is made orthogonal, in single precision."""

import torch


class Muon(torch.optim.Optimizer):
    """Orthogonalized momentum for the weight matrices of hidden layers (Jordan et al., 2024).

    `torch.optim.Muon` iterates in bfloat16, which on CPUs without bf16 units takes longer than the training
    step itself; this one stays in fp32 and treats matrices of one shape as one batch. An update has
    the root mean square that AdamW's has, about 0.2, so that AdamW's learning rates carry over.
    """

    def __init__(self, params, lr: float = 2e-3, momentum: float = 0.95, iterations: int = 5):
        super().__init__(params, {"lr": lr, "momentum": momentum, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                updates = []
                for p in params:
                    momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    momentum.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(momentum, group["momentum"]))
                updates = orthogonalize(torch.stack(updates), group["iterations"])
                for p, update in zip(params, updates, strict=True):
                    p.add_(update, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)


def orthogonalize(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices to `matrices` [K, rows, columns], roughly.

    Newton-Schulz iterations with the quintic coefficients of the Muon article: they push every singular
    value into about 0.7-1.2, which is all that the optimizer needs.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x
