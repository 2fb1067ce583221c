/** Loads what turns text into markup: the renderer once, after the first paint; its large tools with the first text that needs them. */

/** @typedef {typeof import('./growing.js')} Markdown */

/** @type {Promise<Markdown> | null} */
let markdown = null;

/** @returns {Promise<Markdown>} */
export function loadMarkdown() {
  markdown ??= import('./growing.js');
  return markdown;
}

/**
 * @param {Iterable<import('./markdown.js').Tool>} missing
 * @returns {Promise<void>} when they can be used
 */
export async function loadTools(missing) {
  const { tools } = await loadMarkdown();
  for (const tool of missing) {
    try {
      if (tool === 'katex') tools.katex ??= /** @type {any} */ ((await import('katex')).default);
      else tools.colored ??= (await import('./colors.js')).colored;
    } catch {
      // The program may have been stopped meanwhile; the text stays as it is.
    }
  }
}
