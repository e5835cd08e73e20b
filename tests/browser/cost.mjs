// Measures what open dashboards cost the router: CPU of the whole process and of its workers, with and
// without viewers, under a steady light load. Bounded: about two minutes, everything on 127.0.0.1.
//
//     node tests/browser/cost.mjs path/to/llm-router [viewers] [seconds of a round]

import { readFileSync, readdirSync } from 'node:fs';
import { get } from 'node:http';
import { resolve } from 'node:path';

import { Router } from './router.mjs';

const [binary, viewerCount = '50', roundSecs = '15'] = process.argv.slice(2);
const REQUESTS_PER_SECOND = 100;
const ROUNDS = 3;

// CPU seconds so far by kind of thread, from the scheduler's own count: ticks miss what is done quickly.
function cpu(pid) {
  const sums = { workers: 0, others: 0 };
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    const name = readFileSync(`/proc/${pid}/task/${task}/comm`, 'utf8');
    const nanoseconds = Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0]);
    sums[name.startsWith('worker') ? 'workers' : 'others'] += nanoseconds / 1e9;
  }
  return sums;
}

function resident(pid) {
  return Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)[1]) / 1024;
}

function watch(router, token) {
  const viewer = { bytes: 0, close: () => {} };
  return new Promise((done, failed) => {
    const request = get(`${router.url}/api/events`, { agent: false, headers: { Authorization: `Bearer ${token}` } }, (answer) => {
      if (answer.statusCode !== 200) failed(new Error(`events answered ${answer.statusCode}`));
      answer.on('data', (piece) => { viewer.bytes += piece.length; });
      answer.on('error', () => {});
      done(viewer);
    });
    request.on('error', failed);
    viewer.close = () => request.destroy();
  });
}

// One round: CPU in percent of one core.
async function round(router) {
  const before = cpu(router.pid);
  const began = performance.now();
  await new Promise((end) => { setTimeout(end, Number(roundSecs) * 1000); });
  const secs = (performance.now() - began) / 1000;
  const after = cpu(router.pid);
  return { workers: ((after.workers - before.workers) / secs) * 100, others: ((after.others - before.others) / secs) * 100 };
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const router = await Router.start(resolve(binary));
let failures = 0;
const load = setInterval(() => {
  router.ask().then((status) => { failures += status === 200 ? 0 : 1; }, () => { failures += 1; });
}, 1000 / REQUESTS_PER_SECOND);
try {
  const token = await router.administrator();
  const found = { alone: [], watched: [] };
  const memory = {};
  for (let index = 0; index < ROUNDS; index += 1) {
    found.alone.push(await round(router));
    memory.alone ??= resident(router.pid);
    const viewers = await Promise.all(Array.from({ length: Number(viewerCount) }, () => watch(router, token)));
    found.watched.push(await round(router));
    memory.watched = resident(router.pid);
    console.log(`round ${index + 1}: ${Math.round(mean(viewers.map((viewer) => viewer.bytes)) / Number(roundSecs))} bytes/s per viewer`);
    for (const viewer of viewers) viewer.close();
  }
  for (const kind of ['workers', 'others']) {
    const alone = mean(found.alone.map((entry) => entry[kind]));
    const watched = mean(found.watched.map((entry) => entry[kind]));
    console.log(`${kind}: ${alone.toFixed(2)} % of a core without viewers, ${watched.toFixed(2)} % with ${viewerCount}: ${(watched - alone).toFixed(2)} % more`);
  }
  console.log(`memory: ${memory.alone.toFixed(1)} MiB without viewers, ${memory.watched.toFixed(1)} MiB with ${viewerCount}`);
  console.log(`requests that failed: ${failures}`);
} finally {
  clearInterval(load);
  await router.close();
}
