import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { parseImport, toJson, toMarkdown, toPage } from '../src/export.js';
import { decodeText } from '../src/files.js';
import { fold, search } from '../src/search.js';
import { path } from '../src/tree.js';

/** @type {import('../src/store.js').Conversation} */
const conversation = { id: 'c1', title: 'Töne & <b>', created: 5, updated: 9, pinned: true, choices: { '': 'm1', m1: 'm2' }, settings: { temperature: 0.5 } };
/** @type {import('../src/tree.js').Message[]} */
const messages = [
  { id: 'm1', conversation: 'c1', parent: null, role: 'user', content: 'Hi\n', time: 5, status: 'complete', files: [{ name: 'a', text: 'b' }] },
  { id: 'm2', conversation: 'c1', parent: 'm1', role: 'assistant', content: '**x** 😀', time: 6, status: 'cut', cutBy: 'token_limit', demo: true, model: 'Demo', params: { seed: 4, temperature: 1 }, timings: { predicted_n: 3 }, promptTokens: 9, replyTokens: 3, edited: true, probs: { from: 0, list: [['**x**', 0.5, [['y', 0.1]]]] } },
];

test('an export that is imported again is the same chat', () => {
  const result = parseImport(toJson([conversation], [...messages, { ...messages[0], id: 'other', conversation: 'c2' }]), new Set());
  assert.ok('chats' in result);
  assert.deepEqual(result.chats, [{ conversation, messages }]);
  assert.equal(result.skipped, 0);
});

test('a chat that was saved in the terminal is imported with all its replies', () => {
  const file = readFileSync(new URL('../../tests/fixtures/chat/terminal.json', import.meta.url), 'utf8');
  const result = parseImport(file, new Set());
  assert.ok('chats' in result);
  const [{ conversation: saved, messages: found }] = result.chats;
  assert.equal(saved.title, 'What is 7 + 8?');
  assert.deepEqual(saved.settings, { temperature: 0, topK: 5, system: 'Be brief.' });
  const shown = path(new Map(found.map((message) => [message.id, message])), saved.choices);
  assert.deepEqual(shown.map((message) => message.role), ['user', 'assistant', 'user', 'assistant']);
  assert.equal(found.length, 5, 'the other reply is there too');
  assert.deepEqual(shown[2].files, [{ name: 'notes.txt', text: 'one\ntwo\n' }]);
  assert.ok(shown[1].demo && shown[1].params?.temperature === 0 && shown[1].timings?.predicted_n === shown[1].replyTokens);
});

test('chats that exist already are skipped, also twice in one file', () => {
  const result = parseImport(toJson([conversation, { ...conversation, id: 'c2' }, { ...conversation, id: 'c2' }], []), new Set(['c1']));
  assert.ok('chats' in result);
  assert.equal(result.chats.length, 1);
  assert.equal(result.skipped, 2);
});

test('a file that is wrong is refused as a whole', () => {
  const good = JSON.parse(toJson([conversation], messages));
  /** @param {(file: any) => void} change */
  const problem = (change) => {
    const file = structuredClone(good);
    change(file);
    const result = parseImport(JSON.stringify(file), new Set());
    return 'problem' in result ? result.problem : null;
  };
  assert.equal(problem(() => {}), null);
  assert.equal(problem((file) => delete file.format), 'notOurs');
  assert.equal(problem((file) => (file.version = 2)), 'tooNew');
  for (const version of [0, -1, 1.5, '1', null]) assert.equal(problem((file) => (file.version = version)), 'notOurs', String(version));
  assert.equal(problem((file) => (file.chats = {})), 'broken');
  assert.equal(problem((file) => (file.chats[0].messages[1].role = 'system')), 'broken');
  assert.equal(problem((file) => (file.chats[0].messages[1].content = 5)), 'broken');
  assert.equal(problem((file) => delete file.chats[0].conversation.id), 'broken');
  assert.equal(problem((file) => (file.chats[0].messages[0] = null)), 'broken');
  const result = parseImport('{"format":', new Set());
  assert.ok('problem' in result && result.problem === 'notJson');
  for (const text of ['null', '[]', '5', '"x"']) assert.ok('problem' in parseImport(text, new Set()), text);
});

test('unknown fields stay outside, wrong ones become harmless', () => {
  const file = JSON.parse(toJson([conversation], messages));
  file.chats[0].conversation.choices = { '': 5, a: 'b' };
  file.chats[0].conversation.settings = { temperature: 'hot', evil: 1 };
  file.chats[0].messages[0].onclick = 'x';
  file.chats[0].messages[0].status = 'streaming';
  file.chats[0].messages[1].parent = 'nowhere';
  file.chats[0].messages[1].timings = { predicted_n: '<b>' };
  const result = parseImport(JSON.stringify(file), new Set());
  assert.ok('chats' in result);
  const [chat] = result.chats;
  assert.deepEqual(chat.conversation.choices, { a: 'b' });
  assert.deepEqual(chat.conversation.settings, {});
  assert.equal('onclick' in chat.messages[0], false);
  assert.equal(chat.messages[0].status, 'stopped');
  assert.equal(chat.messages[1].parent, null, 'an orphan is attached to the start');
  assert.deepEqual(chat.messages[1].timings, {});
});

test('a chat as Markdown has its parameters, its files and who spoke', () => {
  const words = { user: 'You', assistant: 'Gemma', demo: 'demo', date: '2026-01-02' };
  assert.equal(
    toMarkdown(conversation, messages, words),
    '---\ntitle: "Töne & <b>"\ndate: 2026-01-02\nmodel: "Demo"\nseed: 4\ntemperature: 1\n---\n\n' +
      '## You\n\na\n```\nb\n```\n\nHi\n\n## Gemma (demo)\n\n**x** 😀\n',
  );
});

test('a chat as a page has no script, loads nothing and escapes its title', () => {
  const page = toPage(conversation, [{ who: '<i>', html: '<p>x</p>' }], { language: 'en' });
  assert.ok(page.includes("default-src 'none'"));
  assert.ok(page.includes('Töne &amp; &lt;b&gt;') && page.includes('&lt;i&gt;'));
  assert.ok(!page.includes('<script') && !/(?:src|href)=/.test(page));
  const body = '<body>\n<h1>Töne &amp; &lt;b&gt;</h1>\n<section>\n<h2>&lt;i&gt;</h2>\n<div dir="auto">\n<p>x</p>\n</div>\n</section>\n</body>\n</html>\n';
  assert.equal(page.slice(page.indexOf('<body>')), body);
});

test('a file in which two messages share an id is refused', () => {
  const result = parseImport(toJson([conversation], [messages[0], messages[0]]), new Set());
  assert.ok('problem' in result && result.problem === 'broken');
});

test('text files are told from others', () => {
  assert.equal(decodeText(new TextEncoder().encode('ä😀')), 'ä😀');
  assert.equal(decodeText(Uint8Array.of(0xff, 0xfe, 0x41)), null);
  assert.equal(decodeText(Uint8Array.of(0x41, 0, 0x42)), null);
});

test('search does not care about case and accents, and shows where', () => {
  assert.equal(fold('ÄÉñ İx'), 'aen İx'.replace('İ', 'i'));
  assert.equal(fold('ZÜRICH ß 東京 😀 [Z]'), 'zurich ss 東京 😀 [z]');
  assert.equal(fold('e\u0301 Łódź øre'), 'e lodz ore');
  const chats = [{ id: 'a', title: 'Über Wasser' }, { id: 'b', title: 'Other' }];
  const texts = [
    { id: '1', conversation: 'b', content: 'old: the Café is closed', time: 1 },
    { id: '2', conversation: 'b', content: `${'long '.repeat(20)}new: the CAFE\u0301 <b>opens</b> ${'and '.repeat(40)}`, time: 2 },
  ];
  const [hit] = search('cafe', chats, texts.slice(0, 1));
  assert.deepEqual(hit, { conversation: 'b', message: '1', before: 'old: the ', match: 'Café', after: ' is closed' });
  assert.equal(search('UBER', chats, texts)[0].message, null);
  assert.equal(search('opens', chats, texts)[0].message, '2');
  assert.ok(search('opens', chats, texts)[0].before.startsWith('…'));
  assert.deepEqual(search('  ', chats, texts), []);
  const files = [{ name: 'Bücher.txt', text: `${'x '.repeat(30)}the Étagère is full` }];
  const asked = [{ id: '3', conversation: 'a', content: 'what is this?', time: 3, files }];
  assert.deepEqual(search('etagere', chats, asked)[0], { conversation: 'a', message: '3', before: `Bücher.txt: …${'x '.repeat(14)}the `, match: 'Étagère', after: ' is full' });
  assert.equal(search('bucher', chats, asked)[0].match, 'Bücher');
  assert.deepEqual(search('absent', chats, texts), []);
});

test('accents that are characters of their own are found, marked whole, and move no other mark', () => {
  const chats = [{ id: 'a', title: 'x' }];
  const found = (/** @type {string} */ query, /** @type {string} */ content) => search(query, chats, [{ id: '1', conversation: 'a', content, time: 1 }])[0]?.match;
  for (const query of ['cafés', 'CAFE\u0301S', 'cafes']) {
    assert.equal(found(query, 'two cafe\u0301s here'), 'cafe\u0301s', query);
    assert.equal(found(query, 'two cafés here'), 'cafés', query);
  }
  assert.equal(found('café', 'a cafe\u0301'), 'cafe\u0301');
  assert.equal(found('straße', 'e\u0301 STRASSE'), 'STRASSE');
  assert.equal(found('strasse', 'e\u0301e\u0301 Straße 7'), 'Straße');
  assert.equal(found('한', '\u1112\u1161\u11ab글'), '\u1112\u1161\u11ab');
  assert.equal(found('lodz', '😀 Łódź'), 'Łódź');
});

test('what a file says of a message is used only where it can be true', () => {
  const absurd = {
    ...messages[1],
    time: 1e300,
    promptTokens: -1,
    replyTokens: 1e300,
    params: { temperature: 'hot', seed: null, top_k: 5 },
    timings: { predicted_per_second: 1e300, prompt_n: 3 },
    probs: { from: -5, list: [['x', 99, [['y', -3]]]] },
    failure: { message: 'no', kind: 'key' },
  };
  const read = (/** @type {object} */ changed) => {
    const result = parseImport(JSON.stringify({ format: 'gemma2-chat', version: 1, chats: [{ conversation, messages: [messages[0], { ...absurd, ...changed }] }] }), new Set());
    assert.ok('chats' in result);
    return result.chats[0].messages[1];
  };
  const { time, promptTokens, replyTokens, params, timings, probs, failure } = read({});
  assert.deepEqual([time, promptTokens, replyTokens, params, timings, probs], [0, undefined, undefined, { top_k: 5 }, { prompt_n: 3 }, undefined]);
  assert.deepEqual(failure, { message: 'no', kind: 'server' }, 'a file asks for no key');
  assert.equal(read({ probs: { from: 0, list: [['another text', 0.5, []]] } }).probs, undefined, 'probabilities of another text');
});

test('a chat without a title that can be seen is named by its first message', () => {
  const titles = ['', '  \n', '\u202e', 'Mine'].map((title) => {
    const result = parseImport(toJson([{ ...conversation, title }], messages), new Set());
    return 'chats' in result ? result.chats[0].conversation.title : null;
  });
  assert.deepEqual(titles, ['Hi', 'Hi', 'Hi', 'Mine']);
});
