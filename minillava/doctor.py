"""`minillava doctor`: what is here, what is missing, and how to get it.

Knows every package only by its metadata, so that it can report an installation in which nothing else
starts; torch alone is imported, to ask it about threads and GPUs.
"""

import hashlib
import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from minillava.config import DATA, PRESETS

INSTALL = 'pip install -c constraints.txt -e ".[dev,lora]"'
WEIGHTS = "model.safetensors"

SHIPPED = {
    "tiny-vicuna": "minillava pretrain lm --folder data/tiny-vicuna",
    "tiny-clip": "minillava pretrain clip --folder data/tiny-clip",
    "tiny-llava": "minillava reproduce --preset tiny-long, then "
    "minillava export --model runs/tiny-long/stage2/model --folder data/tiny-llava",
}
"""Folder of shipped weights in data/ -> the command that makes it anew."""

GIGABYTE = 1e9
NEEDED_MEMORY, NEEDED_DISK = 3 * GIGABYTE, 2 * GIGABYTE


def need(*names: str | Path) -> None:
    """Raise FileNotFoundError, with the command that makes it, for a shipped folder that is not there."""
    for name in names:
        folder = Path(PRESETS[name].finished if name in PRESETS else name)
        if folder.parent == DATA and folder.name in SHIPPED and not folder.is_dir():
            raise FileNotFoundError(
                f"There is no {folder}. Restore it from the repository, or make it: {SHIPPED[folder.name]}"
            )


@dataclass
class Checkup:
    """What was found. `missing` names what has to be there and is not."""

    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def note(self, name: str, value: str) -> None:
        self.lines.append(f"  {name:<16}{value}")

    def lack(self, name: str, remedy: str) -> None:
        self.missing.append(name)
        self.note(name, f"MISSING. {remedy}")


def examine(data: Path = DATA) -> Checkup:
    """Look at packages, machine and shipped weights (in `data`); changes nothing, asks no network."""
    found = Checkup()
    found.lines.append(f"Python {platform.python_version()} in {sys.prefix}")
    _packages(found, data.parent / "constraints.txt")
    _machine(found)
    _weights(found, data)
    if found.missing:
        found.lines.append(f"Missing: {', '.join(found.missing)}.")
    else:
        found.lines.append("Nothing that is required is missing.")
    return found


def _packages(found: Checkup, constraints: Path) -> None:
    """Direct dependencies: installed version against pyproject's range and the tested version."""
    from packaging.requirements import Requirement

    found.lines.append("Packages (installed; the tested version where it is another)")
    tested = read_pins(constraints) if constraints.is_file() else {}
    for requirement in map(Requirement, requires("minillava")):
        name, extra = requirement.name, re.search(r"extra == .(\w+).", str(requirement.marker))
        pin = tested.get(name.lower())
        try:
            here = version(name)
        except PackageNotFoundError:
            if extra:
                remedy = INSTALL.replace("dev,lora", extra[1])
                found.note(name, f"not installed, and optional. {remedy}")
            else:
                found.lack(name, INSTALL)
            continue
        if not requirement.specifier.contains(here, prereleases=True):
            found.lack(name, f"{here} is installed, {requirement.specifier} is needed: {INSTALL}")
        elif pin and here.split("+")[0] != pin:
            found.note(name, f"{here}, tested with {pin}")
        else:
            found.note(name, here)


def read_pins(constraints: Path) -> dict[str, str]:
    """`{name: version}` of a file of `name==version` lines; names in lower case."""
    lines = (line.split("#")[0].strip() for line in constraints.read_text().splitlines())
    pins = (line.split("==") for line in lines if line)
    return {name.strip().lower(): pin.strip() for name, pin in pins}


def _machine(found: Checkup) -> None:
    found.lines.append(f"Machine ({platform.system()} {platform.machine()})")
    try:
        import psutil

        memory = psutil.virtual_memory().available
        found.note("memory", _enough(memory, NEEDED_MEMORY, "reproduce"))
    except ImportError:
        found.lack("psutil", INSTALL)
    found.note("disk", _enough(shutil.disk_usage(".").free, NEEDED_DISK, "runs and pictures"))
    policy = os.environ.get("OMP_WAIT_POLICY", "not set")
    found.note(
        "OMP_WAIT_POLICY",
        policy
        if policy.upper() == "PASSIVE"
        else f"{policy}: idle threads spin, which made a small model up to 16 times slower on busy "
        "cores. Unset it, and minillava chooses PASSIVE",
    )
    try:
        import torch
    except (ImportError, OSError) as error:
        found.lack("torch", f"It does not start ({error}): {INSTALL}")
        return
    found.note("CPU", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            found.note(f"GPU {index}", f"{card.name}, {card.total_memory / GIGABYTE:.0f} GB")
    else:
        found.note("GPU", "none; the tiny preset needs none")


def _enough(have: float, need: float, purpose: str) -> str:
    text = f"{have / GIGABYTE:.1f} GB free"
    return text if have >= need else f"{text}: LOW, {purpose} wants {need / GIGABYTE:.0f} GB"


def _weights(found: Checkup, data: Path) -> None:
    found.lines.append(f"Shipped weights in {data} (size, first digits of the sha256)")
    for name, command in SHIPPED.items():
        file = data / name / WEIGHTS
        if not file.is_file():
            found.lack(name, f"Restore {data.name}/{name} from the repository, or: {command}")
            continue
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = file.stat().st_size / 1e6
        found.note(name, f"{size:.1f} MB, {digest[:12]}, {_compare(digest, recorded(data, name))}")


def recorded(data: Path, name: str) -> set[str]:
    """The sha256 digests, whole or first 12 digits or more, that data/ records for a model's weights.

    They stand in `HASHES` (as sha256sum writes it) or on the lines of the model's card that name the
    weights or say sha256.
    """
    hashes, folder = data / "HASHES", data / name
    lines = hashes.read_text().splitlines() if hashes.is_file() else []
    lines = [line for line in lines if f"{name}/{WEIGHTS}" in line]
    for card in (*folder.glob("*.md"), *folder.glob("card*")):
        lines += [x for x in card.read_text().splitlines() if WEIGHTS in x or "sha256" in x.lower()]
    return {digest for line in lines for digest in re.findall(r"\b[0-9a-f]{12,64}\b", line)}


def _compare(digest: str, known: set[str]) -> str:
    if not known:
        return "no recorded hash to compare with"
    if any(digest.startswith(one) for one in known):
        return "as recorded"
    return "NOT as recorded: made anew, or damaged. The notebooks' outputs may differ"
