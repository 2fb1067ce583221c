/**
 * Lets a text area grow with its text. Browsers that do it themselves are left alone: measuring lays out the whole page,
 * which is felt while typing in a long chat.
 * @param {HTMLTextAreaElement | null} area
 */
export function grow(area) {
  if (!area || CSS.supports('field-sizing', 'content')) return;
  area.style.height = 'auto';
  area.style.height = `${area.scrollHeight + 2}px`;
}
