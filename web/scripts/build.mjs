/**
 * Builds `dist/`: bundles with hashed names, the shell rendered into `index.html`, and the notices of what is bundled.
 * The same sources and the same versions give the same bytes.
 */

import { createHash } from 'node:crypto';
import { mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { build, context } from 'esbuild';

const web = resolve(dirname(fileURLToPath(import.meta.url)), '..');
const dist = join(web, 'dist');

/** @type {import('esbuild').BuildOptions} */
const common = {
  absWorkingDir: web,
  bundle: true,
  minify: true,
  jsx: 'automatic',
  jsxImportSource: 'preact',
  target: ['chrome111', 'firefox115', 'safari16.4'],
  charset: 'utf8',
  legalComments: 'none',
  logLevel: 'warning',
};

/** @type {import('esbuild').BuildOptions} */
const pageOptions = {
  ...common,
  entryPoints: { main: 'src/main.jsx', style: 'src/style.css' },
  outdir: 'dist',
  format: 'esm',
  splitting: true,
  entryNames: '[name]-[hash]',
  chunkNames: '[name]-[hash]',
  assetNames: '[name]-[hash]',
  define: { 'process.env.NODE_ENV': '"production"' },
};

async function run() {
  await rm(dist, { recursive: true, force: true });
  await mkdir(dist, { recursive: true });
  const page = await build({ ...pageOptions, metafile: true });
  const theme = await build({
    ...common,
    entryPoints: { theme: 'src/theme.js' },
    outdir: 'dist',
    format: 'iife',
    metafile: true,
    entryNames: '[name]-[hash]',
  });
  const outputs = { ...page.metafile.outputs, ...theme.metafile.outputs };
  const icon = await readFile(join(web, 'src/icon.svg'));
  const iconName = `icon-${hash(icon)}.svg`;
  await writeFile(join(dist, iconName), icon);
  await writeFile(join(dist, 'index.html'), await indexHtml(outputs, iconName));
  await writeFile(join(dist, 'THIRD-PARTY.txt'), await notices(page.metafile));
  await writeFile(join(web, 'node_modules/.build-meta.json'), JSON.stringify(outputs));
}

/**
 * @param {import('esbuild').Metafile['outputs']} outputs
 * @param {string} icon
 */
async function indexHtml(outputs, icon) {
  const built = await build({
    ...common,
    entryPoints: ['src/shell.jsx'],
    platform: 'node',
    format: 'esm',
    minify: false,
    outfile: 'node_modules/.shell.mjs',
  });
  if (built.errors.length > 0) throw new Error('the shell does not build');
  const { shell, noscript, description } = await import(`${pathToFileURL(join(web, 'node_modules/.shell.mjs')).href}?${Date.now()}`);
  const named = (/** @type {RegExp} */ pattern) => {
    const found = Object.keys(outputs).find((name) => pattern.test(name));
    if (!found) throw new Error(`no output matches ${pattern}`);
    return `/${relative('dist', found)}`;
  };
  const main = named(/main-[A-Z0-9]{8}\.js$/);
  // What the script needs before it can run is fetched beside it, not after it.
  const needed = outputs[`dist${main}`].imports.filter(({ kind }) => kind === 'import-statement').map(({ path }) => `/${relative('dist', path)}`);
  /** @type {Record<string, string>} */
  const values = {
    icon: `/${icon}`,
    theme: named(/theme-[A-Z0-9]{8}\.js$/),
    css: named(/style-[A-Z0-9]{8}\.css$/),
    main,
    preloads: [main, ...needed].map((path) => `<link rel="modulepreload" href="${path}">`).join('\n'),
    noscript,
    description,
    shell: shell(),
  };
  const template = await readFile(join(web, 'src/index.html'), 'utf8');
  return template.replace(/\{\{(\w+)\}\}/g, (_, name) => values[name]);
}

/** @param {Buffer} bytes as esbuild writes hashes: 8 characters of base 32 */
function hash(bytes) {
  const digest = createHash('sha256').update(bytes).digest();
  const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
  return [...digest.subarray(0, 8)].map((byte) => letters[byte & 31]).join('');
}

/**
 * The license texts of every package of which something is in the bundles.
 * @param {import('esbuild').Metafile} metafile
 */
async function notices(metafile) {
  const packages = new Set();
  for (const input of Object.keys(metafile.inputs)) {
    const found = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (found) packages.add(found[1]);
  }
  const parts = ['The chat page of gemma2 contains the following third-party software.\n'];
  for (const name of [...packages].sort()) {
    const folder = join(web, 'node_modules', name);
    const about = JSON.parse(await readFile(join(folder, 'package.json'), 'utf8'));
    const files = (await readdir(folder)).filter((file) => /^(licen[sc]e|copying|notice)/i.test(file)).sort();
    if (files.length === 0) throw new Error(`${name} has no license file`);
    parts.push(`${'='.repeat(80)}\n${name} ${about.version} (${about.license})\n${'='.repeat(80)}\n`);
    for (const file of files) parts.push(`${(await readFile(join(folder, file), 'utf8')).replace(/\r\n/g, '\n').trim()}\n`);
  }
  return parts.join('\n');
}

if (process.argv.includes('--watch')) {
  const watching = await context({ ...pageOptions, plugins: [{ name: 'all', setup: (all) => all.onEnd(() => run()) }], write: false });
  await watching.watch();
} else {
  await run();
}
