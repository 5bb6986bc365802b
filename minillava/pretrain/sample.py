"""What tiny-Vicuna learns from: token ids with labels, and positions that hold more than one token says.

A language model reads one word a position. The projector of a LLaVA writes something else there: a patch is
all at once round, red and at the left. So that this is nothing new to tiny-Vicuna, some of what it reads are
heaps: several words in one position, and the edges of the thing they speak of as numbers, not digits.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM

from minillava.config import IGNORE_INDEX

TOGETHER = 6
"""Samples that pass the model at once."""

WAVES = 4
"""Frequencies in which an edge is written: from half a wave across the picture to two and a half. Eight, up
to nineteen waves, say it more exactly; that a projector learns to write the smoother code is a hope."""


class Heap(NamedTuple):
    """What one position holds beside its token: further words (ids), and a thing's edges.

    `edges` are x1, y1, x2, y2 as shares of the picture's sides.
    """

    position: int
    words: tuple[int, ...]
    edges: tuple[float, float, float, float]


class Sample(NamedTuple):
    """Token ids and labels, T each (-100 where nothing is learned), and what lies in heaps."""

    ids: list[int]
    labels: list[int]
    heaps: tuple[Heap, ...] = ()


class Reader(nn.Module):
    """A language model, and what writes edges into its embeddings while it is made (then forgotten)."""

    def __init__(self, model: LlamaForCausalLM):
        super().__init__()
        self.model = model
        self.edges = nn.Linear(4 * 2 * WAVES, model.config.hidden_size, bias=False)
        nn.init.normal_(self.edges.weight, std=0.15)  # about as loud as a word

    def embed(self, samples: list[Sample]) -> Tensor:
        """Embeddings [S, T, width], padded on the right; a heap is the sum of what it holds."""
        table = self.model.get_input_embeddings()
        embedded = table(padded((sample.ids for sample in samples), 0))
        heaps = [(row, heap) for row, sample in enumerate(samples) for heap in sample.heaps]
        if not heaps:
            return embedded
        rows, positions = torch.tensor([(row, heap.position) for row, heap in heaps]).T
        sizes = torch.tensor([0, *(len(heap.words) for _, heap in heaps[:-1])])
        words = torch.tensor([word for _, heap in heaps for word in heap.words], dtype=torch.long)
        said = F.embedding_bag(words, table.weight, sizes.cumsum(0), mode="sum")
        there = self.edges(waves(torch.tensor([heap.edges for _, heap in heaps])))
        return embedded.index_put((rows, positions), said + there, accumulate=True)


def waves(edges: Tensor) -> Tensor:
    """Edges [N, 4] in 0-1 -> their sines and cosines [N, 8 * WAVES]."""
    angles = edges[..., None] * math.pi * 2.0 ** (0.75 * torch.arange(WAVES))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(1)


def padded(rows: Iterable[list[int]], value: int) -> Tensor:
    """Rows of unlike length as one tensor, filled up on the right."""
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def sheet(told: str, pairs: list[tuple[str, str]], tokenizer, stop: int | None = None) -> Sample:
    """What is told, then questions; each reply is to be learned, and the `</s>` that ends it.

    With `stop`, that token ends replies instead, and is not learned.
    """
    ids = list(tokenizer(told).input_ids)
    return Sample(*replied(ids, [IGNORE_INDEX] * len(ids), pairs, tokenizer, stop))


def replied(
    ids: list[int], labels: list[int], pairs: list[tuple[str, str]], tokenizer, stop: int | None = None
) -> tuple[list[int], list[int]]:
    """Ids and labels with questions and replies behind them, as `sheet` has them."""
    ids, labels = [*ids], [*labels]
    end = (tokenizer.eos_token_id,) * 2 if stop is None else (stop, IGNORE_INDEX)  # id, label
    for asked, answer in pairs:
        question, reply = (tokenizer(t, add_special_tokens=False).input_ids for t in (asked, answer))
        ids += [*question, *reply, end[0]]
        labels += [*[IGNORE_INDEX] * len(question), *reply, end[1]]
    return ids, labels


def next_token_loss(reader: Reader, samples: list[Sample]) -> Tensor:
    """Mean cross-entropy in nats over the labeled tokens; the head runs only there."""
    samples = sorted(samples, key=lambda sample: len(sample.ids))  # those of about one length go together
    hidden, learned = [], []
    for first in range(0, len(samples), TOGETHER):
        part = samples[first : first + TOGETHER]
        labels = padded((sample.labels for sample in part), IGNORE_INDEX)[:, 1:]
        # No mask: padding stands on the right, where no earlier token looks.
        states = reader.model.model(inputs_embeds=reader.embed(part), use_cache=False).last_hidden_state
        hidden.append(states[:, :-1][labels != IGNORE_INDEX])
        learned.append(labels[labels != IGNORE_INDEX])
    return F.cross_entropy(reader.model.lm_head(torch.cat(hidden)), torch.cat(learned))


@torch.no_grad()
def replies(reader: Reader, sample: Sample, end: int) -> list[bool]:
    """Whether the model gets each reply of a sample right, to its `end`, teacher-forced."""
    best = reader.model(inputs_embeds=reader.embed([sample])).logits[0, :-1].argmax(-1).tolist()
    found, correct = [], True
    for label, guess in zip(sample.labels[1:], best, strict=True):
        if label != IGNORE_INDEX:
            correct &= label == guess
            if label == end:
                found.append(correct)
                correct = True
    return found
