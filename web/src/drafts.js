/** What is typed or attached and not sent yet. It is kept, for each chat, also when the page is closed. */

const SAVE_MS = 300;

/** Where the draft of a chat without messages is kept. */
export const UNSENT = 'new';

export class Drafts {
  /** @param {import('./app.js').App} app */
  constructor(app) {
    this.app = app;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {import('./store.js').Draft} of a chat without messages: the next new chat begins with it */
    this.unsent = { value: '', files: [] };
  }

  /** @param {string} draft */
  set(draft) {
    this.app.set({ draft });
    this.app.prompts.counter.soon();
    this.#soon();
  }

  /** Shows what was kept. @param {import('./store.js').Draft} draft */
  restore({ value, files }) {
    this.app.set({ draft: value });
    if (files.length > 0) this.setFiles(files);
  }

  #soon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), SAVE_MS);
  }

  /** Stores what is typed; another chat may be opened then. */
  flush() {
    const { app } = this;
    clearTimeout(this.timer);
    app.raw.flush();
    const { conversation, draft, files, started } = app.state;
    // What is stored has not been read yet, or there is no composer.
    if (!started || conversation.text !== undefined) return;
    const kept = files.map(({ name, text }) => ({ name, text }));
    const stored = app.chats.listed(conversation.id) !== undefined;
    if (!stored) this.unsent = { value: draft, files: kept };
    void app.store.saveDraft(stored ? conversation.id : UNSENT, draft, kept);
  }

  /** The draft became a message. @param {string} conversation @param {boolean} first of its chat */
  sent(conversation, first) {
    const { app } = this;
    app.set({ draft: '', files: [] });
    clearTimeout(this.timer);
    void app.store.saveDraft(conversation, '');
    if (first) this.forgetUnsent();
  }

  forgetUnsent() {
    this.unsent = { value: '', files: [] };
    void this.app.store.saveDraft(UNSENT, '');
  }

  /** @param {import('./app.js').Waiting[]} files */
  setFiles(files) {
    this.app.set({ files });
    this.app.prompts.counter.soon();
    this.#soon();
    for (const file of files) if (file.tokens === undefined) void this.#measure(file);
  }

  close() {
    clearTimeout(this.timer);
  }

  /** @param {import('./app.js').Waiting} file */
  async #measure(file) {
    const { app } = this;
    const tokens = await app.api.countTokens(file.text).catch(() => undefined);
    if (tokens === undefined || !app.state.files.includes(file)) return;
    app.set({ files: app.state.files.map((other) => (other === file ? { ...file, tokens } : other)) });
  }
}
