/**
 * What form a reply must have: any text, JSON, JSON by a schema, or the language of a grammar. The server holds the model to
 * it; this module says how that is asked for, and finds out early whether it can be.
 */

import { ApiError, isAbort } from './api.js';
import { debounced } from './meter.js';

/**
 * @typedef {'text' | 'json' | 'schema' | 'grammar'} Format
 * @typedef {Pick<import('./settings.js').Settings, 'format' | 'schema' | 'grammar'>} Chosen
 * @typedef {{ message: string, hint: string, line: number | null }} Problem
 */

/** @type {Format[]} */
export const FORMATS = ['text', 'json', 'schema', 'grammar'];

/** The fields of a request that a server may complain about. */
const FIELDS = /^(grammar|json_schema|response_format)\b/;

const CHECK_MS = 400;

/**
 * @param {Chosen} chosen
 * @returns {boolean} whether the model is held to anything
 */
export function isStrict({ format, schema, grammar }) {
  return format === 'json' || (format === 'schema' && schema.trim() !== '') || (format === 'grammar' && grammar.trim() !== '');
}

/**
 * The fields of a request.
 * @param {Chosen} chosen
 * @param {boolean} raw for `/completion`, which has llama.cpp's names
 * @returns {Record<string, unknown>} throws a `SyntaxError` for a schema that is no JSON
 */
export function fields(chosen, raw) {
  if (!isStrict(chosen)) return {};
  if (chosen.format === 'grammar') return { grammar: chosen.grammar };
  if (chosen.format === 'json') return raw ? { json_schema: { type: 'object' } } : { response_format: { type: 'json_object' } };
  const schema = JSON.parse(chosen.schema);
  return raw ? { json_schema: schema } : { response_format: { type: 'json_schema', json_schema: { name: 'reply', schema } } };
}

/**
 * Where a text stops being JSON. Browsers name a line, a position or nothing.
 * @param {string} text
 * @param {string} message of the error
 * @returns {number | null} line, from 1
 */
export function lineOf(text, message) {
  const line = /\bline (\d+)/i.exec(message);
  if (line) return Number(line[1]);
  const position = /\bposition (\d+)/i.exec(message);
  if (position) return text.slice(0, Number(position[1])).split('\n').length;
  return /end of/i.test(message) ? text.trimEnd().split('\n').length : null;
}

/** @param {import('./state.js').Failure} failure whether it is about the form of the reply */
export const isAboutFormat = (failure) => FIELDS.test(failure.param ?? '');

/** The failure of a request that cannot be made. @param {Chosen} chosen @param {unknown} error @returns {import('./state.js').Failure} */
export function failureOf(chosen, error) {
  const message = error instanceof Error ? error.message : String(error);
  return { kind: 'request', param: 'json_schema', message, line: lineOf(chosen.schema, message) ?? undefined };
}

/** Whether the form that is typed can be used; the server is asked when typing pauses. */
export class FormatCheck {
  /** @param {import('./app.js').App} app */
  constructor(app) {
    this.app = app;
    this.check = debounced((signal) => this.#look(signal), CHECK_MS);
  }

  /** Something about the form of replies has changed. */
  changed() {
    this.report(null);
    this.check.soon();
  }

  /** @param {import('./state.js').Failure | null} failure of a request, also one that was about something else */
  report(failure) {
    const problem = failure && isAboutFormat(failure) ? { message: failure.message, hint: failure.hint ?? '', line: failure.line ?? null } : null;
    if (problem !== this.app.state.formatProblem) this.app.set({ formatProblem: problem });
  }

  close() {
    this.check.cancel();
  }

  /** @param {AbortSignal} signal */
  async #look(signal) {
    const { settings, api } = this.app;
    try {
      const wanted = fields(settings, true);
      if (Object.keys(wanted).length > 0) await api.checkForm(wanted, signal);
      if (!signal.aborted) this.report(null);
    } catch (error) {
      if (signal.aborted || isAbort(error)) return;
      this.report(error instanceof ApiError ? error.failure : failureOf(settings, error));
    }
  }
}
