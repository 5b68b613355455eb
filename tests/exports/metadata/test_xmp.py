"""What a packet says after captions were put in: ours marked, replaced and readable by others; other people's kept."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.xmp_samples import HUMAN, note, packet_of, picture, samples, saved

from omnicap_cli.exports.metadata.containers.file_parts import NotEmbeddableError
from omnicap_cli.exports.metadata.xmp import embed_captions, merged_packet, sidecar_packet

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
DC = "{http://purl.org/dc/elements/1.1/}"
PHOTOSHOP = "{http://ns.adobe.com/photoshop/1.0/}"
OURS = "{urn:omnicap:xmp:1.0:}"
LANG = "{http://www.w3.org/XML/1998/namespace}lang"
MACHINE = "omnicap, machine-made caption by U4R/OmniCaptioner"
FORMATS = ("JPEG", "PNG", "WEBP")

needs_exiftool = pytest.mark.skipif(
    shutil.which("exiftool") is None, reason="exiftool, the independent reader, is not installed"
)


def sidecar(notes, existing=b""):
    """A packet with the notes; None where the existing one can't be read."""
    try:
        return merged_packet(existing, notes)
    except NotEmbeddableError:
        return None


def around(*descriptions, before=b"", after=b""):
    """A packet with what stands inside rdf:RDF, spelled by hand."""
    return b"".join(
        (
            before,
            b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>",
            *descriptions,
            b"</rdf:RDF></x:xmpmeta>",
            after,
        )
    )


def human(properties=b"", attributes=b"", about=b""):
    namespaces = b"xmlns:dc='http://purl.org/dc/elements/1.1/' xmlns:photoshop='http://ns.adobe.com/photoshop/1.0/'"
    start = b"<rdf:Description rdf:about='%b' %b %b>" % (about, namespaces, attributes)
    return start + properties + b"</rdf:Description>"


def description(*texts):
    items = b"".join(b"<rdf:li xml:lang='%b'>%b</rdf:li>" % each for each in texts)
    return b"<dc:description><rdf:Alt>%b</rdf:Alt></dc:description>" % items


def described(packet):
    """The descriptions of a packet as (language, text)."""
    found = list(ElementTree.fromstring(packet).iter(f"{DC}description"))
    assert len(found) <= 1
    return [(item.get(LANG), item.text) for each in found for item in each.iter(f"{RDF}li")]


def writers(packet):
    return [each.text for each in ElementTree.fromstring(packet).iter(f"{PHOTOSHOP}CaptionWriter")]


def noted(packet):
    """What our own namespace says: for each caption its fields."""
    holders = list(ElementTree.fromstring(packet).iter(f"{OURS}captions"))
    assert len(holders) == 1
    return [
        {field.tag.removeprefix(OURS): field.text for field in item} for item in holders[0].findall(f"{RDF}Bag/{RDF}li")
    ]


# ---------------------------------------------------------------------------------------------- what is written


def test_packet_says_what_was_captioned_and_by_what():
    packet = sidecar_packet([note(type="ocr", style="text")])
    assert described(packet) == [("x-default", "a red square"), ("en", "a red square")]
    assert writers(packet) == [MACHINE]
    assert noted(packet) == [
        {
            "text": "a red square",
            "type": "ocr",
            "style": "text",
            "lang": "en",
            "generated": "True",
            "model": "U4R/OmniCaptioner",
            "engine": "huggingface",
            "promptSha": "0123456789abcdef",
            "key": "5f" * 32,
        }
    ]


def test_packet_has_the_wrapper_of_the_specification():
    packet = sidecar([note()])
    assert packet.startswith('<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'.encode())
    assert packet.endswith(b'\n<?xpacket end="r"?>')


def test_first_of_each_language_describes_and_all_are_noted():
    notes = [note("  "), note("one"), note("two", style="long"), note("一", lang="zh"), note("?", lang="")]
    packet = sidecar(notes)
    assert described(packet) == [("x-default", "one"), ("en", "one"), ("zh", "一")]
    assert [each["text"] for each in noted(packet)] == ["  ", "one", "two", "一", "?"]
    assert [each["style"] for each in noted(packet)] == ["short", "short", "long", "short", "short"]


@pytest.mark.parametrize("lang", ["", "x-default", "all of them", "zh_TW", "en\n"])
def test_language_that_is_no_tag_stays_out_of_the_description(lang):
    assert described(sidecar([note(lang=lang)])) == [("x-default", "a red square")]


def test_picture_without_text_gets_no_description():
    packet = sidecar([note("")])
    assert (described(packet), writers(packet)) == ([], [])
    assert noted(packet)[0]["text"] is None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("<b>5 & 6</b> ]]> \"'<?xpacket end='w'?><!--", "<b>5 & 6</b> ]]> \"'<?xpacket end='w'?><!--"),
        ("&amp;lt; 猫 😀 \u2028 \x85 \x9f", "&amp;lt; 猫 😀 \u2028 \x85 \x9f"),
        (" tab\t, feed\n, return\r, both\r\n", " tab\t, feed\n, return\r, both\r\n"),
        ("nul\0 bell\x07 escape\x1b", "nul\ufffd bell\ufffd escape\ufffd"),
        ("lone \ud83d\ude00 \udcff", "lone \ufffd\ufffd \ufffd"),
        ("\ufffe\uffff\ufffd", "\ufffd\ufffd\ufffd"),
    ],
)
@pytest.mark.parametrize("format", FORMATS)
def test_text_comes_back_as_far_as_xml_can_hold_it(format, text, kept):
    packet = packet_of(embed_captions(saved(picture(), format), [note(text, model=text)]))
    assert described(packet) == [("x-default", kept), ("en", kept)]
    assert writers(packet) == [f"omnicap, machine-made caption by {kept}"]
    assert noted(packet)[0]["text"] == noted(packet)[0]["model"] == kept


@given(text=st.text(), old=st.text())
def test_any_text_makes_a_packet_that_can_be_replaced(text, old):
    first = sidecar([note(old, lang=old)])
    assert sidecar([note(text)], first) == sidecar([note(text)])


# ---------------------------------------------------------------------------------------------- other readers


@pytest.mark.parametrize("format", FORMATS)
def test_pillow_reads_it(format):
    with Image.open(io.BytesIO(embed_captions(saved(picture(), format), [note()]))) as image:
        said = image.getxmp()["xmpmeta"]["RDF"]["Description"]
    assert said["CaptionWriter"] == MACHINE
    assert said["description"]["Alt"]["li"] == [
        {"lang": "x-default", "text": "a red square"},
        {"lang": "en", "text": "a red square"},
    ]
    assert said["captions"]["Bag"]["li"]["generated"] == "True"


@needs_exiftool
@pytest.mark.parametrize("name", sorted(samples()))
def test_exiftool_reads_it_and_sees_all_else_as_before(name, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(samples()[name])
    before = seen_by_exiftool(path)
    path.write_bytes(embed_captions(samples()[name], [note("<a> & 猫 😀"), note("一只猫", lang="zh", style="long")]))
    after = seen_by_exiftool(path)
    said = {"Model": "U4R/OmniCaptioner", "Engine": "huggingface", "Generated": True, "Type": "natural"}
    said |= {"PromptSha": "0123456789abcdef", "Key": "5f" * 32}
    assert after == before | {
        "XMP-dc:Description": "<a> & 猫 😀",
        "XMP-dc:Description-en": "<a> & 猫 😀",
        "XMP-dc:Description-zh": "一只猫",
        "XMP-photoshop:CaptionWriter": MACHINE,
        "XMP-omnicap:Captions": [
            said | {"Text": "<a> & 猫 😀", "Lang": "en", "Style": "short"},
            said | {"Text": "一只猫", "Lang": "zh", "Style": "long"},
        ],
        "XMP-omnicap:Describes": True,
    }


def seen_by_exiftool(path):
    """Everything it reads, its own warnings too, but for what has to change with the size of the file."""
    tags = json.loads(exiftool(path, "-j", "-G1", "-a", "-struct", "-validate", "-warning", "-all"))[0]
    return {name: value for name, value in tags.items() if not HAS_TO_CHANGE.search(name)}


HAS_TO_CHANGE = re.compile(
    "^System:|:MPImage(Start|Length)$"  # where and how large things are
    "|^File:FileType$|^RIFF:(WebP_Flags|ImageWidth|ImageHeight)$"  # the version that has packets
)


@needs_exiftool
@pytest.mark.parametrize("compact", ["NoPadding", "Shorthand,OneDesc,NoIndent,NoNewline"])
@pytest.mark.parametrize("name", ["jpeg with everything", "png", "webp"])
def test_packet_that_exiftool_rewrote_is_replaced(name, compact, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(embed_captions(samples()[name], [note("old, of\r\ntwo lines"), note("旧", lang="zh")]))
    exiftool(
        path, "-api", f"Compact={compact}", "-XMP-dc:Creator=Ada", "-XMP-photoshop:City=London", "-overwrite_original"
    )
    assert "xmptk" in packet_of(path.read_bytes())  # it is exiftool's now
    packet = packet_of(embed_captions(path.read_bytes(), [note("new")]))
    assert described(packet) == [("x-default", "new"), ("en", "new")]
    assert writers(packet) == [MACHINE]
    assert [each["text"] for each in noted(packet)] == ["new"]
    assert "old" not in packet
    assert "Ada" in packet
    assert "London" in packet


def exiftool(path, *words):
    return subprocess.run(["exiftool", *words, str(path)], capture_output=True, text=True, check=True).stdout


# ---------------------------------------------------------------------------------------------- what others wrote


@pytest.mark.parametrize(
    "written",
    [
        human(description((b"x-default", b"Grandmother, 1953"))),
        human(b"<dc:description>Grandmother, 1953</dc:description>"),
        human(b"<dc:description><![CDATA[Grandmother, 1953]]></dc:description>"),
        human(b"<dc:description xml:lang='en'><rdf:Bag><rdf:li>Grandmother, 1953</rdf:li></rdf:Bag></dc:description>"),
        human(attributes=b"dc:description='Grandmother, 1953'"),
        human(description((b"x-default", b" "), (b"de", b"Grandmother, 1953"))),
        human(b"<photoshop:CaptionWriter>Grandmother, 1953</photoshop:CaptionWriter>"),
        human(attributes=b"photoshop:CaptionWriter='Grandmother, 1953'"),
        human() + human(description((b"x-default", b"Grandmother, 1953"))),
    ],
)
def test_what_a_human_wrote_stays(written):
    before = around(written)
    after = sidecar([note()], before)
    assert after.startswith(around(written).removesuffix(b"</rdf:RDF></x:xmpmeta>"))  # to the letter
    assert after.count(b"Grandmother, 1953") == 1
    assert (b"machine-made" in after, b"x-default" in after) == (False, b"x-default" in before)
    assert noted(after)[0]["text"] == "a red square"
    again = sidecar([note("another")], after)
    assert again == after.replace(b"a red square", b"another")


def test_description_equal_to_ours_is_still_the_humans():
    after = sidecar([note("a red square")], around(human(description((b"x-default", b"a red square")))))
    later = sidecar([note("a blue square")], after)
    assert described(later) == [("x-default", "a red square")]
    assert writers(later) == []
    assert [each["text"] for each in noted(later)] == ["a blue square"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'x-default">a red square', b'x-default">a red tile'),  # corrected
        (b'"en">a red square', b'"en">a red tile'),
        (b"</rdf:Alt>", b'<rdf:li xml:lang="de">ein Quadrat</rdf:li></rdf:Alt>'),  # translated
        (b"omnicap, machine", b"Ada, after a machine"),  # claimed
    ],
)
def test_caption_that_a_human_changed_stays(old, new):
    changed = sidecar([note()]).replace(old, new)
    later = sidecar([note("another")], changed)
    assert described(later) == described(changed)
    assert writers(later) == writers(changed)
    assert [each["text"] for each in noted(later)] == ["another"]


def test_caption_that_says_what_a_human_had_said_leaves_it_the_humans():
    changed = sidecar([note("a red square")]).replace(b'x-default">a red square', b'x-default">a red tile')
    agreed = sidecar([note("a red tile"), note("a red square")], changed)  # now all that is described is noted as ours
    later = sidecar([note("another")], agreed)
    assert described(later) == [("x-default", "a red tile"), ("en", "a red square")]


@pytest.mark.parametrize(
    "blank",
    [
        human(description((b"x-default", b"")), b"photoshop:CaptionWriter=''"),
        human(b"<dc:description/><photoshop:CaptionWriter> </photoshop:CaptionWriter>"),
        human(attributes=b"dc:description=' '"),
    ],
)
def test_blank_description_is_filled(blank):
    packet = sidecar([note()], around(human(b"<dc:title>T</dc:title>"), blank))
    assert described(packet) == [("x-default", "a red square"), ("en", "a red square")]
    assert writers(packet) == [MACHINE]
    assert b"<dc:title>T</dc:title>" in packet
    assert b"='" not in packet.partition(b"</dc:title>")[2]  # nothing is left of the blank ones


def test_everything_else_stays_to_the_letter():
    odd = (
        b"<!-- <rdf:RDF> > --><?pi </rdf:RDF>?>\r\n"
        b"<rdf:Description\txmlns:a='u:a' rdf:about=''\n a:one = \"'>\xc3\xa9&#10;/>\" a:two='\"&gt;'>"
        b"<a:three><![CDATA[</rdf:RDF>]]></a:three>  <a:four rdf:resource='x' /> </rdf:Description >\n"
    )
    start, end = around(before=b"<?xml version='1.0' encoding='UTF-8'?> ", after=b"\n  \n<?xpacket end='w'?>").split(
        b"</rdf:RDF>"
    )
    after = sidecar([note()], start + odd + b"\n </rdf:RDF>" + end)
    assert after.startswith(start + odd.rstrip() + b"\n  <rdf:Description rdf:about=")
    assert after.endswith(b"</rdf:Description>\n\n </rdf:RDF>" + end)
    assert sidecar([note()], after) == after
    assert described(after) == [("x-default", "a red square"), ("en", "a red square")]


def test_subject_is_that_of_the_other_descriptions():
    packet = sidecar([note()], around(human(), human(about=b"uuid:&quot;1&amp;2")))
    found = [each.get(f"{RDF}about") for each in ElementTree.fromstring(packet).iter(f"{RDF}Description")]
    assert found == ["", 'uuid:"1&2', 'uuid:"1&2']


@pytest.mark.parametrize(
    "packet",
    [
        b"<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'/>",
        b"<rdf:RDF\n xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#' />\0\0",
        b"<x xmlns='http://www.w3.org/1999/02/22-rdf-syntax-ns#'><RDF/></x>",
        b"<RDF xmlns='http://www.w3.org/1999/02/22-rdf-syntax-ns#' xmlns:rdf='u:other' xmlns:dc='u:dc'><rdf:a/></RDF>",
        "\ufeff".encode() + around(after=b"\n \0\n"),
    ],
)
def test_packet_spelled_unusually_is_filled(packet):
    after = sidecar([note()], packet)
    assert described(after) == [("x-default", "a red square"), ("en", "a red square")]
    assert len(list(ElementTree.fromstring(after).iter(f"{RDF}RDF"))) == 1
    assert sidecar([note()], after) == after


@pytest.mark.parametrize("blank", [b"", b"\0\0\0", b" \n\r\t\0"])
def test_blank_packet_is_like_none(blank):
    assert sidecar([note()], blank) == sidecar([note()])


# ---------------------------------------------------------------------------------------------- a second time


@pytest.mark.parametrize("name", sorted(samples()))
def test_second_run_replaces_what_the_first_wrote(name):
    once = embed_captions(samples()[name], [note("new")])
    assert embed_captions(once, [note("new")]) == once
    twice = embed_captions(embed_captions(samples()[name], [note("old" * 100), note("旧", lang="zh")]), [note("new")])
    assert twice == once
    assert b"old" not in twice


def test_packet_in_the_short_spelling_of_other_programs_is_replaced():
    mixed = b"""<rdf:Description rdf:about='' xmlns:dc='http://purl.org/dc/elements/1.1/' xmlns:o='urn:omnicap:xmp:1.0:'
      xmlns:p='http://ns.adobe.com/photoshop/1.0/' p:City = 'Paris' o:describes="True"
      p:CaptionWriter="omnicap, machine-made caption by M" p:State='IDF'>
     <dc:description><rdf:Alt><rdf:li xml:lang="x-default">an old
     one</rdf:li></rdf:Alt></dc:description>
     <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Seine</rdf:li></rdf:Alt></dc:title>
     <o:captions><rdf:Bag><rdf:li o:text="an old one" o:lang="en"/></rdf:Bag></o:captions>
    </rdf:Description>"""
    rest = b"""<rdf:Description rdf:about='' xmlns:dc='http://purl.org/dc/elements/1.1/' xmlns:o='urn:omnicap:xmp:1.0:'
      xmlns:p='http://ns.adobe.com/photoshop/1.0/' p:City = 'Paris' p:State='IDF'>
     <dc:title><rdf:Alt><rdf:li xml:lang="x-default">Seine</rdf:li></rdf:Alt></dc:title>
    </rdf:Description>"""
    assert sidecar([note()], around(mixed)) == sidecar([note()], around(rest))


# ---------------------------------------------------------------------------------------------- broken packets

BOMB = b"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'>" + b"".join(
    b"<!ENTITY %c '%b'>" % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9)
)
BROKEN = {
    "entity bomb": around(human(b"<dc:title>&j;</dc:title>"), before=BOMB + b"]>"),
    "external entity": around(human(b"&e;"), before=b"<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>"),
    "document type": around(human(), before=b"<!DOCTYPE x SYSTEM 'http://127.0.0.1:9/x.dtd'>"),
    "cut off": around(human())[:-5],
    "a tag not closed": around(b"<a>"),
    "nul inside": around(human(b"<dc:title>\0</dc:title>")),
    "latin-1": around(human(b"<dc:title>\xe9</dc:title>")),
    "said to be latin-1": around(human(b"\xc3\xa9"), before=b"<?xml version='1.0' encoding='latin-1'?>"),
    "utf-16": around(human()).decode().encode("utf-16"),
    "no rdf": b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
    "rdf of another namespace": around(human()).replace(b"1999/02/22", b"1998/02/22"),
    "two rdfs": b"<x>" + around() + around() + b"</x>",
    "no xml": b"%PDF-1.7",
    "too large": around(human(b"<dc:title>" + b"." * (4 << 20) + b"</dc:title>")),
    "too deep for a stack": b"<a>" * 500_000,
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_packet_that_cannot_be_read_is_left_alone(name):
    assert sidecar([note()], BROKEN[name]) is None
    assert embed_captions(saved(picture(), "PNG", pnginfo=png_text(BROKEN[name])), [note()]) is None
    if len(BROKEN[name]) < 65_000:
        assert embed_captions(saved(picture(), "JPEG", xmp=BROKEN[name]), [note()]) is None
        assert embed_captions(saved(picture(), "WEBP", xmp=BROKEN[name]), [note()]) is None


def png_text(packet):
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)
    return texts


@given(st.lists(st.tuples(st.integers(0, len(HUMAN) - 1), st.integers(0, 255)), max_size=4), st.integers(0, 3))
def test_damaged_packet_is_filled_or_left_alone(changes, cut):
    packet = bytearray(HUMAN[: len(HUMAN) - cut])
    for place, value in changes:
        packet[place % len(packet)] = value
    after = sidecar([note("a red circle")], bytes(packet))
    if after is not None:
        assert [each["text"] for each in noted(after)] == ["a red circle"]
        assert sidecar([note("a red circle")], after) == after


def test_command_line_starts_without_xml():
    code = "import omnicap_cli.app, sys; print([name for name in sys.modules if 'defusedxml' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
