"""Records from one kind of file into another: LLaVA's JSON list, JSON Lines, parquet with pictures inside,
in one file or in shards.

Records pass through one by one, so that a file of any size takes the same memory. The result is written
under another name and takes its place when it is whole.
"""

import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
from PIL import Image
from tqdm import tqdm

from minillava.conversation import HALF, whole
from minillava.records import (
    Record,
    as_utf8,
    image_key,
    named,
    picture_source,
    pictures,
    text_problem,
)
from minillava.shards import is_any_list, opened, shard_files, shard_name

FIELDS = ("id", "image", "conversations")
"""What parquet keeps of a record; of a turn it keeps who speaks and the text."""

GROUP_RECORDS, GROUP_BYTES = 1024, 16 << 20
"""A row group of parquet is written when it has this many records or picture bytes."""

CHUNK = 1 << 20
"""Characters of a JSON list that are read at a time."""


@dataclass
class Conversion:
    """What came of it: how many records and pictures were written, which records were left out and why, and
    in how many records there was a field that parquet does not keep."""

    records: int = 0
    pictures: int = 0
    skipped: list[str] = field(default_factory=list)
    fields_dropped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [f"{self.records} records, {self.pictures} pictures"]
        lines += [f"left out: {reason}" for reason in self.skipped]
        lines += [f"field {name!r} not kept, of {n} records" for name, n in self.fields_dropped.items()]
        return "\n".join(lines)


def convert(
    source: str | Path,
    target: str | Path,
    image_root: str | Path | None = None,
    picture_folder: str | Path | None = None,
    skip_broken: bool = False,
    progress: bool = False,
    shard_records: int | None = None,
) -> Conversion:
    """Write the records of `source` to `target`; each is .json, .jsonl, .parquet or a folder of shards.

    With `shard_records`, `target` is a new or empty folder of parquet files with so many records each.
    Parquet embeds the pictures, read from below `image_root` and from nowhere else, under their paths.
    From parquet they are written to `picture_folder`, which must not exist yet or be empty, under these
    paths again, or named after their content. Texts are the same after any number of conversions;
    parquet has one type for a column, so numbers that are ids become strings there, and other fields are
    dropped (and counted).

    Raises FileNotFoundError or ValueError, naming the record, for what is no record and for a picture that
    is not there; `skip_broken` leaves such records out and lists them. Pictures are not decoded: that
    is for `records.audit`. Nothing is left of a conversion that fails.
    """
    source, target = Path(source), Path(target)
    if not source.exists():
        raise FileNotFoundError(f"There is no record file at {source}.")
    if source.resolve() == target.resolve():
        raise ValueError(f"The records would replace {source}, where they are read: name another target.")
    if shard_records is not None and (shard_records < 1 or target.suffix):
        raise ValueError(f"Shards of at least one record go to a folder: not {shard_records} to {target}.")
    if not shard_records and target.suffix not in (".json", ".jsonl", ".parquet"):
        raise ValueError(f"{target} is to be a .json, .jsonl or .parquet file, or needs --shard-records.")
    to_parquet = bool(shard_records) or target.suffix == ".parquet"
    folder = Path(picture_folder) if picture_folder else None
    if folder and (not _is_parquet(source) or to_parquet):
        raise ValueError("Pictures come out only on the way from parquet to JSON: leave the folder out.")
    for new in filter(None, (folder, target if shard_records else None)):
        if new.exists() and (not new.is_dir() or any(new.iterdir())):
            raise ValueError(f"{new} is there already: give a new or an empty folder.")

    done = Conversion()
    several, total = _survey(source, progress)
    with _draft(target) as (draft, replace), _draft(folder or target) as (drawn, replace_folder):
        writer, prepare = _text_writer(draft), dict
        if to_parquet:
            prepare = partial(_embed, image_root, done)
            writer = _parquet_writer(draft, several)
            if shard_records:
                writer = _sharded_writer(draft, several, shard_records)
        elif _is_parquet(source):
            prepare = partial(_extract, folder and drawn, done)
        bar = tqdm(total=total, desc=target.name, unit=" records", disable=not progress)
        with writer as write, bar:
            for index, record in enumerate(read(source)):
                try:
                    write(prepare(_checked(record)))
                    done.records += 1
                except (FileNotFoundError, ValueError) as error:
                    reason = f"{_name(record, index)} of {source}: {error}"
                    if not skip_broken:
                        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
                        raise kind(f"{reason} Nothing was written.") from error
                    done.skipped.append(reason)
                bar.update()
        if folder:
            replace_folder()
        replace()
    return done


@contextmanager
def _draft(final: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A place beside `final` to write to, and what puts that there, files once they are on the disk."""
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{final.name}-", dir=final.parent) as unfinished:
        draft = Path(unfinished, final.name)

        def replace() -> None:
            if not draft.is_file():
                draft.mkdir(exist_ok=True)
            for file in [draft] if draft.is_file() else draft.glob("*.parquet"):
                with open(file, "rb+") as stream:
                    os.fsync(stream.fileno())
            os.replace(draft, final)

        yield draft, replace


def read(source: Path) -> Iterator[Any]:
    """The entries of a record file or a folder of shards, one at a time; ValueError where it is damaged."""
    if _is_parquet(source):
        yield from _parquet_rows(source)
        return
    with as_utf8(source):
        with source.open(encoding="utf-8-sig") as stream:
            start = stream.read(4096).lstrip()
        yield from _json_list(source) if start.startswith("[") else _json_lines(source)


def _is_parquet(source: Path) -> bool:
    return source.is_dir() or source.suffix == ".parquet"


def _parquet_files(source: Path) -> list[Path]:
    return shard_files(source) if source.is_dir() else [source]


def _parquet_rows(source: Path) -> Iterator[Record]:
    for name in _parquet_files(source):
        with opened(name) as file:
            for batch in file.iter_batches(batch_size=64):
                yield from batch.to_pylist()


def _json_lines(source: Path) -> Iterator[Any]:
    with source.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"Line {number} of {source} is not JSON: {error}.") from error


def _json_list(source: Path) -> Iterator[Any]:
    """The elements of a list that is never in memory as a whole."""
    decoder, index = json.JSONDecoder(), 0
    with source.open(encoding="utf-8-sig") as stream:
        text, at, size = stream.read(CHUNK), 0, CHUNK
        at = text.index("[") + 1

        def more() -> bool:
            """Read on, ever larger pieces while an element has not ended; False at the file's end."""
            nonlocal text, at, size
            piece = stream.read(size)
            text, at, size = text[at:] + piece, 0, 2 * size
            return bool(piece)

        while True:
            while at < len(text) and text[at] in " \t\r\n,":
                at += 1
            if at == len(text):
                if not more():
                    raise ValueError(f"{source} ends after {index} records, without the list's `]`.")
            elif text[at] == "]":
                if (text[at + 1 :] + stream.read()).strip():
                    raise ValueError(f"{source} goes on after its list of {index} records.")
                return
            else:
                try:
                    element, end = decoder.raw_decode(text, at)
                except json.JSONDecodeError as error:
                    # An error at the end of what was read is none, if the file goes on.
                    cut = error.pos > len(text) - 16 or error.msg.startswith("Unterminated string")
                    if cut and more():
                        continue
                    raise ValueError(f"Record {index} of {source} is not JSON: {error.msg}.") from error
                yield element
                at, size, index = end, CHUNK, index + 1


def _survey(source: Path, progress: bool) -> tuple[bool, int]:
    """(does any record have several pictures, number of records), before the first one is written."""
    several, total = False, 0
    if _is_parquet(source):
        for name in _parquet_files(source):
            with opened(name) as file:
                schema = file.schema_arrow
                several |= "image" in schema.names and is_any_list(schema.field("image").type)
                total += file.metadata.num_rows
        return several, total
    for record in tqdm(read(source), desc=source.name, unit=" records", disable=not progress):
        several |= isinstance(record, dict) and len(pictures(record)) > 1
        total += 1
    return several, total


def _checked(record: Any) -> Record:
    """The record, if it is one: an object with turns of human and gpt."""
    if not isinstance(record, dict) or not isinstance(record.get("conversations"), list):
        raise ValueError(f"no record, an object with `conversations`, but {str(record)[:80]!r}.")
    if (problem := text_problem(record)) and problem[0] == "malformed conversation":
        raise ValueError(f"{problem[1]}.")
    if not whole(str(record.get("id"))):
        raise ValueError(f"its id has {HALF}.")
    return record


def _columns(record: Record, done: Conversion) -> Record:
    """The fields that parquet keeps, without the pictures; the others are counted."""
    for name, value in record.items():
        if name not in FIELDS and value is not None:
            done.fields_dropped[name] += 1
    turns = [{"from": turn["from"], "value": turn["value"]} for turn in record["conversations"]]
    return {"id": record.get("id"), "conversations": turns}


def _embed(image_root: str | Path | None, done: Conversion, record: Record) -> Record:
    """A record for parquet: `image` is a list of pictures with their bytes, the id is text."""
    row = _columns(record, done)
    row["id"] = None if row["id"] is None else str(row["id"])
    row["image"] = [_embedded(picture, image_root) for picture in pictures(record)]
    done.pictures += len(row["image"])
    return row


def _extract(folder: Path | None, done: Conversion, record: Record) -> Record:
    """A record for JSON, of one from parquet: `image` is a path below `folder`, or a list of them."""
    row = _columns(record, done)
    if row["id"] is None:
        del row["id"]
    paths = [_path(picture, folder, done) for picture in pictures(record)]
    if paths:
        row["image"] = paths if len(paths) > 1 else paths[0]
    return row


def _embedded(picture: Any, image_root: str | Path | None) -> dict[str, Any]:
    """`{"bytes", "path"}`, as `datasets` and `records` read it."""
    content = picture_source(picture, image_root)
    path = picture.get("path") if isinstance(picture, dict) else picture
    path = None if isinstance(path, bytes) or not path else path.lstrip("/")  # below the new folder
    if path and not whole(path):
        raise ValueError(f"the name of its picture, {path!r}, has {HALF}.")
    if isinstance(content, Path):
        # By its name alone: a link inside is somebody's choice, what a record says is not.
        if not Path(os.path.abspath(content)).is_relative_to(os.path.abspath(image_root or "")):
            raise ValueError(f"its picture {content} is not below --image-root ({image_root or 'here'}).")
        if not content.is_file():
            raise FileNotFoundError(f"there is no picture file {content}.")
        content = content.read_bytes()
    return {"bytes": content, "path": path}


def _path(picture: Any, folder: Path | None, done: Conversion) -> str:
    """The path of a picture; one that is inside the record is written to `folder` first."""
    if isinstance(picture, str):
        return picture
    picture = {"bytes": picture} if isinstance(picture, bytes) else picture
    if not isinstance(picture, dict) or not any(picture.values()):
        raise ValueError(f"a picture is a path or embedded bytes, not {picture!r:.60}.")
    content, path = picture.get("bytes"), picture.get("path")
    if not content:
        return path
    if folder is None:
        raise ValueError("its picture is inside the file: say which folder the pictures go to (--pictures).")
    if not path:
        path = f"{image_key(content)}.{_extension(content)}"
    place = PurePosixPath(path)
    if place.is_absolute() or ".." in place.parts:
        raise ValueError(f"the path of its picture, {path}, leads out of the folder of pictures.")
    file = folder / place
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        done.pictures += 1
    elif file.read_bytes() != content:
        raise ValueError(f"its picture {path} is another one than that of the same path before.")
    return path


def _extension(content: bytes) -> str:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.format.lower()
    except (OSError, ValueError) as error:
        raise ValueError("its picture has no name, and is in no format that Pillow can read.") from error


@contextmanager
def _text_writer(file: Path) -> Iterator[Callable[[Record], None]]:
    """JSON Lines, or a list with one record a line."""
    is_list, first = file.suffix == ".json", True
    with file.open("w", encoding="utf-8", newline="\n") as out:

        def write(record: Record) -> None:
            nonlocal first
            text = json.dumps(record, ensure_ascii=False)
            out.write(text + "\n" if not is_list else ("[\n" if first else ",\n") + text)
            first = False

        yield write
        if is_list:
            out.write("[]\n" if first else "\n]\n")


@contextmanager
def _parquet_writer(file: Path, several: bool) -> Iterator[Callable[[Record], None]]:
    """Columns `id`, `image` (one picture, or with `several` a list of them) and `conversations`."""
    picture = datasets.Image()
    schema = datasets.Features(
        {
            "id": datasets.Value("string"),
            "image": datasets.List(picture) if several else picture,
            "conversations": datasets.List(
                {"from": datasets.Value("string"), "value": datasets.Value("string")}
            ),
        }
    ).arrow_schema
    group: list[Record] = []
    size = 0
    with pyarrow.parquet.ParquetWriter(file, schema) as out:

        def write(record: Record) -> None:
            nonlocal size
            images = record["image"]
            size += sum(len(image["bytes"]) for image in images)
            group.append(record if several else record | {"image": images[0] if images else None})
            if len(group) == GROUP_RECORDS or size >= GROUP_BYTES:
                close()

        def close() -> None:
            nonlocal size
            if group:
                out.write_table(pyarrow.Table.from_pylist(group, schema))
            group.clear()
            size = 0

        yield write
        close()


@contextmanager
def _sharded_writer(folder: Path, several: bool, records: int) -> Iterator[Callable[[Record], None]]:
    """One parquet file after the other, with so many `records` each, named when their number is known."""
    folder.mkdir()
    shards = 0
    with ExitStack() as current:
        write_one, written = None, records

        def write(record: Record) -> None:
            nonlocal shards, write_one, written
            if written == records:
                current.close()
                write_one = current.enter_context(_parquet_writer(folder / f"{shards}.parquet", several))
                shards, written = shards + 1, 0
            write_one(record)
            written += 1

        yield write
    for number in range(shards):
        (folder / f"{number}.parquet").rename(folder / shard_name(number, shards))


def _name(record: Any, index: int) -> str:
    return named(record, index) if isinstance(record, dict) else f"entry {index}"
