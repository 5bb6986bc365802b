"""Records as LLaVA publishes them, and an audit of them before any training.

A record is `{"id", "image" (optional), "conversations": [{"from": "human" | "gpt", "value"}, …]}`.
Its picture is a path below `image_root`, embedded bytes (`{"bytes", "path"}`, as parquet files hold
them), an opened picture, or a list of these. Nothing is dropped in silence: `audit` lists every
record that cannot be trained on, and leaving them out is the caller's choice
(`AuditReport.without_problems`).
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
from PIL import Image
from tqdm import tqdm

from minillava.config import IGNORE_INDEX
from minillava.conversation import HALF, IMAGE_TOKEN, Encoded, encode, whole
from minillava.images import open_image
from minillava.shards import Skip, read_shards, with_picture

Record = dict[str, Any]
Records = Sequence[Record] | datasets.Dataset

IN_MEMORY = 1 << 30
"""A parquet file up to this size, in bytes, is read at once."""


def load_records(source: str | Path | Records, skip: Skip | None = None) -> Records:
    """Records from a JSON list (LLaVA's format), JSON Lines, parquet or a folder of parquet shards; a
    sequence stays as it is. `skip`, if given, is told of a broken shard, which is then left out.

    Ids may mix numbers and strings, as in the published files. Pictures stay encoded until they are
    needed, and those of shards, or of a parquet file beyond IN_MEMORY, on the disk, in the cache of
    `datasets`. Raises FileNotFoundError, or ValueError where the file holds something else.
    """
    if isinstance(source, datasets.Dataset):
        return _keep_encoded(source)
    if not isinstance(source, (str, Path)):
        return source
    path = Path(source)
    if path.is_dir():
        return _keep_encoded(read_shards(path, skip))
    if not path.is_file():
        raise FileNotFoundError(f"There is no record file at {path}. Give a .json, .jsonl or .parquet file.")
    if path.suffix == ".parquet":
        if path.stat().st_size > IN_MEMORY:
            return _keep_encoded(datasets.Dataset.from_parquet(str(path)))
        table = datasets.table.InMemoryTable(pyarrow.parquet.read_table(path))
        return _keep_encoded(datasets.Dataset(table))
    with as_utf8(path):
        text = path.read_text(encoding="utf-8-sig")
    records, line = [], 0
    try:
        if text.lstrip().startswith("["):
            records = json.loads(text)
        else:
            for written in text.split("\n"):
                line += 1
                if written.strip():
                    records.append(json.loads(written))
    except json.JSONDecodeError as error:
        where = f", line {line}" if line else ""
        raise ValueError(
            f"{path}{where} is neither a JSON list of records nor one JSON record a line: {error}."
        ) from error
    none = not any(isinstance(record, dict) and "conversations" in record for record in records)
    for index, record in enumerate(records):
        if none or not isinstance(record, dict):  # of a record that has none the audit knows
            raise ValueError(
                f"Entry {index} of {path} is not a record: expected an object with "
                f"`conversations`, found {str(record)[:80]!r}."
            )
    return records


@contextmanager
def as_utf8(file: Path) -> Iterator[None]:
    """Where `file` is read as text: ValueError, with its name, for one in another encoding."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error.reason}): save it as UTF-8.") from error


def _keep_encoded(table: datasets.Dataset) -> datasets.Dataset:
    """`table` with its pictures as bytes; `open_image` decodes them, with errors that say where."""
    undecoded = datasets.Image(decode=False)
    match table.features.get("image"):
        case datasets.Image(decode=True):
            return table.cast_column("image", undecoded)
        case datasets.List(feature=datasets.Image(decode=True)):
            return table.cast_column("image", datasets.List(undecoded))
    return table


def pictures(record: Record) -> list[Any]:
    """The record's pictures, in order: none, one or several."""
    image = record.get("image")
    nothing = image in (None, "") if not isinstance(image, dict) else not any(image.values())
    if nothing:  # an absent picture in parquet is a null, or a struct of nulls
        return []
    return list(image) if isinstance(image, (list, tuple)) else [image]


def picture_source(picture: Any, image_root: str | Path | None) -> Any:
    """What `open_image` takes: bytes or an opened picture as is, a path joined to `image_root`."""
    if isinstance(picture, dict):
        picture = picture.get("bytes") or picture.get("path")
    if not isinstance(picture, (str, Path, bytes, Image.Image)):
        raise ValueError(f"A picture is a path, bytes or an opened image, not {picture!r:.60}.")
    return Path(image_root or "", picture) if isinstance(picture, (str, Path)) else picture


def less(records: Records, bad: Collection[int]) -> Records:
    """`records` without those of some numbers."""
    bad = set(bad)
    good = [index for index in range(len(records)) if index not in bad]
    return records.select(good) if isinstance(records, datasets.Dataset) else [records[i] for i in good]


def first_question(record: Record, image_root: str | Path | None) -> tuple[Any, str]:
    """What a sound record is asked first: its first picture, as `open_image` takes it, or None; and words."""
    shown = [picture_source(picture, image_root) for picture in pictures(record)[:1]]
    asked = (turn["value"] for turn in record["conversations"] if turn["from"] == "human")
    return (*shown, None)[0], next(asked, "")


def image_key(source: Any) -> str:
    """The same name for the same picture: its path, else a digest of its content."""
    if isinstance(source, Path):
        return str(source)
    if not isinstance(source, bytes):
        source = f"{source.mode} {source.size} ".encode() + source.tobytes()
    return hashlib.blake2b(source, digest_size=16).hexdigest()


def modality_length(record: Record) -> int:
    """Words in all turns, negative for a text-only record.

    As `LazySupervisedDataset.modality_lengths` in llava/train/train.py. Turns that are none count as one
    word: who reads the record names it, or puts another in its place.
    """
    try:
        words = sum(len((turn["value"] or "").split()) for turn in record["conversations"])
    except (AttributeError, KeyError, TypeError):
        words = 1
    return words if pictures(record) else -words


def modality_lengths(records: Records) -> list[int]:
    """`modality_length` of every record; of a table without reading the pictures."""
    if not isinstance(records, datasets.Dataset):
        return [modality_length(record) for record in records]
    found = []
    for start in range(0, len(records), 1024):
        batch = records.with_format("arrow")[start : start + 1024]
        seen = [False] * len(batch) if "image" not in batch.column_names else with_picture(batch["image"])
        for has_picture, turns in zip(seen, batch["conversations"].to_pylist(), strict=True):
            shown = {"conversations": turns} | ({"image": "there"} if has_picture else {})
            found.append(modality_length(shown))
    return found


def named(record: Record, index: int) -> str:
    """Ids repeat in the published files, so a record is named by its position too."""
    return f"record {index} (id {record.get('id')!r})"


@dataclass(frozen=True)
class Finding:
    """What is wrong with, or worth knowing about, one record."""

    index: int
    id: Any
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"record {self.index} (id {self.id!r}): {self.detail}"


@dataclass
class AuditReport:
    """What is in a set of records.

    `problems` rule a record out: missing picture, broken picture, malformed conversation, pictures
    and placeholders differ, no answer, cannot be encoded, answer cut away, picture cut. `notes` do
    not: cut (only the end is lost), and what `conversation.encode` reports, such as an empty answer
    among others.
    """

    records: int = 0
    with_image: int = 0
    with_several: int = 0
    turns: int = 0
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    unit: str = "words"

    @property
    def text_only(self) -> int:
        """Records without a picture."""
        return self.records - self.with_image

    def by_kind(self) -> dict[str, list[Finding]]:
        """Problems, then notes, as `{"missing picture": [...], ...}`: only the kinds that occur."""
        kinds: dict[str, list[Finding]] = {}
        for finding in self.problems + self.notes:
            kinds.setdefault(finding.kind, []).append(finding)
        return kinds

    def histogram(self, bins: int = 10) -> list[tuple[int, int, int]]:
        """`(from, up to and including, records)` per bin of equal width, lengths in `unit`."""
        if not self.lengths:
            return []
        low, high = min(self.lengths), max(self.lengths)
        width = -(-(high - low + 1) // bins)
        counts = [0] * ((high - low) // width + 1)
        for length in self.lengths:
            counts[(length - low) // width] += 1
        return [(low + i * width, low + (i + 1) * width - 1, n) for i, n in enumerate(counts)]

    def to_dict(self) -> dict[str, Any]:
        """Everything, every record listed, as JSON takes it."""
        listed = {
            name: [{"record": f.index, "id": f.id, "kind": f.kind, "detail": f.detail} for f in findings]
            for name, findings in (("problems", self.problems), ("notes", self.notes))
        }
        counts = {name: getattr(self, name) for name in ("records", "with_image", "with_several", "turns")}
        histogram = [{"from": low, "to": high, "records": n} for low, high, n in self.histogram()]
        return {**counts, "text_only": self.text_only, "unit": self.unit, "lengths": histogram, **listed}

    def raise_for_problems(self) -> None:
        """Raises ValueError, its message the whole report, where a record cannot be trained on."""
        if self.problems:
            raise ValueError(
                f"{self}\nRepair these records or leave them out: report.without_problems(records)."
            )

    def without_problems(self, records: Records) -> Records:
        """The explicit choice to skip: the very `records` audited, less those with a problem."""
        if len(records) != self.records:
            raise ValueError(f"This report is about {self.records} records, but {len(records)} were given.")
        return less(records, {problem.index for problem in self.problems})

    def __str__(self) -> str:
        lines = [
            f"{self.records} records: {self.with_image} with a picture "
            f"({self.with_several} with several), {self.text_only} text only; {self.turns} turns"
        ]
        if self.lengths:
            low, *_, high = ordered = sorted(self.lengths * 2)
            median = ordered[len(self.lengths)]
            lines.append(f"length in {self.unit}: {low} to {high}, median {median}")
            most = max(n for _, _, n in self.histogram())
            lines += [f"{a:>8}-{b:<6}{n:>8} {'#' * -(-40 * n // most)}" for a, b, n in self.histogram()]
        bad = len({problem.index for problem in self.problems})
        good = "every record can be trained on" if self.records else "there is nothing to train on"
        lines.append(f"{bad} records cannot be trained on" if bad else good)
        for kind, found in self.by_kind().items():
            lines.append(f"{kind}: {len(found)}")
            lines += [f"    {finding}" for finding in found[:20]]
            if len(found) > 20:
                lines.append(f"    ... and {len(found) - 20} more, see `problems` and `notes`")
        return "\n".join(lines)


def audit(
    records: str | Path | Records,
    image_root: str | Path | None = None,
    tokenizer=None,
    template: str = "v1",
    num_image_tokens: int = 576,
    max_length: int | None = 2048,
    workers: int = 4,
    progress: bool = False,
) -> AuditReport:
    """Look at every record and open every picture, before training does.

    With a `tokenizer`, lengths are in tokens (image positions included) and are held against
    `max_length`; without, they are in words. `workers` threads decode pictures. Problems are
    listed, never raised here.
    """
    records = load_records(records)
    report = AuditReport(records=len(records), unit="tokens" if tokenizer else "words")
    decoded: dict[str, str | None] = {}  # each picture once, however many records share it

    def picture_problem(picture: Any) -> tuple[str, str] | None:
        try:
            source = picture_source(picture, image_root)
        except ValueError as error:
            return "broken picture", str(error)
        if isinstance(source, Path) and not source.is_file():
            return "missing picture", f"there is no file {source}"
        key = image_key(source)
        if key not in decoded:
            try:
                open_image(source)
                decoded[key] = None
            except (OSError, ValueError) as error:
                decoded[key] = str(error)
        return ("broken picture", decoded[key]) if decoded[key] else None

    def inspect(record: Record) -> tuple[Record, list, list, int]:
        """The record, its problems and notes as (kind, detail), its length."""
        images = pictures(record)
        problems = [found for picture in images if (found := picture_problem(picture))]
        if found := text_problem(record):
            return record, [*problems, found], [], 0
        if tokenizer is None:
            return record, problems, [], abs(modality_length(record))
        turns = record["conversations"]
        try:
            encoded = encode(turns, tokenizer, template, bool(images), num_image_tokens)
        except ValueError as error:
            return record, [*problems, ("cannot be encoded", str(error))], [], 0
        notes = []
        for kind, detail in (problem.split(": ", 1) for problem in encoded.problems):
            if kind == "no_answer":
                problems.append(("no answer", detail))
            elif kind not in ("several_images", "image_missing"):
                notes.append((kind, detail))
        if encoded.num_images != len(images):
            detail = f"{len(images)} pictures, {encoded.num_images} in the {template} prompt"
            problems.append(("pictures and placeholders differ", detail))
        lost, cut = _cut(encoded, tokenizer, max_length)
        return record, problems + lost, notes + cut, len(encoded.input_ids)

    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(records), disable=not progress) as bar:
        for start in range(0, len(records), 1024):  # so that 665K records never queue at once
            block = range(start, min(start + 1024, len(records)))
            inspected = pool.map(inspect, (records[index] for index in block))
            for index, (record, problems, notes, length) in zip(block, inspected, strict=True):
                report.problems += [Finding(index, record.get("id"), *pair) for pair in problems]
                report.notes += [Finding(index, record.get("id"), *pair) for pair in notes]
                report.lengths += [length] if length else []
                report.with_image += len(pictures(record)) > 0
                report.with_several += len(pictures(record)) > 1
                turns = record.get("conversations")
                report.turns += len(turns) if isinstance(turns, list) else 0
                bar.update()
    return report


def text_problem(record: Record) -> tuple[str, str] | None:
    """(kind, detail) of what makes a record's conversation unfit for training, if anything does."""
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns:
        return "malformed conversation", f"`conversations` must be a list of turns, found {turns!r:.60}"
    for turn in turns:
        kind = "malformed conversation"
        if not isinstance(turn, dict) or turn.get("from") not in ("human", "gpt"):
            return kind, f"a turn is from `human` or `gpt`, found {turn!r:.60}"
        if not isinstance(turn.get("value"), str):
            return kind, f"a turn's value is text, found {turn.get('value')!r:.60}"
        if not whole(turn["value"]):
            return kind, f"a turn has {HALF}: {turn['value']!r:.60}"
    # a turn has one picture at most: the template moves `<image>` to the front of its turn
    placeholders = sum(IMAGE_TOKEN in turn["value"] for turn in turns)
    if not pictures(record) and not any(_shows(turn) for turn in turns):
        placeholders = 0  # what the words `<image>` in a text are to the original, too
    if placeholders != len(pictures(record)):
        return (
            "pictures and placeholders differ",
            f"{len(pictures(record))} pictures, but {placeholders} turns with {IMAGE_TOKEN}",
        )
    if placeholders and (extra := sum(turn["value"].count(IMAGE_TOKEN) for turn in turns) - placeholders):
        return (
            "pictures and placeholders differ",
            f"{extra} {IMAGE_TOKEN} too many: a turn has one at most, for its picture",
        )
    if not any(turn["value"].strip() for turn in turns if turn["from"] == "gpt"):
        return "no answer", "no gpt turn has text, so there is nothing to learn from"
    return None


def _shows(turn: dict) -> bool:
    """Whether a turn has `<image>` where a picture's stands: first in a question, or on a line of its own."""
    text = turn["value"].strip()
    return turn["from"] == "human" and (
        text.startswith(IMAGE_TOKEN) or IMAGE_TOKEN in (line.strip() for line in text.splitlines())
    )


def _cut(encoded: Encoded, tokenizer, max_length: int | None) -> tuple[list, list]:
    """(problems, notes) of keeping only the first `max_length` positions."""
    length = len(encoded.input_ids)
    if max_length is None or length <= max_length:
        return [], []
    detail = f"{length} tokens, the limit is {max_length}"
    lost = encoded.input_ids[max_length:]
    if encoded.num_images and tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in lost:
        return [("picture cut", detail)], []
    if all(label == IGNORE_INDEX for label in encoded.labels[:max_length]):
        return [("answer cut away", detail)], []
    return [], [("cut", detail)]
