import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { test } from 'node:test';

import en from '../src/i18n/en.js';
import { bestLanguage, format, formatNumber, formatTime, LANGUAGES, pseudo, setLanguage, t } from '../src/i18n.js';

const source = new URL('../src/', import.meta.url);

/** @returns {Promise<[string, string][]>} name and text of every source file */
async function sources() {
  const names = (await readdir(source, { recursive: true })).filter((name) => /\.(js|jsx)$/.test(name));
  return Promise.all(names.map(async (name) => /** @type {[string, string]} */ ([name, await readFile(new URL(name, source), 'utf8')])));
}

test('placeholders, plurals and numbers are filled in', () => {
  assert.equal(format('Hi {name}', { name: 'Bo' }, 'en'), 'Hi Bo');
  const message = '{count, plural, =0 {nothing} one {# thing} other {# things, {name}}}';
  assert.equal(format(message, { count: 0 }, 'en'), 'nothing');
  assert.equal(format(message, { count: 1 }, 'en'), '1 thing');
  assert.equal(format(message, { count: 12345, name: 'Bo' }, 'en'), '12,345 things, Bo');
  assert.equal(format('{missing}', {}, 'en'), '{missing}');
  assert.equal(format('“{name}” is no text', { name: 'a\u202egpj.exe' }, 'en'), '“\u2068a\u202egpj.exe\u2069” is no text', 'a name turns only itself');
  assert.equal(t('message.alternative', { position: 2, count: 3 }), '2 / 3');
});

test('what a value contains is not read as a placeholder', () => {
  assert.equal(t('list.nothing', { query: '{name} {{x}}' }), 'Nothing found for “{name} {{x}}”.');
});

test('every message is well formed', () => {
  for (const [key, text] of Object.entries(en)) {
    assert.doesNotThrow(() => format(text, { count: 2 }, 'en'), key);
    assert.ok(text.trim() === text && text !== '', key);
  }
});

test('every key that is used exists, and every key that exists is used', async () => {
  const all = (await sources()).filter(([name]) => !name.includes('i18n/')).map(([, text]) => text).join('\n');
  for (const [, key] of all.matchAll(/\bt\(\s*'([\w.]+)'/g)) assert.ok(key in en, `unknown key ${key}`);
  const prefixes = [...all.matchAll(/`(\w+)\.\$\{/g)].map(([, prefix]) => `${prefix}.`);
  for (const key of Object.keys(en)) {
    const used = all.includes(`'${key}'`) || prefixes.some((prefix) => key.startsWith(prefix));
    assert.ok(used, `nobody uses ${key}`);
  }
});

test('components contain no literal text', async () => {
  for (const [name, text] of await sources()) {
    if (!name.endsWith('.jsx')) continue;
    const code = text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '').replace(/=>/g, '').replace(/<code>[^<]*<\/code>/g, '');
    for (const [, literal] of code.matchAll(/<[a-zA-Z][^<>]*>([^<>{}]*[A-Za-z]{2,}[^<>{}]*)<\//g)) assert.fail(`${name}: “${literal}”`);
    for (const [whole] of code.matchAll(/(?:aria-label|title|placeholder|alt)="[^"]*"/g)) assert.fail(`${name}: ${whole}`);
  }
});

test('the pseudo language is longer, and keeps placeholders', async () => {
  const text = pseudo('{count, plural, one {# chat} other {# chats}} found');
  assert.ok(text.includes('{count, plural, one {# chat} other {# chats}}'));
  assert.ok(text.length > 60);
  await setLanguage('pseudo');
  assert.notEqual(t('message.copy'), 'Copy');
  await setLanguage('en');
  assert.equal(t('message.copy'), 'Copy');
});

test('every language has every word, with the same placeholders', async () => {
  for (const [code, { load }] of Object.entries(LANGUAGES)) {
    const { default: words } = await load();
    assert.deepEqual(Object.keys(words), Object.keys(en), `${code}: the keys, in the same order`);
    for (const [key, text] of Object.entries(words)) {
      assert.doesNotThrow(() => format(text, { count: 2 }, code), `${code} ${key}`);
      assert.ok(text.trim() === text && text !== '', `${code} ${key}`);
      assert.deepEqual(placeholders(text), placeholders(/** @type {Record<string, string>} */ (en)[key]), `${code} ${key}`);
    }
  }
});

/** The names of what is filled in. @param {string} text */
function placeholders(text) {
  /** @type {Set<string>} */
  const found = new Set();
  const seen = new Proxy(/** @type {Record<string, any>} */ ({}), {
    get: (_, name) => {
      found.add(String(name));
      return 2;
    },
  });
  format(text, seen, 'en');
  return [...found].sort();
}

test('a language is found by what a browser asks for', async () => {
  assert.equal(bestLanguage(['de-AT', 'en']), 'de');
  assert.equal(bestLanguage(['xx', 'EN-us', 'de']), 'en');
  assert.equal(bestLanguage(['constructor']), 'en');
  await setLanguage('de');
  assert.equal(t('message.copy'), 'Kopieren');
  assert.equal(formatNumber(1234.5), '1.234,5');
  await setLanguage('nonsense');
  assert.equal(t('message.copy'), 'Copy');
});

test('numbers and times are written the way of the language', () => {
  assert.equal(formatNumber(1234.5), '1,234.5');
  assert.match(formatTime(0), /19(69|70)/);
});
