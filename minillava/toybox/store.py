"""Toybox as files: parquet tables with the pictures inside, made on first use and kept in a cache."""

import hashlib
import inspect
import io
import os
from pathlib import Path

import datasets
import pyarrow.parquet
from PIL import Image
from tqdm import tqdm

from minillava.toybox import domain, mix, records
from minillava.toybox.domain import Domain
from minillava.toybox.mix import STAGE_1, STAGE_2, Table
from minillava.toybox.scenes import SCENES

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
        "domain": datasets.Value("string"),
        "kind": datasets.Value("string"),
        "measure": datasets.Value("string"),
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


def captions(split: str, size: int, seed: int = 0, table: Table = STAGE_1) -> datasets.Dataset:
    """`size` stage-1 records of a split, as a Dataset in LLaVA's format."""
    return _made("captions", table, split, size, seed)


def instructions(split: str, size: int, seed: int = 0, table: Table = STAGE_2) -> datasets.Dataset:
    """`size` stage-2 records of a split, as a Dataset in LLaVA's format."""
    return _made("instructions", table, split, size, seed)


def evaluation(split: str, pictures: int, seed: int = 0, one: Domain = SCENES) -> datasets.Dataset:
    """All questions about `pictures` pictures of a domain's split, one record each."""
    rows = tqdm(records.evaluation_records(split, pictures, seed, one), desc=f"drawing {one.name}, {split}")
    return datasets.Dataset.from_list(list(rows), features=EVALUATION_FEATURES)


def held_out(split: str, seed: int = 0) -> datasets.Dataset:
    """The questions about every domain's pictures of a split, for those that have it (`mix.HELD_OUT`).

    Raises ValueError for a split that no domain has.
    """
    having = [row for row in mix.HELD_OUT if split in domain.splits(row[0])] or mix.HELD_OUT
    return datasets.concatenate_datasets([evaluation(split, number, seed, one) for one, number in having])


def freeze(file: Path, split: str = "test") -> None:
    """Write a split's questions as the shipped evaluation set is: `data/toybox-eval.parquet`.

    Its pictures are WebP without loss, which takes half the space of PNG.
    """
    rows = held_out(split).to_list()
    packed = {row["image"]["bytes"]: b"" for row in rows}
    for png in tqdm(packed, desc="packing", unit=" pictures"):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(png)).save(buffer, format="WEBP", lossless=True, method=4, quality=100)
        packed[png] = buffer.getvalue()
    for row in rows:
        row["image"] = {"bytes": packed[row["image"]["bytes"]], "path": None}
    _write(datasets.Dataset.from_list(rows, features=EVALUATION_FEATURES), file)


def _made(name: str, table: Table, split: str, size: int, seed: int) -> datasets.Dataset:
    file = cache_folder() / f"{name}-{split}-{size}-{seed}-{_world(table)}.parquet"
    if not file.is_file():
        bar = tqdm(range(size), desc=f"drawing {name}", unit=" pictures")
        rows = [records.mixed_record(table, split, index, seed) for index in bar]
        _write(datasets.Dataset.from_list(rows, FEATURES), file)
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


def _world(table: Table) -> str:
    """A hash of the table, of this folder's sources and of its domains': when they change, so do records."""
    rows = "\n".join(f"{row.domain.name} {row.kind} {row.records}" for row in table)
    sources = {*Path(__file__).parent.glob("*.py")}
    code = b""
    for row in table:
        try:
            sources.add(Path(inspect.getfile(row.domain.questions)).resolve(strict=True))
        except (OSError, TypeError):  # in no file, as in a notebook: nobody knows whether it has changed
            code = os.urandom(16)
    code += b"".join(path.read_bytes() for path in sorted(sources))
    return hashlib.sha256(rows.encode() + code).hexdigest()[:12]
