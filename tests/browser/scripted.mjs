/** Journeys that need exact texts, exact timing or failures on demand: against the scripted engine only. */

import { readFile } from 'node:fs/promises';

import { open } from './common.mjs';
import { startFake } from './fake-server.mjs';
import { ask, chatFile, check, equal, finished, importFile, ready, require, send, settled, shotPath, stored, texts } from './harness.mjs';
import { PAYLOADS } from './payloads.mjs';
import { walk } from './states.mjs';

/** @typedef {import('./common.mjs').Place & { fake: import('./fake-server.mjs').Fake }} Place */

/** @type {Record<string, (place: Place) => Promise<void>>} */
export const scripted = {
  'while loading: the bar moves, and a message sent meanwhile is answered without a reload': async (place) => {
    place.fake.script.loading = 0.1;
    const { page, clean, close } = await open(place);
    await page.waitForSelector('.banner progress');
    const first = await page.getAttribute('.banner progress', 'value');
    place.fake.script.loading = 0.6;
    await page.waitForFunction((/** @type {string} */ value) => document.querySelector('.banner progress')?.getAttribute('value') !== value, first);
    await send(page, 'say hello there');
    await page.waitForSelector('.notice');
    equal(await texts(page), ['say hello there'], 'the message is shown');
    place.fake.script.loading = null;
    await finished(page);
    equal(await texts(page), ['say hello there', 'hello there'], 'the answer');
    equal(await page.locator('.banner progress').count(), 0, 'the bar is gone');
    clean(/status of 503/);
    await close();
  },

  'stream: text grows in steps, the speed is shown, the final text is exact': async (place) => {
    place.fake.script.tokenMs = 30;
    const { page, clean, close } = await open(place);
    await ready(page);
    await send(page, 'count 30');
    const seen = new Set();
    while ((await page.locator('.send.stop').count()) > 0 || seen.size < 2) seen.add((await texts(page))[1]?.length ?? 0);
    check(seen.size >= 5, `the text grew in ${seen.size} steps`);
    await finished(page);
    equal((await texts(page))[1], Array.from({ length: 30 }, (_, at) => at + 1).join(' '), 'the text');
    check(/[\d.]+ tokens\/s/.test(await page.innerText('.tags .speed')), 'the speed');
    clean();
    await close();
  },

  'prefill: a long prompt shows how much of it is read': async (place) => {
    place.fake.script.prefillMs = 1600;
    const { page, clean, close } = await open(place);
    await ready(page);
    await send(page, 'say done');
    await page.waitForFunction(() => /\d+ of \d+ tokens/.test(document.querySelector('.waiting')?.textContent ?? ''));
    await page.waitForSelector('.waiting progress[value]');
    await finished(page);
    equal((await texts(page))[1], 'done', 'the answer');
    clean();
    await close();
  },

  'stop and continue: the partial text stays, and no new turn begins': async (place) => {
    place.fake.script.tokenMs = 20;
    const { page, clean, close } = await open(place);
    await ready(page);
    await send(page, 'count 100');
    await page.waitForFunction(() => (document.querySelector('article.assistant .text')?.textContent?.length ?? 0) > 20);
    await page.click('.send.stop');
    await page.waitForSelector('.tag:has-text("stopped")');
    while (place.fake.counts.running > 0) await new Promise((done) => setTimeout(done, 10));
    equal(place.fake.counts.cancelled, 1, 'the server was told');
    const partial = (await texts(page))[1];
    check(partial.length > 15 && !partial.endsWith('100'), `a partial text is kept: ${partial}`);
    await page.click('button:has-text("Continue")');
    await finished(page);
    equal(place.fake.requests.length, 2, 'two requests');
    equal(place.fake.requests[1].messages.map((/** @type {any} */ message) => message.role), ['user', 'assistant'], 'no new turn');
    equal((await texts(page))[1], Array.from({ length: 100 }, (_, at) => at + 1).join(' '), 'the whole text');
    clean();
    await close();
  },

  'alternatives: editing and regenerating keep every branch, also over a reload': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'say one');
    await ask(page, 'say deeper');
    const first = page.locator('article.assistant').first();
    await first.hover();
    await first.locator('[aria-label="Regenerate"]').click();
    await finished(page);
    await page.locator('article.assistant [aria-label="Regenerate"]').click();
    await page.waitForFunction(() => document.querySelector('.alternatives span')?.textContent === '3 / 3');
    await finished(page);
    equal(await page.locator('article').count(), 2, 'the new branches are short');
    await page.click('[aria-label="Previous alternative"]');
    await page.click('[aria-label="Previous alternative"]');
    equal(await texts(page), ['say one', 'one', 'say deeper', 'deeper'], 'the first branch is whole');
    const mine = page.locator('article.user').first();
    await mine.hover();
    await mine.locator('[aria-label="Edit"]').click();
    await page.fill('.editor textarea', 'say changed');
    await page.click('.editor button:has-text("Save and send")');
    await finished(page);
    equal(await texts(page), ['say changed', 'changed'], 'the edited message has its own branch');
    await page.locator('article.user [aria-label="Previous alternative"]').click();
    equal((await texts(page)).length, 4, 'and the old one is still there');
    const before = await stored(page, 'messages');
    await page.reload();
    await page.waitForSelector('article');
    equal((await texts(page)).length, 4, 'after a reload');
    equal(await stored(page, 'messages'), before, 'the stored tree');
    const reply = page.locator('article.assistant').first();
    await reply.hover();
    await reply.locator('[aria-label="Edit"]').click();
    await page.fill('.editor textarea', 'rewritten');
    await page.click('.editor button:has-text("Save only")');
    equal((await texts(page)).slice(1), ['rewritten', 'say deeper', 'deeper'], 'an edit in place keeps what follows');
    await page.waitForSelector('.tag:has-text("edited")');
    clean();
    await close();
  },

  'delete and undo: the count is announced, and undo restores every byte': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'say one');
    await ask(page, 'say two');
    const before = await stored(page, 'messages');
    const reply = page.locator('article.assistant').first();
    await reply.hover();
    await reply.locator('.menu > .icon-button').click();
    await reply.locator('.menu-items button:has-text("Delete")').click();
    check((await page.innerText('dialog')).includes('3 messages'), 'the question says how many');
    await page.click('dialog button.danger');
    await page.waitForFunction(() => document.querySelectorAll('article').length === 1);
    equal((await stored(page, 'messages')).length, 1, 'they are gone from the store');
    await page.click('.toast button:has-text("Undo")');
    await page.waitForFunction(() => document.querySelectorAll('article').length === 4);
    equal(await stored(page, 'messages'), before, 'the stored messages');
    await page.locator('.entry .menu > .icon-button').click();
    await page.click('.menu-items button:has-text("Delete")');
    await page.waitForFunction(() => document.querySelectorAll('article').length === 0);
    equal((await stored(page, 'conversations')).length, 0, 'the chat is gone');
    await page.click('.toast button:has-text("Undo")');
    await page.waitForSelector('.entry');
    equal(await stored(page, 'messages'), before, 'and back');
    clean();
    await close();
  },

  'resume: a reload, a broken connection and a network that is gone lose and repeat nothing of a reply': async (place) => {
    place.fake.script.tokenMs = 15;
    const { page, context, clean, close } = await open(place);
    await ready(page);
    const whole = Array.from({ length: 700 }, (_, at) => at + 1).join(' ');
    const reaches = (/** @type {number} */ length) =>
      page.waitForFunction((/** @type {number} */ wanted) => (document.querySelector('article.assistant .text')?.textContent?.length ?? 0) >= wanted, length);
    await send(page, 'count 700');
    await reaches(150);
    await page.reload();
    await page.waitForSelector('.send.stop');
    await reaches(500);
    place.fake.drop();
    await reaches(800);
    await context.setOffline(true);
    place.fake.drop();
    await page.waitForSelector('.banner.warning');
    check(whole.startsWith((await texts(page))[1]), 'what is there is the beginning of the reply');
    await context.setOffline(false);
    await page.waitForSelector('.banner.warning', { state: 'detached' });
    await finished(page);
    equal((await texts(page))[1], whole, 'the text');
    const [reply] = (await stored(page, 'messages')).filter((message) => message.role === 'assistant');
    equal([reply.status, reply.content, reply.reply], ['complete', whole, undefined], 'what is stored');
    equal(place.fake.requests.length, 1, 'one request');
    clean(/ERR_/);
    await close();
  },

  'restart: a killed program is noticed, nothing is lost, and the page reconnects': async (place) => {
    const own = await startFake();
    own.script.tokenMs = 20;
    const { page, clean, close } = await open({ ...place, url: own.url });
    await ready(page);
    await send(page, 'count 200');
    await page.waitForFunction(() => (document.querySelector('article.assistant .text')?.textContent?.length ?? 0) > 20);
    await page.fill('#message', 'a draft');
    await own.stop();
    await page.waitForSelector('.banner.warning');
    check(await page.isDisabled('.send'), 'nothing can be sent');
    equal(await page.inputValue('#message'), 'a draft', 'the draft is kept');
    const partial = (await texts(page))[1];
    check(partial.startsWith('1 2 3'), 'the partial reply is readable');
    const back = await startFake({ port: Number(new URL(own.url).port) });
    await page.waitForSelector('.banner.warning', { state: 'detached' });
    equal(back.requests.length, 0, 'nothing is sent again');
    await page.waitForSelector('.tag:has-text("stopped")');
    await page.click('button:has-text("Continue")');
    await finished(page);
    check((await texts(page))[1].endsWith('199 200'), 'the rest of the text');
    await back.stop();
    clean(/status of 404|ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED_ENCODING|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/);
    await close();
  },

  'errors: said in words, as an alert, and the message can be sent again': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'refuse');
    const alert = page.locator('[role=alert]');
    check((await alert.innerText()).includes('the engine met an error'), 'what went wrong');
    check((await alert.innerText()).includes('start gemma2 again with -v'), 'what to do');
    place.fake.script.scriptText = 'now it works';
    await alert.locator('button:has-text("Retry")').click();
    await finished(page);
    equal(await texts(page), ['refuse', 'now it works'], 'after the retry');
    clean(/status of 500/);
    await close();
  },

  'context full: three ways on, and old turns are left out only when asked': async (place) => {
    place.fake.script.nCtx = 100;
    const { page, context, clean, close } = await open(place);
    await context.grantPermissions(['clipboard-read', 'clipboard-write']);
    await ready(page);
    await ask(page, 'say one two three four five six seven eight nine ten');
    await ask(page, 'say eleven twelve thirteen fourteen fifteen sixteen');
    await send(page, `say ${'word '.repeat(22)}`);
    await page.waitForSelector('.failure');
    await page.waitForSelector('.meter:is(.red, .full)');
    await page.click('.failure .flag');
    equal(await page.evaluate(() => navigator.clipboard.readText()), '-c 0', 'the flag is copied');
    equal(await page.locator('.left-out').count(), 0, 'nothing is left out yet');
    await page.click('.failure button.primary');
    await page.waitForSelector('.left-out .tag:has-text("not sent")');
    await finished(page);
    equal(await page.locator('article').count(), 6, 'everything is still shown');
    check((await page.locator('.left-out').count()) >= 2, 'old turns are marked');
    check(place.fake.requests.at(-1).messages.length < 5, 'and not sent');
    clean(/status of 400/);
    await close();
  },

  'truncated: what the server left out of a prompt is said at the reply and in its details': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'say one');
    equal(await page.locator('.tag').count(), 0, 'nothing was left out');
    place.fake.script.dropped = 2;
    await ask(page, 'say two');
    await page.waitForSelector('.tag:has-text("2 older messages were not read")');
    place.fake.script.dropped = 0;
    await page.reload();
    await page.waitForSelector('.tag:has-text("2 older messages were not read")');
    await page.locator('article.assistant').last().locator('.menu > .icon-button').click();
    await page.click('.menu-items button:has-text("Details")');
    check((await page.innerText('dialog .facts')).includes('2 older messages were not read'), 'in the details');
    await page.keyboard.press('Escape');
    clean();
    await close();
  },

  'form of replies: a schema and a grammar are kept to, and a mistake shows its line at the field': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.click('#settings');
    await page.click('label:has-text("JSON schema")');
    await page.fill('#setting-schema', '{"type": "object", "properties": {"color": {"type": "string"}}}');
    await page.keyboard.press('Escape');
    await ask(page, 'Which color?');
    equal(JSON.parse((await texts(page))[1]), { color: 'red' }, 'the reply parses');
    await page.click('.format-chip:has-text("JSON schema")');
    equal(await page.evaluate(() => document.activeElement?.id), 'setting-schema', 'the chip leads to the field');
    await page.click('label:has-text("Grammar")');
    await page.fill('#setting-grammar', 'root ::= "yes"\n\nthis is no rule');
    await page.waitForSelector('#setting-grammar-problem:has-text("line 3")');
    equal(await page.getAttribute('#setting-grammar', 'aria-invalid'), 'true', 'the field is marked');
    await page.click('#setting-grammar-problem button');
    equal(await page.evaluate(() => String(document.getSelection())), 'this is no rule', 'the line is selected');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    await ask(page, 'Yes?');
    check((await page.innerText('article [role=alert]')).includes('line 3, column 1'), 'the refusal names the line');
    await page.click('article [role=alert] button:has-text("Change the form")');
    await page.waitForSelector('#setting-grammar-problem:has-text("line 3")');
    await page.fill('#setting-grammar', 'root ::= "yes"');
    await page.waitForSelector('#setting-grammar-problem', { state: 'detached' });
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    await page.click('article [role=alert] button:has-text("Retry")');
    await finished(page);
    equal((await texts(page)).at(-1), 'yes', 'the reply');
    await page.click('.new-raw');
    await page.waitForSelector('.raw textarea');
    equal(await page.locator('.raw .format-chip').count(), 0, 'another chat has its own settings');
    await page.click('#settings');
    await page.click('label:has-text("Grammar")');
    await page.fill('#setting-grammar', 'nonsense');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    await page.fill('#message', 'Once');
    await page.click('button:has-text("Generate")');
    check((await page.innerText('.raw [role=alert]')).includes('line 1, column 1'), 'in a raw text, too');
    clean(/status of 400/);
    await close();
  },

  'another port: the page says that chats of the usual one are not here, once': async (place) => {
    place.fake.script.movedFrom = 8080;
    const { page, clean, close } = await open(place);
    await ready(page);
    const note = page.locator('.banner:has-text("port 8080")');
    check((await note.innerText()).includes('export there and import here'), 'what to do');
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
    clean();
    await close();
  },

  'hostile text: no payload of a model, a file or a title runs, whole or cut at every character': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.click('#settings');
    await page.click('label:has-text("Format my own messages")');
    await page.keyboard.press('Escape');
    const list = PAYLOADS.flatMap((payload, at) => [{ role: 'user', content: payload }, { role: 'assistant', content: payload, model: payload, failure: { message: payload }, edited: at % 2 === 0 }]);
    await importFile(page, chatFile(list, PAYLOADS[3]), `${PAYLOADS[4]}.json`.replaceAll('/', ''));
    await page.click('.entry-open');
    await page.waitForSelector('article');
    for (let at = 0; at < PAYLOADS.length * 2; at += 6) {
      await page.evaluate((/** @type {number} */ index) => document.querySelectorAll('article')[index].scrollIntoView(), at);
      await page.waitForFunction((/** @type {number} */ index) => [...document.querySelectorAll('article')].slice(index, index + 6).every((article) => article.querySelector('.text')?.matches('.rich')), at);
    }
    const allowed = 'article,p,a,code,pre,figure,figcaption,span,button,div,em,strong,del,h1,h2,h3,h4,h5,h6,ul,ol,li,blockquote,hr,br,table,thead,tbody,tr,th,td,svg,path,math,math *';
    const inspect = () =>
      page.evaluate((/** @type {string} */ selector) => {
        const bad = [];
        for (const element of document.querySelectorAll('article.message *')) {
          if (!element.matches(selector)) bad.push(element.outerHTML.slice(0, 120));
          for (const { name, value } of element.attributes) {
            if (/^on/i.test(name) || ['style', 'src', 'srcset', 'name', 'action'].includes(name)) bad.push(`${name}=${value}`);
            if (/href/.test(name) && !/^(https?:\/\/|mailto:|#)/.test(value)) bad.push(`${name}=${value}`);
          }
        }
        if ('pwned' in globalThis) bad.push('it ran');
        return bad;
      }, allowed);
    equal(await inspect(), [], 'in imported messages');
    const visible = await page.evaluate(() => document.querySelector('.thread')?.textContent ?? '');
    check(visible.includes('<img src=x onerror=pwned=1>'), 'the text stays visible');
    equal(await page.locator('.list :is(img, script, iframe)').count(), 0, 'in the title');
    await page.click('.new-chat');
    Object.assign(place.fake.script, { tokenMs: 0, scriptText: PAYLOADS.filter((payload) => !payload.includes('```')).join('\n\n'), nCtx: 100_000 });
    await send(page, 'go');
    while ((await page.locator('article.assistant .actions').count()) === 0) equal(await inspect(), [], 'while streaming');
    equal(await inspect(), [], 'after streaming');
    clean();
    await close();
  },

  'markdown: a reply with everything looks the same after a reload': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    place.fake.script.tokenMs = 1;
    await ask(page, 'file rich');
    await page.waitForSelector('article math');
    await page.waitForSelector('article .hljs-keyword');
    const html = () => page.evaluate(() => document.querySelector('article.assistant .text')?.innerHTML.replace(/>\s+</g, '><').trim());
    const streamed = await html();
    await page.reload();
    await page.waitForSelector('article math');
    await page.waitForSelector('article .hljs-keyword');
    equal(await html(), streamed, 'the markup');
    const source = await readFile(new URL('replies/rich.md', import.meta.url), 'utf8');
    equal((await stored(page, 'messages'))[1].content, source.replace(/\s+$/, source.match(/\s+$/)?.[0] ?? ''), 'the source');
    clean();
    await close();
  },

  'fast stream: the page keeps up, scrolling up stays put, a selection survives': async (place) => {
    const body = await readFile(new URL('replies/rich.md', import.meta.url), 'utf8');
    Object.assign(place.fake.script, { tokenMs: 1, nCtx: 100_000, scriptText: body.repeat(8) });
    const { page, clean, close } = await open(place);
    await ready(page);
    await send(page, 'go');
    await page.waitForSelector('article.assistant h2');
    await page.waitForFunction(() => document.querySelectorAll('article.assistant h2').length >= 2);
    await page.evaluate(() => {
      const heading = /** @type {Element} */ (document.querySelector('article.assistant h2'));
      document.getSelection()?.selectAllChildren(heading);
    });
    await page.mouse.move(700, 300);
    await page.mouse.wheel(0, -5000);
    await page.waitForSelector('.latest');
    await page.waitForFunction(() => document.querySelector('.thread')?.scrollTop === 0);
    const top = 0;
    await finished(page);
    equal(await page.evaluate(() => document.querySelector('.thread')?.scrollTop), top, 'the place that was scrolled to');
    equal(await page.evaluate(() => String(document.getSelection())), 'A sundial, briefly', 'the selection');
    await page.click('.latest');
    await page.waitForSelector('.latest', { state: 'detached' });
    clean();
    await close();
  },

  'five thousand messages: opening, scrolling, typing, replying and searching stay fast': async (place) => {
    Object.assign(place.fake.script, { nCtx: 10_000_000, tokenMs: 4 });
    const { page, clean, close } = await open(place);
    await ready(page);
    const body = '## Title\n\nSome **bold** text, a list:\n\n- one\n- two\n\n```js\nconst a = 1;\n```\n\nand an end.';
    const list = Array.from({ length: 5000 }, (_, at) => ({ role: at % 2 ? 'assistant' : 'user', content: at === 2500 ? 'the needle in the middle' : at % 2 ? `${at} ${body}` : `question ${at}` }));
    await importFile(page, chatFile(list));
    const opening = await page.evaluate(async () => {
      const start = performance.now();
      /** @type {HTMLElement} */ (document.querySelector('.entry-open')).click();
      while (document.querySelectorAll('article').length < 5000) await new Promise(requestAnimationFrame);
      await new Promise(requestAnimationFrame);
      return performance.now() - start;
    });
    await page.waitForFunction(() => document.querySelector('article:last-of-type .text')?.matches('.rich'));
    await settled(page);
    const nodes = await page.evaluate(() => document.querySelectorAll('.thread *').length);
    const heap = await page.evaluate(() => /** @type {any} */ (performance).memory.usedJSHeapSize / 1e6);
    const typing = await page.evaluate(async () => {
      const field = /** @type {HTMLTextAreaElement} */ (document.getElementById('message'));
      const times = [];
      for (let at = 0; at < 20; at += 1) {
        field.value += 'x';
        const start = performance.now();
        field.dispatchEvent(new Event('input', { bubbles: true }));
        await new Promise(requestAnimationFrame);
        times.push(performance.now() - start);
      }
      return times.sort((a, b) => a - b)[18];
    });
    const scrolling = await page.evaluate(async () => {
      const scroller = /** @type {HTMLElement} */ (document.querySelector('.thread'));
      let longest = 0;
      new PerformanceObserver((entries) => {
        for (const entry of entries.getEntries()) longest = Math.max(longest, entry.duration);
      }).observe({ type: 'longtask' });
      for (let at = 0; at < 60; at += 1) {
        scroller.scrollTop -= 900;
        await new Promise(requestAnimationFrame);
        await new Promise(requestAnimationFrame);
      }
      return longest;
    });
    await page.fill('#message', '');
    await ask(page, 'count 60');
    check(await page.evaluate(() => [...document.querySelectorAll('article .text')].at(-1)?.textContent?.trim().endsWith('60')), 'the reply at the end');
    const searching = await page.evaluate(async () => {
      const field = /** @type {HTMLInputElement} */ (document.getElementById('search'));
      const start = performance.now();
      field.value = 'needle';
      field.dispatchEvent(new Event('input', { bubbles: true }));
      while (!document.querySelector('.hit mark')) await new Promise(requestAnimationFrame);
      return performance.now() - start;
    });
    check(await page.evaluate(() => /** @type {any} */ (globalThis).find('the needle in the middle', false, false, true)), 'the browser finds text in the middle');
    console.log(`        opening ${opening.toFixed(0)} ms, ${nodes} nodes, heap ${heap.toFixed(0)} MB, typing p95 ${typing.toFixed(0)} ms, longest task while scrolling ${scrolling.toFixed(0)} ms, search ${searching.toFixed(0)} ms`);
    check(nodes <= 15_000, `${nodes} nodes`);
    check(heap <= 150, `heap ${heap} MB`);
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
      await page.click('.toast [aria-label="Close"]');
      await importFile(page, broken, 'broken.json');
      check((await page.innerText('.toast')).includes('was not imported'), `refused: ${broken.slice(0, 20)}`);
    }
    equal([await stored(page, 'conversations'), await stored(page, 'messages')], before, 'nothing changed');
    await context.clearCookies();
    await page.click('.toast [aria-label="Close"]');
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

  'two tabs: a rename shows in the other one': async (place) => {
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
    clean();
    await close();
  },

  'search: text is found without regard to case and accents, and opened at its place': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'say the Café is open');
    await page.click('.new-chat');
    await ask(page, 'say something else');
    await page.keyboard.press('Control+k');
    await page.waitForFunction(() => document.activeElement?.id === 'search');
    await page.keyboard.type('cafe');
    await page.waitForSelector('.hit mark');
    equal(await page.locator('.hit').count(), 1, 'one chat');
    equal((await page.innerText('.hit mark')), 'Café', 'the match');
    await page.click('.hit');
    await page.waitForSelector('article.user:has-text("Café")');
    await page.fill('#search', 'nowhere to be found');
    await page.waitForSelector('.list-empty');
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
    await page.waitForSelector('article.user .text:has-text("say edited")');
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
    place.fake.script.tokenMs = 1;
    for (const viewport of [{ width: 390, height: 844 }, { width: 320, height: 568 }, { width: 640, height: 320 }]) {
      const { page, clean, close } = await open(place, { context: { viewport, hasTouch: true, isMobile: true } });
      await ready(page);
      await ask(page, 'file rich');
      await ask(page, `say ${'averyveryverylongwordwithoutanyspaceatall'.repeat(6)}`);
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

  'settings: changed fields are marked, used, kept for the chat, and can be the default': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.click('#settings');
    await page.fill('#setting-temperature', '0');
    await page.waitForSelector('.note:has-text("temperature 0")');
    await page.fill('#setting-seed', '42');
    await page.fill('#setting-stop', 'END\nSTOP');
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
