/** The chosen language. It is kept in `localStorage`, so that its words can be fetched before anything else is read. */

import { bestLanguage } from './i18n.js';

const KEY = 'gemma2.language';

/** @returns {string} `auto` or a language */
export function storedLanguage() {
  try {
    return localStorage.getItem(KEY) ?? 'auto';
  } catch {
    return 'auto';
  }
}

/** @param {string} choice */
export function storeLanguage(choice) {
  try {
    localStorage.setItem(KEY, choice);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
}

/** @param {string} choice @returns {string} the language that it means in this browser */
export const meant = (choice) => (choice === 'auto' ? bestLanguage(navigator.languages) : choice);
