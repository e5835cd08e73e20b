// Figures that move by themselves, and what is shown when they stop.

import { join } from 'node:path';

import { assert, assertClean, assertEqual } from './harness.mjs';
import { Router, until } from './router.mjs';
import { logIn, scan, settled } from './browser.mjs';

const figure = (page, title) => page.getByRole('region', { name: title, exact: true });
const numberOf = async (page, title) => Number((await figure(page, title).locator('.number').innerText()).replace(/[^0-9.]/g, ''));

export const tests = {
  async 'the panels of the Metrics page have the names they were asked for by'(scene) {
    const { page, troubles } = await scene.dashboard('#/metrics');
    for (const title of ['Queue Size', 'Backpressure State', 'Request Latency (p95)', 'Cache Hit Rate', 'Active Connections', 'Throughput', 'Time to First Byte (p95)', 'Tokens', 'Refusals by Reason']) {
      assertEqual(await figure(page, title).count(), 1, title);
    }
    assertEqual(await figure(page, 'Backpressure State').locator('.value').innerText(), 'Normal', 'the state at rest');
    assertClean(troubles);
  },

  async 'a request shows within a second of its end'(scene) {
    const { page, troubles } = await scene.dashboard('#/metrics');
    const words = figure(page, 'Throughput').locator('.words');
    const totalOf = (text) => Number(text.replace(/[^0-9]/g, ''));
    let slowest = 0;
    for (let round = 0; round < 5; round += 1) {
      const before = totalOf(await words.innerText());
      assertEqual(await scene.router.ask(), 200, 'the request');
      const ended = performance.now();
      await until('the request on the page', async () => totalOf(await words.innerText()) > before, 5000);
      slowest = Math.max(slowest, performance.now() - ended);
    }
    console.log(`    slowest of five: ${Math.round(slowest)} ms`);
    assert(slowest <= 1000, `took ${slowest} ms`);
    assertClean(troubles);
  },

  async 'a refusal is counted under its reason'(scene) {
    const { page } = await scene.dashboard('#/metrics');
    assertEqual(await scene.router.ask({ key: 'sk-nobody' }), 401, 'the request');
    const row = page.getByRole('row', { name: /No valid API key/ });
    await row.waitFor();
    assert(await row.getByText('invalid_key').isVisible(), 'the reason by its name in the metrics');
  },

  async 'a line is read with pointer and keyboard'(scene) {
    const { page } = await scene.dashboard('#/metrics');
    const chart = page.getByRole('slider', { name: 'Active Connections, last 15 minutes' });
    const readout = figure(page, 'Active Connections').locator('.readout');
    await until('a point', async () => (await chart.getAttribute('aria-valuetext')) !== 'no figures yet');
    await chart.hover({ position: { x: 200, y: 40 } });
    await readout.waitFor();
    assert(/open · \d/.test(await readout.innerText()), await readout.innerText());
    await page.mouse.move(5, 5);
    await readout.waitFor({ state: 'hidden' });
    await page.keyboard.press('Tab');
    await until('focus on the chart', async () => {
      await page.keyboard.press('Tab');
      return chart.evaluate((node) => node === document.activeElement);
    });
    await readout.waitFor();
    await page.keyboard.press('ArrowLeft');
    assert(/ at \d/.test(await chart.getAttribute('aria-valuetext')), 'what a screen reader is told');
    await page.keyboard.press('Escape');
    await readout.waitFor({ state: 'hidden' });
  },

  async 'old figures are marked, and come back by themselves after a restart'(scene) {
    const router = await Router.start(scene.binary, { nodes: 1 });
    try {
      const { page, troubles } = await scene.page({}, router.url);
      await logIn(page, router.url, { hash: '#/metrics' });
      await settled(page);
      await router.stopProcess();
      await page.getByText(/^Stale: no news for \d+ s, reconnecting$/).waitFor();
      assertEqual(await page.locator('#announcer').innerText(), 'Connection lost. The figures are old.', 'what is said');
      const violations = await scan(page);
      assertEqual(violations, [], 'the accessibility of old figures');
      await page.screenshot({ path: join(scene.artefacts, 'metrics-stale.png') });
      await router.restart();
      await page.locator('#page[data-live="live"]').waitFor({ timeout: 15_000 });
      assertEqual(await page.locator('#announcer').innerText(), 'The figures are live again.', 'what is said');
      assertClean(troubles, [/ERR_CONNECTION_REFUSED/, /ERR_CONNECTION_RESET/, /ERR_EMPTY_RESPONSE/, /ERR_INCOMPLETE_CHUNKED_ENCODING/]);
    } finally {
      await scene.closePages();
      await router.close();
    }
  },

  async 'the Queue page tells who waits and where requests are worked on'(scene) {
    const { page, troubles } = await scene.dashboard('#/queue');
    for (const title of ['Waiting', 'Processing', 'Mean Wait', 'Mean Processing Time', 'Timeouts', 'Refusals']) {
      assertEqual(await figure(page, title).count(), 1, title);
    }
    assertEqual(await numberOf(page, 'Waiting'), 0, 'waiting');
    assert(await page.getByText('Nobody waits.').isVisible(), 'the empty list');
    const nodes = page.getByRole('table', { name: 'Requests the nodes work on now' });
    await nodes.getByRole('row', { name: /node-1 Online/ }).waitFor();
    assertClean(troubles);
  },
};
