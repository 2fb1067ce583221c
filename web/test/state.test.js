import assert from 'node:assert/strict';
import { test } from 'node:test';

import { busy, canSend, composerAction, initial, next } from '../src/state.js';

/** @param {import('../src/state.js').Event[]} events */
const after = (...events) => events.reduce(next, initial);

const failure = /** @type {const} */ ({ kind: 'server', message: 'it broke' });

test('loading shows progress and becomes idle when the model is ready', () => {
  const loading = after({ type: 'loading', progress: 0.4 });
  assert.equal(loading.phase, 'loading');
  assert.equal(loading.loaded, 0.4);
  assert.equal(next(loading, { type: 'ready' }).phase, 'idle');
});

test('a message sent while loading waits and can be taken back', () => {
  const waiting = after({ type: 'queue' });
  assert.equal(waiting.queued, true);
  assert.equal(composerAction(waiting), 'unqueue');
  assert.equal(next(waiting, { type: 'unqueue' }).queued, false);
  const sent = next(next(waiting, { type: 'ready' }), { type: 'send' });
  assert.equal(sent.phase, 'prefill');
  assert.equal(sent.queued, false);
});

test('a reply goes from prefill to streaming to idle', () => {
  const reading = after({ type: 'ready' }, { type: 'send' }, { type: 'prefill', done: 10, total: 40 });
  assert.deepEqual(reading.prefill, { done: 10, total: 40 });
  assert.equal(composerAction(reading), 'stop');
  const writing = next(reading, { type: 'token' });
  assert.equal(writing.phase, 'streaming');
  assert.equal(writing.prefill, null);
  assert.equal(next(writing, { type: 'token' }), writing, 'a further token changes nothing');
  assert.equal(next(writing, { type: 'end' }).phase, 'idle');
});

test('a stopped or failed reply leaves the composer usable', () => {
  for (const event of /** @type {import('../src/state.js').Event[]} */ ([{ type: 'stop' }, { type: 'fail', failure }])) {
    const ended = after({ type: 'ready' }, { type: 'send' }, { type: 'token' }, event);
    assert.equal(canSend(ended), true);
    assert.equal(composerAction(ended), 'send');
    assert.equal(next(ended, { type: 'dismiss' }).phase, 'idle');
  }
});

test('a lost server disables sending until it is back', () => {
  const lost = after({ type: 'ready' }, { type: 'lost' });
  assert.equal(composerAction(lost), 'none');
  assert.equal(next(lost, { type: 'send' }), lost);
  assert.equal(next(lost, { type: 'ready' }).phase, 'idle');
  assert.equal(next(lost, { type: 'loading', progress: 0.1 }).phase, 'loading');
});

test('late and impossible events change nothing, whatever the state', () => {
  const states = [
    initial,
    after({ type: 'ready' }),
    after({ type: 'ready' }, { type: 'send' }),
    after({ type: 'ready' }, { type: 'send' }, { type: 'token' }),
    after({ type: 'ready' }, { type: 'lost' }),
  ];
  for (const state of states) {
    if (!busy(state)) {
      for (const type of /** @type {const} */ (['token', 'end', 'stop'])) assert.equal(next(state, { type }), state);
      assert.equal(next(state, { type: 'fail', failure }), state);
    }
    if (state.phase !== 'prefill') assert.equal(next(state, { type: 'prefill', done: 1, total: 2 }), state);
    if (state.phase !== 'loading') assert.equal(next(state, { type: 'queue' }), state);
    if (!canSend(state)) assert.equal(next(state, { type: 'send' }), state);
  }
});
