import assert from 'node:assert/strict';
import { test } from 'node:test';

import { IDBFactory } from 'fake-indexeddb';

import { Store } from '../src/store.js';

/** @param {string} id @param {string} [conversation] @returns {import('../src/tree.js').Message} */
const message = (id, conversation = 'c') => ({ id, conversation, parent: null, role: 'user', content: `text of ${id}`, time: 1, status: 'complete' });

/** @param {string} id @returns {import('../src/store.js').Conversation} */
const conversation = (id) => ({ id, title: id, created: 1, updated: 1, choices: {}, settings: {} });

/** @param {IDBFactory} [factory] */
async function opened(factory = new IDBFactory()) {
  const store = await Store.open(factory);
  return { store, factory };
}

test('what is saved is there after a reload', async () => {
  const { store, factory } = await opened();
  await store.save({ conversations: [conversation('c')], messages: [message('a'), message('b'), message('x', 'other')] });
  await store.saveSetting('defaults', { temperature: 0.5 });
  await store.saveDraft('c', 'half a thought', [{ name: 'a.txt', text: 'a' }]);
  store.close();
  const { store: again } = await opened(factory);
  assert.deepEqual(await again.conversations(), [conversation('c')]);
  assert.deepEqual((await again.messages('c')).map(({ id }) => id), ['a', 'b']);
  assert.equal((await again.allMessages()).length, 3);
  assert.deepEqual(await again.setting('defaults'), { temperature: 0.5 });
  assert.deepEqual(await again.draft('c'), { value: 'half a thought', files: [{ name: 'a.txt', text: 'a' }] });
  again.close();
});

test('removing a conversation takes exactly what was named, and its draft', async () => {
  const { store } = await opened();
  await store.save({ conversations: [conversation('c'), conversation('d')], messages: [message('a'), message('x', 'd')] });
  await store.saveDraft('c', 'draft');
  await store.save({ removeConversations: ['c'], removeMessages: ['a'] });
  assert.deepEqual((await store.conversations()).map(({ id }) => id), ['d']);
  assert.deepEqual((await store.allMessages()).map(({ id }) => id), ['x']);
  assert.deepEqual(await store.draft('c'), { value: '', files: [] });
  store.close();
});

test('an empty draft is no draft', async () => {
  const { store } = await opened();
  await store.saveDraft('c', 'x');
  await store.saveDraft('c', '');
  assert.deepEqual(await store.draft('c'), { value: '', files: [] });
  store.close();
});

test('without a database everything works until the page is closed', async () => {
  const store = await Store.open(/** @type {any} */ (null));
  let failures = 0;
  store.onFailure = () => void (failures += 1);
  assert.equal(store.failed, true);
  await store.save({ conversations: [conversation('c')], messages: [message('a')] });
  await store.saveSetting('k', 1);
  assert.equal((await store.messages('c')).length, 1);
  assert.equal(await store.setting('k'), 1);
  await store.save({ removeMessages: ['a'] });
  assert.equal((await store.messages('c')).length, 0);
  assert.ok(failures > 0);
  store.close();
});

test('a database that cannot be opened is no reason to fail', async () => {
  const factory = /** @type {any} */ ({
    open: () => {
      throw new Error('denied');
    },
  });
  const store = await Store.open(factory);
  assert.equal(store.failed, true);
  store.close();
});

test('a write that fails is kept, reported once, and clears nothing', async () => {
  const { store, factory } = await opened();
  await store.save({ conversations: [conversation('c')], messages: [message('a'), message('b')] });
  let failures = 0;
  store.onFailure = () => void (failures += 1);
  const database = /** @type {IDBDatabase} */ (store.database);
  const { transaction } = database;
  database.transaction = /** @type {any} */ (
    (/** @type {any} */ names, /** @type {any} */ mode) => {
      if (mode === 'readwrite') throw new DOMException('full', 'QuotaExceededError');
      return transaction.call(database, names, mode);
    }
  );
  await store.save({ messages: [{ ...message('a'), content: 'changed' }, message('new')], removeMessages: ['b'] });
  await store.save({ messages: [message('newer')] });
  assert.equal(failures, 1);
  const seen = new Map((await store.messages('c')).map((one) => [one.id, one.content]));
  assert.deepEqual([...seen.keys()].sort(), ['a', 'new', 'newer']);
  assert.equal(seen.get('a'), 'changed');
  database.transaction = transaction;
  const { store: other } = await opened(factory);
  assert.deepEqual((await other.messages('c')).map(({ id, content }) => [id, content]), [['a', 'text of a'], ['b', 'text of b']]);
  let recoveries = 0;
  store.onRecovery = () => void (recoveries += 1);
  await store.save({ messages: [{ ...message('a'), content: 'again' }] });
  assert.equal((await other.messages('c')).find(({ id }) => id === 'a')?.content, 'again', 'later writes are stored again');
  assert.deepEqual((await other.messages('c')).map(({ id }) => id).sort(), ['a', 'new', 'newer'], 'and what was kept is, too');
  assert.equal(recoveries, 1);
  assert.equal(store.failed, false);
  store.close();
  other.close();
});

/** A database as an earlier page made it. @param {IDBFactory} factory @param {number} version @param {(database: IDBDatabase) => void} make */
function byHand(factory, version, make) {
  return new Promise((resolve, reject) => {
    const request = factory.open('gemma2', version);
    request.onupgradeneeded = () => make(request.result);
    request.onerror = () => reject(request.error);
    request.onsuccess = () => {
      request.result.close();
      resolve(undefined);
    };
  });
}

/** The first version, with one message in it. @param {IDBDatabase} database */
function firstVersion(database) {
  for (const name of ['conversations', 'messages', 'settings', 'drafts']) {
    const store = database.createObjectStore(name, { keyPath: 'id' });
    if (name === 'messages') store.createIndex('conversation', 'conversation');
    if (name === 'messages') store.put(message('a'));
  }
}

test('an older database is brought up step by step, and a step that fails leaves it as it was', async () => {
  const factory = new IDBFactory();
  await byHand(factory, 1, firstVersion);
  const never = () => assert.fail('this step was taken long ago');
  /** @type {number[]} */
  const taken = [];
  const fails = () => {
    taken.push(2);
    throw new Error('no');
  };
  const failed = await Store.open(factory, [never, fails]);
  assert.deepEqual([failed.failed, failed.isNewer], [true, false]);
  failed.close();
  const { store: same } = await opened(factory);
  assert.deepEqual(await same.messages('c'), [message('a')], 'the version of before');
  same.close();
  const steps = [never, (/** @type {IDBDatabase} */ database) => void database.createObjectStore('more', { keyPath: 'id' }), () => void taken.push(3)];
  const store = await Store.open(factory, steps);
  assert.deepEqual(taken, [2, 3]);
  assert.deepEqual(await store.messages('c'), [message('a')]);
  assert.deepEqual([...(store.database?.objectStoreNames ?? [])], ['conversations', 'drafts', 'messages', 'more', 'settings']);
  store.close();
});

test('a database of a newer page is left alone', async () => {
  const factory = new IDBFactory();
  await byHand(factory, 99, firstVersion);
  const { store } = await opened(factory);
  assert.deepEqual([store.failed, store.isNewer], [true, true]);
  await store.save({ messages: [message('b')] });
  assert.deepEqual((await store.allMessages()).map(({ id }) => id), ['b'], 'until the page is closed');
  store.close();
});

test('deleting everything deletes everything', async () => {
  const { store } = await opened();
  await store.save({ conversations: [conversation('c')], messages: [message('a')] });
  await store.saveSetting('k', 1);
  await store.clear();
  assert.deepEqual(await store.conversations(), []);
  assert.deepEqual(await store.allMessages(), []);
  assert.equal(await store.setting('k'), undefined);
  store.close();
});

test('another tab hears of a change', async () => {
  const factory = new IDBFactory();
  const { store } = await opened(factory);
  const { store: other } = await opened(factory);
  const heard = new Promise((resolve) => {
    other.onForeignChange = resolve;
  });
  await store.save({ conversations: [conversation('c')] });
  assert.equal(await heard, 'c');
  store.close();
  other.close();
});
