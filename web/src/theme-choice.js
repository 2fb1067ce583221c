/** The chosen theme. It is kept in `localStorage`, because the page must know it before the first paint. */

const KEY = 'gemma2.theme';

/** @returns {'auto' | 'light' | 'dark'} */
export function storedTheme() {
  try {
    const stored = localStorage.getItem(KEY);
    return stored === 'light' || stored === 'dark' ? stored : 'auto';
  } catch {
    return 'auto';
  }
}

/** @param {'auto' | 'light' | 'dark'} theme */
export function showTheme(theme) {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

/** @param {'auto' | 'light' | 'dark'} theme that is remembered */
export function applyTheme(theme) {
  showTheme(theme);
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
}
