"""Captions as XMP, marked as made by a machine: inside a copy of a picture, or in a file beside it.

It knows what a packet says and never overwrites what somebody else wrote there; where packets stand in files it leaves
to `embedding`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import ElementTree

from omnicap_cli.core.runs.journal_reading import Record, text_of
from omnicap_cli.exports.metadata.containers.file_parts import MAX_PACKET_BYTES, NotEmbeddableError
from omnicap_cli.exports.metadata.embedding import rewrite_packet

NAMESPACE: Final = "urn:omnicap:xmp:1.0:"
_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC: Final = "http://purl.org/dc/elements/1.1/"
_PHOTOSHOP: Final = "http://ns.adobe.com/photoshop/1.0/"
_XML: Final = "http://www.w3.org/XML/1998/namespace"

_DESCRIPTION: Final = f"{{{_DC}}}description"
_WRITER: Final = f"{{{_PHOTOSHOP}}}CaptionWriter"
_CAPTIONS: Final = f"{{{NAMESPACE}}}captions"
_TEXT: Final = f"{{{NAMESPACE}}}text"
_DESCRIBES: Final = f"{{{NAMESPACE}}}describes"
_MARK: Final = "omnicap, machine-made caption"
_NOTE_NAMES: Final = ("text", "type", "style", "lang", "generated", "model", "engine", "promptSha", "key")


def embed_captions(content: bytes, records: Sequence[Record]) -> bytes | None:
    """The picture file `content` with a note of each record as XMP, all else in it as it was; earlier notes go.

    The first caption that isn't blank, and the first in each further language, become the description, unless there
    is one that omnicap didn't write. None where the file can't take the notes: a format without room for them, a
    packet too long, something malformed or signed.
    """
    try:
        return rewrite_packet(content, lambda packet: merged_packet(packet, records))
    except NotEmbeddableError:
        return None


def sidecar_packet(records: Sequence[Record]) -> bytes:
    """A whole .xmp file with a note of each record, for beside a picture that can't take them."""
    return merged_packet(b"", records)


# ---------------------------------------------------------------------------------------------- writing

_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2
_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"})
_LANGUAGE_TAG: Final = re.compile("[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


def _escaped_xml(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text).translate(_ESCAPES)


def _new_packet(records: Sequence[Record]) -> str:
    """No padding, and so read-only for programs that would edit it in place without knowing the file around it."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        f' <rdf:RDF xmlns:rdf="{_RDF}">{_description_block(records, about="", describe=True)}\n </rdf:RDF>\n'
        '</x:xmpmeta>\n<?xpacket end="r"?>'
    )


def _description_block(records: Sequence[Record], *, about: str, describe: bool) -> str:
    """Their notes as an rdf:Description that needs no namespace from outside; `about` is what others there have."""
    namespaces = {"rdf": _RDF, "dc": _DC, "photoshop": _PHOTOSHOP, "omnicap": NAMESPACE}
    declared = "".join(f'\n    xmlns:{prefix}="{uri}"' for prefix, uri in namespaces.items())
    lines = [f'\n  <rdf:Description rdf:about="{_escaped_xml(about)}"{declared}>']
    if describe:
        lines += _caption_elements([record for record in records if text_of(record, "caption").strip()])
    lines += ["<omnicap:captions>", " <rdf:Bag>"]
    for record in records:
        lines += ['  <rdf:li rdf:parseType="Resource">', *_note_elements(record), "  </rdf:li>"]
    lines += [" </rdf:Bag>", "</omnicap:captions>"]
    return "\n   ".join(lines) + "\n  </rdf:Description>"


def _caption_elements(records: Sequence[Record]) -> Iterator[str]:
    """What programs show as the caption, and who they say wrote it (IPTC: Description Writer)."""
    if not records:
        return
    texts = {"x-default": text_of(records[0], "caption")}
    for record in records:
        if _LANGUAGE_TAG.fullmatch(lang := text_of(record, "lang")):
            texts.setdefault(lang, text_of(record, "caption"))
    yield from ("<dc:description>", " <rdf:Alt>")
    yield from (f'  <rdf:li xml:lang="{lang}">{_escaped_xml(text)}</rdf:li>' for lang, text in texts.items())
    yield from (" </rdf:Alt>", "</dc:description>")
    yield f"<photoshop:CaptionWriter>{_MARK} by {_escaped_xml(text_of(records[0], 'model'))}</photoshop:CaptionWriter>"
    yield "<omnicap:describes>True</omnicap:describes>"  # else a description isn't ours, even if it says the same


def _note_elements(record: Record) -> Iterator[str]:
    said = record | {"text": record.get("caption"), "generated": "True", "promptSha": record.get("prompt_sha")}
    for name in _NOTE_NAMES:
        yield f"   <omnicap:{name}>{_escaped_xml(text_of(said, name))}</omnicap:{name}>"


# ---------------------------------------------------------------------------------------------- changing

_EMPTY: Final = b"\0 \t\r\n"
_OTHER_ENCODING: Final = re.compile(r"""\ufeff?<\?xml[^>]*?encoding\s*=\s*["'](?!utf-8["'])""", re.IGNORECASE)
_MARKUP: Final = re.compile(
    r"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>"
    r"""|(?P<closing></[^>]*>)|(?P<opening><[^"'>]*(?:"[^"]*"[^"'>]*|'[^']*'[^"'>]*)*>)""",
    re.DOTALL,
)
_ATTRIBUTE: Final = re.compile(r"""(?<!\s)\s+([^\s=]+)\s*=\s*(?:"[^"]*"|'[^']*')""")


class _ElementPlace(NamedTuple):
    """Where an element stands: text[start:end], of it text[start:inner] and text[outer:end] its two tags.

    `outer` equals `end` in an element that is one empty tag.
    """

    start: int
    inner: int
    outer: int
    end: int


class _Property(NamedTuple):
    """What somebody says of the picture: an element, or an attribute of an rdf:Description, at text[start:end]."""

    name: str
    values: list[str]
    start: int
    end: int


class _TextEdit(NamedTuple):
    """Put `text` in place of what stands from `start` to `end`."""

    start: int
    end: int
    text: str = ""


def merged_packet(packet: bytes, records: Sequence[Record]) -> bytes:
    """The packet with a note of each record instead of earlier ones, and all that others wrote just as they spelled it.

    Raises NotEmbeddableError where the packet can't be read.
    """
    if not packet.strip(_EMPTY):
        return _new_packet(records).encode()
    text, root = _parse_packet(packet)
    places = _element_places(text, root)
    holders = [element for element in root.iter() if element.tag == f"{{{_RDF}}}RDF"]
    if len(holders) != 1:
        raise NotEmbeddableError("the packet is no XMP")
    nodes = {node: list(_properties(text, node, places)) for node in holders[0]}
    describe = _may_describe([item for items in nodes.values() for item in items])
    edits = [edit for node, items in nodes.items() for edit in _removals(text, places[node], items, describe)]
    about = next(filter(None, (node.get(f"{{{_RDF}}}about") or node.get("about") for node in nodes)), "")
    edits.append(_insertion(text, places[holders[0]], _description_block(records, about=about, describe=describe)))
    return _edited_text(text, edits).encode()


def _parse_packet(packet: bytes) -> tuple[str, Element]:
    """Its text, and that as a tree. A document type, and with it any entity, is an error."""
    if len(packet) > MAX_PACKET_BYTES:
        raise NotEmbeddableError("the packet is too large")
    try:
        text = packet.rstrip(_EMPTY).decode()
        root: Element = ElementTree.fromstring(text, forbid_dtd=True)
    except (ValueError, ParseError) as error:  # not UTF-8, defused, or not XML
        raise NotEmbeddableError("the packet can't be read") from error
    if _OTHER_ENCODING.match(text):
        raise NotEmbeddableError("the packet says that it isn't UTF-8")
    return text, root


def _element_places(text: str, root: Element) -> dict[Element, _ElementPlace]:
    """Where every element stands. What the parser read is well-formed, so that tags can be told by their brackets."""
    tags: list[_ElementPlace] = []
    open_tags: list[int] = []
    for match in _MARKUP.finditer(text):
        if match["opening"]:
            tags.append(_ElementPlace(match.start(), match.end(), match.end(), match.end()))
            if not match["opening"].endswith("/>"):
                open_tags.append(len(tags) - 1)
        elif match["closing"]:
            number = open_tags.pop()
            tags[number] = tags[number]._replace(outer=match.start(), end=match.end())
    return dict(zip(root.iter(), tags, strict=True))


def _properties(text: str, node: Element, places: dict[Element, _ElementPlace]) -> Iterator[_Property]:
    start, inner, _, _ = places[node]
    attributes = [each for each in _ATTRIBUTE.finditer(text, start, inner) if each[1].partition(":")[0] != "xmlns"]
    for (name, value), match in zip(node.items(), attributes, strict=True):
        if not name.startswith((f"{{{_RDF}}}", f"{{{_XML}}}")):
            yield _Property(name, [value], *match.span())
    for element in node:
        place = places[element]
        yield _Property(element.tag, _property_texts(element), _without_space(text, place.start), place.end)


def _without_space(text: str, place: int) -> int:
    """`place`, or where the white space before it begins: what is removed takes it along."""
    while text[place - 1] in " \t\r\n":
        place -= 1
    return place


def _property_texts(element: Element) -> list[str]:
    """The texts of a property; of our captions, which other programs may have written as attributes, the captions."""
    captions = [inner.text if inner.tag == _TEXT else inner.get(_TEXT) for inner in element.iter()]
    items = ["".join(item.itertext()) for item in element.iter(f"{{{_RDF}}}li")]
    return [caption for caption in captions if caption] or items or ["".join(element.itertext())]


def _may_describe(properties: Sequence[_Property]) -> bool:
    """Whether the description and its writer are ours to set: blank so far, or just what omnicap set them to.

    Somebody who corrects a caption may leave the writer as it is, so the texts must be those that we noted as ours.
    """
    ours, texts, writers = (_texts_of_property(properties, name) for name in (_CAPTIONS, _DESCRIPTION, _WRITER))
    if not _texts_of_property(properties, _DESCRIBES):
        return not texts and not writers
    return texts <= ours and all(text.startswith(_MARK) for text in writers)


def _texts_of_property(properties: Sequence[_Property], name: str) -> set[str]:
    """The texts of the properties of one name, but for blank ones; white space may have been broken anew."""
    texts = {" ".join(text.split()) for item in properties if item.name == name for text in item.values}
    return texts - {""}


def _removals(text: str, place: _ElementPlace, properties: Sequence[_Property], describe: bool) -> Iterable[_TextEdit]:
    """What has to go from one rdf:Description, or all of it if nothing would be left."""
    replaced = (_DESCRIPTION, _WRITER) if describe else ()
    gone = [item for item in properties if item.name.startswith(f"{{{NAMESPACE}}}") or item.name in replaced]
    if gone and len(gone) == len(properties):
        return [_TextEdit(_without_space(text, place.start), place.end)]
    return [_TextEdit(item.start, item.end) for item in gone]


def _insertion(text: str, holder: _ElementPlace, block: str) -> _TextEdit:
    """The block as the last thing in rdf:RDF, which may be one empty tag."""
    if holder.outer < holder.end:
        place = _without_space(text, holder.outer)
        return _TextEdit(place, place, block)
    name = re.split(r"[\s/]", text[holder.start + 1 : holder.end], maxsplit=1)[0]
    return _TextEdit(holder.end - 2, holder.end, f">{block}\n </{name}>")


def _edited_text(text: str, edits: Iterable[_TextEdit]) -> str:
    """The text after edits that come in the order of their places."""
    pieces, done = [], 0
    for edit in edits:
        pieces += [text[done : edit.start], edit.text]
        done = edit.end
    return "".join([*pieces, text[done:]])
