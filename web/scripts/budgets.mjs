/** Fails when the built page has become larger than it may be. */

import { readFile, readdir } from 'node:fs/promises';
import { join, resolve, dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';

const dist = resolve(dirname(fileURLToPath(import.meta.url)), '../dist');

/** Every file belongs to one group; a name that is in none is a chunk nobody has thought about. */
const GROUPS = [
  { name: 'start', pattern: /^(index\.html|(theme|main|growing|chunk)-\w+\.js|style-\w+\.css|icon-\w+\.svg)$/, raw: 300_000, gzip: 100_000 },
  { name: 'style', pattern: /^style-\w+\.css$/, raw: 30_000, gzip: 10_000 },
  { name: 'colors of code', pattern: /^colors-\w+\.js$/, raw: 100_000, gzip: 32_000 },
  { name: 'formulas', pattern: /^katex-\w+\.js$/, raw: 290_000, gzip: 85_000 },
  { name: 'each language', pattern: /^[a-z]{2}-[A-Z0-9]{8}\.js$/, raw: 22_000, gzip: 8_000, each: true },
  { name: 'notices', pattern: /^THIRD-PARTY\.txt$/, raw: 60_000, gzip: 20_000 },
];

const files = await Promise.all(
  (await readdir(dist)).map(async (name) => ({ name, bytes: await readFile(join(dist, name)) })),
);
let good = true;
for (const { name, bytes } of files) {
  if (GROUPS.some(({ pattern }) => pattern.test(name))) continue;
  console.log(`FAILED  ${name} (${bytes.length} bytes) is in no group`);
  good = false;
}
for (const group of GROUPS) {
  const members = files.filter(({ name }) => group.pattern.test(name));
  const all = group.each ? (/** @type {number[]} */ sizes) => Math.max(...sizes) : (/** @type {number[]} */ sizes) => sizes.reduce((sum, size) => sum + size, 0);
  const raw = all(members.map(({ bytes }) => bytes.length));
  const gzip = all(members.map(({ bytes }) => gzipSync(bytes, { level: 9 }).length));
  const fits = members.length > 0 && raw <= group.raw && gzip <= group.gzip;
  good &&= fits;
  console.log(`${fits ? 'ok    ' : 'FAILED'}  ${group.name}: ${raw} of ${group.raw} bytes, ${gzip} of ${group.gzip} with gzip`);
}
process.exitCode = good ? 0 : 1;
