/** One observer for all messages: which of them are close enough to the view to be shown in full. */

/** @type {IntersectionObserver | null} */
let observer = null;
/** @type {WeakMap<Element, () => void>} */
const waiting = new WeakMap();

/**
 * Calls `act` once, when `element` comes within a screen or so of the view.
 * @param {Element} element
 * @param {() => void} act
 * @returns {() => void} stops waiting
 */
export function whenNear(element, act) {
  observer ??= new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        observer?.unobserve(entry.target);
        waiting.get(entry.target)?.();
        waiting.delete(entry.target);
      }
    },
    { root: document.querySelector('.thread'), rootMargin: '800px 0px' },
  );
  waiting.set(element, act);
  observer.observe(element);
  return () => {
    observer?.unobserve(element);
    waiting.delete(element);
  };
}
