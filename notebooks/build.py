"""Build the notebooks: execute `source/NN_name.py` and write `NN_name.ipynb` beside this file.

    python notebooks/build.py            build all
    python notebooks/build.py 00 07      build these
    python notebooks/build.py --check    execute nothing; fail if a notebook and its source differ
    python notebooks/build.py --time     build all, and write how long each took here into timings.json,
                                         the cards and INSTRUCTORS.md

The percent script is what is edited; the notebook holds its cells and their outputs, normalized so that
building twice changes nothing: cell ids from their position, no times, no stderr, no widget state.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jupytext
import nbformat
from nbclient import NotebookClient

from minillava.course.cards import TIMINGS, minutes

HERE = Path(__file__).resolve().parent
CELL_SECONDS = 300
FIGURE_BYTES = 150_000
WIDGET = "application/vnd.jupyter.widget-view+json"
PAGE = HERE / "INSTRUCTORS.md"
BEGIN, END = "<!-- timings: by notebooks/build.py --time -->\n", "<!-- end of timings -->"


def sources() -> list[Path]:
    return sorted((HERE / "source").glob("[0-9]*.py"))


def lesson(path: Path) -> str:
    """What a lesson is called by: "03" of 03_projector.py, "07b" of the second of three parts."""
    return path.name.partition("_")[0]


def read_source(path: Path) -> nbformat.NotebookNode:
    """The cells of a percent script, with stable ids and the kernel every machine has."""
    notebook = jupytext.read(path)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        cell["metadata"] = {key: cell.metadata[key] for key in ("tags", "alt") if key in cell.metadata}
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def kept(outputs: list[dict]) -> list[dict]:
    """A cell's outputs that a notebook keeps: no stderr, and no progress bar, of which only an id is left."""
    return [o for o in outputs if o.get("name") != "stderr" and WIDGET not in o.get("data", {})]


def describe(cell: nbformat.NotebookNode, name: str) -> None:
    """Put a cell's alternative text on each of its figures, where IPython and nbconvert keep it.

    The percent script has it in the cell's header: `# %% alt="A red star, and a map that is bright there."`

    Raises:
        ValueError: the cell draws a figure and has no such text, or has one and draws none.
    """
    alt = cell.metadata.get("alt")
    figures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
    if figures and not alt:
        raise ValueError(f'{name}, {cell.id}: say what its figure shows, as in `# %% alt="A red star."`.')
    if alt and not figures:
        raise ValueError(f"{name}, {cell.id}: it has the alternative text {alt!r}, but no figure; remove it.")
    for output in figures:
        output.metadata.setdefault("image/png", {})["alt"] = alt


def build(path: Path) -> Path:
    """Execute a source and write its notebook.

    Raises:
        ValueError: its figures are too heavy, or one is not described.
    """
    notebook = read_source(path)
    # why coalesced: in how many pieces a cell's text arrives is a matter of timing
    client = NotebookClient(
        notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": HERE}}, coalesce_streams=True
    )
    client.execute()
    figures = 0
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = kept(cell.outputs)
        describe(cell, path.name)
        figures += sum(len(o.get("data", {}).get("image/png", "")) * 3 // 4 for o in cell.outputs)
    if figures > FIGURE_BYTES:
        raise ValueError(f"{path.name}: its figures take {figures:,} bytes, more than {FIGURE_BYTES:,}.")
    target = HERE / f"{path.stem}.ipynb"
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata.pop("widgets", None)
    nbformat.write(notebook, target)
    return target


def differences(path: Path) -> list[str]:
    """What `path` and its notebook say differently, without executing anything."""
    target = HERE / f"{path.stem}.ipynb"
    if not target.is_file():
        return [f"{target.name} is missing"]
    source, built = read_source(path).cells, nbformat.read(target, as_version=4).cells
    found = [
        f"{target.name}: cell {number} differs from its source"
        for number, (a, b) in enumerate(zip(source, built, strict=False))
        if (a.cell_type, a.source) != (b.cell_type, b.source)
    ]
    if len(source) != len(built):
        found.append(f"{target.name} has {len(built)} cells, its source {len(source)}")
    return found


def hardware() -> str:
    """This machine in words, as cards name it."""
    threads = os.environ["OMP_NUM_THREADS"]
    used = "one thread" if threads == "1" else f"{threads} threads"
    return f"{os.cpu_count()} CPU cores ({platform.machine()}, {used})"


def record_times(seconds: dict[str, float], file: Path = TIMINGS) -> None:
    """Write this machine's seconds by lesson ("03") beside those of other machines."""
    timings = json.loads(file.read_text()) if file.is_file() else {}
    timings.setdefault(hardware(), {}).update({lesson: round(value) for lesson, value in seconds.items()})
    file.write_text(json.dumps(timings, indent=1, sort_keys=True) + "\n")


def renew_cards() -> None:
    """Write the measured minutes into the cards of the built notebooks, as executing them would."""
    for path in sources():
        target = HERE / f"{path.stem}.ipynb"
        notebook = nbformat.read(target, as_version=4)
        for output in (o for cell in notebook.cells for o in cell.get("outputs", [])):
            if "**Run All takes**" in output.get("data", {}).get("text/markdown", ""):
                output.data["text/markdown"] = minutes(lesson(path))
        nbformat.write(notebook, target)


def timing_table(file: Path = TIMINGS) -> str:
    """How long "Run All" takes, a row a lesson and a column a machine that was timed, as Markdown."""
    timings = json.loads(file.read_text()) if file.is_file() else {}
    if not timings:
        return "Not timed yet: `python notebooks/build.py --time`.\n"
    rows = [["lesson", *timings], ["---", *["---:"] * len(timings)]]
    for path in sources():
        title = path.read_text().splitlines()[1].removeprefix("# # ")
        rows.append([title, *(_clock(seconds.get(lesson(path))) for seconds in timings.values())])
    rows.append(["all", *(_clock(sum(seconds.values())) for seconds in timings.values())])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _clock(seconds: int | None) -> str:
    return "" if seconds is None else f"{seconds // 60}:{seconds % 60:02d}"


def with_table(page: str, table: str) -> str:
    """The instructors' page with `table` between its marks. ValueError if it has not both, once each."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE.name} needs the lines {BEGIN.strip()} and {END}, in this order.")
    return before + begin + table + end + after


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lessons", nargs="*", metavar="NN", help="numbers of lessons; default: all")
    parser.add_argument("--check", action="store_true", help="compare, execute nothing")
    parser.add_argument(
        "--time", action="store_true", help="write timings.json, the cards and INSTRUCTORS.md"
    )
    options = parser.parse_args()
    if options.check:
        found = [line for path in sources() for line in differences(path)]
        print("\n".join([*found, "Run `make notebooks`."] if found else ["No drift."]))
        return bool(found)
    seconds = {}
    chosen = [path for path in sources() if not options.lessons or lesson(path) in options.lessons]
    if not chosen:
        parser.error(f"no lesson {', '.join(options.lessons)}: there are {[lesson(p) for p in sources()]}")
    for path in chosen:
        begun = time.perf_counter()
        print(build(path).name)
        seconds[lesson(path)] = time.perf_counter() - begun
    if options.time:
        record_times(seconds)
        renew_cards()
        PAGE.write_text(with_table(PAGE.read_text(), timing_table()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
