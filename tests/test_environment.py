"""What holds for the repository as a whole: its versions agree, and its code keeps the house rules."""

import ast
import json
import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "minillava"
SOURCES = sorted(PACKAGE.rglob("*.py"))
INSTALL = 'pip install -c constraints.txt -e ".[dev,lora]"'

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIREMENTS = [Requirement(r) for r in PROJECT["dependencies"] + EXTRAS["dev"] + EXTRAS["lora"]]

LAYERS = [
    "config",
    "toybox",
    "conversation images shards",
    "weights sampler records convert projector vision flops decoder",
    "data model published",
    "bases lora inspection",
    "checkpoints",
    "saving parallel monitoring training pretrain chat shapes memory",
    "plan adopt attention grounding heads passage relevance ablation figure plots evaluation",
    "attention_plots attention_html",
    "course demo reproduce doctor starting",
    "commands",
    "cli",
]
"""Who may know whom: a module imports from its own line and from those above it."""


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    names = [name.lower().replace("_", "-") for name, _ in pairs]
    assert len(names) == len(set(names)), "a package is pinned twice"
    return dict(zip(names, (pin for _, pin in pairs), strict=True))


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_is_pinned_within_its_range(requirement):
    assert requirement.specifier.contains(pins()[requirement.name.lower()])


def test_the_tested_set_is_whole_and_holds_nothing_else():
    tested = pins()
    assert tested["torch"] == "2.13.0"  # without +cpu: it must install from any index
    assert not [pin for pin in tested.values() if "+" in pin]
    assert not {"minillava", "py-spy", "pip"} & tested.keys()
    indirect = {"tokenizers", "huggingface-hub", "numpy", "tqdm", "pyarrow", "nbformat", "psutil"}
    assert indirect <= tested.keys()


def test_conda_installs_what_pip_does():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (python,) = (d for d in environment["dependencies"] if str(d).startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.split("=")[1])
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert "pip install " + " ".join(pip).replace(".[dev,lora]", '".[dev,lora]"') == INSTALL


@pytest.mark.parametrize("file", ["Makefile", ".ci/run", "minillava/doctor.py"])
def test_there_is_one_way_to_install(file):
    assert INSTALL in (ROOT / file).read_text().replace("pip install --quiet", "pip install")


def test_make_and_ci_run_the_same_tests():
    assert "pytest --nbval" in (ROOT / "Makefile").read_text()
    assert "\npytest --nbval" in (ROOT / ".ci/run").read_text()


def layer(module: str) -> int | None:
    """Line of LAYERS on which `minillava.<module>` or its folder stands."""
    return next((i for i, line in enumerate(LAYERS) if module.split(".")[0] in line.split()), None)


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(file) for file in SOURCES}


def imported(file: Path) -> set[str]:
    """Our own modules that a file imports, at its top or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{file.name} uses a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            submodules = {name for name in whole if name.removeprefix("minillava.") in MODULES}
            found |= submodules or {node.module}
    ours = {name.removeprefix("minillava.") for name in found if name.startswith("minillava.")}
    return ours - {name_of(file)}


@pytest.mark.parametrize("file", [f for f in SOURCES if name_of(f)], ids=name_of)
def test_imports_run_one_way(file):
    here = layer(name_of(file))
    for other in imported(file):
        there = layer(other)
        assert here is None or there is None or there <= here, f"{file.name} imports {other}"


def test_no_two_modules_need_each_other():
    graph = {name_of(file): imported(file) for file in SOURCES if name_of(file)}
    TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("file", sorted((PACKAGE / "toybox").glob("*.py")), ids=name_of)
def test_toybox_knows_no_torch(file):
    assert not re.search(r"^\s*(import|from) (torch|transformers|lightning)\b", file.read_text(), re.M)


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_house_rules(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 420, "too long to be one idea"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            assert "pickle" not in {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert "*" not in {alias.name for alias in node.names}
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        where = f"line {node.lineno}"
        assert called == "zip" or options.get("strict") != "False", f"{where}: strict=False"
        assert called != "torch.load" or options.get("weights_only") == "True", f"{where}: unpickles"


NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def never_executed(notebook: dict) -> list[int]:
    """Indices of code cells with something in them that were committed without being run."""
    return [
        index
        for index, cell in enumerate(notebook["cells"])
        if cell["cell_type"] == "code" and "".join(cell["source"]).strip() and cell["execution_count"] is None
    ]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_no_cell_of_a_notebook_was_never_executed(file):
    cells = never_executed(json.loads(file.read_text(encoding="utf-8")))
    assert not cells, f"nbval compares nothing in cells {cells}: run `make notebooks`"


def test_the_guard_sees_a_cell_that_was_never_executed():
    def cell(source: str, count: int | None, kind: str = "code") -> dict:
        return {"cell_type": kind, "source": [source], "execution_count": count}

    cells = [cell("1", 1), cell("2", None), cell(" ", None), cell("text", None, "markdown")]
    assert never_executed({"cells": cells}) == [1]
