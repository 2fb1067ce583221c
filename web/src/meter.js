/**
 * How full the context is. The numbers are the server's own counts; this module only decides what they mean.
 */

/**
 * @typedef {object} Meter
 * @property {number | null} used tokens of the prompt with what has been typed; null before the first count
 * @property {number} total the context of one chat; 0 before it is known
 * @property {number} max what the model could use
 *
 * @typedef {'calm' | 'amber' | 'red' | 'full'} Level
 */

const AMBER = 0.75;
const RED = 0.9;

/** @param {Meter} meter @returns {number} 0 to 1 */
export function fraction({ used, total }) {
  if (used === null || total <= 0) return 0;
  return Math.min(1, used / total);
}

/** @param {Meter} meter @returns {Level} `full`: the prompt alone leaves no room for a single token of a reply */
export function level(meter) {
  if (meter.used !== null && meter.total > 0 && meter.used >= meter.total) return 'full';
  const filled = fraction(meter);
  return filled >= RED ? 'red' : filled >= AMBER ? 'amber' : 'calm';
}

/** @param {Meter} meter whether a restart with a larger context would help */
export const canGrow = (meter) => meter.total > 0 && meter.max > meter.total;

/**
 * Runs `count` a while after the last call, and drops answers that were overtaken.
 * @param {(signal: AbortSignal) => Promise<void>} count
 * @param {number} delay milliseconds
 * @returns {{ soon: () => void, now: () => Promise<void>, cancel: () => void }}
 */
export function debounced(count, delay) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let running = new AbortController();
  const cancel = () => {
    clearTimeout(timer);
    running.abort();
  };
  const now = async () => {
    cancel();
    running = new AbortController();
    const { signal } = running;
    try {
      await count(signal);
    } catch (error) {
      // A meter never blocks or alarms; the next count sets it right.
      if (!signal.aborted) console.debug('meter', error);
    }
  };
  const soon = () => {
    // An answer that is on its way is about what was there before.
    cancel();
    timer = setTimeout(now, delay);
  };
  return { soon, now, cancel };
}

/**
 * Which messages to leave out so that the rest fits: whole turns from the oldest on, never the last message.
 * @param {number[]} starts where turns begin, ascending
 * @param {(at: number) => Promise<number>} count tokens of a prompt without what is before `at`
 * @param {number} room tokens the prompt may have
 * @returns {Promise<number | null>} the first of `starts` from which everything fits; null when not even the last turn does
 */
export async function firstThatFits(starts, count, room) {
  let low = 0;
  let high = starts.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((await count(starts[middle])) <= room) high = middle;
    else low = middle + 1;
  }
  return starts[low] ?? null;
}
