"""Decoding ahead keeps the order and the bound, puts errors in their place, and ends with its consumer."""

from __future__ import annotations

import threading
import time
from operator import itemgetter

import pypdfium2
import pytest
from PIL import Image, ImageFile
from support.media_samples import pdf, solid_png

from omnicap_cli.core.runs.records import Item, MediaRef, Settings
from omnicap_cli.errors import DecodeError, ItemError, NotFoundError
from omnicap_cli.media.decode import Pixels, decode, decode_ahead

PATIENCE_SECONDS = 60.0  # only ever reached by a test that fails
SETTLE_SECONDS = 0.3  # long enough for a thread that may go on to have gone on


def picture(number):
    return Pixels(Image.new("RGB", (1, 1), (number, 0, 0)), 1, 1)


def gone(before, seconds=PATIENCE_SECONDS):
    """Whether all threads end that were not there `before` (those of other tests may still be ending)."""
    end = time.monotonic() + seconds
    while set(threading.enumerate()) - before and time.monotonic() < end:
        time.sleep(0.02)
    return not set(threading.enumerate()) - before


@pytest.mark.parametrize("look_ahead", [1, 2, 7])
def test_everything_comes_in_order_with_its_own_pixels(look_ahead):
    pairs = list(decode_ahead(range(50), picture, look_ahead=look_ahead))
    assert [number for number, _ in pairs] == list(range(50))
    assert [pixels.image.getpixel((0, 0))[0] for _, pixels in pairs] == list(range(50))


def test_nothing_comes_of_nothing():
    before = set(threading.enumerate())
    assert list(decode_ahead([], picture)) == []
    assert gone(before)


def test_an_item_error_stands_in_the_place_of_the_pixels():
    def decoder(number):
        if number % 3 == 1:
            raise (DecodeError if number == 1 else NotFoundError)(f"number {number}")
        return picture(number)

    pairs = list(decode_ahead(range(6), decoder))
    assert [number for number, _ in pairs] == list(range(6))
    assert [type(pixels) for _, pixels in pairs] == [Pixels, DecodeError, Pixels, Pixels, NotFoundError, Pixels]
    assert isinstance(pairs[1][1], ItemError)
    assert pairs[4][1].message == "number 4"


@pytest.mark.parametrize(
    ("kind", "data", "owner", "method"),
    [
        ("image", solid_png(), ImageFile.ImageFile, "load"),
        ("pdf", pdf((10, 10)), pypdfium2.PdfPage, "render"),
    ],
    ids=["image", "pdf"],
)
def test_too_little_memory_for_an_item_is_not_called_damage(tmp_path, monkeypatch, kind, data, owner, method):
    def no_memory(*_arguments, **_options):
        raise MemoryError

    path = tmp_path / "a"
    path.write_bytes(data)
    item = Item(id="a", image="a", visuals=(MediaRef(path=str(path), kind=kind),), fingerprint="")
    monkeypatch.setattr(owner, method, no_memory)
    [(_, error)] = decode_ahead([item], lambda each: decode(each, Settings()))
    assert error.kind == "OutOfMemoryError"
    assert "memory" in error.message


@pytest.mark.parametrize("look_ahead", [1, 3])
def test_no_more_than_the_bound_is_decoded_ahead_of_the_one_in_use(look_ahead):
    num_decoded = 0

    def decoder(number):
        nonlocal num_decoded
        num_decoded += 1
        return picture(number)

    ahead = []
    pairs = decode_ahead(range(40), decoder, look_ahead=look_ahead)
    for num_consumed, _ in zip(range(1, 5), pairs, strict=False):
        end = time.monotonic() + PATIENCE_SECONDS
        while num_decoded <= num_consumed and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(SETTLE_SECONDS)
        ahead.append(num_decoded - num_consumed)
    pairs.close()
    assert max(ahead) <= look_ahead
    assert min(ahead) >= 1  # it does decode ahead


def test_the_source_is_not_read_before_the_first_is_asked_for():
    asked = []
    pairs = decode_ahead(map(asked.append, range(3)), lambda _: picture(0))
    time.sleep(SETTLE_SECONDS)
    assert asked == []
    pairs.close()


def test_each_comes_while_the_source_still_waits_for_the_next():
    seen = threading.Event()

    def source():
        yield 1
        assert seen.wait(20), "the first was held back until the second came"
        yield 2

    numbers = []
    for number, _ in decode_ahead(source(), picture):
        numbers.append(number)
        seen.set()
    assert numbers == [1, 2]


def test_what_the_source_raises_comes_after_what_it_gave():
    def source():
        yield 1
        yield 2
        raise ZeroDivisionError("from the source")

    got = []
    numbers = map(itemgetter(0), decode_ahead(source(), picture))
    with pytest.raises(ZeroDivisionError, match="from the source"):
        got.extend(numbers)
    assert got == [1, 2]


def test_what_the_decoder_raises_is_raised():
    def decoder(number):
        if number == 2:
            raise KeyError("from the decoder")
        return picture(number)

    got = []
    numbers = map(itemgetter(0), decode_ahead(range(5), decoder))
    with pytest.raises(KeyError, match="from the decoder"):
        got.extend(numbers)
    assert got == [0, 1]


def test_an_interrupt_of_the_source_is_raised():
    def source():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(decode_ahead(source(), picture))


@pytest.mark.parametrize("num_taken", [1, 2, 5])
def test_an_abandoned_generator_ends_its_thread(num_taken):
    before, num_decoded = set(threading.enumerate()), 0

    def decoder(number):
        nonlocal num_decoded
        num_decoded += 1
        return picture(number)

    pairs = decode_ahead(iter(int, 1), decoder)  # zeros without end
    for _ in range(num_taken):
        next(pairs)
    new = {thread.name for thread in set(threading.enumerate()) - before}
    assert new == {"read-ahead", "work-ahead"}
    pairs.close()
    assert gone(before)
    assert num_decoded <= num_taken + 3


def test_a_consumer_that_fails_ends_the_thread():
    before = set(threading.enumerate())

    def consume():
        for _ in decode_ahead(iter(int, 1), picture):
            raise RuntimeError("consumer")

    with pytest.raises(RuntimeError, match="consumer"):
        consume()
    assert gone(before)


def test_the_thread_ends_with_the_source():
    before = set(threading.enumerate())
    assert len(list(decode_ahead(range(3), picture))) == 3
    assert gone(before)
