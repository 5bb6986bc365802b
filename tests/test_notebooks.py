"""Notebooks are what their sources say, without executing them."""

import importlib.util
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
