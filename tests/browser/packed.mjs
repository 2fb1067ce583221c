/**
 * Starts a gemma2 executable, opens its page and uses it.
 *
 *   node tests/browser/packed.mjs EXE [ARGUMENT]...
 *
 * The program is started with `--no-browser --port 0` and the arguments; its first line on stdout is the address of the page.
 * The exit status is 0 when every journey went well.
 */

import { spawn } from 'node:child_process';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';

import { common } from './common.mjs';
import { exitWith, run } from './runner.mjs';

const START_MS = 120_000;
const [exe, ...extra] = process.argv.slice(2);

await exitWith(async () => {
  if (!exe) throw new Error('usage: node tests/browser/packed.mjs EXE [ARGUMENT]...');
  const program = spawn(resolve(exe), ['--no-browser', '--port', '0', ...extra], { stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  program.stderr.setEncoding('utf8').on('data', (text) => {
    log = (log + text).slice(-20_000);
  });
  try {
    const url = await firstLine(program);
    console.log(`${exe} serves ${url}`);
    const good = await run(common, async () => ({ url }));
    if (!good) console.log(`what the program said:\n${log}`);
    return good;
  } catch (error) {
    console.log(`what the program said:\n${log}`);
    throw error;
  } finally {
    await stopped(program);
  }
});

/** @param {import('node:child_process').ChildProcess} program @returns {Promise<string>} */
function firstLine(program) {
  return new Promise((done, fail) => {
    const patience = setTimeout(() => fail(new Error(`${exe} printed no address within ${START_MS / 1000} s`)), START_MS);
    program.once('error', (error) => fail(new Error(`${exe} does not start: ${error.message}`)));
    program.once('exit', (code, signal) => fail(new Error(`${exe} ended with ${signal ?? `status ${code}`} before it printed its address`)));
    createInterface({ input: /** @type {import('node:stream').Readable} */ (program.stdout) }).once('line', (line) => {
      clearTimeout(patience);
      const found = /^https?:\/\/\S+/.exec(line.trim());
      if (!found) fail(new Error(`the first line on stdout is no address: ${line}`));
      else done(found[0].endsWith('/') ? found[0] : `${found[0]}/`);
    });
  });
}

/** Asks the program to end, and makes it end. @param {import('node:child_process').ChildProcess} program */
async function stopped(program) {
  if (program.exitCode !== null || program.signalCode !== null) return;
  const gone = new Promise((done) => program.once('exit', done));
  program.kill('SIGTERM');
  const force = setTimeout(() => program.kill('SIGKILL'), 5000);
  await gone;
  clearTimeout(force);
}
