// Everybody can use it: from a keyboard, in light and dark, at any width, with a screen reader.

import { join } from 'node:path';

import { assert, assertClean, assertEqual } from './harness.mjs';
import { logIn, scan, settled } from './browser.mjs';

const PAGES = { metrics: 'Metrics', queue: 'Queue', history: 'Request History', nodes: 'Nodes', keys: 'API Keys' };

async function scanned(page, what) {
  const violations = await scan(page);
  assert(violations.length === 0, `${what}:\n${violations.join('\n')}`);
}

async function tabTo(page, locator, limit = 60) {
  for (let press = 0; press < limit; press += 1) {
    if (await locator.evaluate((node) => node === document.activeElement).catch(() => false)) return;
    await page.keyboard.press('Tab');
  }
  throw new Error(`the keyboard does not reach ${locator}`);
}

export const tests = {
  ...Object.fromEntries(['light', 'dark'].map((theme) => [
    `an accessibility scan finds nothing on any page in ${theme}`,
    async (scene) => {
      const { page, troubles } = await scene.page({ theme });
      await page.goto(scene.router.url);
      await page.getByLabel('User name').waitFor();
      await scanned(page, 'login');
      await page.screenshot({ path: join(scene.artefacts, `login-${theme}.png`) });
      await logIn(page, scene.router.url);
      await scene.router.ask();
      await scene.router.ask({ model: 'nobody-has-this' });
      for (const [name, title] of Object.entries(PAGES)) {
        await page.goto(`${scene.router.url}/#/${name}`);
        await page.getByRole('heading', { level: 1, name: title }).waitFor();
        await settled(page);
        if (name === 'history') await page.locator('.opener').first().click();
        await scanned(page, name);
        await page.screenshot({ path: join(scene.artefacts, `${name}-${theme}.png`) });
      }
      for (const [name, button] of [['nodes', 'Add node'], ['keys', 'Create key'], ['nodes', 'Drain node-1']]) {
        await page.goto(`${scene.router.url}/#/${name}`);
        await page.getByRole('button', { name: button }).first().click();
        await page.getByRole('dialog').waitFor();
        await scanned(page, `${name}: ${button}`);
        await page.keyboard.press('Escape');
      }
      assertClean(troubles);
    },
  ])),

  async 'every page fits a phone, without scrolling sideways'(scene) {
    const { page, troubles } = await scene.dashboard('#/metrics', { width: 360, height: 740, phone: true });
    for (const name of Object.keys(PAGES)) {
      await page.goto(`${scene.router.url}/#/${name}`);
      await settled(page);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assertEqual(wide, 0, `${name}: pixels beside the screen`);
      await scanned(page, name);
      await page.screenshot({ path: join(scene.artefacts, `${name}-phone.png`), fullPage: true });
    }
    assertClean(troubles);
  },

  async 'nothing is cut off or hidden beside the screen at any width'(scene) {
    await scene.router.ask({ key: 'sk-nobody' });
    await scene.router.ask({ model: 'nobody-has-this' });
    const { page } = await scene.dashboard('#/metrics');
    for (const name of Object.keys(PAGES)) {
      await page.goto(`${scene.router.url}/#/${name}`);
      await settled(page);
      for (const width of [360, 420, 600, 800, 970, 1240, 1250, 1280, 1600, 2560]) {
        await page.setViewportSize({ width, height: 900 });
        // The many columns of the nodes may be scrolled within their card on a small window.
        const boxes = name === 'nodes' ? '.panel' : '.panel, .table-card, .figure';
        const cut = await page.evaluate((selector) => [document.documentElement, ...document.querySelectorAll(selector)]
          .filter((node) => node.scrollWidth > node.clientWidth)
          .map((node) => `${node.className || node.tagName}: ${node.scrollWidth} in ${node.clientWidth}`), boxes);
        assertEqual(cut, [], `${name} at ${width}`);
      }
    }
  },

  async 'every page has one first heading, landmarks, a caption for each table and a title'(scene) {
    const { page } = await scene.dashboard('#/metrics');
    for (const [name, title] of Object.entries(PAGES)) {
      await page.getByRole('navigation', { name: 'Pages' }).getByRole('link', { name: title }).click();
      await page.getByRole('heading', { level: 1, name: title }).waitFor();
      assertEqual(await page.locator('h1:visible').count(), 1, `${name}: first headings`);
      assertEqual(await page.title(), `${title} · llm-router`, `${name}: title`);
      assertEqual(await page.locator('.nav [aria-current="page"]').innerText(), title, `${name}: the page shown`);
      const bare = await page.locator('table').evaluateAll((tables) => tables.filter((table) => !table.caption).length);
      assertEqual(bare, 0, `${name}: tables without a caption`);
    }
    for (const landmark of ['banner', 'navigation', 'main']) assert((await page.getByRole(landmark).count()) >= 1, landmark);
  },

  async 'a login, a walk and a dialog need no pointer'(scene) {
    const { page } = await scene.page();
    await page.goto(scene.router.url);
    await page.getByLabel('User name').waitFor();
    assert(await page.getByLabel('User name').evaluate((node) => node === document.activeElement), 'the first field has the focus');
    await page.keyboard.type('admin');
    await page.keyboard.press('Tab');
    await page.keyboard.type('test');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { level: 1, name: 'Metrics' }).waitFor();

    await page.keyboard.press('Tab');
    await tabTo(page, page.getByRole('link', { name: 'Skip to content' }), 80);
    await page.keyboard.press('Enter');
    assertEqual(await page.evaluate(() => document.activeElement.id), 'content', 'where the skip link leads');

    await page.keyboard.press('Shift+Tab');
    await tabTo(page, page.getByRole('link', { name: 'Nodes' }), 80);
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert(outline !== 'none', 'the focus cannot be seen');
    await page.keyboard.press('Enter');
    const heading = page.getByRole('heading', { level: 1, name: 'Nodes' });
    await heading.waitFor();
    assert(await heading.evaluate((node) => node === document.activeElement), 'the new page’s heading has the focus');

    const add = page.getByRole('button', { name: 'Add node' }).first();
    await tabTo(page, add);
    await page.keyboard.press('Enter');
    await page.getByRole('dialog', { name: 'Add node' }).waitFor();
    assert(await page.getByLabel('Name').evaluate((node) => node === document.activeElement), 'the first field has the focus');
    for (let press = 0; press < 12; press += 1) {
      await page.keyboard.press('Tab');
      const where = await page.evaluate(() => document.activeElement === document.body || document.activeElement.closest('dialog') !== null);
      assert(where, 'the focus left the dialog');
    }
    await page.keyboard.press('Escape');
    assert(await add.evaluate((node) => node === document.activeElement), 'the focus is back');
  },

  async 'the theme follows the system until it is chosen, and the choice is kept'(scene) {
    const { page } = await scene.dashboard('#/metrics', { theme: 'dark' });
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const dark = await ground();
    await page.getByRole('button', { name: 'System theme' }).click();
    const light = await ground();
    assert(light !== dark, 'the colours did not change');
    await page.reload();
    await settled(page);
    assertEqual(await ground(), light, 'the colours after loading the page again');
    await page.getByRole('button', { name: 'Light theme' }).click();
    assertEqual(await ground(), dark, 'the colours of the dark theme');
  },

  async 'nothing moves for who asked for that'(scene) {
    const { page } = await scene.dashboard('#/metrics', { reducedMotion: 'reduce' });
    const moving = await page.evaluate(() => document.getAnimations().length);
    assertEqual(moving, 0, 'animations');
  },
};
