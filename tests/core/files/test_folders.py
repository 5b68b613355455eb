"""Folders that replace others: the old one or the new one is there, whatever happens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from omnicap_cli.core.files.folders import leftover_folders, replacing_folder


def write(folder: Path, text: str) -> None:
    with replacing_folder(folder) as new:
        (new / "deep").mkdir()
        (new / "deep/file").write_text(text)


def test_a_folder_is_made_with_its_parents_and_replaced(tmp_path):
    target = tmp_path / "a/b"
    for text in ("first", "second"):
        write(target, text)
        assert (target / "deep/file").read_text() == text
        assert os.listdir(target.parent) == ["b"]


def test_the_old_one_is_there_until_the_end_and_stays_after_a_failure(tmp_path):
    target = tmp_path / "target"
    write(target, "old")

    def fail() -> None:
        with replacing_folder(target) as new:
            (new / "file").write_text("new")
            assert (target / "deep/file").read_text() == "old"
            assert leftover_folders(target) == [new]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (target / "deep/file").read_text() == "old"
    assert os.listdir(tmp_path) == ["target"]


def test_the_old_one_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    target = tmp_path / "target"
    write(target, "old")
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if to == target and (self / "deep/file").read_text() == "new":
            raise OSError("no")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"):
        write(target, "new")
    assert (target / "deep/file").read_text() == "old"
    assert os.listdir(tmp_path) == ["target"]


def test_a_link_keeps_leading_to_it(tmp_path):
    write(tmp_path / "far/target", "old")
    (tmp_path / "link").symlink_to(tmp_path / "far/target")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far/target/deep/file").read_text() == "new"


def test_what_is_left_of_a_killed_process_is_found_and_in_nobodys_way(tmp_path):
    left = tmp_path / f".a[1].{os.getpid()}.partial"
    (left / "deep").mkdir(parents=True)
    (left / "old").touch()
    (tmp_path / ".b.1.partial").mkdir()
    assert leftover_folders(tmp_path / "a[1]") == [left]
    write(tmp_path / "a[1]", "new")
    assert os.listdir(tmp_path / "a[1]") == ["deep"]
