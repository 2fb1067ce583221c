/**
 * Measures what the page promises; asserts nothing. Figures of the README come from here.
 *
 *   node tests/browser/measure.mjs [URL]      the scripted engine, or the page of a program that runs already
 */

import { readFile } from 'node:fs/promises';

import { startFake } from './fake-server.mjs';
import { chatFile, importFile, launch, openPage, ready, send } from './harness.mjs';

const ROUNDS = 5;
const browser = await launch();
const fake = await startFake();
const url = process.argv[2] ?? fake.url;

/** @param {number[]} values @param {number} share */
const quantile = (values, share) => [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))];

/** @param {string} name @param {number[]} values @param {string} [unit] */
const report = (name, values, unit = 'ms') => console.log(`${name}: median ${quantile(values, 0.5).toFixed(1)} ${unit}, worst ${Math.max(...values).toFixed(1)} ${unit} (${values.length} rounds)`);

const paints = [];
const usable = [];
for (let round = 0; round < ROUNDS; round += 1) {
  const { page, close } = await openPage(browser, url, {
    init: () => {
      const look = () => {
        const field = document.getElementById('message');
        if (document.querySelector('.chip') && document.activeElement === field) performance.mark('usable');
        else requestAnimationFrame(look);
      };
      requestAnimationFrame(look);
    },
  });
  await page.waitForFunction(() => performance.getEntriesByName('usable').length > 0);
  const times = await page.evaluate(() => ['first-contentful-paint', 'usable'].map((name) => performance.getEntriesByName(name)[0].startTime));
  paints.push(times[0]);
  usable.push(times[1]);
  await close();
}
report('first contentful paint', paints);
report('composer usable, with the model named', usable);

const opening = [];
const list = Array.from({ length: 5000 }, (_, at) => ({ role: at % 2 ? 'assistant' : 'user', content: at % 2 ? `${at} ## Title\n\nSome **bold** text, a list:\n\n- one\n- two\n\n\`\`\`js\nconst a = 1;\n\`\`\`\n\nand an end.` : `question ${at}` }));
for (let round = 0; round < 3; round += 1) {
  const { page, close } = await openPage(browser, url);
  await ready(page);
  await importFile(page, chatFile(list));
  opening.push(
    await page.evaluate(async () => {
      const start = performance.now();
      /** @type {HTMLElement} */ (document.querySelector('.entry-open')).click();
      while (document.querySelectorAll('article').length < 5000) await new Promise(requestAnimationFrame);
      await new Promise(requestAnimationFrame);
      return performance.now() - start;
    }),
  );
  await close();
}
report('opening 5,000 messages', opening);

// About 300 tokens a second, 4,000 of them. A frame's work is what keeps the main thread from answering a message while a reply grows.
const body = await readFile(new URL('replies/rich.md', import.meta.url), 'utf8');
Object.assign(fake.script, { tokenMs: 3, nCtx: 100_000, scriptText: body.repeat(20) });
const { page, close } = await openPage(browser, fake.url, {
  init: () => {
    const original = globalThis.requestAnimationFrame.bind(globalThis);
    /** @type {any} */ (globalThis).work = [];
    globalThis.requestAnimationFrame = (callback) =>
      original((time) => {
        const start = performance.now();
        callback(time);
        /** @type {any} */ (globalThis).work.push(performance.now() - start);
      });
    new MutationObserver(() => {
      if (document.querySelector('.tags .speed')) /** @type {any} */ (globalThis).shown ??= performance.timeOrigin + performance.now();
    }).observe(document, { childList: true, subtree: true });
  },
});
await ready(page);
await page.evaluate(() => /** @type {any} */ (globalThis).work.splice(0));
await send(page, 'go');
await page.waitForSelector('.tags .speed', { timeout: 120_000 });
const work = await page.evaluate(() => /** @type {any} */ (globalThis).work);
console.log(`work of a frame while a reply grows: p50 ${quantile(work, 0.5).toFixed(1)} ms, p95 ${quantile(work, 0.95).toFixed(1)} ms, worst ${Math.max(...work).toFixed(1)} ms (${work.length} frames)`);
const shown = await page.evaluate(() => /** @type {any} */ (globalThis).shown);
console.log(`the whole reply is shown ${(shown - fake.counts.ended).toFixed(0)} ms after its last byte`);
await close();
await browser.close();
await fake.stop();
