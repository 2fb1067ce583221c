/**
 * The page's words. Messages are ICU-like: `{name}` is replaced, `{count, plural, one {# token} other {# tokens}}` chooses
 * by the language's own plural rule, and numbers are written the way the language writes them.
 */

import en from './i18n/en.js';

/** @typedef {keyof typeof en} Key */

/**
 * Languages by their own names, and where their words are; English is always there, also for a word that one of them lacks.
 * @type {Record<string, { name: string, load: () => Promise<{ default: Record<string, string> }> }>}
 */
export const LANGUAGES = {
  de: { name: 'Deutsch', load: () => import('./i18n/de.js') },
};

let language = 'en';
/** @type {Record<string, string>} */
let words = en;
/** @type {Set<() => void>} */
const listeners = new Set();

/** @param {() => void} listener called when the words have changed @returns {() => void} stops listening */
export function onLanguage(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/**
 * The language of the first of these that the page knows.
 * @param {readonly string[]} wanted as browsers name them: `de-AT`
 */
export function bestLanguage(wanted) {
  const known = wanted.map((name) => name.toLowerCase().split('-')[0]).find((name) => name === 'en' || Object.hasOwn(LANGUAGES, name));
  return known ?? 'en';
}

/**
 * Chooses a language. `pseudo` is English made longer and accented: what is not translated shows, and so does what overflows.
 * @param {string} name
 * @returns {Promise<string>} as `lang` attributes have it
 */
export async function setLanguage(name) {
  try {
    const known = Object.hasOwn(LANGUAGES, name);
    const translated = name === 'pseudo' ? pseudoWords() : known ? (await LANGUAGES[name].load()).default : {};
    words = { ...en, ...translated };
    language = known ? name : 'en';
  } catch {
    // The program may have been stopped; the page stays as it is.
  }
  for (const listener of listeners) listener();
  return language;
}

const pseudoWords = () => Object.fromEntries(Object.entries(en).map(([key, text]) => [key, pseudo(text)]));

/**
 * @param {Key} key
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function t(key, values = {}) {
  return format(words[key] ?? key, values, language);
}

/** @param {number} value @param {Intl.NumberFormatOptions} [options] */
export const formatNumber = (value, options) => new Intl.NumberFormat(language, options).format(value);

/** @param {number} time milliseconds since the epoch */
export const formatTime = (time) =>
  new Intl.DateTimeFormat(language, { dateStyle: 'medium', timeStyle: 'short' }).format(time);

/**
 * @param {string} message
 * @param {Record<string, string | number>} values
 * @param {string} locale
 * @returns {string}
 */
export function format(message, values, locale) {
  let written = '';
  let at = 0;
  while (at < message.length) {
    if (message[at] !== '{') {
      written += message[at];
      at += 1;
      continue;
    }
    const end = closing(message, at);
    written += argument(message.slice(at + 1, end), values, locale);
    at = end + 1;
  }
  return written;
}

/**
 * @param {string} inside what stands between the braces
 * @param {Record<string, string | number>} values
 * @param {string} locale
 */
function argument(inside, values, locale) {
  const plural = /^\s*(\w+)\s*,\s*plural\s*,/.exec(inside);
  if (!plural) {
    const value = values[inside.trim()];
    if (value === undefined) return `{${inside}}`;
    return typeof value === 'number' ? tools(locale).numbers.format(value) : isolated(value);
  }
  const count = Number(values[plural[1]]);
  const cases = pluralCases(inside.slice(plural[0].length));
  const chosen = cases.get(`=${count}`) ?? cases.get(tools(locale).plurals.select(count)) ?? cases.get('other') ?? '';
  return format(chosen.replaceAll('#', tools(locale).numbers.format(count)), values, locale);
}

/**
 * A name that runs from right to left, or says so of what follows, must not turn the sentence around it.
 * @param {string} value
 */
const isolated = (value) => (/[\u202a-\u202e\u2066-\u2069\p{Script=Hebrew}\p{Script=Arabic}]/u.test(value) ? `\u2068${value}\u2069` : value);

/** @type {Map<string, { numbers: Intl.NumberFormat, plurals: Intl.PluralRules }>} making one takes longer than a thousand uses */
const made = new Map();

/** @param {string} locale */
function tools(locale) {
  const known = made.get(locale) ?? { numbers: new Intl.NumberFormat(locale), plurals: new Intl.PluralRules(locale) };
  made.set(locale, known);
  return known;
}

/** @param {string} text `one {…} other {…}` */
function pluralCases(text) {
  /** @type {Map<string, string>} */
  const cases = new Map();
  let at = 0;
  for (;;) {
    const open = text.indexOf('{', at);
    if (open < 0) return cases;
    const end = closing(text, open);
    cases.set(text.slice(at, open).trim(), text.slice(open + 1, end));
    at = end + 1;
  }
}

/** @param {string} text @param {number} open where a `{` stands */
function closing(text, open) {
  let depth = 0;
  for (let at = open; at < text.length; at += 1) {
    if (text[at] === '{') depth += 1;
    if (text[at] === '}') depth -= 1;
    if (depth === 0) return at;
  }
  throw new Error(`unclosed brace in message: ${text}`);
}

const ACCENTS = { a: 'á', e: 'ë', i: 'ï', o: 'ô', u: 'ü', A: 'Å', E: 'É', I: 'Î', O: 'Ö', U: 'Û', c: 'ç', n: 'ñ', y: 'ý' };

/**
 * Accented and a third longer, placeholders untouched.
 * @param {string} text
 */
export function pseudo(text) {
  let depth = 0;
  const accented = [...text].map((char) => {
    if (char === '{') depth += 1;
    if (char === '}') depth -= 1;
    return depth > 0 ? char : (/** @type {Record<string, string>} */ (ACCENTS)[char] ?? char);
  });
  return `[${accented.join('')}${'·'.repeat(Math.ceil(text.length / 3))}]`;
}
