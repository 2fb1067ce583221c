import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { JSDOM } from 'jsdom';

import { setLanguage } from '../src/i18n.js';
import { mend } from '../src/mend.js';
import { random } from './random.js';

/** @type {typeof import('../src/growing.js')} */
let markdown;
const { window } = new JSDOM('<!doctype html><body></body>');

before(async () => {
  Object.assign(globalThis, { window, document: window.document });
  markdown = await import('../src/growing.js');
  markdown.tools.katex = /** @type {any} */ ((await import('katex')).default);
  markdown.tools.colored = (await import('../src/colors.js')).colored;
});

/** @param {string} text @returns {HTMLElement} */
function rendered(text) {
  const box = window.document.createElement('div');
  box.append(markdown.fragment(text).content);
  return box;
}

test('raw HTML is shown as text, not dropped', () => {
  const box = rendered('a <b>bold</b> word\n\n<div onclick="x()">block</div>\n\n<script>alert(1)</script>');
  assert.equal(box.querySelector('b, div[onclick], script'), null);
  assert.ok(box.textContent?.includes('<b>bold</b>'));
  assert.ok(box.textContent?.includes('<div onclick="x()">block</div>'));
  assert.ok(box.textContent?.includes('<script>alert(1)</script>'));
});

test('images are links, so that nothing is fetched', () => {
  const box = rendered('![a cat](https://example.org/cat.png) ![](https://example.org/dog.png)');
  assert.equal(box.querySelector('img'), null);
  const links = [...box.querySelectorAll('a')];
  assert.deepEqual(links.map((link) => link.textContent), ['image: a cat', 'image: https://example.org/dog.png']);
  assert.equal(links[0].getAttribute('href'), 'https://example.org/cat.png');
});

test('what the page adds to a text is in its language', async () => {
  await setLanguage('de');
  assert.equal(rendered('![Katze](https://example.org/cat.png)').textContent?.trim(), 'Bild: Katze');
  await setLanguage('en');
});

test('links go to http, https, mailto and fragments only, and give nothing away', () => {
  const good = rendered('[a](https://example.org/) [b](http://x.org) [c](mailto:a@b.c) [d](#part)');
  for (const link of good.querySelectorAll('a')) {
    assert.equal(link.getAttribute('rel'), 'noopener noreferrer');
    assert.equal(link.getAttribute('target'), '_blank');
  }
  assert.equal(good.querySelectorAll('a[href]').length, 4);
  const bad = ['javascript:alert(1)', 'JaVaScRiPt:alert(1)', 'java&#115;cript:alert(1)', '&#x6a;avascript:x', 'data:text/html,x', 'vbscript:x', 'file:///etc/passwd', 'blob:https://x/y', '//evil.example/x', '/v1/models', ' javascript:x'];
  for (const address of bad) {
    const link = rendered(`[click](<${address}>)`).querySelector('a');
    assert.equal(link?.hasAttribute('href') ?? false, false, address);
  }
});

test('control characters do not hide the scheme of a link', () => {
  assert.equal(markdown.safeLink('java\tscript:alert(1)'), false);
  assert.equal(markdown.safeLink('\u0001javascript:alert(1)'), false);
  assert.equal(markdown.safeLink('ht\ntps://example.org'), true);
});

test('formulas become MathML without styles or sources', () => {
  const box = rendered('Euler: $e^{i\\pi} + 1 = 0$ and\n\n$$\\frac{1}{2}$$\n\n\\[x^2\\] and \\(y\\)');
  assert.equal(box.querySelectorAll('math').length, 4);
  assert.equal(box.querySelectorAll('math[display="block"]').length, 2);
  assert.equal(box.querySelector('[style], annotation, semantics'), null);
});

test('formulas end where their own sign ends, and take no more room than a formula needs', () => {
  const box = rendered('\\[ a \\] and \\[ b \\]\n\n$$ c $$ and \\( d \\) and \\(e\\)\n\n$\\rule{9999em}{9999em}$');
  assert.deepEqual([...box.querySelectorAll('math')].map((math) => math.textContent), ['a', 'b', 'c', 'd', 'e', '']);
  assert.doesNotMatch(box.innerHTML, /9999/);
});

test('no run of spaces or marks keeps the page from going on', () => {
  for (const mark of ['$$', '\\[', '\\(', 'a $$', '$$a', '\\[ b']) {
    const text = `${mark}${' '.repeat(20_000)}`;
    assert.equal(rendered(text).querySelector('math'), null, mark);
    assert.equal(typeof mend(text), 'string');
    assert.equal(typeof mend(`${text}x`), 'string');
  }
  assert.equal(rendered('***a** '.repeat(3000)).querySelectorAll('p').length, 1);
});

test('a text that nests deeper than a parser follows is shown as it is', () => {
  const deep = `${'- '.repeat(6000)}end`;
  assert.equal(rendered(deep).textContent, deep);
  const box = window.document.createElement('div');
  const growing = new markdown.StreamRenderer(box);
  growing.update(deep);
  growing.finish(`${deep}ed`);
  assert.equal(box.textContent, `${deep}ed`);
});

test('money is not a formula', () => {
  for (const text of ['It costs $5 and $6.', 'from $ 5 to 6 $', '$5-$10', 'US$ and A$', '\\$x\\$']) {
    assert.equal(rendered(text).querySelector('math'), null, text);
  }
});

test('a formula that is wrong shows its source', () => {
  const box = rendered('$\\frac{1}$ and $\\href{javascript:x}{y}$');
  assert.equal(box.querySelector('code')?.textContent, '$\\frac{1}$');
  assert.equal(box.querySelector('[href]'), null);
});

test('code is colored in known languages and never read as markup', () => {
  const box = rendered('```js\nconst a = "<img src=x onerror=alert(1)>";\n```\n\n```unknown"><img>\n<b>x</b>\n```\n\n`<i>y</i>`');
  assert.ok(box.querySelector('.hljs-keyword'));
  assert.equal(box.querySelector('img, b, i'), null);
  assert.equal(box.querySelectorAll('figure.code button').length, 2);
});

test('task boxes are text', () => {
  const box = rendered('- [x] done\n- [ ] open');
  assert.equal(box.querySelector('input'), null);
  assert.ok(box.textContent?.includes('☑ done') && box.textContent.includes('☐ open'));
});

test('what is missing is reported, and the source is shown meanwhile', () => {
  const { katex, colored } = markdown.tools;
  Object.assign(markdown.tools, { katex: null, colored: null });
  const { content, missing } = markdown.fragment('$x$\n\n```js\n1\n```');
  Object.assign(markdown.tools, { katex, colored });
  assert.deepEqual([...missing].sort(), ['colored', 'katex']);
  assert.ok(content.textContent?.includes('$x$'));
});

const allowed = new Set(
  'p a code pre figure figcaption span button div em strong del h1 h2 h3 h4 h5 h6 ul ol li blockquote hr br table thead tbody tr th td math mrow mi mo mn ms mtext mspace mfrac msqrt mroot msub msup msubsup mover munder munderover mtable mtr mtd mstyle mpadded mphantom menclose'.split(' '),
);
const attributes = new Set('class href rel target type tabindex align start title xmlns display mathvariant width height stretchy fence separator lspace rspace minsize maxsize movablelimits accent columnalign rowspacing columnspacing scriptlevel displaystyle linethickness voffset depth notation mathcolor mathbackground'.split(' '));

/** @param {ParentNode} box @param {string} from */
function assertHarmless(box, from) {
  for (const element of box.querySelectorAll('*')) {
    assert.ok(allowed.has(element.localName), `<${element.localName}> from ${from}`);
    for (const { name } of element.attributes) assert.ok(attributes.has(name), `${name} on <${element.localName}> from ${from}`);
    const href = element.getAttribute('href');
    if (href !== null) assert.ok(markdown.safeLink(href), `${href} from ${from}`);
  }
}

test('no payload gets an element or attribute outside the list, whole or half written', async () => {
  const { PAYLOADS } = await import('../../tests/browser/payloads.mjs');
  assert.ok(PAYLOADS.length >= 60);
  for (const payload of PAYLOADS) {
    assertHarmless(rendered(payload), payload);
    const box = window.document.createElement('div');
    const stream = new markdown.StreamRenderer(box);
    // Every byte is cut at in the browser's own journey; this parser here is a hundred times slower.
    for (let end = 1; end <= payload.length; end += 11) {
      stream.update(payload.slice(0, end));
      assertHarmless(box, `${payload.slice(0, end)}…`);
    }
    stream.finish(payload);
    assertHarmless(box, payload);
  }
});

const documents = [
  '# Title\n\nSome *text* with **bold** and `code`.\n\n- one\n- two\n  - nested\n\n1. first\n\n   second paragraph\n2. next\n\n> quote\n> more\n\nEnd.',
  'Text\n\n```js\nconst a = 1;\n\nconst b = 2;\n```\n\nMore text\n\n~~~\nplain\n~~~\n\nlast',
  '| a | b |\n|---|--:|\n| 1 | 2 |\n| 3 | 4 |\n\nafter\n\n***\n\nHeading\n=======\n\ntext $x^2$ and\n\n$$\ny = 3\n$$\n\ndone',
  'See [one] and [two][2].\n\nMiddle.\n\nAnother.\n\nThird.\n\n[one]: https://example.org/1\n[2]: https://example.org/2\n\nTail',
  'a\n\nb\n\nc\n\n<div>\nraw\n</div>\n\nd\n\n    indented code\n\ne',
  '\r\nwindows\r\nlines\r\n\r\n- a\r\n- b\r\n\r\nend\r\n',
  '- one **bold**\n- two\n\n  loose\n- ```js\n  let a = 1;\n  ```\n- [ ] task\n- [x] done\n\n3. three\n4. four\n5. five\n\n| a | b |\n|:--|---|\n| `1` | <b> |\n| 3 | $x$ |\n| 5 | 6 |\n',
];

test('a streamed reply ends up exactly as if it had been shown at once', () => {
  for (const [at, text] of documents.entries()) {
    for (let seed = 1; seed <= 3; seed += 1) {
      const { below } = random(seed * 100 + at);
      const box = window.document.createElement('div');
      const stream = new markdown.StreamRenderer(box, { now: () => 0 });
      for (let end = 0; end < text.length; end += 1 + below(6 * seed * seed)) {
        stream.update(text.slice(0, end));
        const fresh = window.document.createElement('div');
        new markdown.StreamRenderer(fresh).update(text.slice(0, end));
        assert.equal(uncolored(box), uncolored(fresh), `document ${at}, seed ${seed}, ${JSON.stringify(text.slice(0, end))}`);
      }
      stream.finish(text);
      assert.equal(plain(box), plain(rendered(text)), `document ${at}, seed ${seed}`);
    }
  }
});

/** @param {HTMLElement} box its markup without line breaks between blocks, which nobody sees */
const plain = (box) => flat(box.innerHTML);

/** @param {string} html */
const flat = (html) => html.replace(/>\s+</g, '><').replace(/<!--.*?-->/g, '').trim();

/** @param {HTMLElement} box colors may come a little later */
const uncolored = (box) => flat(box.innerHTML.replace(/<\/?span[^>]*>/g, ''));

test('of a block that grows only the end is touched: the last item, the last row, the last piece of code', () => {
  /** @type {[start: string, rest: string, selector: string][]} */
  const cases = [
    ['- one\n- two\n- thr', 'ee\n- four', 'li'],
    ['| a |\n|---|\n| 1 |\n| 2 |\n| 3', ' |\n| 4 |\n', 'tbody tr'],
  ];
  for (const [start, rest, selector] of cases) {
    const box = window.document.createElement('div');
    const stream = new markdown.StreamRenderer(box);
    stream.update(start);
    const before = [...box.querySelectorAll(selector)];
    before[0].setAttribute('data-mark', 'untouched');
    stream.update(start + rest);
    const after = [...box.querySelectorAll(selector)];
    assert.deepEqual([before.length, after.length], [3, 4]);
    assert.equal(after[0].getAttribute('data-mark'), 'untouched', 'not even looked at');
  }
  let now = 0;
  const box = window.document.createElement('div');
  const stream = new markdown.StreamRenderer(box, { now: () => now });
  stream.update('```js\nconst a = 1;');
  assert.equal(box.querySelectorAll('.hljs-keyword').length, 1);
  stream.update('```js\nconst a = 1;\nconst b = 2;');
  assert.equal(box.querySelector('code')?.textContent, 'const a = 1;\nconst b = 2;');
  assert.equal(box.querySelectorAll('.hljs-keyword').length, 1, 'colors wait');
  now = 1000;
  stream.update('```js\nconst a = 1;\nconst b = 2;\nconst');
  assert.equal(box.querySelectorAll('.hljs-keyword').length, 3, 'and come');
});

test('finished blocks are left alone while the reply grows', () => {
  const text = documents[0];
  const box = window.document.createElement('div');
  const stream = new markdown.StreamRenderer(box);
  stream.update(text);
  const heading = box.querySelector('h1');
  const shown = stream.frozen;
  assert.ok(shown > 20);
  stream.update(`${text}\n\nmore\n\nand more`);
  assert.equal(box.querySelector('h1'), heading, 'the same node');
  assert.ok(stream.frozen > shown);
});

test('growing text keeps its nodes, so that a selection survives', () => {
  const box = window.document.createElement('div');
  const stream = new markdown.StreamRenderer(box);
  stream.update('Some **bold** text that gr');
  const paragraph = box.querySelector('p');
  const last = paragraph?.lastChild;
  stream.update('Some **bold** text that grows');
  assert.equal(box.querySelector('p'), paragraph);
  assert.equal(paragraph?.lastChild, last);
  assert.equal(last?.nodeValue, ' text that grows');
});

test('unfinished marks do not flash', () => {
  /** @type {[string, string][]} */
  const cases = [
    ['some **bol', 'some **bol**'],
    ['some **bold*', 'some **bold**'],
    ['some *it', 'some *it*'],
    ['some `cod', 'some `cod`'],
    ['``a`b', '``a`b``'],
    ['see [the page](https://exa', 'see the page'],
    ['see [the page](', 'see the page'],
    ['text\n\n``', 'text\n\n'],
    ['text\n\n- ', 'text\n\n'],
    ['text\n\n#', 'text\n\n'],
    ['2 * 3', '2 * 3'],
    ['a ~~b', 'a ~~b~~'],
    ['```js\nlet a = "**"', '```js\nlet a = "**"'],
    ['```js\nlet a\n``', '```js\nlet a'],
    ['done.', 'done.'],
    ['a **b** and `c` d', 'a **b** and `c` d'],
    ['ends with **', 'ends with '],
    ['text\n\n| a | b', 'text\n'],
    ['text\n\n| a | b |\n|--', 'text\n'],
    ['| a | b |\n|--|--|', '| a | b |\n|--|--|'],
    ['| a | b |\n|--|--|\n| 1', '| a | b |\n|--|--|\n| 1'],
  ];
  for (const [text, expected] of cases) assert.equal(mend(text), expected, text);
});

test('mending changes nothing of a finished text but its very end', () => {
  for (const text of documents) {
    for (let end = 1; end <= text.length; end += 1) {
      const mended = mend(text.slice(0, end));
      let same = 0;
      while (same < mended.length && mended[same] === text[same]) same += 1;
      assert.ok(same >= Math.min(end, text.slice(0, end).lastIndexOf('\n\n') + 1) - 1, `${text.slice(0, end)} → ${mended}`);
    }
  }
});

test('very long code is shown without colors', () => {
  const long = 'let a = 1;\n'.repeat(7000);
  assert.equal(markdown.highlight(long, 'js').includes('hljs'), false);
  assert.equal(markdown.highlight('let a', 'js').includes('hljs'), true);
});
