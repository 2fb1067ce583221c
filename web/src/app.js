/**
 * What the page does, without how it looks. `App` holds the one state and what everything shares; each of its parts does one
 * thing with it: `chats`, `messages`, `replies`, `drafts`, `raw`, `prompts`, `format`, `connection`. Components read `state` and call
 * the parts; tests do the same without a document.
 */

import { ApiError } from './api.js';
import { blank, Chats, sorted } from './chats.js';
import { Connection } from './connection.js';
import { Drafts, UNSENT } from './drafts.js';
import { FormatCheck } from './format.js';
import { Messages } from './messages.js';
import { Prompts } from './prompts.js';
import { RawTexts } from './raw.js';
import { Replies } from './replies.js';
import * as settings from './settings.js';
import * as machine from './state.js';
import { Store } from './store.js';

/**
 * @typedef {import('./store.js').Conversation} Conversation
 * @typedef {import('./settings.js').Settings} Settings
 *
 * @typedef {object} Live the reply that is being written
 * @property {string} id of its message
 * @property {string} conversation
 * @property {string} text all of it so far
 * @property {number | null} speed tokens per second
 *
 * @typedef {import('./tree.js').Attachment & { tokens?: number }} Waiting a file with its size in tokens, once it is counted
 *
 * @typedef {{ chat: string, draft: string, text?: string }} Left what is in the fields; `text`: of a raw text
 *
 * @typedef {object} Toast
 * @property {number} id
 * @property {string} key of its text in the language file
 * @property {Record<string, string | number>} values
 * @property {{ key: string, act: () => void | Promise<void> } | null} action
 *
 * @typedef {object} Preferences of this browser, not of a chat
 * @property {'enter' | 'ctrl'} sendWith
 * @property {boolean} showSpeed
 * @property {boolean} renderUser Markdown in the person's own messages
 * @property {'done' | 'sentence' | 'off'} announce
 * @property {'small' | 'normal' | 'large'} fontSize
 *
 * @typedef {object} AppState
 * @property {machine.State} machine
 * @property {import('./api.js').Props | null} props
 * @property {Conversation[]} conversations newest first, pinned before all
 * @property {Conversation} conversation the open one; not in the list before its first message
 * @property {import('./tree.js').Tree} tree its messages
 * @property {Live | null} live
 * @property {Partial<Settings>} defaults what this browser changes for every chat
 * @property {Preferences} preferences
 * @property {string} draft
 * @property {Waiting[]} files waiting to be sent
 * @property {import('./meter.js').Meter} meter
 * @property {string | null} rawBefore the open raw text as it was before the last generation
 * @property {import('./format.js').Problem | null} formatProblem why the form of replies that is asked for cannot be used
 * @property {Toast[]} toasts oldest first: what can be undone, and at most one that only says something
 * @property {boolean} unsaved something could not be stored
 * @property {number | null} movedHidden the usual port of which a person has read that its chats are not here
 * @property {boolean} started the stored chats have been read
 */

/** @type {Preferences} */
export const PREFERENCES = { sendWith: 'enter', showSpeed: true, renderUser: false, announce: 'done', fontSize: 'normal' };

/** A tab that writes a reply and is silent for this long is gone. */
const TAKE_OVER_MS = 3000;
const UNDO_MS = 10_000;
const NOTE_MS = 4000;

export class App {
  /**
   * @param {import('./api.js').Api} api
   * @param {{ pollFirstMs?: number, pollLastMs?: number, takeOverMs?: number, now?: () => number, draft?: string }} [options] `draft` is what
   *   was typed before the page's script ran
   */
  constructor(api, { pollFirstMs = 1000, pollLastMs = 10_000, takeOverMs = TAKE_OVER_MS, now = () => performance.now(), draft = '' } = {}) {
    this.api = api;
    /** Replaced by the real one in `start`; nothing can be sent before. */
    this.store = new Store(null);
    this.now = now;
    this.takeOverMs = takeOverMs;
    /** @type {AppState} */
    this.state = {
      machine: machine.initial,
      props: null,
      conversations: [],
      conversation: blank(),
      tree: new Map(),
      live: null,
      defaults: {},
      preferences: PREFERENCES,
      draft,
      files: [],
      meter: { used: null, total: 0, max: 0 },
      rawBefore: null,
      formatProblem: null,
      toasts: [],
      unsaved: false,
      movedHidden: null,
      started: false,
    };
    /** @type {Set<() => void>} */
    this.listeners = new Set();
    /** @type {Set<(live: Live) => void>} called for every piece of text, outside the components' own updates */
    this.streamListeners = new Set();
    this.connection = new Connection(this, { pollFirstMs, pollLastMs });
    this.chats = new Chats(this);
    this.messages = new Messages(this);
    this.replies = new Replies(this);
    this.drafts = new Drafts(this);
    this.raw = new RawTexts(this);
    this.prompts = new Prompts(this);
    this.format = new FormatCheck(this);
    this.toastCount = 0;
    /** @type {Map<number, ReturnType<typeof setTimeout>>} by the note that ends with it */
    this.toastTimers = new Map();
  }

  /** @param {() => void} listener @returns {() => void} stops listening */
  subscribe(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /**
   * Reads what is stored and begins to watch the server.
   * @param {Store} store
   * @param {{ open?: string | null, typed?: string, left?: Left | null }} [options] chat to open; text for the composer, never sent by itself;
   *   what was typed in that chat when this page was left
   */
  async start(store, { open = null, typed = '', left = null } = {}) {
    this.store = store;
    store.onFailure = () => this.set({ unsaved: true });
    store.onRecovery = () => this.set({ unsaved: false });
    store.onForeignChange = (conversation) => void this.chats.foreignChange(conversation);
    store.onForeignSetting = () => void this.#readSettings();
    this.connection.begin();
    const [conversations, unsent] = await Promise.all([store.conversations(), store.draft(UNSENT), this.#readSettings()]);
    const { draft: early } = this.state;
    this.drafts.unsent = unsent;
    this.set({ conversations: sorted(conversations), unsaved: store.failed });
    if (open && this.chats.listed(open)) await this.chats.open(open);
    else if (typed === '' && early === '') this.drafts.restore(unsent);
    this.set({ started: true });
    const again = left?.chat === open ? left : null;
    const value = typed || early || again?.draft;
    if (value !== undefined && value !== this.state.draft) this.drafts.set(value);
    if (again?.text !== undefined) this.raw.setText(again.text);
    await this.replies.lookForLeft();
  }

  async #readSettings() {
    const keys = ['defaults', 'preferences', 'movedHidden'];
    const [defaults, preferences, movedHidden] = await Promise.all(keys.map((key) => this.store.setting(key)));
    this.set({ defaults: settings.clean(defaults), preferences: { ...PREFERENCES, ...preferences }, movedHidden: movedHidden ?? null });
  }

  /** What is typed now: there is no time to store it in a page that is being left. @returns {Left} */
  get left() {
    const { conversation, draft } = this.state;
    return { chat: conversation.id, draft, text: conversation.text };
  }

  /** Ends timers and the running reply. */
  close() {
    for (const timer of this.toastTimers.values()) clearTimeout(timer);
    this.connection.close();
    this.drafts.close();
    this.raw.close();
    this.chats.close();
    this.prompts.counter.cancel();
    this.format.close();
    this.replies.close();
  }

  /** The model is loaded, or was all the time: what it is, and what waits for it. */
  async serverIsReady() {
    await this.#readProps();
    this.event({ type: 'ready' });
    void this.prompts.counter.now();
    await this.replies.resumeWaiting();
    await this.replies.sendQueued();
  }

  async #readProps() {
    try {
      const props = await this.api.props();
      this.set({ props, meter: { ...this.state.meter, total: props.nCtx, max: props.nCtxMax } });
    } catch (error) {
      // A server with an API key: the first message asks for it.
      if (!(error instanceof ApiError) || error.failure.kind !== 'key') throw error;
    }
  }

  /** @param {string} key kept as long as this page is open */
  async useKey(key) {
    this.api.key = key;
    if (this.state.props !== null) return;
    // Where nobody answers, what is asked for next says so.
    await this.#readProps().catch(() => {});
    await this.prompts.counter.now();
  }

  /** Ends the program. @param {string} token */
  async quit(token) {
    try {
      await this.api.quit(token);
      this.event({ type: 'lost' });
    } catch (error) {
      this.notify('quit.failed', { reason: error instanceof Error ? error.message : String(error) });
    }
  }

  // Settings

  /** @returns {Settings} what this browser and the server say, before the chat's own changes */
  get baseSettings() {
    return settings.resolve(settings.fromServer(this.state.props?.params, this.state.props?.templates), this.state.defaults);
  }

  /** @returns {Settings} */
  get settings() {
    return settings.resolve(this.baseSettings, this.state.conversation.settings);
  }

  /** @param {keyof Settings} key @param {unknown} value for the open chat */
  changeSetting(key, value) {
    this.chats.change({ settings: settings.change(this.state.conversation.settings, this.baseSettings, key, value) });
    this.prompts.counter.soon();
    if (key === 'format' || key === 'schema' || key === 'grammar') this.format.changed();
  }

  /** The open chat's settings become this browser's defaults. */
  makeDefault() {
    const defaults = { ...this.state.defaults, ...this.state.conversation.settings };
    this.set({ defaults });
    this.chats.change({ settings: {} });
    void this.store.saveSetting('defaults', defaults);
    this.notify('settings.madeDefault');
  }

  /** Back to what the program was started with. */
  resetSettings() {
    this.set({ defaults: {} });
    this.chats.change({ settings: {} });
    void this.store.saveSetting('defaults', {});
    this.prompts.counter.soon();
    this.format.changed();
  }

  /** @param {unknown} candidate from a file @returns {number} how many settings it had; without any, nothing changes */
  importSettings(candidate) {
    const found = settings.clean(candidate);
    if (Object.keys(found).length === 0) return 0;
    this.chats.change({ settings: found });
    this.prompts.counter.soon();
    this.format.changed();
    return Object.keys(found).length;
  }

  /** @param {Partial<Preferences>} changed */
  changePreferences(changed) {
    const preferences = { ...this.state.preferences, ...changed };
    this.set({ preferences });
    void this.store.saveSetting('preferences', preferences);
  }

  /** The note about chats under the usual port has been read. */
  hideMoved() {
    const movedHidden = this.state.props?.movedFrom ?? null;
    this.set({ movedHidden });
    void this.store.saveSetting('movedHidden', movedHidden);
  }

  /** Deletes everything that is stored in this browser. */
  async clearAll() {
    this.replies.stop();
    await this.store.clear();
    this.set({ defaults: {}, preferences: PREFERENCES });
    this.chats.forget();
  }

  // The state, which the parts change

  /** @param {Partial<AppState>} changed */
  set(changed) {
    this.state = { ...this.state, ...changed };
    for (const listener of this.listeners) listener();
  }

  /** @param {machine.Event} event */
  event(event) {
    const next = machine.next(this.state.machine, event);
    if (next !== this.state.machine) this.set({ machine: next });
  }

  /** Another chat or branch is shown: a note about the last reply does not belong to it. */
  settle() {
    if (!machine.busy(this.state.machine)) this.event({ type: 'dismiss' });
  }

  // Notes at the bottom

  /**
   * Says something for a while. It replaces what was only said before; what can still be undone stays.
   * @param {string} key
   * @param {Record<string, string | number>} [values]
   * @param {Toast['action']} [action]
   * @param {number} [ms] how long; what can be undone and what is long need more time
   */
  notify(key, values = {}, action = null, ms = action ? UNDO_MS : NOTE_MS) {
    this.toastCount += 1;
    const id = this.toastCount;
    for (const toast of this.state.toasts) if (!toast.action) this.dismissToast(toast.id);
    this.set({ toasts: [...this.state.toasts, { id, key, values, action }] });
    this.toastTimers.set(id, setTimeout(() => this.dismissToast(id), ms));
  }

  /** @param {number} id */
  dismissToast(id) {
    clearTimeout(this.toastTimers.get(id));
    this.toastTimers.delete(id);
    this.set({ toasts: this.state.toasts.filter((toast) => toast.id !== id) });
  }

  /** What the note offers. @param {number} id */
  actOnToast(id) {
    const toast = this.state.toasts.find((candidate) => candidate.id === id);
    this.dismissToast(id);
    void toast?.action?.act();
  }
}
