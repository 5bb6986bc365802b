"""What tiny-CLIP's last phase learns beside facts: where exactly things are, read off their patches.

Facts tell which third of the picture a thing is in, and that is all the tower kept: which of the eight
columns a patch stands in was read off the embeddings linearly for 99.7 % of patches, at layer -2 for 70.5 %,
and the edges of small things were off by as much as if only the third were known. So a linear head stands on
every patch at the layer that LLaVA reads, as the box heads of OWL-ViT (arXiv 2205.06230) stand on CLIP's,
and says in four numbers where the thing in the patch has its edges. Once the tower is trained the head is
forgotten: what one matrix finds, a projector can find.
"""

import numpy as np
import torch
from torch import Tensor, nn

from minillava.pretrain.clip_model import GEOMETRY
from minillava.toybox.domain import Box
from minillava.toybox.scene import SIZE

COVERED = 0.2
"""A patch of which a thing covers a smaller share is not asked about it."""


def edge_head(width: int) -> nn.Linear:
    """A fresh head: features [..., width] -> x1, y1, x2, y2 [..., 4] as shares of the picture's sides."""
    head = nn.Linear(width, 4)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, 0.5)  # the middle of the picture, as long as nothing is known
    return head


def edges_loss(head: nn.Linear, patches: Tensor, boxes: list[tuple[int, Box]]) -> Tensor:
    """How far off `head` is with the edges of things: a mean of distances, as shares of the picture's side.

    `patches` [B, P, W] are features of layer -2, `boxes` things by the picture's number, in pixels. Each
    thing counts once, its patches by the share of it that they hold.
    """
    covers = np.stack([np.asarray(GEOMETRY.cells(box), np.float32).flatten() for _, box in boxes])
    shares = torch.from_numpy(covers * (covers > COVERED))
    shares /= shares.sum(1, keepdim=True).clamp(min=COVERED)  # a sliver that fills no patch does not count
    things, places = shares.nonzero(as_tuple=True)
    pictures = torch.tensor([picture for picture, _ in boxes])
    edges = torch.tensor([box for _, box in boxes])[things] / SIZE  # [N, 4]
    off = (head(patches[pictures[things], places]) - edges).abs().mean(1)
    return (off * shares[things, places]).sum() / len(boxes)
