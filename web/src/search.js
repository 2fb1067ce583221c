/** Finding text in all chats, without regard to case and accents. */

/**
 * @typedef {object} Hit
 * @property {string} conversation
 * @property {string | null} message null when only the title matches
 * @property {string} before
 * @property {string} match
 * @property {string} after
 *
 * @typedef {{ id: string, conversation: string, content: string, time: number, files?: import('./tree.js').Attachment[] }} Searched
 * @typedef {{ text: string, at: number, name?: string }} Place `name`: of the file the text is in
 */

const AROUND = 32;

/** Letters that are one with their accent. */
const WHOLE = /** @type {Record<string, string>} */ ({ ø: 'o', ł: 'l', đ: 'd', ħ: 'h', ı: 'i', ß: 'ss', æ: 'ae', œ: 'oe' });

/** @type {Map<string, string>} characters that are not ASCII; a text has few different ones */
const known = new Map();

/** @type {WeakMap<object, string>} of messages and files, so that every further letter of a query is quick */
const ofMessages = new WeakMap();

/** @param {string} text also one whose accents are characters of their own */
export function fold(text) {
  return text.replace(/[A-Z]+|[^\0-\x7f]/gu, (part) => {
    if (part <= 'Z') return part.toLowerCase();
    let folded = known.get(part);
    if (folded === undefined) {
      const plain = part.toLowerCase().normalize('NFD').replace(/\p{M}+/gu, '');
      folded = WHOLE[plain] ?? plain;
      known.set(part, folded);
    }
    return folded;
  });
}

/**
 * Where a place of a folded text is in the text itself, after the accents there.
 * @param {string} text
 * @param {number} place
 */
function unfold(text, place) {
  let at = 0;
  let passed = 0;
  for (const char of text) {
    const length = char < '\x80' ? 1 : fold(char).length;
    if (passed >= place && length > 0) break;
    passed += length;
    at += char.length;
  }
  return at;
}

/** @param {object} owner of the text @param {string} text */
function folded(owner, text) {
  const before = ofMessages.get(owner);
  if (before !== undefined) return before;
  const now = fold(text);
  ofMessages.set(owner, now);
  return now;
}

/**
 * Where a message, or a file that is attached to it, has the text.
 * @param {Searched} message
 * @param {string} wanted
 * @returns {Place | null}
 */
function find(message, wanted) {
  const at = folded(message, message.content).indexOf(wanted);
  if (at >= 0) return { text: message.content, at };
  for (const file of message.files ?? []) {
    const inName = fold(file.name).indexOf(wanted);
    if (inName >= 0) return { text: file.name, at: inName };
    const inText = folded(file, file.text).indexOf(wanted);
    if (inText >= 0) return { text: file.text, at: inText, name: file.name };
  }
  return null;
}

/**
 * One hit for each chat, in the order of the chats: the title if it matches, else the newest matching message.
 * @param {string} query
 * @param {{ id: string, title: string }[]} conversations
 * @param {Searched[]} messages
 * @returns {Hit[]}
 */
export function search(query, conversations, messages) {
  const wanted = fold(query.trim());
  if (wanted === '') return [];
  /** @type {Map<string, { message: Searched, place: Place }>} */
  const newest = new Map();
  for (const message of messages) {
    const best = newest.get(message.conversation);
    if (best && best.message.time >= message.time) continue;
    const place = find(message, wanted);
    if (place) newest.set(message.conversation, { message, place });
  }
  const hits = [];
  for (const { id, title } of conversations) {
    const inTitle = fold(title).indexOf(wanted);
    const found = newest.get(id);
    if (found) hits.push({ conversation: id, message: found.message.id, ...cut(found.place, wanted.length) });
    else if (inTitle >= 0) hits.push({ conversation: id, message: null, ...cut({ text: title, at: inTitle }, wanted.length) });
  }
  return hits;
}

/** @param {Place} place in the folded text @param {number} length of what was found there */
function cut({ text, at: place, name }, length) {
  const flat = (/** @type {string} */ part) => part.replace(/\s+/g, ' ');
  const at = unfold(text, place);
  const end = unfold(text, place + length);
  const start = Math.max(0, at - AROUND);
  return {
    before: (name === undefined ? '' : `${name}: `) + (start > 0 ? '…' : '') + flat(text.slice(start, at)),
    match: flat(text.slice(at, end)),
    after: flat(text.slice(end, end + AROUND * 2)),
  };
}
