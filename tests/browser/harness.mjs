// Runs tests one after the other and counts them. A test is a sentence and a function; it fails by
// throwing, and by anything a page must never do (see browser.mjs).

export class Counts {
  passed = 0;

  failed = 0;

  skipped = 0;
}

// A test that slips is tried once more, visibly, as the tests in Rust are.
export async function runTests(counts, tests, scene) {
  for (const [title, test] of Object.entries(tests)) {
    const first = await attempt(title, test, scene);
    const passed = first || (await attempt(`${title}, once more`, test, scene));
    counts[passed ? 'passed' : 'failed'] += 1;
    if (passed && !first) console.log(`FLAKY: ${title}`);
  }
}

async function attempt(title, test, scene) {
  const began = performance.now();
  let timer;
  try {
    const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`took longer than ${TEST_SECS_MAX} s`)), TEST_SECS_MAX * 1000); });
    await Promise.race([test(scene), late]);
    console.log(`${title} ... ok (${Math.round(performance.now() - began)} ms)`);
    return true;
  } catch (error) {
    console.log(`${title} ... FAIL\n${String(error.stack ?? error).replace(/^/gm, '    ')}`);
    return false;
  } finally {
    clearTimeout(timer);
    await scene.closePages();
  }
}

// Eight scans of a page on a machine that does much else.
const TEST_SECS_MAX = 150;

export function assert(condition, message) {
  if (!condition) throw new Error(message);
}

export function assertEqual(actual, expected, what) {
  const [left, right] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (left !== right) throw new Error(`${what}: ${left} instead of ${right}`);
}

// Nothing a page must never do has happened; `expected` are messages that the test brought about.
export function assertClean(troubles, expected = []) {
  const left = troubles.filter((trouble) => !expected.some((pattern) => pattern.test(trouble)));
  if (left.length > 0) throw new Error(`the page did what it must not:\n${left.join('\n')}`);
}
