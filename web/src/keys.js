/** The shortcuts of the whole page. All need a modifier, so that none is in the way of typing or of a screen reader. */

import { busy } from './state.js';
import { NARROW } from './ui.js';

/**
 * @param {import('./app.js').App} app
 * @param {import('./ui.js').UiStore} ui
 */
export function listenForKeys(app, ui) {
  document.addEventListener('keydown', (event) => {
    if (event.isComposing) return;
    const control = event.ctrlKey || event.metaKey;
    if (event.key === 'Escape') {
      if (ui.state.dialog) return;
      if (ui.state.drawer) ui.set({ drawer: false });
      else if (busy(app.state.machine) || app.state.machine.queued) {
        app.replies.stop();
        document.getElementById('message')?.focus();
      }
      return;
    }
    if (ui.state.dialog) return;
    const act = shortcut(event, control);
    if (!act) return;
    event.preventDefault();
    act();
  });

  /**
   * @param {KeyboardEvent} event
   * @param {boolean} control
   * @returns {(() => void) | null}
   */
  function shortcut(event, control) {
    if (event.altKey && !control && (event.key === 'ArrowUp' || event.key === 'ArrowDown')) {
      return () => moveToMessage(event.key === 'ArrowUp' ? -1 : 1);
    }
    if (!control || event.altKey) return null;
    const key = event.key.toLowerCase();
    if (event.shiftKey) {
      if (key === 'o') return newChat;
      if (key === 'enter') {
        const last = app.messages.path.findLast((message) => message.role === 'assistant');
        return last ? () => void app.replies.regenerate(last.id) : null;
      }
      return null;
    }
    if (key === 'k') return search;
    if (key === 'b') return () => ui.toggleList();
    if (key === '/') return () => ui.open({ name: 'help' });
    return null;
  }

  function newChat() {
    app.chats.create();
    document.getElementById('message')?.focus();
  }

  function search() {
    if (matchMedia(NARROW).matches) ui.set({ drawer: true });
    else ui.set({ list: true });
    // After the drawer has taken the focus for itself.
    setTimeout(() => document.getElementById('search')?.focus(), 50);
  }
}

/** @param {1 | -1} step from the message that has the focus, or from the end */
function moveToMessage(step) {
  const articles = /** @type {HTMLElement[]} */ ([...document.querySelectorAll('article.message')]);
  const at = articles.findIndex((article) => article.contains(document.activeElement));
  const target = at < 0 ? articles.at(step < 0 ? -1 : 0) : articles[at + step];
  if (target) target.focus();
  else if (step > 0) document.getElementById('message')?.focus();
}
