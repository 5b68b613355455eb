"""Files for the tests of media, written byte by byte from the formats' specifications. It knows no decoder."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Sequence
from typing import Final

from support.permissions import drop_override

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # PNG colour types, PNG specification 11.2.2
_PASSWORD_PADDING: Final = bytes.fromhex(  # ISO 32000-1, 7.6.3.3, algorithm 2
    "28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A"
)


def png(
    size: tuple[int, int],
    rows: Sequence[bytes],
    *,
    color_type: int = RGB,
    bit_depth: int = 8,
    chunks: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of `size` (width, height); `rows` are the packed samples of each row, `chunks` come before the pixels."""
    header = struct.pack(">IIBBBBB", *size, bit_depth, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    whole = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in whole)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def solid_png(color: tuple[int, int, int] = (10, 20, 30), size: tuple[int, int] = (4, 3)) -> bytes:
    """A PNG of one colour."""
    return png(size, [bytes(color) * size[0]] * size[1])


def tiff(
    size: tuple[int, int],
    data: bytes,
    *,
    bits: Sequence[int],
    photometric: int = 1,
    sample_format: int = 1,
    orientation: int | None = None,
) -> bytes:
    """A little-endian TIFF 6.0 of one uncompressed strip. `sample_format`: 1 unsigned, 2 signed, 3 float."""
    num_samples = len(bits)
    bits_offset, data_offset = 8, 8 + 2 * num_samples + 2 * num_samples
    entries = [
        (256, 4, 1, size[0]),
        (257, 4, 1, size[1]),
        (258, 3, num_samples, bits[0] if num_samples == 1 else bits_offset),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, data_offset),
        (277, 3, 1, num_samples),
        (278, 4, 1, size[1]),
        (279, 4, 1, len(data)),
        (339, 3, num_samples, sample_format if num_samples == 1 else bits_offset + 2 * num_samples),
    ]
    if orientation is not None:
        entries.append((274, 3, 1, orientation))
    head = struct.pack(f"<{num_samples}H", *bits) + struct.pack(f"<{num_samples}H", *[sample_format] * num_samples)
    directory = struct.pack("<H", len(entries))
    for tag, kind, count, value in sorted(entries):
        directory += struct.pack("<HHI", tag, kind, count)
        directory += struct.pack("<HH", value, 0) if kind == 3 and count == 1 else struct.pack("<I", value)
    body = head + data + b"\0" * (len(data) % 2)
    return struct.pack("<2sHI", b"II", 42, 8 + len(body)) + body + directory + struct.pack("<I", 0)


def pdf(
    *boxes: tuple[float, float],
    content: bytes = b"",
    resources: bytes = b"",
    extra: Sequence[bytes] = (),
    catalog: bytes = b"",
    page: bytes = b"",
    count: int | None = None,
) -> bytes:
    """A PDF with a page for each (width, height) in points; `extra` objects are numbered from 4.

    `catalog` and `page` are entries to add to the catalog and to every page; `count` is a number of pages to claim.
    """
    first_page = 4 + len(extra)
    kids = b" ".join(b"%d 0 R" % (first_page + number) for number in range(len(boxes)))
    stream = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalog,
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(boxes) if count is None else count),
        stream,
        *extra,
    ]
    for width, height in boxes:
        box = f"[0 0 {width} {height}]".encode()
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox %s /Contents 3 0 R /Resources << %s >> %s >>"
            % (box, resources, page)
        )
    return _pdf_file(objects)


def encrypted_pdf(*, user_password: bytes, owner_password: bytes) -> bytes:
    """A PDF of one empty A4 page under the standard security handler, revision 2: 40-bit RC4 (ISO 32000-1, 7.6.3).

    It holds no string and an empty stream, so nothing but the password check depends on the key.
    """
    permissions, file_id = -4, b"0123456789abcdef"
    owner_key = hashlib.md5(_padded(owner_password)).digest()[:5]
    owner = _rc4(owner_key, _padded(user_password))
    seed = _padded(user_password) + owner + struct.pack("<i", permissions) + file_id
    user = _rc4(hashlib.md5(seed).digest()[:5], _PASSWORD_PADDING)
    encrypt = b"<< /Filter /Standard /V 1 /R 2 /O <%s> /U <%s> /P %d >>"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << >> >>",
        encrypt % (owner.hex().encode(), user.hex().encode(), permissions),
    ]
    both = file_id.hex().encode()
    return _pdf_file(objects, trailer=b"/Encrypt 4 0 R /ID [<%s> <%s>]" % (both, both))


def _pdf_file(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """Objects numbered from 1 with their cross-reference table (ISO 32000-1, 7.5)."""
    whole, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(whole))
        whole += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    count = len(objects) + 1
    end = b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n"
    return whole + end % (count, table, count, trailer, len(whole))


def _padded(password: bytes) -> bytes:
    return (password + _PASSWORD_PADDING)[:32]


def _rc4(key: bytes, text: bytes) -> bytes:
    state, swap = list(range(256)), 0
    for place in range(256):
        swap = (swap + state[place] + key[place % len(key)]) % 256
        state[place], state[swap] = state[swap], state[place]
    first = second = 0
    out = bytearray()
    for byte in text:
        first = (first + 1) % 256
        second = (second + state[first]) % 256
        state[first], state[second] = state[second], state[first]
        out.append(byte ^ state[(state[first] + state[second]) % 256])
    return bytes(out)


def run_bound_by_permissions(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python script in a process that file permissions bind, even for root."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        preexec_fn=drop_override,
        capture_output=True,
        text=True,
        timeout=60,
    )


def permissions_bind(folder: str) -> bool:
    """Whether `run_bound_by_permissions` does what it says here."""
    locked = os.path.join(folder, "locked-probe")
    with open(locked, "w"):
        os.chmod(locked, 0)
    done = run_bound_by_permissions("import sys; open(sys.argv[1])", locked)
    os.unlink(locked)
    return "PermissionError" in done.stderr
