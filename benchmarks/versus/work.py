"""What both sides are given: a stage of the tiny preset, Toybox records, their order, and longer ones."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import datasets
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

import minillava
from minillava import checkpoints
from minillava.config import PRESETS, StageConfig
from minillava.conversation import encode
from minillava.data import Collator, InstructionDataset
from minillava.model import MiniLlava
from minillava.sampler import GroupedSampler
from minillava.toybox import store
from versus.hf import PeerCollator, trains_as

SEED = 42


@dataclass
class Work:
    """One stage on `samples` records, with both models started from the same export."""

    stage: StageConfig
    samples: int
    model_name: str = "tiny"

    @classmethod
    def of(cls, stage: str, samples: int, batch: int | None = None) -> "Work":
        row = PRESETS["tiny"].stages[stage]
        # One rate for all that trains, as the peer's Trainer has it.
        return cls(replace(row, batch_size=batch or row.batch_size, projector_learning_rate=None), samples)

    @cached_property
    def records(self) -> datasets.Dataset:
        make = store.captions if self.stage.template == "plain" else store.instructions
        return make("train", self.samples)

    @cached_property
    def ours(self) -> MiniLlava:
        return minillava.load(self.model_name).train()

    @cached_property
    def export(self) -> Path:
        self._folder = tempfile.TemporaryDirectory()
        checkpoints.export(minillava.load(self.model_name), self._folder.name)
        return Path(self._folder.name)

    @cached_property
    def peer(self) -> LlavaForConditionalGeneration:
        return trains_as(LlavaForConditionalGeneration.from_pretrained(self.export), self.stage)

    @cached_property
    def collator(self) -> PeerCollator:
        return PeerCollator(LlavaProcessor.from_pretrained(self.export), self.stage)

    def dataset(self, records=None) -> InstructionDataset:
        model = self.ours
        return InstructionDataset(
            self.records if records is None else records,
            model.tokenizer,
            template=self.stage.template,
            aspect=self.stage.aspect,
            image_size=model.config.vision_config.image_size,
            num_image_tokens=model.num_image_tokens,
            max_length=self.stage.max_length,
        )

    @cached_property
    def order(self) -> list[int]:
        """The order of `train_stage`, which the peer is given too: one modality to a batch."""
        return GroupedSampler(self.dataset().lengths, self.stage.batch_size, seed=SEED).order()

    def batches(self, count: int) -> list[dict[str, Tensor]]:
        """The first `count` batches as our side makes them, the first of which has pictures."""
        data, size = self.dataset(), self.stage.batch_size
        collate = Collator(self.ours.tokenizer.pad_token_id)
        cut = [self.order[i * size : (i + 1) * size] for i in range(count)]
        return [collate([data[index] for index in chosen]) for chosen in cut]


def for_peer(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of ours as the peer takes it, which knows no empty tensor of pictures."""
    names = ("input_ids", "attention_mask", "labels") + ("pixel_values",) * bool(len(batch["pixel_values"]))
    return {name: batch[name] for name in names}


def check_same_batches(ours: dict[str, Tensor], peer: dict[str, Tensor]) -> None:
    """AssertionError unless the peer's collator made the batch that ours made."""
    for name in ("input_ids", "labels", "attention_mask"):
        assert torch.equal(ours[name], peer[name]), f"The two sides differ in {name}."
    pixels = peer.get("pixel_values", torch.empty_like(ours["pixel_values"]))
    torch.testing.assert_close(ours["pixel_values"], pixels, rtol=0, atol=1e-5)


AXES = ("pictures", "turns", "length")
SAYS = "There is a red ball left of the blue box."


def grown(axis: str, times: int) -> dict:
    """A record `times` as large along "pictures", "turns" or "length"."""
    pictures = times if axis == "pictures" else 1
    turns = []
    for turn in range(times if axis in ("pictures", "turns") else 1):
        mark = "<image>\n" if turn < pictures else ""
        answer = " ".join([SAYS] * (times if axis == "length" else 1))
        turns += [{"from": "human", "value": f"{mark}What is there?"}, {"from": "gpt", "value": answer}]
    return {"id": f"{axis}-{times}", "pictures": pictures, "conversations": turns}


def grown_batch(work: Work, axis: str, times: int, size: int) -> dict[str, Tensor]:
    """`size` such records in one batch, with pictures of noise."""
    model, record = work.ours, grown(axis, times)
    row = encode(
        record["conversations"],
        model.tokenizer,
        "v1",
        True,
        model.num_image_tokens,
        model.config.text_config.max_position_embeddings,
    )
    edge = model.config.vision_config.image_size
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.tensor([row.input_ids] * size),
        "labels": torch.tensor([row.labels] * size),
        "attention_mask": torch.ones(size, len(row.input_ids), dtype=torch.long),
        "pixel_values": torch.randn(size * record["pictures"], 3, edge, edge, generator=generator),
        "image_keys": [],
    }


def step(
    parameters: list[Tensor], optimizer: torch.optim.Optimizer, clip: float
) -> Callable[[Tensor], float]:
    """What follows a loss on both sides: gradients, clipping, the optimizer's step."""

    def finish(loss: Tensor) -> float:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return finish
