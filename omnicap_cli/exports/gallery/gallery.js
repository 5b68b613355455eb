"use strict";
// The page: filters, cards, the large view and the keys. Whatever comes from a journal enters the page as text or as
// the value of an attribute, never as markup; the page's policy would refuse that, too.

const CARD_CHARACTERS = 1600; // of a caption in the list; the large view has all of it
const LINES_BEFORE_HIT = 5; // a card begins near its first hit if that lies further down
const MAX_OPTIONS = 200; // of a facet
const SOURCE_STYLES = new Set(["markdown", "latex", "tikz", "smiles"]); // whose columns should stand under each other
const STATES = { "": "All", ok: "OK", empty: "Empty", cut: "Cut or looped", error: "Errors" };
const CUT = { length: "cut by a limit", repetition: "loop cut off" };

const byId = (id) => document.getElementById(id);
const formatted = (number) => number.toLocaleString("en");
const counted = (number, noun) => `${formatted(number)} ${noun}${number === 1 ? "" : "s"}`;

const cards = readCards();
const everything = cards.flatMap((card) => card.captions);
const pictures = new Pictures();
const wanted = { query: "", state: "", facets: new Map() };
let shown = { rows: [], captions: [] };
let selected = null; // a caption, whether it is shown or not
let list = null;
let focusWaits = false; // it was on a caption that left the page, and nothing else has got it since

/** An element with attributes and children, which are nodes or strings. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function button(label, action, attributes = {}) {
  const node = make("button", { type: "button", ...attributes }, label);
  node.addEventListener("click", action);
  return node;
}

// ------------------------------------------------------------------------------------------- what a caption looks like

/** Text with what is searched for marked in it. */
function marked(text) {
  const words = wordsOf(wanted.query).map((word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"));
  if (!words.length) return [text];
  const parts = text.split(new RegExp(`(${words.join("|")})`, "giu"));
  return parts.map((part, index) => (index % 2 ? make("mark", {}, part) : part));
}

/** The part of a long text that a card has room for: its beginning, or from its first hit. */
function excerpt(text) {
  const places = wordsOf(wanted.query).map((word) => text.toLowerCase().indexOf(word));
  const hit = Math.min(...places.filter((place) => place >= 0));
  let start = 0;
  if (hit !== Infinity && (hit > 400 || text.slice(0, hit).split("\n").length > LINES_BEFORE_HIT)) {
    start = Math.max(text.lastIndexOf("\n", hit) + 1, hit - 120);
  }
  const end = start + CARD_CHARACTERS;
  return `${start ? "… " : ""}${text.slice(start, end)}${text.length > end ? "…" : ""}`;
}

function drawPicture(card) {
  const picture = pictures.of(card);
  if (!picture) return ["No picture"];
  const [data, width, height] = picture;
  return [make("img", { src: `data:image/webp;base64,${data}`, width, height, alt: "" })];
}

function drawText(caption, shorten) {
  const { record, state } = caption;
  if (state === "empty") return make("p", { class: "none" }, "The caption is empty.");
  const text = state === "error" ? errorOf(record).message : textOf(record.caption);
  const source = state !== "error" && SOURCE_STYLES.has(record.style);
  const short = shorten(text);
  const node = make("p", { class: source ? "text source" : "text", dir: "auto" }, ...marked(short));
  node.shortened = short !== text;
  if (/^[a-z]{2,3}(-[\w-]+)?$/i.test(textOf(record.lang))) node.lang = record.lang; // so that zh gets Chinese glyphs
  return node;
}

function badgeOf({ record, state }) {
  if (state === "ok") return [];
  const label = { error: errorOf(record).kind, cut: CUT[record.finish_reason], empty: "empty" }[state];
  return [make("span", { class: `badge ${state}` }, ...marked(label))];
}

const askedFor = ({ record }) => [record.type, record.style, record.lang].map(textOf).filter(Boolean).join(" / ");

function drawCaption(caption) {
  const { state, record } = caption;
  const node = make("section", { class: `caption ${state}`, tabindex: "0", role: "group" });
  node.setAttribute("aria-label", `${askedFor(caption)} ${state === "ok" ? "" : state}`.trim() || "caption");
  node.setAttribute("aria-current", String(caption === selected));
  const header = make("header", {}, make("span", { class: "asked" }, askedFor(caption)), ...badgeOf(caption));
  if (textOf(record.caption)) header.append(button("Copy", () => copy(caption), { class: "quiet" }));
  header.append(button("Open", () => openDetail(caption), { class: "quiet" }));
  const more = button("Show all", () => openDetail(caption), { class: "quiet more" });
  node.append(header, drawText(caption, excerpt), more);
  node.addEventListener("focusin", () => select(caption));
  node.addEventListener("dblclick", () => openDetail(caption));
  node.caption = caption;
  return node;
}

function drawCard(index) {
  const { card, captions } = shown.rows[index];
  const { id, width, height, meta } = captions[0].record;
  const link = make("a", { href: linkOf(captions[0]), title: "Link to this" }, ...marked(textOf(id) || "(no id)"));
  const header = make("header", {}, make("h2", {}, link));
  if (Number.isInteger(width) && Number.isInteger(height)) header.append(make("p", {}, `${width} × ${height}`));
  const known = flat(meta).slice(0, CARD_CHARACTERS);
  if (known) header.append(make("p", { class: "meta", dir: "auto" }, ...marked(known)));
  const label = `Open ${textOf(id)}`;
  const picture = button("", () => openDetail(captions[0]), { class: "picture", "aria-label": label, tabindex: "-1" });
  picture.append(...drawPicture(card));
  const place = { "aria-posinset": index + 1, "aria-setsize": shown.rows.length, "aria-label": textOf(id) };
  const texts = make("div", { class: "captions" }, ...captions.map(drawCaption));
  return make("article", { class: "card", ...place }, picture, header, texts);
}

/** What can be done only once a card stands in the page: the focus comes back to the caption that had it. */
function settleCard(card) {
  markClamped(card);
  if (focusWaits) nodeOf(card, selected)?.focus({ preventScroll: true });
}

function keepFocus(card) {
  if (card.contains(document.activeElement)) focusWaits = true;
}

const nodeOf = (card, caption) => [...card.querySelectorAll(".caption")].find((each) => each.caption === caption);

/** Captions that don't fit get their button; only what stands in the page can be measured. */
function markClamped(card) {
  for (const node of card.querySelectorAll(".caption")) {
    const text = node.querySelector(".text");
    if (text && (text.shortened || text.scrollHeight > text.clientHeight + 1)) node.classList.add("clamped");
  }
}

// ---------------------------------------------------------------------------------------------------- filters

function applyFilters() {
  shown = filterCards(cards, wanted);
  scrollTo(0, 0);
  list.show(shown.rows.length);
  const filtered = wanted.query.trim() || wanted.state || wanted.facets.size;
  const of = counted(everything.length, "caption");
  byId("hits").textContent = filtered ? `${formatted(shown.captions.length)} of ${of}` : "";
  byId("nothing").hidden = shown.rows.length > 0 || !everything.length;
  for (const each of byId("states").children) each.setAttribute("aria-pressed", String(each.value === wanted.state));
  if (focusWaits || list.root.contains(document.activeElement)) returnFocus();
}

/** Back to the caption that had the focus, or to the first where the filters hide it; to what clears them at last. */
function returnFocus() {
  if (shown.captions.length) goTo(shown.captions.includes(selected) ? selected : shown.captions[0]);
  else byId("clear").focus();
}

let searchTimer = 0;

function search() {
  clearTimeout(searchTimer);
  wanted.query = byId("query").value;
  applyFilters();
}

/** What was typed is searched for now: later the list would be drawn anew under whatever has the focus by then. */
function leaveField(field) {
  if (field === byId("query") && field.value !== wanted.query) search();
  field.blur();
}

function goToFirstHit() {
  search();
  if (shown.captions.length) goTo(shown.captions[0]);
}

function clearFilters() {
  wanted.query = wanted.state = byId("query").value = "";
  wanted.facets.clear();
  for (const choice of document.querySelectorAll("#facets select")) choice.selectedIndex = 0;
  applyFilters();
}

function drawStates() {
  const counts = { "": everything.length };
  for (const { state } of everything) counts[state] = (counts[state] || 0) + 1;
  for (const [state, label] of Object.entries(STATES)) {
    const node = button("", () => ((wanted.state = state), applyFilters()), { value: state });
    if (state) node.append(make("span", { class: `dot ${state}` }));
    node.append(label, make("small", {}, formatted(counts[state] || 0)));
    node.disabled = Boolean(state) && !counts[state];
    byId("states").append(node);
  }
}

/** A choice for each facet that has something to choose from. The first option stands for any value. */
function drawFacets() {
  for (const name of FACETS) {
    const counts = countFacet(everything, name).slice(0, MAX_OPTIONS);
    if (counts.length < 2) continue;
    const choice = make("select", { name, "aria-label": `Filter by ${name}` }, make("option", {}, `any ${name}`));
    for (const [value, number] of counts) {
      choice.append(make("option", { value }, `${value.slice(0, 60) || "(none)"} (${formatted(number)})`));
    }
    choice.addEventListener("change", () => {
      if (choice.selectedIndex) wanted.facets.set(name, choice.value);
      else wanted.facets.delete(name);
      applyFilters();
    });
    byId("facets").append(choice);
  }
}

function drawSummary() {
  const models = countFacet(everything, "model").filter(([name]) => name).map(([name]) => name);
  const by = models.length ? ` by ${models.slice(0, 3).join(", ")}${models.length > 3 ? " and others" : ""}` : "";
  const summary = `${counted(everything.length, "caption")} of ${counted(cards.length, "picture")}${by}`;
  byId("summary").textContent = everything.length ? summary : "The journal is empty.";
}

// -------------------------------------------------------------------------------------------------- selection

let linkTimer = 0;

/** Make a caption the current one. The address follows a little later: browsers refuse to change it at every key. */
function select(caption) {
  selected = caption;
  for (const node of document.querySelectorAll("#list .caption")) {
    node.setAttribute("aria-current", String(node.caption === caption));
  }
  clearTimeout(linkTimer);
  linkTimer = setTimeout(() => history.replaceState(null, "", linkOf(caption)), 250);
}

/** Select a caption that is shown, bring it into sight and focus it. */
function goTo(caption) {
  const index = shown.rows.findIndex((row) => row.card === caption.card);
  const node = nodeOf(list.reach(index), caption);
  node.scrollIntoView({ block: "nearest" });
  node.focus({ preventScroll: true });
  select(caption);
}

/** The caption `step` further on than the current one among those shown; the first if there is no current one. */
function neighbour(step) {
  const index = shown.captions.indexOf(selected);
  return shown.captions[index < 0 ? 0 : Math.min(Math.max(index + step, 0), shown.captions.length - 1)];
}

/** Go where an address points, without filters if they hide it. */
function followLink(url) {
  const [id, copyNumber] = new URL(url).hash.slice(1).split(":");
  let name;
  try {
    name = decodeURIComponent(id);
  } catch {
    return; // typed by hand
  }
  const number = Number(copyNumber) || 1;
  const caption = id && everything.find((each) => textOf(each.record.id) === name && each.copy === number);
  if (!caption) return;
  if (!shown.captions.includes(caption)) clearFilters();
  goTo(caption);
}

// ---------------------------------------------------------------------------------------------- the large view

const detail = byId("detail");
const help = byId("help");
let opened = null; // the caption of the large view, which stays when a browser gives the focus back to the list

function openDetail(caption) {
  select(caption);
  opened = caption;
  const { record } = caption;
  byId("detail-id").replaceChildren(...marked(textOf(record.id) || "(no id)"));
  const index = shown.captions.indexOf(caption);
  byId("detail-place").textContent = `${formatted(index + 1)} of ${formatted(shown.captions.length)}`;
  byId("previous").disabled = index <= 0;
  byId("next").disabled = index === shown.captions.length - 1;
  const picture = make("figure", { class: "picture" }, ...drawPicture(caption.card));
  const header = make("header", {}, make("span", { class: "asked" }, askedFor(caption)), ...badgeOf(caption));
  if (textOf(record.caption)) header.append(button("Copy", () => copy(caption)));
  const text = make("section", { class: `caption ${caption.state}` }, header, drawText(caption, (whole) => whole));
  byId("detail-body").replaceChildren(picture, text, drawFields(record));
  byId("detail-body").scrollTop = 0;
  if (!detail.open) detail.showModal();
  byId("detail-body").focus();
}

/** Back to the list, at the caption that was open. */
function closeDetail() {
  detail.close();
  if (shown.captions.includes(opened)) goTo(opened);
}

function drawFields(record) {
  const fields = make("dl", { class: "fields" });
  for (const [name, value] of Object.entries(record)) {
    if (name === "caption") continue;
    const nested = value !== null && typeof value === "object";
    const text = nested ? JSON.stringify(value, null, JSON.stringify(value).length > 60 ? 2 : 0) : String(value);
    fields.append(make("div", {}, make("dt", {}, name), make("dd", {}, ...marked(text))));
  }
  return fields;
}

/** Put a caption on the clipboard; where a page may not (plain http), the old way, which needs a selection. */
async function copy(caption) {
  const text = textOf(caption.record.caption);
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = make("textarea", {}, text);
    const focused = document.activeElement;
    (detail.open ? detail : document.body).append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    focused.focus({ preventScroll: true });
  }
  byId("notice").textContent = "Caption copied";
  setTimeout(() => (byId("notice").textContent = ""), 1600);
}

// -------------------------------------------------------------------------------------------------------- keys

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const { key, target } = event;
  if (target.matches("input, select")) {
    if (key === "Escape") (event.preventDefault(), leaveField(target)); // a browser would empty the field
    if (key === "Enter" && target === byId("query")) goToFirstHit();
    return;
  }
  const action = help.open ? null : detail.open ? detailAction(key) : listAction(key, target);
  if (!action) return;
  event.preventDefault();
  action();
}

function listAction(key, target) {
  const presses = target.matches("button, a") && (key === "Enter" || key === " "); // which is theirs
  if (key === "/") return () => byId("query").select();
  if (key === "?") return () => help.showModal();
  if (presses) return null;
  if (!shown.captions.length) return "jk".includes(key) && everything.length ? returnFocus : null;
  if (key === "j" || key === "ArrowDown") return () => goTo(neighbour(1));
  if (key === "End") return () => list.reach(list.length - 1).scrollIntoView({ block: "end" }); // guesses fall short
  if (key === "k" || key === "ArrowUp") return () => goTo(neighbour(-1));
  if (!shown.captions.includes(selected)) return null;
  if (key === "Enter" || key === " ") return () => openDetail(selected);
  return key === "c" ? () => copy(selected) : null;
}

function detailAction(key) {
  if (key === "Escape") return closeDetail;
  if (key === "ArrowRight" || key === "j") return () => openDetail(neighbour(1));
  if (key === "ArrowLeft" || key === "k") return () => openDetail(neighbour(-1));
  return key === "c" ? () => copy(selected) : null;
}

// ------------------------------------------------------------------------------------------------------- start

function start() {
  list = new VirtualList(byId("list"), drawCard, settleCard, keepFocus);
  drawSummary();
  drawStates();
  drawFacets();
  applyFilters();
  byId("query").addEventListener("input", () => {
    clearTimeout(searchTimer);
    searchTimer = setTimeout(search, 120); // not at each letter of a word
  });
  byId("help-close").addEventListener("click", () => help.close());
  byId("clear").addEventListener("click", () => (clearFilters(), byId("query").focus())); // the button is hidden then
  byId("help-button").addEventListener("click", () => help.showModal());
  byId("previous").addEventListener("click", () => openDetail(neighbour(-1)));
  byId("next").addEventListener("click", () => openDetail(neighbour(1)));
  byId("close").addEventListener("click", closeDetail);
  detail.addEventListener("click", ({ target }) => target === detail && closeDetail()); // beside it, on the backdrop
  help.addEventListener("click", ({ target }) => target === help && help.close());
  const bar = byId("bar");
  const setBarHeight = () => document.documentElement.style.setProperty("--bar-height", `${bar.offsetHeight}px`);
  new ResizeObserver(setBarHeight).observe(bar);
  setBarHeight();
  document.addEventListener("keydown", onKey);
  document.addEventListener("focusin", () => (focusWaits = false));
  addEventListener("hashchange", (event) => followLink(event.newURL));
  followLink(location.href);
}

start();
