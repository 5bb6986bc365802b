"""Prompts that begin alike, read once: every chat begins with the same words, and often the same picture.

Answering, keys and values of the beginning are computed for each distinct picture and handed to all prompts
about it. Ten questions about one picture then cost the beginning once and ten short ends, not ten whole
prompts. Training, a batch has its system prompt once: see `decoder.py`.
"""

import torch
from torch import Tensor


def shared_length(input_ids: Tensor, attention_mask: Tensor, until: Tensor | None = None) -> int:
    """How many tokens all prompts [B, T], padded on either side, have in common from their first one on.

    The last token of the shortest prompt is left to it, for the answer is predicted there. Where `until`
    [B, T] is true in any prompt, the common beginning ends before that.
    """
    starts = attention_mask.argmax(dim=1, keepdim=True)  # [B, 1]
    places = starts + torch.arange(int(attention_mask.sum(dim=1).min()), device=input_ids.device)
    tokens = input_ids.gather(1, places)  # [B, shortest]
    alike = (tokens == tokens[0]).all(dim=0)
    if until is not None:
        alike &= ~until.gather(1, places).any(dim=0)
    return int(alike[:-1].long().cumprod(dim=0).sum())


def pad_behind(values: Tensor, attention_mask: Tensor, length: int) -> Tensor:
    """`values` [B, T] of prompts padded on the left, the padding moved behind their first `length` tokens."""
    pads = (attention_mask == 0).sum(dim=1, keepdim=True)
    place = torch.arange(values.shape[1], device=values.device).expand_as(values)
    source = torch.where(place < length, place + pads, place)
    moved = (place >= length) & (place < length + pads)
    return values.gather(1, torch.where(moved, place - length, source))
