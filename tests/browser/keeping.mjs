/** Journeys of what is kept and moved: files, exports, the browser’s storage. Against the scripted engine. */

import { readFile } from 'node:fs/promises';

import { open } from './common.mjs';
import { ask, chatFile, check, dismiss, equal, importFile, ready, settled, stored, texts } from './harness.mjs';

/** @typedef {import('./common.mjs').Place & { fake: import('./fake-server.mjs').Fake }} Place */

/** @type {Record<string, (place: Place) => Promise<void>>} */
export const keeping = {
  'another port: the page says that chats of the usual one are not here, once': async (place) => {
    place.fake.script.movedFrom = 8080;
    const { page, clean, close } = await open(place);
    await ready(page);
    const note = page.locator('.banner:has-text("port 8080")');
    check((await note.innerText()).includes('export and import moves them'), 'what to do');
    await page.reload();
    await ready(page);
    await note.waitFor();
    await note.locator('button').click();
    await note.waitFor({ state: 'detached' });
    await page.reload();
    await ready(page);
    equal(await note.count(), 0, 'it was read');
    clean();
    await close();
  },

  'export and import: a round trip is identical, a broken file changes nothing': async (place) => {
    const { page, context, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'say one');
    await ask(page, 'say two');
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('[aria-label="Export all"]')]);
    const file = await readFile(await download.path(), 'utf8');
    const before = [await stored(page, 'conversations'), await stored(page, 'messages')];
    await importFile(page, file);
    check((await page.innerText('.toast')).includes('1 was there already'), 'duplicates are skipped');
    for (const broken of ['{', '{"format":"other"}', file.slice(0, -10), file.replace('"version": 1', '"version": 9'), file.replace('"role": "user"', '"role": "root"')]) {
      await dismiss(page);
      await importFile(page, broken, 'broken.json');
      check((await page.innerText('.toast')).includes('was not imported'), `refused: ${broken.slice(0, 20)}`);
    }
    equal([await stored(page, 'conversations'), await stored(page, 'messages')], before, 'nothing changed');
    await context.clearCookies();
    await dismiss(page);
    await page.locator('.entry .menu > .icon-button').click();
    await page.click('.menu-items button:has-text("Delete")');
    await page.waitForFunction(() => document.querySelectorAll('.entry').length === 0);
    await importFile(page, file);
    await page.click('.entry-open');
    await page.waitForSelector('article');
    equal([await stored(page, 'conversations'), await stored(page, 'messages')], before, 'the round trip');
    equal(await texts(page), ['say one', 'one', 'say two', 'two'], 'the messages');
    clean();
    await close();
  },

  'export for people: Markdown and a page without scripts, of the visible branch': async (place) => {
    place.fake.script.demo = true;
    const { page, context, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'file rich');
    const save = async (/** @type {string} */ label) => {
      await page.locator('.entry .menu > .icon-button').click();
      const [download] = await Promise.all([page.waitForEvent('download'), page.click(`.menu-items button:has-text("${label}")`)]);
      return { name: download.suggestedFilename(), path: await download.path() };
    };
    const markdown = await save('Export as Markdown');
    equal(markdown.name, 'file-rich.md', 'the name');
    const text = await readFile(markdown.path, 'utf8');
    check(text.startsWith('---\ntitle: "file rich"\n') && text.includes('## Gemma (demo)') && text.includes('| February | +14 min | latest |'), text.slice(0, 300));
    const saved = await save('Export as a web page');
    const html = await readFile(saved.path, 'utf8');
    check(html.includes('<math') && html.includes('<table>') && !html.includes('<script') && !html.includes('<button') && !html.includes('src='), 'the page');
    const shown = await context.newPage();
    await shown.setContent(html);
    check((await shown.innerText('body')).includes('A dial is right four times a year'), 'the page can be read');
    clean();
    await close();
  },

  'a long paste: offered as a file, with its size in tokens': async (place) => {
    place.fake.script.nCtx = 300;
    const { page, clean, close } = await open(place);
    await ready(page);
    const long = 'lorem ipsum '.repeat(300);
    await page.evaluate((/** @type {string} */ text) => {
      const field = /** @type {HTMLTextAreaElement} */ (document.getElementById('message'));
      const clipboardData = new DataTransfer();
      clipboardData.setData('text/plain', text);
      field.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }));
      field.value = `before ${text}`;
      field.dispatchEvent(new Event('input', { bubbles: true }));
    }, long);
    await page.click('.toast button:has-text("Attach as a file")');
    equal(await page.inputValue('#message'), 'before ', 'the text is in the file now');
    await page.waitForSelector('.composer .file:has-text("601 tokens")');
    await page.waitForSelector('.notice.warn');
    clean();
    await close();
  },

  'no storage: a banner says so, and chatting goes on': async (place) => {
    const { page, clean, close } = await open(place, {
      init: () => {
        IDBFactory.prototype.open = () => {
          throw new DOMException('no', 'SecurityError');
        };
      },
    });
    await ready(page);
    await page.waitForSelector('.banner.warning');
    await ask(page, 'say one');
    await ask(page, 'say two');
    equal(await texts(page), ['say one', 'one', 'say two', 'two'], 'the messages');
    await page.click('.new-chat');
    await page.click('.entry-open');
    await page.waitForSelector('article');
    equal(await texts(page), ['say one', 'one', 'say two', 'two'], 'coming back');
    clean();
    await close();
  },

  'two tabs: a rename and a preference show in the other one': async (place) => {
    const { page, context, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'say one');
    const other = await context.newPage();
    await other.goto(place.url);
    await other.waitForSelector('.entry');
    await page.click('.title button');
    await page.fill('.title-field', 'A better name');
    await page.keyboard.press('Enter');
    await other.waitForSelector('.entry:has-text("A better name")');
    equal(await page.innerText('.title'), 'A better name', 'the title');
    await page.click('#settings');
    await page.click('label:has-text("Dark")');
    await page.click('label:has-text("Large")');
    await page.selectOption('#setting-language', 'de');
    await other.waitForSelector('html[data-theme=dark][data-font=large][lang=de]');
    await other.waitForSelector('.new-chat:has-text("Neuer Chat")');
    clean();
    await close();
  },

  'files: a text file is sent inside a safe fence, others are refused': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.setInputFiles('.composer input[type=file]', [
      { name: 'notes <b>.md', mimeType: 'text/markdown', buffer: Buffer.from('````\ncode\n````\n') },
      { name: 'picture.png', mimeType: 'image/png', buffer: Buffer.from([137, 80, 78, 71, 0, 255, 254]) },
    ]);
    await page.waitForSelector('.file:has-text("notes <b>.md")');
    check((await page.innerText('.toast')).includes('picture.png'), 'the picture is refused');
    equal(await page.locator('.composer .file').count(), 1, 'one file is attached');
    await ask(page, 'what is this?');
    equal(place.fake.requests[0].messages[0].content, 'notes <b>.md\n`````\n````\ncode\n````\n`````\n\nwhat is this?', 'what is sent');
    equal((await texts(page))[0], 'what is this?', 'what is shown');
    await page.waitForSelector('article.user details.file');
    clean();
    await close();
  },

  'import: whatever a file says of its messages, everything about them can be looked at': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    const evil = '"><img src=x onerror=pwned=1>';
    const absurd = { content: evil, time: 1e300, model: evil, params: { seed: evil, temperature: evil, [evil]: { [evil]: evil } }, timings: { predicted_per_second: 1e300, first_ms: 1e308 }, promptTokens: -1, replyTokens: 1e300, probs: { from: -5, list: [[evil, 99, [[evil, -3]]]] }, failure: { message: evil, kind: 'key' }, files: [{ name: evil, text: evil }], status: 'complete' };
    const ids = ['__proto__', '"]<b>', 'a b#c.d', 'constructor'];
    const messages = [{ role: 'user', parent: null }, { role: 'assistant', parent: ids[0] }, { role: 'assistant', parent: ids[0] }, { role: 'user', parent: ids[2] }].map((message, at) => ({ ...absurd, ...message, id: ids[at] }));
    const conversation = { id: evil, title: ' \u202e', created: 1e300, updated: 1e300, choices: { toString: 'x' }, settings: { temperature: 1e99, system: evil }, sendFrom: evil };
    await importFile(page, JSON.stringify({ format: 'gemma2-chat', version: 1, chats: [{ conversation, messages }] }));
    check((await page.innerText('.entry-open')).includes('<img'), 'it has a name that can be seen');
    await page.click('.entry-open');
    await page.click('.alternatives button:not(:disabled)');
    await page.waitForFunction(() => document.activeElement?.closest('.alternatives'));
    await page.locator('article.assistant .actions .menu > .icon-button').click();
    check(!(await page.innerText('.menu-items')).includes('NaN'), 'the numbers are numbers');
    await page.click('.menu-items button:has-text("Details")');
    await page.waitForSelector('dialog dd');
    await page.keyboard.press('Escape');
    equal(await page.evaluate(() => /** @type {any} */ (globalThis).pwned), undefined, 'nothing ran');
    clean();
    await close();
  },

  'leaving: what was typed in the last moment is there after a reload, in every tab its own': async (place) => {
    const { page, context, clean, close } = await open(place);
    await ready(page);
    const other = await context.newPage();
    const holds = (/** @type {any} */ tab, /** @type {string} */ text) =>
      tab.waitForFunction((/** @type {string} */ wanted) => /** @type {HTMLTextAreaElement} */ (document.getElementById('message')).value === wanted, text);
    await page.fill('#message', 'in a new chat');
    await page.reload();
    await holds(page, 'in a new chat');
    await ask(page, 'say one');
    await other.goto(place.url);
    await other.click('.entry-open');
    await other.waitForSelector('article.assistant');
    await page.fill('#message', 'here');
    await other.fill('#message', 'there');
    await Promise.all([page.reload(), other.reload()]);
    await holds(page, 'here');
    await holds(other, 'there');
    clean();
    await close();
  },

  'pasting and dropping: a spreadsheet’s cells are text, a picture is refused, and so is a folder': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    const paste = (/** @type {string} */ text) =>
      page.evaluate((/** @type {string} */ words) => {
        const clipboardData = new DataTransfer();
        if (words !== '') clipboardData.setData('text/plain', words);
        clipboardData.items.add(new File([new Uint8Array([137, 80, 78, 71, 0])], 'cells.png', { type: 'image/png' }));
        return !document.getElementById('message')?.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }));
      }, text);
    equal(await paste('a\tb'), false, 'the browser puts the text in');
    equal(await page.locator('.toast').count(), 0, 'nothing is refused');
    equal(await paste(''), true, 'there is nothing to put in');
    await page.waitForSelector('.toast:has-text("cells.png")');
    await page.evaluate(() => {
      // What a browser gives of a folder.
      const folder = new File([], 'folder');
      folder.arrayBuffer = () => Promise.reject(new DOMException('not a file', 'NotFoundError'));
      const event = new DragEvent('drop', { bubbles: true, cancelable: true });
      Object.defineProperty(event, 'dataTransfer', { value: { types: ['Files'], files: [folder] } });
      document.body.dispatchEvent(event);
    });
    await page.waitForSelector('.toast:has-text("folder")');
    clean();
    await close();
  },

  'dragging: text goes into a field as everywhere, and a selection may leave its dialog': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    const prevented = await page.evaluate(() => {
      const dataTransfer = new DataTransfer();
      dataTransfer.setData('text/plain', 'dragged');
      const event = new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true });
      document.getElementById('message')?.dispatchEvent(event);
      return event.defaultPrevented;
    });
    equal(prevented, false, 'the browser puts the text in');
    await page.click('#settings');
    await settled(page);
    const { x, y } = await page.locator('#setting-system').boundingBox();
    await page.mouse.move(x + 40, y + 20);
    await page.mouse.down();
    await page.mouse.move(200, 300, { steps: 4 });
    await page.mouse.up();
    equal(await page.locator('dialog').count(), 1, 'the dialog stays');
    await page.mouse.click(200, 300);
    await page.waitForSelector('dialog', { state: 'detached' });
    clean();
    await close();
  },

  'drop: an exported chat is imported, another file attached': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    const files = [['chat.json', chatFile([{ role: 'user', content: 'dropped' }])], ['note.json', '{"a": 1}']];
    await page.evaluate((/** @type {string[][]} */ list) => {
      const dataTransfer = new DataTransfer();
      for (const [name, text] of list) dataTransfer.items.add(new File([text], name));
      document.body.dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true, cancelable: true }));
    }, files);
    await page.waitForSelector('.entry:has-text("Imported")');
    await page.waitForSelector('.composer .file:has-text("note.json")');
    equal(await page.locator('.composer .file').count(), 1, 'one attachment');
    clean();
    await close();
  },
};
