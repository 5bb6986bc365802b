"""Audited records → samples → batches → Lightning.

Shapes: B batch, T positions, S edge of the prepared picture in pixels, n pictures.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from tqdm import tqdm

from minillava.config import IGNORE_INDEX
from minillava.conversation import Encoded, encode
from minillava.images import open_image, preprocess
from minillava.records import (
    AuditReport,
    Record,
    Records,
    audit,
    image_key,
    load_records,
    modality_lengths,
    named,
    picture_source,
    pictures,
    text_problem,
)
from minillava.sampler import GroupedSampler, Layout, grouped_indices

__all__ = [
    "AuditReport",
    "Collator",
    "GroupedSampler",
    "InstructionData",
    "InstructionDataset",
    "ResumableLoader",
    "audit",
    "grouped_indices",
    "load_records",
]


class InstructionDataset(Dataset):
    """Records as training samples; a sample is encoded and its pictures opened when asked for.

    `eager=True` encodes all texts at once instead, under a progress bar. `pixels=False` leaves the
    pictures closed, for those who keep the frozen tower's features by `image_keys`. `skip_broken=True`
    puts the next record, with a picture or without as well, in the place of one that cannot be used.
    """

    def __init__(
        self,
        records: str | Path | Records,
        tokenizer,
        template: str,
        aspect: str,
        image_size: int,
        num_image_tokens: int,
        image_root: str | Path | None = None,
        max_length: int | None = 2048,
        eager: bool = False,
        pixels: bool = True,
        skip_broken: bool = False,
    ):
        self.skip_broken = skip_broken
        self.records = load_records(records)
        self.tokenizer, self.template, self.aspect = tokenizer, template, aspect
        self.image_size, self.num_image_tokens = image_size, num_image_tokens
        self.image_root, self.max_length, self.pixels = image_root, max_length, pixels
        self._encoded: list[Encoded] | None = None
        if eager:
            bar = tqdm(range(len(self)), desc="encoding", unit=" records")
            self._encoded = [self._encode(self.records[index], index) for index in bar]

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def lengths(self) -> list[int]:
        """`modality_length` of every record, what `GroupedSampler` orders by."""
        return modality_lengths(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`id`, `input_ids` and `labels` [T], `pixel_values` [n, 3, S, S], n `image_keys`, and what was
        `skipped` on the way.

        Text only: n = 0. Raises ValueError, naming the record, for a picture that does not open and
        a text without anything to learn; with `skip_broken`, where nothing is left.
        """
        if not self.skip_broken:
            return self._sample(index)
        skipped: list[str] = []
        has_picture = bool(pictures(self.records[index]))
        for other in chain(range(index, len(self)), range(index)):
            if other == index or bool(pictures(self.records[other])) == has_picture:
                try:
                    return self._sample(other) | {"skipped": skipped}
                except ValueError as error:
                    skipped.append(str(error))
        raise ValueError(f"None of the records can be used. The last: {skipped[-1]}")

    def _sample(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        encoded = self._encoded[index] if self._encoded else self._encode(record, index)
        try:
            sources = [picture_source(picture, self.image_root) for picture in pictures(record)]
        except ValueError as error:
            raise ValueError(f"{named(record, index)}: {error} `minillava inspect` lists all.") from error
        pixel_values = [torch.empty(0, 3, self.image_size, self.image_size)]
        for source in sources if self.pixels else ():
            file = source if isinstance(source, Path) else "the embedded picture"
            try:
                image = open_image(source, f"{file} of {named(record, index)}")
            except (FileNotFoundError, ValueError) as error:
                raise ValueError(f"{error} `minillava inspect` lists all; --skip-broken goes on.") from error
            pixel_values.append(preprocess(image, self.image_size, self.aspect)[None])
        return {
            "id": str(index if record.get("id") is None else record["id"]),
            "input_ids": torch.tensor(encoded.input_ids),
            "labels": torch.tensor(encoded.labels),
            "pixel_values": torch.cat(pixel_values),
            "image_keys": [image_key(source) for source in sources],
            "skipped": [],
        }

    def _encode(self, record: Record, index: int) -> Encoded:
        n_pictures = len(pictures(record))
        if problem := text_problem(record):
            raise ValueError(f"{named(record, index)}: {problem[1]}. `minillava inspect` lists all.")
        try:
            encoded = encode(
                record["conversations"],
                self.tokenizer,
                self.template,
                n_pictures > 0,
                self.num_image_tokens,
                self.max_length,
            )
        except ValueError as error:
            raise ValueError(f"{named(record, index)}: {error}") from error
        cut = any(problem.startswith("image_truncated") for problem in encoded.problems)
        if cut or not encoded.n_supervised or encoded.num_images != n_pictures:
            raise ValueError(
                f"{named(record, index)}: within {self.max_length} positions its picture is cut or "
                f"there is nothing to learn ({'; '.join(encoded.problems)}). Raise max_length or "
                "leave the record out; `minillava inspect` lists all."
            )
        return encoded


@dataclass(frozen=True)
class Collator:
    """Samples → one batch. Training pads on the right; generation needs `padding_side="left"`."""

    pad_token_id: int
    padding_side: str = "right"

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """`ids` B, `input_ids`, `attention_mask`, `labels` [B, T], `pixel_values` [n, 3, S, S],
        `image_keys` n: pictures in the order of the samples. A text-only sample brings none, so n
        may be 0. `skipped` says of each record that another one replaces what is wrong with it.
        """
        pad = partial(pad_sequence, batch_first=True, padding_side=self.padding_side)
        input_ids = [sample["input_ids"] for sample in samples]
        return {
            "ids": [sample["id"] for sample in samples],
            "input_ids": pad(input_ids, padding_value=self.pad_token_id),
            # by length, not `!= pad`: the original's pad is <unk>, which may stand in a text
            "attention_mask": pad([torch.ones_like(ids) for ids in input_ids], padding_value=0),
            "labels": pad([sample["labels"] for sample in samples], padding_value=IGNORE_INDEX),
            "pixel_values": torch.cat([sample["pixel_values"] for sample in samples]),
            "image_keys": [key for sample in samples for key in sample["image_keys"]],
            "skipped": [reason for sample in samples for reason in sample["skipped"]],
        }


class NamingLoader(DataLoader):
    """A loader whose workers' errors are those that it raises without any; one that dies raises OSError."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from super().__iter__()
        except ValueError as error:
            if "DataLoader worker" not in str(error):
                raise
            # a worker's brings its traceback along, as text
            raise ValueError(str(error).rpartition("\nValueError: ")[2].strip()) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise OSError(
                f"A process that prepares batches died ({error}). Most often the memory was full: take "
                "fewer workers. The same command goes on from the last checkpoint."
            ) from error


class ResumableLoader(NamingLoader):
    """A loader over a `GroupedSampler`; Lightning saves and restores it with its checkpoints.

    It counts the batches it has handed out, not those its workers have fetched ahead. After
    `load_state_dict` the epoch of the checkpoint goes on with the next batch; any other epoch
    starts at its beginning.
    """

    _position = 0
    _resume: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, batch = self._resume or (None, 0)
        self._resume = None
        self._position = self.sampler.start = batch if epoch == self.sampler.epoch else 0
        for batch in super().__iter__():
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Where the run stands in its data: epoch, batches done, and what the order depends on."""
        return {"epoch": self.sampler.epoch, "batch": self._position, **asdict(self.sampler.layout)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises ValueError where the order would be another than the interrupted run's."""
        then, now = layout_of(state), self.sampler.layout
        for name in ("samples", "seed", "step"):
            if getattr(then, name) != getattr(now, name):
                what = "a step's batch" if name == "step" else name
                raise ValueError(
                    f"The checkpoint was made with {what} = {getattr(then, name)}, this run has "
                    f"{getattr(now, name)}: it would see other samples. Resume with the same data, batch "
                    "size and seed, or start a new run."
                )
        self._resume = state["epoch"], then.elsewhere(state["batch"], now)


def layout_of(state: dict[str, int]) -> Layout:
    """The layout in the state of a loader."""
    return Layout(**{name: state[name] for name in Layout.__dataclass_fields__})


def divide_anew(fit_loop: dict[str, Any], now: Layout) -> None:
    """Count what Lightning's checkpointed `fit_loop` has done in the batches of another division.

    It counts the batches of a process; with other devices, or other passes to a step, as many samples
    are another number of batches. In place; nothing changes where the division is the same.
    """
    then = layout_of(fit_loop["state_dict"]["combined_loader"][0])
    for counts in fit_loop["epoch_loop.batch_progress"].values():
        if isinstance(counts, dict):
            ready = then.elsewhere(counts["ready"], now)
            counts.update({name: ready - (counts["ready"] - count) for name, count in counts.items()})


class InstructionData(LightningDataModule):
    """Train and validation loaders for Lightning; `batch_size` is per device, `grouped` the sampler's.

    The trainer needs no `use_distributed_sampler` setting: each process takes its own share.
    """

    def __init__(
        self,
        train: InstructionDataset,
        batch_size: int,
        validation: InstructionDataset | None = None,
        num_workers: int = 0,
        seed: int = 42,
        grouped: bool = True,
    ):
        super().__init__()
        if train.tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no pad token: set one, as LLaVA does with <unk>.")
        self.train, self.validation, self.batch_size = train, validation, batch_size
        self.num_workers, self.seed, self.grouped = num_workers, seed, grouped

    def _share(self) -> tuple[int, int]:
        """(processes that read different data, this process's number among them)"""
        share = self.trainer and self.trainer.distributed_sampler_kwargs
        return (share["num_replicas"], share["rank"]) if share else (1, 0)

    def _options(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "collate_fn": Collator(self.train.tokenizer.pad_token_id),
            "pin_memory": torch.cuda.is_available(),
            # a loader draws its workers' seeds: here, so that the global state stays as it is
            "generator": torch.Generator().manual_seed(self.seed),
        }

    @property
    def layout(self) -> Layout:
        """How the training samples are dealt out."""
        accumulation = self.trainer.accumulate_grad_batches if self.trainer else 1
        return Layout(len(self.train), self.batch_size, self.seed, self._share()[0], accumulation)

    def train_dataloader(self) -> ResumableLoader:
        sampler = GroupedSampler(
            self.train.lengths,
            self.batch_size,
            *self._share(),
            accumulation=self.layout.accumulation,
            seed=self.seed,
            grouped=self.grouped,
        )
        return ResumableLoader(self.train, sampler=sampler, **self._options())

    def val_dataloader(self) -> DataLoader | list:
        if self.validation is None:
            return []
        sampler = DistributedSampler(self.validation, *self._share(), shuffle=False)
        return NamingLoader(self.validation, sampler=sampler, **self._options())
