/**
 * The one state machine of the page: what the connection and the current reply are doing. It is a pure function, so it is
 * tested without a document; everything visible (the composer's button, the bars, the notices) is derived from it.
 */

/**
 * @typedef {'loading' | 'idle' | 'prefill' | 'streaming' | 'stopped' | 'error' | 'disconnected'} Phase
 *
 * @typedef {object} Failure
 * @property {string} message what went wrong, in words for a person
 * @property {string} [hint] what to do about it
 * @property {'context' | 'network' | 'request' | 'server' | 'key' | 'gone' | 'stopped'} kind `gone`: the server has
 *   forgotten the reply; `stopped`: somewhere else
 * @property {string} [param] the field of the request that is wrong
 * @property {number} [line] in the text of that field
 * @property {number} [promptTokens] the prompt's length, when it was too long
 *
 * @typedef {object} State
 * @property {Phase} phase
 * @property {number | null} loaded how much of the model is loaded, 0 to 1; null when the server does not say
 * @property {boolean} queued a message was sent while the model was loading and goes out as soon as it is ready
 * @property {{ done: number, total: number } | null} prefill tokens of the prompt read so far
 * @property {Failure | null} failure why the last reply ended early
 *
 * @typedef {{ type: 'loading', progress: number | null }
 *   | { type: 'ready' }
 *   | { type: 'lost' }
 *   | { type: 'queue' }
 *   | { type: 'unqueue' }
 *   | { type: 'send' }
 *   | { type: 'prefill', done: number, total: number }
 *   | { type: 'token' }
 *   | { type: 'end' }
 *   | { type: 'stop' }
 *   | { type: 'fail', failure: Failure }
 *   | { type: 'dismiss' }} Event
 */

/** @type {State} */
export const initial = { phase: 'loading', loaded: null, queued: false, prefill: null, failure: null };

/** @param {State} state a reply is being made right now */
export const busy = (state) => state.phase === 'prefill' || state.phase === 'streaming';

/** @param {State} state the server answers and no reply is running */
export const canSend = (state) => state.phase === 'idle' || state.phase === 'stopped' || state.phase === 'error';

/**
 * What the composer's button does now.
 * @param {State} state
 * @returns {'send' | 'queue' | 'stop' | 'unqueue' | 'none'}
 */
export function composerAction(state) {
  if (busy(state)) return 'stop';
  if (state.phase === 'disconnected') return 'none';
  if (state.phase === 'loading') return state.queued ? 'unqueue' : 'queue';
  return 'send';
}

/**
 * The next state. An event that makes no sense in a state leaves it unchanged: late network callbacks are normal.
 * @param {State} state
 * @param {Event} event
 * @returns {State}
 */
export function next(state, event) {
  switch (event.type) {
    case 'loading':
      // A server that was restarted loads again; a reply that was running then is over.
      return { ...state, phase: 'loading', loaded: event.progress, prefill: null, failure: null };
    case 'ready':
      if (state.phase !== 'loading' && state.phase !== 'disconnected') return state;
      return { ...state, phase: 'idle', loaded: 1, failure: null };
    case 'lost':
      return { ...state, phase: 'disconnected', prefill: null, failure: null };
    case 'queue':
      return state.phase === 'loading' ? { ...state, queued: true } : state;
    case 'unqueue':
      return { ...state, queued: false };
    case 'send':
      if (!canSend(state)) return state;
      return { ...state, phase: 'prefill', queued: false, prefill: null, failure: null };
    case 'prefill':
      if (state.phase !== 'prefill') return state;
      return { ...state, prefill: { done: event.done, total: event.total } };
    case 'token':
      if (state.phase === 'streaming') return state;
      return state.phase === 'prefill' ? { ...state, phase: 'streaming', prefill: null } : state;
    case 'end':
      return busy(state) ? { ...state, phase: 'idle', prefill: null } : state;
    case 'stop':
      return busy(state) ? { ...state, phase: 'stopped', prefill: null } : state;
    case 'fail':
      return busy(state) ? { ...state, phase: 'error', prefill: null, failure: event.failure } : state;
    case 'dismiss':
      return state.phase === 'error' || state.phase === 'stopped' ? { ...state, phase: 'idle', failure: null } : state;
  }
}
