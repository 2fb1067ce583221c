/** Finding text in all chats, without regard to case and accents. */

/**
 * @typedef {object} Hit
 * @property {string} conversation
 * @property {string | null} message null when only the title matches
 * @property {string} before
 * @property {string} match
 * @property {string} after
 */

const AROUND = 32;

/** @type {Map<string, string>} characters that are not ASCII; a text has few different ones */
const known = new Map();

/** @type {WeakMap<object, string>} of messages, so that every further letter of a query is quick */
const ofMessages = new WeakMap();

/** @param {string} text one character for each of the text's, where that is possible, so that positions stay right */
export function fold(text) {
  return text.replace(/[A-Z]+|[^\0-\x7f]/gu, (part) => {
    if (part <= 'Z') return part.toLowerCase();
    let folded = known.get(part);
    if (folded === undefined) {
      const plain = part.normalize('NFD').replace(/\p{M}+/gu, '').toLowerCase();
      folded = plain.length === part.length ? plain : part;
      known.set(part, folded);
    }
    return folded;
  });
}

/** @param {{ content: string }} message */
function folded(message) {
  const before = ofMessages.get(message);
  if (before !== undefined) return before;
  const text = fold(message.content);
  ofMessages.set(message, text);
  return text;
}

/**
 * One hit for each chat, in the order of the chats: the title if it matches, else the newest matching message.
 * @param {string} query
 * @param {{ id: string, title: string }[]} conversations
 * @param {{ id: string, conversation: string, content: string, time: number }[]} messages
 * @returns {Hit[]}
 */
export function search(query, conversations, messages) {
  const wanted = fold(query.trim());
  if (wanted === '') return [];
  /** @type {Map<string, { message: { id: string, content: string, time: number }, at: number }>} */
  const newest = new Map();
  for (const message of messages) {
    const at = folded(message).indexOf(wanted);
    const best = newest.get(message.conversation);
    if (at >= 0 && (!best || best.message.time < message.time)) newest.set(message.conversation, { message, at });
  }
  const hits = [];
  for (const { id, title } of conversations) {
    const inTitle = fold(title).indexOf(wanted);
    const found = newest.get(id);
    if (found) hits.push({ conversation: id, message: found.message.id, ...cut(found.message.content, found.at, wanted.length) });
    else if (inTitle >= 0) hits.push({ conversation: id, message: null, ...cut(title, inTitle, wanted.length) });
  }
  return hits;
}

/** @param {string} text @param {number} at @param {number} length */
function cut(text, at, length) {
  const flat = (/** @type {string} */ part) => part.replace(/\s+/g, ' ');
  const start = Math.max(0, at - AROUND);
  return {
    before: (start > 0 ? '…' : '') + flat(text.slice(start, at)),
    match: flat(text.slice(at, at + length)),
    after: flat(text.slice(at + length, at + length + AROUND * 2)),
  };
}
