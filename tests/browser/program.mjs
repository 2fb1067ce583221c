/**
 * Journeys of the program itself with its built-in model: what a person sees while it loads, and a reply that outlives its
 * page, its connection, and a tab that sleeps.
 *
 *   node tests/browser/program.mjs EXE [PART OF A NAME]...
 *
 * Texts are not known beforehand here, but the same seed gives the same text: each is held against an undisturbed reply.
 */

import { spawn } from 'node:child_process';
import { connect, createServer } from 'node:net';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';

import { open } from './common.mjs';
import { check, equal, finished, ready, send, stored, texts } from './harness.mjs';
import { exitWith, run } from './runner.mjs';

const [exe, ...only] = process.argv.slice(2);

/** So many letters that the reply takes its time; the seed makes it the same each time. */
const GRAMMAR = 'root ::= [a-z ,.]{1200}';
const SEED = '7';

/** @typedef {{ url: string, line: Promise<string>, step: () => void, end: () => Promise<void> }} Program */

/**
 * @param {{ args?: string[], steps?: boolean, port?: number }} [options] `steps`: each quarter of the weights waits for `step`
 * @returns {Promise<Program>}
 */
async function start({ args = [], steps = false, port: wanted = 0 } = {}) {
  const port = wanted || (await freePort());
  const env = { ...process.env, CI: 'true', ...(steps ? { GEMMA2_LOAD_STEPS: '1' } : {}) };
  const program = spawn(resolve(exe), ['--no-browser', '-q', '--port', String(port), ...args], { env, stdio: ['pipe', 'pipe', 'inherit'] });
  const gone = new Promise((done) => program.once('exit', done));
  /** @type {Promise<string>} the first line on stdout, which comes when the model is ready */
  const line = new Promise((done, fail) => {
    createInterface({ input: program.stdout }).once('line', done);
    program.once('error', fail);
    program.once('exit', () => fail(new Error(`${exe} ended before it printed its address`)));
  });
  line.catch(() => {});
  const url = `http://127.0.0.1:${port}/`;
  if (steps) await answers(url);
  else await line;
  return {
    url,
    line,
    step: () => program.stdin.write('\n'),
    end: async () => {
      program.kill('SIGKILL');
      await gone;
    },
  };
}

/** @returns {Promise<number>} one that nobody listens on, from where the system chooses them */
function freePort() {
  return new Promise((done, fail) => {
    const server = createServer().once('error', fail);
    server.listen(0, '127.0.0.1', () => {
      const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
      server.close(() => done(port));
    });
  });
}

/** Waits until somebody answers there, whatever it says. @param {string} url */
async function answers(url) {
  for (;;) {
    const there = await fetch(`${url}health`).then(() => true, () => false);
    if (there) return;
  }
}

/**
 * The network between page and program. It can be cut and mended, and it can stop to deliver in the middle of a reply.
 * @typedef {object} Network
 * @property {string} url
 * @property {number} delivered bytes of the last reply
 * @property {(bytes: number) => void} hold no more than this of each following reply
 * @property {() => void} release what was held, and all that follows
 * @property {() => void} cut
 * @property {() => void} mend
 * @property {() => void} close
 *
 * @param {string} url
 * @returns {Promise<Network>}
 */
async function network(url) {
  const { hostname, port } = new URL(url);
  let isCut = false;
  let most = Infinity;
  /** @type {Set<import('node:net').Socket>} */
  const sockets = new Set();
  const server = createServer((near) => {
    if (isCut) {
      near.resetAndDestroy();
      return;
    }
    const far = connect(Number(port), hostname);
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on('error', () => {}).on('close', () => {
        sockets.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
    let isReply = false;
    near.on('data', (data) => {
      isReply = data.includes('POST /v1/chat/completions ');
      if (isReply) between.delivered = 0;
      far.write(data);
    });
    far.on('data', (data) => {
      near.write(data);
      if (!isReply) return;
      between.delivered += data.length;
      if (between.delivered >= most) far.pause();
    });
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', () => done(undefined)));
  const { port: own } = /** @type {import('node:net').AddressInfo} */ (server.address());
  /** @type {Network} */
  const between = {
    url: `http://127.0.0.1:${own}/`,
    delivered: 0,
    hold: (bytes) => {
      most = bytes;
    },
    release: () => {
      most = Infinity;
      for (const socket of sockets) socket.resume();
    },
    cut: () => {
      isCut = true;
      for (const socket of sockets) socket.destroy();
    },
    mend: () => {
      isCut = false;
    },
    close: () => {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
  return between;
}

/** @typedef {{ browser: any, url: string, watch: (page: any) => void, program: Program }} Place */

/**
 * A page whose replies are long and repeatable, what an undisturbed one says, and another that is held at a third of it.
 * @param {Place} place
 */
async function inTheMiddle(place) {
  const between = await network(place.url);
  const { page, context, clean, close } = await open({ ...place, url: between.url });
  await ready(page);
  await page.click('#settings');
  await page.fill('#setting-seed', SEED);
  await page.click('dialog .segments label:has([value=grammar])');
  await page.fill('#setting-grammar', GRAMMAR);
  await page.click('dialog button:has-text("Make default")');
  await page.keyboard.press('Escape');
  await page.waitForSelector('dialog', { state: 'detached' });
  await send(page, 'Write a lot.');
  await finished(page);
  const [, whole] = await texts(page);
  equal(whole.length > 1000, true, 'a long reply');
  between.hold(between.delivered * 0.3);
  await page.click('.new-chat');
  await send(page, 'Write a lot.');
  await page.waitForFunction(() => (document.querySelector('article.assistant .text')?.textContent?.length ?? 0) > 100);
  const [, part] = await texts(page);
  check(part.length < whole.length && (await page.locator('.send.stop').count()) === 1, 'the reply is in its middle');
  /** The reply ends as the undisturbed one, on the page and in what is stored. */
  const same = async () => {
    await finished(page);
    equal((await texts(page))[1], whole, 'the text');
    const replies = (await stored(page, 'messages')).filter((message) => message.role === 'assistant');
    equal(replies.map(({ content, status }) => [content.trim(), status]), replies.map(() => [whole, 'complete']), 'what is stored');
    equal(replies.length, 2, 'nothing was sent again');
  };
  const end = async () => {
    clean(/ERR_|status of 404/);
    between.close();
    await close();
  };
  return { between, page, context, part, whole, same, end };
}

/** @type {Record<string, (place: Place) => Promise<void>>} */
const journeys = {
  'loading: the bar moves, and what is sent meanwhile is answered without a reload': async (place) => {
    const program = await start({ steps: true });
    const { page, clean, close } = await open({ ...place, url: program.url });
    const share = () => page.locator('.banner progress').evaluate((/** @type {HTMLProgressElement} */ bar) => bar.value);
    /** @param {number} than */
    const more = (than) => page.waitForFunction((/** @type {number} */ before) => Number(/** @type {HTMLProgressElement | null} */ (document.querySelector('.banner progress'))?.value) > before, than);
    await more(0);
    const first = await share();
    check(first < 100, `${first} % of the weights`);
    await page.evaluate(() => {
      /** @type {any} */ (globalThis).sameDocument = true;
    });
    await send(page, 'What is 2 + 2?');
    await page.waitForSelector('.notice:has-text("as soon as the model is loaded")');
    program.step();
    await more(first);
    for (let quarter = 0; quarter < 4; quarter += 1) program.step();
    await finished(page);
    const [asked, answer] = await texts(page);
    check(asked === 'What is 2 + 2?' && answer.includes('4'), answer);
    equal(await page.evaluate(() => /** @type {any} */ (globalThis).sameDocument), true, 'no reload');
    equal(await program.line, program.url, 'the address on stdout, now that it can be used');
    clean(/status of 503/);
    await close();
    await program.end();
  },

  'reload: in the middle of a reply nothing is lost or repeated': async (place) => {
    const { between, page, same, end } = await inTheMiddle(place);
    between.release();
    await page.reload();
    await same();
    await end();
  },

  'offline: a reply goes on where it was when the network comes back': async (place) => {
    const { between, page, part, same, end } = await inTheMiddle(place);
    between.cut();
    await page.waitForSelector('.banner.warning');
    check((await texts(page))[1].startsWith(part), 'what was there stays');
    between.release();
    between.mend();
    await same();
    await end();
  },

  'background: a tab that sleeps in the middle of a reply has all of it when it wakes up': async (place) => {
    const { between, page, context, same, end } = await inTheMiddle(place);
    const cdp = await context.newCDPSession(page);
    await cdp.send('Page.setWebLifecycleState', { state: 'frozen' });
    between.release();
    for (let busy = true; busy; ) {
      const slots = await (await fetch(`${place.url}slots`)).json();
      busy = slots.some((/** @type {any} */ slot) => slot.is_processing);
    }
    await cdp.send('Page.setWebLifecycleState', { state: 'active' });
    await same();
    await end();
  },

  'kill: the part stays, nothing is sent again, and Continue finishes it': async (place) => {
    const own = await start({ args: ['-c', '0'] });
    const { between, page, part, end } = await inTheMiddle({ ...place, url: own.url });
    await page.fill('#message', 'a draft');
    await own.end();
    await page.waitForSelector('.banner.warning');
    check((await texts(page))[1].startsWith(part) && (await page.isDisabled('.send')), 'the chat can be read');
    between.release();
    const back = await start({ args: ['-c', '0'], port: Number(new URL(own.url).port) });
    await page.waitForSelector('.tag:has-text("stopped")');
    equal(await page.inputValue('#message'), 'a draft', 'the draft');
    const replies = (await stored(page, 'messages')).filter((message) => message.role === 'assistant');
    equal(replies.length, 2, 'nothing was sent again');
    await page.locator('article.assistant').last().locator('button:has-text("Continue")').click();
    await finished(page);
    const [, text] = await texts(page);
    check(text.startsWith(part) && text.length > part.length, 'it goes on');
    await back.end();
    await end();
  },
};

await exitWith(async () => {
  if (!exe) throw new Error('usage: node tests/browser/program.mjs EXE [PART OF A NAME]...');
  const program = await start({ args: ['-c', '0'] });
  try {
    return await run(journeys, async () => ({ url: program.url, program }), only);
  } finally {
    await program.end();
  }
});
