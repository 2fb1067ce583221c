import { createContext } from 'preact';
import { useContext, useLayoutEffect, useState } from 'preact/hooks';

import { onLanguage } from './i18n.js';

/** @type {import('preact').Context<import('./app.js').App>} */
export const AppContext = createContext(/** @type {any} */ (null));

/** What is open on top of the page. @typedef {import('./ui.js').Ui} Ui */
/** @type {import('preact').Context<import('./ui.js').UiStore>} */
export const UiContext = createContext(/** @type {any} */ (null));

export const useApp = () => useContext(AppContext);
export const useUi = () => useContext(UiContext);

/**
 * A part of the app's state; the component renders again when that part changes.
 * @template T
 * @param {(state: import('./app.js').AppState) => T} select
 * @returns {T}
 */
export function useAppState(select) {
  return useStore(useApp(), select);
}

/**
 * @template T
 * @param {(ui: Ui) => T} select
 * @returns {T}
 */
export function useUiState(select) {
  return useStore(useUi(), select);
}

/** The component, and with it what is in it, renders again in another language. @returns {number} changes with the language */
export function useLanguage() {
  const [version, setVersion] = useState(0);
  useLayoutEffect(() => onLanguage(() => setVersion((before) => before + 1)), []);
  return version;
}

/**
 * @template S, T
 * @param {{ state: S, subscribe: (listener: () => void) => () => void }} store
 * @param {(state: S) => T} select
 * @returns {T}
 */
function useStore(store, select) {
  const [, setVersion] = useState(0);
  const value = select(store.state);
  useLayoutEffect(() => {
    let last = select(store.state);
    const again = () => setVersion((version) => version + 1);
    if (last !== value) again();
    return store.subscribe(() => {
      const now = select(store.state);
      if (now === last) return;
      last = now;
      again();
    });
  }, [store]);
  return value;
}
