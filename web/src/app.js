/**
 * What the page does, without how it looks: the current chat, the running reply, settings and the connection. Components
 * read `state` and call methods; tests do the same without a document.
 */

import { ApiError, isAbort } from './api.js';
import { newId, newSeed } from './ids.js';
import { debounced, firstThatFits } from './meter.js';
import * as settings from './settings.js';
import * as machine from './state.js';
import { Store } from './store.js';
import { Speed } from './stream.js';
import * as trees from './tree.js';

/**
 * @typedef {import('./tree.js').Message} Message
 * @typedef {import('./store.js').Conversation} Conversation
 * @typedef {import('./settings.js').Settings} Settings
 *
 * @typedef {object} Live the reply that is being written
 * @property {string} id of its message
 * @property {string} conversation
 * @property {string} text all of it so far
 * @property {number | null} speed tokens per second
 *
 * @typedef {trees.Attachment & { tokens?: number }} Waiting a file with its size in tokens, once it is counted
 *
 * @typedef {object} Toast
 * @property {number} id
 * @property {string} key of its text in the language file
 * @property {Record<string, string | number>} values
 * @property {{ key: string, act: () => void } | null} action
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
 * @property {trees.Tree} tree its messages
 * @property {Live | null} live
 * @property {Partial<Settings>} defaults what this browser changes for every chat
 * @property {Preferences} preferences
 * @property {string} draft
 * @property {Waiting[]} files waiting to be sent
 * @property {import('./meter.js').Meter} meter
 * @property {string | null} rawBefore the open raw text as it was before the last generation
 * @property {Toast | null} toast
 * @property {boolean} unsaved something could not be stored
 * @property {boolean} started the stored chats have been read
 */

/** @type {Preferences} */
export const PREFERENCES = { sendWith: 'enter', showSpeed: true, renderUser: false, announce: 'done', fontSize: 'normal' };

const UNDO_MS = 10_000;
const SAVE_EVERY_MS = 500;
const METER_MS = 300;
const TITLE_LENGTH = 60;
/** Where the draft of a chat without messages is kept. */
const UNSENT = 'new';

/** @returns {Conversation} */
const blank = () => {
  const now = Date.now();
  return { id: newId(), title: '', created: now, updated: now, choices: {}, settings: {} };
};

export class App {
  /**
   * @param {import('./api.js').Api} api
   * @param {{ pollFirstMs?: number, pollLastMs?: number, now?: () => number, draft?: string }} [options] `draft` is what
   *   was typed before the page's script ran
   */
  constructor(api, { pollFirstMs = 1000, pollLastMs = 10_000, now = () => performance.now(), draft = '' } = {}) {
    this.api = api;
    /** Replaced by the real one in `start`; nothing can be sent before. */
    this.store = new Store(null);
    this.now = now;
    this.pollFirstMs = pollFirstMs;
    this.pollLastMs = pollLastMs;
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
      toast: null,
      unsaved: false,
      started: false,
    };
    /** @type {Set<() => void>} */
    this.listeners = new Set();
    /** @type {Set<(live: Live) => void>} called for every piece of text, outside the components' own updates */
    this.streamListeners = new Set();
    /** @type {AbortController | null} */
    this.running = null;
    /** @type {(() => Promise<void>) | null} what was sent while the model was loading */
    this.queued = null;
    this.counter = debounced((signal) => this.#count(signal), METER_MS);
    this.toasts = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.pollTimer = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.toastTimer = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.draftTimer = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.rawTimer = undefined;
    this.wait = pollFirstMs;
    this.closed = false;
    /** @type {Message | null} the message of the running reply, as it was when it began */
    this.writing = null;
  }

  /** @param {() => void} listener @returns {() => void} stops listening */
  subscribe(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /**
   * Reads what is stored and begins to watch the server.
   * @param {Store} store
   * @param {{ open?: string | null, typed?: string }} [options] chat to open; text for the composer, never sent by itself
   */
  async start(store, { open = null, typed = '' } = {}) {
    this.store = store;
    store.onFailure = () => this.#set({ unsaved: true });
    store.onForeignChange = (conversation) => void this.#foreignChange(conversation);
    void this.#poll();
    const [defaults, preferences, conversations] = await Promise.all([
      store.setting('defaults'),
      store.setting('preferences'),
      store.conversations(),
    ]);
    this.#set({
      defaults: settings.clean(defaults),
      preferences: { ...PREFERENCES, ...preferences },
      conversations: sorted(conversations),
      unsaved: store.failed,
    });
    if (open && this.#listed(open)) await this.openChat(open);
    else if (typed === '' && this.state.draft === '') this.#set({ draft: await store.draft(UNSENT) });
    if (typed !== '') this.setDraft(typed);
    this.#set({ started: true });
  }

  /** Ends timers and the running reply. */
  close() {
    clearTimeout(this.pollTimer);
    clearTimeout(this.toastTimer);
    clearTimeout(this.draftTimer);
    clearTimeout(this.rawTimer);
    this.counter.cancel();
    this.running?.abort();
    this.closed = true;
  }

  // The connection

  async #poll() {
    clearTimeout(this.pollTimer);
    if (this.closed) return;
    try {
      const health = await this.api.health();
      if (this.closed) return;
      if (health.state === 'loading') {
        this.#event({ type: 'loading', progress: health.progress });
        this.wait = Math.min(this.pollFirstMs, 250);
      } else {
        if (this.state.machine.phase === 'loading' || this.state.machine.phase === 'disconnected') await this.#ready();
        this.wait = this.pollLastMs;
      }
    } catch {
      const known = this.state.machine.phase === 'disconnected';
      this.wait = known ? Math.min(this.wait * 1.5, this.pollLastMs) : this.pollFirstMs;
      // A running reply notices by itself, and better: its own connection breaks.
      if (!machine.busy(this.state.machine)) this.#event({ type: 'lost' });
    }
    clearTimeout(this.pollTimer);
    if (!this.closed) this.pollTimer = setTimeout(() => void this.#poll(), this.wait);
  }

  /** @param {string} key kept as long as this page is open */
  useKey(key) {
    this.api.key = key;
    if (this.state.props === null) this.checkNow();
  }

  /** Looks at once whether the server is there; for a connection that just broke, and for a tab that wakes up. */
  checkNow() {
    void this.#poll();
  }

  async #ready() {
    try {
      const props = await this.api.props();
      this.#set({ props, meter: { ...this.state.meter, total: props.nCtx, max: props.nCtxMax } });
    } catch (error) {
      // A server with an API key: the first message asks for it.
      if (!(error instanceof ApiError) || error.failure.kind !== 'key') throw error;
    }
    this.#event({ type: 'ready' });
    void this.counter.now();
    const queued = this.queued;
    this.queued = null;
    if (queued && this.state.machine.queued) await queued();
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
    const { conversation } = this.state;
    this.#setConversation({ settings: settings.change(conversation.settings, this.baseSettings, key, value) });
    this.counter.soon();
  }

  /** The open chat's settings become this browser's defaults. */
  makeDefault() {
    const defaults = { ...this.state.defaults, ...this.state.conversation.settings };
    this.#set({ defaults });
    this.#setConversation({ settings: {} });
    void this.store.saveSetting('defaults', defaults);
    this.notify('settings.madeDefault');
  }

  /** Back to what the program was started with. */
  resetSettings() {
    this.#set({ defaults: {} });
    this.#setConversation({ settings: {} });
    void this.store.saveSetting('defaults', {});
    this.counter.soon();
  }

  /** @param {unknown} candidate from a file @returns {number} how many settings it had */
  importSettings(candidate) {
    const found = settings.clean(candidate);
    this.#setConversation({ settings: found });
    this.counter.soon();
    return Object.keys(found).length;
  }

  /** @param {Partial<Preferences>} changed */
  changePreferences(changed) {
    const preferences = { ...this.state.preferences, ...changed };
    this.#set({ preferences });
    void this.store.saveSetting('preferences', preferences);
  }

  // Chats

  /** An empty chat; it is stored with its first message. */
  newChat() {
    this.#flushDraft();
    const { text, settings: own } = this.state.conversation;
    if (this.path.length === 0 && this.state.draft === '' && text === undefined && Object.keys(own).length === 0) return;
    this.#set({ conversation: blank(), tree: new Map(), draft: '', files: [] });
    this.#settle();
    this.counter.soon();
  }

  /** An empty raw text; it is stored with its first character. */
  newRaw() {
    this.#flushDraft();
    this.#set({ conversation: { ...blank(), text: '' }, tree: new Map(), draft: '', files: [] });
    this.#settle();
    this.counter.soon();
  }

  /** @param {string} id */
  async openChat(id) {
    this.#flushDraft();
    const conversation = this.state.conversations.find((candidate) => candidate.id === id);
    if (!conversation) return;
    const [messages, draft] = await Promise.all([this.store.messages(id), this.store.draft(id)]);
    const tree = trees.fromRecords(messages.map((message) => this.#recovered(message)));
    this.#set({ conversation, tree, draft, files: [] });
    this.#settle();
    void this.counter.now();
  }

  /**
   * A reply that was being written when the page or the program went away is a stopped one now.
   * @param {Message} message
   * @returns {Message}
   */
  #recovered(message) {
    if (message.status !== 'streaming' || message.id === this.state.live?.id) return message;
    return { ...message, status: 'stopped' };
  }

  /** @param {string} id @param {string} title */
  renameChat(id, title) {
    const clean = title.trim().slice(0, 200);
    if (clean !== '') this.#changeListed(id, { title: clean, titled: true });
  }

  /** @param {string} id */
  togglePin(id) {
    const conversation = this.#listed(id);
    if (conversation) this.#changeListed(id, { pinned: !conversation.pinned });
  }

  /** @param {string} id */
  async duplicateChat(id) {
    const original = this.#listed(id);
    if (!original) return;
    const messages = await this.store.messages(id);
    const copy = copyOf(original, messages);
    copy.conversation.created = copy.conversation.updated = Date.now();
    await this.#adopt(copy.conversation, copy.messages);
    await this.openChat(copy.conversation.id);
  }

  /** @param {string} id */
  async deleteChat(id) {
    const conversation = this.#listed(id);
    if (!conversation) return;
    if (this.state.live?.conversation === id) this.stop();
    const messages = await this.store.messages(id);
    this.#set({ conversations: this.state.conversations.filter((other) => other.id !== id) });
    if (this.state.conversation.id === id) {
      this.#set({ conversation: blank(), tree: new Map(), draft: '', files: [] });
      this.#settle();
    }
    await this.store.save({ removeConversations: [id], removeMessages: messages.map((message) => message.id) });
    const act = () => void this.#adopt(conversation, messages);
    this.notify('toast.chatDeleted', { title: conversation.title }, { key: 'toast.undo', act });
  }

  /**
   * Puts whole chats in, as an import or an undo does.
   * @param {Conversation} conversation
   * @param {Message[]} messages
   */
  async #adopt(conversation, messages) {
    await this.store.save({ conversations: [conversation], messages });
    const others = this.state.conversations.filter((other) => other.id !== conversation.id);
    this.#set({ conversations: sorted([...others, conversation]) });
  }

  /** @param {{ conversation: Conversation, messages: Message[] }[]} chats from a file, checked already */
  async importChats(chats) {
    // A message of a file must never replace one that is stored: where ids meet, the chat gets fresh ones.
    const taken = new Set((await this.store.allMessages()).map((message) => message.id));
    const safe = chats.map((chat) => {
      const meets = chat.messages.some((message) => taken.has(message.id));
      const { conversation, messages } = meets ? copyOf(chat.conversation, chat.messages) : chat;
      for (const message of messages) taken.add(message.id);
      return { conversation, messages };
    });
    await this.store.save({
      conversations: safe.map((chat) => chat.conversation),
      messages: safe.flatMap((chat) => chat.messages),
    });
    this.#set({ conversations: sorted(await this.store.conversations()) });
  }

  /** Deletes everything that is stored in this browser. */
  async clearAll() {
    this.stop();
    await this.store.clear();
    this.#set({ conversations: [], conversation: blank(), tree: new Map(), draft: '', files: [], defaults: {}, preferences: PREFERENCES });
    this.#settle();
    this.counter.soon();
  }

  // Messages

  /** The visible branch, from the first message to the last. @returns {Message[]} */
  get path() {
    return trees.path(this.state.tree, this.state.conversation.choices);
  }

  /** @param {string} draft */
  setDraft(draft) {
    this.#set({ draft });
    this.counter.soon();
    clearTimeout(this.draftTimer);
    this.draftTimer = setTimeout(() => this.#flushDraft(), METER_MS);
  }

  #flushDraft() {
    clearTimeout(this.draftTimer);
    if (this.rawTimer !== undefined) this.#saveRaw();
    this.rawTimer = undefined;
    if (this.state.rawBefore !== null) this.#set({ rawBefore: null });
    const { conversation, draft } = this.state;
    void this.store.saveDraft(this.#listed(conversation.id) ? conversation.id : UNSENT, draft);
  }

  /** @param {Waiting[]} files */
  setFiles(files) {
    this.#set({ files });
    this.counter.soon();
    for (const file of files) if (file.tokens === undefined) void this.#measure(file);
  }

  /** @param {Waiting} file */
  async #measure(file) {
    const tokens = await this.api.countTokens(file.text).catch(() => undefined);
    if (tokens === undefined || !this.state.files.includes(file)) return;
    this.#set({ files: this.state.files.map((other) => (other === file ? { ...file, tokens } : other)) });
  }

  /** Sends the draft, or keeps it for the moment the model is loaded. */
  async send() {
    if (this.state.conversation.text !== undefined) return;
    const content = this.state.draft.trim();
    const { files } = this.state;
    const action = machine.composerAction(this.state.machine);
    if ((content === '' && files.length === 0) || (action !== 'send' && action !== 'queue')) return;
    const last = this.path.at(-1);
    const message = this.#message('user', content, last?.id ?? null);
    if (files.length > 0) message.files = files.map(({ name, text }) => ({ name, text }));
    this.#add(message);
    this.#set({ draft: '', files: [] });
    clearTimeout(this.draftTimer);
    void this.store.saveDraft(message.conversation, '');
    if (last === undefined) void this.store.saveDraft(UNSENT, '');
    await this.#answer(message.id);
  }

  /**
   * A reply to the message `parent`, now or when the model is loaded.
   * @param {string} parent
   * @param {{ seed?: number, temperature?: number }} [options]
   */
  async #answer(parent, options = {}) {
    const message = this.#message('assistant', '', parent);
    const work = async () => {
      if (this.state.conversation.id !== message.conversation) await this.openChat(message.conversation);
      await this.#generate(message, options);
    };
    if (this.state.machine.phase === 'loading') {
      this.queued = work;
      this.#event({ type: 'queue' });
      return;
    }
    await work();
  }

  /** Answers a message that has no reply, or tries a failed reply again. @param {string} id */
  async retry(id) {
    const message = this.state.tree.get(id);
    if (!message) return;
    if (message.role === 'user') await this.#answer(id);
    else if (message.content === '') await this.#generate(message);
    else await this.regenerate(id);
  }

  /**
   * Another reply beside this one.
   * @param {string} id
   * @param {{ seed?: number, temperature?: number }} [options]
   */
  async regenerate(id, options = {}) {
    const message = this.state.tree.get(id);
    if (message?.role !== 'assistant' || message.parent === null || !machine.canSend(this.state.machine)) return;
    await this.#answer(message.parent, options);
  }

  /** Goes on with a reply, in the same turn. @param {string} id */
  async continueReply(id) {
    const message = this.state.tree.get(id);
    if (message?.role !== 'assistant' || !machine.canSend(this.state.machine)) return;
    await this.#generate(message);
  }

  /**
   * Another version of a person's message, and a reply to it.
   * @param {string} id
   * @param {string} content
   */
  async editAndSend(id, content) {
    const message = this.state.tree.get(id);
    if (!message || content.trim() === '' || machine.busy(this.state.machine)) return;
    const sibling = { ...this.#message(message.role, content.trim(), message.parent), files: message.files };
    this.#add(sibling);
    if (message.role === 'user') await this.#answer(sibling.id);
  }

  /**
   * Changes a message in place; what is below it stays.
   * @param {string} id
   * @param {string} content
   */
  editInPlace(id, content) {
    const message = this.state.tree.get(id);
    if (!message || message.id === this.state.live?.id) return;
    this.#update({ ...message, content, edited: true, probs: undefined });
    this.counter.soon();
  }

  /**
   * Another reply that is the same up to a token, has another token there, and goes on from it.
   * @param {string} id
   * @param {number} at which of the recorded tokens
   * @param {[string, number]} instead
   */
  async branchAtToken(id, at, instead) {
    const message = this.state.tree.get(id);
    if (!message?.probs || !machine.canSend(this.state.machine)) return;
    const { from, list } = message.probs;
    const kept = list.slice(0, at);
    const content = message.content.slice(0, from) + kept.map(([text]) => text).join('') + instead[0];
    const token = /** @type {trees.Token} */ ([instead[0], instead[1], list[at][2]]);
    await this.#generate({ ...this.#message('assistant', content, message.parent), probs: { from, list: [...kept, token] } });
  }

  /** Shows another alternative, with everything that was chosen below it. @param {string} id */
  show(id) {
    this.#setConversation({ choices: trees.choose(this.state.tree, this.state.conversation.choices, id) });
    this.#settle();
    this.counter.soon();
  }

  /** How many messages a deletion would take. @param {string} id */
  countBelow(id) {
    return trees.subtree(this.state.tree, id).length;
  }

  /** Deletes a message and everything below it. @param {string} id */
  async deleteMessage(id) {
    const { conversation } = this.state;
    const { tree, removed } = trees.remove(this.state.tree, id);
    if (removed.some((message) => message.id === this.state.live?.id)) this.stop();
    this.#set({ tree });
    this.#settle();
    this.counter.soon();
    await this.store.save({ removeMessages: removed.map((message) => message.id), conversations: this.#storedConversation() });
    const act = () => {
      void this.store.save({ messages: removed });
      if (this.state.conversation.id !== conversation.id) return;
      this.#set({ tree: trees.put(this.state.tree, ...removed) });
      this.#setConversation({ choices: conversation.choices });
      this.counter.soon();
    };
    this.notify('toast.messagesDeleted', { count: removed.length }, { key: 'toast.undo', act });
  }

  /** The messages down to `id` as a chat of their own. @param {string} id */
  async branchToNewChat(id) {
    const source = this.state.conversation;
    const conversation = { ...blank(), title: source.title, settings: source.settings };
    await this.#adopt(conversation, trees.branch(this.state.tree, id, conversation.id, newId));
    await this.openChat(conversation.id);
  }

  // Raw texts

  /** @param {string} text */
  setRawText(text) {
    const { conversation } = this.state;
    if (conversation.text === undefined || this.state.live?.id === conversation.id) return;
    const title = conversation.titled ? conversation.title : lineOf(text);
    this.#set({ conversation: { ...conversation, text, title }, rawBefore: null });
    this.counter.soon();
    clearTimeout(this.rawTimer);
    this.rawTimer = setTimeout(() => this.#saveRaw(), SAVE_EVERY_MS);
  }

  /** @param {boolean} literal */
  setRawLiteral(literal) {
    this.#set({ conversation: { ...this.state.conversation, literal } });
    this.#saveRaw();
    this.counter.soon();
  }

  #saveRaw() {
    clearTimeout(this.rawTimer);
    const { conversation } = this.state;
    if (conversation.text === undefined || (conversation.text === '' && !this.#listed(conversation.id))) return;
    this.#setConversation({ updated: Date.now() }, true);
  }

  /** The model goes on with the open raw text. */
  async generateRaw() {
    const { conversation } = this.state;
    const before = conversation.text ?? '';
    if (!machine.canSend(this.state.machine) || conversation.text === undefined) return;
    this.#saveRaw();
    this.#event({ type: 'send' });
    const chosen = this.settings;
    const running = new AbortController();
    this.running = running;
    /** @type {Live} */
    const live = { id: conversation.id, conversation: conversation.id, text: before, speed: null };
    this.#set({ live, rawBefore: before });
    const speed = new Speed();
    const current = () => this.running === running;
    try {
      const params = settings.sampling(chosen, chosen.seed >= 0 ? chosen.seed : newSeed());
      const { max_tokens: limit = -1, logprobs: _, top_logprobs: __, ...others } = params;
      const prompt = conversation.literal
        ? await this.api.tokenIds({ content: before, parse_special: false, add_special: true }, running.signal)
        : before;
      for await (const event of this.api.complete({ ...others, n_predict: limit, prompt }, running.signal)) {
        if (!current()) return;
        if (event.type === 'prefill') this.#event(event);
        if (event.type !== 'text') continue;
        speed.add(this.now());
        live.text += event.text;
        live.speed = speed.perSecond;
        this.#event({ type: 'token' });
        for (const listener of this.streamListeners) listener(live);
      }
      if (current()) this.#endRaw(live, { type: 'end' });
    } catch (error) {
      if (!current() || isAbort(error)) return;
      const failure =
        error instanceof ApiError ? error.failure : { kind: /** @type {const} */ ('server'), message: String(error) };
      this.#endRaw(live, { type: 'fail', failure });
      if (failure.kind === 'network') this.checkNow();
    }
  }

  /** @param {Live} live @param {machine.Event} event */
  #endRaw(live, event) {
    this.running = null;
    const text = { text: live.text, updated: Date.now() };
    if (this.state.conversation.id === live.id) this.#setConversation(text, true);
    else this.#changeListed(live.id, text);
    this.#set({ live: null });
    this.#event(event);
    void this.counter.now();
  }

  /** Takes back what was generated last. */
  undoRaw() {
    const { rawBefore, live } = this.state;
    if (rawBefore === null || live) return;
    this.setRawText(rawBefore);
  }

  // A full context

  /** The messages of a branch that are sent: all of it, or what a person chose to keep. @param {Message[]} path */
  sent(path) {
    const from = path.findIndex((message) => message.id === this.state.conversation.sendFrom);
    return path.slice(Math.max(0, from));
  }

  /** Leaves out as many of the oldest turns as needed, a quarter of the context kept free, then answers. */
  async leaveOutOldest() {
    const { path } = this;
    const { meter } = this.state;
    const last = path.at(-1);
    const asked = last?.role === 'assistant' && last.content === '' ? path.slice(0, -1) : path;
    const from = await firstThatFits(asked, async (rest) => this.#tokens(rest), Math.floor(meter.total * 0.75));
    if (from === null) {
      this.notify('full.lastTooLong');
      return;
    }
    this.#setConversation({ sendFrom: from });
    void this.counter.now();
    if (last && last.status === 'error') await this.retry(last.id);
    else if (last?.role === 'assistant' && last.status === 'cut') await this.continueReply(last.id);
  }

  /** A fresh chat that begins with the last answer as quoted material. */
  async newChatWithLastAnswer() {
    const answer = this.path.findLast((message) => message.role === 'assistant' && message.content !== '');
    this.newChat();
    if (answer) this.setDraft(`${answer.content.split('\n').map((line) => `> ${line}`.trimEnd()).join('\n')}\n\n`);
  }

  // The running reply

  /** Ends the running reply, or forgets the message that waits for the model. */
  stop() {
    this.queued = null;
    if (this.state.machine.queued) this.#event({ type: 'unqueue' });
    this.running?.abort();
    const { live } = this.state;
    if (!live) return;
    if (this.writing === null) {
      this.#endRaw(live, { type: 'stop' });
      return;
    }
    this.#update({ ...this.writing, content: live.text, status: 'stopped' }, live.conversation);
    this.#set({ live: null });
    this.#event({ type: 'stop' });
    this.running = this.writing = null;
    void this.counter.now();
  }

  /**
   * Has the model write `message`, after what it already contains.
   * @param {Message} message
   * @param {{ seed?: number, temperature?: number }} [options]
   */
  async #generate(message, { seed, temperature } = {}) {
    if (!machine.canSend(this.state.machine)) return;
    this.#event({ type: 'send' });
    const chosen = settings.resolve(this.settings, temperature === undefined ? {} : { temperature });
    const used = seed ?? (chosen.seed >= 0 ? chosen.seed : newSeed());
    const params = settings.sampling(chosen, used);
    const before = message.content;
    /** @type {Message} */
    let reply = {
      ...message,
      status: 'streaming',
      failure: undefined,
      cutBy: undefined,
      model: this.state.props?.name,
      demo: this.state.props?.demo || undefined,
      params,
      probs: chosen.probabilities > 0 ? goingOn(message) : undefined,
    };
    const { probs } = reply;
    this.#add(reply);
    this.writing = reply;
    const { conversation } = reply;
    const history = this.sent(trees.ancestry(this.state.tree, before === '' ? reply.parent : reply.id));
    const running = new AbortController();
    this.running = running;
    /** @type {Live} */
    const live = { id: reply.id, conversation, text: before, speed: null };
    this.#set({ live });
    const speed = new Speed();
    const started = this.now();
    let saved = started;
    /** @type {number | undefined} */
    let firstMs;
    /** Only the reply that is still the running one may change anything. */
    const current = () => this.running === running;
    try {
      const body = { messages: settings.messages(chosen, history), templates: settings.templates(chosen), ...params };
      for await (const event of this.api.chat(body, running.signal)) {
        if (!current()) return;
        if (event.type === 'prefill') {
          this.#event(event);
        } else if (event.type === 'text') {
          const now = this.now();
          firstMs ??= now - started;
          speed.add(now);
          live.text += event.text;
          if (event.token) probs?.list.push(event.token);
          live.speed = speed.perSecond;
          this.#event({ type: 'token' });
          for (const listener of this.streamListeners) listener(live);
          if (now - saved >= SAVE_EVERY_MS) {
            saved = now;
            void this.store.save({ messages: [{ ...reply, content: live.text }] });
          }
        } else {
          const cutBy = event.reason === 'token_limit' || event.reason === 'context_full' ? event.reason : undefined;
          reply = {
            ...reply,
            content: live.text,
            status: cutBy ? 'cut' : 'complete',
            cutBy,
            params: event.seed === null ? params : { ...params, seed: event.seed },
            timings: { ...event.timings, ...(firstMs === undefined ? {} : { first_ms: Math.round(firstMs) }) },
            promptTokens: event.promptTokens ?? undefined,
            replyTokens: event.replyTokens ?? undefined,
          };
        }
      }
      if (!current()) return;
      this.#finish(reply, { type: 'end' });
    } catch (error) {
      if (!current() || isAbort(error)) return;
      const failure =
        error instanceof ApiError ? error.failure : { kind: /** @type {const} */ ('server'), message: String(error) };
      const status = failure.kind === 'network' && live.text !== '' ? 'stopped' : 'error';
      this.#finish({ ...reply, content: live.text, status, failure }, { type: 'fail', failure });
      if (failure.kind === 'network') this.checkNow();
    }
  }

  /** @param {Message} reply @param {machine.Event} event */
  #finish(reply, event) {
    this.running = this.writing = null;
    // The message first: nothing may ever see a reply that is neither being written nor has its text.
    this.#update(reply, reply.conversation);
    this.#set({ live: null });
    this.#event(event);
    void this.counter.now();
  }

  // Counting

  /** @param {AbortSignal} signal */
  async #count(signal) {
    if (!this.state.props) return;
    const { text, literal } = this.state.conversation;
    if (text !== undefined) {
      const ids = await this.api.tokenIds({ content: text, parse_special: !literal, add_special: true }, signal);
      if (!signal.aborted) this.#set({ meter: { ...this.state.meter, used: ids.length } });
      return;
    }
    const used = await this.#tokens(this.sent(this.path), signal, true);
    if (!signal.aborted) this.#set({ meter: { ...this.state.meter, used } });
  }

  /**
   * @param {Message[]} path
   * @param {AbortSignal} [signal]
   * @param {boolean} [withDraft]
   * @returns {Promise<number>}
   */
  async #tokens(path, signal, withDraft = false) {
    const body = this.promptRequest(path, withDraft);
    if (body.messages.every((message) => message.content.trim() === '')) return 0;
    return (await this.api.applyTemplate(body, signal)).tokens;
  }

  /**
   * What `/apply-template` needs to show or count a prompt.
   * @param {Message[]} path
   * @param {boolean} [withDraft] with what is in the composer as the next message
   */
  promptRequest(path, withDraft = false) {
    /** @type {Pick<Message, 'role' | 'content' | 'files'>[]} */
    const list = path.filter((message) => message.content !== '' || message.files);
    const { draft, files } = this.state;
    if (withDraft && (draft.trim() !== '' || files.length > 0)) list.push({ role: 'user', content: draft.trim(), files });
    return { messages: settings.messages(this.settings, list), templates: settings.templates(this.settings) };
  }

  // Changing state

  /** @param {Partial<AppState>} changed */
  #set(changed) {
    this.state = { ...this.state, ...changed };
    for (const listener of this.listeners) listener();
  }

  /** @param {machine.Event} event */
  #event(event) {
    const next = machine.next(this.state.machine, event);
    if (next !== this.state.machine) this.#set({ machine: next });
  }

  /** A note about the last reply belongs to that chat only. */
  #settle() {
    if (!machine.busy(this.state.machine)) this.#event({ type: 'dismiss' });
  }

  /** @param {trees.Role} role @param {string} content @param {string | null} parent @returns {Message} */
  #message(role, content, parent) {
    return { id: newId(), conversation: this.state.conversation.id, parent, role, content, time: Date.now(), status: 'complete' };
  }

  /** Puts a message into the open chat and makes it visible. @param {Message} message */
  #add(message) {
    const tree = trees.put(this.state.tree, message);
    const { conversation } = this.state;
    const title = conversation.title || titleOf(message);
    this.#set({ tree, conversation: { ...conversation, title } });
    this.#setConversation({ choices: trees.choose(tree, conversation.choices, message.id), updated: Date.now() }, true);
    void this.store.save({ messages: [message] });
  }

  /** Replaces a message, also one of a chat that is not open any more. @param {Message} message @param {string} [conversation] */
  #update(message, conversation = this.state.conversation.id) {
    if (conversation === this.state.conversation.id && this.state.tree.has(message.id)) {
      this.#set({ tree: trees.put(this.state.tree, message) });
    }
    void this.store.save({ messages: [message] });
  }

  /** @param {Partial<Conversation>} changed @param {boolean} [list] whether the chat joins the list now */
  #setConversation(changed, list = false) {
    const conversation = { ...this.state.conversation, ...changed };
    this.#set({ conversation });
    if (!list && !this.#listed(conversation.id)) return;
    const others = this.state.conversations.filter((other) => other.id !== conversation.id);
    this.#set({ conversations: sorted([...others, conversation]) });
    void this.store.save({ conversations: [conversation] });
  }

  #storedConversation() {
    const conversation = this.#listed(this.state.conversation.id);
    return conversation ? [this.state.conversation] : [];
  }

  /** @param {string} id */
  #listed(id) {
    return this.state.conversations.find((conversation) => conversation.id === id);
  }

  /** @param {string} id @param {Partial<Conversation>} changed */
  #changeListed(id, changed) {
    const conversation = this.#listed(id);
    if (!conversation) return;
    const next = { ...conversation, ...changed };
    this.#set({ conversations: sorted(this.state.conversations.map((other) => (other.id === id ? next : other))) });
    if (this.state.conversation.id === id) this.#set({ conversation: { ...this.state.conversation, ...changed } });
    void this.store.save({ conversations: [next] });
  }

  /** @param {string | null} id another tab changed this chat */
  async #foreignChange(id) {
    const conversations = sorted(await this.store.conversations());
    this.#set({ conversations });
    const open = this.state.conversation.id;
    const conversation = conversations.find((candidate) => candidate.id === open);
    if (!conversation || (id !== null && id !== open) || this.state.live?.conversation === open) return;
    const tree = trees.fromRecords(await this.store.messages(open));
    if (this.state.conversation.id === open) this.#set({ tree, conversation: { ...conversation, choices: this.state.conversation.choices } });
  }

  /**
   * @param {string} key
   * @param {Record<string, string | number>} [values]
   * @param {Toast['action']} [action]
   */
  notify(key, values = {}, action = null) {
    this.toasts += 1;
    this.#set({ toast: { id: this.toasts, key, values, action } });
    clearTimeout(this.toastTimer);
    this.toastTimer = setTimeout(() => this.dismissToast(), action ? UNDO_MS : 4000);
  }

  dismissToast() {
    clearTimeout(this.toastTimer);
    this.#set({ toast: null });
  }

  /** What the note at the bottom offers. */
  actOnToast() {
    const action = this.state.toast?.action;
    this.dismissToast();
    action?.act();
  }
}

/**
 * Where the recording of token probabilities goes on: after what was recorded, if that is the whole text.
 * @param {Message} message
 * @returns {trees.Probabilities}
 */
function goingOn({ content, probs }) {
  const known = probs ? probs.from + probs.list.reduce((sum, [text]) => sum + text.length, 0) : -1;
  return known === content.length && probs ? { from: probs.from, list: [...probs.list] } : { from: content.length, list: [] };
}

/** @param {Conversation[]} conversations */
function sorted(conversations) {
  return [...conversations].sort((a, b) => Number(b.pinned ?? false) - Number(a.pinned ?? false) || b.updated - a.updated);
}

/** The first line of a message, cut at a word. @param {Message} message */
export function titleOf(message) {
  return lineOf(message.content) || lineOf(message.files?.[0]?.name ?? '');
}

/** The first line of a text. @param {string} text */
function lineOf(text) {
  const line = text.replace(/<start_of_turn>\w*\n?|<(?:bos|eos|end_of_turn)>/g, ' ').trim().split('\n')[0];
  const plain = line.replace(/\s+/g, ' ');
  if (plain.length <= TITLE_LENGTH) return plain;
  const cut = plain.slice(0, TITLE_LENGTH - 1);
  return `${cut.slice(0, Math.max(cut.lastIndexOf(' '), 30)).trimEnd()}…`;
}

/**
 * @param {Conversation} conversation
 * @param {Message[]} messages
 * @returns {{ conversation: Conversation, messages: Message[] }} the same chat with ids of its own
 */
export function copyOf(conversation, messages) {
  const ids = new Map(messages.map((message) => [message.id, newId()]));
  const id = newId();
  const rename = (/** @type {string} */ old) => ids.get(old) ?? old;
  return {
    conversation: {
      ...conversation,
      id,
      choices: Object.fromEntries(
        Object.entries(conversation.choices).map(([parent, child]) => [rename(parent), rename(child)]),
      ),
      sendFrom: conversation.sendFrom === undefined ? undefined : rename(conversation.sendFrom),
    },
    messages: messages.map((message) => ({
      ...message,
      id: rename(message.id),
      conversation: id,
      parent: message.parent === null ? null : rename(message.parent),
    })),
  };
}
