import assert from 'node:assert/strict';
import { test } from 'node:test';

import { canGrow, debounced, firstThatFits, fraction, level } from '../src/meter.js';

test('the meter turns amber at three quarters, red at nine tenths, full when nothing fits after it', () => {
  const at = (/** @type {number | null} */ used) => level({ used, total: 1000, max: 8192 });
  assert.equal(at(null), 'calm');
  assert.equal(at(749), 'calm');
  assert.equal(at(750), 'amber');
  assert.equal(at(899), 'amber');
  assert.equal(at(900), 'red');
  assert.equal(at(1000), 'full');
  assert.equal(at(5000), 'full');
  assert.equal(level({ used: 10, total: 0, max: 0 }), 'calm', 'before the size is known');
});

test('the bar never leaves its box', () => {
  assert.equal(fraction({ used: 5000, total: 1000, max: 0 }), 1);
  assert.equal(fraction({ used: null, total: 1000, max: 0 }), 0);
});

test('a larger context is only offered where there is one', () => {
  assert.equal(canGrow({ used: 0, total: 512, max: 8192 }), true);
  assert.equal(canGrow({ used: 0, total: 8192, max: 8192 }), false);
});

test('counts that were overtaken are told so', async () => {
  /** @type {AbortSignal[]} */
  const signals = [];
  const counter = debounced(async (signal) => void signals.push(signal), 1_000_000);
  await counter.now();
  await counter.now();
  assert.equal(signals[0].aborted, true);
  assert.equal(signals[1].aborted, false);
  counter.soon();
  counter.cancel();
  assert.equal(signals[1].aborted, true);
});

test('a count that fails disturbs nobody', async () => {
  const counter = debounced(() => Promise.reject(new Error('no server')), 0);
  const debug = console.debug;
  console.debug = () => {};
  await counter.now();
  console.debug = debug;
});

test('as few of the oldest turns are left out as needed, and a turn is never torn apart', async () => {
  const starts = [0, 2, 4, 6, 8];
  const count = async (/** @type {number} */ at) => (10 - at) * 10;
  assert.equal(await firstThatFits(starts, count, 100), 0);
  assert.equal(await firstThatFits(starts, count, 99), 2);
  assert.equal(await firstThatFits(starts, count, 45), 6);
  assert.equal(await firstThatFits(starts, count, 20), 8);
  assert.equal(await firstThatFits(starts, count, 19), null);
  assert.equal(await firstThatFits([], count, 19), null);
});
