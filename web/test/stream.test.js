import assert from 'node:assert/strict';
import { test } from 'node:test';

import { EventParser, events, Speed } from '../src/stream.js';

const text = ': hello\n\ndata: {"a":"ä€😀"}\r\n\r\ndata: one\ndata:two\n\nevent: x\nid: 3\ndata: last\r\rdata: [DONE]\n\n';
const expected = [null, { data: '{"a":"ä€😀"}', id: 0 }, { data: 'one\ntwo', id: 0 }, { data: 'last', id: 3 }, { data: '[DONE]', id: 3 }];

/** @param {Uint8Array[]} pieces */
function parse(pieces) {
  const parser = new EventParser();
  return [...pieces.flatMap((piece) => parser.push(piece)), ...parser.end()];
}

test('events are the same wherever the bytes are cut', () => {
  const bytes = new TextEncoder().encode(text);
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    assert.deepEqual(parse([bytes.slice(0, cut), bytes.slice(cut)]), expected, `cut at ${cut}`);
  }
  assert.deepEqual(parse([...bytes].map((byte) => Uint8Array.of(byte))), expected, 'byte by byte');
});

test('an event without its blank line is dropped', () => {
  assert.deepEqual(parse([new TextEncoder().encode('data: whole\n\ndata: half')]), [{ data: 'whole', id: 0 }]);
});

test('a body is read to its end and released when the reader leaves early', async () => {
  let cancelled = false;
  const body = new ReadableStream({
    start: (controller) => controller.enqueue(new TextEncoder().encode('data: 1\n\ndata: 2\n\n')),
    cancel: () => {
      cancelled = true;
    },
  });
  for await (const event of events(body)) {
    assert.equal(event?.data, '1');
    break;
  }
  assert.equal(cancelled, true);
});

test('a body that falls silent is given up, one that speaks now and then is not', async () => {
  let says = 3;
  /** @type {(controller: ReadableStreamDefaultController) => void} */
  const pull = (controller) => {
    says -= 1;
    if (says >= 0) setTimeout(() => controller.enqueue(new TextEncoder().encode(': still here\n')), 15);
  };
  const seen = [];
  await assert.rejects(async () => {
    for await (const event of events(new ReadableStream({ pull }), 40)) seen.push(event);
  }, /silent/);
  assert.equal(seen.length, 3);
});

test('speed is that of the last second, and unknown before the second token', () => {
  const speed = new Speed();
  assert.equal(speed.perSecond, null);
  speed.add(0);
  assert.equal(speed.perSecond, null);
  for (let at = 100; at <= 1000; at += 100) speed.add(at);
  assert.equal(speed.perSecond, 10);
  for (let at = 1020; at <= 3000; at += 20) speed.add(at);
  assert.ok(Math.abs((speed.perSecond ?? 0) - 50) < 2);
  assert.ok(Math.abs((speed.mean ?? 0) - 110 / 3) < 0.01);
});
