/**
 * The reply that is being written: how it starts, grows, ends, and is stopped. It belongs to the server: a page that was
 * reloaded or lost its connection comes back to it.
 */

import { ApiError, isAbort } from './api.js';
import * as formats from './format.js';
import { newReplyId, newSeed } from './ids.js';
import { NEXT } from './prompts.js';
import * as settings from './settings.js';
import * as machine from './state.js';
import { Speed } from './stream.js';
import * as trees from './tree.js';

/**
 * @typedef {import('./tree.js').Message} Message
 * @typedef {import('./app.js').Live} Live
 *
 * @typedef {{ seed?: number, temperature?: number }} Variation other settings for one reply
 *
 * @typedef {{ stopped: true } | { failure: machine.Failure } | { end: import('./api.js').End }} Outcome
 *
 * @typedef {object} Seen what the page itself sees of a reply, for one that ends without the server's own numbers
 * @property {number} [promptTokens]
 * @property {number} [replyTokens]
 * @property {number} [first_ms] milliseconds from sending to the first token
 * @property {number} [predicted_per_second]
 *
 * @typedef {object} Job a reply on its way: a message's or a raw text's
 * @property {import('./api.js').Place} place
 * @property {boolean} raw
 * @property {Live} live
 * @property {Seen} seen
 * @property {(token: trees.Token) => void} keep records what is known of a token
 * @property {() => void} save stores what has arrived
 * @property {(outcome: Outcome) => void} end stores how it ended
 */

const SAVE_EVERY_MS = 500;
const METER_EVERY_MS = 250;

/** Where it is stored which message is being written. */
const WRITING = 'writing';

export class Replies {
  /** @param {import('./app.js').App} app */
  constructor(app) {
    this.app = app;
    /** @type {AbortController | null} */
    this.running = null;
    /** @type {Job | null} the one that runs, or that waits for a server to come back */
    this.job = null;
    /** @type {(() => Promise<void>) | null} what was sent while the model was loading */
    this.queued = null;
  }

  /** Sends the draft, or keeps it for the moment the model is loaded. */
  async send() {
    const { app } = this;
    if (app.state.conversation.text !== undefined) return;
    const content = app.state.draft.trim();
    const { files } = app.state;
    const action = machine.composerAction(app.state.machine);
    if ((content === '' && files.length === 0) || (action !== 'send' && action !== 'queue')) return;
    const last = app.messages.path.at(-1);
    const message = app.messages.make('user', content, last?.id ?? null);
    if (files.length > 0) message.files = files.map(({ name, text }) => ({ name, text }));
    app.messages.add(message);
    if (app.state.conversation.sendFrom === NEXT) app.chats.change({ sendFrom: message.id });
    app.drafts.sent(message.conversation, last === undefined);
    await this.#answer(message.id);
  }

  /** The model is loaded: what waits for it goes out. */
  async sendQueued() {
    const { queued } = this;
    this.queued = null;
    if (queued && this.app.state.machine.queued) await queued();
  }

  /** Answers a message that has no reply, or tries a failed reply again. @param {string} id */
  async retry(id) {
    const message = this.app.state.tree.get(id);
    if (!message) return;
    if (message.role === 'user') await this.#answer(id);
    else if (message.content === '') await this.#write(message);
    else await this.regenerate(id);
  }

  /**
   * Another reply beside this one, with a seed that none of them has.
   * @param {string} id
   * @param {Variation} [variation]
   */
  async regenerate(id, variation = {}) {
    const message = this.app.state.tree.get(id);
    if (message?.role !== 'assistant' || message.parent === null || !machine.canSend(this.app.state.machine)) return;
    await this.#answer(message.parent, { seed: this.#freshSeed(message.parent), ...variation });
  }

  /** Goes on with a reply, in the same turn. @param {string} id */
  async goOn(id) {
    const message = this.app.state.tree.get(id);
    if (message?.role !== 'assistant' || !machine.canSend(this.app.state.machine)) return;
    await this.#write(message);
  }

  /**
   * Another version of a person's message, and a reply to it.
   * @param {string} id
   * @param {string} content
   */
  async editAndSend(id, content) {
    const { app } = this;
    const message = app.state.tree.get(id);
    if (!message || content.trim() === '' || machine.busy(app.state.machine)) return;
    const sibling = { ...app.messages.make(message.role, content.trim(), message.parent), files: message.files };
    app.messages.add(sibling);
    if (message.role === 'user') await this.#answer(sibling.id);
  }

  /**
   * Another reply that is the same up to a token, has another token there, and goes on from it.
   * @param {string} id
   * @param {number} at which of the recorded tokens
   * @param {[string, number]} instead
   */
  async branchAtToken(id, at, instead) {
    const { app } = this;
    const message = app.state.tree.get(id);
    if (!message?.probs || !machine.canSend(app.state.machine)) return;
    const { from, list } = message.probs;
    const kept = list.slice(0, at);
    const content = message.content.slice(0, from) + kept.map(([text]) => text).join('') + instead[0];
    const token = /** @type {trees.Token} */ ([instead[0], instead[1], list[at][2]]);
    await this.#write({ ...app.messages.make('assistant', content, message.parent), probs: { from, list: [...kept, token] } });
  }

  /** The model goes on with a raw text. @param {import('./store.js').Conversation} conversation that is open */
  async generateRaw(conversation) {
    const { app } = this;
    const { text: before = '' } = conversation;
    const chosen = app.settings;
    const params = settings.sampling(chosen, chosen.seed >= 0 ? chosen.seed : newSeed());
    const { max_tokens: limit = -1, logprobs: _, top_logprobs: __, ...others } = params;
    const { form, problem } = formOf(chosen, true);
    const job = this.#rawJob(conversation, { id: newReplyId(), offset: 0 });
    const { api } = app;
    /** @param {AbortSignal} signal */
    async function* start(signal) {
      if (problem) throw new ApiError(problem);
      const whole = { content: before, parse_special: false, add_special: true };
      const prompt = conversation.literal ? await api.tokenIds(whole, signal) : before;
      yield* api.complete({ ...others, ...form, n_predict: limit, prompt }, job.place, signal);
    }
    await this.#run(job, start);
  }

  /** Ends the running reply, or forgets the message that waits for the model. */
  stop() {
    const { app, job } = this;
    this.queued = null;
    if (app.state.machine.queued) app.event({ type: 'unqueue' });
    this.running?.abort();
    if (!job) return;
    // Where nobody answers there is nothing to stop.
    void app.api.stopReply(job.place.id).catch(() => {});
    this.#end(job, { stopped: true });
  }

  /** Ends the running reply, a message's, and leaves nothing of it. */
  async drop() {
    const { job } = this;
    if (!job) return;
    job.save = job.end = () => {};
    await this.app.store.save({ removeMessages: [job.live.id] });
    if (this.job === job) this.stop();
  }

  /** The page is closed; the reply goes on. */
  close() {
    this.running?.abort();
  }

  /** The server answers again: what waits for that goes on. */
  async resumeWaiting() {
    const { job } = this;
    if (job && !this.running) await this.#resume(job);
  }

  /**
   * A message as it was stored. One that was being written may still be: it is looked for. Until it is found it is a
   * stopped one.
   * @param {Message} message
   * @returns {Message}
   */
  recovered(message) {
    if (message.status !== 'streaming' || message.id === this.app.state.live?.id) return message;
    if (message.reply && this.job === null) this.#comeBack(this.#messageJob(message, message.reply));
    return { ...message, status: 'stopped' };
  }

  /** The same for a raw text. @param {import('./store.js').Conversation} conversation that is being opened */
  recoverRaw(conversation) {
    if (conversation.reply && this.job === null) this.#comeBack(this.#rawJob(conversation, conversation.reply));
  }

  /** A reply of a chat that is not open may have been left by a page that was closed. */
  async lookForLeft() {
    const { app } = this;
    const isOpen = (/** @type {string} */ id) => id === app.state.conversation.id;
    const raw = app.state.conversations.find(({ id, reply }) => reply && !isOpen(id));
    if (raw) app.chats.whenQuiet(raw.id, () => this.recoverRaw(app.chats.listed(raw.id) ?? raw));
    const left = await app.store.setting(WRITING);
    if (!left || isOpen(left.conversation)) return;
    app.chats.whenQuiet(left.conversation, async () => {
      const messages = await app.store.messages(left.conversation);
      const message = messages.find(({ id }) => id === left.id);
      // An open chat has looked by itself.
      if (message && !isOpen(left.conversation)) this.recovered(message);
    });
  }

  /** @param {Job} job */
  #comeBack(job) {
    this.job = job;
    // After the chat it belongs to is there.
    setTimeout(() => {
      if (this.job === job && machine.canSend(this.app.state.machine)) void this.#resume(job);
    });
  }

  /** @param {Job} job */
  #resume(job) {
    return this.#run(job, (signal) => this.app.api.resume(job.raw, job.place, signal));
  }

  /**
   * A reply to the message `parent`, now or when the model is loaded.
   * @param {string} parent
   * @param {Variation} [variation]
   */
  async #answer(parent, variation) {
    const { app } = this;
    const message = app.messages.make('assistant', '', parent);
    if (app.state.machine.phase !== 'loading') {
      await this.#write(message, variation);
      return;
    }
    this.queued = async () => {
      if (app.state.conversation.id !== message.conversation) await app.chats.open(message.conversation);
      await this.#write(message, variation);
    };
    app.event({ type: 'queue' });
  }

  /** A fixed seed would give the same reply again: the next one counts. @param {string} parent */
  #freshSeed(parent) {
    const used = new Set(trees.children(this.app.state.tree, parent).map(({ params }) => params?.seed));
    let { seed } = this.app.settings;
    if (seed < 0) return undefined;
    while (used.has(seed)) seed = (seed + 1) % 2 ** 32;
    return seed;
  }

  /**
   * Has the model write `message`, after what it already contains.
   * @param {Message} message
   * @param {Variation} [variation]
   */
  async #write(message, { seed, temperature } = {}) {
    const { app } = this;
    if (!machine.canSend(app.state.machine)) return;
    app.event({ type: 'send' });
    const chosen = settings.resolve(app.settings, temperature === undefined ? {} : { temperature });
    const { form, problem } = formOf(chosen, false);
    const params = { ...settings.sampling(chosen, seed ?? (chosen.seed >= 0 ? chosen.seed : newSeed())), ...form };
    const place = { id: newReplyId(), offset: 0 };
    const before = trees.ancestry(app.state.tree, message.parent);
    /** @type {Message} */
    const reply = {
      ...message,
      status: 'streaming',
      reply: { ...place },
      failure: undefined,
      cutBy: undefined,
      truncated: undefined,
      dropped: undefined,
      model: app.state.props?.name,
      demo: app.state.props?.demo || undefined,
      params,
      asked: app.prompts.record(before, message.content.length),
      probs: chosen.probabilities > 0 ? goingOn(message) : undefined,
    };
    app.messages.add(reply);
    void app.store.saveOwn(WRITING, { conversation: reply.conversation, id: reply.id });
    const body = { ...app.prompts.requestOf(reply, Infinity), ...params };
    const job = this.#messageJob(reply, place, {});
    await this.#run(job, (signal) => {
      if (problem) throw new ApiError(problem);
      return app.api.chat(body, place, signal);
    });
  }

  /**
   * @param {Message} reply as it was stored last
   * @param {import('./api.js').Place} place
   * @param {Seen} [seen] of what is written now; without it, what was seen before a page was closed goes on
   * @returns {Job}
   */
  #messageJob(reply, place, seen) {
    const { app } = this;
    /** @type {Live} */
    const live = { id: reply.id, conversation: reply.conversation, text: reply.content, speed: null };
    const probs = reply.probs && { from: reply.probs.from, list: [...reply.probs.list] };
    const before = { promptTokens: reply.promptTokens, replyTokens: reply.replyTokens, ...reply.timings };
    const now = seen ?? { ...before };
    const soFar = () => {
      // Where nothing was written, what is known of the text before stays.
      const { promptTokens, replyTokens, ...timings } = now.replyTokens === undefined ? { ...before, ...now } : now;
      return { ...reply, content: live.text, reply: { ...place }, probs: probs && { ...probs }, timings: { ...timings }, promptTokens, replyTokens };
    };
    return {
      place,
      raw: false,
      live,
      seen: now,
      keep: (token) => probs?.list.push(token),
      save: () => void app.store.save({ messages: [soFar()] }),
      end: (outcome) => app.messages.update(ended({ ...soFar(), reply: undefined }, outcome)),
    };
  }

  /** @param {import('./store.js').Conversation} conversation @param {import('./api.js').Place} place @returns {Job} */
  #rawJob({ id, text = '' }, place) {
    const { app } = this;
    /** @type {Live} */
    const live = { id, conversation: id, text, speed: null };
    const byDemo = app.state.props?.demo ? { demo: true } : {};
    const change = (/** @type {import('./api.js').Place | undefined} */ reply) => {
      const changed = { text: live.text, reply, updated: Date.now(), ...(live.text === text ? {} : byDemo) };
      if (app.state.conversation.id === id) app.chats.change(changed, true);
      else app.chats.changeListed(id, changed);
    };
    const end = (/** @type {Outcome} */ outcome) => {
      change(undefined);
      if (!('end' in outcome)) return;
      if (outcome.end.reason === 'context_full') app.notify('raw.full');
      else if (outcome.end.truncated) app.notify('raw.truncated');
    };
    return { place, raw: true, live, seen: {}, keep: () => {}, save: () => change({ ...place }), end };
  }

  /**
   * Lets a reply grow with what arrives, up to its end; when the server goes away, the reply waits for it to come back.
   * @param {Job} job
   * @param {(signal: AbortSignal) => AsyncIterable<import('./api.js').Reply>} start
   */
  async #run(job, start) {
    const { app } = this;
    const { live, seen } = job;
    const running = new AbortController();
    const isFirst = job.place.offset === 0;
    this.running = running;
    this.job = job;
    app.event({ type: 'send' });
    app.set({ live });
    const speed = new Speed();
    const started = app.now();
    let saved = started;
    let metered = started;
    /** @type {Outcome | null} */
    let outcome = null;
    try {
      for await (const event of start(running.signal)) {
        if (this.running !== running) return;
        if (event.type === 'prefill') {
          app.event(event);
          seen.promptTokens = event.total;
        } else if (event.type === 'end') {
          outcome = { end: event };
        } else {
          const now = app.now();
          if (isFirst) seen.first_ms ??= Math.round(now - started);
          speed.add(now);
          seen.replyTokens = (seen.replyTokens ?? 0) + 1;
          seen.predicted_per_second = speed.mean ?? seen.predicted_per_second;
          live.text += event.text;
          live.speed = speed.perSecond;
          if (event.token) job.keep(event.token);
          app.event({ type: 'token' });
          for (const listener of app.streamListeners) listener(live);
          if (event.context !== undefined && now - metered >= METER_EVERY_MS) {
            metered = now;
            app.prompts.used(live.conversation, event.context);
          }
          if (now - saved >= SAVE_EVERY_MS) {
            saved = now;
            job.save();
          }
        }
      }
    } catch (error) {
      if (this.running !== running || isAbort(error)) return;
      /** @type {machine.Failure} */
      const failure = error instanceof ApiError ? error.failure : { kind: 'server', message: String(error) };
      if (failure.message === 'broken') {
        this.#wait(job);
        return;
      }
      outcome = failure.kind === 'gone' || failure.kind === 'stopped' ? { stopped: true } : { failure };
    }
    if (this.running === running && outcome) this.#end(job, outcome);
  }

  /** Nothing answers in the middle of a reply. @param {Job} job */
  #wait(job) {
    const { app } = this;
    this.running = null;
    job.save();
    app.event({ type: 'lost' });
    app.connection.checkNow();
  }

  /** @param {Job} job @param {Outcome} outcome */
  #end(job, outcome) {
    const { app } = this;
    this.running = this.job = null;
    // The text first: nothing may ever see a reply that is neither being written nor has its text.
    job.end(outcome);
    app.set({ live: null });
    if ('stopped' in outcome) app.event({ type: 'stop' });
    else if ('end' in outcome) app.event({ type: 'end' });
    else {
      app.event({ type: 'fail', failure: outcome.failure });
      if (formats.isAboutFormat(outcome.failure)) app.format.report(outcome.failure);
    }
    void app.chats.catchUp();
    void app.prompts.counter.now();
    if ('failure' in outcome && outcome.failure.kind === 'network') app.connection.checkNow();
  }
}

/**
 * The fields that say what form a reply must have.
 * @param {settings.Settings} chosen
 * @param {boolean} raw
 * @returns {{ form: Record<string, unknown>, problem: machine.Failure | null }}
 */
function formOf(chosen, raw) {
  try {
    return { form: formats.fields(chosen, raw), problem: null };
  } catch (error) {
    return { form: {}, problem: formats.failureOf(chosen, error) };
  }
}

/** @param {Message} reply with its text @param {Outcome} outcome @returns {Message} */
function ended(reply, outcome) {
  if ('stopped' in outcome) return { ...reply, status: 'stopped' };
  if ('failure' in outcome) {
    // What was there before can still be gone on with.
    const status = outcome.failure.kind === 'network' && reply.content !== '' ? 'stopped' : 'error';
    return { ...reply, status, failure: outcome.failure };
  }
  const { end } = outcome;
  const first = reply.timings?.first_ms;
  const cutBy = end.reason === 'token_limit' || end.reason === 'context_full' ? end.reason : undefined;
  return {
    ...reply,
    status: cutBy ? 'cut' : 'complete',
    cutBy,
    params: end.seed === null ? reply.params : { ...reply.params, seed: end.seed },
    timings: { ...end.timings, ...(first === undefined ? {} : { first_ms: first }) },
    promptTokens: end.promptTokens ?? undefined,
    replyTokens: end.replyTokens ?? undefined,
    truncated: end.truncated || undefined,
    dropped: end.dropped || undefined,
  };
}

/**
 * Where the recording of token probabilities goes on: after what was recorded, if that is the whole text.
 * @param {Message} message
 * @returns {trees.Probabilities}
 */
function goingOn({ content, probs }) {
  const known = probs ? probs.from + probs.list.reduce((sum, [text]) => sum + text.length, 0) : -1;
  return known === content.length && probs ? { from: probs.from, list: [...probs.list] } : { from: content.length, list: [] };
}
