/** What comes after this many characters of a paragraph is not searched for what it closes. */
const LONGEST = 4000;

/**
 * Closes what an unfinished piece of Markdown has open, so that half-written emphasis, code and links do not flash as bare
 * punctuation while a reply is being written. Only the last paragraph can be unfinished.
 * @param {string} text
 * @returns {string}
 */
export function mend(text) {
  if (inFence(text)) return text.replace(/\n[ >]*(?:`{1,}|~{1,})$/, '');
  let start = text.lastIndexOf('\n\n') + 1;
  // Of a long list its last line.
  if (text.length - start > LONGEST) start = text.lastIndexOf('\n') + 1;
  if (text.length - start > LONGEST) return text;
  const before = text.slice(0, start);
  let last = text.slice(start);
  // A fence, a heading, a list mark or a rule of which only the first characters have arrived.
  last = last.replace(/(^|\n)[ \t]*(?:`{1,2}|~{1,2}|#{1,6}|[-*+]|\d{1,9}[.)]|[=-]+|\|)[ \t]*$/, '$1');
  last = withoutHalfTable(last);
  const marks = open(last);
  if (marks.code) return before + trimmed(last) + marks.code;
  // Marks at the very end open something of which nothing has arrived yet.
  const bare = last.replace(/(?:^|(?<=[\s([{"'])) *(?:\*{1,3}|_{1,3}|~~)$/, '');
  if (bare !== last) return before + closeLink(bare) + open(bare).emphasis;
  const half = /(?<!\*)\*$/.test(last) && marks.emphasis.includes('**') ? last.slice(0, -1) : last;
  return before + closeLink(trimmed(half)) + open(half).emphasis;
}

/**
 * A table is one only when its second line is complete; before, its head would flash as text.
 * @param {string} text the last paragraph
 */
function withoutHalfTable(text) {
  const lines = text.split('\n');
  let from = lines.length;
  while (from > 0 && /^ {0,3}\|/.test(lines[from - 1])) from -= 1;
  const [head, rule, ...rows] = lines.slice(from);
  if (head === undefined || rows.length > 0) return text;
  const half = rule === undefined || (/^[|:\- ]*$/.test(rule) && rule.split('|').length < head.trim().split('|').length);
  return half ? lines.slice(0, from).join('\n') : text;
}

/** @param {string} text closing marks count only right after a word */
const trimmed = (text) => text.replace(/[ \t]+$/, '');

/** @param {string} text an unfinished link shows its words only */
function closeLink(text) {
  const found = /!?\[([^\][\n]*)(?:\]\([^()\s]*(?: "[^"\n]*)?)?$/.exec(text);
  if (!found) return text;
  // A bare bracket may also be an index or a note: only a link that has begun its address is shortened.
  return found[0].includes('](') ? text.slice(0, found.index) + found[1] : text;
}

/** @param {string} text whether it ends inside a fenced block of code */
function inFence(text) {
  let fence = '';
  for (const line of text.split('\n')) {
    // In a list or a quote, too.
    const mark = /^(?: *(?:[-*+>]|\d{1,9}[.)]))* *(`{3,}|~{3,})(.*)$/.exec(line);
    if (!mark) continue;
    if (fence === '') {
      if (mark[1][0] === '~' || !mark[2].includes('`')) fence = mark[1];
    } else if (mark[1][0] === fence[0] && mark[1].length >= fence.length && mark[2].trim() === '') {
      fence = '';
    }
  }
  return fence !== '';
}

/**
 * @param {string} text one paragraph
 * @returns {{ code: string, emphasis: string }} the marks that would close it
 */
function open(text) {
  /** @type {string[]} */
  const stack = [];
  let at = 0;
  while (at < text.length) {
    const rest = text.slice(at);
    if (rest[0] === '\\') {
      at += 2;
      continue;
    }
    const ticks = /^`+/.exec(rest)?.[0];
    if (ticks) {
      const close = new RegExp(`(?<!\`)\`{${ticks.length}}(?!\`)`).exec(rest.slice(ticks.length));
      if (!close) return { code: ticks, emphasis: '' };
      at += ticks.length * 2 + close.index;
      continue;
    }
    const mark = /^(?:\*{1,3}|~~)/.exec(rest)?.[0];
    if (mark) {
      const follows = text[at + mark.length];
      const precedes = text[at - 1];
      const canOpen = follows !== undefined && !/\s/.test(follows);
      const canClose = precedes !== undefined && !/\s/.test(precedes);
      if (canClose && stack[stack.length - 1] === mark) stack.pop();
      else if (canOpen && !(canClose && mark === '*')) stack.push(mark);
      at += mark.length;
      continue;
    }
    at += 1;
  }
  return { code: '', emphasis: stack.reverse().join('') };
}
