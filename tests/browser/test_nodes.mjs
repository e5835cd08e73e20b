// Adding, watching, draining, editing and removing nodes.

import { assert, assertClean, assertEqual } from './harness.mjs';
import { startNode, until } from './router.mjs';

const NEW_MODEL = 'only-on-the-new-node';

async function addNode(page, { name, url, models = '', slots = '' }) {
  await page.getByRole('button', { name: 'Add node' }).first().click();
  const dialog = page.getByRole('dialog', { name: 'Add node' });
  await dialog.getByLabel('Name').fill(name);
  await dialog.getByLabel('Base URL').fill(url);
  await dialog.getByLabel('Models').fill(models);
  await dialog.getByLabel('Slots').fill(slots);
  await dialog.getByRole('button', { name: 'Add node' }).click();
  return dialog;
}

export const tests = {
  async 'a node lives from its adding to its removal, with traffic between'(scene) {
    const { page, troubles, context } = await scene.dashboard('#/nodes');
    const node = await startNode(scene.binary, 'fresh', { models: [NEW_MODEL] });
    try {
      await addNode(page, { name: 'fresh', url: node.url, slots: '4' });
      const shown = page.getByRole('dialog', { name: 'fresh was added' });
      const token = await shown.getByLabel('Node token', { exact: true }).inputValue();
      assert(token.length >= 32, `a token of ${token.length} characters`);
      await shown.getByRole('button', { name: 'Copy Node token' }).click();
      await shown.getByText('Copied').waitFor();
      assertEqual(await page.evaluate(() => navigator.clipboard.readText()), token, 'the clipboard');
      await shown.getByRole('button', { name: 'I have kept it' }).click();

      const row = page.getByRole('row', { name: /^fresh / });
      await row.getByText('Online').waitFor({ timeout: 15_000 });
      await row.getByText(NEW_MODEL).waitFor();
      await row.getByText('0 / 4').waitFor();
      assert(!(await page.content()).includes(token), 'the token is still on the page');

      assertEqual(await scene.router.ask({ model: NEW_MODEL }), 200, 'a request to the new node');
      const history = await context.newPage();
      await history.goto(`${scene.router.url}/#/history?model=${NEW_MODEL}`);
      await history.getByRole('row', { name: /fresh/ }).first().waitFor({ timeout: 15_000 });
      await history.close();

      await row.getByRole('button', { name: 'Drain fresh' }).click();
      const drain = page.getByRole('dialog', { name: 'Drain fresh?' });
      await drain.getByText(`No other node that is online has ${NEW_MODEL}`).waitFor();
      await drain.getByRole('button', { name: 'Drain' }).click();
      await row.getByText('Draining').waitFor();
      await until('requests to be refused', async () => (await scene.router.ask({ model: NEW_MODEL })) === 503);
      await row.getByRole('button', { name: 'Enable fresh' }).click();
      await row.getByText('Online').waitFor({ timeout: 15_000 });
      await until('requests to be served', async () => (await scene.router.ask({ model: NEW_MODEL })) === 200);

      await row.getByRole('button', { name: 'Edit fresh' }).click();
      const edit = page.getByRole('dialog', { name: 'Edit fresh' });
      await edit.getByLabel('Slots').fill('6');
      await edit.getByRole('button', { name: 'Save' }).click();
      await row.getByText('0 / 6').waitFor();

      await row.getByRole('button', { name: 'Remove fresh' }).click();
      const remove = page.getByRole('dialog', { name: 'Remove fresh?' });
      await remove.getByRole('button', { name: 'Cancel' }).click();
      assert(await row.isVisible(), 'cancelling removes nothing');
      await row.getByRole('button', { name: 'Remove fresh' }).click();
      await remove.getByRole('button', { name: 'Remove' }).click();
      await row.waitFor({ state: 'detached' });
      await until('the model to be gone', async () => (await scene.router.ask({ model: NEW_MODEL })) === 404);
      assertClean(troubles);
    } finally {
      await node.stop();
    }
  },

  async 'what is wrong with a form is said beside it, and nothing is lost'(scene) {
    const { page } = await scene.dashboard('#/nodes');
    const dialog = await addNode(page, { name: 'bad', url: 'ftp://127.0.0.1/', slots: '0' });
    await dialog.getByText('Slots must be a whole number of at least 1.').waitFor();
    assertEqual(await dialog.getByLabel('Slots').getAttribute('aria-invalid'), 'true', 'the field');
    await dialog.getByLabel('Slots').fill('');
    await dialog.getByRole('button', { name: 'Add node' }).click();
    await until('a word from the router', async () => /base_url|http/i.test(await dialog.getByRole('alert').innerText()));
    assertEqual(await dialog.getByLabel('Base URL').inputValue(), 'ftp://127.0.0.1/', 'what was typed');
    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'detached' });
    assert(await page.getByRole('button', { name: 'Add node' }).evaluate((node) => node === document.activeElement), 'focus returns to the button');
  },

  async 'nodes of the configuration can be drained, not edited or removed'(scene) {
    const { page, troubles } = await scene.dashboard('#/nodes');
    const row = page.getByRole('row', { name: /^node-1 / });
    await row.getByText('in config.toml').waitFor();
    assertEqual((await row.getByRole('button').allTextContents()).map((text) => text.trim()), ['Drain node-1'], 'what can be done');
    await row.getByRole('button', { name: 'Drain node-1' }).click();
    await page.getByRole('dialog').getByRole('button', { name: 'Drain' }).click();
    await row.getByText('Draining').waitFor();
    await row.getByRole('button', { name: 'Enable node-1' }).click();
    await row.getByText('Online').waitFor({ timeout: 15_000 });
    assertClean(troubles);
  },
};
