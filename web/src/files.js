/** Text files in and out: attachments, exports and imports. */

import { download } from './clipboard.js';
import { parseImport, toJson } from './export.js';
import { t } from './i18n.js';

const LARGEST_ATTACHMENT = 1024 * 1024;

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
    const text = decodeText(new Uint8Array(await file.arrayBuffer()));
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

/** @param {import('./app.js').App} app @param {string} id */
export async function exportChat(app, id) {
  const conversation = app.state.conversations.find((candidate) => candidate.id === id);
  if (!conversation) return;
  const name = conversation.title.replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-+|-+$/g, '').slice(0, 50) || 'chat';
  download(`${name}.json`, toJson([conversation], await app.store.messages(id)), 'application/json');
}

/** @param {import('./app.js').App} app @param {Iterable<File>} list */
export async function importFiles(app, list) {
  for (const file of list) {
    const known = new Set((await app.store.conversations()).map((conversation) => conversation.id));
    const result = parseImport(await file.text(), known);
    if ('problem' in result) {
      app.notify('toast.importFailed', { name: file.name, reason: t(`import.${result.problem}`) });
      continue;
    }
    await app.importChats(result.chats);
    app.notify('toast.imported', { count: result.chats.length, skipped: result.skipped });
  }
}

const today = () => new Date().toISOString().slice(0, 10);
