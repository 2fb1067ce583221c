/**
 * What is open on top of the page. Nothing of it is stored.
 *
 * @typedef {{ name: 'prompt', id?: string } | { name: 'info', id: string } | { name: 'model' } | { name: 'help' } | { name: 'about' }
 *   | { name: 'settings', field?: string } | { name: 'confirm', title: string, text: string, yes: string, act: () => void }} Dialog
 *
 * @typedef {object} Ui
 * @property {Dialog | null} dialog
 * @property {boolean} drawer the list of chats on a narrow screen
 * @property {boolean} list the list of chats on a wide screen
 * @property {string | null} editing id of the message that is being edited
 * @property {string} query what is searched for in the chats
 * @property {'auto' | 'light' | 'dark'} theme
 * @property {string} language `auto` or one of the languages
 */

import { setLanguage } from './i18n.js';
import { meant, storedLanguage, storeLanguage } from './language-choice.js';
import { applyTheme, showTheme, storedTheme } from './theme-choice.js';

/** As in the style sheet. */
export const NARROW = '(width < 900px)';

export class UiStore {
  constructor() {
    /** @type {Ui} */
    this.state = { dialog: null, drawer: false, list: true, editing: null, query: '', theme: 'auto', language: 'auto' };
    /** @type {Set<() => void>} */
    this.listeners = new Set();
    /** @type {(text: string) => void} says something to screen readers */
    this.announce = () => {};
  }

  /** @param {() => void} listener @returns {() => void} stops listening */
  subscribe(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** @param {Partial<Ui>} changed */
  set(changed) {
    this.state = { ...this.state, ...changed };
    for (const listener of this.listeners) listener();
  }

  /** @param {Dialog} dialog */
  open(dialog) {
    this.set({ dialog, drawer: false });
  }

  closeDialog() {
    this.set({ dialog: null });
  }

  /** What this browser has chosen for the whole page, here or in another tab. */
  readChoices() {
    const [theme, language] = [storedTheme(), storedLanguage()];
    showTheme(theme);
    this.set({ theme, language });
    if (meant(language) !== document.documentElement.lang) void this.#speak(language);
  }

  /** @param {Ui['theme']} theme */
  changeTheme(theme) {
    applyTheme(theme);
    this.set({ theme });
  }

  /** @param {string} language */
  changeLanguage(language) {
    storeLanguage(language);
    this.set({ language });
    void this.#speak(language);
  }

  /** @param {string} language */
  async #speak(language) {
    document.documentElement.lang = await setLanguage(meant(language));
  }

  /** A drawer is no drawer any more on a screen that has become wide. */
  watchWidth() {
    matchMedia(NARROW).addEventListener('change', ({ matches }) => matches || this.set({ drawer: false }));
  }

  /** The list is a drawer on a narrow screen and a column on a wide one. */
  toggleList() {
    if (matchMedia(NARROW).matches) this.set({ drawer: !this.state.drawer });
    else this.set({ list: !this.state.list });
  }
}
