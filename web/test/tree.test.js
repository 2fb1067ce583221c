import assert from 'node:assert/strict';
import { test } from 'node:test';

import * as trees from '../src/tree.js';
import { random } from './random.js';

let clock = 0;

/**
 * @param {string} id
 * @param {string | null} parent
 * @param {trees.Role} [role]
 * @returns {trees.Message}
 */
function message(id, parent, role = 'user') {
  clock += 1;
  return { id, conversation: 'c', parent, role, content: id, time: clock, status: 'complete' };
}

/** @param {...trees.Message} messages */
const tree = (...messages) => trees.fromRecords(messages);

/** @param {trees.Tree} of @param {trees.Choices} choices */
const ids = (of, choices) => trees.path(of, choices).map(({ id }) => id);

test('without choices the newest branch is shown', () => {
  const some = tree(message('a', null), message('b', 'a'), message('c', 'b'), message('b2', 'a'), message('c2', 'b2'));
  assert.deepEqual(ids(some, {}), ['a', 'b2', 'c2']);
});

test('coming back to an alternative restores what was chosen below it', () => {
  const some = tree(message('a', null), message('b', 'a'), message('c', 'b'), message('c2', 'b'), message('b2', 'a'));
  let choices = trees.choose(some, {}, 'c');
  assert.deepEqual(ids(some, choices), ['a', 'b', 'c']);
  choices = trees.choose(some, choices, 'b2');
  assert.deepEqual(ids(some, choices), ['a', 'b2']);
  choices = trees.choose(some, choices, 'b');
  assert.deepEqual(ids(some, choices), ['a', 'b', 'c'], 'and not the newer c2');
});

test('alternatives are counted from one, oldest first', () => {
  const some = tree(message('a', null), message('x', 'a'), message('y', 'a'), message('z', 'a'));
  assert.deepEqual(trees.alternatives(some, 'y'), { position: 2, count: 3, previous: 'x', next: 'z' });
  assert.deepEqual(trees.alternatives(some, 'none'), { position: 0, count: 0, previous: null, next: null });
});

test('first messages can have alternatives too', () => {
  const some = tree(message('a', null), message('b', null));
  assert.deepEqual(ids(some, trees.choose(some, {}, 'a')), ['a']);
});

test('a branch copies exactly the way down to a message, with ids of its own', () => {
  const some = tree(message('a', null), message('b', 'a'), message('c', 'b'), message('d', 'c'));
  let count = 0;
  const copied = trees.branch(some, 'c', 'other', () => `new${(count += 1)}`);
  assert.deepEqual(copied.map(({ id, parent, conversation, content }) => [id, parent, conversation, content]), [
    ['new1', null, 'other', 'a'],
    ['new2', 'new1', 'other', 'b'],
    ['new3', 'new2', 'other', 'c'],
  ]);
});

test('records with a missing parent or in a circle stay reachable', () => {
  const broken = tree(message('a', 'gone'), message('x', 'z'), message('y', 'x'), message('z', 'y'), message('self', 'self'));
  assert.equal(broken.size, 5);
  for (const { id } of broken.values()) {
    assert.ok(trees.path(broken, trees.choose(broken, {}, id)).some((shown) => shown.id === id), id);
  }
});

test('only a deletion removes messages, and exactly the announced ones', () => {
  for (let seed = 1; seed <= 60; seed += 1) {
    const { below, pick, next } = random(seed);
    /** @type {trees.Tree} */
    let current = new Map();
    /** @type {trees.Choices} */
    let choices = {};
    for (let step = 0; step < 60; step += 1) {
      const before = current;
      const all = [...current.values()];
      const action = below(5);
      if (action <= 2 || all.length === 0) {
        const parent = all.length > 0 && next() > 0.1 ? pick(all).id : null;
        const added = message(`m${seed}-${step}`, parent, below(2) ? 'user' : 'assistant');
        current = trees.put(current, added);
        choices = trees.choose(current, choices, added.id);
        assert.equal(trees.path(current, choices).at(-1)?.id, added.id, 'what was added is shown');
      } else if (action === 3) {
        const target = pick(all);
        choices = trees.choose(current, choices, target.id);
        assert.ok(ids(current, choices).includes(target.id), 'what was chosen is shown');
      } else {
        const target = pick(all);
        const announced = trees.subtree(current, target.id);
        const { tree: rest, removed } = trees.remove(current, target.id);
        current = rest;
        assert.deepEqual(new Set(removed), new Set(announced));
        assert.equal(current.size, before.size - announced.length);
        assert.deepEqual(trees.put(current, ...removed).size, before.size, 'undo brings all of them back');
      }
      if (action !== 4) for (const old of before.values()) assert.equal(current.get(old.id), old, 'nothing else changed');
      assert.equal(trees.fromRecords(current.values()).size, current.size, 'a reload loses nothing');
      assert.deepEqual(ids(trees.fromRecords([...current.values()].reverse()), choices), ids(current, choices));
    }
  }
});

test('of what others wrote the newest is in front, but not before what is newer here', () => {
  const at = (/** @type {string} */ id, /** @type {string | null} */ parent, /** @type {number} */ time) => ({ ...message(id, parent), time });
  const all = tree(at('a', null, 1), at('b', 'a', 2), at('c', 'a', 5), at('d', 'a', 4), at('e', 'd', 6));
  const isNew = (/** @type {string[]} */ ids) => (/** @type {trees.Message} */ { id }) => ids.includes(id);
  assert.deepEqual(trees.chooseNewest(all, { '': 'a', a: 'b' }, isNew(['c', 'd', 'e'])), { '': 'a', a: 'c', d: 'e' });
  const own = { '': 'a', a: 'c' };
  assert.deepEqual(trees.chooseNewest(all, own, isNew(['d'])), own);
  assert.equal(trees.chooseNewest(all, own, isNew([])), own, 'nothing new, nothing changed');
});

test('walking a chat of five thousand messages is not quadratic', () => {
  const long = trees.fromRecords(
    Array.from({ length: 5000 }, (_, at) => message(`m${at}`, at === 0 ? null : `m${at - 1}`)),
  );
  assert.equal(trees.path(long, {}).length, 5000);
  assert.equal(trees.subtree(long, 'm1').length, 4999);
});
