"""LLaVA-Pretrain and llava_v1_5_mix665k as published: is the folder complete, and where is what is not.

    LLaVA-Pretrain/                          playground/data/
        blip_laion_cc_sbu_558k.json              llava_v1_5_mix665k.json
        images/00000 ... 00659/                  coco/train2017/  gqa/images/  ocr_vqa/images/
                                                 textvqa/train_images/  vg/VG_100K/  vg/VG_100K_2/

Only names are looked at, so that 665,298 records take minutes on any disk; `records.audit` opens every
picture.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from minillava.convert import read
from minillava.records import named, pictures, text_problem

SHOWN = 5
"""Examples of each thing that is wrong."""


@dataclass(frozen=True)
class Published:
    """What the authors published. `roots` maps the first folder of the pictures to the records that have
    one there, and `folders` to what has to be in it; without roots the pictures are in numbered folders."""

    file: str
    records: int
    text_only: int
    roots: dict[str, int] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)


PUBLISHED = {
    "pretrain": Published("blip_laion_cc_sbu_558k.json", records=558_128, text_only=0),
    "mix665k": Published(
        "llava_v1_5_mix665k.json",
        records=665_298,
        text_only=40_688,
        roots={"coco": 364_100, "vg": 86_417, "ocr_vqa": 80_000, "gqa": 72_140, "textvqa": 21_953},
        folders={
            "coco": "coco/train2017, of train2017.zip",
            "vg": "vg/VG_100K and vg/VG_100K_2, of images.zip and images2.zip",
            "ocr_vqa": "ocr_vqa/images, fetched one by one, all as .jpg",
            "gqa": "gqa/images, of images.zip",
            "textvqa": "textvqa/train_images, of train_val_images.zip",
        },
    ),
}
"""Counts: hub page of LLaVA-Pretrain; LLaVA issues #702 (records), #657 (by folder), #546 (text only).
Folders: README of haotian-liu/LLaVA, "Visual Instruction Tuning"."""


@dataclass
class Layout:
    """What was found. `records`, `pictures` and `missing` count by root; `problems` are sentences."""

    name: str
    file: str
    image_root: str
    total: int = 0
    text_only: int = 0
    records: Counter[str] = field(default_factory=Counter)
    pictures: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        """Everything, as JSON takes it."""
        found = dict(vars(self))
        return found | {name: dict(found[name]) for name in ("records", "pictures", "missing")}

    def __str__(self) -> str:
        wanted = PUBLISHED[self.name]
        lines = [
            f"{self.file}: {self.total} records ({wanted.records} published), {self.text_only} text only "
            f"({wanted.text_only})",
            f"pictures below {self.image_root}",
            f"  {'folder':<10}{'records':>9}{'published':>11}{'pictures':>10}{'missing':>9}",
        ]
        for root in dict.fromkeys([*wanted.roots, *sorted(self.records)]):
            published = wanted.roots.get(root, "")
            lines.append(
                f"  {root:<10}{self.records[root]:>9}{published:>11}{self.pictures[root]:>10}"
                f"{self.missing[root]:>9}"
            )
        lines += [f"- {problem}" for problem in self.problems] or ["As published: everything is there."]
        return "\n".join(lines)


class Listing:
    """What is in folders, each looked at once: faster than asking a network disk for every picture."""

    def __init__(self) -> None:
        self.names: dict[Path, set[str]] = {}
        self.stems: dict[Path, set[str]] = {}

    def has(self, file: Path) -> bool:
        """Is the file there?"""
        folder = file.parent
        if folder not in self.names:
            self.names[folder] = set(os.listdir(folder)) if folder.is_dir() else set()
        return file.name in self.names[folder]

    def has_renamed(self, file: Path) -> bool:
        """Is it there under another ending?"""
        if not self.has(file) and file.parent not in self.stems:
            self.stems[file.parent] = {Path(name).stem for name in self.names[file.parent]}
        return file.stem in self.stems.get(file.parent, ())


def find_records(place: Path, name: str | None = None) -> tuple[str, Path]:
    """(key of PUBLISHED, record file) of a folder or a file.

    Raises FileNotFoundError if there is none, ValueError if the file has another name and `name` does not
    say which it is.
    """
    known = {one.file: key for key, one in PUBLISHED.items()}
    if place.is_dir():
        here = [
            place / file for file, key in known.items() if name in (None, key) and (place / file).is_file()
        ]
        if len(here) != 1:
            found = "more than one of" if here else "none of"
            raise FileNotFoundError(f"{place} has {found} {', '.join(known)}: give the file that is meant.")
        place = here[0]
    if not place.is_file():
        raise FileNotFoundError(f"There is no record file at {place}.")
    if name is None and place.name not in known:
        raise ValueError(f"{place.name} is none of {', '.join(known)}: say which, with --set.")
    return name or known[place.name], place


def check_layout(
    place: str | Path, name: str | None = None, image_root: str | Path | None = None, progress: bool = False
) -> Layout:
    """Hold a folder (or record file) against what was published as `name` ("pretrain" or "mix665k").

    `image_root` is where the pictures' paths begin; by default the record file's folder or, if it has one
    and the paths do not begin with it, its folder `images`. Raises as `find_records` and
    `convert.read` do; whatever else is wrong is among `problems`.
    """
    name, file = find_records(Path(place), name)
    wanted = PUBLISHED[name]
    root = Path(image_root) if image_root else file.parent
    if image_root is None and not any((root / one).is_dir() for one in wanted.roots):
        root = root / "images" if (root / "images").is_dir() else root
    found = Layout(name, str(file), str(root))
    listing, seen = Listing(), set()
    lost: dict[str, list[str]] = {}
    broken: list[str] = []

    bar = tqdm(read(file), desc=file.name, total=wanted.records, unit=" records", disable=not progress)
    for index, record in enumerate(bar):
        found.total += 1
        if problem := _problem(record):
            broken.append(f"{named(record, index) if isinstance(record, dict) else index}: {problem}")
            if not isinstance(record, dict):
                continue
        found.text_only += not pictures(record)
        for picture in filter(_is_path, pictures(record)):
            first = PurePosixPath(picture).parts[0] if wanted.roots else "all"
            found.records[first] += 1
            if picture not in seen:
                seen.add(picture)
                found.pictures[first] += 1
                if not listing.has(root / picture):
                    found.missing[first] += 1
                    lost.setdefault(first, []).append(picture)
    found.problems = [*_differences(found, wanted), *_missing(lost, wanted, root, listing)]
    if broken:
        found.problems.append(f"{len(broken)} records cannot be used: {_some(broken, '; ')}")
    return found


def _problem(record: Any) -> str | None:
    """What makes an entry unfit for use, if anything does."""
    if not isinstance(record, dict):
        return "no record"
    if problem := text_problem(record):
        return problem[1]
    strange = [picture for picture in pictures(record) if not _is_path(picture)]
    return f"{strange[0]!r:.60} is not the path of a picture" if strange else None


def _is_path(picture: Any) -> bool:
    return isinstance(picture, str) and bool(PurePosixPath(picture).name)


def _differences(found: Layout, wanted: Published) -> list[str]:
    """Counts that are not the published ones."""
    pairs = [
        ("records", found.total, wanted.records),
        ("text-only records", found.text_only, wanted.text_only),
    ]
    pairs += [(f"records with a picture in {r}", found.records[r], n) for r, n in wanted.roots.items()]
    lines = [f"{what}: {here}, published are {there}" for what, here, there in pairs if here != there]
    strange = sorted(set(found.records) - set(wanted.roots)) if wanted.roots else []
    return lines + [f"pictures in folders that are not of this set: {', '.join(strange)}"] * bool(strange)


def _missing(lost: dict[str, list[str]], wanted: Published, root: Path, listing: Listing) -> list[str]:
    """Where pictures are missing: how many, which, and what belongs there."""
    lines = []
    for first, absent in lost.items():
        where = root if first == "all" else first
        number = "1 picture is" if len(absent) == 1 else f"{len(absent)} pictures are"
        line = f"{number} missing in {where}: {_some(absent)}"
        if first in wanted.folders:
            line += f" (wanted: {wanted.folders[first]})"
        if renamed := sum(listing.has_renamed(root / picture) for picture in absent):
            line += f"; {renamed} of them under another ending (LLaVA saves all of OCR-VQA as .jpg)"
        lines.append(line)
    return lines


def _some(things: list[str], separator: str = ", ") -> str:
    return separator.join(things[:SHOWN]) + (separator + "..." if len(things) > SHOWN else "")
