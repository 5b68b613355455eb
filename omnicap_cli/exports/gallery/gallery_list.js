"use strict";
// A list of any length of which only what is in sight, and a little around it, is in the page. It knows heights and
// nothing of what its items are.

const AROUND_PIXELS = 600; // drawn above and below what is in sight
const GUESS_PIXELS = 240; // until something was measured

class VirtualList {
  /** `draw(index)` makes the node of an item; `drawn(node)` is called once it stands in the page, `dropping(node)` before
   *  it leaves it. */
  constructor(root, draw, drawn, dropping) {
    this.root = root;
    this.draw = draw;
    this.drawn = drawn;
    this.dropping = dropping;
    this.nodes = new Map(); // index to node, of those that are in the page
    this.guess = GUESS_PIXELS;
    this.show(0);
    let waiting = false;
    const soon = () => {
      if (!waiting) requestAnimationFrame(() => ((waiting = false), this.render()));
      waiting = true;
    };
    addEventListener("scroll", soon, { passive: true });
    addEventListener("resize", () => ((this.measured = false), soon()));
  }

  /** Begin with other items. */
  show(length) {
    for (const index of this.nodes.keys()) this.drop(index);
    this.length = length;
    this.heights = new Float64Array(length); // 0 is not measured yet
    this.measured = false;
    this.render();
  }

  drop(index) {
    this.dropping(this.nodes.get(index));
    this.nodes.get(index).remove();
    this.nodes.delete(index);
  }

  /** The node of an item, which is drawn and scrolled to if it wasn't near. */
  reach(index) {
    if (!this.nodes.has(index)) {
      scrollTo(0, this.top() + scrollY + this.offsets()[index] - innerHeight / 3);
      this.render();
    }
    return this.nodes.get(index);
  }

  /** Where the list begins, from the upper edge of the window. */
  top() {
    return this.root.getBoundingClientRect().top;
  }

  /** Where each item begins, from the start of the list; one more for the end. */
  offsets() {
    const offsets = new Float64Array(this.length + 1);
    for (let index = 0; index < this.length; index++) {
      offsets[index + 1] = offsets[index] + (this.heights[index] || this.guess);
    }
    return offsets;
  }

  /** Draw what came near, drop what went away, and keep what is in sight where it is. */
  render() {
    const atEnd = scrollY > 0 && scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
    const before = this.offsets();
    const from = -this.top();
    const first = this.indexAt(before, from - AROUND_PIXELS);
    const end = Math.min(this.length, this.indexAt(before, from + innerHeight + AROUND_PIXELS) + 1);
    const anchor = this.indexAt(before, from);
    this.place(first, end);
    this.measure();
    const after = this.offsets();
    this.root.style.paddingTop = `${after[first]}px`;
    this.root.style.paddingBottom = `${after[this.length] - after[end]}px`;
    const moved = from > 0 && this.length ? after[anchor] - before[anchor] : 0;
    if (atEnd) scrollTo(0, document.documentElement.scrollHeight);
    else if (Math.abs(moved) >= 1) scrollBy(0, moved);
    const top = this.top();
    const lacking = (end < this.length && top + after[end] < innerHeight) || (first > 0 && top + after[first] > 0);
    if (lacking) this.render(); // items were smaller than the guess: now that they are measured, more are drawn
  }

  /** The item that covers a place in the list, or the nearest. */
  indexAt(offsets, place) {
    let low = 0;
    let high = Math.max(0, this.length - 1);
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (offsets[middle] <= place) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Have exactly the items [first, end) in the page. Those that stay are not touched: they may have the focus. */
  place(first, end) {
    for (const index of this.nodes.keys()) if (index < first || index >= end) this.drop(index);
    let following = null;
    for (let index = end - 1; index >= first; index--) {
      let node = this.nodes.get(index);
      if (!node) {
        node = this.draw(index);
        this.nodes.set(index, node);
        this.root.insertBefore(node, following);
        this.drawn(node);
      }
      following = node;
    }
  }

  /** Heights of what is in the page, also anew: another width has others. */
  measure() {
    for (const [index, node] of this.nodes) this.heights[index] = node.getBoundingClientRect().height;
    if (this.measured || !this.nodes.size) return;
    const heights = [...this.nodes.keys()].map((index) => this.heights[index]);
    this.guess = heights.reduce((sum, height) => sum + height, 0) / heights.length || GUESS_PIXELS;
    this.measured = true; // only once for a width: a guess that changes would move the scroll bar under a hand
  }
}
