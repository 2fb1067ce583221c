/** Raw texts: the model goes on with what stands there, without turns and templates. */

import { lineOf } from './chats.js';
import * as machine from './state.js';

const SAVE_MS = 500;

export class RawTexts {
  /** @param {import('./app.js').App} app */
  constructor(app) {
    this.app = app;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {boolean | undefined} whether the demo model had written before the last generation */
    this.demoBefore = undefined;
  }

  /** @param {string} text */
  setText(text) {
    const { app } = this;
    const { conversation } = app.state;
    if (conversation.text === undefined || app.state.live?.id === conversation.id) return;
    const title = conversation.titled ? conversation.title : lineOf(text);
    app.set({ conversation: { ...conversation, text, title }, rawBefore: null });
    app.prompts.counter.soon();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#save(), SAVE_MS);
  }

  /** @param {boolean} literal markers are ordinary text */
  setLiteral(literal) {
    this.app.set({ conversation: { ...this.app.state.conversation, literal } });
    this.#save();
    this.app.prompts.counter.soon();
  }

  /** Stores what is typed; another chat may be opened then. */
  flush() {
    if (this.timer !== undefined) this.#save();
    if (this.app.state.rawBefore !== null) this.app.set({ rawBefore: null });
  }

  close() {
    clearTimeout(this.timer);
  }

  /** The model goes on with the open text. */
  async generate() {
    const { app } = this;
    const { conversation } = app.state;
    const before = conversation.text ?? '';
    this.demoBefore = conversation.demo;
    if (!machine.canSend(app.state.machine) || conversation.text === undefined) return;
    this.#save();
    app.set({ rawBefore: before });
    await app.replies.generateRaw(conversation);
  }

  /** Takes back what was generated last. */
  undo() {
    const { rawBefore, live } = this.app.state;
    if (rawBefore === null || live) return;
    this.app.set({ conversation: { ...this.app.state.conversation, demo: this.demoBefore } });
    this.setText(rawBefore);
  }

  #save() {
    const { app } = this;
    clearTimeout(this.timer);
    this.timer = undefined;
    const { conversation } = app.state;
    if (conversation.text === undefined || (conversation.text === '' && !app.chats.listed(conversation.id))) return;
    app.chats.change({ updated: Date.now() }, true);
  }
}
