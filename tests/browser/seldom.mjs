/** Journeys of what is seldom: full storage, two tabs, sleeping tabs, other input and other ways to look at the page. */

import { open } from './common.mjs';
import { ask, check, equal, finished, ready, send, settled, shotPath, stored, texts } from './harness.mjs';

/** @typedef {import('./common.mjs').Place & { fake: import('./fake-server.mjs').Fake }} Place */

/** @param {number} n */
const count = (n) => Array.from({ length: n }, (_, at) => at + 1).join(' ');

/** What sticks out sideways. @param {any} page @returns {Promise<string[]>} */
const sideways = (page) =>
  page.evaluate(() =>
    [document.documentElement, ...document.querySelectorAll('.thread, .composer, .header, .banners, .list-body, dialog')]
      .filter((element) => element.clientWidth > 0 && element.scrollWidth > element.clientWidth + 1)
      .map((element) => `${element.tagName}.${element.className}: ${element.scrollWidth} > ${element.clientWidth}`),
  );

/**
 * Presses Tab until the focus is on what `selector` names.
 * @param {any} page
 * @param {string} selector
 */
async function tabTo(page, selector) {
  for (let step = 0; step < 80; step += 1) {
    if (await page.evaluate((/** @type {string} */ wanted) => document.activeElement?.matches(wanted), selector)) return;
    await page.keyboard.press('Tab');
  }
  throw new Error(`the keyboard does not reach ${selector}`);
}

/** @type {Record<string, (place: Place) => Promise<void>>} */
export const seldom = {
  'full storage: a banner says so, what is stored stays, and what was not stored is when there is room': async (place) => {
    const { page, clean, close } = await open(place, {
      // A full disk aborts transactions that want to write.
      init: () => {
        const { put } = IDBObjectStore.prototype;
        IDBObjectStore.prototype.put = function (...values) {
          const request = put.apply(this, values);
          if (/** @type {any} */ (globalThis).full) this.transaction.abort();
          return request;
        };
      },
    });
    const fill = (/** @type {boolean} */ full) => page.evaluate((/** @type {boolean} */ value) => Object.assign(globalThis, { full: value }), full);
    await ready(page);
    await ask(page, 'say one');
    const before = await stored(page, 'messages');
    await fill(true);
    await ask(page, 'say many words');
    await page.waitForSelector('.banner.warning:has-text("cannot be saved")');
    equal((await texts(page)).length, 4, 'the chat goes on');
    equal(await stored(page, 'messages'), before, 'what was stored');
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('.banner.warning button:has-text("Export now")')]);
    check((await download.createReadStream().then(all)).includes('many words'), 'the export has what could not be stored');
    await fill(false);
    await ask(page, 'say three');
    await page.waitForSelector('.banner.warning', { state: 'detached' });
    equal((await stored(page, 'messages')).length, 6, 'everything is stored now');
    await page.reload();
    await page.waitForSelector('article');
    equal((await texts(page)).length, 6, 'and there after a reload');
    clean();
    await close();
  },

  'two tabs: both write into the same chat, and neither loses anything': async (place) => {
    place.fake.script.tokenMs = 25;
    const { page, context, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'say one');
    const other = await context.newPage();
    await other.goto(place.url);
    await other.click('.entry-open');
    await other.waitForSelector('article.assistant .text');
    await Promise.all([send(page, 'count 30'), send(other, 'count 40')]);
    await page.waitForSelector('.send.stop');
    await other.click('.title button');
    await other.fill('.title-field', 'Named meanwhile');
    await other.keyboard.press('Enter');
    await Promise.all([finished(page), finished(other)]);
    for (const tab of [page, other]) await tab.waitForSelector('.title:has-text("Named meanwhile")');
    // They are alternatives now, and the one that was sent last is in front, here and there and after a reload.
    const messages = await stored(page, 'messages');
    const [newest] = messages.filter(({ role }) => role === 'user').sort((a, b) => b.time - a.time || (a.id < b.id ? 1 : -1));
    const whole = count(Number(newest.content.slice(6)));
    const inFront = (/** @type {string[]} */ wanted) => JSON.stringify([...document.querySelectorAll('article.message .text')].map((text) => text.textContent?.trim()).slice(-2)) === JSON.stringify(wanted);
    for (const tab of [page, other]) await tab.waitForFunction(inFront, [newest.content, whole]);
    await other.reload();
    await other.waitForFunction(inFront, [newest.content, whole]);
    equal(messages.map((message) => message.content).sort(), ['count 30', 'count 40', count(30), count(40), 'one', 'say one'].sort(), 'all messages');
    equal(messages.map((message) => message.status), messages.map(() => 'complete'), 'all are complete');
    equal(place.fake.requests.length, 3, 'each was asked for once');
    const [chat] = await stored(page, 'conversations');
    equal(chat.title, 'Named meanwhile', 'the name');
    clean();
    await close();
  },

  'two tabs: a reply grows in both, and the second goes on with it when the first is closed': async (place) => {
    place.fake.script.tokenMs = 20;
    const { page, context, close } = await open(place);
    await ready(page);
    await ask(page, 'say one');
    const other = await context.newPage();
    await other.goto(place.url);
    await other.click('.entry-open');
    await other.waitForSelector('article.assistant .text');
    await send(page, 'count 300');
    const grown = (/** @type {number} */ length) =>
      other.waitForFunction((/** @type {number} */ least) => ([...document.querySelectorAll('article.assistant .text')].at(-1)?.textContent?.length ?? 0) > least, length);
    await grown(100);
    equal(await other.locator('.send.stop').count(), 0, 'the first tab has the reply');
    equal(await other.locator('button:has-text("Continue")').count(), 0, 'it is not taken for a stopped one');
    await page.close();
    await other.waitForSelector('.send.stop');
    await finished(other);
    equal((await texts(other)).at(-1), count(300), 'the text');
    equal(place.fake.requests.length, 2, 'it was asked for once');
    await close();
  },

  'a sleeping tab: a reply that went on meanwhile is complete afterwards': async (place) => {
    place.fake.script.tokenMs = 10;
    const { page, context, clean, close } = await open(place);
    await ready(page);
    const cdp = await context.newCDPSession(page);
    await send(page, 'count 150');
    await page.waitForFunction(() => (document.querySelector('article.assistant .text')?.textContent?.length ?? 0) > 20);
    await cdp.send('Page.setWebLifecycleState', { state: 'frozen' });
    while (place.fake.counts.running > 0) await new Promise((done) => setTimeout(done, 20));
    await cdp.send('Page.setWebLifecycleState', { state: 'active' });
    await finished(page);
    equal((await texts(page))[1], count(150), 'the text');
    equal(place.fake.requests.length, 1, 'it was asked for once');
    clean();
    await close();
  },

  'scrolling: the end is followed until a hand says otherwise, and the end of a reply moves nothing': async (place) => {
    Object.assign(place.fake.script, { tokenMs: 4, nCtx: 100_000, scriptText: 'Some words of a line.\n\n'.repeat(150) });
    const { page, clean, close } = await open(place);
    await ready(page);
    await send(page, 'go');
    const where = () => page.evaluate(() => {
      const { scrollTop, scrollHeight, clientHeight } = /** @type {Element} */ (document.querySelector('.thread'));
      return { top: scrollTop, left: scrollHeight - scrollTop - clientHeight };
    });
    await page.waitForFunction(() => document.querySelectorAll('article.assistant .text > p').length > 30);
    check((await where()).left <= 48, 'the end is followed');
    await page.focus('.thread');
    await page.keyboard.press('PageUp');
    await page.waitForSelector('.latest');
    // A page up is an animation of the browser's own.
    await page.evaluate(async () => {
      const thread = /** @type {Element} */ (document.querySelector('.thread'));
      for (let still = 0, before = -1; still < 20; before = thread.scrollTop) {
        await new Promise(requestAnimationFrame);
        still = thread.scrollTop === before ? still + 1 : 0;
      }
    });
    const { top } = await where();
    await finished(page);
    equal((await where()).top, top, 'the place after the reply');
    await page.click('.latest');
    await page.waitForSelector('.latest', { state: 'detached' });
    check((await where()).left <= 48, 'the end again');
    check(await page.evaluate(() => document.activeElement?.matches('.thread')), 'the keys scroll on');
    await send(page, 'again');
    await page.waitForFunction(() => document.querySelectorAll('article.assistant:last-of-type .text > p').length > 30);
    await page.press('#message', 'PageUp');
    await page.waitForSelector('.latest');
    await finished(page);
    check((await where()).left > 48, 'a page up in the message field, too');
    await page.click('.latest');
    await send(page, 'and again');
    await page.waitForFunction(() => document.querySelectorAll('article.assistant:last-of-type .text > p').length > 30);
    await page.keyboard.press('Alt+ArrowUp');
    await page.keyboard.press('Alt+ArrowUp');
    const before = await where();
    await finished(page);
    equal((await where()).top, before.top, 'a message above that has the focus stays where it is');
    clean();
    await close();
  },

  'keyboard: alternatives, names, search, settings and deleting': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.keyboard.type('say one');
    await page.keyboard.press('Enter');
    await page.waitForSelector('article.assistant');
    await finished(page);
    await page.keyboard.press('Control+Shift+Enter');
    await page.waitForSelector('.alternatives span:has-text("2 / 2")');
    await finished(page);
    await page.keyboard.press('Alt+ArrowUp');
    await tabTo(page, '[aria-label="Previous alternative"]');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.alternatives span:has-text("1 / 2")');
    await tabTo(page, '.title button');
    await page.keyboard.press('Enter');
    await page.keyboard.press('Control+a');
    await page.keyboard.type('By hand');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.title button:has-text("By hand")');
    await page.keyboard.press('Control+Shift+O');
    await page.keyboard.press('Control+k');
    await page.waitForFunction(() => document.activeElement?.id === 'search');
    await page.keyboard.type('one');
    await page.waitForSelector('.hit mark');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.querySelectorAll('article').length === 2);
    await tabTo(page, '#settings');
    await page.keyboard.press('Enter');
    await page.waitForSelector('dialog[open]');
    await tabTo(page, '#setting-temperature');
    await page.keyboard.press('Control+a');
    await page.keyboard.type('0.5');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    equal(await page.evaluate(() => document.activeElement?.id), 'settings', 'the focus is back');
    const [chat] = await stored(page, 'conversations');
    equal(chat.settings, { temperature: 0.5 }, 'the setting');
    await tabTo(page, 'article.assistant .actions .menu > .icon-button');
    await page.keyboard.press('Enter');
    await tabTo(page, '.menu-items button.danger');
    await page.keyboard.press('Enter');
    await page.waitForSelector('dialog[open]');
    await tabTo(page, 'dialog button.danger');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.toast');
    await page.waitForFunction(() => document.activeElement?.matches('article.message'));
    clean();
    await close();
  },

  'input: an editor for other scripts is not interrupted': async (place) => {
    const { page, context, clean, close } = await open(place);
    await ready(page);
    const cdp = await context.newCDPSession(page);
    await cdp.send('Input.imeSetComposition', { text: 'にほん', selectionStart: 3, selectionEnd: 3 });
    equal(await page.inputValue('#message'), 'にほん', 'what is being composed');
    // As browsers report a key that the editor takes for itself.
    await cdp.send('Input.dispatchKeyEvent', { type: 'rawKeyDown', key: 'Process', code: 'Enter', windowsVirtualKeyCode: 229 });
    equal(await page.locator('article').count(), 0, 'the key belongs to the editor');
    await cdp.send('Input.insertText', { text: '日本' });
    equal(await page.inputValue('#message'), '日本', 'what was chosen');
    await page.keyboard.press('Enter');
    await finished(page);
    equal((await texts(page))[0], '日本', 'what was sent');
    clean();
    await close();
  },

  'right to left: text aligns right, code inside it runs from left to right': async (place) => {
    place.fake.script.scriptText = 'مرحبا بالعالم\n\n- واحد\n- اثنان\n\n```js\nconst a = [1];\n```\n\n$$x^2 = 4$$\n';
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.fill('#message', 'مرحبا');
    const direction = (/** @type {string} */ selector) => page.evaluate((/** @type {string} */ one) => getComputedStyle(/** @type {Element} */ (document.querySelector(one))).direction, selector);
    equal(await direction('#message'), 'rtl', 'while typing');
    await page.press('#message', 'Enter');
    await finished(page);
    await page.waitForSelector('article math');
    equal([await direction('article.user .text'), await direction('article.assistant .text')], ['rtl', 'rtl'], 'the messages');
    equal([await direction('article .code'), await direction('article .code pre'), await direction('article math')], ['ltr', 'ltr', 'ltr'], 'code and formulas');
    equal(await direction('.header'), 'ltr', 'the page around them');
    await page.screenshot({ path: await shotPath('right-to-left') });
    clean();
    await close();
  },

  'zoom: at 200 and 400 percent everything can be read and reached': async (place) => {
    Object.assign(place.fake.script, { tokenMs: 1, demo: true });
    for (const factor of [2, 4]) {
      const viewport = { width: 1280 / factor, height: 1024 / factor };
      const { page, clean, close } = await open(place, { context: { viewport, deviceScaleFactor: factor } });
      await ready(page);
      await ask(page, 'file rich');
      await settled(page);
      equal(await sideways(page), [], `at ${factor * 100} %`);
      const [thread, composer] = [await page.locator('.thread').boundingBox(), await page.locator('.composer').boundingBox()];
      check(thread.height >= 48, `${thread.height} px are left for messages at ${factor * 100} %`);
      check(composer.y + composer.height <= viewport.height, 'the composer is in view');
      await page.screenshot({ path: await shotPath(`zoom-${factor * 100}`) });
      await page.click('#settings');
      await page.waitForSelector('dialog[open]');
      await settled(page);
      equal(await sideways(page), [], `the settings at ${factor * 100} %`);
      await page.fill('#setting-system', 'Be brief.');
      await page.click('dialog [aria-label="Close"]');
      await page.waitForSelector('dialog', { state: 'detached' });
      clean();
      await close();
    }
  },

  'forced colors: whatever the system chooses, controls and their states can be told apart': async (place) => {
    const { page, clean, close } = await open(place, { context: { forcedColors: 'active', colorScheme: 'dark' } });
    await ready(page);
    await ask(page, 'file rich');
    await page.fill('#message', 'more');
    const look = (/** @type {string} */ selector) =>
      page.evaluate((/** @type {string} */ one) => {
        const { color, backgroundColor, borderTopStyle, borderTopColor, outlineStyle } = getComputedStyle(/** @type {Element} */ (document.querySelector(one)));
        return { color, backgroundColor, border: borderTopStyle === 'none' ? '' : borderTopColor, outline: outlineStyle };
      }, selector);
    const canvas = (await look('body')).backgroundColor;
    for (const selector of ['.composer', '.send', '.new-chat', '.code', '.chip', '.message.user > .text']) {
      const { border, color } = await look(selector);
      check(border !== '' && border !== canvas && color !== canvas, `${selector} has no visible edge`);
    }
    check((await look('.entry.open')).outline !== 'none', 'the open chat is marked');
    check((await look('.meter-fill')).backgroundColor !== canvas, 'the meter is filled');
    await page.screenshot({ path: await shotPath('forced-colors') });
    await page.click('#settings');
    await page.waitForSelector('dialog[open]');
    await settled(page);
    const [on, off] = [await look('.segments input:checked + span'), await look('.segments input:not(:checked) + span')];
    check(on.backgroundColor !== off.backgroundColor, 'the chosen one of several is marked');
    check((await look('dialog')).border !== '', 'the dialog has an edge');
    await page.screenshot({ path: await shotPath('forced-colors-settings') });
    clean();
    await close();
  },
};

/** @param {import('node:stream').Readable} stream */
async function all(stream) {
  let text = '';
  for await (const part of stream.setEncoding('utf8')) text += part;
  return text;
}
