/** Every state of the page that a person can be in, one after the other: for pictures and for the accessibility audit. */

import { ask, chatFile, dismiss, finished, importFile, ready, send, settled } from './harness.mjs';

/**
 * @typedef {{ page: any, server: { set: (changed: Record<string, unknown>) => Promise<void>, kill: () => Promise<void> }, narrow: boolean }} Place
 * @typedef {(name: string) => Promise<void>} Visit
 */

/**
 * Goes through all states of a page that has just been opened while the model was still loading.
 * @param {Place} place
 * @param {Visit} visit called in each
 */
export async function walk({ page, server, narrow }, visit) {
  const dialog = async (/** @type {() => Promise<void>} */ open, /** @type {string} */ name) => {
    await open();
    await page.waitForSelector('dialog[open]');
    await settled(page);
    await visit(name);
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
  };
  const menuOf = async (/** @type {any} */ article, /** @type {string} */ item) => {
    await article.locator('.menu > .icon-button').click();
    await page.click(`.menu-items button:has-text("${item}")`);
  };

  await page.waitForSelector('.banner progress');
  await send(page, 'say A first answer.');
  await page.waitForSelector('.notice');
  await visit('loading');
  await page.click('.send.stop');
  await server.set({ loading: null });
  await ready(page);
  await newChat();
  await settled(page);
  await visit('empty');

  await page.fill('#message', 'file rich');
  await page.waitForFunction(() => /^\d/.test(document.querySelector('.meter-text')?.textContent?.replace(/\D*/, '') ?? ''));
  await server.set({ hold: 700 });
  await page.press('#message', 'Enter');
  await page.waitForFunction(() => (document.querySelector('article.assistant .text')?.textContent?.length ?? 0) > 500);
  await settled(page);
  await visit('streaming');
  await page.click('.send.stop');
  await server.set({ hold: 0 });
  await page.waitForSelector('.tag');
  await visit('stopped');
  await page.click('button:has-text("Continue")');
  await finished(page);
  await page.waitForSelector('article math');
  await page.waitForSelector('article .hljs-keyword');
  await settled(page);
  await visit('answer-end');
  await page.evaluate(() => document.querySelector('.thread')?.scrollTo(0, 0));
  await settled(page);
  await visit('answer');

  await page.locator('article.assistant').last().locator('.menu > .icon-button').click();
  await settled(page);
  await visit('menu');
  await page.keyboard.press('Escape');
  await dialog(() => menuOf(page.locator('article.assistant').last(), 'Details'), 'details');
  await dialog(() => page.click('#settings'), 'settings');
  await page.click('#settings');
  await page.click('label:has-text("Grammar")');
  await page.fill('#setting-grammar', 'root ::= answer\nanswer ::= "yes" | "no"\nand nothing else');
  await page.waitForSelector('#setting-grammar-problem');
  await page.evaluate(() => document.getElementById('setting-grammar')?.scrollIntoView({ block: 'center' }));
  await settled(page);
  await visit('format');
  await page.keyboard.press('Escape');
  await page.waitForSelector('dialog', { state: 'detached' });
  await visit('format-chip');
  await page.click('.format-chip');
  await page.click('label:has-text("Any text")');
  await page.keyboard.press('Escape');
  await page.waitForSelector('dialog', { state: 'detached' });
  await dialog(() => page.click('.meter-button'), 'prompt');
  await dialog(() => page.click('.chip'), 'model');
  await dialog(() => page.keyboard.press('Control+/'), 'keys');
  await dialog(() => menuOf(page.locator('article.assistant').last(), 'Delete'), 'question');

  await page.locator('article.user [aria-label="Edit"]').first().click();
  await page.waitForSelector('.editor');
  await settled(page);
  await visit('editing');
  await page.fill('.editor textarea', 'say A shorter answer, please.');
  await page.click('.editor button:has-text("Save and send")');
  await finished(page);
  await page.locator('article.assistant [aria-label="Regenerate"]').click();
  await page.waitForSelector('.alternatives span:has-text("2 / 2")');
  await finished(page);
  await settled(page);
  await visit('alternatives');

  await ask(page, 'refuse');
  await settled(page);
  await visit('error');
  await newChat();
  await page.setInputFiles('.composer input[type=file]', { name: 'notes.md', mimeType: 'text/markdown', buffer: Buffer.from('# Notes\n\nA line.\n') });
  await page.waitForSelector('.file .help');
  await page.fill('#message', 'What do these notes say?\nAnswer in one line.');
  await settled(page);
  await visit('file');
  await page.fill('#message', '');
  await page.click('.composer .file button');

  await importFile(page, chatFile(fullChat(), 'A walk through the old town'), 'chats.json');
  await openList();
  await settled(page);
  await visit('list');
  await page.click('.entry-open:has-text("old town")');
  await page.waitForSelector('article');
  await dismiss(page);
  await page.waitForSelector('.meter:is(.red, .full)');
  await send(page, 'say And what comes next?');
  await page.waitForSelector('.failure');
  await settled(page);
  await visit('context-full');
  await page.click('.failure button.primary');
  await page.waitForSelector('.left-out');
  await finished(page);
  await page.evaluate(() => document.querySelectorAll('.left-out')[1]?.scrollIntoView());
  await settled(page);
  await visit('left-out');

  await openList();
  await page.fill('#search', 'answer');
  await page.waitForSelector('.hit mark');
  await settled(page);
  await visit('search');
  await page.keyboard.press('Escape');
  await page.click('.new-raw');
  await page.waitForSelector('.raw textarea');
  await page.fill('#message', 'Once upon a time');
  await page.click('button:has-text("Generate")');
  await page.waitForFunction(() => /** @type {HTMLTextAreaElement} */ (document.getElementById('message')).value.includes('so it goes'));
  await settled(page);
  await visit('raw');

  await newChat();
  await page.click('#settings');
  await page.fill('#setting-probabilities', '5');
  await page.keyboard.press('Escape');
  await page.waitForSelector('dialog', { state: 'detached' });
  await ask(page, 'say The quick brown fox jumps over the lazy dog.');
  await menuOf(page.locator('article.assistant'), 'Show probabilities');
  await page.locator('.token').nth(2).click();
  await page.waitForSelector('.likely button');
  await settled(page);
  await visit('probabilities');

  await page.fill('#message', 'a draft that is kept');
  await server.kill();
  await page.waitForSelector('.banner.warning');
  await settled(page);
  await visit('disconnected');

  async function openList() {
    if (!narrow) return;
    await page.click('#menu');
    await page.waitForSelector('.drawer-open');
  }

  async function newChat() {
    await openList();
    await page.click('.new-chat');
    await page.waitForFunction(() => document.querySelectorAll('article').length === 0);
  }
}

/** Turns that fill a context of 2048 tokens. */
function fullChat() {
  const turns = Array.from({ length: 12 }, (_, at) => [
    { role: 'user', content: `What is at stop ${at + 1}?` },
    { role: 'assistant', content: `Stop ${at + 1} is the answer to a long question. ${'The street bends to the left and the houses grow taller. '.repeat(9)}` },
  ]);
  return turns.flat();
}
