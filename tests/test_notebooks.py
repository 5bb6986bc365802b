"""Notebooks are what their sources say, without executing them; the instructors' page too."""

import importlib.util
import json
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("build", ROOT / "notebooks" / "build.py")
build = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build)
SOURCES = sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_notebook_has_drifted_from_its_source(source):
    assert build.differences(source) == []


def test_drift_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert build.differences(SOURCES[0]) == ["00_start_here.ipynb is missing"]
    notebook = nbformat.read(ROOT / "notebooks" / "00_start_here.ipynb", as_version=4)
    notebook.cells[1].source += "\n# changed"
    nbformat.write(notebook, tmp_path / "00_start_here.ipynb")
    assert build.differences(SOURCES[0]) == ["00_start_here.ipynb: cell 1 differs from its source"]


def test_the_instructors_times_are_those_that_were_measured(tmp_path):
    page = build.PAGE.read_text()
    assert build.with_table(page, build.timing_table()) == page, "run `python notebooks/build.py --time`"
    file = tmp_path / "timings.json"
    assert "build.py --time" in build.timing_table(file)
    file.write_text(json.dumps({"a laptop": {"00": 61, "03": 9}, "a GPU": {"03": 5}}))
    head, _, *rows, whole = build.timing_table(file).splitlines()
    assert head == "| lesson | a laptop | a GPU |" and len(rows) == len(SOURCES)
    assert rows[0] == "| 00 · Start here: a model that sees, and where it looks | 1:01 |  |"
    assert rows[3].endswith("| 0:09 | 0:05 |") and whole == "| all | 1:10 | 0:05 |"
    renewed = build.with_table(page, build.timing_table(file))
    assert build.with_table(renewed, build.timing_table()) == page
    with pytest.raises(ValueError, match="end of timings"):
        build.with_table(page.replace(build.END, ""), "")


def test_cards_take_the_minutes_that_were_measured(tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()
    name = "03_projector"
    (tmp_path / "source" / f"{name}.py").write_text("")
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    before = json.dumps(notebook)
    nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "minutes", lambda lesson: f"**Run All takes** as long as {lesson}.")
    build.renew_cards()
    after = json.dumps(nbformat.read(tmp_path / f"{name}.ipynb", as_version=4))
    assert "as long as 03." in after and "as long as 03." not in before
    assert len(json.loads(after)["cells"]) == len(json.loads(before)["cells"])


def test_make_lab_opens_the_first_lesson():
    assert f"jupyter lab notebooks/{SOURCES[0].stem}.ipynb" in (ROOT / "Makefile").read_text()


def test_neither_bars_nor_stderr_are_kept():
    printed = {"output_type": "stream", "name": "stdout", "text": "1"}
    figure = {"output_type": "display_data", "data": {"image/png": "…"}}
    bar = {"output_type": "display_data", "data": {"text/plain": "50 %", build.WIDGET: {"model_id": "7f"}}}
    warning = {"output_type": "stream", "name": "stderr", "text": "pid 12"}
    assert build.kept([printed, bar, figure, warning]) == [printed, figure]


FIGURE, NUMBER = {"image/png": "…"}, {"text/plain": "1"}


def executed(folder, header, *shown):
    """The only cell of a percent script, with `header` behind its mark, as if it had shown these."""
    (folder / "99_shows.py").write_text(f"# %%{header}\nshow()\n")
    (cell,) = build.read_source(folder / "99_shows.py").cells
    cell.outputs = [nbformat.v4.new_output("display_data", data) for data in shown]
    return cell


def test_a_figure_gets_the_alternative_text_of_its_cell(tmp_path):
    header = ' tags=["nbval-ignore-output"] alt="A star\'s map: bright, where it is." other=1'
    cell = executed(tmp_path, header, FIGURE, NUMBER, FIGURE)
    assert set(cell.metadata) == {"tags", "alt"}
    build.describe(cell, "99_shows.py")
    described = {"image/png": {"alt": "A star's map: bright, where it is."}}
    assert [output.metadata for output in cell.outputs] == [described, {}, described]


def test_a_figure_without_alternative_text_is_refused_and_text_without_a_figure(tmp_path):
    with pytest.raises(ValueError, match=r"99_shows\.py, cell-00: say what its figure shows"):
        build.describe(executed(tmp_path, "", NUMBER, FIGURE), "99_shows.py")
    with pytest.raises(ValueError, match=r"99_shows\.py, cell-00: .*'A star\.', but no figure"):
        build.describe(executed(tmp_path, ' alt="A star."', NUMBER), "99_shows.py")
    build.describe(executed(tmp_path, "", NUMBER), "99_shows.py")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_every_figure_has_the_alternative_text_of_its_source(source):
    built = nbformat.read(build.HERE / f"{source.stem}.ipynb", as_version=4)
    wanted = {
        cell.id: cell.metadata.alt for cell in build.read_source(source).cells if "alt" in cell.metadata
    }
    found = {
        cell.id: output.metadata.get("image/png", {}).get("alt")
        for cell in built.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    }
    assert found == wanted, "run `make notebooks`"
