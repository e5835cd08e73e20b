// Starts the browser and watches its pages: whatever a page should never do (errors on the console,
// violations of its content policy, requests to another host) is written down.

import { accessSync, constants, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

// Where tools/setup put the packages: in the build folder, or where tools/test says.
const here = dirname(fileURLToPath(import.meta.url));
const folder = process.env.LLM_ROUTER_BROWSER_ENV ?? join(here, '../../target/test-env/browser');
const require = createRequire(join(folder, 'package.json'));

function load(name) {
  try {
    return require.resolve(name);
  } catch {
    console.error(`no package ${name} in ${folder}: run tools/setup, then tools/test`);
    process.exit(1);
  }
}

const { chromium } = require(load('playwright-core'));
const AXE = readFileSync(load('axe-core/axe.min.js'), 'utf8');

function executable() {
  for (const part of (process.env.PATH ?? '').split(delimiter)) {
    for (const name of ['chromium', 'chromium-browser', 'google-chrome']) {
      const path = join(part, name);
      if (!existsSync(path)) continue;
      accessSync(path, constants.X_OK);
      return path;
    }
  }
  console.error('no chromium: run tools/setup, then tools/test');
  process.exit(1);
}

export async function launch() {
  return chromium.launch({
    executablePath: executable(),
    headless: true,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', '--hide-scrollbars',
    ],
  });
}

// A page of its own session. `troubles` collects what must not happen; `expected` are patterns of
// messages that a test brings about itself (a refused login is an error on the console).
export async function openPage(browser, url, { width = 1280, height = 800, theme = 'light', phone = false, reducedMotion = 'no-preference' } = {}) {
  const context = await browser.newContext({
    viewport: { width, height },
    colorScheme: theme,
    reducedMotion,
    locale: 'en-US',
    timezoneId: 'Europe/Berlin',
    hasTouch: phone,
    isMobile: phone,
    deviceScaleFactor: 1,
    permissions: ['clipboard-read', 'clipboard-write'],
  });
  const page = await context.newPage();
  const troubles = [];
  const origin = new URL(url).origin;
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') troubles.push(`console: ${message.text()}`);
  });
  page.on('pageerror', (error) => troubles.push(`error: ${error.message}`));
  page.on('request', (request) => {
    const to = new URL(request.url());
    if (to.protocol !== 'data:' && to.origin !== origin) troubles.push(`another host: ${request.url()}`);
  });
  await page.addInitScript(() => {
    document.addEventListener('securitypolicyviolation', (event) => {
      console.error(`policy violated: ${event.violatedDirective} ${event.blockedURI}`);
    });
  });
  page.setDefaultTimeout(10_000);
  page.setDefaultNavigationTimeout(30_000);
  return { context, page, troubles, url };
}

// A page that believes it has a session: the pretended router needs no login.
export async function believe(context) {
  await context.addInitScript(() => {
    if (location.hash) localStorage.setItem('llm-router.session', 'yes');
  });
}

export async function logIn(page, url, { hash = '', username = 'admin', password = 'test' } = {}) {
  await page.goto(`${url}/${hash}`);
  await page.getByLabel('User name').fill(username);
  await page.getByLabel('Password', { exact: true }).fill(password);
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.locator('h1[tabindex]').waitFor();
}

// Waits until the figures are there and the page stands still.
export async function settled(page) {
  await page.locator('#page[data-live="live"]').waitFor();
  await page.waitForFunction(() => document.querySelector('.spinner') === null);
  await page.evaluate(() => document.fonts.ready);
}

// The accessibility scan; returns its violations as lines.
export async function scan(page) {
  await page.evaluate(AXE);
  const result = await page.evaluate(() => globalThis.axe.run(document, {
    runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
  }));
  return result.violations.flatMap((violation) => violation.nodes.map((node) => `${violation.id}: ${node.target.join(' ')}: ${node.failureSummary}`));
}

export function folderFor(path) {
  mkdirSync(path, { recursive: true });
  return path;
}
