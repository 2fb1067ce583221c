/** Journeys of how the page looks and is operated: words, keys, screens, helpers. Against the scripted engine. */

import { readFile } from 'node:fs/promises';

import { open } from './common.mjs';
import { startFake } from './fake-server.mjs';
import { ask, check, equal, finished, ready, require, settled, shotPath, texts } from './harness.mjs';
import { walk } from './states.mjs';

/** @typedef {import('./common.mjs').Place & { fake: import('./fake-server.mjs').Fake }} Place */

/** @type {Record<string, (place: Place) => Promise<void>>} */
export const looks = {
  'languages: the browser’s is used, another can be chosen, and longer words overflow nothing': async (place) => {
    const { page, clean, close } = await open(place, { context: { locale: 'de-AT' } });
    await ready(page);
    await page.waitForSelector('.new-chat:has-text("Neuer Chat")');
    equal(await page.getAttribute('html', 'lang'), 'de', 'the language of the page');
    await ask(page, 'say 1');
    await page.waitForSelector('.tags .speed:has-text("Token/s")');
    await page.click('#settings');
    await page.focus('#setting-language');
    await page.selectOption('#setting-language', 'en');
    await page.waitForSelector('dialog h2:has-text("Settings")');
    await page.waitForSelector('.new-chat:has-text("New chat")');
    equal(await page.evaluate(() => document.activeElement?.id), 'setting-language', 'the focus stays');
    await page.keyboard.press('Escape');
    await page.waitForSelector('article [aria-label="Regenerate"]');
    await page.reload();
    await ready(page);
    await page.waitForSelector('.new-chat:has-text("New chat")');
    await page.evaluate(() => localStorage.setItem('gemma2.language', 'pseudo'));
    for (const width of [1280, 390, 320]) {
      await page.setViewportSize({ width, height: 800 });
      await page.reload();
      await page.waitForSelector('#settings[aria-label^="["]');
      await ready(page);
      const sideways = () =>
        page.evaluate(() =>
          [document.documentElement, ...document.querySelectorAll('.thread, .list-body, .banners, .composer, .header, dialog, .dialog-box')]
            .filter((element) => element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0)
            .map((element) => `${element.tagName}.${element.className} ${element.scrollWidth} > ${element.clientWidth}`),
        );
      equal(await sideways(), [], `what overflows at ${width} px`);
      for (const key of ['#settings', '.meter-button', '.chip']) {
        await page.click(key);
        await page.waitForSelector('dialog[open]');
        await settled(page);
        equal(await sideways(), [], `what overflows at ${width} px in the dialog of ${key}`);
        const cut = await page.evaluate(() =>
          [...document.querySelectorAll('dialog button, dialog label, dialog .segments span')]
            .filter((element) => element.scrollWidth > element.clientWidth + 1 && element.clientWidth > 0)
            .map((element) => element.textContent),
        );
        equal(cut, [], `what is cut at ${width} px in the dialog of ${key}`);
        await page.keyboard.press('Escape');
        await page.waitForSelector('dialog', { state: 'detached' });
      }
    }
    clean();
    await close();
  },

  'notes: over the middle of the chat, clear of what is typed, and inside an open dialog': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'say one');
    await page.fill('#message', 'a\n'.repeat(9));
    await page.locator('.entry .menu > .icon-button').click();
    await page.click('.menu-items button:has-text("Delete")');
    await page.waitForSelector('.toast');
    await settled(page);
    const middle = (/** @type {{ x: number, width: number }} */ box) => Math.round(box.x + box.width / 2);
    const [toast, composer] = [await page.locator('.toast').boundingBox(), await page.locator('.composer').boundingBox()];
    check(Math.abs(middle(toast) - middle(composer)) <= 2, `the note is at ${middle(toast)}, the composer at ${middle(composer)}`);
    check(toast.y + toast.height < composer.y, 'the note covers the composer');
    await page.click('#settings');
    await page.waitForSelector('dialog .toast');
    await page.click('dialog .toast button:has-text("Undo")');
    await page.keyboard.press('Escape');
    await page.waitForSelector('.entry');
    await page.click('.entry-open');
    await page.waitForSelector('article.user');
    await page.locator('.entry .menu > .icon-button').click();
    await page.click('.menu-items button:has-text("Duplicate")');
    await page.waitForFunction(() => document.querySelectorAll('.entry').length === 2);
    await page.locator('.entry .menu > .icon-button').last().click();
    await page.click('.menu-items button:has-text("Delete")');
    await page.waitForSelector('.toast button:has-text("Undo")');
    await page.locator('article.user').hover();
    await page.locator('article.user [aria-label="Copy"]').click();
    await page.waitForSelector('.toast:has-text("Copied.")');
    equal(await page.textContent('.visually-hidden[role=status]'), 'Copied.', 'what a screen reader hears');
    await settled(page);
    const boxes = await Promise.all((await page.locator('.toast').all()).map((/** @type {any} */ note) => note.boundingBox()));
    check(boxes.length === 2 && boxes[0].y + boxes[0].height < boxes[1].y, 'two notes, one above the other');
    await page.click('.toast button:has-text("Undo")');
    await page.waitForFunction(() => document.querySelectorAll('.entry').length === 2);
    clean();
    await close();
  },

  'focus: it is in the message field after a click on Send, and after one on Stop': async (place) => {
    place.fake.script.tokenMs = 20;
    const { page, clean, close } = await open(place);
    await ready(page);
    const focused = () => page.evaluate(() => document.activeElement?.id);
    await page.fill('#message', 'count 200');
    await page.click('.send:not(.stop)');
    await page.waitForSelector('.send.stop');
    equal(await focused(), 'message', 'after Send');
    await page.click('.send.stop');
    await page.waitForSelector('.send:not(.stop)');
    equal(await focused(), 'message', 'after Stop');
    await page.fill('#message', 'say one');
    await page.click('.send:not(.stop)');
    await finished(page);
    equal(await focused(), 'message', 'at the end of a reply');
    clean();
    await close();
  },

  'focus: it stays with a chat that is renamed or pinned, and goes to the next one and back when one is deleted': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    for (const text of ['say one', 'say two']) {
      await page.click('.new-chat');
      await ask(page, text);
    }
    const focused = (/** @type {string} */ what) => page.waitForFunction((/** @type {string} */ wanted) => document.activeElement?.matches(wanted), what);
    const act = async (/** @type {string} */ name) => {
      await page.locator('.entry:has-text("say two") .menu > .icon-button').focus();
      await page.keyboard.press('Enter');
      await page.locator(`.menu-items button:has-text("${name}")`).first().focus();
      await page.keyboard.press('Enter');
    };
    await act('Rename');
    await focused('.entry-field');
    await page.keyboard.type('say two, renamed');
    await page.keyboard.press('Enter');
    await focused('.entry-open');
    equal(await page.locator('.entry-open').allInnerTexts(), ['say two, renamed', 'say one'], 'the new name replaces the old one');
    await act('Pin');
    await page.waitForSelector('h2:has-text("Pinned")');
    await focused('.entry:first-child .menu button');
    await act('Delete');
    await page.waitForFunction(() => document.querySelectorAll('.entry').length === 1);
    await focused('.entry-open');
    await page.locator('.toast button:has-text("Undo")').focus();
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.querySelectorAll('.entry').length === 2);
    await page.waitForSelector('article.user:has-text("say two")');
    await focused('main');
    clean();
    await close();
  },

  'drawer: the focus stays in it, and goes back to its button': async (place) => {
    const { page, clean, close } = await open(place, { context: { viewport: { width: 390, height: 844 } } });
    await ready(page);
    await ask(page, 'say one');
    const focused = () => page.evaluate(() => document.activeElement?.id || document.activeElement?.className);
    const inside = () => page.evaluate(() => document.activeElement === document.body || document.querySelector('.list')?.contains(document.activeElement));
    const isOpen = async (/** @type {boolean} */ wanted) => {
      await page.waitForSelector('.drawer-open', { state: wanted ? 'attached' : 'detached' });
      await settled(page);
    };
    for (const leave of [() => page.keyboard.press('Escape'), () => page.click('.list [aria-label="Close the list of chats"]'), () => page.mouse.click(380, 400), () => page.click('.entry-open')]) {
      await page.click('#menu');
      await isOpen(true);
      for (let step = 0; step < 20; step += 1) {
        await page.keyboard.press('Tab');
        check(await inside(), `after ${step + 1} tabs the focus is at ${await focused()}`);
      }
      await leave();
      await isOpen(false);
      equal(await focused(), 'menu', 'after the drawer has closed');
    }
    await page.click('#menu');
    await isOpen(true);
    await page.click('.list-foot [aria-label="About"]');
    await page.waitForSelector('dialog[open]');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    equal(await focused(), 'menu', 'after a dialog that was opened from the drawer');
    await page.locator('article.assistant .menu > .icon-button').click();
    await page.click('.menu-items button:has-text("Details")');
    await page.click('dialog button:has-text("Show exact prompt")');
    await page.waitForSelector('.prompt');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    equal(await page.evaluate(() => document.activeElement?.getAttribute('aria-label')), 'More actions', 'after a dialog behind a dialog');
    await page.click('#menu');
    await isOpen(true);
    await page.locator('.entry .menu > .icon-button').click();
    await page.click('.menu-items button:has-text("Delete")');
    await page.waitForSelector('.entry', { state: 'detached' });
    await page.click('.toast button:has-text("Undo")');
    await page.waitForSelector('.entry');
    await page.setViewportSize({ width: 1280, height: 800 });
    await isOpen(false);
    await page.fill('#message', 'the page can be used');
    clean();
    await close();
  },

  'keyboard: the focus goes through the page in the order in which it is read': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'say one');
    await ask(page, 'file rich');
    await page.focus('.skip');
    const seen = [];
    for (let step = 0; step < 60; step += 1) {
      if (step > 0) await page.keyboard.press('Tab');
      const at = await page.evaluate(() => {
        const element = /** @type {HTMLElement} */ (document.activeElement);
        const part = element.closest('.skip, .list, .header, .thread, .composer');
        if (!part) return null;
        const { top, left, height } = element.getBoundingClientRect();
        const hidden = document.elementFromPoint(left + 4, top + Math.min(height / 2, 20));
        const all = [...document.querySelectorAll('*')];
        return { part: part.classList[0], place: all.indexOf(element), name: element.getAttribute('aria-label') ?? element.textContent?.slice(0, 30), covered: !(hidden && (element.contains(hidden) || hidden.contains(element))) };
      });
      if (at === null) break;
      if (seen.length > 0 && at.place < seen[seen.length - 1].place) break;
      seen.push(at);
    }
    equal([...new Set(seen.map(({ part }) => part))], ['skip', 'list', 'header', 'thread', 'composer'], 'the parts in their order');
    equal(seen.filter(({ covered, part }) => covered && part !== 'skip').map(({ name }) => name), [], 'what is focused and covered');
    clean();
    await close();
  },

  'keyboard: send, stop, edit, regenerate, search, settings and delete without a mouse': async (place) => {
    place.fake.script.tokenMs = 20;
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.keyboard.type('count 100');
    await page.keyboard.press('Shift+Enter');
    await page.keyboard.press('Backspace');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => (document.querySelector('article.assistant .text')?.textContent?.length ?? 0) > 10);
    await page.keyboard.press('Escape');
    await page.waitForSelector('.tag:has-text("stopped")');
    place.fake.script.tokenMs = 1;
    await page.keyboard.press('ArrowUp');
    await page.waitForSelector('.editor');
    await page.keyboard.press('Control+a');
    await page.keyboard.type('say edited');
    await page.keyboard.press('Control+Enter');
    // Between the question and its reply the page is idle for a moment.
    await page.waitForSelector('article.assistant .text:has-text("edited")');
    await finished(page);
    equal((await texts(page))[1], 'edited', 'the edited message is answered');
    await page.keyboard.press('Control+Shift+Enter');
    await page.waitForFunction(() => document.querySelector('article.assistant .alternatives span')?.textContent === '2 / 2');
    await finished(page);
    await page.keyboard.press('Alt+ArrowUp');
    equal(await page.evaluate(() => document.activeElement?.className.includes('assistant')), true, 'the last message has the focus');
    await page.keyboard.press('Control+/');
    await page.waitForSelector('dialog .keys');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    equal(await page.evaluate(() => document.activeElement?.className.includes('assistant')), true, 'and has it again');
    await page.keyboard.press('Control+b');
    equal(await page.isVisible('.list'), false, 'the list is hidden');
    await page.keyboard.press('Control+b');
    await page.keyboard.press('Control+Shift+O');
    equal(await page.locator('article').count(), 0, 'a new chat');
    for (let step = 0; step < 30; step += 1) {
      await page.keyboard.press('Tab');
      const visible = await page.evaluate(() => {
        const element = /** @type {HTMLElement} */ (document.activeElement);
        if (element === document.body) return true;
        const style = getComputedStyle(element);
        const shown = parseFloat(style.outlineWidth) > 0 && style.outlineStyle !== 'none';
        return shown || element.closest('.composer:focus-within') !== null || element.matches('.search input');
      });
      check(visible, `the focus is visible after ${step + 1} tabs`);
    }
    clean();
    await close();
  },

  'accessibility: axe finds nothing in any state, in both themes and sizes; a picture of each is kept': async (place) => {
    const axe = await readFile(require.resolve('axe-core/axe.min.js'), 'utf8');
    /** @type {string[]} */
    const violations = [];
    for (const colorScheme of ['light', 'dark']) {
      for (const viewport of [{ width: 1280, height: 800 }, { width: 390, height: 844 }]) {
        const own = await startFake();
        Object.assign(own.script, { loading: 0.42, tokenMs: 1, nCtx: 1400 });
        const server = {
          set: async (/** @type {any} */ changed) => {
            if ('loading' in changed) own.script.loading = changed.loading;
            if ('hold' in changed) own.script.tokenMs = changed.hold > 0 ? 12 : 1;
          },
          kill: () => own.stop(),
        };
        const narrow = viewport.width < 900;
        const { page, close } = await open({ ...place, url: own.url }, { context: { viewport, colorScheme, hasTouch: narrow, isMobile: narrow, reducedMotion: 'reduce' } });
        await page.evaluate(axe);
        await walk({ page, server, narrow }, async (state) => {
          const name = `${state}-${colorScheme}-${viewport.width}`;
          await page.screenshot({ path: await shotPath(name) });
          const found = await page.evaluate(async () => {
            const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
            const result = await /** @type {any} */ (globalThis).axe.run({ runOnly: { type: 'tag', values: tags } });
            return result.violations.map((/** @type {any} */ one) => `${one.id}: ${one.help}: ${one.nodes.map((/** @type {any} */ node) => `${node.html.slice(0, 160)} ${node.any[0]?.message ?? ''}`).join(' | ')}`);
          });
          for (const violation of found) violations.push(`${name}: ${violation}`);
        });
        await close();
        await own.stop();
      }
    }
    equal(violations, [], 'what axe finds');
  },

  'announcements: at the start and the end of a reply, or sentence by sentence': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.evaluate(() => {
      const region = /** @type {Element} */ (document.querySelector('.visually-hidden[role=status]'));
      /** @type {any} */ (globalThis).said = [];
      new MutationObserver(() => /** @type {any} */ (globalThis).said.push(region.textContent)).observe(region, { childList: true, characterData: true, subtree: true });
    });
    await ask(page, 'count 40');
    const said = await page.evaluate(() => /** @type {any} */ (globalThis).said);
    equal(said[0], 'Gemma is replying', 'the start');
    check(said.at(-1).endsWith('39 40') && said.length <= 3, `said ${JSON.stringify(said)}`);
    equal(await page.getAttribute('article.assistant .text', 'aria-busy'), 'false', 'no longer busy');
    await page.click('#settings');
    await page.click('label:has-text("By sentence")');
    await page.keyboard.press('Escape');
    await page.evaluate(() => /** @type {any} */ (globalThis).said.splice(0));
    await ask(page, 'say One thing. Another thing! The rest');
    equal(await page.evaluate(() => /** @type {any} */ (globalThis).said), ['Gemma is replying', 'One thing.', 'Another thing!', 'The rest'], 'sentence by sentence');
    clean();
    await close();
  },

  'small screens: nothing scrolls sideways, everything can be reached': async (place) => {
    Object.assign(place.fake.script, { tokenMs: 1, demo: true, movedFrom: 8080 });
    for (const viewport of [{ width: 390, height: 844 }, { width: 320, height: 568 }, { width: 640, height: 320 }]) {
      const { page, clean, close } = await open(place, { context: { viewport, hasTouch: true, isMobile: true } });
      await ready(page);
      equal(await page.evaluate(() => document.querySelector('.thread')?.scrollTop), 0, 'an empty chat is seen from its beginning');
      await ask(page, 'file rich');
      await ask(page, `say ${'averyveryverylongwordwithoutanyspaceatall'.repeat(6)}`);
      await ask(page, `say - a list with $${'a + '.repeat(40)}b$\n\nand $\\rule{9999em}{9em}$ and $\\kern{900em}x$`);
      await page.waitForSelector('article:last-child math');
      equal(await page.locator('.rich > [tabindex="0"]:has(math)').count(), 2, 'wide formulas can be scrolled with the keyboard');
      const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth || /** @type {Element} */ (document.querySelector('.thread')).scrollWidth > /** @type {Element} */ (document.querySelector('.thread')).clientWidth);
      equal(wide, false, `sideways scrolling at ${viewport.width} px`);
      const box = await page.locator('.composer').boundingBox();
      check(box.y + box.height <= viewport.height && box.x >= 0 && box.x + box.width <= viewport.width, 'the composer is inside the view');
      const small = await page.evaluate(() =>
        [...document.querySelectorAll('button')]
          .map((button) => ({ name: button.getAttribute('aria-label') ?? button.textContent, box: button.getBoundingClientRect() }))
          .filter(({ box: { width, height } }) => width > 0 && (width < 24 || height < 24))
          .map(({ name }) => name),
      );
      equal(small, [], 'buttons that are too small to hit');
      await page.tap('#menu');
      await page.waitForSelector('.drawer-open .list .new-chat');
      await settled(page);
      await page.tap('.drawer-open .new-chat');
      await page.waitForFunction(() => document.querySelectorAll('article').length === 0);
      clean();
      await close();
    }
  },

  'touch: everything that can be pressed is large enough for a finger': async (place) => {
    Object.assign(place.fake.script, { tokenMs: 1, demo: true, movedFrom: 8080, nCtx: 600 });
    const { page, clean, close } = await open(place, { context: { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true } });
    await ready(page);
    const small = (/** @type {string} */ where) =>
      page.evaluate((/** @type {string} */ state) => {
        const found = [];
        for (const element of document.querySelectorAll('button, summary, select, textarea, input:not([hidden]), label.check, .segments label')) {
          // A label is pressed for its box, a word of a sentence may be as high as its line.
          if (element.matches('.token, .check input, .segments input')) continue;
          const { width, height } = element.getBoundingClientRect();
          if (width > 0 && (width < 44 || height < 44)) found.push(`${state}: ${element.getAttribute('aria-label') ?? element.textContent} ${element.className} ${Math.round(width)} × ${Math.round(height)}`);
        }
        return found;
      }, where);
    const found = [...(await small('empty'))];
    await page.setInputFiles('.composer input[type=file]', { name: 'notes.md', mimeType: 'text/markdown', buffer: Buffer.from('a line') });
    await page.tap('#settings');
    await page.fill('#setting-probabilities', '3');
    await page.fill('#setting-charName', 'sage');
    await page.tap('label:has-text("Grammar")');
    await page.fill('#setting-grammar', 'nothing');
    await page.waitForSelector('#setting-grammar-problem');
    found.push(...(await small('settings')));
    await page.tap('label:has-text("Any text")');
    await page.tap('dialog [aria-label="Close"]');
    await ask(page, 'file rich');
    await page.locator('article.assistant [aria-label="Regenerate"]').tap();
    await page.waitForSelector('.alternatives span:has-text("2 / 2")');
    await finished(page);
    await page.locator('article.assistant .menu > .icon-button').tap();
    found.push(...(await small('menu')));
    await page.tap('.menu-items button:has-text("Show probabilities")');
    await page.locator('.token').first().tap();
    await page.waitForSelector('.likely button');
    found.push(...(await small('probabilities')));
    await page.fill('#message', 'word '.repeat(700));
    await page.waitForSelector('.notice.warn');
    found.push(...(await small('too long')));
    await page.fill('#message', '');
    await page.evaluate(() => document.querySelector('.thread')?.scrollTo(0, 0));
    await page.locator('article.user [aria-label="Edit"]').tap();
    await page.waitForSelector('.editor');
    found.push(...(await small('editor')));
    await page.tap('#menu');
    await settled(page);
    found.push(...(await small('drawer')));
    await page.tap('.new-raw');
    await page.waitForSelector('.raw textarea');
    // The drawer has gone.
    await settled(page);
    found.push(...(await small('raw')));
    equal([...new Set(found)], [], 'what is too small');
    clean(/status of 400/);
    await close();
  },

  'input: composing a character does not send, and right-to-left text aligns right': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.fill('#message', 'にほん');
    await page.evaluate(() => {
      const field = /** @type {Element} */ (document.getElementById('message'));
      field.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true }));
      field.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', keyCode: 229, bubbles: true, cancelable: true }));
    });
    equal(await page.locator('article').count(), 0, 'not sent');
    await page.press('#message', 'Enter');
    await finished(page);
    equal(await page.locator('article').count(), 2, 'sent');
    await ask(page, 'say مرحبا بالعالم');
    equal(await page.evaluate(() => getComputedStyle(/** @type {Element} */ ([...document.querySelectorAll('article.assistant .text')].at(-1))).direction), 'rtl', 'Arabic');
    clean();
    await close();
  },

  'settings: changed fields are marked, used, kept for the chat, and can be the default': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.click('#settings');
    await page.fill('#setting-seed', '42');
    await page.fill('#setting-stop', 'END\nSTOP');
    await page.fill('#setting-temperature', '0');
    await page.waitForSelector('.note:has-text("temperature 0")');
    const disabled = await page.evaluate(() => [...document.querySelectorAll('.number input[type=number]:disabled')].map(({ id }) => id));
    equal(disabled, ['topK', 'topP', 'minP', 'seed'].map((name) => `setting-${name}`), 'what has no effect then');
    equal(await page.locator('.field.changed').count(), 3, 'changed fields');
    await page.click('button:has-text("Make default")');
    equal(await page.locator('.field.changed').count(), 0, 'they are the default now');
    await page.keyboard.press('Escape');
    await ask(page, 'say one');
    const [sent] = place.fake.requests;
    equal([sent.temperature, sent.seed, sent.stop, sent.top_p], [0, 42, ['END', 'STOP'], 0.95], 'the request');
    await page.reload();
    await page.waitForSelector('article');
    await page.click('#settings');
    equal(await page.inputValue('#setting-seed'), '42', 'after a reload');
    await page.click('button:has-text("Reset all")');
    equal(await page.inputValue('#setting-temperature'), '1', 'after the reset');
    clean();
    await close();
  },

  'themes: the choice is kept, the system is followed, and nothing flashes': async (place) => {
    const { page, clean, close } = await open(place, { context: { colorScheme: 'dark' } });
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await background();
    await page.emulateMedia({ colorScheme: 'light' });
    const light = await background();
    check(dark !== light, 'the system is followed');
    await ready(page);
    await page.click('[aria-label^="Theme"]');
    await page.click('[aria-label^="Theme"]');
    equal(await background(), dark, 'dark was chosen');
    await page.addInitScript(() => {
      requestAnimationFrame(() => {
        /** @type {any} */ (globalThis).firstPaint = getComputedStyle(document.body ?? document.documentElement).backgroundColor;
      });
    });
    await page.reload();
    await ready(page);
    equal(await page.evaluate(() => /** @type {any} */ (globalThis).firstPaint), dark, 'the first paint');
    clean();
    await close();
  },

  'no script: the page says what it needs and what works without': async (place) => {
    const { page, close } = await open(place, { context: { javaScriptEnabled: false } });
    const text = await page.innerText('body');
    check(text.includes('JavaScript') && text.includes('gemma2 --chat'), 'the notice');
    await close();
  },

  'first paint: the shell is there before the script, and what is typed early is kept': async (place) => {
    const times = [];
    for (let round = 0; round < 5; round += 1) {
      const { page, clean, close } = await open(place);
      await ready(page);
      times.push(await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN));
      clean();
      await close();
    }
    const median = times.sort((a, b) => a - b)[2];
    console.log(`        first contentful paint: ${median.toFixed(0)} ms (median of 5)`);
    const { page, context, clean, close } = await open(place);
    await ready(page);
    /** @type {() => void} */
    let release = () => {};
    const held = new Promise((done) => {
      release = () => done(undefined);
    });
    await context.route('**/main-*.js', async (/** @type {any} */ route) => {
      await held;
      await route.continue();
    });
    await page.goto(place.url, { waitUntil: 'commit' });
    await page.waitForSelector('#message');
    await page.fill('#message', 'typed early');
    release();
    await ready(page);
    equal(await page.inputValue('#message'), 'typed early', 'the early text');
    clean();
    await close();
  },
};
