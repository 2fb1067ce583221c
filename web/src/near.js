/** One observer for all messages: which of them are close enough to the view to be shown in full. */

/** Messages that are shown in full in one frame; more would be felt while scrolling. */
const EACH_FRAME = 2;

/** @type {IntersectionObserver | null} */
let observer = null;
/** @type {WeakMap<Element, () => void>} */
const waiting = new WeakMap();
/** @type {Set<Element>} come near, in their order */
const queue = new Set();

/**
 * Calls `act` once, when `element` has come within a screen or so of the view.
 * @param {Element} element
 * @param {() => void} act
 * @returns {() => void} stops waiting
 */
export function whenNear(element, act) {
  const root = element.closest('.thread');
  // A raw text in between has taken the old list of messages away.
  if (observer && observer.root !== root) {
    observer.disconnect();
    observer = null;
  }
  observer ??= new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        // What was scrolled past before its turn came can wait for the next time.
        if (!isIntersecting) queue.delete(target);
        else if (queue.add(target).size === 1) requestAnimationFrame(work);
      }
    },
    { root, rootMargin: '800px 0px' },
  );
  waiting.set(element, act);
  observer.observe(element);
  return () => {
    observer?.unobserve(element);
    waiting.delete(element);
    queue.delete(element);
  };
}

function work() {
  for (const element of [...queue].slice(0, EACH_FRAME)) {
    queue.delete(element);
    observer?.unobserve(element);
    waiting.get(element)?.();
    waiting.delete(element);
  }
  if (queue.size > 0) requestAnimationFrame(work);
}
