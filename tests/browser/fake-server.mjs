/**
 * A scripted engine behind the same HTTP interface as gemma2, for journeys that need exact texts, exact timing and failures
 * on demand. What it answers depends on the last message:
 *
 * | message | reply |
 * |---|---|
 * | `say TEXT` | TEXT, word by word |
 * | `file NAME` | `tests/browser/replies/NAME.md` |
 * | `count N` | the numbers 1 to N |
 * | `fail TEXT` | an error frame after a few words |
 * | `refuse` | a 500 before the stream begins |
 * | anything else | a sentence that repeats the message |
 *
 * As a program: `node tests/browser/fake-server.mjs [--port N]` prints its address and serves until it is stopped.
 */

import { readFile, stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { dirname, extname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const dist = resolve(here, '../../web/dist');

export const PAGE_HEADERS = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; manifest-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types gemma2 dompurify",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Permissions-Policy': 'camera=(), microphone=(), geolocation=()',
};

const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8', '.svg': 'image/svg+xml', '.txt': 'text/plain; charset=utf-8' };

const DEFAULT_TEMPLATES = {
  prompt: '{{history}}\n<start_of_turn>{{char}}\n',
  history: '<start_of_turn>{{name}}\n{{message}}<end_of_turn>',
  user_name: 'user',
  char_name: 'model',
};

/**
 * @typedef {{ text: string, control: boolean }} Segment
 * @typedef {{ role: string, content: string }} Message
 */

/**
 * @typedef {object} Script
 * @property {number | null} loading how much of the model is loaded; null: all
 * @property {number} tokenMs milliseconds between two pieces of text
 * @property {number} prefillMs milliseconds before the first
 * @property {number} nCtx
 * @property {number} nCtxMax
 * @property {boolean} demo
 * @property {string | null} scriptText every reply
 * @property {number | null} movedFrom the port it would usually have
 * @property {number} dropped older messages that it says it left out
 */

/** @returns {Script} */
export const quietScript = () => ({ loading: null, tokenMs: 8, prefillMs: 0, nCtx: 4096, nCtxMax: 8192, demo: false, scriptText: null, movedFrom: null, dropped: 0 });

/**
 * @typedef {object} Fake what a journey may change while the server runs
 * @property {string} url
 * @property {Script} script
 * @property {any[]} requests bodies of the chat requests, in order
 * @property {{ running: number, cancelled: number, ended: number }} counts `ended`: when the last reply did, in ms since the epoch
 * @property {() => void} drop breaks every connection; replies with an id go on
 * @property {() => Promise<void>} stop closes every connection, as a killed program does
 */

/**
 * @param {{ port?: number }} [options]
 * @returns {Promise<Fake>}
 */
export async function startFake({ port = 0 } = {}) {
  const script = quietScript();
  /** @type {any[]} */
  const requests = [];
  const counts = { running: 0, cancelled: 0, ended: 0 };
  const started = performance.now();
  /** @type {Map<string, Kept>} replies with an id */
  const kept = new Map();

  const server = createServer(async (request, response) => {
    try {
      await answer(request, response);
    } catch (error) {
      if (!response.headersSent) fail(response, 500, { message: String(error) });
      else response.destroy();
    }
  });

  /** @param {import('node:http').IncomingMessage} request @param {import('node:http').ServerResponse} response */
  async function answer(request, response) {
    const path = new URL(request.url ?? '/', 'http://localhost').pathname;
    const { host, origin } = request.headers;
    if (!/^(127\.0\.0\.1|localhost|\[::1\])(:\d+)?$/.test(host ?? '')) return fail(response, 403, { message: `the host ${host} is not this server`, type: 'permission_error' });
    if (origin !== undefined && origin !== `http://${host}`) return fail(response, 403, { message: `the origin ${origin} is not allowed`, type: 'permission_error' });
    if (request.method === 'GET' && (await page(path, response))) return;
    if (path === '/health') {
      if (script.loading !== null) return fail(response, 503, { message: 'Loading model', type: 'unavailable_error', progress: script.loading, stage: 'reading weights' });
      return json(response, { status: 'ok', product: 'gemma2', version: '0.0.0', model: 'scripted', started });
    }
    if (script.loading !== null) return fail(response, 503, { message: 'Loading model', type: 'unavailable_error', progress: script.loading });
    if (path === '/props') return json(response, props());
    if (path === '/slots') return json(response, [{ id: 0, is_processing: counts.running > 0 }]);
    const body = request.method === 'POST' ? JSON.parse(await read(request)) : {};
    if (path === '/tokenize') {
      const list = tokens([{ text: body.content, control: body.parse_special !== false }]).slice(body.add_special ? 0 : 1);
      return json(response, { tokens: body.with_pieces ? list : list.map((token) => token.id) });
    }
    const [, replyId, stopping] = /^\/replies\/([\w-]+)(\/stop)?$/.exec(path) ?? [];
    if (replyId) {
      const reply = kept.get(replyId);
      if (!reply) return fail(response, 404, { message: 'no such reply', type: 'not_found_error' });
      if (stopping) {
        if (reply.state === 'running') reply.end('stopped');
        return json(response, { id: replyId, state: reply.state, events: reply.events.length });
      }
      const offset = Number(new URL(request.url ?? '', 'http://localhost').searchParams.get('offset'));
      response.writeHead(200, { ...STREAM, 'X-Reply-State': reply.state });
      return reply.listen(response, offset);
    }
    const problem = formProblem(body);
    if (problem) return fail(response, 400, { type: 'invalid_request_error', ...problem });
    if (path === '/completion') return complete(body, stream(request, response));
    if (path === '/apply-template') {
      const list = tokens(render(body.messages, body.templates));
      const prompt = render(body.messages, body.templates).map((segment) => segment.text).join('');
      return json(response, { prompt, n_tokens: list.length, n_ctx: script.nCtx, ...(body.with_pieces ? { tokens: list } : {}) });
    }
    if (path === '/v1/chat/completions') return chat(body, response, request);
    return fail(response, 404, { message: `no such path: ${path}`, type: 'not_found_error' });
  }

  /** A stream that somebody may come back to, when the request has an id. @param {import('node:http').IncomingMessage} request @param {import('node:http').ServerResponse} response */
  function stream(request, response) {
    response.writeHead(200, STREAM);
    const reply = new Kept();
    counts.running += 1;
    void reply.ended.then((state) => {
      counts.running -= 1;
      counts.ended = Date.now();
      if (state === 'stopped') counts.cancelled += 1;
    });
    const id = request.headers['x-reply-id'];
    if (typeof id === 'string') kept.set(id, reply);
    else response.on('close', () => reply.end('stopped'));
    reply.listen(response, 0);
    return reply;
  }

  function props() {
    const params = { n_predict: -1, seed: 4294967295, temperature: 1, top_k: 64, top_p: 0.949999988, min_p: 0, typical_p: 1, repeat_penalty: 1, repeat_last_n: 64, presence_penalty: 0, frequency_penalty: 0, max_tokens: -1, stop: [] };
    return {
      default_generation_settings: { n_ctx: script.nCtx, params },
      total_slots: 4, model_alias: 'scripted', model_path: '/models/gemma-2-2b-it-Q6_K.gguf', build_info: 'gemma2 0.0.0',
      model_name: script.demo ? 'Demo model' : 'Gemma 2 2B it', quantization: script.demo ? 'F32' : 'Q6_K', n_params: 2614341888, size_bytes: 2150000000, n_vocab: 256000,
      n_ctx: script.nCtx, n_ctx_train: script.nCtxMax, is_demo: script.demo, version: '0.0.0', moved_from: script.movedFrom, page_templates: DEFAULT_TEMPLATES,
    };
  }

  /** @param {any} body @param {Kept} reply */
  async function complete(body, reply) {
    requests.push(body);
    const pieces = (script.scriptText ?? formed(body) ?? ' and so it goes on.').match(/\s*\S+|\s+$/g) ?? [];
    let made = 0;
    for (const content of pieces) {
      if (script.tokenMs > 0) await pause(script.tokenMs);
      if (reply.state !== 'running') return;
      made += 1;
      reply.write({ index: 0, content, stop: false, ...(body.timings_per_token ? { timings: { cache_n: 0, prompt_n: 3, predicted_n: made } } : {}) });
    }
    const timings = { prompt_n: 3, prompt_per_second: 100, predicted_n: pieces.length, predicted_per_second: 50 };
    reply.write({ index: 0, content: '', stop: true, truncated: script.dropped > 0, stop_type: 'eos', stop_reason: 'end_of_turn', tokens_predicted: pieces.length, tokens_evaluated: 3, generation_settings: { seed: body.seed }, timings });
    reply.end('finished');
  }

  /** @param {any} body @param {import('node:http').ServerResponse} response @param {import('node:http').IncomingMessage} request */
  async function chat(body, response, request) {
    requests.push(body);
    const prompt = tokens(render(body.messages, body.templates));
    if (prompt.length >= script.nCtx) {
      return fail(response, 400, { message: `the prompt has ${prompt.length} tokens, the context ${script.nCtx}`, type: 'invalid_request_error', param: 'messages', code: 'context_length_exceeded', n_prompt_tokens: prompt.length, n_ctx: script.nCtx });
    }
    const last = body.messages.at(-1);
    const asked = body.messages.findLast((/** @type {Message} */ message) => message.role === 'user')?.content ?? '';
    if (asked === 'refuse' && script.scriptText === null) return fail(response, 500, { message: 'the engine met an error', type: 'server_error', hint: 'start gemma2 again with -v' });
    const whole = formed(body) ?? (await replyTo(asked));
    const rest = last.role === 'assistant' && whole.startsWith(last.content) ? whole.slice(last.content.length) : whole;
    const reply = stream(request, response);
    /** @param {object} choice @param {object} [extra] */
    const frame = (choice, extra = {}) =>
      reply.write({ id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 0, model: 'scripted', choices: [{ index: 0, finish_reason: null, ...choice }], ...extra });
    frame({ delta: { role: 'assistant', content: '' } });
    if (script.prefillMs > 0) {
      for (let step = 1; step <= 4 && reply.state === 'running'; step += 1) {
        await pause(script.prefillMs / 4);
        frame({ delta: {} }, { prompt_progress: { total: prompt.length, cache: 0, processed: Math.round((prompt.length * step) / 4), time_ms: 1 } });
      }
    }
    const pieces = rest.match(/\s*\S+|\s+$/g) ?? [];
    const limit = typeof body.max_tokens === 'number' && body.max_tokens > 0 ? body.max_tokens : Infinity;
    const room = script.nCtx - prompt.length;
    let made = 0;
    let reason = 'end_of_turn';
    const started = Date.now();
    for (const piece of pieces) {
      if (made >= limit) reason = 'token_limit';
      else if (made >= room) reason = 'context_full';
      if (reason !== 'end_of_turn') break;
      if (script.tokenMs > 0) await pause(script.tokenMs);
      if (reply.state !== 'running') return undefined;
      const likely = (/** @type {string} */ token, /** @type {number} */ share) => ({ id: 1, token, bytes: [...Buffer.from(token)], logprob: Math.log(share) });
      const logprobs = body.logprobs ? { content: [{ ...likely(piece, 0.5), top_logprobs: [likely(piece, 0.5), likely(' other', 0.25), likely('<end_of_turn>', 0.01)] }] } : undefined;
      made += 1;
      frame({ delta: { content: piece }, logprobs }, body.timings_per_token ? { timings: { cache_n: 1, prompt_n: prompt.length - 1, predicted_n: made } } : {});
      if (made === 4 && asked.startsWith('fail ')) {
        reply.write({ error: { message: asked.slice(5), type: 'server_error' } });
        reply.end('finished');
        return undefined;
      }
    }
    const ms = Math.max(1, Date.now() - started);
    const timings = { cache_n: 0, prompt_n: prompt.length, prompt_ms: 10, prompt_per_second: 120.5, predicted_n: made, predicted_ms: ms, predicted_per_second: (made * 1000) / ms };
    frame({ delta: {}, finish_reason: reason === 'end_of_turn' ? 'stop' : 'length', stop_reason: reason, stopping_word: '', seed: body.seed }, { timings });
    const usage = { prompt_tokens: prompt.length, completion_tokens: made, total_tokens: prompt.length + made };
    const left = script.dropped > 0 ? { truncated: true, dropped_messages: script.dropped } : {};
    reply.write({ choices: [], usage, timings, ...left });
    reply.write('[DONE]');
    reply.end('finished');
    return undefined;
  }

  /** @param {string} asked */
  async function replyTo(asked) {
    if (script.scriptText !== null) return script.scriptText;
    const [, word, rest] = /^(\w+) ?([\s\S]*)$/.exec(asked) ?? [];
    if (word === 'say') return rest;
    if (word === 'file' && /^[\w-]+$/.test(rest)) return readFile(join(here, 'replies', `${rest}.md`), 'utf8');
    if (word === 'count') return Array.from({ length: Number(rest) }, (_, at) => at + 1).join(' ');
    return `You said “${asked}”, and this is a scripted answer to it.`;
  }

  await new Promise((done) => server.listen(port, '127.0.0.1', () => done(undefined)));
  const address = /** @type {import('node:net').AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${address.port}/`,
    script,
    requests,
    counts,
    drop: () => {
      for (const reply of kept.values()) reply.drop();
    },
    stop: () =>
      new Promise((done) => {
        server.close(() => done());
        server.closeAllConnections();
      }),
  };
}

/** A reply that goes on when nobody listens. */
class Kept {
  constructor() {
    /** @type {string[]} */
    this.events = [];
    /** @type {'running' | 'finished' | 'stopped'} */
    this.state = 'running';
    /** @type {Set<import('node:http').ServerResponse>} */
    this.listeners = new Set();
    /** @type {Promise<string>} */
    this.ended = new Promise((done) => {
      this.tell = done;
    });
  }

  /** @param {object | '[DONE]'} data */
  write(data) {
    const event = `id: ${this.events.length + 1}\ndata: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`;
    this.events.push(event);
    for (const response of this.listeners) response.write(event);
  }

  /** @param {'finished' | 'stopped'} state */
  end(state) {
    if (this.state !== 'running') return;
    this.state = state;
    this.tell?.(state);
    for (const response of this.listeners) response.end();
  }

  /** @param {import('node:http').ServerResponse} response @param {number} offset */
  listen(response, offset) {
    response.write(this.events.slice(offset).join('') || ': here\n\n');
    if (this.state !== 'running') {
      response.end();
      return;
    }
    this.listeners.add(response);
    response.on('close', () => this.listeners.delete(response));
  }

  drop() {
    for (const response of this.listeners) response.destroy();
  }
}

const STREAM = { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' };

/**
 * The templates of the page, as the program expands them: one pass, so that braces in a message stay what they are.
 * @param {Message[]} messages
 * @param {Partial<typeof DEFAULT_TEMPLATES>} [given]
 * @returns {Segment[]}
 */
function render(messages, given) {
  const templates = { ...DEFAULT_TEMPLATES, ...given };
  const system = messages.filter((message) => message.role === 'system').map((message) => message.content.trim()).join('\n\n');
  const turns = messages.filter((message) => message.role !== 'system').map((message) => ({ ...message, content: message.content.trim() }));
  const own = templates.prompt.includes('{{prompt}}');
  if (system !== '' && !own) {
    const first = turns.find((turn) => turn.role === 'user');
    if (first) first.content = `${system}\n\n${first.content}`;
  }
  const open = turns.at(-1)?.role === 'assistant';
  const closed = open ? turns.slice(0, -1) : turns;
  const name = (/** @type {Message} */ turn) => (turn.role === 'user' ? templates.user_name : templates.char_name);
  const history = closed.flatMap((turn, at) => [
    ...(at > 0 ? [{ text: '\n', control: true }] : []),
    ...expand(templates.history, { name: [text(name(turn))], message: [text(turn.content)] }),
  ]);
  const segments = expand(templates.prompt, { history, char: [text(templates.char_name)], prompt: [text(system)] });
  if (open) segments.push(text(/** @type {Message} */ (turns.at(-1)).content));
  return segments;
}

/**
 * What is wrong with the form that is asked for. A rule of a grammar stands in one line here.
 * @param {any} body
 */
function formProblem({ grammar, json_schema: schema, response_format: format }) {
  if (typeof grammar === 'string') {
    const at = grammar.split('\n').findIndex((line) => !/^\s*($|#|[\w-]+\s*::=\s*\S)/.test(line));
    if (at >= 0) return { param: 'grammar', message: `the grammar is wrong at line ${at + 1}, column 1: a rule was expected`, hint: 'write a rule as `name ::= "text"`' };
    if (!/^root\s*::=/m.test(grammar)) return { param: 'grammar', message: 'the grammar has no rule `root`' };
  }
  const wanted = schema ?? format?.json_schema?.schema;
  const param = schema === undefined ? 'response_format' : 'json_schema';
  if (wanted !== undefined && !/^(object|string)$/.test(wanted?.type)) return { param, message: `the type ${JSON.stringify(wanted?.type)} is unknown` };
  return null;
}

/** A text of the form that is asked for. @param {any} body */
function formed({ grammar, json_schema: schema, response_format: format }) {
  if (typeof grammar === 'string') return /"((?:[^"\\]|\\.)*)"/.exec(grammar)?.[1] ?? '';
  const wanted = schema ?? format?.json_schema?.schema;
  if (wanted === undefined) return format?.type === 'json_object' ? '{"a": 1}' : null;
  return JSON.stringify(Object.fromEntries(Object.keys(wanted.properties ?? {}).map((name) => [name, 'red'])));
}

/** @param {string} value @returns {Segment} */
const text = (value) => ({ text: value, control: false });

/** @param {string} template @param {Record<string, Segment[]>} values @returns {Segment[]} */
function expand(template, values) {
  return template
    .split(/(\{\{\w+\}\})/)
    .flatMap((part) => values[/^\{\{(\w+)\}\}$/.exec(part)?.[1] ?? ''] ?? [{ text: part, control: true }])
    .filter((segment) => segment.text !== '');
}

/** A word, a line break or a sign is a token here; markers are one only where the template wrote them. @param {Segment[]} segments */
function tokens(segments) {
  const list = [{ id: 2, piece: '<bos>', control: true }];
  for (const segment of segments) {
    const pieces = segment.control ? segment.text.match(/<start_of_turn>|<end_of_turn>|\n|[^\s<]+| +|</g) : segment.text.match(/\s?[\p{L}\p{N}]+|[^\p{L}\p{N}]/gu);
    for (const piece of pieces ?? []) list.push({ id: [...piece].reduce((sum, char) => (sum * 31 + (char.codePointAt(0) ?? 0)) % 250000, 7), piece, control: segment.control && /^<.*>$/.test(piece) });
  }
  return list;
}

/** @param {string} path @param {import('node:http').ServerResponse} response */
async function page(path, response) {
  const file = path === '/' ? 'index.html' : path.slice(1);
  if (!/^[\w.-]+$/.test(file) || !(await stat(join(dist, file)).catch(() => null))) return false;
  const hashed = /-[A-Z0-9]{8}\./.test(file);
  response.writeHead(200, {
    ...PAGE_HEADERS,
    'Content-Type': /** @type {Record<string, string>} */ (TYPES)[extname(file)] ?? 'application/octet-stream',
    'Cache-Control': hashed ? 'public, max-age=31536000, immutable' : 'no-cache',
  });
  response.end(await readFile(join(dist, file)));
  return true;
}

/** @param {import('node:http').IncomingMessage} request */
async function read(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return Buffer.concat(parts).toString('utf8');
}

/** @param {import('node:http').ServerResponse} response @param {unknown} value */
function json(response, value) {
  response.writeHead(200, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify(value));
}

/** @param {import('node:http').ServerResponse} response @param {number} status @param {object} error */
function fail(response, status, error) {
  response.writeHead(status, { 'Content-Type': 'application/json' });
  response.end(JSON.stringify({ error: { param: null, code: status, ...error } }));
}

/** @param {number} ms */
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const at = process.argv.indexOf('--port');
  const fake = await startFake({ port: at < 0 ? 0 : Number(process.argv[at + 1]) });
  console.log(fake.url);
}
