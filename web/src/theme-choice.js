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
export function applyTheme(theme) {
  if (theme === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
}
