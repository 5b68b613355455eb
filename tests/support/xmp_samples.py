"""Pictures of every format that takes a packet, and readers of what comes out that share no code with the package."""

from __future__ import annotations

import functools
import io
import struct
import zlib

from PIL import Image, ImageCms, ImageSequence

HUMAN = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">'
    '<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Titel, bestand 3</rdf:li></rdf:Alt></dc:title>'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="w"?>'
).encode()
MAX_PIXELS = 1_000_000  # of a sample there are a few hundred: a damaged header may say anything


def note(text="a red square", **values):
    known = {"type": "natural", "style": "short", "lang": "en", "model": "U4R/OmniCaptioner", "engine": "huggingface"}
    known |= {"prompt_sha": "0123456789abcdef", "key": "5f" * 32}
    return {"caption": text, **known, **values}


def picture(mode="RGB", size=(37, 23), shift=0):
    """Every pixel another colour, so that no mistake about pixels stays unseen; odd sides."""
    width, height = size
    image = Image.new("RGB", size)
    image.putdata([(x * 6 + shift, y * 10, (x * y + shift) % 256) for y in range(height) for x in range(width)])
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(size))
    return image.convert(mode)


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif():
    tags = Image.Exif()
    tags[0x010F], tags[0x0112] = "Maker", 6
    return tags


@functools.lru_cache
def samples():
    """Name to bytes; the name begins with the format."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    frames = {"save_all": True, "append_images": [picture(shift=n) for n in (30, 60)], "duration": [50, 70, 90]}
    everything = {"exif": exif(), "icc_profile": icc, "xmp": HUMAN}
    grey, rgb, clear = picture("L"), picture(), picture("RGBA")
    return {
        "jpeg": saved(rgb, "JPEG"),
        "jpeg progressive": saved(rgb, "JPEG", progressive=True, quality=95, subsampling=0),
        "jpeg with everything": saved(rgb, "JPEG", comment=b"a comment", dpi=(72, 72), **everything),
        "jpeg cmyk": saved(picture("CMYK"), "JPEG", exif=exif()),
        "jpeg grey": saved(grey, "JPEG", optimize=True) + b"what a phone appends",
        "jpeg of several": saved(rgb, "MPO", save_all=True, append_images=[picture(shift=30), picture(shift=60)]),
        "jpeg of several with packet": saved(rgb, "MPO", save_all=True, append_images=[grey], xmp=HUMAN),
        "png": saved(rgb, "PNG"),
        "png palette": saved(rgb.quantize(16), "PNG", transparency=3),
        "png with everything": saved(clear, "PNG", exif=exif(), icc_profile=icc, pnginfo=png_texts(), dpi=(72, 72)),
        "png 16 bits": saved(Image.new("I;16", (9, 5), 40_000), "PNG"),
        "png animated": saved(rgb, "PNG", **frames, default_image=False),
        "png interlaced": interlaced_png(),
        "webp": saved(rgb, "WEBP"),
        "webp lossless": saved(rgb, "WEBP", lossless=True),
        "webp lossless alpha": saved(clear, "WEBP", lossless=True),
        "webp alpha": saved(clear, "WEBP"),
        "webp with everything": saved(clear, "WEBP", **everything),
        "webp with exif": saved(rgb, "WEBP", exif=exif()),
        "webp animated": saved(rgb, "WEBP", **frames, icc_profile=icc),
    }


def png_texts():
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("Software", "by hand")
    texts.add_itxt("XML:com.adobe.xmp", HUMAN.decode(), zip=True)
    return texts


def interlaced_png():
    """Adam7, 2x2 grey: pass 1 holds pixel (0, 0), pass 6 (1, 0), pass 7 the second row. PNG specification 8.2."""
    data = zlib.compress(b"\0\x10\0\x20\0\x30\x40")
    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1)
    chunks = (b"IHDR", header), (b"IDAT", data), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*each) for each in chunks)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def frames_of(content):
    """Of every frame its mode, size, duration and pixels; None where Pillow can't decode it."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            found = []
            for frame in ImageSequence.Iterator(image):
                if frame.width * frame.height > MAX_PIXELS or len(found) > 20:
                    return None
                frame.load()
                found.append((frame.mode, frame.size, frame.info.get("duration"), frame.tobytes()))
            return found
    except Exception:  # whatever Pillow raises on damaged files
        return None


def other_metadata(content):
    """What Pillow finds beside pixels and packet."""
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return {
            name: value
            for name, value in image.info.items()
            if name not in ("xmp", "XML:com.adobe.xmp", "mp", "mpoffset")
        } | {"EXIF": dict(image.getexif())}


def packet_of(content):
    """The packet as text, by Pillow."""
    with Image.open(io.BytesIO(content)) as image:
        packet = image.info["xmp"]
    return packet.decode() if isinstance(packet, bytes) else packet
