import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';

import { IDBFactory } from 'fake-indexeddb';

import { quietScript, startFake } from '../../tests/browser/fake-server.mjs';
import { Api } from '../src/api.js';
import { App } from '../src/app.js';
import { copyOf, titleOf } from '../src/chats.js';
import { parseImport, toJson, toMarkdown } from '../src/export.js';
import { exportAll, exportChat, importFiles, importSettings, isExport, readTextFiles } from '../src/files.js';
import { Store } from '../src/store.js';

/** @type {import('../../tests/browser/fake-server.mjs').Fake} */
let fake;
/** @type {App[]} */
let open = [];

before(async () => {
  fake = await startFake();
});
beforeEach(() => {
  Object.assign(fake.script, quietScript(), { tokenMs: 0 });
  fake.requests.length = 0;
});
after(() => fake.stop());

/**
 * @param {IDBFactory} [factory]
 * @param {string | null} [chat]
 */
async function started(factory = new IDBFactory(), chat = null) {
  const app = new App(new Api(fake.url.slice(0, -1)), { pollFirstMs: 20, pollLastMs: 50, takeOverMs: 30 });
  open.push(app);
  await app.start(await Store.open(factory), { open: chat });
  return app;
}

/** It is closed at the end. @param {App} app */
const opened = (app) => void open.push(app);

after(() => {
  for (const app of open) {
    app.close();
    app.store.close();
  }
  open = [];
});

/**
 * @param {App} app
 * @param {(state: App['state']) => boolean} condition
 */
function until(app, condition) {
  return new Promise((resolve, reject) => {
    const patience = setTimeout(() => reject(new Error(`never happened: ${condition}; ${JSON.stringify(app.state.machine)}`)), 10_000);
    const look = () => {
      if (!condition(app.state)) return;
      clearTimeout(patience);
      stop();
      resolve(undefined);
    };
    const stop = app.subscribe(look);
    look();
  });
}

/** @param {App} app */
const ready = (app) => until(app, (state) => state.machine.phase === 'idle');

/** @param {App} app @param {string} text */
async function say(app, text) {
  await ready(app).catch(() => {});
  app.drafts.set(text);
  await app.replies.send();
}

/** @param {string} text of a file */
function parseChats(text) {
  const result = parseImport(text, new Set());
  assert.ok('chats' in result);
  return result.chats;
}

/** @param {App} app */
const texts = (app) => app.messages.path.map(({ role, content }) => `${role}: ${content}`);

test('a message is answered, recorded and there after a reload', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  await say(app, 'say one two three');
  assert.deepEqual(texts(app), ['user: say one two three', 'assistant: one two three']);
  const reply = app.messages.path[1];
  assert.equal(reply.status, 'complete');
  assert.equal(reply.model, 'Gemma 2 2B it');
  assert.equal(reply.params?.seed, fake.requests[0].seed);
  assert.ok(Number(reply.params?.seed) >= 0);
  assert.equal(reply.replyTokens, 3);
  assert.ok((reply.timings?.predicted_per_second ?? 0) > 0);
  assert.equal(app.state.draft, '');
  const { id } = app.state.conversation;
  const again = await started(factory, id);
  assert.deepEqual(texts(again), texts(app));
  assert.equal(again.state.conversations[0].title, 'say one two three');
});

test('templates, names, system text and sampling go into the request', async () => {
  const app = await started();
  await ready(app);
  app.changeSetting('system', 'Be brief.');
  app.changeSetting('historyTemplate', '[{{name}}] {{message}}');
  app.changeSetting('userName', 'Ann');
  app.changeSetting('temperature', 0.25);
  app.changeSetting('seed', 99);
  app.changeSetting('stop', ['END']);
  await say(app, 'say x');
  const [request] = fake.requests;
  assert.deepEqual(request.messages, [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'say x' }]);
  assert.equal(request.templates.history, '[{{name}}] {{message}}');
  assert.equal(request.templates.user_name, 'Ann');
  assert.equal(request.templates.char_name, 'model');
  assert.equal(request.temperature, 0.25);
  assert.equal(request.seed, 99);
  assert.deepEqual(request.stop, ['END']);
  assert.equal(request.top_p, 0.95, 'as the server says, without float noise');
});

test('the exact prompt of a reply is the one it was made from, whatever was changed since', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  await ready(app);
  app.changeSetting('system', 'Be brief.');
  app.changeSetting('charName', 'sage');
  await say(app, 'say one');
  await say(app, 'say two');
  await app.prompts.leaveOutOldest(true);
  app.chats.change({ sendFrom: app.messages.path[2].id });
  await say(app, 'say three');
  const sent = fake.requests.map(({ messages, templates }) => ({ messages, templates }));
  app.chats.change({ sendFrom: undefined });
  app.changeSetting('system', 'Be long.');
  app.changeSetting('historyTemplate', '[{{message}}]');
  app.messages.editInPlace(app.messages.path[1].id, 'ONE');
  app.messages.editInPlace(app.messages.path[2].id, 'say TWO');
  const again = await started(factory, app.state.conversation.id);
  const { path } = again.messages;
  assert.deepEqual([1, 3, 5].map((at) => again.prompts.requestOf(path[at])), sent);
  assert.deepEqual(sent[2].messages.map((/** @type {any} */ message) => message.content), ['Be brief.', 'say one', 'one', 'say two', 'two', 'say three']);
  await ready(again);
  await again.replies.regenerate(path[3].id);
  assert.equal(fake.requests.at(-1).messages[2].content, 'ONE', 'a new reply is made from what is there now');
  const [copy] = parseChats(toJson([again.state.conversation], [...again.state.tree.values()]));
  assert.deepEqual(copy.messages.find(({ id }) => id === path[5].id)?.asked, path[5].asked, 'an export keeps it');
  assert.deepEqual(copy.messages.find(({ id }) => id === path[1].id)?.earlier, path[1].earlier);
});

test('the exact prompt of a continued reply ends with the text that was there already', async () => {
  const app = await started();
  fake.script.scriptText = 'one two three';
  await ready(app);
  app.changeSetting('maxTokens', 2);
  await say(app, 'go');
  assert.equal(app.messages.path[1].content, 'one two');
  await app.replies.goOn(app.messages.path[1].id);
  const reply = app.messages.path[1];
  assert.equal(reply.content, 'one two three');
  assert.deepEqual(app.prompts.requestOf(reply).messages, fake.requests[1].messages);
  assert.deepEqual(fake.requests[1].messages.at(-1), { role: 'assistant', content: 'one two' });
  assert.deepEqual(app.prompts.requestOf({ ...reply, asked: undefined }).messages, [{ role: 'user', content: 'go' }], 'not recorded');
});

test('a reply that a closed page left in another chat is finished, too', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  await ready(app);
  fake.script.tokenMs = 5;
  app.drafts.set('count 60');
  void app.replies.send();
  await until(app, (state) => (state.live?.text.length ?? 0) > 10);
  const { id } = app.state.conversation;
  app.close();
  app.store.close();
  const again = await started(factory);
  assert.notEqual(again.state.conversation.id, id, 'a new chat is open');
  await until(again, (state) => state.live?.conversation === id);
  await until(again, (state) => state.live === null);
  const reply = (await again.store.messages(id)).find((message) => message.role === 'assistant');
  assert.equal(reply?.content, Array.from({ length: 60 }, (_, at) => at + 1).join(' '));
  assert.equal(reply?.status, 'complete');
  assert.equal(fake.requests.length, 1);
});

test('what the server left out of a prompt stands at the reply, and is there after a reload', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  await say(app, 'say one');
  assert.equal(fake.requests[0].overflow, 'error', 'the server is asked to leave nothing out by itself');
  assert.deepEqual([app.messages.path[1].truncated, app.messages.path[1].dropped], [undefined, undefined]);
  fake.script.dropped = 4;
  await say(app, 'say two');
  assert.deepEqual([app.messages.path[3].truncated, app.messages.path[3].dropped], [true, 4]);
  const again = await started(factory, app.state.conversation.id);
  assert.equal(again.messages.path[3].dropped, 4);
  fake.script.dropped = 0;
  await app.replies.goOn(app.messages.path[3].id);
  assert.equal(app.messages.path[3].dropped, undefined, 'a continuation that read everything');
});

test('a reply has the form that was asked for, and a form that cannot be is said before and after sending', async () => {
  const app = await started();
  await ready(app);
  app.changeSetting('format', 'schema');
  app.changeSetting('schema', '{"type": "object", "properties": {"color": {}}}');
  await say(app, 'say x');
  assert.equal(app.messages.path[1].content, '{"color":"red"}');
  assert.deepEqual(app.messages.path[1].params?.response_format, fake.requests[0].response_format, 'the form is recorded');
  app.changeSetting('schema', '{"type": "object",\n}');
  await until(app, (state) => state.formatProblem !== null);
  assert.equal(app.state.formatProblem?.line, 2, 'found in the page');
  await say(app, 'say y');
  assert.equal(fake.requests.length, 1, 'nothing was sent');
  assert.equal(app.messages.path[3].failure?.param, 'json_schema');
  app.changeSetting('format', 'grammar');
  app.changeSetting('grammar', 'root ::= "yes"\nno rule');
  assert.ok(!app.state.formatProblem, 'another text, another judgement');
  await until(app, (state) => /line 2, column 1/.test(state.formatProblem?.message ?? ''));
  app.changeSetting('grammar', 'root ::= "yes"');
  await until(app, (state) => state.formatProblem === null);
  await app.replies.retry(app.messages.path[3].id);
  assert.equal(app.messages.path[3].content, 'yes');
});

test('a raw text has the form that was asked for', async () => {
  const app = await started();
  await ready(app);
  app.chats.createRaw();
  app.raw.setText('{');
  app.changeSetting('format', 'json');
  await app.raw.generate();
  assert.deepEqual(fake.requests[0].json_schema, { type: 'object' });
  app.changeSetting('format', 'grammar');
  app.changeSetting('grammar', 'nonsense');
  await app.raw.generate();
  assert.equal(app.state.machine.failure?.line, 1);
  assert.equal(app.state.formatProblem?.line, 1);
});

test('a raw text of which the model no longer read all says so', async () => {
  const app = await started();
  await ready(app);
  app.chats.createRaw();
  app.raw.setText('Once');
  await app.raw.generate();
  assert.equal(app.toastCount, 0);
  fake.script.dropped = 1;
  await app.raw.generate();
  assert.equal(app.state.toasts.at(-1)?.key, 'raw.truncated');
});

test('the meter is the server’s count, with what is typed', async () => {
  const app = await started();
  await say(app, 'say one two');
  await app.prompts.counter.now();
  const used = Number(app.state.meter.used);
  app.drafts.set('four more words here');
  await until(app, (state) => Number(state.meter.used) > used);
  const counted = await app.api.applyTemplate(app.prompts.request(app.messages.path, true));
  assert.equal(app.state.meter.used, counted.tokens);
});

test('the meter grows with the reply, and never shows another chat’s', async () => {
  fake.script.tokenMs = 12;
  const app = await started();
  let clock = 0;
  app.now = () => (clock += 100);
  await ready(app);
  app.drafts.set('count 30');
  const running = app.replies.send();
  const prompt = 13;
  await until(app, (state) => (state.meter.used ?? 0) > prompt + 5 && state.live !== null);
  assert.equal((app.state.meter.used ?? 0) <= prompt + 30, true);
  app.chats.create();
  const seen = new Set();
  app.subscribe(() => void seen.add(app.state.meter.used));
  await running;
  assert.deepEqual([...seen], [0], 'an empty chat');
});

test('stopping keeps the text so far, and continuing goes on in the same turn', async () => {
  fake.script.tokenMs = 5;
  const app = await started();
  await ready(app);
  const whole = Array.from({ length: 60 }, (_, at) => `w${at}`).join(' ');
  app.drafts.set(`say ${whole}`);
  const sent = app.replies.send();
  await until(app, (state) => (state.live?.text.length ?? 0) > 10);
  app.replies.stop();
  await sent;
  const [, stopped] = app.messages.path;
  assert.equal(app.state.machine.phase, 'stopped');
  assert.equal(stopped.status, 'stopped');
  assert.ok(stopped.content.length > 10 && whole.startsWith(stopped.content));
  assert.equal(stopped.replyTokens, stopped.content.split(' ').length, 'its details are known');
  assert.ok(Number(stopped.timings?.predicted_per_second) > 0 && Number(stopped.timings?.first_ms) >= 0);
  await app.replies.goOn(stopped.id);
  assert.deepEqual(fake.requests[1].messages.at(-1), { role: 'assistant', content: stopped.content });
  assert.equal(app.messages.path[1].content, whole);
  assert.equal(app.messages.path[1].status, 'complete');
  assert.equal(app.messages.path[1].replyTokens, 60 - Number(stopped.replyTokens), 'the server’s own numbers again');
  assert.equal(app.messages.path.length, 2, 'no new turn');
});

test('regenerating and editing add alternatives, and each remembers its branch', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  await say(app, 'say first');
  const [mine, first] = app.messages.path;
  await say(app, 'say deeper');
  await app.replies.regenerate(first.id);
  assert.equal(app.messages.path.length, 2);
  const second = app.messages.path[1];
  assert.notEqual(second.params?.seed, first.params?.seed);
  await app.replies.regenerate(second.id, { seed: Number(first.params?.seed), temperature: 0.5 });
  assert.equal(app.messages.path[1].params?.seed, first.params?.seed);
  assert.equal(app.messages.path[1].params?.temperature, 0.5);
  app.messages.show(first.id);
  assert.equal(app.messages.path.length, 4, 'the deeper messages are back');
  await app.replies.editAndSend(mine.id, 'say other');
  assert.deepEqual(texts(app), ['user: say other', 'assistant: other']);
  app.messages.show(mine.id);
  assert.equal(app.messages.path.length, 4);
  const before = [...app.state.tree.keys()].sort();
  const again = await started(factory, app.state.conversation.id);
  assert.deepEqual([...again.state.tree.keys()].sort(), before);
  assert.deepEqual(texts(again), texts(app));
});

test('with a fixed seed each alternative has the next one', async () => {
  const app = await started();
  await ready(app);
  app.changeSetting('seed', 2 ** 32 - 2);
  await say(app, 'say one');
  const [mine, first] = app.messages.path;
  await app.replies.regenerate(first.id);
  await app.replies.regenerate(first.id, { temperature: 0.5 });
  await app.replies.regenerate(first.id, { seed: Number(first.params?.seed) });
  const seeds = fake.requests.map(({ seed }) => seed);
  assert.deepEqual(seeds, [2 ** 32 - 2, 2 ** 32 - 1, 0, 2 ** 32 - 2]);
  await app.replies.retry(mine.id);
  assert.equal(fake.requests.at(-1).seed, 2 ** 32 - 2, 'a first reply has the seed that was asked for');
});

test('a reply that was stopped before its first word is no turn: what is sent is what the exact prompt shows', async () => {
  fake.script.prefillMs = 2000;
  const app = await started();
  await ready(app);
  app.drafts.set('say one');
  const sent = app.replies.send();
  await until(app, (state) => state.machine.prefill !== null);
  app.replies.stop();
  await sent;
  assert.deepEqual(texts(app), ['user: say one', 'assistant: ']);
  assert.ok(Number(app.messages.path[1].promptTokens) > 0 && app.messages.path[1].replyTokens === undefined);
  fake.script.prefillMs = 0;
  app.drafts.set('say two');
  const shown = app.prompts.request(app.prompts.sent(app.messages.path), true);
  await app.replies.send();
  assert.deepEqual(fake.requests[1].messages, [{ role: 'user', content: 'say one' }, { role: 'user', content: 'say two' }]);
  assert.deepEqual({ messages: fake.requests[1].messages, templates: fake.requests[1].templates }, shown);
});

test('editing in place keeps what is below', async () => {
  const app = await started();
  await say(app, 'say one');
  await say(app, 'say two');
  app.messages.editInPlace(app.messages.path[1].id, 'changed');
  assert.deepEqual(texts(app), ['user: say one', 'assistant: changed', 'user: say two', 'assistant: two']);
  assert.equal(app.messages.path[1].edited, true);
  await say(app, 'say three');
  assert.equal(fake.requests[2].messages[1].content, 'changed');
});

test('a deletion takes what was announced, and undo brings back every byte', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  await say(app, 'say one');
  await say(app, 'say two');
  const { id } = app.state.conversation;
  const stored = async () => JSON.stringify((await app.store.messages(id)).sort((a, b) => (a.id < b.id ? -1 : 1)));
  const before = await stored();
  const target = app.messages.path[1].id;
  assert.equal(app.messages.countBelow(target), 3);
  await app.messages.remove(target);
  assert.deepEqual(texts(app), ['user: say one']);
  assert.equal(JSON.parse(await stored()).length, 1);
  app.actOnToast(app.toastCount);
  await until(app, (state) => state.tree.size === 4);
  await app.store.conversations();
  assert.equal(await stored(), before);
  assert.deepEqual(texts(app).length, 4);
});

test('what can be undone stays when something else is said, and undo works from another chat', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  await say(app, 'say one');
  const [mine, first] = app.messages.path;
  await app.replies.regenerate(first.id);
  app.messages.show(first.id);
  const { id } = app.state.conversation;
  await app.messages.remove(first.id);
  app.messages.show(app.messages.path[1].id);
  app.notify('toast.copied');
  app.notify('toast.copied');
  assert.deepEqual(app.state.toasts.map(({ key }) => key), ['toast.messagesDeleted', 'toast.copied']);
  app.chats.create();
  app.actOnToast(app.state.toasts[0].id);
  assert.deepEqual(app.state.toasts.map(({ key }) => key), ['toast.copied']);
  await app.chats.open(id);
  assert.deepEqual(app.messages.path.map((message) => message.id), [mine.id, first.id], 'the alternative that was shown');
  const again = await started(factory, id);
  assert.deepEqual(texts(again), texts(app));
});

test('a chat can be renamed, pinned, duplicated, branched, deleted and brought back', async () => {
  const app = await started();
  await say(app, 'say one');
  const first = app.state.conversation.id;
  app.chats.rename(first, '  My chat ');
  assert.equal(app.state.conversation.title, 'My chat');
  app.chats.rename(first, '   ');
  assert.equal(app.state.conversation.title, 'My chat', 'a chat always has a title');
  await app.chats.duplicate(first);
  const copy = app.state.conversation.id;
  assert.notEqual(copy, first);
  assert.deepEqual(texts(app), ['user: say one', 'assistant: one']);
  app.chats.togglePin(first);
  assert.equal(app.state.conversations[0].id, first);
  await app.messages.branchToNewChat(app.messages.path[0].id);
  assert.deepEqual(texts(app), ['user: say one']);
  await app.replies.retry(app.messages.path[0].id);
  assert.deepEqual(texts(app), ['user: say one', 'assistant: one']);
  await app.chats.remove(first);
  assert.equal(app.state.conversations.some(({ id }) => id === first), false);
  assert.deepEqual(await app.store.messages(first), []);
  app.actOnToast(app.toastCount);
  await until(app, (state) => state.conversations.some(({ id }) => id === first));
  await app.chats.open(first);
  assert.deepEqual(texts(app), ['user: say one', 'assistant: one']);
});

test('a message sent while the model loads is answered when it is ready', async () => {
  fake.script.loading = 0.3;
  const app = await started();
  await until(app, (state) => state.machine.loaded === 0.3);
  app.drafts.set('say late');
  await app.replies.send();
  assert.equal(app.state.machine.queued, true);
  assert.deepEqual(texts(app), ['user: say late']);
  fake.script.loading = null;
  await until(app, (state) => state.machine.phase === 'idle' && state.tree.size === 2);
  assert.deepEqual(texts(app), ['user: say late', 'assistant: late']);
});

test('a waiting message can be taken back', async () => {
  fake.script.loading = 0.3;
  const app = await started();
  await until(app, (state) => state.machine.loaded === 0.3);
  app.drafts.set('say late');
  await app.replies.send();
  app.replies.stop();
  fake.script.loading = null;
  await ready(app);
  assert.deepEqual(texts(app), ['user: say late']);
  assert.equal(fake.requests.length, 0);
});

test('an error keeps the text of both sides and can be retried', async () => {
  const app = await started();
  await say(app, 'refuse');
  assert.equal(app.state.machine.phase, 'error');
  assert.equal(app.messages.path[1].failure?.message, 'the engine met an error');
  assert.equal(app.messages.path[1].failure?.hint, 'start gemma2 again with -v');
  await app.replies.retry(app.messages.path[1].id);
  assert.equal(app.messages.path.length, 2, 'an empty reply is tried again in its own place');
  await app.replies.editAndSend(app.messages.path[0].id, 'fail in the middle');
  assert.equal(app.messages.path[1].status, 'error');
  assert.ok(app.messages.path[1].content.startsWith('You said'));
  assert.equal(app.messages.path[1].replyTokens, 4);
  fake.script.nCtx = 1;
  await app.replies.goOn(app.messages.path[1].id);
  assert.equal(app.messages.path[1].failure?.kind, 'context');
  assert.equal(app.messages.path[1].replyTokens, 4, 'what was known of the text before stays known');
  assert.ok(Number(app.messages.path[1].timings?.first_ms) >= 0);
});

/** The numbers 1 to `n`. @param {number} n */
const count = (n) => Array.from({ length: n }, (_, at) => at + 1).join(' ');

test('a broken connection is made again, and nothing of the reply is lost or doubled', async () => {
  fake.script.tokenMs = 5;
  const app = await started();
  const said = say(app, 'count 60');
  for (const length of [20, 60, 120]) {
    await until(app, ({ live }) => (live?.text.length ?? 0) > length || app.messages.path[1]?.status === 'complete');
    fake.drop();
    app.chats.togglePin(app.state.conversation.id);
  }
  await said;
  await until(app, (state) => state.machine.phase === 'idle' && state.live === null);
  assert.deepEqual(texts(app), ['user: count 60', `assistant: ${count(60)}`]);
  assert.equal(app.messages.path[1].status, 'complete');
  assert.equal(fake.requests.length, 1);
});

test('a page that is opened again in the middle of a reply goes on with it', async () => {
  fake.script.tokenMs = 10;
  const factory = new IDBFactory();
  const app = await started(factory);
  void say(app, 'count 90');
  await until(app, ({ tree }) => tree.size === 2);
  const { id } = app.state.conversation;
  await new Promise((done) => app.streamListeners.add(({ text }) => text.length > 160 && done(undefined)));
  app.close();
  const again = await started(factory, id);
  await until(again, ({ live }) => live !== null);
  assert.equal(again.state.machine.phase === 'prefill' || again.state.machine.phase === 'streaming', true);
  await until(again, ({ live }) => live === null);
  assert.deepEqual(texts(again), ['user: count 90', `assistant: ${count(90)}`]);
  const [, reply] = again.messages.path;
  assert.deepEqual([reply.status, reply.reply, reply.replyTokens], ['complete', undefined, 90]);
  assert.equal(fake.requests.length, 1);
});

test('a reply that the server has forgotten is a stopped one, and nothing is sent again', async () => {
  const own = await startFake();
  own.script.tokenMs = 10;
  const app = new App(new Api(own.url.slice(0, -1)), { pollFirstMs: 10, pollLastMs: 20 });
  open.push(app);
  await app.start(await Store.open(new IDBFactory()));
  const written = new Promise((done) => app.streamListeners.add(({ text }) => text.length > 20 && done(undefined)));
  void say(app, 'count 500');
  await written;
  await own.stop();
  await until(app, ({ machine }) => machine.phase === 'disconnected');
  assert.equal(app.messages.path.length, 2);
  const back = await startFake({ port: Number(new URL(own.url).port) });
  after(() => back.stop());
  await until(app, ({ machine }) => machine.phase === 'stopped');
  const [, reply] = app.messages.path;
  assert.deepEqual([reply.status, reply.failure, reply.content.startsWith('1 2')], ['stopped', undefined, true]);
  assert.equal(back.requests.length, 0);
  await app.replies.goOn(reply.id);
  assert.equal(app.messages.path[1].content, count(500));
});

test('a reply that another page stops is stopped here too', async () => {
  fake.script.tokenMs = 10;
  const factory = new IDBFactory();
  const one = await started(factory);
  void say(one, 'count 500');
  await until(one, ({ machine }) => machine.phase === 'streaming');
  const two = await started(factory, one.state.conversation.id);
  await until(two, ({ live }) => live !== null);
  two.replies.stop();
  await until(one, ({ machine }) => machine.phase === 'stopped');
  assert.equal(one.messages.path[1].status, 'stopped');
});

test('a program that is gone is noticed, and its return too', async () => {
  const own = await startFake();
  const app = new App(new Api(own.url.slice(0, -1)), { pollFirstMs: 10, pollLastMs: 20 });
  open.push(app);
  await app.start(await Store.open(new IDBFactory()));
  await ready(app);
  await own.stop();
  await until(app, (state) => state.machine.phase === 'disconnected');
  app.drafts.set('draft');
  await app.replies.send();
  assert.equal(app.state.draft, 'draft', 'nothing is sent, nothing is lost');
  const back = await startFake({ port: Number(new URL(own.url).port) });
  await ready(app);
  await back.stop();
});

test('after a loss in the middle of a reply the program is looked for soon, however rarely before', async () => {
  const own = await startFake();
  own.script.tokenMs = 20;
  const app = new App(new Api(own.url.slice(0, -1)), { pollFirstMs: 10, pollLastMs: 60_000 });
  open.push(app);
  await app.start(await Store.open(new IDBFactory()));
  const saying = say(app, 'count 500');
  await until(app, (state) => (state.live?.text.length ?? 0) > 20);
  await own.stop();
  await saying;
  await until(app, (state) => state.machine.phase === 'disconnected');
  const back = await startFake({ port: Number(new URL(own.url).port) });
  await until(app, (state) => state.machine.phase !== 'disconnected');
  await back.stop();
});

test('a full context is reported, and leaving out old turns makes room', async () => {
  fake.script.nCtx = 100;
  const app = await started();
  await say(app, 'say one two three four five six seven eight nine ten');
  await say(app, 'say eleven twelve thirteen fourteen fifteen sixteen');
  await say(app, `say ${'word '.repeat(22)}`);
  const last = /** @type {import('../src/tree.js').Message} */ (app.messages.path.at(-1));
  assert.ok(last.failure?.kind === 'context' || last.cutBy === 'context_full', JSON.stringify(last));
  await app.prompts.leaveOutOldest();
  assert.ok(app.state.conversation.sendFrom, 'something is left out');
  assert.ok(app.prompts.sent(app.messages.path).length < app.messages.path.length);
  assert.equal(app.messages.path.length, 6, 'but everything is still shown');
  assert.equal(app.messages.path.at(-1)?.status, 'complete');
});

test('the first turn, which carries the system text, is sent when others are left out', async () => {
  const app = await started();
  await say(app, 'say one');
  await say(app, 'say two');
  await say(app, 'say three');
  const { path } = app.messages;
  app.chats.change({ sendFrom: path[4].id });
  assert.deepEqual(app.prompts.sent(path, true), path.slice(4));
  app.changeSetting('system', 'Be brief.');
  assert.deepEqual(app.prompts.sent(path, true), [...path.slice(0, 2), ...path.slice(4)]);
});

test('a message that needs nearly all of the context is sent without room for a long reply', async () => {
  fake.script.nCtx = 100;
  const app = await started();
  await say(app, 'say one two three four five six seven eight nine ten');
  await say(app, `read ${'word '.repeat(80)}`);
  assert.equal(app.messages.path.at(-1)?.failure?.kind, 'context');
  await app.prompts.leaveOutOldest();
  assert.deepEqual(app.state.toasts, [], 'nobody says that it does not fit');
  assert.equal(app.state.conversation.sendFrom, app.messages.path[2].id);
  assert.equal(app.messages.path.at(-1)?.cutBy, 'context_full');
});

test('all of a chat is left out for a draft that fits only alone', async () => {
  fake.script.nCtx = 100;
  const factory = new IDBFactory();
  const app = await started(factory);
  await say(app, 'say one two three four five six seven eight nine ten');
  app.drafts.set(`read ${'word '.repeat(80)}`);
  await until(app, (state) => Number(state.meter.used) >= 100);
  await app.prompts.leaveOutOldest(true);
  assert.deepEqual([app.state.toasts, fake.requests.length], [[], 1]);
  assert.deepEqual(app.prompts.sent(app.messages.path, true), [], 'nothing goes with the next message');
  assert.equal(app.prompts.sent(app.messages.path).length, 2, 'a reply that is there can still be made again');
  await until(app, (state) => Number(state.meter.used) < 100);
  await app.replies.send();
  assert.equal(fake.requests[1].messages.length, 1);
  const again = await started(factory, app.state.conversation.id);
  assert.deepEqual(again.prompts.sent(again.messages.path).map(({ role }) => role), ['user', 'assistant']);
  app.drafts.set(`read ${'word '.repeat(200)}`);
  await app.prompts.leaveOutOldest(true);
  assert.equal(app.state.toasts.at(-1)?.key, 'full.lastTooLong');
});

test('settings of a chat can become the defaults, and be reset', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  await ready(app);
  app.changeSetting('topK', 10);
  app.makeDefault();
  app.chats.create();
  assert.equal(app.settings.topK, 10);
  const again = await started(factory);
  assert.equal(again.settings.topK, 10);
  again.resetSettings();
  assert.equal(again.settings.topK, 64);
  assert.equal(again.importSettings({ topK: 5, temperature: 0, other: 1 }), 2);
  assert.equal(again.settings.topK, 5);
});

test('a reply goes on in the background while another chat is open', async () => {
  fake.script.tokenMs = 4;
  const app = await started();
  await ready(app);
  app.drafts.set('count 40');
  const sent = app.replies.send();
  await until(app, (state) => state.machine.phase === 'streaming');
  const first = app.state.conversation.id;
  app.chats.create();
  assert.equal(app.messages.path.length, 0);
  await sent;
  assert.equal(app.messages.path.length, 0);
  await app.chats.open(first);
  assert.equal(app.messages.path[1].status, 'complete');
  assert.ok(app.messages.path[1].content.endsWith('40'));
});

test('two pages on the same chats see each other’s changes', async () => {
  const factory = new IDBFactory();
  const one = await started(factory);
  const two = await started(factory);
  await say(one, 'say hello');
  const { id } = one.state.conversation;
  await until(two, (state) => state.conversations.some((chat) => chat.id === id));
  await two.chats.open(id);
  one.chats.rename(id, 'Renamed');
  await until(two, (state) => state.conversation.title === 'Renamed');
});

test('a chat that is deleted in one tab is gone in the other, but not what is being typed there', async () => {
  const factory = new IDBFactory();
  const [one, two] = [await started(factory), await started(factory)];
  await say(one, 'say hello');
  const { id } = one.state.conversation;
  await until(two, (state) => state.conversations.some((chat) => chat.id === id));
  await two.chats.open(id);
  two.drafts.set('half a thought');
  await one.chats.remove(id);
  await until(two, (state) => state.conversation.id !== id);
  assert.deepEqual([two.messages.path, two.state.draft, two.state.conversations], [[], 'half a thought', []]);
  one.actOnToast(one.state.toasts[0].id);
  await until(two, (state) => state.conversations.some((chat) => chat.id === id));
  await two.chats.open(id);
  assert.deepEqual(two.messages.path.map((message) => message.content), ['say hello', 'hello'], 'it can be brought back');
});

test('a chat that is deleted elsewhere while a reply is written into it leaves nothing behind', async () => {
  const factory = new IDBFactory();
  const [one, two] = [await started(factory), await started(factory)];
  await say(one, 'say hello');
  const { id } = one.state.conversation;
  await until(two, (state) => state.conversations.some((chat) => chat.id === id));
  fake.script.tokenMs = 20;
  const saying = say(one, 'count 500');
  await until(one, (state) => (state.live?.text.length ?? 0) > 20);
  await two.chats.remove(id);
  await saying;
  await until(one, (state) => state.conversation.id !== id && state.live === null);
  await one.store.conversations();
  assert.deepEqual([await one.store.conversations(), await one.store.allMessages()], [[], []]);
});

test('a reply whose question is deleted in another tab ends, and leaves nothing behind', async () => {
  const factory = new IDBFactory();
  const [one, two] = [await started(factory), await started(factory)];
  await say(one, 'say hello');
  const { id } = one.state.conversation;
  fake.script.tokenMs = 20;
  const saying = say(one, 'count 500');
  await until(one, (state) => (state.live?.text.length ?? 0) > 20);
  await two.chats.open(id);
  await until(two, () => two.messages.path.length === 4);
  await two.messages.remove(two.messages.path[2].id);
  await saying;
  await until(one, (state) => state.live === null && one.messages.path.length === 2);
  assert.deepEqual((await one.store.messages(id)).map(({ content }) => content).sort(), ['hello', 'say hello']);
});

test('of two chats that are opened at once the last one stays, and what is typed meanwhile is kept where it was typed', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  /** @type {string[]} */
  const ids = [];
  for (const text of ['say first', 'say second', 'say third']) {
    app.chats.create();
    await say(app, text);
    ids.push(app.state.conversation.id);
  }
  const { messages } = app.store;
  /** @type {() => void} */
  let release = () => {};
  app.store.messages = async (id) => {
    if (id === ids[0]) await new Promise((done) => (release = () => done(undefined)));
    return messages.call(app.store, id);
  };
  const slow = app.chats.open(ids[0]);
  await app.chats.open(ids[1]);
  release();
  await slow;
  assert.equal(app.state.conversation.id, ids[1]);
  const again = app.chats.open(ids[0]);
  app.drafts.set('typed at once');
  release();
  await again;
  assert.deepEqual([app.state.conversation.id, app.state.draft], [ids[0], '']);
  await app.chats.open(ids[1]);
  assert.equal(app.state.draft, 'typed at once');
});

test('a preference that is changed in one tab holds in the other', async () => {
  const factory = new IDBFactory();
  const [first, second] = [await started(factory), await started(factory)];
  first.changePreferences({ sendWith: 'ctrl' });
  await until(second, (state) => state.preferences.sendWith === 'ctrl');
  first.changeSetting('temperature', 0.3);
  first.makeDefault();
  await until(second, (state) => state.defaults.temperature === 0.3);
  assert.equal(second.settings.temperature, 0.3);
  await second.clearAll();
  await until(first, (state) => state.preferences.sendWith === 'enter' && state.defaults.temperature === undefined);
});

test('every file of an import is reported, and one that is too large is not read', async () => {
  const app = await started();
  await ready(app);
  const chat = (/** @type {string} */ id) => toJson([{ id, title: id, created: 1, updated: 1, choices: {}, settings: {} }], []);
  const huge = Object.assign(new File([''], 'huge.json'), { text: () => assert.fail('it was read') });
  Object.defineProperty(huge, 'size', { value: 300 * 1024 * 1024 });
  const gone = Object.assign(new File(['x'], 'gone.json'), { text: () => Promise.reject(new DOMException('', 'NotReadableError')) });
  await importFiles(app, [new File([chat('a')], 'a.json'), new File(['{'], 'b.json'), huge, gone, new File([chat('c')], 'c.json')]);
  assert.deepEqual(String(app.state.toasts[0].values.lines).split('\n'), [
    'a.json: 1 chat imported, none skipped.',
    '“b.json” was not imported: it is not JSON.',
    '“huge.json” was not imported: it is too large.',
    '“gone.json” was not imported: it cannot be read.',
    'c.json: 1 chat imported, none skipped.',
  ]);
  assert.equal(app.state.conversations.length, 2);
  await importFiles(app, [new File([chat('d')], 'd.json')]);
  assert.deepEqual([app.state.toasts.length, app.state.toasts[0].key], [1, 'toast.imported']);
  await importSettings(app, huge);
  assert.equal(app.state.toasts[0].values.reason, 'it is too large.');
  await importSettings(app, new File(['{"temperature": 0.5, "nonsense": 1}'], 's.json'));
  assert.deepEqual([app.settings.temperature, app.state.toasts[0].values.count], [0.5, 1]);
});

test('files are read as text, counted, and sent; what is none is refused', async () => {
  const app = await started();
  await ready(app);
  const big = new File(['x'], 'big.txt');
  Object.defineProperty(big, 'size', { value: 2 * 1024 * 1024 });
  const { files, refused } = await readTextFiles([new File(['one two'], 'notes.txt'), new File([Uint8Array.of(0x89, 0, 0xff)], 'picture.png')]);
  assert.deepEqual([files, refused], [[{ name: 'notes.txt', text: 'one two' }], { key: 'composer.onlyText', values: { name: 'picture.png' } }]);
  assert.equal((await readTextFiles([big])).refused?.key, 'composer.tooLarge');
  app.drafts.setFiles(files);
  await until(app, (state) => state.files[0]?.tokens === 2);
  await say(app, '');
  assert.equal(fake.requests[0].messages[0].content, 'notes.txt\n```\none two\n```');
  assert.deepEqual(app.messages.path[0].files, [{ name: 'notes.txt', text: 'one two' }], 'without what was only counted');
  assert.equal(app.state.conversation.title, 'notes.txt');
});

/** What is downloaded while `act` runs. @param {() => Promise<void>} act @returns {Promise<{ name: string, text: string }[]>} */
async function downloads(act) {
  /** @type {{ name: string, text: string }[]} */
  const found = [];
  const { document, URL: { createObjectURL } } = globalThis;
  /** @type {Blob[]} */
  const blobs = [];
  URL.createObjectURL = (/** @type {any} */ blob) => `blob:${blobs.push(blob)}`;
  const link = () => ({ href: '', download: '', click() { found.push({ name: this.download, text: this.href }); } });
  globalThis.document = /** @type {any} */ ({ createElement: link });
  try {
    await act();
  } finally {
    globalThis.document = document;
    URL.createObjectURL = createObjectURL;
  }
  return Promise.all(found.map(async ({ name, text }) => ({ name, text: await blobs[Number(text.slice(5)) - 1].text() })));
}

test('one chat or all can be saved as files', async () => {
  const app = await started();
  await say(app, 'say Größe: 5 <b>');
  const { id } = app.state.conversation;
  const one = await downloads(() => exportChat(app, id, 'json'));
  const markdown = await downloads(() => exportChat(app, id, 'markdown'));
  assert.deepEqual(await downloads(() => exportChat(app, 'gone', 'json')), []);
  assert.equal(one[0].name, 'say-Größe-5-b.json');
  assert.equal(parseChats(one[0].text)[0].messages.length, 2);
  assert.equal(markdown[0].name, 'say-Größe-5-b.md');
  assert.ok(markdown[0].text.includes('## Gemma\n\nGröße: 5 <b>\n'));
  const [all] = await downloads(() => exportAll(app));
  assert.match(all.name, /^gemma2-chats-\d{4}-\d\d-\d\d\.json$/);
  assert.equal(parseChats(all.text).length, 1);
  assert.equal(await isExport(new File([all.text], all.name)), true);
  assert.equal(await isExport(new File(['{}'], 'other.json')), false);
});

test('an imported chat never replaces messages that are stored', async () => {
  const app = await started();
  await say(app, 'say one');
  const [mine] = app.messages.path;
  const conversation = { id: 'foreign', title: 'x', created: 1, updated: 1, choices: {}, settings: {} };
  await app.chats.import([{ conversation, messages: [{ ...mine, conversation: 'foreign', content: 'replaced' }] }]);
  assert.equal((await app.store.messages(mine.conversation)).find(({ id }) => id === mine.id)?.content, 'say one');
  assert.equal((await app.store.allMessages()).filter(({ content }) => content === 'replaced').length, 1);
});

test('a raw text goes on without templates, is stored, and can be taken back', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  await ready(app);
  app.chats.createRaw();
  app.raw.setText('Once <start_of_turn> upon');
  await app.raw.generate();
  const { id } = app.state.conversation;
  assert.equal(app.state.conversation.text, 'Once <start_of_turn> upon and so it goes on.');
  assert.equal(fake.requests[0].prompt, 'Once <start_of_turn> upon');
  assert.equal(fake.requests[0].n_predict, -1);
  assert.equal(fake.requests[0].messages, undefined);
  app.raw.undo();
  assert.equal(app.state.conversation.text, 'Once <start_of_turn> upon');
  app.raw.setLiteral(true);
  await app.raw.generate();
  assert.ok(Array.isArray(fake.requests[1].prompt), 'without control tokens it is sent as tokens');
  const again = await started(factory, id);
  assert.equal(again.state.conversation.text, 'Once <start_of_turn> upon and so it goes on.');
  assert.equal(again.state.conversation.title, 'Once upon');
  assert.equal(again.state.conversation.literal, true);
});

test('a raw text of the demo model says so, also in exports, until that is taken back', async () => {
  fake.script.demo = true;
  const factory = new IDBFactory();
  const app = await started(factory);
  await ready(app);
  app.chats.createRaw();
  app.raw.setText('Once');
  assert.equal(app.state.conversation.demo, undefined);
  await app.raw.generate();
  const again = await started(factory, app.state.conversation.id);
  assert.equal(again.state.conversation.demo, true);
  const [{ conversation }] = parseChats(toJson([again.state.conversation], []));
  assert.equal(conversation.demo, true);
  assert.match(toMarkdown(conversation, [], { user: '', assistant: '', demo: 'demo', date: '2026-01-02' }), /\ndemo: true\n---\n\nOnce and so it goes on\.\n$/);
  app.raw.undo();
  assert.equal(app.state.conversation.demo, undefined);
});

test('a raw text that is stopped keeps what was written', async () => {
  Object.assign(fake.script, { tokenMs: 5, scriptText: Array.from({ length: 80 }, (_, at) => ` w${at}`).join('') });
  const app = await started();
  await ready(app);
  app.chats.createRaw();
  app.raw.setText('Start');
  const running = app.raw.generate();
  await until(app, (state) => (state.live?.text.length ?? 0) > 20);
  app.replies.stop();
  await running;
  const text = app.state.conversation.text ?? '';
  assert.ok(text.startsWith('Start w0 w1') && !text.endsWith('w79'));
  assert.equal(app.state.machine.phase, 'stopped');
  await app.store.conversations();
  assert.equal((await app.store.conversations()).find(({ id }) => id === app.state.conversation.id)?.text, text);
});

test('what was typed and not sent is there after a reload, in a new chat and in an old one', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  await ready(app);
  app.drafts.set('for a new chat');
  app.chats.createRaw();
  await app.store.conversations();
  assert.equal((await started(factory)).state.draft, 'for a new chat');
  app.chats.create();
  await say(app, 'say one');
  app.drafts.set('for the old chat');
  app.drafts.setFiles([{ name: 'a.txt', text: 'say' }]);
  const { id } = app.state.conversation;
  app.chats.create();
  await app.store.conversations();
  const again = await started(factory, id);
  assert.equal(again.state.draft, 'for the old chat');
  assert.deepEqual(again.state.files.map(({ name, text }) => [name, text]), [['a.txt', 'say']]);
  assert.equal((await started(factory)).state.draft, '', 'and nothing is kept that was sent');
});

test('what was typed in a new chat is there when one comes back to it, whatever was opened meanwhile', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  await say(app, 'say one');
  const { id } = app.state.conversation;
  app.chats.create();
  app.drafts.set('half a question');
  await app.chats.open(id);
  app.chats.createRaw();
  app.chats.create();
  assert.equal(app.state.draft, 'half a question');
  await app.chats.open(id);
  await app.store.conversations();
  const again = await started(factory, id);
  assert.equal(again.state.draft, '');
  again.chats.create();
  assert.equal(again.state.draft, 'half a question', 'also after a reload in another chat');
  await say(again, 'say two');
  again.chats.create();
  assert.equal(again.state.draft, '', 'until it is sent');
});

test('what was typed in the last moment of a page is there in the next', async () => {
  const factory = new IDBFactory();
  const app = await started(factory);
  await say(app, 'say one');
  app.drafts.set('a last word');
  const { left } = app;
  const start = async (/** @type {string | null} */ open, /** @type {any} */ what) => {
    const next = new App(new Api(fake.url.slice(0, -1)), { pollFirstMs: 20, pollLastMs: 50, takeOverMs: 30 });
    opened(next);
    await next.start(await Store.open(factory), { open, left: what });
    return next;
  };
  assert.equal((await start(left.chat, left)).state.draft, 'a last word');
  assert.notEqual((await start(null, left)).state.draft, 'a last word', 'but not in another chat');
  app.chats.createRaw();
  app.raw.setText('once');
  app.raw.flush();
  app.raw.setText('once upon a time');
  assert.equal((await start(app.left.chat, app.left)).state.conversation.text, 'once upon a time');
});

test('a program that was started again in no time is asked anew what it is', async () => {
  const app = await started();
  await until(app, (state) => state.meter.total === 4096);
  fake.script.nCtx = 8192;
  app.api.health = async () => ({ state: 'ready', started: 2 });
  await until(app, (state) => state.meter.total === 8192);
  assert.equal(app.state.machine.phase, 'idle', 'it was never missed');
});

test('token probabilities are recorded, survive continuing, and another token branches there', async () => {
  const app = await started();
  await ready(app);
  app.changeSetting('probabilities', 3);
  await say(app, 'say one two three');
  assert.equal(fake.requests[0].logprobs, true);
  assert.equal(fake.requests[0].top_logprobs, 3);
  const reply = app.messages.path[1];
  assert.deepEqual(reply.probs?.list.map(([text]) => text), ['one', ' two', ' three']);
  assert.deepEqual(reply.probs?.list[1], [' two', 0.5, [[' two', 0.5], [' other', 0.25], ['<end_of_turn>', 0.01]]]);
  fake.script.scriptText = 'one other way';
  await app.replies.branchAtToken(reply.id, 1, [' other', 0.25]);
  const branch = app.messages.path[1];
  assert.equal(branch.content, 'one other way');
  assert.notEqual(branch.id, reply.id);
  assert.deepEqual(fake.requests[1].messages.at(-1), { role: 'assistant', content: 'one other' });
  assert.equal(branch.probs?.list.map(([text]) => text).join(''), branch.content);
  app.messages.editInPlace(branch.id, 'changed');
  assert.equal(app.messages.path[1].probs, undefined, 'an edited text has none');
});

test('deleting everything leaves nothing', async () => {
  const app = await started();
  await say(app, 'say one');
  await app.clearAll();
  assert.deepEqual(await app.store.allMessages(), []);
  assert.equal(app.messages.path.length, 0);
});

test('a title is the first line, cut at a word', () => {
  const message = /** @type {any} */ ({ content: '  First   line\nsecond' });
  assert.equal(titleOf(message), 'First line');
  const long = titleOf(/** @type {any} */ ({ content: 'word '.repeat(40) }));
  assert.ok(long.length <= 60 && long.endsWith('word…'));
  assert.equal(titleOf(/** @type {any} */ ({ content: '', files: [{ name: 'a.txt', text: '' }] })), 'a.txt');
});

test('a copy of a chat shares no id with it', () => {
  const conversation = { id: 'c', title: 't', created: 1, updated: 1, choices: { '': 'a', a: 'b' }, settings: {}, sendFrom: 'b' };
  const message = { conversation: 'c', role: /** @type {const} */ ('user'), content: '', time: 1, status: /** @type {const} */ ('complete') };
  const copy = copyOf(conversation, [{ ...message, id: 'a', parent: null }, { ...message, id: 'b', parent: 'a' }]);
  const [a, b] = copy.messages;
  assert.equal(new Set(['c', 'a', 'b', copy.conversation.id, a.id, b.id]).size, 6);
  assert.equal(b.parent, a.id);
  assert.deepEqual(copy.conversation.choices, { '': a.id, [a.id]: b.id });
  assert.equal(copy.conversation.sendFrom, b.id);
});
