// The live figures: one event stream, what came on it, and how old that is. Reconnects by itself, more
// and more slowly; a hidden tab lets go of its stream. Draws nothing.

import { sessionEnded, whoAmI } from './api.js';
import { count } from './format.js';

// `state` is 'connecting' until the first figures, then 'live', or 'stale' when they are old.
export const live = {
  state: 'connecting',
  snapshot: null,
  points: [],
  // Totals of refusals by reason, one entry every few seconds of the past minute.
  refusals: [],
  receivedAt: 0,
};

const listeners = new Set();
let source = null;
let isWanted = false;
let attempts = 0;
let retryTimer = 0;
let hideTimer = 0;
let lastWord = 0;

export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function start() {
  isWanted = true;
  attempts = 0;
  connect();
}

export function stop() {
  isWanted = false;
  disconnect();
  Object.assign(live, { state: 'connecting', snapshot: null, points: [], refusals: [], receivedAt: 0 });
}

// Seconds since the last figures came.
export function ageSecs() {
  return live.receivedAt ? (performance.now() - live.receivedAt) / 1000 : 0;
}

// The router's clock, as far as this page knows it, in Unix seconds.
export function now() {
  if (live.snapshot) return live.snapshot.at_ms / 1000 + ageSecs();
  return live.points.at(-1)?.at ?? Date.now() / 1000;
}

function connect() {
  disconnect();
  if (!isWanted) return;
  lastWord = performance.now();
  const opened = new EventSource('/api/events');
  source = opened;
  const on = (name, take) => opened.addEventListener(name, (event) => {
    if (source !== opened) return;
    lastWord = performance.now();
    take(event);
  });
  on('series', (event) => {
    live.points = JSON.parse(event.data).points ?? [];
    changed();
  });
  on('point', (event) => {
    const from = now() - SERIES_SECS;
    live.points = [...live.points.filter((point) => point.at >= from), JSON.parse(event.data)];
  });
  on('snapshot', (event) => {
    live.snapshot = JSON.parse(event.data);
    live.receivedAt = performance.now();
    attempts = 0;
    rememberRefusals();
    setState('live');
    changed();
  });
  on('expired', () => {
    stop();
    sessionEnded();
  });
  opened.onerror = () => {
    if (source === opened) retry();
  };
}

function disconnect() {
  clearTimeout(retryTimer);
  source?.close();
  source = null;
}

// An event stream does not tell why it failed: ask who we are, then try again or say that we are nobody.
async function retry() {
  disconnect();
  if (live.snapshot) setState('stale');
  changed();
  try {
    await whoAmI();
  } catch (failure) {
    if (failure.status === 401 && isWanted) {
      stop();
      sessionEnded();
      return;
    }
  }
  if (!isWanted || source) return;
  const delay = Math.min(RETRY_MS_MAX, RETRY_MS * 2 ** attempts) * (0.75 + Math.random() / 2);
  attempts += 1;
  clearTimeout(retryTimer);
  retryTimer = setTimeout(connect, delay);
}

// Once a second: figures that stopped coming are marked, and a silent connection is given up.
function check() {
  if (!isWanted) return;
  if (live.state === 'live' && ageSecs() > STALE_SECS) setState('stale');
  if (source && performance.now() - lastWord > SILENCE_MS) retry();
  if (live.state !== 'live') changed();
}

function setState(state) {
  live.state = state;
}

function changed() {
  if (document.hidden) return;
  for (const listener of listeners) listener(live);
}

function rememberRefusals() {
  const at = now();
  const last = live.refusals.at(-1);
  if (last && at - last.at < 4) return;
  live.refusals = [...live.refusals.filter((entry) => entry.at > at - 62), { at, totals: live.snapshot.rejections ?? {} }];
}

function visibilityChanged() {
  clearTimeout(hideTimer);
  if (!isWanted) return;
  if (document.hidden) {
    hideTimer = setTimeout(disconnect, HIDDEN_MS);
  } else if (source) {
    check();
    changed();
  } else {
    attempts = 0;
    connect();
    check();
  }
}

// What the mark beside the page's title says.
export function stateWords() {
  switch (live.state) {
    case 'live':
      return 'Live';
    case 'stale':
      return `Stale: no news for ${count(Math.round(ageSecs()))} s, reconnecting`;
    default:
      return attempts > 0 ? 'Not connected, trying again' : 'Connecting';
  }
}

const SERIES_SECS = 905;
const STALE_SECS = 3;
const SILENCE_MS = 7000;
const RETRY_MS = 400;
const RETRY_MS_MAX = 8000;
const HIDDEN_MS = 60_000;

setInterval(check, 1000);
document.addEventListener('visibilitychange', visibilityChanged);
window.addEventListener('online', () => {
  if (isWanted && !source) connect();
});
