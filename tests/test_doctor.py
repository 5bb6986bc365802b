"""doctor: what it calls missing, what it compares, and what it says to do."""

import hashlib

import pytest

from minillava import doctor


def lines_of(found: doctor.Checkup, word: str) -> str:
    return "\n".join(line for line in found.lines if word in line)


@pytest.fixture
def data(tmp_path):
    """A data folder with all three models, whose weights are a few bytes."""
    folder = tmp_path / "data"
    for name in doctor.SHIPPED:
        (folder / name).mkdir(parents=True)
        (folder / name / doctor.WEIGHTS).write_bytes(name.encode())
    return folder


def digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def test_reports_versions_machine_and_weights(data):
    found = doctor.examine(data)
    assert found.missing == []
    text = "\n".join(found.lines)
    for word in ("Python 3", "torch", "transformers", "memory", "disk", "CPU", "GPU", "OMP_WAIT_POLICY"):
        assert word in text
    assert digest("tiny-clip")[:12] in lines_of(found, "tiny-clip")


def test_names_missing_weights_and_the_command_that_makes_them(data):
    (data / "tiny-clip" / doctor.WEIGHTS).unlink()
    found = doctor.examine(data)
    assert found.missing == ["tiny-clip"]
    assert "minillava pretrain clip" in lines_of(found, "tiny-clip  ")


@pytest.mark.parametrize(
    ("recorded", "verdict"),
    [
        (digest("tiny-clip"), "as recorded"),
        (digest("tiny-clip")[:12], "as recorded"),
        ("0" * 64, "NOT as recorded"),
        ("", "no recorded hash"),
    ],
)
@pytest.mark.parametrize("place", ["HASHES", "card"])
def test_compares_weights_with_the_recorded_hash(data, recorded, verdict, place):
    # Hashes of other things (here of another model, and of a commit) say nothing about this file.
    other = "f" * 64
    if place == "HASHES":
        lines = f"{other}  tiny-llava/{doctor.WEIGHTS}\n{recorded}  tiny-clip/{doctor.WEIGHTS}\n"
        (data / "HASHES").write_text(lines)
    else:
        card = f"Made at commit {other[:40]}.\nsha256 of the weights: {recorded}\n"
        (data / "tiny-clip" / "README.md").write_text(card)
    assert verdict in lines_of(doctor.examine(data), "tiny-clip")


def test_a_version_other_than_the_tested_one_is_noted(data):
    (data.parent / "constraints.txt").write_text("# tested\nsafetensors==0.0.1\n")
    found = doctor.examine(data)
    assert "tested with 0.0.1" in lines_of(found, "safetensors")
    assert "safetensors" not in found.missing


def test_a_required_package_that_is_absent_or_too_old_is_missing(data, monkeypatch):
    wanted = ["no-such-package>=1", "torch>=999", 'no-such-extra; extra == "lora"']
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    found = doctor.examine(data)
    assert found.missing == ["no-such-package", "torch"]
    assert "pip install" in lines_of(found, "no-such-package")
    assert 'optional. pip install -c constraints.txt -e ".[lora]"' in lines_of(found, "no-such-extra")


def test_an_active_wait_policy_is_explained(data, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "spin" in lines_of(doctor.examine(data), "OMP_WAIT_POLICY")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert "spin" not in lines_of(doctor.examine(data), "OMP_WAIT_POLICY")
