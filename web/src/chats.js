/** The list of chats and the one that is open. */

import { newId } from './ids.js';
import * as trees from './tree.js';

/**
 * @typedef {import('./tree.js').Message} Message
 * @typedef {import('./store.js').Conversation} Conversation
 */

const TITLE_LENGTH = 60;

/** @returns {Conversation} */
export const blank = () => {
  const now = Date.now();
  return { id: newId(), title: '', created: now, updated: now, choices: {}, settings: {} };
};

export class Chats {
  /** @param {import('./app.js').App} app */
  constructor(app) {
    this.app = app;
    /** Another tab has changed the open chat while a reply was written into it here. */
    this.missed = false;
    /** How many chats have been asked for: one that comes late must not replace the one that was asked for after it. */
    this.asked = 0;
    /** @type {Map<string, ReturnType<typeof setTimeout>>} chats in which another tab may be writing a reply */
    this.watched = new Map();
  }

  close() {
    for (const timer of this.watched.values()) clearTimeout(timer);
  }

  /**
   * Acts when no other tab writes into a chat. One that writes a reply stores it every half second, and is heard of.
   * @param {string} id
   * @param {() => void} act
   */
  whenQuiet(id, act) {
    clearTimeout(this.watched.get(id));
    const done = () => {
      this.watched.delete(id);
      act();
    };
    this.watched.set(id, setTimeout(done, this.app.takeOverMs));
  }

  /** @param {string} id @returns {Conversation | undefined} */
  listed(id) {
    return this.app.state.conversations.find((conversation) => conversation.id === id);
  }

  /** Opens an empty chat; it is stored with its first message. */
  create() {
    const { app } = this;
    app.drafts.flush();
    const { text, settings } = app.state.conversation;
    const untouched = app.messages.path.length === 0 && app.state.draft === '' && text === undefined;
    if (untouched && Object.keys(settings).length === 0) return;
    this.#show(blank());
    app.drafts.restore(app.drafts.unsent);
  }

  /** Opens an empty raw text; it is stored with its first character. */
  createRaw() {
    this.app.drafts.flush();
    this.#show({ ...blank(), text: '' });
  }

  /** @param {string} id */
  async open(id) {
    const { app } = this;
    this.asked += 1;
    const { asked } = this;
    if (id === app.state.conversation.id) return;
    app.drafts.flush();
    const [messages, draft] = await Promise.all([app.store.messages(id), app.store.draft(id)]);
    const conversation = this.listed(id);
    if (!conversation || asked !== this.asked) return;
    // What was typed meanwhile belongs to the chat that was there.
    app.drafts.flush();
    const tree = trees.fromRecords(messages.map((message) => app.replies.recovered(message)));
    app.set({ conversation, tree, files: [], formatProblem: null });
    app.drafts.restore(draft);
    app.settle();
    app.replies.recoverRaw(conversation);
    void app.prompts.counter.now();
  }

  /** @param {string} id @param {string} title */
  rename(id, title) {
    const clean = title.trim().slice(0, 200);
    if (hasLetters(clean)) this.changeListed(id, { title: clean, titled: true });
  }

  /** @param {string} id */
  togglePin(id) {
    const conversation = this.listed(id);
    if (conversation) this.changeListed(id, { pinned: !conversation.pinned });
  }

  /** @param {string} id */
  async duplicate(id) {
    const original = this.listed(id);
    if (!original) return;
    const copy = copyOf(original, await this.app.store.messages(id));
    copy.conversation.created = copy.conversation.updated = Date.now();
    await this.adopt(copy.conversation, copy.messages);
    await this.open(copy.conversation.id);
  }

  /** @param {string} id */
  async remove(id) {
    const { app } = this;
    const conversation = this.listed(id);
    if (!conversation) return;
    if (app.replies.job?.live.conversation === id) app.replies.stop();
    const isOpen = app.state.conversation.id === id;
    if (isOpen) app.drafts.flush();
    const [messages, draft] = await Promise.all([app.store.messages(id), app.store.draft(id)]);
    app.set({ conversations: app.state.conversations.filter((other) => other.id !== id) });
    if (app.state.conversation.id === id) this.#show(blank());
    await app.store.save({ removeConversations: [id], removeMessages: messages.map((message) => message.id) });
    const act = async () => {
      await this.adopt(conversation, messages);
      await app.store.saveDraft(id, draft.value, draft.files);
      const { conversation: shown, draft: typed } = app.state;
      if (isOpen && typed === '' && !this.listed(shown.id)) await this.open(id);
    };
    app.notify('toast.chatDeleted', { title: conversation.title }, { key: 'toast.undo', act });
  }

  /**
   * Puts a whole chat in, as an undo or a branch does.
   * @param {Conversation} conversation
   * @param {Message[]} messages
   */
  async adopt(conversation, messages) {
    const { app } = this;
    await app.store.save({ conversations: [conversation], messages });
    const others = app.state.conversations.filter((other) => other.id !== conversation.id);
    app.set({ conversations: sorted([...others, conversation]) });
  }

  /** @param {{ conversation: Conversation, messages: Message[] }[]} chats from a file, checked already */
  async import(chats) {
    const { store } = this.app;
    // A message of a file must never replace one that is stored: where ids meet, the chat gets fresh ones.
    const taken = new Set((await store.allMessages()).map((message) => message.id));
    const safe = chats.map((chat) => {
      const meets = chat.messages.some((message) => taken.has(message.id));
      const { conversation, messages } = meets ? copyOf(chat.conversation, chat.messages) : chat;
      for (const message of messages) taken.add(message.id);
      return { conversation, messages };
    });
    await store.save({
      conversations: safe.map((chat) => chat.conversation),
      messages: safe.flatMap((chat) => chat.messages),
    });
    this.app.set({ conversations: sorted(await store.conversations()) });
  }

  /**
   * Changes the open chat, and stores that.
   * @param {Partial<Conversation>} changed
   * @param {boolean} [list] whether the chat joins the list now
   */
  change(changed, list = false) {
    const { app } = this;
    const conversation = { ...app.state.conversation, ...changed };
    app.set({ conversation });
    if (!list && !this.listed(conversation.id)) return;
    const others = app.state.conversations.filter((other) => other.id !== conversation.id);
    app.set({ conversations: sorted([...others, conversation]) });
    void app.store.save({ conversations: [conversation] });
  }

  /** Changes a chat of the list. @param {string} id @param {Partial<Conversation>} changed */
  changeListed(id, changed) {
    const { app } = this;
    const conversation = this.listed(id);
    if (!conversation) return;
    const next = { ...conversation, ...changed };
    app.set({ conversations: sorted(app.state.conversations.map((other) => (other.id === id ? next : other))) });
    if (app.state.conversation.id === id) app.set({ conversation: { ...app.state.conversation, ...changed } });
    void app.store.save({ conversations: [next] });
  }

  /** A reply has ended: what another tab did meanwhile is shown. */
  async catchUp() {
    if (this.missed) await this.foreignChange(this.app.state.conversation.id);
  }

  /** @param {string | null} id another tab changed this chat; null: any */
  async foreignChange(id) {
    const { app } = this;
    if (id !== null) clearTimeout(this.watched.get(id));
    // What is listed now is stored before the list is read; what joins meanwhile may not be.
    const before = new Set(app.state.conversations.map((chat) => chat.id));
    const stored = await app.store.conversations();
    const joined = app.state.conversations.filter((chat) => !before.has(chat.id) && !stored.some((other) => other.id === chat.id));
    const conversations = sorted([...stored, ...joined]);
    app.set({ conversations });
    const { live } = app.state;
    if (live && (id === null || id === live.conversation)) await this.#dropLost(live);
    const open = app.state.conversation.id;
    const conversation = conversations.find((candidate) => candidate.id === open);
    if (!conversation && before.has(open)) await this.#deletedElsewhere(open);
    if (!conversation || (id !== null && id !== open)) return;
    if (app.state.live?.conversation === open) {
      // Its name and settings at once, so that this tab does not write old ones back; its messages when the reply is whole.
      const { choices, text, reply } = app.state.conversation;
      app.set({ conversation: { ...conversation, choices, text, reply } });
      this.missed = true;
      return;
    }
    this.missed = false;
    const messages = await app.store.messages(open);
    if (app.state.conversation.id !== open || app.state.live?.conversation === open) return;
    const tree = trees.fromRecords(messages);
    const choices = trees.chooseNewest(tree, app.state.conversation.choices, (message) => !app.state.tree.has(message.id));
    app.set({ tree, conversation: { ...conversation, choices } });
    const differs = Object.entries(choices).some(([parent, child]) => conversation.choices[parent] !== child);
    if (choices !== app.state.conversation.choices && differs) void app.store.save({ conversations: [app.state.conversation] });
    // A reply that grows in the other tab is that tab's, as long as it is there.
    if (messages.some((message) => message.status === 'streaming')) this.whenQuiet(open, () => void this.#recover(open));
  }

  /** Another tab may have deleted a reply that is being written here, or what it answers. @param {import('./app.js').Live} live */
  async #dropLost({ id, conversation }) {
    const { app } = this;
    const messages = await app.store.messages(conversation);
    const own = messages.find((message) => message.id === id);
    const whole = own && (own.parent === null || messages.some((message) => message.id === own.parent));
    if (app.state.live?.id !== id || app.replies.job?.raw || whole) return;
    await app.replies.drop();
    if (app.state.conversation.id === conversation) await this.foreignChange(conversation);
  }

  /** Another tab has deleted the open chat. What is being typed stays. @param {string} id */
  async #deletedElsewhere(id) {
    const { app } = this;
    const { tree, draft, files } = app.state;
    if (app.replies.job?.live.conversation === id) app.replies.stop();
    this.#show(blank());
    app.drafts.restore({ value: draft, files });
    // What this tab has stored since.
    await app.store.save({ removeConversations: [id], removeMessages: [...tree.keys()] });
  }

  /** The tab that was writing into the open chat is gone: this one goes on. @param {string} id */
  async #recover(id) {
    const { app } = this;
    const messages = await app.store.messages(id);
    if (app.state.conversation.id !== id || app.state.live) return;
    app.set({ tree: trees.fromRecords(messages.map((message) => app.replies.recovered(message))) });
  }

  /** Forgets all chats; what is stored is somebody else's to delete. */
  forget() {
    this.app.set({ conversations: [] });
    this.app.drafts.forgetUnsent();
    this.#show(blank());
  }

  /** @param {Conversation} conversation without messages */
  #show(conversation) {
    const { app } = this;
    this.asked += 1;
    const meter = { ...app.state.meter, used: 0 };
    app.set({ conversation, tree: new Map(), draft: '', files: [], formatProblem: null, meter });
    app.settle();
    app.prompts.counter.soon();
  }
}

/** Pinned ones first, then the newest. @param {Conversation[]} conversations */
export function sorted(conversations) {
  return [...conversations].sort((a, b) => Number(b.pinned ?? false) - Number(a.pinned ?? false) || b.updated - a.updated);
}

/** The first line of a message, cut at a word. @param {Message} message */
export function titleOf(message) {
  return lineOf(message.content) || lineOf(message.files?.[0]?.name ?? '');
}

/** Whether there is anything to see. @param {string} text */
export const hasLetters = (text) => /[\p{L}\p{N}\p{P}\p{S}]/u.test(text);

/** The first line of a text. @param {string} text */
export function lineOf(text) {
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
