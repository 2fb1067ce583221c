/**
 * A reply that grows, as Markdown. A frame must cost as much as what has arrived since the last one, not as much as the whole
 * reply: blocks that can no longer change are left alone, and in the one that is being written only its last item, its last
 * row, or the last piece of its code.
 */

import { highlight, lex, normalize, render } from './markdown.js';
import { mend } from './mend.js';

export * from './markdown.js';

/** @typedef {any} Token marked's */

/** How long an unfinished block of code waits at least for fresh colors. */
const RECOLOR_MS = 500;
/** How much of the time coloring may take. */
const COLOR_SHARE = 0.05;

/**
 * @typedef {object} Block that is shown and may still change
 * @property {Token} token
 * @property {number} nodes how many child nodes of the container it has
 * @property {boolean} settled something follows it: it looks as it will look
 */

export class StreamRenderer {
  /**
   * @param {Element} container emptied here
   * @param {{ now?: () => number }} [options]
   */
  constructor(container, { now = () => performance.now() } = {}) {
    this.container = container;
    this.now = now;
    /** @type {Set<import('./markdown.js').Tool>} what the text so far would have needed */
    this.missing = new Set();
    /** How many characters of the text are in frozen blocks. */
    this.frozen = 0;
    /** How many child nodes of the container are frozen. */
    this.frozenNodes = 0;
    /** @type {Block[]} after the frozen ones */
    this.blocks = [];
    /** What links by name point to. */
    this.links = '{}';
    /** When the block of code that is being written gets fresh colors. */
    this.colorAt = -Infinity;
    container.replaceChildren();
  }

  /**
   * Shows `text`, all of the reply so far. Only ever grows.
   * @param {string} text
   */
  update(text) {
    const clean = normalize(text);
    const tail = clean.slice(this.frozen);
    const tokens = lex(mend(tail));
    // A reference such as `[1]: https://…` changes the links above.
    const links = JSON.stringify(tokens.links);
    if (links !== '{}' && this.frozen > 0) {
      this.#thaw();
      this.update(clean);
      return;
    }
    const solid = tokens.filter((token) => token.type !== 'space');
    const same = links === this.links ? solid.findIndex((token, at) => !this.#isShown(token, at, solid.length)) : 0;
    this.links = links;
    if (same >= 0) this.#show(solid, same);
    else if (solid.length < this.blocks.length) this.#show(solid, solid.length);
    if (solid.length > 2 && links === '{}' && !/^ {0,3}\[[^\]]+\]:/m.test(tail)) this.#freeze(tokens, solid[solid.length - 2], tail);
  }

  /**
   * The reply is complete.
   * @param {string} text
   */
  finish(text) {
    const clean = normalize(text);
    if (/^ {0,3}\[[^\]]+\]:/m.test(clean)) this.#thaw();
    this.blocks = [];
    morph(this.container, this.#rendered(lex(clean.slice(this.frozen)), highlight), this.frozenNodes);
  }

  /** Looks at everything again with the next text, because a tool has arrived. What stays equal is not touched. */
  refresh() {
    this.#thaw();
    this.missing.clear();
  }

  #thaw() {
    this.frozen = this.frozenNodes = 0;
    this.blocks = [];
  }

  /** @param {Token} token @param {number} at @param {number} count of all */
  #isShown(token, at, count) {
    const block = this.blocks[at];
    return block !== undefined && block.token.raw === token.raw && block.token.type === token.type && (block.settled || at === count - 1);
  }

  /** Shows the blocks from `first` on. @param {Token[]} tokens @param {number} first */
  #show(tokens, first) {
    const place = this.frozenNodes + this.blocks.slice(0, first).reduce((sum, { nodes }) => sum + nodes, 0);
    const last = tokens.length - 1;
    const before = this.blocks[first];
    if (first === last && before && !before.settled && this.blocks.length === tokens.length && this.#grow(before.token, tokens[last], place)) {
      before.token = tokens[last];
      return;
    }
    const content = document.createDocumentFragment();
    this.blocks.length = first;
    for (const [at, token] of tokens.entries()) {
      if (at < first) continue;
      const started = this.now();
      const fresh = this.#rendered([token], highlight);
      if (at === last) this.colorAt = started + Math.max(RECOLOR_MS, (this.now() - started) / COLOR_SHARE);
      this.blocks.push({ token, nodes: fresh.childNodes.length, settled: at < last });
      content.append(fresh);
    }
    morph(this.container, content, place);
  }

  /**
   * Adds to the last block what has arrived, where it is one that grows piece by piece.
   * @param {Token} before
   * @param {Token} token
   * @param {number} place of its node
   * @returns {boolean} false: it must be rendered again
   */
  #grow(before, token, place) {
    const node = /** @type {Element | undefined} */ (this.container.childNodes[place]);
    if (!node || before.type !== token.type) return false;
    if (token.type === 'code') {
      const code = node.querySelector?.('code');
      if (!code || before.lang !== token.lang || !token.text.startsWith(before.text) || (token.lang && this.now() >= this.colorAt)) return false;
      const added = token.text.slice(before.text.length);
      if (code.lastChild?.nodeType === 3) /** @type {Text} */ (code.lastChild).appendData(added);
      else code.append(added);
      return true;
    }
    if (token.type === 'list') {
      const alike = before.ordered === token.ordered && before.start === token.start && before.loose === token.loose;
      const kept = equal(before.items, token.items, (item) => item.raw);
      return alike && this.#growPart(node, { ...token, items: token.items.slice(kept) }, 'ul, ol', kept);
    }
    if (token.type === 'table') {
      const cells = (/** @type {Token[]} */ row) => JSON.stringify(row.map(({ text, align }) => [text, align]));
      const kept = equal(before.rows, token.rows, cells);
      return cells(before.header) === cells(token.header) && this.#growPart(node, { ...token, rows: token.rows.slice(kept) }, 'tbody', kept);
    }
    return false;
  }

  /**
   * @param {Element} node
   * @param {Token} rest the block without the parts that stay
   * @param {string} selector of what contains the parts
   * @param {number} kept how many of them stay
   */
  #growPart(node, rest, selector, kept) {
    const within = (/** @type {Element} */ element) => (element.matches(selector) ? element : element.querySelector(selector));
    const target = within(node);
    if (kept === 0 || !target) return false;
    const source = this.#rendered([rest], highlight);
    const parts = source.firstElementChild && within(source.firstElementChild);
    if (!parts) return false;
    if (parts.firstChild?.nodeType === 3) parts.firstChild.remove();
    const next = target.children[kept];
    morph(target, parts, next ? [...target.childNodes].indexOf(next) : target.childNodes.length);
    return true;
  }

  /** What is before `keep` stays as it is. @param {Token[]} tokens @param {Token} keep @param {string} tail */
  #freeze(tokens, keep, tail) {
    const until = tokens.indexOf(keep);
    const raw = tokens.slice(0, until).map((token) => token.raw).join('');
    if (!tail.startsWith(raw)) return;
    this.frozen += raw.length;
    for (const { nodes } of this.blocks.splice(0, this.blocks.length - 2)) this.frozenNodes += nodes;
  }

  /** @param {Token[]} tokens @param {import('./markdown.js').Color} color @returns {DocumentFragment} */
  #rendered(tokens, color) {
    const { content, missing } = render(tokens, color);
    for (const tool of missing) this.missing.add(tool);
    return content;
  }
}

/** How many parts at the start are the same. @param {Token[]} before @param {Token[]} now @param {(part: Token) => string} look */
function equal(before, now, look) {
  let count = 0;
  while (count < before.length && count < now.length && look(before[count]) === look(now[count])) count += 1;
  return count;
}

/**
 * Makes the children of `target`, from `first` on, equal to those of `source`, touching only what differs.
 * @param {Node} target
 * @param {Node} source its children are moved out
 * @param {number} [first]
 */
function morph(target, source, first = 0) {
  /** @type {ChildNode | null} */
  let at = target.childNodes[first] ?? null;
  for (const wanted of [...source.childNodes]) {
    if (!at) {
      target.appendChild(wanted);
      continue;
    }
    /** @type {ChildNode | null} */
    const following = at.nextSibling;
    if (at.nodeType !== wanted.nodeType || at.nodeName !== wanted.nodeName) {
      target.replaceChild(wanted, at);
    } else if (at.nodeType === 3) {
      const text = /** @type {Text} */ (at);
      const data = wanted.nodeValue ?? '';
      // Appending keeps selections that end in this text.
      if (data.startsWith(text.data)) {
        if (data.length > text.data.length) text.appendData(data.slice(text.data.length));
      } else {
        text.data = data;
      }
    } else if (at.nodeType === 1) {
      copyAttributes(/** @type {Element} */ (at), /** @type {Element} */ (wanted));
      morph(at, wanted);
    }
    at = following;
  }
  while (at) {
    /** @type {ChildNode | null} */
    const following = at.nextSibling;
    target.removeChild(at);
    at = following;
  }
}

/** @param {Element} target @param {Element} source sanitized already */
function copyAttributes(target, source) {
  for (const { name } of [...target.attributes]) if (!source.hasAttribute(name)) target.removeAttribute(name);
  for (const { name, value } of [...source.attributes]) {
    if (target.getAttribute(name) !== value) target.setAttribute(name, value);
  }
}
