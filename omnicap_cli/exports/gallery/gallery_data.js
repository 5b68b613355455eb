"use strict";
// What the page is about: cards, each a picture with its captions, out of the inert blocks of JSON that the page
// carries, and which of them a search leaves. It knows nothing of how they look.

const PICTURES_PER_BLOCK = 128; // as gallery.py writes them
const BLOCKS_KEPT = 6; // of parsed pictures, around a megabyte each
const FACETS = ["type", "style", "lang", "model"];

/** Any value of a record as text. Another version may have written something else than is expected. */
function textOf(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** "ok", "error", "empty" or "cut": the first that tells a reviewer why there is no whole caption. */
function stateOf(record) {
  if (record.status === "error" || record.error) return "error";
  if (!textOf(record.caption).trim()) return "empty";
  return record.finish_reason === "length" || record.finish_reason === "repetition" ? "cut" : "ok";
}

/** The kind and the message of an error. */
function errorOf(record) {
  const { kind, message } = record.error || {};
  return { kind: textOf(kind) || "Error", message: textOf(message) || (kind ? "" : textOf(record.error)) };
}

/** Names and values of a tree, in one line. */
function flat(value) {
  if (value === null || typeof value !== "object") return textOf(value);
  if (Array.isArray(value)) return value.map(flat).filter(Boolean).join(", ");
  return Object.entries(value).map(([name, each]) => `${name}: ${flat(each)}`).join(", ");
}

/** Every card in the order of the journal: {number, captions: [{record, card, state, copy, searched}]}. */
function readCards() {
  const cards = [];
  const copies = new Map(); // how many captions of an id came before, which tells them apart in a link
  for (const block of document.querySelectorAll("script.cards")) {
    for (const records of JSON.parse(block.textContent)) {
      const card = { number: cards.length, captions: [] };
      for (const record of records) {
        const copy = (copies.get(textOf(record.id)) || 0) + 1;
        copies.set(textOf(record.id), copy);
        card.captions.push({ record, card, state: stateOf(record), copy, searched: null });
      }
      cards.push(card);
    }
    block.remove(); // its text is memory
  }
  return cards;
}

/** The thumbnails, parsed block by block when their cards come into view. */
class Pictures {
  constructor() {
    this.blocks = [...document.querySelectorAll("script.pictures")];
    this.parsed = new Map(); // block number to its pictures, the one used last at the end
  }

  /** Of a card: [base64 of a WebP, width, height], or null. */
  of(card) {
    const number = Math.floor(card.number / PICTURES_PER_BLOCK);
    const pictures = this.parsed.get(number) || JSON.parse(this.blocks[number].textContent);
    this.parsed.delete(number);
    this.parsed.set(number, pictures);
    if (this.parsed.size > BLOCKS_KEPT) this.parsed.delete(this.parsed.keys().next().value);
    return pictures[card.number % PICTURES_PER_BLOCK];
  }
}

/** How many captions have each value of a facet, the most frequent first. */
function countFacet(captions, name) {
  const counts = new Map();
  for (const { record } of captions) {
    const value = textOf(record[name]);
    counts.set(value, (counts.get(value) || 0) + 1);
  }
  return [...counts].sort((one, other) => other[1] - one[1]);
}

/** The words of a search, each of which has to occur. */
function wordsOf(query) {
  return query.normalize("NFC").toLowerCase().split(/\s+/).filter(Boolean);
}

/** What a search looks through; made when it is first needed. */
function searchedText(caption) {
  if (caption.searched === null) {
    const { id, caption: text, error, meta } = caption.record;
    caption.searched = [textOf(id), textOf(text), flat(error), flat(meta)].join("\n").normalize("NFC").toLowerCase();
  }
  return caption.searched;
}

/**
 * What is left of `cards`: rows of {card, captions} and all those captions in one list.
 * `wanted` holds a query, a state ("" for any), and in `facets` a value for each facet that is filtered by.
 */
function filterCards(cards, wanted) {
  const words = wordsOf(wanted.query);
  const facets = [...wanted.facets];
  const matches = (caption) =>
    (!wanted.state || caption.state === wanted.state) &&
    facets.every(([name, value]) => textOf(caption.record[name]) === value) &&
    words.every((word) => searchedText(caption).includes(word));
  const rows = [];
  for (const card of cards) {
    const captions = card.captions.filter(matches);
    if (captions.length) rows.push({ card, captions });
  }
  return { rows, captions: rows.flatMap((row) => row.captions) };
}

/** The link to a caption: its id, and which caption of that id it is unless the first. */
function linkOf(caption) {
  return `#${encodeURIComponent(textOf(caption.record.id))}${caption.copy > 1 ? `:${caption.copy}` : ""}`;
}
