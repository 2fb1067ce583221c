/** What is sent of a chat, how many tokens that has, and what to do when it is too much. */

import { debounced, firstThatFits } from './meter.js';
import * as settings from './settings.js';

/** @typedef {import('./tree.js').Message} Message */

const COUNT_MS = 300;

/** What stays free for the reply when old turns are left out. */
const FREE_SHARE = 0.25;

/** As `sendFrom`: only what is written next is sent. */
export const NEXT = '';

export class Prompts {
  /** @param {import('./app.js').App} app */
  constructor(app) {
    this.app = app;
    /** Keeps the meter up to date. */
    this.counter = debounced((signal) => this.#count(signal), COUNT_MS);
  }

  /**
   * The messages of a branch that are sent: all of it, or what a person chose to keep. The first turn stays where it
   * carries the system text.
   * @param {Message[]} path
   * @param {boolean} [withDraft] what is sent with the next message; otherwise for a reply to the last one
   * @returns {Message[]}
   */
  sent(path, withDraft = false) {
    const { sendFrom } = this.app.state.conversation;
    if (sendFrom === NEXT) return withDraft ? this.#from(path, path.length) : path;
    const from = path.findIndex((message) => message.id === sendFrom);
    return from < 0 ? path : this.#from(path, from);
  }

  /**
   * The prompt's part of a request: what is sent is what is shown and counted. A reply without text is no turn.
   * @param {Message[]} path
   * @param {boolean} [withDraft] with what is in the composer as the next message
   */
  request(path, withDraft = false) {
    /** @type {Pick<Message, 'role' | 'content' | 'files'>[]} */
    const list = path.filter((message) => message.content !== '' || message.files);
    const { draft, files } = this.app.state;
    if (withDraft && (draft.trim() !== '' || files.length > 0)) list.push({ role: 'user', content: draft.trim(), files });
    const chosen = this.app.settings;
    return { messages: settings.messages(chosen, list), templates: settings.templates(chosen) };
  }

  /**
   * Leaves out as many of the oldest turns as needed, then answers what waits for an answer.
   * @param {boolean} [forDraft] so that the draft can be sent; nothing is answered
   */
  async leaveOutOldest(forDraft = false) {
    const { app } = this;
    const { path } = app.messages;
    const last = path.at(-1);
    const asked = last?.role === 'assistant' && last.content === '' ? path.slice(0, -1) : path;
    // A prompt begins with a message of the person; the draft is one, too.
    const starts = asked.flatMap((message, at) => (message.role === 'user' ? [at] : []));
    if (forDraft) starts.push(asked.length);
    const count = (/** @type {number} */ at) => this.#tokens(this.#from(asked, at), undefined, forDraft);
    const { total } = app.state.meter;
    // With room for a long reply where that is possible, else for any.
    const roomy = await firstThatFits(starts, count, Math.floor(total * (1 - FREE_SHARE)));
    const from = roomy ?? (await firstThatFits(starts, count, total - 1));
    if (from === null) {
      app.notify('full.lastTooLong');
      return;
    }
    app.chats.change({ sendFrom: asked[from]?.id ?? NEXT });
    void this.counter.now();
    if (forDraft) return;
    if (last?.status === 'error') await app.replies.retry(last.id);
    else if (last?.role === 'assistant' && last.status === 'cut') await app.replies.goOn(last.id);
  }

  /** A fresh chat that begins with the last answer as quoted material; a draft goes along. */
  newChatWithLastAnswer() {
    const { app } = this;
    const { draft } = app.state;
    const answer = app.messages.path.findLast((message) => message.role === 'assistant' && message.content !== '');
    app.chats.create();
    const quoted = answer?.content.split('\n').map((line) => `> ${line}`.trimEnd()).join('\n');
    if (quoted !== undefined) app.drafts.set(`${quoted}\n\n${draft}`);
  }

  /** @param {Message[]} path @param {number} at the first one that is sent */
  #from(path, at) {
    const second = path.findIndex((message, place) => place > 0 && message.role === 'user');
    const first = this.app.settings.system.trim() === '' ? 0 : Math.min(Math.max(second, 0), at);
    return [...path.slice(0, first), ...path.slice(at)];
  }

  /** @param {AbortSignal} signal */
  async #count(signal) {
    const { app } = this;
    if (!app.state.props) return;
    const { text, literal } = app.state.conversation;
    const used =
      text === undefined
        ? await this.#tokens(this.sent(app.messages.path, true), signal, true)
        : (await app.api.tokenIds({ content: text, parse_special: !literal, add_special: true }, signal)).length;
    if (!signal.aborted) app.set({ meter: { ...app.state.meter, used } });
  }

  /**
   * @param {Message[]} path
   * @param {AbortSignal} [signal]
   * @param {boolean} [withDraft]
   * @returns {Promise<number>}
   */
  async #tokens(path, signal, withDraft = false) {
    const body = this.request(path, withDraft);
    if (body.messages.every((message) => message.content.trim() === '')) return 0;
    return (await this.app.api.applyTemplate(body, signal)).tokens;
  }
}
