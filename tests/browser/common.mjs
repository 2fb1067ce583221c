/**
 * Journeys that hold for any model behind the page, also one that writes nonsense: they are run against the real program and
 * against the scripted engine.
 */

import { readFile } from 'node:fs/promises';
import { request } from 'node:http';

import { ask, chatFile, check, dismiss, equal, finished, importFile, openPage, ready, send, stored, texts } from './harness.mjs';
import { PAYLOADS } from './payloads.mjs';

/** @typedef {import('./harness.mjs').Watched} Watched */
/** @typedef {{ browser: any, url: string, watch: (page: Watched) => void }} Place */

/** @param {Place} place @param {Parameters<typeof openPage>[2]} [options] */
export async function open({ browser, url, watch }, options) {
  const opened = await openPage(browser, url, options);
  watch(opened);
  return opened;
}

/** @param {any} page @param {number} tokens so that a journey does not depend on how much the model has to say */
async function limitReply(page, tokens) {
  await page.click('#settings');
  await page.fill('#setting-maxTokens', String(tokens));
  await page.keyboard.press('Escape');
  await page.waitForSelector('dialog', { state: 'detached' });
}

/** Waits until the field has this text. @param {any} page @param {string} text */
const holds = (page, text) =>
  page.waitForFunction((/** @type {string} */ text) => /** @type {HTMLTextAreaElement | null} */ (document.getElementById('message'))?.value === text, text);

/** @type {Record<string, (place: Place) => Promise<void>>} */
export const common = {
  'first run: the page is ready, named, and waits for a message': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    equal(await page.title(), 'gemma2', 'title');
    equal(await page.evaluate(() => document.activeElement?.id), 'message', 'the focus is in the message field');
    const props = await page.evaluate(async () => (await fetch('/props')).json());
    equal(await page.locator('.banner.demo').count(), props.is_demo ? 1 : 0, 'the notice of the demo model');
    check((await page.textContent('.chip')).includes(props.model_name), 'the model is named');
    equal(await page.locator('article').count(), 0, 'no messages yet');
    clean();
    await close();
  },

  'send: the reply is streamed, stored, and equal to what the server counted': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await limitReply(page, 24);
    await ask(page, 'Tell me about the moon.');
    const shown = await texts(page);
    equal(shown.length, 2, 'two messages');
    equal(shown[0], 'Tell me about the moon.', 'the sent text');
    const [reply] = (await stored(page, 'messages')).filter((message) => message.role === 'assistant');
    check(reply.content.length > 0, 'the reply has text');
    check(reply.replyTokens >= 1 && reply.replyTokens <= 24, `the server counted ${reply.replyTokens} tokens`);
    check(Number.isInteger(reply.params.seed), 'the seed is recorded');
    check(reply.timings.predicted_per_second > 0, 'the speed is recorded');
    equal(await page.evaluate(() => document.activeElement?.id), 'message', 'the field kept the focus');
    const counted = await page.evaluate(async (/** @type {string} */ content) => {
      const messages = [{ role: 'user', content: 'Tell me about the moon.' }, { role: 'assistant', content }];
      const response = await fetch('/apply-template', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ messages }) });
      return (await response.json()).n_tokens;
    }, reply.content);
    await page.waitForFunction((/** @type {number} */ count) => document.querySelector('.meter-text')?.textContent?.includes(` ${count.toLocaleString('en')} / `), counted);
    clean();
    await close();
  },

  'stop: the server’s slot becomes free, and the page usable': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await send(page, 'Write as much as you can about the sea.');
    await page.waitForSelector('article.assistant');
    // A small model may be done before a hand could stop it; then there is nothing to stop, but the rest holds.
    await page.keyboard.press('Escape');
    await finished(page);
    await page.evaluate(async () => {
      for (let busy = true; busy; ) {
        const slots = await (await fetch('/slots')).json();
        busy = slots.some((/** @type {any} */ slot) => slot.is_processing);
      }
    });
    const [reply] = (await stored(page, 'messages')).filter((message) => message.role === 'assistant');
    check(['stopped', 'complete', 'cut'].includes(reply.status), `the reply is ${reply.status}`);
    if (reply.status === 'stopped') await page.waitForSelector('.tag:has-text("stopped")');
    await page.fill('#message', 'next');
    check(await page.isEnabled('.send'), 'the next message can be sent');
    clean();
    await close();
  },

  'templates: both are prefilled, what is shown is what the model reads, and changes are used': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.click('#settings');
    equal(await page.inputValue('#setting-promptTemplate'), '{{history}}\n<start_of_turn>{{char}}\n', 'the prompt template');
    equal(await page.inputValue('#setting-historyTemplate'), '<start_of_turn>{{name}}\n{{message}}<end_of_turn>', 'the history template');
    equal(await page.inputValue('#setting-userName'), 'user', 'the name of the person');
    equal(await page.inputValue('#setting-charName'), 'model', 'the name of the model');
    await page.keyboard.press('Escape');
    const shown = async () => {
      await page.click('.meter-button');
      const text = await page.innerText('.prompt');
      const control = await page.locator('.prompt .control').allInnerTexts();
      await page.keyboard.press('Escape');
      await page.waitForSelector('dialog', { state: 'detached' });
      return { text: text.replace(/^<bos>/, ''), control: control.filter((/** @type {string} */ piece) => piece !== '<bos>') };
    };
    await page.fill('#message', 'Hi');
    equal((await shown()).text, '<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n', 'the prompt for one message');
    await page.fill('#message', 'a {{char}} and {{prompt}} and <end_of_turn> b');
    const typed = await shown();
    equal(typed.text, '<start_of_turn>user\na {{char}} and {{prompt}} and <end_of_turn> b<end_of_turn>\n<start_of_turn>model\n', 'typed braces and markers stay text');
    equal(typed.control, ['<start_of_turn>', '<end_of_turn>', '<start_of_turn>'], 'a typed marker is no control token');
    await page.click('.meter-button');
    await page.click('label:has-text("Show token numbers")');
    const tokens = await page.evaluate(async () => {
      const messages = [{ role: 'user', content: 'a {{char}} and {{prompt}} and <end_of_turn> b' }];
      const response = await fetch('/apply-template', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ messages, with_pieces: true }) });
      return (await response.json()).tokens;
    });
    equal((await page.locator('.prompt .piece small').allInnerTexts()).map(Number), tokens.map((/** @type {any} */ token) => token.id), 'the numbers of the tokens');
    const marker = tokens.find((/** @type {any} */ token) => token.control && token.piece === '<end_of_turn>');
    equal(tokens.filter((/** @type {any} */ token) => token.id === marker.id).length, 1, 'the typed marker has not the number of the real one');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    await page.click('#settings');
    await page.fill('#setting-system', 'Be brief.');
    await page.fill('#setting-historyTemplate', '<start_of_turn>{{name}}: {{message}}<end_of_turn>');
    await page.fill('#setting-charName', 'sage');
    await page.waitForSelector('.note:has-text("trained")');
    await page.keyboard.press('Escape');
    await page.fill('#message', 'Hi');
    equal((await shown()).text, '<start_of_turn>user: Be brief.\n\nHi<end_of_turn>\n<start_of_turn>sage\n', 'the changed prompt');
    // What it is made from may change while it is shown: never that of a moment ago.
    await page.click('.meter-button');
    await page.waitForSelector('.prompt:has-text("Be brief.")');
    await page.evaluate(() => {
      const field = /** @type {HTMLTextAreaElement} */ (document.getElementById('message'));
      field.value = 'Hello';
      field.dispatchEvent(new Event('input', { bubbles: true }));
    });
    await page.waitForFunction(() => !document.querySelector('.prompt')?.textContent?.includes('Hi'));
    await page.waitForSelector('.prompt:has-text("Hello")');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    const request = page.waitForRequest('**/v1/chat/completions');
    await page.press('#message', 'Enter');
    const body = (await request).postDataJSON();
    equal(body.templates.char_name, 'sage', 'the name is sent');
    equal(body.messages[0], { role: 'system', content: 'Be brief.' }, 'the system text is sent');
    await page.waitForSelector('article.assistant');
    await page.keyboard.press('Escape');
    await finished(page);
    clean();
    await close();
  },

  'templates: every turn of a longer chat is rendered as Gemma’s own template does': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    for (const turns of [2, 5]) {
      const list = Array.from({ length: turns - 1 }, (_, at) => [{ role: 'user', content: `question ${at}` }, { role: 'assistant', content: `answer ${at}` }]).flat();
      await importFile(page, chatFile(list, `${turns} turns`).replaceAll('"imported"', `"imported${turns}"`).replaceAll('"i0', `"i${turns}`));
      await dismiss(page);
      await page.click(`.entry-open:has-text("${turns} turns")`);
      // Not the chat before it: what is typed belongs to the one that is open.
      await page.waitForSelector(`article.assistant:has-text("answer ${turns - 2}")`);
      await page.fill('#message', ' the last one\n');
      await page.click('.meter-button');
      const before = list.map(({ role, content }) => `<start_of_turn>${role === 'user' ? 'user' : 'model'}\n${content}<end_of_turn>\n`).join('');
      const ending = '<start_of_turn>user\nthe last one<end_of_turn>\n<start_of_turn>model\n';
      await page.waitForSelector('.prompt:has-text("the last one")');
      equal((await page.innerText('.prompt')).replace(/^<bos>/, ''), `${before}${ending}`, `${turns} turns`);
      await page.keyboard.press('Escape');
      await page.waitForSelector('dialog', { state: 'detached' });
      await page.fill('#message', '');
    }
    clean();
    await close();
  },

  'raw text: the README’s example is read with its markers as control tokens': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    const readme = await readFile(new URL('../../README.md', import.meta.url), 'utf8');
    const [, prompt] = /-p '(<start_of_turn>user\n[^']*<start_of_turn>model\n)'/.exec(readme) ?? [];
    check(prompt, 'the README has the example');
    await page.click('.new-raw');
    await page.waitForSelector('.raw textarea');
    await limitReply(page, 4);
    await page.fill('#message', prompt);
    await page.click('.meter-button');
    await page.waitForSelector('.prompt .control');
    equal((await page.locator('.prompt .control').allInnerTexts()).filter((/** @type {string} */ piece) => piece !== '<bos>'), ['<start_of_turn>', '<end_of_turn>', '<start_of_turn>'], 'the markers');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    await page.click('button:has-text("Generate")');
    await page.waitForFunction((/** @type {number} */ length) => !document.querySelector('.send.stop') && /** @type {HTMLTextAreaElement} */ (document.getElementById('message')).value.length > length, prompt.length);
    clean();
    await close();
  },

  'raw text: the model goes on with exactly what is there': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await page.click('.new-raw');
    await page.waitForSelector('.raw textarea');
    await limitReply(page, 12);
    const before = '<start_of_turn>user\nName a color.<end_of_turn>\n<start_of_turn>model\n';
    await page.fill('#message', before);
    await page.click('.meter-button');
    await page.waitForSelector('.prompt .control');
    equal((await page.locator('.prompt .control').allInnerTexts()).slice(-3), ['<start_of_turn>', '<end_of_turn>', '<start_of_turn>'], 'markers are control tokens');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    const request = page.waitForRequest('**/completion');
    await page.click('button:has-text("Generate")');
    equal((await request).postDataJSON().prompt, before, 'the prompt');
    await page.waitForFunction((/** @type {number} */ length) => !document.querySelector('.send.stop') && /** @type {HTMLTextAreaElement} */ (document.getElementById('message')).value.length > length, before.length);
    const after = await page.inputValue('#message');
    check(after.startsWith(before), 'the text before stays');
    await page.waitForFunction((/** @type {string} */ added) => String(document.getSelection()) === added, after.slice(before.length));
    await page.reload();
    await page.waitForSelector('.raw textarea');
    await holds(page, after);
    clean();
    await close();
  },

  'probabilities: each token shows the likeliest others, and another one branches there': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await limitReply(page, 8);
    await page.click('#settings');
    await page.fill('#setting-probabilities', '5');
    await page.keyboard.press('Escape');
    await page.waitForSelector('dialog', { state: 'detached' });
    const asked = page.waitForRequest('**/v1/chat/completions');
    await ask(page, 'say one two three four');
    // The same seed gives the same reply.
    const again = await page.evaluate(async (/** @type {string} */ body) => {
      const response = await fetch('/v1/chat/completions', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
      return response.text();
    }, (await asked).postData());
    const told = again
      .split('\n')
      .filter((/** @type {string} */ line) => line.startsWith('data: {'))
      .flatMap((/** @type {string} */ line) => JSON.parse(line.slice(6)).choices?.[0]?.logprobs?.content ?? [])
      .map((/** @type {any} */ token) => [token.token, ...token.top_logprobs.map((/** @type {any} */ one) => one.token)]);
    await page.locator('article.assistant .menu > .icon-button').click();
    await page.click('.menu-items button:has-text("Show probabilities")');
    const [reply] = (await stored(page, 'messages')).filter((message) => message.role === 'assistant');
    equal(reply.probs.list.map((/** @type {any} */ token) => token[0]).join(''), reply.content, 'the tokens are the text');
    for (const [, share, likeliest] of reply.probs.list) {
      const sum = likeliest.reduce((/** @type {number} */ total, /** @type {any} */ one) => total + one[1], 0);
      check(share >= 0 && share <= 1 && sum <= 1.001 && likeliest.length <= 5, `shares ${share}, ${sum}`);
    }
    equal(await page.locator('.token').count(), reply.probs.list.length, 'all tokens are shown');
    const kept = reply.probs.list.map((/** @type {any} */ token) => [token[0], ...token[2].map((/** @type {any} */ one) => one[0])]);
    equal(told.slice(0, kept.length), kept, 'what the server said is what is recorded');
    await page.locator('.token').first().focus();
    await page.waitForSelector('.likely');
    equal(await page.locator('.token[tabindex="0"]').count(), 1, 'one stop of the Tab key');
    await page.keyboard.press('End');
    equal(await page.locator('.token').last().getAttribute('aria-expanded'), 'true', 'the last token');
    await page.keyboard.press('Escape');
    await page.waitForSelector('.likely', { state: 'detached' });
    await page.keyboard.press('Home');
    await page.waitForSelector('.likely');
    await page.keyboard.press('Tab');
    check(await page.evaluate(() => document.activeElement?.matches('.likely button')), 'Tab goes to the others');
    await page.keyboard.press('Enter');
    await page.waitForSelector('.alternatives span:has-text("2 / 2")');
    await finished(page);
    const branch = (await stored(page, 'messages')).filter((message) => message.role === 'assistant').find(({ id }) => id !== reply.id);
    check(branch.probs.list[0][0] !== reply.probs.list[0][0] && branch.content.startsWith(branch.probs.list[0][0]), 'the branch begins with the other token');
    clean();
    await close();
  },

  'reload: the conversation is still there': async (place) => {
    const { page, clean, close } = await open(place);
    await ready(page);
    await limitReply(page, 8);
    await ask(page, 'Remember this line.');
    const before = await texts(page);
    await page.reload();
    await ready(page);
    await page.waitForSelector('article.assistant .text.rich');
    equal(await texts(page), before, 'the messages');
    check((await page.textContent('.entry.open')).includes('Remember this line.'), 'the chat is in the list');
    check((await page.title()).startsWith('Remember this line.'), 'the title');
    clean();
    await close();
  },

  'hostile text: what a person types is shown and never run': async (place) => {
    const { page, clean, close } = await open(place, { path: `?q=${encodeURIComponent(PAYLOADS[3])}` });
    await ready(page);
    // What is typed waits for the store, the model's name does not.
    await holds(page, PAYLOADS[3]);
    equal(await page.locator('article').count(), 0, '?q= never sends');
    equal(new URL(page.url()).search, '', '?q= is used once');
    await page.fill('#message', 'other');
    while (!(await stored(page, 'drafts')).some((one) => one.value === 'other'));
    await page.reload();
    await ready(page);
    await holds(page, 'other');
    await limitReply(page, 4);
    const all = PAYLOADS.filter((payload) => !payload.includes('\u0000')).slice(0, 12).join('\n\n');
    await send(page, all);
    await page.waitForSelector('article.user');
    await page.keyboard.press('Escape');
    await page.waitForSelector('article.user .text');
    check((await page.innerText('article.user .text')).includes('<script>pwned=1</script>'), 'the text stays visible');
    equal(await page.evaluate(() => 'pwned' in globalThis), false, 'nothing ran');
    equal(await page.locator('article :is(script, img, iframe, svg:not(.icon, .gem), style, form:not(.editor), input)').count(), 0, 'no such element');
    await finished(page);
    clean(/status of 400/);
    await close();
  },

  'privacy: another site’s name or page is refused': async (place) => {
    const { host, port, hostname } = new URL(place.url);
    /** @param {string} method @param {string} path @param {Record<string, string>} headers @returns {Promise<number | undefined>} */
    const status = (method, path, headers) =>
      new Promise((done, fail) => {
        const body = method === 'POST' ? '{"content": "x"}' : '';
        const sent = request({ hostname, port, method, path, headers: { 'Content-Type': 'application/json', ...headers } }, (response) => {
          response.resume();
          done(response.statusCode);
        });
        sent.on('error', fail);
        sent.end(body);
      });
    for (const name of ['evil.example', `evil.example:${port}`, `${host}.evil.example`]) {
      equal([await status('GET', '/', { Host: name }), await status('GET', '/props', { Host: name })], [403, 403], `the page as ${name}`);
    }
    for (const origin of ['https://evil.example', 'null', `http://${hostname}:1`]) {
      equal(await status('POST', '/tokenize', { Host: host, Origin: origin }), 403, `a call from ${origin}`);
    }
    equal(await status('POST', '/tokenize', { Host: host, Origin: `http://${host}` }), 200, 'a call from the page itself');
    const answer = await fetch(new URL('/props', place.url));
    equal(answer.headers.get('access-control-allow-origin'), null, 'nobody else may read it');
  },

  'privacy: the headers forbid everything that is not needed': async (place) => {
    const response = await fetch(place.url);
    const policy = response.headers.get('content-security-policy') ?? '';
    for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"]) {
      check(policy.includes(part), `the policy lacks ${part}: ${policy}`);
    }
    equal(response.headers.get('x-content-type-options'), 'nosniff', 'nosniff');
    equal(response.headers.get('referrer-policy'), 'no-referrer', 'referrer policy');
    const html = await response.text();
    check(!/<script(?![^>]*\bsrc=)/.test(html) && !/<style|\sstyle=|\son\w+=/.test(html), 'the page has inline script or style');
    const [, script] = /<script type="module" src="([^"]+)"/.exec(html) ?? [];
    const asset = await fetch(new URL(script, place.url));
    check((asset.headers.get('cache-control') ?? '').includes('immutable'), 'hashed files are cached for good');
    const notices = await fetch(new URL('THIRD-PARTY.txt', place.url));
    check((await notices.text()).includes('preact'), 'the notices are served');
  },
};
