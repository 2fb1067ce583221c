import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Sentences } from '../src/sentences.js';

test('sentences come out whole, once, and nothing is lost', () => {
  const text = 'One. It is 3.5 m long! "Really?" she asked…\n\nA line\nThe rest';
  for (const step of [1, 2, 3, 7, 100]) {
    const sentences = new Sentences();
    const heard = [];
    for (let end = step; end < text.length; end += step) heard.push(sentences.take(text.slice(0, end)));
    heard.push(sentences.take(text, true));
    const said = heard.filter((part) => part !== '');
    assert.equal(said.join(' ').replace(/\s+/g, ' '), text.replace(/\s+/g, ' '), `in steps of ${step}`);
    assert.ok(!said.some((part) => /3\.$/.test(part)), 'a number is not cut');
  }
  const sentences = new Sentences();
  assert.equal(sentences.take('Half a sen'), '');
  assert.equal(sentences.take('Half a sentence. And'), 'Half a sentence.');
  assert.equal(sentences.take('Half a sentence. And', true), 'And');
});
