// Cards that show one live figure: its name, its value now, a line of words, and its last 15 minutes.

import { lineChart } from './chart.js';
import { el, icon, newId, setAttribute, setHidden, setText } from './dom.js';
import { count, percent } from './format.js';
import { live, now } from './live.js';

// `value(snapshot)` gives [number, unit] or null; `words(snapshot)` the line below; `line` describes the
// chart: {point, snapshot, format, scale, top, steps}.
export function figure({ title, value, words, line, wide = false, decorate }) {
  const id = newId('figure');
  const number = el('span', { class: 'number' });
  const unit = el('span', { class: 'unit' });
  const shown = el('p', { class: 'value' }, number, unit);
  const below = el('p', { class: 'words' });
  const chart = line && lineChart({ label: title, ...line });
  const node = el(
    'section',
    { class: `card figure${wide ? ' wide' : ''}${chart ? '' : ' plain'}`, 'aria-labelledby': id },
    el('h3', { id }, title),
    shown,
    words && below,
    chart?.node,
  );
  return {
    node,
    update() {
      const { snapshot } = live;
      const [text, of] = (snapshot && value(snapshot)) ?? ['–', ''];
      setText(number, text);
      setText(unit, of);
      if (words) setText(below, (snapshot && words(snapshot)) || '\u00a0');
      decorate?.(node, shown, snapshot);
      chart?.update(series(line), now());
    },
    destroy() {
      chart?.destroy();
    },
  };
}

function series(line) {
  const points = live.points.map((point) => ({ at: point.at, value: finite(line.point(point)) }));
  if (live.snapshot) {
    const at = live.snapshot.at_ms / 1000;
    while (points.length > 0 && points.at(-1).at >= at) points.pop();
    points.push({ at, value: finite(line.snapshot(live.snapshot)) });
  }
  return points;
}

function finite(value) {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

export const BACKPRESSURE = {
  normal: { word: 'Normal', tone: 'good', icon: 'good', level: 0 },
  warning: { word: 'Warning', tone: 'warn', icon: 'warning', level: 1 },
  overloaded: { word: 'Overloaded', tone: 'bad', icon: 'square', level: 2 },
};

export function backpressureWord(level) {
  return Object.values(BACKPRESSURE)[Math.round(level)]?.word ?? '–';
}

export function backpressure(snapshot) {
  return BACKPRESSURE[snapshot?.load?.backpressure_state];
}

// The sign before the word for the router's state: a shape and a colour.
export function markBackpressure() {
  let shown = null;
  const sign = el('span', { class: 'sign' });
  return (node, value, snapshot) => {
    const state = backpressure(snapshot);
    if (state === shown) return;
    shown = state;
    if (!sign.isConnected) value.prepend(sign);
    sign.replaceChildren(...(state ? [icon(state.icon)] : []));
    setAttribute(node, 'data-tone', state?.tone ?? 'none');
  };
}

// A bar of `used` out of `total`, with the figures beside it.
export function meter() {
  const fill = el('span', { class: 'fill' });
  const track = el('span', { class: 'track', 'aria-hidden': 'true' }, fill);
  const text = el('span', { class: 'meter-text' });
  const node = el('span', { class: 'meter' }, track, text);
  return {
    node,
    update(used, total, words) {
      const ratio = total > 0 ? Math.min(1, used / total) : 0;
      fill.style.width = `${ratio * 100}%`;
      setAttribute(track, 'data-full', ratio >= 1);
      setText(text, words ?? `${count(used)} / ${count(total)}`);
    },
  };
}

// A share of a whole, in the tables of refusals and waiting requests.
export function share() {
  const bar = meter();
  return {
    node: bar.node,
    update(part, whole) {
      bar.update(part, whole, whole > 0 ? percent(part / whole) : '–');
    },
  };
}

// The state of a node: a shape, a colour and a word.
export function nodeState() {
  let shown = null;
  const node = el('span', { class: 'badge' });
  return {
    node,
    update(state) {
      if (state === shown) return;
      shown = state;
      const known = NODE_STATES[state] ?? { word: String(state ?? 'unknown'), tone: 'none', icon: 'gone' };
      setAttribute(node, 'data-tone', known.tone);
      setAttribute(node, 'title', known.meaning ?? '');
      node.replaceChildren(icon(known.icon), el('span', {}, known.word));
    },
  };
}

const NODE_STATES = {
  online: { word: 'Online', tone: 'good', icon: 'good', meaning: 'Answers probes and takes requests' },
  pending: { word: 'Pending', tone: 'info', icon: 'waiting', meaning: 'Takes no requests until a first probe succeeded' },
  draining: { word: 'Draining', tone: 'warn', icon: 'leaving', meaning: 'Ends what it has begun and takes nothing new' },
  offline: { word: 'Offline', tone: 'bad', icon: 'gone', meaning: 'Does not answer probes' },
  ejected: { word: 'Ejected', tone: 'bad', icon: 'warning', meaning: 'Failed five times in a row; returns after a good probe' },
};

// Hides a panel's table while it has no rows and shows words instead.
export function emptyOr(table, words) {
  const empty = el('p', { class: 'empty-line' }, words);
  return {
    nodes: [empty, table.node],
    update(isEmpty) {
      setHidden(empty, !isEmpty);
      setHidden(table.node, isEmpty);
    },
  };
}
