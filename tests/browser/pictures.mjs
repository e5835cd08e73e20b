// Takes a picture of every page in both themes and several widths, from the pretended router, so that
// they can be looked at and compared.
//
//     node tests/browser/pictures.mjs FOLDER [part of a picture's name]

import { join } from 'node:path';

import { believe, folderFor, launch, openPage, settled } from './browser.mjs';
import { startFake } from './fake.mjs';

const WIDTHS = { phone: [360, 740], desk: [1280, 860], wide: [2560, 1440] };
const PAGES = {
  metrics: '#/metrics',
  queue: '#/queue',
  history: '#/history',
  record: '#/history',
  nodes: '#/nodes',
  keys: '#/keys',
};

export async function picturesOf(browser, folder, { scenario, pages, widths, themes, only = '' }) {
  const fake = await startFake({ scenario });
  try {
    for (const theme of themes) {
      for (const width of widths) {
        const [columns, rows] = WIDTHS[width];
        const { context, page } = await openPage(browser, fake.url, { width: columns, height: rows, theme, phone: width === 'phone', reducedMotion: 'reduce' });
        await believe(context);
        for (const name of pages) {
          const file = `${scenario}-${name}-${width}-${theme}.png`;
          if (!file.includes(only)) continue;
          await context.clearCookies();
          await page.goto('about:blank');
          if (name === 'login') {
            await fetch(`${fake.url}/api/auth/logout`, { method: 'POST' });
            await page.goto(fake.url);
            await page.evaluate(() => localStorage.clear());
            await page.reload();
            await page.getByLabel('User name').waitFor();
          } else {
            fake.logIn();
            await page.goto(`${fake.url}/${PAGES[name.split('+')[0]]}`);
            await page.locator('#page[data-live="live"]').waitFor();
            if (!['loading'].includes(scenario)) await settled(page);
            if (name === 'record') await page.locator('.opener').nth(2).click();
            if (name === 'nodes+add') await page.getByRole('button', { name: 'Add node' }).first().click();
            if (name === 'nodes+remove') await page.getByRole('button', { name: 'Remove gpu-2' }).click();
            if (name === 'keys+create') await page.getByRole('button', { name: 'Create key' }).first().click();
            if (name === 'keys+secret') {
              await page.getByRole('button', { name: 'Create key' }).first().click();
              await page.getByLabel('Name').fill('team-notebooks');
              await page.locator('dialog').getByRole('button', { name: 'Create key' }).click();
              await page.getByText('Copy it now').waitFor();
            }
          }
          // A phone's whole page is shown, with the bar at its end.
          const tall = await page.evaluate(() => document.documentElement.scrollHeight);
          if (width === 'phone' && tall > rows && !name.includes('+')) await page.setViewportSize({ width: columns, height: Math.min(tall, 2200) });
          await page.screenshot({ path: join(folder, file) });
          await page.setViewportSize({ width: columns, height: rows });
        }
        await context.close();
      }
    }
  } finally {
    fake.close();
  }
}

const folder = folderFor(process.argv[2] ?? 'pictures');
const only = process.argv[3] ?? '';
const browser = await launch();
const all = { widths: ['phone', 'desk', 'wide'], themes: ['light', 'dark'], only };
await picturesOf(browser, folder, { ...all, scenario: 'busy', pages: ['login', ...Object.keys(PAGES), 'nodes+add', 'nodes+remove', 'keys+create', 'keys+secret'] });
for (const scenario of ['empty', 'hostile', 'failing', 'loading']) {
  await picturesOf(browser, folder, { ...all, themes: ['light'], widths: ['phone', 'desk'], scenario, pages: ['metrics', 'queue', 'history', 'nodes', 'keys'] });
}
await browser.close();
