// Names that try to be markup, and a router whose lists fail: states a real router rarely shows, from the
// pretended one; then the same hostile name through the real one.

import { assert, assertClean, assertEqual } from './harness.mjs';
import { HOSTILE, startFake } from './fake.mjs';
import { believe, openPage, settled } from './browser.mjs';
import { until } from './router.mjs';

async function withFake(scene, scenario, body) {
  const fake = await startFake({ scenario });
  try {
    fake.logIn();
    const opened = await openPage(scene.browser, fake.url);
    scene.opened.push(opened);
    await believe(opened.context);
    await body({ fake, ...opened });
  } finally {
    await scene.closePages();
    fake.close();
  }
}

export const tests = {
  async 'names that contain HTML stay text on every page'(scene) {
    await withFake(scene, 'hostile', async ({ fake, page, troubles }) => {
      for (const name of ['metrics', 'queue', 'history', 'nodes', 'keys']) {
        await page.goto(`${fake.url}/#/${name}`);
        await page.locator('#page[data-live="live"]').waitFor();
        await page.locator('#page span', { hasText: HOSTILE }).first().waitFor();
        assertEqual(await page.locator('#page img, #page script, #page iframe').count(), 0, `${name}: elements made of a name`);
        assert((await page.title()).endsWith('· llm-router'), `${name}: ${await page.title()}`);
      }
      await page.goto(`${fake.url}/#/history`);
      await page.locator('.opener').first().click();
      await page.goto(`${fake.url}/#/nodes`);
      await page.getByRole('button', { name: `Remove ${HOSTILE}` }).click();
      assertEqual(await page.getByRole('dialog').locator('img, script').count(), 0, 'in a dialog');
      await page.getByRole('dialog').getByRole('button', { name: 'Remove' }).click();
      await page.locator('.toast').getByText(HOSTILE).waitFor();
      assertClean(troubles);
    });
  },

  async 'a model that is named like markup stays text through the real router'(scene) {
    const { page, troubles } = await scene.dashboard('#/history');
    assertEqual(await scene.router.ask({ model: HOSTILE }), 404, 'the request');
    await page.getByRole('row', { name: /404/ }).first().waitFor({ timeout: 10_000 });
    await page.goto(`${scene.router.url}/#/history?model=${encodeURIComponent(HOSTILE)}`);
    await settled(page);
    assertEqual(await page.getByLabel('Model').inputValue(), HOSTILE, 'the filter');
    assertEqual(await page.locator('#page img, #page script').count(), 0, 'elements made of a name');
    assertEqual(await page.title(), 'Request History · llm-router', 'title');
    assertClean(troubles);
  },

  async 'a list that cannot be loaded says so and can be tried again'(scene) {
    await withFake(scene, 'failing', async ({ fake, page }) => {
      for (const name of ['history', 'nodes', 'keys']) {
        await page.goto(`${fake.url}/#/${name}`);
        await page.getByText('This could not be loaded').waitFor();
        await page.getByText('The store does not answer.').waitFor();
        assertEqual(await page.getByRole('button', { name: 'Try again' }).count(), 1, name);
      }
    });
  },

  async 'an empty router tells what to do first'(scene) {
    await withFake(scene, 'empty', async ({ fake, page, troubles }) => {
      for (const [name, words] of [['nodes', 'No nodes yet'], ['keys', 'No keys yet'], ['history', 'No requests yet'], ['metrics', 'Nothing was refused since the start.']]) {
        await page.goto(`${fake.url}/#/${name}`);
        await page.getByText(words).waitFor();
      }
      assertClean(troubles);
    });
  },

  async 'a hidden tab lets go of its stream, and takes it up again'(scene) {
    await withFake(scene, 'busy', async ({ fake, page }) => {
      await page.clock.install();
      await page.goto(`${fake.url}/#/metrics`);
      await settled(page);
      const turn = (hidden) => page.evaluate((value) => {
        Object.defineProperty(document, 'hidden', { value, configurable: true });
        document.dispatchEvent(new Event('visibilitychange'));
      }, hidden);
      assertEqual(fake.streams(), 1, 'streams while it is seen');
      await turn(true);
      await page.clock.fastForward(61_000);
      await until('the stream to end', () => fake.streams() === 0);
      await turn(false);
      await until('the stream to begin again', () => fake.streams() === 1);
      await page.locator('#page[data-live="live"]').waitFor();
    });
  },

  async 'the content policy stops a script that gets into the page'(scene) {
    const { page, troubles } = await scene.dashboard('#/metrics');
    await page.evaluate(() => {
      const script = document.createElement('script');
      script.textContent = 'document.title = "owned"';
      document.body.append(script);
      const image = new Image();
      image.src = 'http://127.0.0.2:9/leak';
      document.body.append(image);
    });
    await page.waitForTimeout(200);
    assert((await page.title()) !== 'owned', 'the script ran');
    assert(troubles.some((trouble) => trouble.includes('script-src')), 'the script was reported');
    assert(troubles.some((trouble) => trouble.includes('img-src')), 'the image was reported');
  },
};
