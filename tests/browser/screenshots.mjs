// Takes the pictures of the README from the real binary under a load that rises and falls. Bounded: it
// runs for the given minutes, with at most 125 requests at a time, everything on 127.0.0.1.
//
//     node tests/browser/screenshots.mjs path/to/llm-router [minutes] [folder]

import { join, resolve } from 'node:path';

import { folderFor, launch, logIn, openPage, settled } from './browser.mjs';
import { Router, startNode } from './router.mjs';

const [binary, minutes = '8', folder = 'src/dashboard/screenshots'] = process.argv.slice(2);
const path = resolve(binary);
const CHAT = ['llama-3.2-1b', 'qwen2.5-7b'];

const nodes = [];
for (const [name, models, slots, tokens] of [['gpu-1', CHAT, 12, 60], ['gpu-2', CHAT, 12, 60], ['edge-1', [CHAT[0], 'all-minilm-l6-v2'], 4, 20]]) {
  nodes.push({ name, models, slots, ...(await startNode(path, name, { models, slots, tokens, firstTokenMs: 180, tokenMs: 18 })) });
}
const router = await Router.start(path, { nodes: 0, extra: nodes });
const end = performance.now() + Number(minutes) * 60_000;
let wanted = 6;
let running = 0;

async function client(index) {
  running += 1;
  while (running <= wanted && performance.now() < end) {
    const dice = Math.random();
    const model = dice < 0.02 ? 'gpt-5' : CHAT[dice < 0.6 ? 0 : 1];
    await router.ask({ model, key: dice > 0.985 ? 'sk-mistyped' : undefined, stream: index % 4 !== 0 }).catch(() => 0);
    await new Promise((wait) => { setTimeout(wait, 200 + Math.random() * 400); });
  }
  running -= 1;
}

const began = performance.now();
const conductor = setInterval(() => {
  const at = (performance.now() - began) / 60_000;
  const wave = Math.max(0, Math.sin((at / Number(minutes)) * 2 * Math.PI * 1.36 - 1.2));
  wanted = Math.round(10 + 112 * wave);
  while (running < wanted && performance.now() < end) client(running);
}, 500);

try {
  await new Promise((wait) => { setTimeout(wait, Number(minutes) * 60_000 - 6000); });
  const browser = await launch();
  const into = folderFor(folder);
  for (const [name, theme, hash, height] of [['metrics', 'dark', '#/metrics', 1180], ['history', 'light', '#/history', 860]]) {
    const { page, context } = await openPage(browser, router.url, { width: 1280, height, theme, reducedMotion: 'reduce' });
    await logIn(page, router.url, { hash });
    await settled(page);
    if (name === 'history') {
      await page.locator('tr', { hasText: 'qwen2.5-7b' }).filter({ hasText: '200 Success' }).locator('.opener').first().click();
      await page.mouse.move(0, 0);
    }
    await page.evaluate(() => document.activeElement?.blur());
    await page.evaluate(() => window.scrollTo(0, 0));
    await page.screenshot({ path: join(into, `${name}-page.png`) });
    await context.close();
  }
  await browser.close();
} finally {
  clearInterval(conductor);
  await router.close();
  await Promise.all(nodes.map((node) => node.stop()));
}
