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
    const { conversation, draft, files } = app.state;
    const kept = files.map(({ name, text }) => ({ name, text }));
    void app.store.saveDraft(app.chats.listed(conversation.id) ? conversation.id : UNSENT, draft, kept);
  }

  /** The draft became a message. @param {string} conversation @param {boolean} first of its chat */
  sent(conversation, first) {
    const { app } = this;
    app.set({ draft: '', files: [] });
    clearTimeout(this.timer);
    void app.store.saveDraft(conversation, '');
    if (first) void app.store.saveDraft(UNSENT, '');
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
