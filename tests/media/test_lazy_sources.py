"""Items come as soon as they are known, and nothing is held back or read ahead."""

from __future__ import annotations

import contextlib
import io
import os

import pytest
from support.source_items import call_within, items_of, make_files
from support.source_items import here as here  # a fixture

from omnicap_cli.errors import OmnicapError
from omnicap_cli.media import stdin_lines
from omnicap_cli.media.sources import Sources


def test_the_first_item_of_a_tree_comes_without_listing_the_rest(here, monkeypatch):
    make_files("p/a/1.png", "p/a/2.png", "p/b/3.png", "p/c/d/4.png")
    listed = []
    scandir = os.scandir

    def counting(path):
        listed.append(os.path.relpath(path, "p"))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)
    found = iter(Sources(inputs=("p",)))
    assert next(found).id == "p/a/1.png"
    assert listed == [".", "a"]
    assert [item.id for item in found] == ["p/a/2.png", "p/b/3.png", "p/c/d/4.png"]
    assert listed == [".", "a", "b", "c", "c/d"]


def test_a_later_input_is_not_touched_before_its_turn(here):
    make_files("a.png")
    found = iter(Sources(inputs=("a.png", "b.png")))
    assert next(found).id == "a.png"
    make_files("b.png")
    assert next(found).error is None


@pytest.mark.parametrize(("end", "null"), [(b"\n", False), (b"\r\n", False), (b"\0", True)])
def test_a_slow_pipe_gives_each_item_as_its_line_comes(here, end, null):
    make_files("a.png", "b.png", "c.png")
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as stdin, contextlib.closing(os.fdopen(write_end, "wb", 0)) as pipe:
        found = iter(Sources(inputs=("-",), stdin=stdin, null=null))
        pipe.write(b"a.png" + end)
        assert call_within(30, lambda: next(found).id) == "a.png"
        pipe.write(b"b.p")  # half a line is no item yet
        pipe.write(b"ng" + end + b"c.png")
        assert call_within(30, lambda: next(found).id) == "b.png"
        pipe.close()
        assert call_within(30, lambda: [item.id for item in found]) == ["c.png"]


def test_a_long_stream_of_lines(here):
    make_files("a.png", "b.png")
    lines = b"".join(b"%s/%d.png\n" % (b"x" * 100, number) for number in range(30_000))
    found = Sources(inputs=("-",), stdin=io.BytesIO(b"a.png\n" + lines + b"b.png"))
    count = last = 0
    for count, last in enumerate(found, start=1):  # noqa: B007
        pass
    assert count == 30_002
    assert last.id == "b.png"


def test_a_line_without_end_is_wrong_usage_and_not_kept(here, monkeypatch):
    """`find -print0` without -0, say."""
    monkeypatch.setattr(stdin_lines, "_MAX_LINE_BYTES", 1000)
    with pytest.raises(OmnicapError, match="1,000 bytes") as caught:
        items_of("-", stdin=b"a.png\0" * 500)
    assert "-0" in caught.value.hint


def test_a_line_that_comes_in_many_pieces_is_put_together(here):
    make_files("a.png")

    class Dripping(io.BytesIO):
        def read1(self, size=-1):
            return self.read(1)

    found = Sources(inputs=("-",), stdin=Dripping("\ufeff./a.png\n\nb.png".encode()))
    assert [item.id for item in found] == ["a.png", "b.png"]
