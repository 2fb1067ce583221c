/** Fails when the unit tests leave more than a tenth of a module's lines unseen. Reads what `npm test` has just written. */

import { readFile, readdir } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const web = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const LEAST = 0.9;

/** Modules that are about a document, a window or its clipboard: the journeys in a browser are their tests. */
const IN_A_BROWSER = ['clipboard', 'context', 'follow', 'grow', 'keys', 'language-choice', 'near', 'rich', 'theme', 'theme-choice', 'ui'];

/** @type {Map<string, number>} share of seen lines by module */
const seen = new Map();
for (const record of (await readFile(join(web, 'node_modules/.coverage.lcov'), 'utf8')).split('end_of_record')) {
  const field = (/** @type {string} */ name) => new RegExp(`^${name}:(.*)$`, 'm').exec(record)?.[1] ?? '';
  const module = /(?:^|[\\/])src[\\/](.*)\.js$/.exec(field('SF'))?.[1];
  if (module) seen.set(module.replaceAll('\\', '/'), Number(field('LH')) / Number(field('LF')));
}

const modules = (await readdir(join(web, 'src'))).filter((name) => name.endsWith('.js')).map((name) => name.slice(0, -3));
let good = true;
for (const module of modules) {
  const share = seen.get(module) ?? 0;
  if (share >= LEAST || IN_A_BROWSER.includes(module)) continue;
  console.log(`FAILED  src/${module}.js: ${(share * 100).toFixed(1)} % of its lines are tested, ${LEAST * 100} % must be`);
  good = false;
}
const counted = modules.filter((module) => !IN_A_BROWSER.includes(module));
const mean = counted.reduce((sum, module) => sum + (seen.get(module) ?? 0), 0) / counted.length;
console.log(`${good ? 'ok      ' : ''}${counted.length} modules, ${(mean * 100).toFixed(1)} % of their lines on average`);
process.exitCode = good ? 0 : 1;
