"""Prompts that begin alike, read once: every chat begins with the same words, and often the same picture.

Keys and values of the beginning are computed for each distinct picture and handed to all prompts about it.
Ten questions about one picture then cost the beginning once and ten short ends, not ten whole prompts.
"""

import torch
from torch import Tensor


def shared_length(input_ids: Tensor, attention_mask: Tensor) -> int:
    """How many tokens all prompts [B, T], padded on the left, have in common from their first one on.

    The last token of the shortest prompt is left to it, for the answer is predicted there.
    """
    pads = (attention_mask == 0).sum(dim=1, keepdim=True)  # [B, 1]
    ahead = torch.arange(input_ids.shape[1] - int(pads.max()), device=input_ids.device)
    starts = input_ids.gather(1, pads + ahead)  # [B, shortest]
    alike = (starts == starts[0]).all(dim=0)[:-1]
    return int(alike.long().cumprod(dim=0).sum())


def pad_behind(values: Tensor, attention_mask: Tensor, length: int) -> Tensor:
    """`values` [B, T] of prompts padded on the left, the padding moved behind their first `length` tokens."""
    pads = (attention_mask == 0).sum(dim=1, keepdim=True)
    place = torch.arange(values.shape[1], device=values.device).expand_as(values)
    source = torch.where(place < length, place + pads, place)
    moved = (place >= length) & (place < length + pads)
    return values.gather(1, torch.where(moved, place - length, source))
