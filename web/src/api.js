/**
 * The server's HTTP interface, as the page uses it: the public one, nothing else. Only this module knows field names.
 */

import { events } from './stream.js';

/**
 * @typedef {import('./state.js').Failure} Failure
 *
 * @typedef {{ state: 'ready', started: number | null } | { state: 'loading', progress: number | null }} Health
 *
 * @typedef {object} Props
 * @property {number} nCtx tokens of context that one chat can use
 * @property {number} nCtxMax what the model could use
 * @property {string} id the name the API knows the model by
 * @property {string} name for people
 * @property {string} quant '' when the server does not say
 * @property {number | null} parameters
 * @property {number | null} bytes size of the weights
 * @property {string} path
 * @property {boolean} demo the built-in demo model
 * @property {string | null} quitToken lets this page end the program; null where that is nobody's right
 * @property {number | null} movedFrom the usual port, when another program has it
 * @property {string} version of the program
 * @property {Record<string, unknown>} params default sampling parameters
 * @property {Record<string, unknown>} templates what the program prefills
 *
 * @typedef {object} Piece of a rendered prompt
 * @property {number} id
 * @property {string} piece
 * @property {boolean} control written by the template and special to the model
 *
 * @typedef {'end_of_turn' | 'stop_string' | 'token_limit' | 'context_full'} StopReason
 *
 * @typedef {object} End
 * @property {'end'} type
 * @property {StopReason} reason
 * @property {number | null} seed the one that was really used
 * @property {number | null} promptTokens
 * @property {number | null} replyTokens
 * @property {import('./tree.js').Timings} timings
 * @property {boolean} truncated the model did not read all of what was sent
 * @property {number} dropped messages that the server left out of the prompt
 *
 * @typedef {object} Place in a reply that the server keeps while nobody listens
 * @property {string} id
 * @property {number} offset events of it that have arrived
 *
 * @typedef {{ type: 'prefill', done: number, total: number } | { type: 'text', text: string, token?: import('./tree.js').Token, context?: number } | End} Reply `context`:
 *   tokens of it that are in use with this piece
 */

/** Something the server refused or a connection that broke, in words for a person. */
export class ApiError extends Error {
  /** @param {Failure} failure */
  constructor(failure) {
    super(failure.message);
    this.failure = failure;
  }
}

export class Api {
  /**
   * @param {string} [base] without a trailing slash; '' is the page's own origin
   * @param {typeof fetch} [fetcher]
   */
  constructor(base = '', fetcher = (...args) => fetch(...args)) {
    this.base = base;
    this.fetch = fetcher;
    /** A reply that is silent for longer is taken for lost. */
    this.quietMs = 5000;
    /** Sent when the server asks for one. */
    this.key = '';
  }

  /**
   * Rejects when nothing answers at all.
   * @param {AbortSignal} [signal]
   * @returns {Promise<Health>}
   */
  async health(signal) {
    const response = await this.fetch(`${this.base}/health`, { signal, cache: 'no-store' });
    if (!response.ok && response.status !== 503) throw new ApiError(await failureOf(response));
    const body = await response.json().catch(() => ({}));
    if (response.ok) return { state: 'ready', started: number(body.started) };
    const progress = body.progress ?? body.error?.progress;
    return { state: 'loading', progress: typeof progress === 'number' ? Math.min(1, Math.max(0, progress)) : null };
  }

  /** @returns {Promise<Props>} */
  async props() {
    const raw = await this.#json('/props');
    const settings = raw.default_generation_settings ?? {};
    const nCtx = number(raw.n_ctx) ?? number(settings.n_ctx) ?? 0;
    return {
      nCtx,
      nCtxMax: number(raw.n_ctx_train) ?? nCtx,
      id: text(raw.model_alias),
      name: text(raw.model_name) || text(raw.model_alias) || 'Gemma 2',
      quant: text(raw.quantization),
      parameters: number(raw.n_params),
      bytes: number(raw.size_bytes),
      path: text(raw.model_path),
      demo: raw.is_demo === true,
      quitToken: text(raw.quit_token) || null,
      movedFrom: number(raw.moved_from),
      version: text(raw.version) || text(raw.build_info),
      params: settings.params ?? {},
      templates: raw.page_templates ?? {},
    };
  }

  /**
   * The prompt exactly as the model would read it, and how many tokens it has.
   * @param {Record<string, unknown>} body messages and templates; `with_pieces` for `pieces`
   * @param {AbortSignal} [signal]
   * @returns {Promise<{ prompt: string, tokens: number, pieces: Piece[] }>}
   */
  async applyTemplate(body, signal) {
    const raw = await this.#json('/apply-template', body, signal);
    return { prompt: text(raw.prompt), tokens: number(raw.n_tokens) ?? 0, pieces: (raw.tokens ?? []).map(readPiece) };
  }

  /**
   * @param {string} content
   * @param {AbortSignal} [signal]
   * @returns {Promise<number>} how many tokens `content` has by itself
   */
  async countTokens(content, signal) {
    return (await this.tokenIds({ content, parse_special: false }, signal)).length;
  }

  /**
   * @param {{ content: string, parse_special: boolean, add_special?: boolean }} body
   * @param {AbortSignal} [signal]
   * @returns {Promise<number[]>}
   */
  async tokenIds(body, signal) {
    const raw = await this.#json('/tokenize', body, signal);
    return Array.isArray(raw.tokens) ? raw.tokens : [];
  }

  /**
   * The tokens of a raw text, for the eye.
   * @param {string} content
   * @param {boolean} parse whether markers in it are control tokens
   * @param {AbortSignal} [signal]
   * @returns {Promise<{ prompt: string, tokens: number, pieces: Piece[] }>}
   */
  async rawPrompt(content, parse, signal) {
    const body = { content, parse_special: parse, add_special: true, with_pieces: true };
    const pieces = ((await this.#json('/tokenize', body, signal)).tokens ?? []).map(readPiece);
    return { prompt: content, tokens: pieces.length, pieces };
  }

  /**
   * Text that follows a prompt as it is, without templates. As `chat`.
   * @param {Record<string, unknown>} body
   * @param {Place} place
   * @param {AbortSignal} signal
   */
  complete(body, place, signal) {
    const request = { ...body, overflow: NOTHING_SILENT };
    return completed(this.#frames(() => this.#begin('/completion', request, place, signal), place, signal));
  }

  /**
   * A reply, piece by piece. A connection that breaks is made anew, and the reply goes on where it was; only `stopReply`
   * ends it on the server. `place` moves along. Throws `ApiError`: `network` while nothing answers, `gone` when the
   * server does not know the reply any more, `stopped` when somebody else has stopped it.
   * @param {Record<string, unknown>} body
   * @param {Place} place
   * @param {AbortSignal} signal
   */
  chat(body, place, signal) {
    const request = { ...body, overflow: NOTHING_SILENT, stream_options: { include_usage: true } };
    return chatted(this.#frames(() => this.#begin('/v1/chat/completions', request, place, signal), place, signal));
  }

  /**
   * The rest of a reply, as `complete` (`raw`) or `chat` would have given it.
   * @param {boolean} raw
   * @param {Place} place
   * @param {AbortSignal} signal
   */
  resume(raw, place, signal) {
    const frames = this.#frames(() => this.#reattach(place, signal), place, signal);
    return raw ? completed(frames) : chatted(frames);
  }

  /**
   * Whether replies of a form could be made. Nothing is computed, so nobody else's reply has to wait for it.
   * @param {Record<string, unknown>} form
   * @param {AbortSignal} [signal]
   */
  async checkForm(form, signal) {
    await this.#json('/apply-template', { messages: [{ role: 'user', content: 'x' }], ...form }, signal);
  }

  /** Ends a reply; harmless where it has ended. @param {string} id */
  async stopReply(id) {
    await this.#post(`/replies/${id}/stop`, {});
  }

  /** Ends the program. @param {string} token from `props` */
  async quit(token) {
    await this.#post('/quit', {}, undefined, { 'X-Quit-Token': token });
  }

  /**
   * The JSON frames of a streamed answer, up to its last. Throws `ApiError` for refusals, error frames and connections that
   * cannot be made again.
   * @param {() => Promise<Response>} begin
   * @param {Place} place
   * @param {AbortSignal} signal
   * @returns {AsyncGenerator<any>}
   */
  async *#frames(begin, place, signal) {
    let response = await begin();
    for (;;) {
      const before = place.offset;
      try {
        for await (const event of events(/** @type {ReadableStream<Uint8Array>} */ (response.body), this.quietMs)) {
          if (event === null) continue;
          place.offset = event.id;
          if (event.data === '[DONE]') return;
          const frame = JSON.parse(event.data);
          if (frame.error) throw new ApiError(failureFrom(frame.error, 0));
          yield frame;
          if (frame.stop === true) return;
        }
        const state = response.headers.get('X-Reply-State') ?? 'running';
        if (state !== 'running') throw new ApiError({ kind: state === 'stopped' ? 'stopped' : 'gone', message: state });
      } catch (error) {
        if (error instanceof ApiError || isAbort(error)) throw error;
      }
      // A server that is killed closes the connection like one that is done: only a last frame tells them apart.
      const again = await this.#reattach(place, signal);
      if (place.offset === before && response.headers.get('X-Reply-State') === 'running') throw new ApiError(BROKEN);
      response = again;
    }
  }

  /** @param {string} path @param {Record<string, unknown>} body @param {Place} place @param {AbortSignal} signal */
  #begin(path, body, place, signal) {
    const request = { ...body, stream: true, return_progress: true, timings_per_token: true };
    return this.#post(path, request, signal, { 'X-Reply-Id': place.id });
  }

  /** @param {Place} place @param {AbortSignal} signal */
  async #reattach(place, signal) {
    const response = await this.#fetch(`/replies/${place.id}?offset=${place.offset}`, { signal, cache: 'no-store' }, BROKEN);
    if (response.ok) return response;
    const gone = [400, 404, 410].includes(response.status);
    throw new ApiError(gone ? { kind: 'gone', message: 'gone' } : await failureOf(response));
  }

  /**
   * @param {string} path
   * @param {unknown} [body] POST when given
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  async #json(path, body, signal) {
    const response =
      body === undefined ? await this.#get(path, signal) : await this.#post(path, /** @type {any} */ (body), signal);
    return response.json();
  }

  /** @param {string} path @param {AbortSignal} [signal] */
  async #get(path, signal) {
    const response = await this.#fetch(path, { signal, cache: 'no-store' });
    if (!response.ok) throw new ApiError(await failureOf(response));
    return response;
  }

  /** @param {string} path @param {Record<string, unknown>} body @param {AbortSignal} [signal] @param {Record<string, string>} [headers] */
  async #post(path, body, signal, headers) {
    const init = { method: 'POST', headers: { 'Content-Type': 'application/json', ...headers }, body: JSON.stringify(body), signal };
    const response = await this.#fetch(path, init);
    if (!response.ok) throw new ApiError(await failureOf(response));
    return response;
  }

  /** @param {string} path @param {RequestInit} init @param {Failure} [failure] where nothing answers */
  async #fetch(path, init, failure = UNREACHABLE) {
    const headers = new Headers(init.headers);
    if (this.key !== '') headers.set('Authorization', `Bearer ${this.key}`);
    try {
      return await this.fetch(this.base + path, { ...init, headers });
    } catch (error) {
      if (isAbort(error)) throw error;
      throw new ApiError(failure);
    }
  }
}

/** A context that is too small is a person's decision: the page offers what can be left out, and the server shall not choose. */
const NOTHING_SILENT = 'error';

/** @type {Failure} the words for these two come from the page's language file */
const BROKEN = { kind: 'network', message: 'broken' };
/** @type {Failure} */
const UNREACHABLE = { kind: 'network', message: 'unreachable' };

/**
 * Frames of `/completion` as replies.
 * @param {AsyncIterable<any>} frames
 * @returns {AsyncGenerator<Reply>}
 */
async function* completed(frames) {
  for await (const frame of frames) {
    const progress = frame.prompt_progress;
    if (progress) yield { type: 'prefill', done: number(progress.processed) ?? 0, total: number(progress.total) ?? 0 };
    if (text(frame.content) !== '') yield { type: 'text', text: frame.content, context: inUse(frame.timings) };
    if (frame.stop !== true) continue;
    const reason = frame.stop_reason ?? (frame.stop_type === 'limit' ? 'token_limit' : 'end_of_turn');
    yield {
      type: 'end',
      reason,
      seed: number(frame.generation_settings?.seed),
      promptTokens: number(frame.tokens_evaluated),
      replyTokens: number(frame.tokens_predicted),
      timings: pickTimings(frame.timings ?? {}),
      // llama.cpp's field is also set where a reply only ends at the context's end.
      truncated: frame.truncated === true && reason !== 'context_full',
      dropped: 0,
    };
  }
}

/**
 * Frames of `/v1/chat/completions` as replies.
 * @param {AsyncIterable<any>} frames
 * @returns {AsyncGenerator<Reply>}
 */
async function* chatted(frames) {
  /** @type {End} */
  const end = { type: 'end', reason: 'end_of_turn', seed: null, promptTokens: null, replyTokens: null, timings: {}, truncated: false, dropped: 0 };
  for await (const chunk of frames) {
    const progress = chunk.prompt_progress;
    if (progress) yield { type: 'prefill', done: number(progress.processed) ?? 0, total: number(progress.total) ?? 0 };
    if (chunk.usage) {
      end.promptTokens = number(chunk.usage.prompt_tokens);
      end.replyTokens = number(chunk.usage.completion_tokens);
    }
    if (chunk.timings) end.timings = pickTimings(chunk.timings);
    if (chunk.truncated === true) end.truncated = true;
    end.dropped = Math.max(end.dropped, number(chunk.dropped_messages) ?? 0);
    const choice = chunk.choices?.[0];
    const piece = choice?.delta?.content;
    if (typeof piece === 'string' && piece !== '') yield { type: 'text', text: piece, token: readToken(piece, choice.logprobs), context: inUse(chunk.timings) };
    if (choice?.finish_reason) {
      end.seed = number(choice.seed);
      end.reason = choice.stop_reason ?? (choice.finish_reason === 'length' ? 'token_limit' : 'end_of_turn');
    }
  }
  // As in `completed`: a reply that ends at the context's end has read everything.
  if (end.reason === 'context_full' && end.dropped === 0) end.truncated = false;
  yield end;
}

/** @param {unknown} error */
export const isAbort = (error) => error instanceof Error && error.name === 'AbortError';

/**
 * @param {Response} response
 * @returns {Promise<Failure>}
 */
async function failureOf(response) {
  const body = await response.json().catch(() => null);
  return failureFrom(body?.error ?? body, response.status);
}

/**
 * @param {any} error
 * @param {number} status
 * @returns {Failure}
 */
function failureFrom(error, status) {
  const code = `${text(error?.code)} ${text(error?.type)}`;
  /** @type {Failure} */
  const failure = {
    kind: /context_length_exceeded|exceed_context_size/.test(code) ? 'context' : status < 400 || status >= 500 ? 'server' : 'request',
    message: text(error?.message) || `HTTP ${status}`,
  };
  if (status === 401) failure.kind = 'key';
  if (text(error?.hint) !== '') failure.hint = text(error.hint);
  if (text(error?.param) !== '') failure.param = error.param;
  const line = /\bline (\d+)/i.exec(failure.message);
  if (line) failure.line = Number(line[1]);
  const promptTokens = number(error?.n_prompt_tokens);
  if (promptTokens !== null) failure.promptTokens = promptTokens;
  return failure;
}

/**
 * @param {Record<string, unknown>} raw llama.cpp's `timings`
 * @returns {import('./tree.js').Timings}
 */
function pickTimings(raw) {
  /** @type {Record<string, number>} */
  const found = {};
  for (const key of ['prompt_n', 'prompt_per_second', 'predicted_n', 'predicted_per_second', 'cache_n']) {
    const value = number(raw[key]);
    if (value !== null) found[key] = value;
  }
  return found;
}

/** Tokens of the context: what was read, what was still in the cache, what was written. @param {any} timings @returns {number | undefined} */
function inUse(timings) {
  const parts = [timings?.prompt_n, timings?.cache_n, timings?.predicted_n].map(number);
  return parts.includes(null) ? undefined : parts.reduce((/** @type {number} */ sum, part) => sum + Number(part), 0);
}

/** @param {unknown} value @returns {number | null} */
const number = (value) => (typeof value === 'number' && Number.isFinite(value) ? value : null);

/** @param {unknown} value */
const text = (value) => (typeof value === 'string' ? value : '');

/**
 * @param {string} piece
 * @param {any} logprobs of a choice
 * @returns {import('./tree.js').Token | undefined}
 */
function readToken(piece, logprobs) {
  const found = logprobs?.content?.at(-1);
  if (typeof found?.logprob !== 'number') return undefined;
  const share = (/** @type {number} */ logprob) => Number(Math.exp(logprob).toPrecision(4));
  const top = (found.top_logprobs ?? []).map((/** @type {any} */ one) => /** @type {[string, number]} */ ([text(one.token), share(one.logprob)]));
  return [piece, share(found.logprob), top];
}

/** @param {any} raw @returns {Piece} bytes that are no character by themselves are shown as such */
function readPiece(raw) {
  const piece = Array.isArray(raw?.piece)
    ? raw.piece.map((/** @type {number} */ byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`).join('')
    : text(raw?.piece);
  return { id: number(raw?.id) ?? 0, piece, control: raw?.control === true };
}
