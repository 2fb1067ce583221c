import assert from 'node:assert/strict';
import { test } from 'node:test';

import * as formats from '../src/format.js';
import * as settings from '../src/settings.js';

test('the templates are Gemma’s own', () => {
  assert.equal(settings.DEFAULTS.promptTemplate, '{{history}}\n<start_of_turn>{{char}}\n');
  assert.equal(settings.DEFAULTS.historyTemplate, '<start_of_turn>{{name}}\n{{message}}<end_of_turn>');
  assert.deepEqual(settings.templates(settings.DEFAULTS), {
    prompt: settings.PROMPT_TEMPLATE,
    history: settings.HISTORY_TEMPLATE,
    user_name: 'user',
    char_name: 'model',
  });
});

test('the chat wins over the browser, the browser over the program', () => {
  const server = settings.fromServer({ temperature: 0.300000012, top_k: 20, seed: 4294967295, max_tokens: -1, top_p: NaN });
  assert.deepEqual(server, { temperature: 0.3, topK: 20 });
  assert.deepEqual(settings.fromServer({}, { prompt: 'P', history: 'H', user_name: 'u', char_name: 5 }), { promptTemplate: 'P', historyTemplate: 'H', userName: 'u' });
  assert.deepEqual(settings.fromServer({ seed: 1234567891 }), { seed: 1234567891 });
  assert.deepEqual(settings.fromServer({ seed: -1 }), {}, 'random, as some servers say it');
  const resolved = settings.resolve(server, { topK: 30, topP: 0.5 }, { topP: 0.6, minP: undefined });
  assert.equal(resolved.temperature, 0.3);
  assert.equal(resolved.topK, 30);
  assert.equal(resolved.topP, 0.6);
  assert.equal(resolved.minP, 0);
});

test('a field that is set back is no change any more', () => {
  const below = settings.resolve();
  const changed = settings.change({}, below, 'temperature', 0.5);
  assert.deepEqual(changed, { temperature: 0.5 });
  assert.deepEqual(settings.change(changed, below, 'temperature', 1), {});
  assert.deepEqual(settings.change({ stop: ['x'] }, below, 'stop', []), {});
});

test('what another version or a file says is cut to what is possible', () => {
  assert.deepEqual(settings.clean({ temperature: 99, topK: 1.6, seed: 'x', system: 5, stop: ['a', '', 3, 'b'], evil: 1 }), {
    temperature: 2,
    topK: 2,
    stop: ['a', 'b'],
  });
  assert.deepEqual(settings.clean(null), {});
  assert.deepEqual(settings.clean('x'), {});
  assert.equal(settings.clean({ stop: Array(40).fill('x') }).stop?.length, settings.MAX_STOPS);
});

test('a request has the seed that is used and no limit that was not asked for', () => {
  const sent = settings.sampling(settings.DEFAULTS, 7);
  assert.deepEqual(sent, {
    temperature: 1, top_k: 64, top_p: 0.95, min_p: 0, repeat_penalty: 1, repeat_last_n: 64,
    presence_penalty: 0, frequency_penalty: 0, seed: 7,
  });
  const limited = settings.sampling(settings.resolve({ maxTokens: 5, stop: ['###'] }), 7);
  assert.equal(limited.max_tokens, 5);
  assert.deepEqual(limited.stop, ['###']);
});

test('system text is its own message, and only when there is some', () => {
  const path = [{ role: /** @type {const} */ ('user'), content: 'Hi' }];
  assert.deepEqual(settings.messages(settings.DEFAULTS, path), [{ role: 'user', content: 'Hi' }]);
  assert.deepEqual(settings.messages(settings.resolve({ system: 'Be brief.' }), path)[0], { role: 'system', content: 'Be brief.' });
  assert.equal(settings.messages(settings.resolve({ system: '  \n' }), path).length, 1);
});

test('files are fenced more strongly than anything inside them', () => {
  assert.equal(settings.withFiles('Look', []), 'Look');
  assert.equal(settings.withFiles('Look', [{ name: 'a.txt', text: 'x\n' }]), 'a.txt\n```\nx\n```\n\nLook');
  const sent = settings.withFiles('', [{ name: 'a.md', text: '````\ncode\n````' }]);
  assert.ok(sent.startsWith('a.md\n`````\n') && sent.endsWith('\n`````'));
});

test('the form of replies becomes the fields of each interface', () => {
  const chosen = { ...settings.DEFAULTS, schema: '{"type": "object"}', grammar: 'root ::= "a"' };
  /** @param {import('../src/format.js').Format} format @param {boolean} raw */
  const fields = (format, raw) => formats.fields({ ...chosen, format }, raw);
  assert.deepEqual(fields('text', false), {});
  assert.deepEqual(fields('json', false), { response_format: { type: 'json_object' } });
  assert.deepEqual(fields('json', true), { json_schema: { type: 'object' } });
  assert.deepEqual(fields('schema', false), { response_format: { type: 'json_schema', json_schema: { name: 'reply', schema: { type: 'object' } } } });
  assert.deepEqual(fields('schema', true), { json_schema: { type: 'object' } });
  assert.deepEqual(fields('grammar', false), { grammar: 'root ::= "a"' });
  assert.deepEqual(formats.fields({ ...chosen, format: 'grammar', grammar: ' \n' }, true), {}, 'nothing is defined yet');
  assert.throws(() => formats.fields({ ...chosen, format: 'schema', schema: '{"a": }' }, false), SyntaxError);
});

test('the line of a mistake is found however a browser words it', () => {
  const text = '{\n"a": 1,\n}';
  assert.equal(formats.lineOf(text, 'Expected double-quoted property name in JSON at position 10'), 3);
  assert.equal(formats.lineOf(text, 'JSON.parse: expected double-quoted property name at line 3 column 1 of the JSON data'), 3);
  assert.equal(formats.lineOf('{\n\n', 'Unexpected end of JSON input'), 1);
  assert.equal(formats.lineOf(text, 'JSON Parse error'), null);
});

test('only known forms are taken from a file', () => {
  assert.deepEqual(settings.clean({ format: 'schema', schema: '{}', grammar: 5 }), { format: 'schema', schema: '{}' });
  assert.deepEqual(settings.clean({ format: 'constructor' }), {});
});
