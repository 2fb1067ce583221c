import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { test } from 'node:test';

const source = new URL('../src/', import.meta.url);

test('only the Markdown module turns text into markup', async () => {
  for (const name of await readdir(source, { recursive: true })) {
    if (!/\.(js|jsx)$/.test(name) || name === 'markdown.js') continue;
    const text = (await readFile(new URL(name, source), 'utf8')).replace(/\/\*[\s\S]*?\*\//g, '');
    const found = /innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySetInnerHTML|srcdoc|createContextualFragment|DOMParser|\beval\b|new Function/.exec(text);
    assert.equal(found, null, `${name} uses ${found?.[0]}`);
  }
});

test('no module that is tested without a document needs one when it is loaded', async () => {
  for (const name of ['state', 'tree', 'store', 'stream', 'markdown', 'meter', 'export', 'i18n', 'settings', 'search', 'app', 'api']) {
    await assert.doesNotReject(import(`../src/${name}.js`), name);
  }
});
