"""A checkpoint is the old one or the new one: whatever fills up, and whenever the process dies."""

import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from minillava.saving import WholeFile, recover, replace_folder, write_whole


@contextmanager
def full_disk():
    """No file grows beyond 20 kB, as on a disk that is full; pytest's own output may be such a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_during_a_save_leaves_the_last_good_one(tmp_path):
    file, writer = tmp_path / "run" / "last.ckpt", WholeFile()
    writer.save_checkpoint({"step": 1, "weights": torch.ones(9)}, file)
    good = file.read_bytes()
    with full_disk(), pytest.raises(OSError, match=r"last.ckpt could not be saved .* before is whole"):
        writer.save_checkpoint({"step": 2, "weights": torch.ones(100_000)}, file)
    assert file.read_bytes() == good
    assert [path.name for path in file.parent.iterdir()] == ["last.ckpt"]  # no half one takes up room


def test_the_first_save_that_fails_says_that_there_is_none_before(tmp_path):
    with full_disk(), pytest.raises(OSError, match="None was saved before"):
        WholeFile().save_checkpoint({"weights": torch.ones(100_000)}, tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_save_replaces_what_a_killed_one_left(tmp_path):
    file = tmp_path / "last.ckpt"
    (tmp_path / ".last.ckpt.unfinished").write_bytes(b"half")
    WholeFile().save_checkpoint({"step": 2}, file)
    assert torch.load(file, weights_only=True) == {"step": 2}
    assert list(tmp_path.iterdir()) == [file]


def test_shards_are_not_taken_for_a_file(tmp_path):
    folder_of(tmp_path / "last.ckpt", "shard")
    with pytest.raises(ValueError, match="last.ckpt was made by fsdp2"):
        WholeFile().load_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_checkpoint_that_is_cut_off_is_named(tmp_path, keep):
    file = tmp_path / "last.ckpt"
    WholeFile().save_checkpoint({"weights": torch.ones(100)}, file)
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(ValueError, match=f"{file} is damaged .*: delete {file} to start anew"):
        WholeFile().load_checkpoint(file, weights_only=True)


def folder_of(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "shard").write_text(content)
    return path


@pytest.mark.parametrize("killed_before_rename", [1, 2, None])
def test_a_folder_of_shards_is_replaced_whole(tmp_path, monkeypatch, killed_before_rename):
    old, new = folder_of(tmp_path / "last.ckpt", "old"), folder_of(tmp_path / "new", "new")
    renames, rename = [], Path.rename

    def killed(path, target):
        renames.append(target)
        if len(renames) == killed_before_rename:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    if killed_before_rename:
        with pytest.raises(KeyboardInterrupt):
            replace_folder(new, old)
    else:
        replace_folder(new, old)
        assert list(tmp_path.iterdir()) == [old]
    monkeypatch.undo()
    assert recover(old, first=False) == old  # a second process does not touch it
    assert recover(old) == old == recover(old)
    assert (old / "shard").read_text() == ("old" if killed_before_rename else "new")


def test_nothing_to_go_on_from(tmp_path):
    assert recover(tmp_path / "last.ckpt") is None


def test_a_text_is_written_whole(tmp_path):
    file = tmp_path / "curve.csv"
    write_whole(file, "old\r\n")
    with full_disk(), pytest.raises(OSError):
        write_whole(file, "new" * 20_000)
    assert file.read_bytes() == b"old\r\n"
