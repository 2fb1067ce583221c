/** Watches whether the server is there, and how far it is with loading the model. */

import * as machine from './state.js';

/** How long it may take to notice that a program which does nothing is gone. */
const READY_MS = 3000;

export class Connection {
  /**
   * @param {import('./app.js').App} app
   * @param {{ pollFirstMs: number, pollLastMs: number }} options from the first question after a loss to the slowest rhythm
   */
  constructor(app, { pollFirstMs, pollLastMs }) {
    this.app = app;
    this.pollFirstMs = pollFirstMs;
    this.pollLastMs = pollLastMs;
    this.wait = pollFirstMs;
    this.answered = true;
    /** @type {number | null} when the program that answered last was started */
    this.started = null;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.closed = false;
    this.begun = false;
  }

  /** Begins to watch; again is harmless. */
  begin() {
    if (this.begun) return;
    this.begun = true;
    this.checkNow();
  }

  /** Looks at once whether the server is there; for a connection that just broke, and for a tab that wakes up. */
  checkNow() {
    void this.#poll();
  }

  close() {
    clearTimeout(this.timer);
    this.closed = true;
  }

  async #poll() {
    const { app } = this;
    clearTimeout(this.timer);
    if (this.closed) return;
    try {
      const health = await app.api.health();
      this.answered = true;
      if (this.closed) return;
      const { phase } = app.state.machine;
      if (health.state === 'loading') {
        app.event({ type: 'loading', progress: health.progress });
        this.wait = Math.min(this.pollFirstMs, 250);
      } else {
        // One that was started again in no time was never missed, but may have another model or more context.
        const isAnother = this.started !== null && this.started !== health.started;
        if (phase === 'loading' || phase === 'disconnected' || isAnother) await app.serverIsReady();
        this.started = health.started;
        this.wait = Math.min(READY_MS, this.pollLastMs);
      }
    } catch {
      // A reply may have noticed the loss before; what counts is when it was asked for in vain.
      this.wait = this.answered ? this.pollFirstMs : Math.min(this.wait * 1.5, this.pollLastMs);
      this.answered = false;
      // A running reply notices by itself, and better: its own connection breaks.
      if (!machine.busy(app.state.machine)) app.event({ type: 'lost' });
    }
    clearTimeout(this.timer);
    if (!this.closed) this.timer = setTimeout(() => void this.#poll(), this.wait);
  }
}
