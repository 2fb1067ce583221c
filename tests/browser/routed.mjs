/**
 * Journeys of replies that outlive their page, through the program's own router and engine over a scripted model.
 *
 *   cargo build --example scripted_server && node tests/browser/routed.mjs [PART OF A NAME]...
 */

import { spawn } from 'node:child_process';
import { dirname, join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { open } from './common.mjs';
import { ask, check, equal, finished, ready, send, stored, texts } from './harness.mjs';
import { exitWith, run } from './runner.mjs';

const root = resolve(dirname(fileURLToPath(import.meta.url)), '../..');
const exe = join(process.env.CARGO_TARGET_DIR ?? join(root, 'target'), 'debug/examples/scripted_server');

/**
 * @typedef {object} Scripted
 * @property {string} url
 * @property {(changed: Record<string, unknown>) => Promise<void>} set changes the script
 * @property {() => Promise<void>} kill ends it at once
 */

/** @param {Record<string, unknown>} options see `scripted_server.rs` @returns {Promise<Scripted>} */
async function start(options) {
  const program = spawn(exe, [JSON.stringify(options)], { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: program.stdout })[Symbol.asyncIterator]();
  const gone = new Promise((done) => program.once('exit', done));
  program.once('error', (error) => console.log(`${exe}: ${error.message}; build it: cargo build --example scripted_server`));
  const { value: url } = await lines.next();
  if (!url) throw new Error(`${exe} printed no address`);
  return {
    url,
    set: async (changed) => {
      program.stdin.write(`${JSON.stringify(changed)}\n`);
      await lines.next();
    },
    kill: async () => {
      program.kill('SIGKILL');
      await gone;
    },
  };
}

/** @param {number} n */
const count = (n) => Array.from({ length: n }, (_, at) => at + 1).join(' ');

/** Waits until the last reply has this many characters. @param {any} page @param {number} length */
const reaches = (page, length) =>
  page.waitForFunction((/** @type {number} */ wanted) => ([...document.querySelectorAll('article.assistant .text')].at(-1)?.textContent?.length ?? 0) >= wanted, length);

/** @type {Record<string, (place: import('./common.mjs').Place & { server: Scripted }) => Promise<void>>} */
const journeys = {
  'resume: a reload loses and repeats nothing of a reply': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await place.server.set({ step_ms: 5, hold: 300 });
    await send(page, 'count 400');
    await reaches(page, 250);
    await page.reload();
    await page.waitForSelector('.send.stop');
    await reaches(page, 250);
    await place.server.set({ step_ms: 0, hold: 0 });
    await finished(page);
    equal((await texts(page))[1], count(400), 'the text');
    const [reply] = (await stored(page, 'messages')).filter((message) => message.role === 'assistant');
    equal([reply.status, reply.content, reply.reply], ['complete', count(400), undefined], 'what is stored');
    clean(/ERR_/);
    await close();
  },

  'stop: the slot becomes free, and Continue appends to the same turn': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await place.server.set({ hold: 200, step_ms: 10 });
    await send(page, 'count 300');
    await reaches(page, 150);
    const used = () => Number(/([\d,]+) \//.exec(document.querySelector('.meter-text')?.textContent ?? '')?.[1].replace(',', '')) > 60;
    await page.waitForFunction(used);
    await page.click('.send.stop');
    await page.waitForSelector('.tag:has-text("stopped")');
    await place.server.set({ hold: 0, step_ms: 0 });
    await page.evaluate(async () => {
      for (let busy = true; busy; ) busy = (await (await fetch('/slots')).json()).some((/** @type {any} */ slot) => slot.is_processing);
    });
    await page.click('button:has-text("Continue")');
    await finished(page);
    equal(await texts(page), ['count 300', count(300)], 'the texts');
    clean();
    await close();
  },

  'restart: after a kill nothing is lost or sent again, and Continue works': async (place) => {
    const own = await start({ hold: 200 });
    const { page, clean, close } = await open({ ...place, url: own.url });
    await ready(page);
    await send(page, 'count 300');
    await reaches(page, 150);
    await page.fill('#message', 'a draft');
    await own.kill();
    await page.waitForSelector('.banner.warning');
    check(await page.isDisabled('.send'), 'nothing can be sent');
    const back = await start({ port: Number(new URL(own.url).port) });
    await page.waitForSelector('.tag:has-text("stopped")');
    equal(await page.inputValue('#message'), 'a draft', 'the draft');
    await page.click('button:has-text("Continue")');
    await finished(page);
    equal((await texts(page))[1], count(300), 'the text');
    await back.kill();
    clean(/ERR_|status of 404/);
    await close();
  },

  'while loading: the bar shows the program’s own progress, and a message sent meanwhile is answered': async (place) => {
    const own = await start({ loading: 0.1 });
    const { page, clean, close } = await open({ ...place, url: own.url });
    await page.waitForSelector('.banner:has-text("10 %") progress');
    await own.set({ loading: 0.63 });
    await page.waitForSelector('.banner:has-text("63 %") progress[value="63"]');
    await send(page, 'say hello there');
    await page.waitForSelector('.notice');
    await own.set({ loading: null });
    await finished(page);
    equal(await texts(page), ['say hello there', 'hello there'], 'the answer');
    equal(await page.locator('.banner progress').count(), 0, 'the bar is gone');
    clean(/status of 503/);
    await own.kill();
    await close();
  },

  'a reply with everything is exact, and a failing model is an alert': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'file rich');
    await page.waitForSelector('article math');
    await ask(page, 'fail the ink is gone');
    check((await page.innerText('[role=alert]')).includes('he ink is gone'), 'the reason');
    clean();
    await close();
  },

  'API key: the page asks for it, says when it is wrong, and knows the model once it is right': async (place) => {
    const own = await start({ api_keys: ['sesame'] });
    const { page, clean, close } = await open({ ...place, url: own.url });
    await page.waitForSelector('.send:not(.stop)');
    await page.waitForFunction(() => document.activeElement?.id === 'message');
    await send(page, 'say hello there');
    const use = async (/** @type {string} */ key) => {
      await page.fill('.key input', key);
      await page.press('.key input', 'Enter');
    };
    await page.waitForSelector('.failure:has-text("asks for an API key")');
    await use('wrong');
    await page.waitForSelector('.failure:has-text("not the server’s")');
    await use('sesame');
    await finished(page);
    equal(await texts(page), ['say hello there', 'hello there'], 'the answer');
    await ready(page);
    await page.waitForSelector('.meter-text:has-text("tokens")');
    clean(/status of 401/);
    await own.kill();
    await close();
  },

  'quit: the page ends the program': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.click('.quit');
    await page.click('dialog button.danger');
    await page.waitForSelector('.banner.warning');
    clean(/ERR_/);
    await close();
  },
};

await exitWith(() =>
  run(
    journeys,
    async () => {
      const server = await start({});
      return { url: server.url, server, done: server.kill };
    },
    process.argv.slice(2),
  ),
);
