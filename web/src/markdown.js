/**
 * Markdown to a document fragment: the only way text of a model or a person becomes markup, and the only module that may.
 *
 * text → marked (raw HTML becomes text, images become links) → DOMPurify (again: allow-list of elements and attributes,
 * link schemes) → fragment. The browser's Trusted Types enforcement sees one policy, DOMPurify's own. Nothing here runs at
 * import time that needs a document.
 */

import DOMPurify from 'dompurify';
import { Marked } from 'marked';

import { t } from './i18n.js';

/** A block of code longer than this is not colored: nobody reads colors in it, and it would cost a visible pause. */
const LONGEST_COLORED = 60_000;
/** In a paragraph longer than this stars and underscores stay what they are: pairing them costs its length squared. */
const LONGEST_EMPHASIZED = 10_000;

/**
 * @typedef {{ renderToString: (source: string, options: object) => string }} Katex
 *
 * @typedef {object} Tools large and not always needed; until they are here, formulas and code are shown as plain source
 * @property {Katex | null} katex
 * @property {((code: string, language: string) => string | null) | null} colored
 *
 * @typedef {keyof Tools} Tool
 * @typedef {(code: string, language: string) => string} Color code to HTML
 */

/** @type {Tools} filled by the page when a text needs them */
export const tools = { katex: null, colored: null };

/** What one synchronous run of the renderer uses, and the tools it would have needed. */
let run = { /** @type {Color} */ color: highlight, /** @type {Set<Tool>} */ missing: new Set() };

const marked = new Marked({
  gfm: true,
  async: false,
  // Undefined: it is no emphasis; false: let marked look.
  tokenizer: { emStrong: (_, whole) => (whole.length > LONGEST_EMPHASIZED ? undefined : false) },
  renderer: {
    html: ({ text, block }) => (block ? `<p class="raw">${escape(text.replace(/\n+$/, ''))}</p>` : escape(text)),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(t('message.image', { name: text || href }))}</a>`,
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
    code: ({ text, lang }) => {
      const language = (lang ?? '').trim().split(/[\s{,]/)[0].toLowerCase();
      return `<pre><code class="language-${escape(language)}">${run.color(text, language)}</code></pre>`;
    },
  },
  extensions: [
    maths('mathsBlock', 'block', ['$$', '\\['], [/^\$\$([^$]+)\$\$[ \t]*(?:\n|$)/, /^\\\[((?:(?!\\\])[^])+)\\\][ \t]*(?:\n|$)/], true),
    maths('mathsDisplay', 'inline', ['$$', '\\['], [/^\$\$([^$]+)\$\$/, /^\\\[((?:(?!\\\])[^])+)\\\]/], true),
    // A dollar opens only where no space follows, and closes only where no digit does: "$5 and $6" is money.
    maths('mathsInline', 'inline', ['$', '\\('], [/^\$(?![\s$])((?:\\.|[^\\\n$])*?[^\s\\$]|[^\s\\$])\$(?![\d$])/, /^\\\(((?:(?!\\\))[^])+)\\\)/], false),
  ],
});

/**
 * @param {string} name
 * @param {'block' | 'inline'} level
 * @param {string[]} opening
 * @param {RegExp[]} rules
 * @param {boolean} display
 * @returns {any} a marked extension
 */
function maths(name, level, opening, rules, display) {
  return {
    name,
    level,
    start: (/** @type {string} */ source) => {
      const places = opening.map((mark) => source.indexOf(mark)).filter((at) => at >= 0);
      return places.length > 0 ? Math.min(...places) : undefined;
    },
    tokenizer: (/** @type {string} */ source) => {
      const close = /** @type {Record<string, string>} */ ({ '\\[': '\\]', '\\(': '\\)' })[source.slice(0, 2)];
      if (close && !source.includes(close)) return undefined;
      for (const rule of rules) {
        const found = rule.exec(source);
        // Trimmed here: spaces that a rule itself could divide in many ways would take forever.
        if (found && found[1].trim() !== '') return { type: name, raw: found[0], text: found[1].trim() };
      }
      return undefined;
    },
    renderer: (/** @type {{ text: string, raw: string }} */ token) => {
      const formula = renderFormula(token.text, token.raw.trim(), display);
      return level === 'block' ? `<p class="maths">${formula}</p>\n` : formula;
    },
  };
}

/** A formula in a paragraph that grows is asked for again with every word. */
const MOST_FORMULAS = 200;
/** @type {Map<string, string>} */
const formulas = new Map();

/**
 * @param {string} tex
 * @param {string} source with its delimiters, shown when the formula cannot be set
 * @param {boolean} display
 */
function renderFormula(tex, source, display) {
  if (!tools.katex) {
    run.missing.add('katex');
    return `<code>${escape(source)}</code>`;
  }
  const known = formulas.get(`${display}${source}`);
  if (known !== undefined) return known;
  const html = typeset(tools.katex, tex, display) ?? `<code>${escape(source)}</code>`;
  if (formulas.size >= MOST_FORMULAS) formulas.clear();
  formulas.set(`${display}${source}`, html);
  return html;
}

/** @param {Katex} katex @param {string} tex @param {boolean} display @returns {string | null} null where it is no formula */
function typeset(katex, tex, display) {
  try {
    const html = katex.renderToString(tex, {
      displayMode: display,
      output: 'mathml',
      trust: false,
      maxExpand: 100,
      // In em: a formula that paints over what is around it is none.
      maxSize: 40,
      throwOnError: true,
      strict: 'ignore',
      macros: { '\\pmb': '\\boldsymbol{#1}' },
    });
    // The source as an annotation is not shown by browsers that know MathML and is no element the sanitizer lets through.
    return html.replace(/<annotation[^>]*>[^<]*<\/annotation>/g, '').replace(/<\/?semantics>/g, '');
  } catch {
    return null;
  }
}

/**
 * Code as HTML with `hljs-` classes; code in an unknown language is only escaped.
 * @param {string} code
 * @param {string} language
 */
export function highlight(code, language) {
  if (language === '' || code.length > LONGEST_COLORED) return escape(code);
  if (!tools.colored) run.missing.add('colored');
  return tools.colored?.(code, language) ?? escape(code);
}

/** @param {string} text */
export function escape(text) {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
    .replaceAll("'", '&#39;');
}

/**
 * The first half of the pipeline, needing no document. Its result is not safe to show: only `fragment` sanitizes.
 * @param {string} text
 * @param {Color} [color]
 * @returns {{ html: string, missing: Set<Tool> }}
 */
export function toHtml(text, color = highlight) {
  const clean = normalize(text);
  run = { color, missing: new Set() };
  const html = orPlain(() => /** @type {string} */ (marked.parse(clean)), clean);
  return { html, missing: run.missing };
}

/**
 * What `make` makes of a text; where that nests deeper than the parser can follow, the text as it is.
 * @param {() => string} make
 * @param {string} text
 */
function orPlain(make, text) {
  try {
    return make();
  } catch {
    return `<p class="raw">${escape(text)}</p>`;
  }
}

/** @param {string} text line ends as one character, and no NUL, which parsers treat in ways of their own */
export const normalize = (text) => text.replace(/\r\n?/g, '\n').replaceAll('\0', '\ufffd');

const FORBIDDEN_ELEMENTS = [
  'style', 'form', 'input', 'button', 'textarea', 'select', 'option', 'img', 'picture', 'video', 'audio', 'source', 'track',
  'iframe', 'object', 'embed', 'dialog', 'map', 'area', 'svg', 'template', 'slot', 'marquee', 'meter', 'progress', 'nav',
  'main', 'header', 'footer', 'article', 'label', 'fieldset', 'legend', 'datalist', 'output', 'canvas', 'mglyph',
];
const FORBIDDEN_ATTRIBUTES = [
  'style', 'id', 'name', 'src', 'srcset', 'background', 'poster', 'action', 'formaction', 'tabindex', 'role', 'for',
  'popover', 'contenteditable', 'draggable', 'is', 'slot', 'part', 'accesskey', 'autofocus', 'xlink:href', 'ping', 'usemap',
];

/** @type {import('dompurify').DOMPurify | null} */
let purifier = null;

/** @returns {import('dompurify').DOMPurify} bound to the page's window on first use */
function purify() {
  if (purifier) return purifier;
  purifier = DOMPurify(/** @type {any} */ (globalThis.window));
  // The scheme is checked here and not by ALLOWED_URI_REGEXP: that one is applied to every attribute and would remove
  // `display="block"` from formulas.
  purifier.addHook('afterSanitizeAttributes', (node) => {
    if (node.tagName.toLowerCase() !== 'a') {
      node.removeAttribute('href');
      return;
    }
    const href = node.getAttribute('href') ?? '';
    if (!safeLink(href)) node.removeAttribute('href');
    if (node.hasAttribute('href')) {
      node.setAttribute('rel', 'noopener noreferrer');
      node.setAttribute('target', '_blank');
    }
  });
  return purifier;
}

/**
 * http, https, mailto and places in this page. Control characters and spaces are dropped first, as browsers do.
 * @param {string} href
 */
export function safeLink(href) {
  // eslint-disable-next-line no-control-regex
  return /^(?:https?:\/\/|mailto:|#)/i.test(href.replace(/[\u0000-\u0020\u007f-\u009f]/g, ''));
}

/** The second half of the pipeline. @param {string} html */
const sanitize = (html) => decorate(purified(html));

/** @param {string} html @returns {DocumentFragment} */
function purified(html) {
  const clean = purify().sanitize(html, {
    USE_PROFILES: { html: true, mathMl: true },
    FORBID_TAGS: FORBIDDEN_ELEMENTS,
    FORBID_ATTR: FORBIDDEN_ATTRIBUTES,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  return /** @type {DocumentFragment} */ (clean);
}

/**
 * What the page adds around code and tables: a caption with the language and a copy button, and boxes that can be scrolled
 * with the keyboard.
 * @param {DocumentFragment} content
 */
function decorate(content) {
  const page = globalThis.document;
  for (const pre of content.querySelectorAll('pre')) {
    const language = /language-([\w+#.-]+)/.exec(pre.querySelector('code')?.className ?? '')?.[1] ?? '';
    const figure = page.createElement('figure');
    figure.className = 'code';
    const caption = page.createElement('figcaption');
    const label = page.createElement('span');
    label.textContent = language;
    const button = page.createElement('button');
    button.type = 'button';
    button.className = 'copy-code';
    button.textContent = labels.copy;
    caption.append(label, button);
    pre.replaceWith(figure);
    pre.tabIndex = 0;
    figure.append(caption, pre);
  }
  for (const item of content.querySelectorAll('li')) {
    if (/^\s*[☐☑] /.test(item.textContent ?? '')) item.classList.add('task');
  }
  for (const table of content.querySelectorAll('table')) {
    const box = page.createElement('div');
    box.className = 'table';
    box.tabIndex = 0;
    table.replaceWith(box);
    box.append(table);
  }
  return content;
}

/** Words this module shows; set from the page's language. */
export const labels = { copy: 'Copy' };

/**
 * Finished text as a safe fragment, and the tools that would make it better.
 * @param {string} text
 * @returns {{ content: DocumentFragment, missing: Set<Tool> }}
 */
export function fragment(text) {
  const { html, missing } = toHtml(text);
  return { content: sanitize(html), missing };
}

/** @param {string} text normalized @returns {import('marked').TokensList} its blocks */
export function lex(text) {
  try {
    return marked.lexer(text);
  } catch {
    // As in `orPlain`.
    return Object.assign([{ type: /** @type {const} */ ('html'), block: true, pre: false, raw: text, text }], { links: {} });
  }
}

/**
 * Some blocks of a text as a safe fragment, and the tools that would make it better.
 * @param {any[]} tokens
 * @param {Color} color
 * @returns {{ content: DocumentFragment, missing: Set<Tool> }}
 */
export function render(tokens, color) {
  run = { color, missing: new Set() };
  const html = orPlain(() => marked.parser(tokens), tokens.map(({ raw }) => raw).join(''));
  return { content: sanitize(html), missing: run.missing };
}

/**
 * Finished text as safe markup for a page of its own.
 * @param {string} text
 */
export function safeMarkup(text) {
  const box = globalThis.document.createElement('div');
  box.append(purified(toHtml(text).html));
  return box.innerHTML;
}
