/** Text files in and out: attachments, exports and imports. */

import { download } from './clipboard.js';
import { escape, LARGEST, parseImport, speaker, toJson, toMarkdown, toPage } from './export.js';
import { t } from './i18n.js';
import { loadMarkdown, loadTools } from './rich.js';
import { withFiles } from './settings.js';
import { fromRecords, path } from './tree.js';

const LARGEST_ATTACHMENT = 1024 * 1024;
/** How long one line of a note stays. */
const READ_LINE_MS = 4000;

/**
 * @param {Iterable<File>} list
 * @returns {Promise<{ files: import('./tree.js').Attachment[], refused: { key: string, values: { name: string } } | null }>}
 */
export async function readTextFiles(list) {
  const files = [];
  let refused = null;
  for (const file of list) {
    const values = { name: file.name };
    if (file.size > LARGEST_ATTACHMENT) {
      refused = { key: 'composer.tooLarge', values };
      continue;
    }
    // A folder has no bytes.
    const bytes = await file.arrayBuffer().catch(() => null);
    const text = bytes && decodeText(new Uint8Array(bytes));
    if (text === null) refused = { key: 'composer.onlyText', values };
    else files.push({ name: file.name, text });
  }
  return { files, refused };
}

/** @param {Uint8Array} bytes @returns {string | null} null for what is not text */
export function decodeText(bytes) {
  if (bytes.includes(0)) return null;
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

/** @param {import('./app.js').App} app */
export async function exportAll(app) {
  const [conversations, messages] = await Promise.all([app.store.conversations(), app.store.allMessages()]);
  download(`gemma2-chats-${today()}.json`, toJson(conversations, messages), 'application/json');
}

/**
 * @param {import('./app.js').App} app
 * @param {string} id
 * @param {'json' | 'markdown' | 'page'} kind
 */
export async function exportChat(app, id, kind) {
  const conversation = app.state.conversations.find((candidate) => candidate.id === id);
  if (!conversation) return;
  const name = conversation.title.replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-+|-+$/g, '').slice(0, 50) || 'chat';
  const messages = await app.store.messages(id);
  const shown = path(fromRecords(messages), conversation.choices);
  const words = { user: t('role.user'), assistant: t('role.assistant'), demo: t('message.demo'), date: today() };
  if (kind === 'json') {
    download(`${name}.json`, toJson([conversation], messages), 'application/json');
  } else if (kind === 'markdown') {
    download(`${name}.md`, toMarkdown(conversation, shown, words), 'text/markdown');
  } else {
    const { safeMarkup, toHtml } = await loadMarkdown();
    await loadTools(shown.flatMap((message) => [...toHtml(message.content).missing]));
    const raw = conversation.text === undefined ? [] : [{ who: conversation.demo ? words.demo : '', html: `<p class="plain">${escape(conversation.text)}</p>` }];
    const turns = shown.map((message) => ({ who: speaker(message, words), html: safeMarkup(withFiles(message.content, message.files)) }));
    download(`${name}.html`, toPage(conversation, [...raw, ...turns], { language: document.documentElement.lang }), 'text/html');
  }
}

/** Whether a file says that it is an exported chat. @param {File} file */
export async function isExport(file) {
  return file.name.endsWith('.json') && (await file.slice(0, 200).text().catch(() => '')).includes('"gemma2-chat"');
}

/**
 * Imports chats, each file completely or not at all, and says how each went.
 * @param {import('./app.js').App} app
 * @param {File[]} list
 */
export async function importFiles(app, list) {
  /** @type {[key: 'toast.importFailed' | 'toast.imported', values: Record<string, string | number>][]} */
  const said = [];
  for (const file of list) {
    const { name } = file;
    const result = await readImport(app, file);
    if ('problem' in result) {
      said.push(['toast.importFailed', { name, reason: t(`import.${result.problem}`) }]);
    } else {
      await app.chats.import(result.chats);
      said.push(['toast.imported', { count: result.chats.length, skipped: result.skipped }]);
    }
  }
  if (said.length === 1) app.notify(...said[0]);
  if (said.length < 2) return;
  const lines = said.map(([key, values], at) => (key === 'toast.imported' ? `${list[at].name}: ${t(key, values)}` : t(key, values)));
  app.notify('toast.lines', { lines: lines.join('\n') }, null, READ_LINE_MS * lines.length);
}

/** @param {import('./app.js').App} app @param {File} file @returns {Promise<ReturnType<typeof parseImport> | { problem: 'tooLarge' | 'unreadable' }>} */
async function readImport(app, file) {
  // Before it is read: what does not fit into memory would take the page with it.
  if (file.size > LARGEST) return { problem: 'tooLarge' };
  const known = new Set((await app.store.conversations()).map((conversation) => conversation.id));
  try {
    return parseImport(await file.text(), known);
  } catch {
    return { problem: 'unreadable' };
  }
}

/**
 * Settings from a file, for the open chat.
 * @param {import('./app.js').App} app
 * @param {File} file
 */
export async function importSettings(app, file) {
  const failed = (/** @type {'tooLarge' | 'notJson' | 'noSettings'} */ reason) => app.notify('toast.importFailed', { name: file.name, reason: t(`import.${reason}`) });
  if (file.size > LARGEST_ATTACHMENT) {
    failed('tooLarge');
    return;
  }
  try {
    const count = app.importSettings(JSON.parse(await file.text()));
    if (count > 0) app.notify('toast.settingsImported', { count });
    else failed('noSettings');
  } catch {
    failed('notJson');
  }
}

const today = () => new Date().toISOString().slice(0, 10);
