/** What is sent of a chat, how many tokens that has, and what to do when it is too much. */

import { debounced, firstThatFits } from './meter.js';
import * as settings from './settings.js';
import * as trees from './tree.js';

/**
 * @typedef {import('./tree.js').Message} Message
 * @typedef {{ first: number, from: number }} Kept of a branch: its first few messages, and those from one on
 */

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
    return kept(path, this.#choice(path, withDraft));
  }

  /**
   * What a reply is about to be made from, for the record.
   * @param {Message[]} path what leads to it
   * @param {number} length characters of it that are there already
   * @returns {import('./tree.js').Asked}
   */
  record(path, length) {
    const { settings: chosen } = this.app;
    return { at: Date.now(), ...this.#choice(path, false), length, system: chosen.system, templates: settings.templates(chosen) };
  }

  /**
   * The prompt's part of the request that a reply was made with; where that was not recorded, of one that would be made now.
   * @param {Message} reply
   * @param {number} [at] as its branch was then; a clock that was set back must not matter to what is sent
   */
  requestOf(reply, at = reply.asked?.at ?? Infinity) {
    const { asked } = reply;
    const path = trees.ancestry(this.app.state.tree, reply.parent);
    if (!asked) return this.request(this.sent(path));
    const { length, system, templates } = asked;
    const before = [...path, reply].map((message) => ({ ...message, content: trees.contentAt(message, at) }));
    const own = /** @type {Message} */ (before.pop());
    const list = [...kept(before, asked), { ...own, content: own.content.slice(0, length) }].filter(isTurn);
    return { messages: settings.messages({ system }, list), templates };
  }

  /**
   * The prompt's part of a request: what is sent is what is shown and counted.
   * @param {Message[]} path
   * @param {boolean} [withDraft] with what is in the composer as the next message
   */
  request(path, withDraft = false) {
    /** @type {Pick<Message, 'role' | 'content' | 'files'>[]} */
    const list = path.filter(isTurn);
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
    const count = (/** @type {number} */ at) => this.#tokens(kept(asked, this.#keeping(asked, at)), undefined, forDraft);
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
    app.set({ files: [] });
    const quoted = answer?.content.split('\n').map((line) => `> ${line}`.trimEnd()).join('\n');
    if (quoted !== undefined) app.drafts.set(`${quoted}\n\n${draft}`);
  }

  /** The context fills while a reply is written into it. @param {string} conversation @param {number} used as the server counts */
  used(conversation, used) {
    const { state } = this.app;
    if (conversation === state.conversation.id) this.app.set({ meter: { ...state.meter, used } });
  }

  /** @param {Message[]} path @param {boolean} withDraft @returns {Kept} */
  #choice(path, withDraft) {
    const { sendFrom } = this.app.state.conversation;
    const from = sendFrom === NEXT && withDraft ? path.length : path.findIndex((message) => message.id === sendFrom);
    return from < 0 ? { first: 0, from: 0 } : this.#keeping(path, from);
  }

  /** @param {Message[]} path @param {number} from the first one that is sent @returns {Kept} */
  #keeping(path, from) {
    const second = path.findIndex((message, place) => place > 0 && message.role === 'user');
    return { first: this.app.settings.system.trim() === '' ? 0 : Math.min(Math.max(second, 0), from), from };
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

/** @param {Message[]} path @param {Kept} choice */
const kept = (path, { first, from }) => [...path.slice(0, first), ...path.slice(from)];

/** A reply without text is no turn. @param {Pick<Message, 'content' | 'files'>} message */
const isTurn = ({ content, files }) => content !== '' || files !== undefined;
