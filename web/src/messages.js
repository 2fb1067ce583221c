/** The messages of the open chat: a tree of which one branch is visible. */

import { blank, titleOf } from './chats.js';
import { newId } from './ids.js';
import * as trees from './tree.js';

/** @typedef {import('./tree.js').Message} Message */

export class Messages {
  /** @param {import('./app.js').App} app */
  constructor(app) {
    this.app = app;
  }

  /** The visible branch, from the first message to the last. @returns {Message[]} */
  get path() {
    return trees.path(this.app.state.tree, this.app.state.conversation.choices);
  }

  /** A new message of the open chat, not added yet. @param {trees.Role} role @param {string} content @param {string | null} parent @returns {Message} */
  make(role, content, parent) {
    return { id: newId(), conversation: this.app.state.conversation.id, parent, role, content, time: Date.now(), status: 'complete' };
  }

  /** Puts a message into the open chat and makes it visible. @param {Message} message */
  add(message) {
    const { app } = this;
    const tree = trees.put(app.state.tree, message);
    const { conversation } = app.state;
    app.set({ tree, conversation: { ...conversation, title: conversation.title || titleOf(message) } });
    app.chats.change({ choices: trees.choose(tree, conversation.choices, message.id), updated: Date.now() }, true);
    void app.store.save({ messages: [message] });
  }

  /** Replaces a message, also one of a chat that is not open any more. @param {Message} message */
  update(message) {
    const { app } = this;
    if (message.conversation === app.state.conversation.id && app.state.tree.has(message.id)) {
      app.set({ tree: trees.put(app.state.tree, message) });
    }
    void app.store.save({ messages: [message] });
  }

  /**
   * Changes a message in place; what is below it stays.
   * @param {string} id
   * @param {string} content
   */
  editInPlace(id, content) {
    const { app } = this;
    const message = app.state.tree.get(id);
    if (!message || message.id === app.state.live?.id) return;
    // Replies below were made from the old text: their exact prompt still shows it.
    const earlier = content === message.content ? message.earlier : [...(message.earlier ?? []), { content: message.content, until: Date.now() }];
    this.update({ ...message, content, edited: true, probs: undefined, earlier });
    app.prompts.counter.soon();
  }

  /** Shows another alternative, with everything that was chosen below it. @param {string} id */
  show(id) {
    const { app } = this;
    app.chats.change({ choices: trees.choose(app.state.tree, app.state.conversation.choices, id) });
    app.settle();
    app.prompts.counter.soon();
  }

  /** How many messages a deletion would take. @param {string} id */
  countBelow(id) {
    return trees.subtree(this.app.state.tree, id).length;
  }

  /** Deletes a message and everything below it. @param {string} id */
  async remove(id) {
    const { app } = this;
    const { conversation } = app.state;
    const { tree, removed } = trees.remove(app.state.tree, id);
    if (removed.some((message) => message.id === app.state.live?.id)) app.replies.stop();
    app.set({ tree });
    app.settle();
    app.prompts.counter.soon();
    const conversations = app.chats.listed(conversation.id) ? [app.state.conversation] : [];
    await app.store.save({ removeMessages: removed.map((message) => message.id), conversations });
    const act = () => {
      void app.store.save({ messages: removed });
      app.chats.changeListed(conversation.id, { choices: conversation.choices });
      if (app.state.conversation.id !== conversation.id) return;
      app.set({ tree: trees.put(app.state.tree, ...removed) });
      app.prompts.counter.soon();
    };
    app.notify('toast.messagesDeleted', { count: removed.length }, { key: 'toast.undo', act });
  }

  /** The messages down to `id` as a chat of their own. @param {string} id */
  async branchToNewChat(id) {
    const { app } = this;
    const source = app.state.conversation;
    const conversation = { ...blank(), title: source.title, settings: source.settings };
    await app.chats.adopt(conversation, trees.branch(app.state.tree, id, conversation.id, newId));
    await app.chats.open(conversation.id);
  }
}
