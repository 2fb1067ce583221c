/** A browser, pages that are watched while they are used, and a few words to write journeys with. */

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { mkdir } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const web = resolve(here, '../../web');
/** The page's own folder has the packages. */
export const require = createRequire(join(web, 'package.json'));

const BROWSERS = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome', '/usr/bin/google-chrome-stable'];
// No other host can be reached, as on a computer without a network.
const OFFLINE = '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1';
const FLAGS = [OFFLINE, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

/** A requirement that is missing on this machine: what it is and what to install. */
export class Missing extends Error {}

/** @typedef {any} Page playwright-core's Page; its package is not a dependency of this folder */

/** @returns {Promise<any>} */
export async function launch() {
  const executablePath = process.env.CHROMIUM ?? BROWSERS.find((path) => existsSync(path));
  if (!executablePath || !existsSync(executablePath)) {
    throw new Missing('no Chromium found. Install it (Debian: apt-get install -y chromium) or set CHROMIUM to its path.');
  }
  let playwright;
  try {
    playwright = require('playwright-core');
  } catch {
    throw new Missing('playwright-core is not installed. Run: npm ci --prefix web');
  }
  return playwright.chromium.launch({ executablePath, args: FLAGS });
}

/**
 * @typedef {object} Watched
 * @property {Page} page
 * @property {any} context
 * @property {string[]} problems what must not happen: requests to elsewhere, errors, violations, dialogs
 * @property {(allowed?: RegExp) => void} clean fails if anything of that happened, apart from what is allowed
 * @property {() => Promise<void>} close
 */

/**
 * A fresh browser profile with one page that is watched.
 * @param {any} browser
 * @param {string} url
 * @param {{ path?: string, context?: object, init?: () => void }} [options]
 * @returns {Promise<Watched>}
 */
export async function openPage(browser, url, { path = '', context: contextOptions = {}, init } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...contextOptions });
  const page = await context.newPage();
  // Patience, not a promise: a busy machine must not look like a broken page.
  page.setDefaultTimeout(60_000);
  /** @type {string[]} */
  const problems = [];
  const { origin } = new URL(url);
  page.on('request', (/** @type {any} */ request) => {
    const address = request.url();
    if (!address.startsWith(`${origin}/`) && !/^(data|blob):/.test(address)) problems.push(`request to ${address}`);
  });
  page.on('console', (/** @type {any} */ message) => {
    if (message.type() === 'error' || message.type() === 'warning') problems.push(`console ${message.type()}: ${message.text()}`);
  });
  page.on('pageerror', (/** @type {Error} */ error) => problems.push(`page error: ${error.stack}`));
  page.on('dialog', (/** @type {any} */ dialog) => {
    problems.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) =>
      console.error(`policy violation: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`),
    );
  });
  if (init) await page.addInitScript(init);
  await page.goto(url + path);
  return {
    page,
    context,
    problems,
    clean: (allowed) => {
      const left = problems.filter((problem) => !allowed?.test(problem));
      if (left.length > 0) throw new Error(`the page had problems:\n  ${left.join('\n  ')}`);
    },
    close: () => context.close(),
  };
}

/** Waits until messages can be sent. @param {Page} page */
export const ready = (page) => page.waitForSelector('.chip');

/**
 * Types a message and sends it.
 * @param {Page} page
 * @param {string} text
 */
export async function send(page, text) {
  await page.fill('#message', text);
  await page.press('#message', 'Enter');
}

/** Waits until the last reply is finished, however it ended. @param {Page} page */
export async function finished(page) {
  // What was just pressed shows in the next frame; until then the page looks as finished as before.
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  await page.waitForFunction(
    () => {
      const last = [...document.querySelectorAll('article.message')].at(-1);
      return last?.matches('.assistant') && last.querySelector('.actions, .failure') && !document.querySelector('.send.stop');
    },
    undefined,
    { timeout: 60_000 },
  );
}

/** Sends and waits for the end of the reply. @param {Page} page @param {string} text */
export async function ask(page, text) {
  const before = await page.locator('article.message').count();
  await send(page, text);
  await page.waitForFunction((/** @type {number} */ count) => document.querySelectorAll('article.message').length >= count + 2, before);
  await finished(page);
}

/** Waits until everything that was asked for has been painted and no transition runs. @param {Page} page */
export async function settled(page) {
  await page.evaluate(async () => {
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    await frame();
    await frame();
    while (document.getAnimations().some((animation) => animation.playState === 'running')) await frame();
  });
}

/**
 * A file with one chat, as the page exports it.
 * @param {{ role: string, content: string }[]} list one branch
 * @param {string} [title]
 */
export function chatFile(list, title = 'Imported') {
  const id = (/** @type {number} */ at) => `i${String(at).padStart(5, '0')}`;
  const messages = list.map((message, at) => ({ id: id(at), conversation: 'imported', parent: at === 0 ? null : id(at - 1), time: 1000 + at, status: 'complete', ...message }));
  const conversation = { id: 'imported', title, created: 1, updated: Date.now(), choices: {}, settings: {} };
  return JSON.stringify({ format: 'gemma2-chat', version: 1, chats: [{ conversation, messages }] });
}

/** Imports a file and waits for what the page says about it. @param {Page} page @param {string} text @param {string} [name] */
export async function importFile(page, text, name = 'chats.json') {
  await page.setInputFiles('.list-foot input[type=file]', { name, mimeType: 'application/json', buffer: Buffer.from(text) });
  await page.waitForSelector('.toast');
}

/** Closes the note at the bottom, unless it has gone by itself. @param {Page} page */
export const dismiss = (page) => page.evaluate(() => /** @type {HTMLElement | null} */ (document.querySelector('.toast [aria-label="Close"]'))?.click());

/** The text of all shown messages. @param {Page} page @returns {Promise<string[]>} */
export const texts = (page) => page.locator('article.message .text').allInnerTexts();

/**
 * What the page has stored.
 * @param {Page} page
 * @param {string} store
 * @returns {Promise<any[]>}
 */
export const stored = (page, store) =>
  page.evaluate(
    (/** @type {string} */ name) =>
      new Promise((done, fail) => {
        const request = indexedDB.open('gemma2');
        request.onerror = () => fail(request.error);
        request.onsuccess = () => {
          const all = request.result.transaction(name).objectStore(name).getAll();
          all.onsuccess = () => {
            request.result.close();
            done(all.result);
          };
        };
      }),
    store,
  );

/**
 * @param {unknown} actual
 * @param {unknown} expected
 * @param {string} what
 */
export function equal(actual, expected, what) {
  if (JSON.stringify(actual) !== JSON.stringify(expected)) {
    throw new Error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(actual)}`);
  }
}

/** @param {unknown} condition @param {string} what @returns {asserts condition} */
export function check(condition, what) {
  if (!condition) throw new Error(what);
}

/** Where the picture `name` goes. @param {string} name @returns {Promise<string>} */
export async function shotPath(name) {
  const folder = join(here, 'shots');
  await mkdir(folder, { recursive: true });
  return join(folder, `${name.replace(/\W+/g, '-')}.png`);
}

/** Keeps a picture of a failure. @param {Page} page @param {string} name */
export async function keepShot(page, name) {
  const path = await shotPath(`failed ${name}`);
  await page.screenshot({ path }).catch(() => {});
  return path;
}
