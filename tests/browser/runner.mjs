/** Runs journeys one after the other and says how each went. */

import { keepShot, launch, Missing } from './harness.mjs';

/**
 * @param {Record<string, (place: any) => Promise<void>>} journeys
 * @param {(name: string) => Promise<{ url: string, done?: () => Promise<void> } & Record<string, any>>} prepare a server for each
 * @param {string[]} [only] parts of names
 * @returns {Promise<boolean>} whether all went well
 */
export async function run(journeys, prepare, only = []) {
  const browser = await launch();
  let failed = 0;
  let passed = 0;
  try {
    for (const [name, journey] of Object.entries(journeys)) {
      if (only.length > 0 && !only.some((part) => name.includes(part))) continue;
      /** @type {import('./harness.mjs').Watched[]} */
      const opened = [];
      const { done, ...place } = await prepare(name);
      const started = Date.now();
      try {
        await journey({ ...place, browser, watch: (/** @type {any} */ page) => opened.push(page) });
        passed += 1;
        console.log(`ok      ${name} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
      } catch (error) {
        failed += 1;
        console.log(`FAILED  ${name}\n        ${String(error instanceof Error ? error.stack : error).replaceAll('\n', '\n        ')}`);
        for (const { page, problems } of opened) {
          if (page.isClosed()) continue;
          console.log(`        picture: ${await keepShot(page, name)}`);
          for (const problem of problems) console.log(`        ${problem}`);
        }
      }
      for (const { context } of opened) await context.close().catch(() => {});
      await done?.();
    }
  } finally {
    await browser.close();
  }
  console.log(`${passed} journeys passed, ${failed} failed`);
  return failed === 0 && passed > 0;
}

/** Runs `main` and turns its outcome into an exit status. @param {() => Promise<boolean>} main */
export async function exitWith(main) {
  try {
    process.exitCode = (await main()) ? 0 : 1;
  } catch (error) {
    console.error(error instanceof Missing ? `error: ${error.message}` : error);
    process.exitCode = 1;
  }
}
