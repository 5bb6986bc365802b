"""Toybox as files: parquet tables with the pictures inside, made on first use and kept in a cache."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import datasets
import pyarrow.parquet
from tqdm import tqdm

from minillava.toybox import records

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "image": datasets.Image(decode=False),
        "conversations": [{"from": datasets.Value("string"), "value": datasets.Value("string")}],
    }
)
EVALUATION_FEATURES = datasets.Features(
    FEATURES
    | {
        "type": datasets.Value("string"),
        "question": datasets.Value("string"),
        "answer": datasets.Value("string"),
        "boxes": datasets.List(datasets.List(datasets.Value("int32"))),
        "references": datasets.List(datasets.Value("string")),
        "captions": datasets.List(datasets.Value("string")),
        "instances": [
            {
                "category": datasets.Value("string"),
                "bbox": datasets.List(datasets.Value("float32")),
            }
        ],
    }
)


def cache_folder() -> Path:
    """Where generated tables are kept: $MINILLAVA_CACHE, or ~/.cache/minillava."""
    return Path(os.environ.get("MINILLAVA_CACHE", Path.home() / ".cache" / "minillava"))


def captions(split: str, size: int, seed: int = 0) -> datasets.Dataset:
    """`size` stage-1 records of a split, as a Dataset in LLaVA's format."""
    return _table("captions", records.caption_record, split, size, seed)


def instructions(split: str, size: int, seed: int = 0) -> datasets.Dataset:
    """`size` stage-2 records of a split, as a Dataset in LLaVA's format."""
    return _table("instructions", records.instruction_record, split, size, seed)


def evaluation(split: str, pictures: int, seed: int = 0) -> datasets.Dataset:
    """All questions about `pictures` pictures of a split, one record each."""
    rows = tqdm(records.evaluation_records(split, pictures, seed), desc=f"drawing {split}")
    return datasets.Dataset.from_list(list(rows), features=EVALUATION_FEATURES)


def freeze(file: Path, split: str = "test", pictures: int = 200) -> None:
    """Write a split's questions as the shipped evaluation set is: `data/toybox-eval.parquet`."""
    _write(evaluation(split, pictures), file)


def _table(
    name: str, make: Callable[[str, int, int], dict], split: str, size: int, seed: int
) -> datasets.Dataset:
    file = cache_folder() / f"{name}-{split}-{size}-{seed}-{_world()}.parquet"
    if not file.is_file():
        bar = tqdm(range(size), desc=f"drawing {name}", unit=" pictures")
        _write(datasets.Dataset.from_list([make(split, i, seed) for i in bar], FEATURES), file)
    return datasets.Dataset.from_parquet(str(file), features=FEATURES, cache_dir=cache_folder())


def _write(table: datasets.Dataset, file: Path) -> None:
    """Write beside the target and move into place: an interrupted run leaves no half table."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(f".{os.getpid()}.partial")
    try:
        pyarrow.parquet.write_table(table.with_format("arrow")[:], partial, compression="zstd")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _world() -> str:
    """A hash of this folder's sources: when the world changes, its tables are made anew."""
    sources: Iterable[Path] = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
