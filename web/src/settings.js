/**
 * Every setting of a chat: its default, its range and how it travels to the server. Three layers, the later one wins: what
 * the server was started with (`/props`), this browser's defaults, and the chat's own changes.
 */

import { FORMATS } from './format.js';

/**
 * @typedef {object} Settings
 * @property {string} promptTemplate
 * @property {string} historyTemplate
 * @property {string} userName what `{{name}}` becomes for the person
 * @property {string} charName what `{{name}}` and `{{char}}` become for the model
 * @property {string} system
 * @property {number} temperature
 * @property {number} topK
 * @property {number} topP
 * @property {number} minP
 * @property {number} repeatPenalty
 * @property {number} repeatLastN
 * @property {number} presencePenalty
 * @property {number} frequencyPenalty
 * @property {number} maxTokens 0: until the end of the turn
 * @property {number} probabilities how many likely tokens are recorded at each place; 0: none
 * @property {number} seed -1: a new one for every reply
 * @property {string[]} stop
 * @property {import('./format.js').Format} format what form a reply must have
 * @property {string} schema JSON schema, for `format` schema
 * @property {string} grammar GBNF, for `format` grammar
 *
 * @typedef {object} NumberField
 * @property {keyof Settings} key
 * @property {string} wire the name in a request and in `/props`
 * @property {number} value default
 * @property {number} min
 * @property {number} max
 * @property {number} step
 * @property {number} [sliderMax] where the slider ends when the range is too wide to slide through
 * @property {number} [off] the value at which this setting does nothing
 * @property {boolean} [needsRandomness] has no effect at temperature 0
 */

/** The templates of a Gemma 2 prompt, as its training used them. */
export const PROMPT_TEMPLATE = '{{history}}\n<start_of_turn>{{char}}\n';
export const HISTORY_TEMPLATE = '<start_of_turn>{{name}}\n{{message}}<end_of_turn>';
export const USER_NAME = 'user';
export const CHAR_NAME = 'model';

/** @type {NumberField[]} */
export const NUMBERS = [
  { key: 'temperature', wire: 'temperature', value: 1, min: 0, max: 2, step: 0.05 },
  { key: 'topK', wire: 'top_k', value: 64, min: 0, max: 256000, sliderMax: 200, step: 1, off: 0, needsRandomness: true },
  { key: 'topP', wire: 'top_p', value: 0.95, min: 0, max: 1, step: 0.01, off: 1, needsRandomness: true },
  { key: 'minP', wire: 'min_p', value: 0, min: 0, max: 1, step: 0.01, off: 0, needsRandomness: true },
  { key: 'repeatPenalty', wire: 'repeat_penalty', value: 1, min: 1, max: 2, step: 0.01, off: 1 },
  { key: 'repeatLastN', wire: 'repeat_last_n', value: 64, min: 0, max: 8192, sliderMax: 512, step: 1 },
  { key: 'presencePenalty', wire: 'presence_penalty', value: 0, min: -2, max: 2, step: 0.05, off: 0 },
  { key: 'frequencyPenalty', wire: 'frequency_penalty', value: 0, min: -2, max: 2, step: 0.05, off: 0 },
  { key: 'maxTokens', wire: 'max_tokens', value: 0, min: 0, max: 8192, sliderMax: 2048, step: 1, off: 0 },
  { key: 'probabilities', wire: 'top_logprobs', value: 0, min: 0, max: 20, step: 1, off: 0 },
  { key: 'seed', wire: 'seed', value: -1, min: -1, max: 4294967295, step: 1, needsRandomness: true },
];

/** How the server says that every reply has a seed of its own. */
const RANDOM_SEED = 4294967295;

/** More stop strings than this the server refuses. */
export const MAX_STOPS = 16;

/** @type {Settings} */
export const DEFAULTS = Object.freeze({
  promptTemplate: PROMPT_TEMPLATE,
  historyTemplate: HISTORY_TEMPLATE,
  userName: USER_NAME,
  charName: CHAR_NAME,
  system: '',
  .../** @type {any} */ (Object.fromEntries(NUMBERS.map((field) => [field.key, field.value]))),
  stop: [],
  format: 'text',
  schema: '',
  grammar: '',
});

/**
 * The server's own defaults from `/props`, so that flags such as `--temp` show up in the page.
 * @param {Record<string, unknown> | undefined} params sampling
 * @param {Record<string, unknown>} [templates] prompt, history and the two names
 * @returns {Partial<Settings>}
 */
export function fromServer(params, templates = {}) {
  /** @type {Record<string, number | string>} */
  const found = {};
  const texts = { promptTemplate: 'prompt', historyTemplate: 'history', userName: 'user_name', charName: 'char_name' };
  for (const [key, wire] of Object.entries(texts)) {
    const text = templates[wire];
    if (typeof text === 'string') found[key] = text;
  }
  for (const field of NUMBERS) {
    // The server's token limit is "none" in several spellings; it is the page's own business.
    if (field.key === 'maxTokens') continue;
    const value = params?.[field.wire];
    if (field.key === 'seed') {
      if (Number.isInteger(value) && Number(value) >= 0 && Number(value) < RANDOM_SEED) found.seed = Number(value);
      continue;
    }
    // Values come from 32-bit floats: 0.95 arrives as 0.949999988.
    if (typeof value === 'number' && Number.isFinite(value)) found[field.key] = Number(value.toPrecision(6));
  }
  return found;
}

/**
 * @param {...(Partial<Settings> | undefined)} layers later ones win
 * @returns {Settings}
 */
export function resolve(...layers) {
  const merged = { ...DEFAULTS };
  for (const layer of layers) {
    for (const [key, value] of Object.entries(layer ?? {})) {
      if (value !== undefined && key in DEFAULTS) /** @type {any} */ (merged)[key] = value;
    }
  }
  return merged;
}

/**
 * `layer` with one field changed; a value equal to what lies below is no change and leaves the layer.
 * @param {Partial<Settings>} layer
 * @param {Settings} below
 * @param {keyof Settings} key
 * @param {unknown} value
 * @returns {Partial<Settings>}
 */
export function change(layer, below, key, value) {
  const changed = { ...layer };
  if (JSON.stringify(below[key]) === JSON.stringify(value)) delete changed[key];
  else /** @type {any} */ (changed)[key] = value;
  return changed;
}

/**
 * Only known fields with usable values; for what was stored by another version or imported from a file.
 * @param {unknown} candidate
 * @returns {Partial<Settings>}
 */
export function clean(candidate) {
  /** @type {Record<string, unknown>} */
  const found = {};
  if (typeof candidate !== 'object' || candidate === null) return found;
  const given = /** @type {Record<string, unknown>} */ (candidate);
  for (const field of NUMBERS) {
    const value = given[field.key];
    if (typeof value === 'number' && Number.isFinite(value)) found[field.key] = clamp(field, value);
  }
  for (const key of ['promptTemplate', 'historyTemplate', 'userName', 'charName', 'system', 'schema', 'grammar']) {
    if (typeof given[key] === 'string') found[key] = given[key];
  }
  const format = FORMATS.find((name) => name === given.format);
  if (format) found.format = format;
  if (Array.isArray(given.stop)) {
    found.stop = given.stop.filter((text) => typeof text === 'string' && text !== '').slice(0, MAX_STOPS);
  }
  return found;
}

/** @param {NumberField} field @param {number} value */
export function clamp(field, value) {
  const inside = Math.min(field.max, Math.max(field.min, value));
  return Number.isInteger(field.step) ? Math.round(inside) : inside;
}

/**
 * What the server needs to render a prompt.
 * @param {Settings} settings
 */
export function templates(settings) {
  return {
    prompt: settings.promptTemplate,
    history: settings.historyTemplate,
    user_name: settings.userName,
    char_name: settings.charName,
  };
}

/**
 * The sampling fields of a request. `seed` is the one to use now, because a random one is drawn here and recorded.
 * @param {Settings} settings
 * @param {number} seed
 * @returns {Record<string, unknown>}
 */
export function sampling(settings, seed) {
  /** @type {Record<string, unknown>} */
  const found = {};
  for (const field of NUMBERS) found[field.wire] = settings[field.key];
  found.seed = seed;
  if (settings.maxTokens === 0) delete found.max_tokens;
  if (settings.probabilities === 0) delete found.top_logprobs;
  else found.logprobs = true;
  if (settings.stop.length > 0) found.stop = settings.stop;
  return found;
}

/**
 * The messages of a request: the system text, then the visible branch. Attached files go before the typed text, each in a
 * fence that is longer than any inside it.
 * @param {Pick<Settings, 'system'>} settings
 * @param {Pick<import('./tree.js').Message, 'role' | 'content' | 'files'>[]} path
 */
export function messages(settings, path) {
  const list = path.map((message) => ({ role: message.role, content: withFiles(message.content, message.files) }));
  return settings.system.trim() === '' ? list : [{ role: 'system', content: settings.system }, ...list];
}

/**
 * @param {string} content
 * @param {import('./tree.js').Attachment[]} [files]
 */
export function withFiles(content, files) {
  if (!files || files.length === 0) return content;
  const blocks = files.map((file) => {
    const longest = Math.max(2, ...[...file.text.matchAll(/`+/g)].map((run) => run[0].length));
    const fence = '`'.repeat(longest + 1);
    return `${file.name}\n${fence}\n${file.text.replace(/\n$/, '')}\n${fence}`;
  });
  return [...blocks, content].filter((part) => part !== '').join('\n\n');
}
