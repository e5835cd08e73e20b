// Finding, opening and taking away what was recorded.

import { readFileSync } from 'node:fs';

import { assert, assertClean, assertEqual } from './harness.mjs';
import { MODEL } from './router.mjs';

// Some that succeed, one that nobody can serve.
async function fill(scene) {
  for (let round = 0; round < 3; round += 1) assertEqual(await scene.router.ask(), 200, 'a request');
  assertEqual(await scene.router.ask({ model: 'nobody-has-this' }), 404, 'a request for an unknown model');
}

const rows = (page) => page.getByRole('table', { name: 'Requests, newest first' }).locator('tbody tr:not(.details)');

export const tests = {
  async 'requests appear by themselves, with model, node, duration, tokens and status'(scene) {
    const { page, troubles } = await scene.dashboard('#/history');
    await fill(scene);
    const refused = page.getByRole('row', { name: /404/ }).first();
    await refused.waitFor({ timeout: 10_000 });
    const served = page.getByRole('row', { name: /200 Success/ }).first();
    const cells = await served.getByRole('cell').allInnerTexts();
    assertEqual(cells[0], MODEL, 'model');
    assert(/^node-\d$/.test(cells[1]), `node: ${cells[1]}`);
    assert(/ (ms|s)$/.test(cells[2]), `duration: ${cells[2]}`);
    assert(/^\d+$/.test(cells[3]), `tokens: ${cells[3]}`);
    const heads = await page.getByRole('columnheader').allInnerTexts();
    assertEqual(heads, ['Time', 'Model', 'Node', 'Duration', 'Tokens', 'Status'], 'columns');
    assertClean(troubles);
  },

  async 'a row opens the phases of its request, and stays open while others arrive'(scene) {
    await fill(scene);
    const { page, troubles } = await scene.dashboard(`#/history?model=${MODEL}`);
    await rows(page).first().waitFor();
    const opener = page.locator('.opener').first();
    await opener.focus();
    await page.keyboard.press('Enter');
    assertEqual(await opener.getAttribute('aria-expanded'), 'true', 'the row');
    const details = page.locator('.record').first();
    for (const words of ['Reading the request', 'Waiting in the queue', 'Connecting to the node', 'Waiting for the first byte', 'Relaying the answer', 'by the node, whole', 'chat_completions']) {
      await details.getByText(words, { exact: false }).first().waitFor();
    }
    const count = await rows(page).count();
    await fill(scene);
    await page.waitForFunction((before) => document.querySelectorAll('.history tbody tr:not(.details)').length > before, count, { timeout: 10_000 });
    assert(await details.isVisible(), 'the open row');
    assertClean(troubles);
  },

  async 'filters stand in the address and narrow the list; the export has the same'(scene) {
    await fill(scene);
    const { page, troubles } = await scene.dashboard('#/history');
    await rows(page).first().waitFor();
    await page.getByLabel('Status').selectOption('error');
    await page.waitForFunction(() => ![...document.querySelectorAll('.history tbody .badge')].some((badge) => badge.textContent.startsWith('200')));
    assert(page.url().includes('#/history?status=error'), page.url());
    assert((await rows(page).count()) > 0, 'the refused requests');

    for (const format of ['CSV', 'JSON']) {
      const arriving = page.waitForEvent('download');
      await page.getByRole('link', { name: `Export ${format}` }).click();
      const download = await arriving;
      assert(download.suggestedFilename().endsWith(`.${format.toLowerCase()}`), download.suggestedFilename());
      const text = readFileSync(await download.path(), 'utf8');
      assert(text.includes('404') && !text.includes(`,${MODEL},node-1,200,`), text.slice(0, 400));
      const count = format === 'CSV' ? text.trim().split('\n').length - 1 : JSON.parse(text).length ?? JSON.parse(text).records.length;
      assert(count >= (await rows(page).count()), `${count} exported`);
    }

    await page.getByLabel('Model').selectOption(MODEL);
    await page.getByText('Nothing matches').waitFor();
    await page.reload();
    await page.getByText('Nothing matches').waitFor();
    assertEqual(await page.getByLabel('Model').inputValue(), MODEL, 'the filter after loading the page again');
    await page.getByRole('button', { name: 'Clear filters' }).click();
    await rows(page).first().waitFor();
    assert(page.url().endsWith('#/history'), page.url());
    await page.goBack();
    await page.getByText('Nothing matches').waitFor();
    assertClean(troubles);
  },

  async 'pages turn, and the page number stands in the address'(scene) {
    for (let batch = 0; batch < 8; batch += 1) await Promise.all(Array.from({ length: 8 }, () => scene.router.ask()));
    const { page } = await scene.dashboard('#/history');
    await page.getByText(/^1 to 50 of /).waitFor({ timeout: 10_000 });
    await page.getByRole('button', { name: 'Next' }).click();
    await page.getByText(/^51 to /).waitFor();
    assert(page.url().includes('page=2'), page.url());
    await page.getByRole('button', { name: 'Previous' }).click();
    await page.getByText(/^1 to 50 of /).waitFor();
  },

  async 'a range of time is chosen in the viewer’s own zone'(scene) {
    await fill(scene);
    const { page } = await scene.dashboard('#/history');
    await page.getByLabel('Time').selectOption('15m');
    await rows(page).first().waitFor();
    await page.getByLabel('Time').selectOption('custom');
    const shown = await page.getByLabel('From').inputValue();
    const from = Number(new URLSearchParams(page.url().split('?')[1]).get('from'));
    const inBerlin = new Date(from * 1000).toLocaleString('sv-SE', { timeZone: 'Europe/Berlin' }).replace(' ', 'T');
    assertEqual(shown, inBerlin, 'the beginning');
    await page.getByLabel('To', { exact: true }).fill('2001-01-01T00:00:00');
    await page.getByLabel('To', { exact: true }).press('Tab');
    await page.getByText('Nothing matches').waitFor();
  },
};
