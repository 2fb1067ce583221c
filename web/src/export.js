/** Chats as JSON: the whole tree, so that an export loses nothing and an import gives it back. */

import { hasLetters, lineOf } from './chats.js';
import { clean, withFiles } from './settings.js';
import { fromRecords } from './tree.js';

/**
 * @typedef {import('./store.js').Conversation} Conversation
 * @typedef {import('./tree.js').Message} Message
 * @typedef {{ conversation: Conversation, messages: Message[] }} Chat
 */

const FORMAT = 'gemma2-chat';
const VERSION = 1;
/** The last millisecond that a date can name. */
const LATEST = 8.64e15;
/** Bytes of a file with chats: more than anybody could type; a limit so that a wrong file fails at once. */
export const LARGEST = 200 * 1024 * 1024;

/**
 * @param {Conversation[]} conversations
 * @param {Message[]} messages of these conversations and perhaps of others
 */
export function toJson(conversations, messages) {
  /** @type {Map<string, Message[]>} */
  const byChat = new Map(conversations.map((conversation) => [conversation.id, []]));
  for (const message of messages) byChat.get(message.conversation)?.push(message);
  const chats = conversations.map((conversation) => ({
    conversation,
    messages: (byChat.get(conversation.id) ?? []).sort((a, b) => a.time - b.time || (a.id < b.id ? -1 : 1)),
  }));
  return `${JSON.stringify({ format: FORMAT, version: VERSION, chats }, null, 1)}\n`;
}

/**
 * The visible branch as Markdown.
 * @param {Conversation} conversation
 * @param {Message[]} path
 * @param {{ user: string, assistant: string, demo: string, date: string }} words
 */
export function toMarkdown(conversation, path, words) {
  const last = path.findLast((message) => message.role === 'assistant');
  const head = [
    '---',
    `title: ${JSON.stringify(conversation.title)}`,
    `date: ${words.date}`,
    ...(last?.model ? [`model: ${JSON.stringify(last.model)}`] : []),
    ...Object.entries(last?.params ?? {}).map(([name, value]) => `${name}: ${JSON.stringify(value)}`),
    '---',
  ];
  if (conversation.text !== undefined) {
    if (conversation.demo) head.splice(-1, 0, 'demo: true');
    return `${head.join('\n')}\n\n${conversation.text}\n`;
  }
  const turns = path.map((message) => `## ${speaker(message, words)}\n\n${withFiles(message.content, message.files).trim()}`);
  return `${[head.join('\n'), ...turns].join('\n\n')}\n`;
}

/**
 * The visible branch as a page of its own, without scripts and without anything to load.
 * @param {Conversation} conversation
 * @param {{ who: string, html: string }[]} turns safe markup already
 * @param {{ language: string }} words
 */
export function toPage(conversation, turns, { language }) {
  const title = escape(conversation.title);
  const body = turns.map(({ who, html }) => `<section>\n<h2>${escape(who)}</h2>\n<div dir="auto">\n${html}\n</div>\n</section>`);
  return `<!doctype html>
<html lang="${language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>${title}</title>
<style>
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.6 system-ui, sans-serif; overflow-wrap: anywhere }
section { margin-block: 2rem } h2 { font-size: .875rem; opacity: .7 } .plain { white-space: pre-wrap }
pre { overflow: auto; padding: .8rem 1rem; border: 1px solid #8885; border-radius: 8px } code { font-family: ui-monospace, monospace; font-size: .9em }
table { border-collapse: collapse } td, th { padding: .3rem .7rem; border-bottom: 1px solid #8885; text-align: start } blockquote { margin: 0; padding-left: 1rem; border-left: 3px solid #8885 }
</style>
</head>
<body>
<h1>${title}</h1>
${body.join('\n')}
</body>
</html>
`;
}

/**
 * @param {Message} message
 * @param {{ user: string, assistant: string, demo: string }} words
 */
export const speaker = (message, words) =>
  message.role === 'user' ? words.user : words.assistant + (message.demo ? ` (${words.demo})` : '');

/** @param {string} text */
export const escape = (text) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;');

/**
 * Checks a file completely before anything of it is used.
 * @param {string} text
 * @param {Set<string>} known ids of chats that exist already; they are skipped
 * @returns {{ chats: Chat[], skipped: number } | { problem: 'notJson' | 'notOurs' | 'tooNew' | 'broken' }}
 */
export function parseImport(text, known) {
  /** @type {any} */
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    return { problem: 'notJson' };
  }
  if (file?.format !== FORMAT || !Number.isInteger(file.version) || file.version < 1) return { problem: 'notOurs' };
  if (file.version > VERSION) return { problem: 'tooNew' };
  if (!Array.isArray(file.chats)) return { problem: 'broken' };
  const chats = [];
  let skipped = 0;
  const seen = new Set(known);
  for (const candidate of file.chats) {
    const chat = readChat(candidate);
    if (!chat) return { problem: 'broken' };
    if (seen.has(chat.conversation.id)) skipped += 1;
    else chats.push(chat);
    seen.add(chat.conversation.id);
  }
  return { chats, skipped };
}

/** @param {any} candidate @returns {Chat | null} */
function readChat(candidate) {
  const from = candidate?.conversation;
  if (!isText(from?.id) || from.id === '' || !isText(from.title) || !Array.isArray(candidate.messages)) return null;
  /** @type {Conversation} */
  const conversation = {
    id: from.id,
    title: hasLetters(from.title) ? from.title.slice(0, 200) : '',
    created: time(from.created),
    updated: time(from.updated),
    choices: readChoices(from.choices),
    settings: clean(from.settings),
  };
  if (isText(from.text)) conversation.text = from.text;
  if (from.literal === true) conversation.literal = true;
  if (from.demo === true) conversation.demo = true;
  if (from.titled === true) conversation.titled = true;
  if (from.pinned === true) conversation.pinned = true;
  if (isText(from.sendFrom)) conversation.sendFrom = from.sendFrom;
  /** @type {Message[]} */
  const messages = [];
  for (const message of candidate.messages) {
    const read = readMessage(message, conversation.id);
    if (!read) return null;
    messages.push(read);
  }
  if (new Set(messages.map((message) => message.id)).size < messages.length) return null;
  conversation.title ||= lineOf(conversation.text ?? messages[0]?.content ?? '');
  return { conversation, messages: [...fromRecords(messages).values()] };
}

const STATUSES = ['complete', 'stopped', 'error', 'cut'];
/** Those that say something about the message; the others were about a connection of that time. */
const FAILURES = ['context', 'request', 'server'];

/** @param {any} from @param {string} conversation @returns {Message | null} */
function readMessage(from, conversation) {
  if (!isText(from?.id) || from.id === '' || !isText(from.content)) return null;
  if (from.role !== 'user' && from.role !== 'assistant') return null;
  if (from.parent !== null && !isText(from.parent)) return null;
  /** @type {Message} */
  const message = {
    id: from.id,
    conversation,
    parent: from.parent,
    role: from.role,
    content: from.content,
    time: time(from.time),
    status: STATUSES.includes(from.status) ? from.status : 'stopped',
  };
  if (from.edited === true) message.edited = true;
  if (from.demo === true) message.demo = true;
  if (isText(from.model)) message.model = from.model;
  if (from.cutBy === 'token_limit' || from.cutBy === 'context_full') message.cutBy = from.cutBy;
  if (from.truncated === true) message.truncated = true;
  if (Number.isSafeInteger(from.dropped) && from.dropped > 0) message.dropped = from.dropped;
  if (isRecord(from.params)) message.params = readParams(from.params);
  const asked = readAsked(from.asked);
  if (asked) message.asked = asked;
  if (isRecord(from.timings)) message.timings = numbersOf(from.timings);
  if (isAmount(from.promptTokens)) message.promptTokens = from.promptTokens;
  if (isAmount(from.replyTokens)) message.replyTokens = from.replyTokens;
  const probs = readProbabilities(from.probs, from.content);
  if (probs) message.probs = probs;
  if (isText(from.failure?.message)) message.failure = { ...stringsOf(from.failure), kind: FAILURES.includes(from.failure.kind) ? from.failure.kind : 'server' };
  if (Array.isArray(from.earlier)) {
    message.earlier = from.earlier
      .filter((/** @type {any} */ one) => isText(one?.content) && Number.isFinite(one.until))
      .map((/** @type {any} */ one) => ({ content: one.content, until: one.until }));
  }
  if (Array.isArray(from.files)) {
    message.files = from.files
      .filter((/** @type {any} */ file) => isText(file?.name) && isText(file?.text))
      .map((/** @type {any} */ file) => ({ name: file.name, text: file.text }));
  }
  return message;
}

/** @param {any} from @param {string} content of the message @returns {import('./tree.js').Probabilities | null} */
function readProbabilities(from, content) {
  const pair = (/** @type {any} */ one) => Array.isArray(one) && isText(one[0]) && one[1] >= 0 && one[1] <= 1;
  if (!Number.isInteger(from?.from) || !Array.isArray(from.list)) return null;
  const tokens = from.list.every((/** @type {any} */ token) => pair(token) && Array.isArray(token[2]) && token[2].every(pair));
  const whole = tokens && from.from >= 0 && content.startsWith(from.list.map((/** @type {any} */ [text]) => text).join(''), from.from);
  return whole ? { from: from.from, list: from.list } : null;
}

/** @param {any} from @returns {import('./tree.js').Asked | null} */
function readAsked(from) {
  if (!isText(from?.system) || !isRecord(from.templates)) return null;
  const { at, first, from: start, length, system } = from;
  const whole = [first, start, length].every((value) => Number.isInteger(value) && value >= 0);
  return whole && Number.isFinite(at) ? { at, first, from: start, length, system, templates: stringsOf(from.templates) } : null;
}

/** @param {any} from @returns {import('./tree.js').Choices} */
function readChoices(from) {
  if (!isRecord(from)) return {};
  return Object.fromEntries(Object.entries(from).filter(([, child]) => isText(child)));
}

/** What a request could have had: numbers where the page reckons with them. @param {Record<string, any>} from */
const readParams = (from) =>
  Object.fromEntries(Object.entries(from).filter(([name, value]) => (name === 'seed' || name === 'temperature' ? isAmount(value) : value !== null)));

/** @param {Record<string, any>} from */
const numbersOf = (from) => Object.fromEntries(Object.entries(from).filter(([, value]) => isAmount(value)));

/** @param {Record<string, any>} from @returns {any} */
const stringsOf = (from) => Object.fromEntries(Object.entries(from).filter(([, value]) => isText(value)));

/** @param {unknown} value @returns {value is string} */
const isText = (value) => typeof value === 'string';

/** @param {unknown} value @returns {value is Record<string, any>} */
const isRecord = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/** @param {unknown} value of tokens, milliseconds, tokens a second: nothing that is counted is larger */
const isAmount = (value) => typeof value === 'number' && value >= 0 && value <= LATEST;

/** @param {unknown} value */
const time = (value) => (isAmount(value) ? Number(value) : 0);
