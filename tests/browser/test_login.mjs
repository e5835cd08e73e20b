// Who is let in, and what the others are told.

import { assert, assertClean, assertEqual } from './harness.mjs';
import { Router } from './router.mjs';
import { logIn } from './browser.mjs';

export const tests = {
  async 'the first page is the login page, and comes within two seconds'(scene) {
    const { page, troubles } = await scene.page();
    const began = performance.now();
    await page.goto(scene.router.url);
    await page.getByLabel('User name').waitFor();
    const took = performance.now() - began;
    assert(took < 2000, `took ${took} ms`);
    console.log(`    first load: ${Math.round(took)} ms`);
    assertEqual(await page.title(), 'Log in · llm-router', 'title');
    assertEqual(await page.locator('h1').allInnerTexts(), ['Log in to llm-router'], 'headings');
    assertClean(troubles);
  },

  async 'a wrong password is refused in words, and the right one then lets in'(scene) {
    const { page, troubles } = await scene.page();
    await page.goto(scene.router.url);
    await page.getByLabel('User name').fill('admin');
    await page.getByLabel('Password', { exact: true }).fill('wrong');
    await page.keyboard.press('Enter');
    await page.getByText('Wrong user name or password.').waitFor();
    assertEqual(await page.getByLabel('Password', { exact: true }).inputValue(), '', 'the field after a refusal');
    await page.getByLabel('Password', { exact: true }).fill('test');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { level: 1, name: 'Metrics' }).waitFor();
    assertClean(troubles, [/status of 401/]);
  },

  async 'an empty field is complained about without asking the router'(scene) {
    const { page } = await scene.page();
    await page.goto(scene.router.url);
    await page.getByLabel('User name').fill('admin');
    let asked = 0;
    page.on('request', (request) => { asked += request.url().endsWith('/login') ? 1 : 0; });
    await page.getByRole('button', { name: 'Log in' }).click();
    await page.getByText('Enter your password.').waitFor();
    assertEqual(asked, 0, 'logins sent');
  },

  async 'a first view after the login comes within two seconds'(scene) {
    const first = await scene.page();
    await logIn(first.page, scene.router.url);
    const page = await first.context.newPage();
    const began = performance.now();
    await page.goto(scene.router.url);
    await page.locator('#page[data-live="live"]').waitFor();
    const took = performance.now() - began;
    assert(took < 2000, `took ${took} ms`);
    console.log(`    first figures: ${Math.round(took)} ms`);
  },

  async 'the session is a cookie that scripts cannot see'(scene) {
    const { page, context } = await scene.dashboard();
    assertEqual(await page.evaluate(() => document.cookie), '', 'what a script sees');
    const [cookie] = (await context.cookies()).filter((known) => known.name === 'llm_router_session');
    assert(cookie.httpOnly && cookie.sameSite === 'Strict' && cookie.path === '/', JSON.stringify(cookie));
    const stored = await page.evaluate(() => JSON.stringify({ ...localStorage, ...sessionStorage }));
    assert(!stored.includes(cookie.value), 'the session is in the page’s storage');
  },

  async 'five failures lock the source out and say for how long'(scene) {
    const router = await Router.start(scene.binary, { nodes: 0 });
    try {
      const { page } = await scene.page({}, router.url);
      await page.goto(router.url);
      await page.getByLabel('User name').fill('admin');
      for (let attempt = 1; attempt <= 5; attempt += 1) {
        await page.getByLabel('Password', { exact: true }).fill(`wrong-${attempt}`);
        await page.getByRole('button', { name: 'Log in' }).click();
        await page.getByText('Wrong user name or password.').waitFor();
      }
      await page.getByLabel('Password', { exact: true }).fill('test');
      await page.getByRole('button', { name: 'Log in' }).click();
      await page.getByText(/Too many failed attempts\. Try again in 1[0-9] min/).waitFor();
    } finally {
      await scene.closePages();
      await router.close();
    }
  },
};
