// The life of an API key, and a session that ends.

import { assert, assertClean, assertEqual } from './harness.mjs';
import { until } from './router.mjs';

export const tests = {
  async 'a key is shown once, opens the door, and is shut out when it is revoked'(scene) {
    const { page, troubles } = await scene.dashboard('#/keys');
    await page.getByRole('button', { name: 'Create key' }).first().click();
    const dialog = page.getByRole('dialog', { name: 'Create API key' });
    await dialog.getByRole('button', { name: 'Create key' }).click();
    await dialog.getByText('Enter a name.').waitFor();
    await dialog.getByLabel('Name').fill('browser-test');
    await dialog.getByLabel('Expires').selectOption({ label: 'In 30 days' });
    await dialog.getByRole('button', { name: 'Create key' }).click();

    const shown = page.getByRole('dialog', { name: 'Key browser-test was created' });
    const key = await shown.getByLabel('API key', { exact: true }).inputValue();
    assert(key.startsWith('sk-'), key.slice(0, 3));
    await page.keyboard.press('Escape');
    assert(await shown.isVisible(), 'Escape must not lose the key');
    await shown.getByRole('button', { name: 'Copy API key' }).click();
    await shown.getByText('Copied').waitFor();
    assertEqual(await page.evaluate(() => navigator.clipboard.readText()), key, 'the clipboard');
    await shown.getByRole('button', { name: 'I have kept it' }).click();

    const row = page.getByRole('row', { name: /^browser-test / });
    await row.getByText(`…${key.slice(-4)}`).waitFor();
    await row.getByText('inference').waitFor();
    assert(!(await page.content()).includes(key), 'the key is still on the page');
    await until('the key to be known', async () => (await scene.router.ask({ key })) === 200, 2000);

    await row.getByRole('button', { name: 'Revoke browser-test' }).click();
    await page.getByRole('dialog', { name: 'Revoke browser-test?' }).getByRole('button', { name: 'Revoke' }).click();
    await row.waitFor({ state: 'detached' });
    await until('the key to be refused', async () => (await scene.router.ask({ key })) === 401, 2000);
    assertClean(troubles);
  },

  async 'an ended session leads to the login page, says why, and returns to the same place'(scene) {
    const { page, context, troubles } = await scene.dashboard('#/history?status=error');
    await page.getByRole('button', { name: 'Clear', exact: true }).waitFor();
    const ended = await context.request.post(`${scene.router.url}/api/auth/logout`, { headers: { 'X-Requested-With': 'llm-router' } });
    assertEqual(ended.status(), 204, 'the log out elsewhere');
    await page.getByText('Your session has ended. Log in to return to where you were.').waitFor({ timeout: 12_000 });
    assertEqual(await page.locator('#page').innerText(), '', 'what is left of the page');
    await page.getByLabel('User name').fill('admin');
    await page.getByLabel('Password', { exact: true }).fill('test');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { level: 1, name: 'Request History' }).waitFor();
    assert(page.url().endsWith('#/history?status=error'), page.url());
    assertEqual(await page.getByLabel('Status').inputValue(), 'error', 'the filter');
    assertClean(troubles, [/status of 401/]);
  },

  async 'a dialog that is open when the session ends goes with it'(scene) {
    const { page, context } = await scene.dashboard('#/keys');
    await page.getByRole('button', { name: 'Create key' }).first().click();
    await page.getByLabel('Name').fill('too late');
    await context.clearCookies();
    await page.getByRole('dialog').getByRole('button', { name: 'Create key' }).click();
    await page.getByText('Your session has ended.').waitFor();
    assertEqual(await page.getByRole('dialog').count(), 0, 'dialogs');
  },

  async 'logging out ends the session on the router'(scene) {
    const { page, context } = await scene.dashboard('#/metrics');
    const [cookie] = await context.cookies();
    await page.getByRole('button', { name: 'Log out' }).click();
    await page.getByText('You have logged out.').waitFor();
    const answer = await fetch(`${scene.router.url}/api/nodes`, { headers: { Cookie: `${cookie.name}=${cookie.value}` } });
    assertEqual(answer.status, 401, 'the old cookie');
  },
};
