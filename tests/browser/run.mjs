/**
 * Browser journeys.
 *
 *   node tests/browser/run.mjs [PART OF A NAME]...      against the scripted engine, a fresh one for each journey
 *   node tests/browser/run.mjs --url URL [PART]...      against a program that runs already; only what holds for any model
 */

import { common } from './common.mjs';
import { startFake } from './fake-server.mjs';
import { keeping } from './keeping.mjs';
import { looks } from './looks.mjs';
import { replies } from './replies.mjs';
import { exitWith, run } from './runner.mjs';
import { seldom } from './seldom.mjs';

const words = process.argv.slice(2);
const at = words.indexOf('--url');

await exitWith(async () => {
  if (at >= 0) {
    const [, url] = words.splice(at, 2);
    return run(common, async () => ({ url: url.endsWith('/') ? url : `${url}/` }), words);
  }
  return run({ ...common, ...replies, ...keeping, ...looks, ...seldom }, async () => {
    const fake = await startFake();
    return { url: fake.url, fake, done: () => fake.stop() };
  }, words);
});
