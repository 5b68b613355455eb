"""Lines of a file, found and read from anywhere, against the file split in memory."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omnicap_cli.datasets.tokenizing import data_file
from omnicap_cli.datasets.tokenizing.data_file import DataFile, lines
from omnicap_cli.errors import JournalWriteError, OmnicapError

CONTENTS = st.lists(st.sampled_from([b"\n", b"\n\n", b"a", b"bcd", b"\r\n", b"x" * 9, b"\0"])).map(b"".join)


def all_lines(content: bytes) -> list[bytes]:
    """Without their ends; what follows the last line break is a line unless it is empty."""
    found = content.split(b"\n")
    return found[:-1] if found[-1] == b"" else found


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=CONTENTS, step=st.integers(1, 12))
def test_every_line_is_found_where_it_begins(content, step, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(data_file, "_STEP_BYTES", step)
    path = tmp_path / "data"
    path.write_bytes(content)
    data = DataFile.open(path, tmp_path / "index")
    wanted = all_lines(content)
    assert data.num_lines == len(wanted)
    assert data.num_bytes == len(content)
    for number in range(len(wanted) + 1):
        offset = data.offset_of(number)
        assert all_lines(content[offset:]) == wanted[number:]
        assert content[:offset].count(b"\n") == min(number, content.count(b"\n"))


@settings(max_examples=300)
@given(content=CONTENTS, limit=st.integers(1, 12), step=st.integers(1, 5))
def test_long_lines_are_passed_over(content, limit, step) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(data_file, "_STEP_BYTES", step)
        wanted = all_lines(content)
        file = io.BytesIO(content)
        found = list(lines(file, len(wanted), max_bytes=limit))
    assert found == [line.strip() if len(line) <= limit else None for line in wanted]
    assert file.read() == b""


def test_what_is_known_of_a_file_is_kept_while_it_stays(tmp_path, monkeypatch) -> None:
    path, index = tmp_path / "data", tmp_path / "notes" / "index"
    path.write_bytes(b"a\nb")
    first = DataFile.open(path, index)
    assert first.digest == hashlib.sha256(b"a\nb").hexdigest()
    scanned = []
    scan = DataFile._scan
    monkeypatch.setattr(DataFile, "_scan", lambda *of: scanned.append(1) or scan(*of))
    assert DataFile.open(path, index) == first
    assert not scanned
    os.utime(path, ns=(1, 1))
    again = DataFile.open(path, index)
    assert (again.digest, again.num_lines, len(scanned)) == (first.digest, 2, 1)
    path.write_bytes(b"a\nc")
    assert DataFile.open(path, index).digest != first.digest
    other = tmp_path / "other"
    other.write_bytes(b"a\nd")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    assert DataFile.open(other, index).path == str(other)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\0\0", b'{"path": 1}'])
def test_an_index_that_is_none_is_made_again(tmp_path, content) -> None:
    path, index = tmp_path / "data", tmp_path / "index"
    path.write_bytes(b"a\nb")
    index.write_bytes(content)
    assert DataFile.open(path, index).num_lines == 2
    assert index.read_bytes() != content


def test_an_index_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalWriteError):
        DataFile.open(tmp_path / "file", tmp_path / "file" / "index")


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"ab"), os.utime, Path.unlink])
def test_a_change_is_seen(tmp_path, change) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"a")
    os.utime(path, ns=(1, 1))
    data = DataFile.open(path, tmp_path / "index")
    data.check_unchanged()
    change(path)
    with pytest.raises(OmnicapError, match="changed while it was read"):
        data.check_unchanged()
