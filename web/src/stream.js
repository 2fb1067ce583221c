/**
 * Server-sent events from a byte stream, and the speed of what arrives.
 */

/** @typedef {{ data: string, id: number }} Event `id`: its number, where the server counts them; otherwise 0 */

/**
 * Splits a byte stream into its events. Pieces may be cut anywhere, also inside a UTF-8 character or between
 * the two characters of a line end. Comments (lines that start with a colon) are reported as `null`, so that the caller
 * sees that the server is alive.
 */
export class EventParser {
  constructor() {
    this.decoder = new TextDecoder();
    /** What came after the last complete line. */
    this.rest = '';
    /** @type {string[]} the data lines of the event that is being read */
    this.data = [];
    this.id = 0;
  }

  /**
   * @param {Uint8Array} bytes
   * @returns {(Event | null)[]}
   */
  push(bytes) {
    return this.#lines(this.decoder.decode(bytes, { stream: true }), false);
  }

  /**
   * Ends the stream. A last event without its blank line is dropped, as the standard says.
   * @returns {(Event | null)[]}
   */
  end() {
    return this.#lines(this.decoder.decode(), true);
  }

  /**
   * @param {string} text
   * @param {boolean} last
   */
  #lines(text, last) {
    /** @type {(Event | null)[]} */
    const events = [];
    let pending = this.rest + text;
    for (;;) {
      const at = pending.search(/[\r\n]/);
      // A carriage return at the very end may be half of a line end.
      if (at < 0 || (pending[at] === '\r' && at + 1 === pending.length && !last)) break;
      const line = pending.slice(0, at);
      pending = pending.slice(pending[at] === '\r' && pending[at + 1] === '\n' ? at + 2 : at + 1);
      if (line === '') {
        if (this.data.length > 0) events.push({ data: this.data.join('\n'), id: this.id });
        this.data = [];
      } else if (line.startsWith(':')) {
        events.push(null);
      } else if (line.startsWith('data:')) {
        this.data.push(line.slice(line[5] === ' ' ? 6 : 5));
      } else if (line.startsWith('id:')) {
        this.id = Number(line.slice(3)) || 0;
      }
    }
    this.rest = pending;
    return events;
  }
}

/**
 * The events of a response body; ends when the body ends. `null` is a sign of life without content.
 * @param {ReadableStream<Uint8Array>} body
 * @param {number} [quietMs] a body that is silent for longer is given up: the server says something every second
 * @returns {AsyncGenerator<Event | null>}
 */
export async function* events(body, quietMs = Infinity) {
  const parser = new EventParser();
  const reader = body.getReader();
  try {
    for (;;) {
      const { value, done } = await patient(reader.read(), quietMs);
      if (done) break;
      yield* parser.push(value);
    }
    yield* parser.end();
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * `promise`, or an error after a while. The while is two timers: in a tab that slept one of them is overdue at once, and what
 * has arrived meanwhile still comes before the other.
 * @template T
 * @param {Promise<T>} promise
 * @param {number} ms
 * @returns {Promise<T>}
 */
function patient(promise, ms) {
  if (ms === Infinity) return promise;
  return new Promise((resolve, reject) => {
    const giveUp = () => reject(new Error('silent for too long'));
    let timer = setTimeout(() => {
      timer = setTimeout(giveUp, ms / 2);
    }, ms / 2);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** Tokens per second, smoothed over about one second so that the number can be read. */
export class Speed {
  /** @param {number} [windowMs] */
  constructor(windowMs = 1000) {
    this.windowMs = windowMs;
    /** @type {{ at: number, count: number }[]} */
    this.seen = [];
    this.total = 0;
    /** @type {{ at: number, count: number } | null} */
    this.first = null;
  }

  /**
   * @param {number} at milliseconds of a steady clock
   * @param {number} [count]
   */
  add(at, count = 1) {
    this.total += count;
    const now = { at, count: this.total };
    this.first ??= now;
    this.seen.push(now);
    while (this.seen.length > 2 && this.seen[1].at < at - this.windowMs) this.seen.shift();
  }

  /** @returns {number | null} null until two tokens were seen at different times */
  get perSecond() {
    return between(this.seen[0], this.seen.at(-1));
  }

  /** @returns {number | null} the same from the first token on */
  get mean() {
    return between(this.first, this.seen.at(-1));
  }
}

/** @param {{ at: number, count: number } | null | undefined} first @param {{ at: number, count: number } | undefined} last */
function between(first, last) {
  if (!first || !last || last.at <= first.at) return null;
  return ((last.count - first.count) * 1000) / (last.at - first.at);
}
