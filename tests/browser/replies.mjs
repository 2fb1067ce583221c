/** Journeys of replies: how they come, end, fail and look. Against the scripted engine, for exact texts and exact timing. */

import { readFile } from 'node:fs/promises';

import { open } from './common.mjs';
import { startFake } from './fake-server.mjs';
import { ask, chatFile, check, equal, finished, importFile, ready, send, settled, stored, texts } from './harness.mjs';
import { PAYLOADS } from './payloads.mjs';

/** @typedef {import('./common.mjs').Place & { fake: import('./fake-server.mjs').Fake }} Place */

/** @type {Record<string, (place: Place) => Promise<void>>} */
export const replies = {
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

  'stream: formulas and colors are there while the reply is still being written': async (place) => {
    const body = await readFile(new URL('replies/rich.md', import.meta.url), 'utf8');
    Object.assign(place.fake.script, { tokenMs: 5, scriptText: `${body}\n\n${'and so on '.repeat(2000)}` });
    const { page, clean, close } = await open(place);
    await ready(page);
    await send(page, 'go');
    await page.waitForSelector('article.assistant math');
    await page.waitForSelector('article.assistant .hljs-keyword');
    equal(await page.locator('.send.stop').count(), 1, 'the reply is still being written');
    await page.keyboard.press('Escape');
    await finished(page);
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
    // For seconds: the reply comes to its end while nobody can hear it.
    while (place.fake.counts.running > 0) await new Promise((done) => setTimeout(done, 20));
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

  'restart: more context is noticed, however short the program was gone': async (place) => {
    const own = await startFake();
    const { page, clean, close } = await open({ ...place, url: own.url });
    await ready(page);
    await page.waitForSelector('.meter-text:has-text("4,096")');
    await own.stop();
    const back = await startFake({ port: Number(new URL(own.url).port) });
    back.script.nCtx = 8192;
    await page.waitForSelector('.meter-text:has-text("8,192")');
    equal(await page.locator('.meter-grow').count(), 0, 'a larger one is offered no more');
    await back.stop();
    clean(/ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/);
    await close();
  },

  'errors: said in words, as an alert, and the message can be sent again': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await ask(page, 'refuse');
    const alert = page.locator('[role=alert]');
    check((await alert.innerText()).includes('he engine met an error'), 'what went wrong');
    check((await alert.innerText()).includes('tart gemma2 again with -v'), 'what to do');
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
    await page.click('#settings');
    await page.fill('#setting-system', 'Be brief.');
    await page.keyboard.press('Escape');
    await page.waitForFunction(() => !document.querySelector('article')?.matches('.left-out'));
    equal(await page.locator('article').first().locator('.tag').count(), 0, 'the turn that carries the system text is sent');
    await page.fill('#message', `say ${'word '.repeat(90)}`);
    await page.waitForSelector('.notice.warn:has-text("Leave out the oldest turns"):has-text("New chat with the last answer")');
    await page.evaluate(() => navigator.clipboard.writeText(''));
    await page.click('.notice.warn .flag');
    equal(await page.evaluate(() => navigator.clipboard.readText()), '-c 0', 'the third way, before sending');
    check(!(await page.isVisible('.meter-grow')), 'it is said once');
    clean(/status of 400/);
    await close();
  },

  'context: a restart with more is offered while there is more, and not where there is not': async (place) => {
    const { page, context, clean, close } = await open(place);
    await context.grantPermissions(['clipboard-read', 'clipboard-write']);
    await ready(page);
    check((await page.innerText('.meter-grow')).replace(/\s+/g, ' ').includes('restart with -c 0 for 8,192'), await page.innerText('.meter-grow'));
    await page.click('.meter-grow .flag');
    equal(await page.evaluate(() => navigator.clipboard.readText()), '-c 0', 'the flag is copied');
    place.fake.script.nCtx = 8192;
    await page.reload();
    await ready(page);
    equal(await page.locator('.meter-grow').count(), 0, 'nothing more to have');
    clean();
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
    check((await page.innerText('#setting-grammar-problem')).includes('rite a rule as'), 'what to do');
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
    // Names of files, of which systems allow nearly everything.
    const names = PAYLOADS.map((payload) => payload.replace(/[/\0\n]/g, '∕').slice(0, 80));
    await page.setInputFiles('.composer input[type=file]', names.map((name) => ({ name, mimeType: 'text/plain', buffer: Buffer.from('text') })));
    await page.waitForFunction((/** @type {number} */ count) => document.querySelectorAll('.composer .file').length === count, names.length);
    equal(await page.locator('.composer .file > span[dir]').allInnerTexts(), names.map((name) => name.replace(/\s+/g, ' ')), 'names are shown as they are');
    await page.fill('#message', 'say x');
    await page.press('#message', 'Enter');
    await finished(page);
    const named = await page.evaluate(() => ({ bad: [...document.querySelectorAll('.files *')].filter((one) => !one.matches('li, details, summary, svg, path, span, pre')).map((one) => one.outerHTML), ran: 'pwned' in globalThis }));
    equal(named, { bad: [], ran: false }, 'in names of files');
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
    equal((await stored(page, 'messages')).find((message) => message.role === 'assistant').content, source.replace(/\s+$/, source.match(/\s+$/)?.[0] ?? ''), 'the source');
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
};
