// Tests the dashboard in a real browser against the real binary.
//
//     node tests/browser/run.mjs path/to/llm-router [folder for pictures] [part of a test's name]
//
// The last line has the counts; the exit code is 0 only if every test ran and passed. tools/test calls
// this in the environment that tools/setup has made.

import { resolve } from 'node:path';

import { folderFor, launch } from './browser.mjs';
import { Counts, runTests } from './harness.mjs';
import { Router } from './router.mjs';
import { Scene } from './scene.mjs';
import * as access from './test_access.mjs';
import * as history from './test_history.mjs';
import * as keys from './test_keys.mjs';
import * as live from './test_live.mjs';
import * as login from './test_login.mjs';
import * as nodes from './test_nodes.mjs';
import * as safety from './test_safety.mjs';

const [binary, pictures = 'target/dashboard-pictures', only = ''] = process.argv.slice(2);
if (!binary) {
  console.error('usage: node tests/browser/run.mjs path/to/llm-router [folder for pictures] [part of a test’s name]');
  process.exit(2);
}

const counts = new Counts();
const browser = await launch();
const path = resolve(binary);
let router;
try {
  router = await Router.start(path);
  const scene = new Scene(browser, path, router, folderFor(pictures));
  for (const { tests } of [login, live, nodes, keys, history, safety, access]) {
    const chosen = Object.fromEntries(Object.entries(tests).filter(([title]) => title.includes(only)));
    await runTests(counts, chosen, scene);
  }
} catch (error) {
  console.log(error.stack);
  counts.failed += 1;
} finally {
  await browser.close();
  await router?.close();
}
console.log(`Browser summary: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exit(counts.failed > 0 ? 1 : 0);
