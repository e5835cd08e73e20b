// A line over the last 15 minutes, drawn by hand as SVG. Pointer, touch and arrow keys read a point.

import { el, setAttribute, setHidden, setText, svg } from './dom.js';
import { timeOfDay } from './format.js';

export const SPAN_SECS = 900;

// `format` says a value in words, `scale` says it short for the axis; `top` is the least height of the
// axis, `steps` draws stairs.
export function lineChart({ label, format, scale = format, top = 1, steps = false }) {
  const area = svg('path', { class: 'area' });
  const line = svg('path', { class: 'line' });
  const cursor = svg('line', { class: 'cursor', y1: 0 });
  const floor = svg('line', { class: 'grid', x1: 0, x2: '100%' });
  const dot = svg('circle', { class: 'dot', r: 3.5 });
  const marks = svg('g', { class: 'marks' }, cursor, dot);
  const drawing = svg(
    'svg',
    { class: 'plot', 'aria-hidden': 'true' },
    svg('line', { class: 'grid', x1: 0, x2: '100%', y1: PAD, y2: PAD }),
    floor,
    area,
    line,
    marks,
  );
  const maximum = el('span', { class: 'axis-max' });
  const readout = el('span', { class: 'readout' });
  const node = el(
    'div',
    {
      class: 'chart',
      tabindex: '0',
      role: 'slider',
      'aria-roledescription': 'line chart',
      'aria-label': `${label}, last 15 minutes`,
      'aria-valuemin': '0',
      'aria-valuemax': '0',
      'aria-valuenow': '0',
      'aria-valuetext': 'no figures yet',
    },
    drawing,
    maximum,
    readout,
    el('span', { class: 'axis-time' }, el('span', {}, '15 min ago'), el('span', {}, 'now')),
  );
  setHidden(readout, true);
  marks.setAttribute('visibility', 'hidden');

  let width = 0;
  let height = 0;
  let points = [];
  let end = 0;
  let highest = top;
  // The time the cursor stands at, or null when nobody reads.
  let readingAt = null;

  const x = (at) => width * (1 - (end - at) / SPAN_SECS);
  const y = (value) => PAD + (height - PAD - 1) * (1 - value / highest);

  function draw() {
    if (width === 0) return;
    const runs = split(points);
    setAttribute(line, 'd', runs.map((run) => path(run, x, y, steps)).join(''));
    setAttribute(area, 'd', runs.map((run) => closed(run, x, y, steps, height - 1)).join(''));
    setText(maximum, points.length > 0 ? scale(highest) : '');
    drawCursor();
  }

  function drawCursor() {
    const point = readingAt === null ? undefined : points[nearest(points, readingAt)];
    setHidden(readout, !point);
    marks.setAttribute('visibility', point ? 'visible' : 'hidden');
    if (!point) return;
    const left = x(point.at);
    cursor.setAttribute('x1', left);
    cursor.setAttribute('x2', left);
    dot.setAttribute('cx', left);
    dot.setAttribute('cy', y(point.value));
    setText(readout, `${format(point.value)} · ${timeOfDay(point.at)}`);
    const half = readout.offsetWidth / 2;
    readout.style.left = `${Math.min(Math.max(left, half), Math.max(half, width - half))}px`;
  }

  // Said only while nobody reads a point, so that a screen reader is not told all the time.
  function describe() {
    setAttribute(node, 'aria-valuemax', Math.max(0, points.length - 1));
    if (document.activeElement === node) return;
    const values = points.map((point) => point.value);
    setAttribute(node, 'aria-valuenow', Math.max(0, points.length - 1));
    setAttribute(node, 'aria-valuetext', values.length === 0
      ? 'no figures yet'
      : `now ${format(values.at(-1))}, lowest ${format(Math.min(...values))}, highest ${format(Math.max(...values))}`);
  }

  function read(index) {
    const point = points[index];
    readingAt = point?.at ?? null;
    if (point) {
      setAttribute(node, 'aria-valuenow', index);
      setAttribute(node, 'aria-valuetext', `${format(point.value)} at ${timeOfDay(point.at)}`);
    }
    drawCursor();
  }

  function follow(event) {
    const ratio = (event.clientX - node.getBoundingClientRect().left) / Math.max(1, width);
    readingAt = points[nearest(points, end - SPAN_SECS * (1 - ratio))]?.at ?? null;
    drawCursor();
  }

  function leave() {
    readingAt = null;
    drawCursor();
  }

  function key(event) {
    const at = readingAt === null ? points.length - 1 : nearest(points, readingAt);
    const step = event.shiftKey ? 12 : 1;
    const target = {
      ArrowLeft: at - step, ArrowDown: at - step, ArrowRight: at + step, ArrowUp: at + step,
      PageUp: at - 12, PageDown: at + 12, Home: 0, End: points.length - 1,
    }[event.key];
    if (target !== undefined) {
      event.preventDefault();
      read(Math.min(Math.max(target, 0), points.length - 1));
    } else if (event.key === 'Escape') {
      leave();
    }
  }

  node.addEventListener('pointermove', follow);
  node.addEventListener('pointerdown', follow);
  node.addEventListener('pointerleave', leave);
  node.addEventListener('focus', () => {
    if (node.matches(':focus-visible')) read(points.length - 1);
  });
  node.addEventListener('blur', leave);
  node.addEventListener('keydown', key);
  const observer = new ResizeObserver(([entry]) => {
    width = Math.round(entry.contentRect.width);
    height = Math.round(entry.contentRect.height);
    drawing.setAttribute('viewBox', `0 0 ${Math.max(1, width)} ${Math.max(1, height)}`);
    for (const [line, end] of [[floor, height - 1], [cursor, height]]) line.setAttribute('y2', end);
    floor.setAttribute('y1', height - 1);
    draw();
  });
  observer.observe(drawing);

  return {
    node,
    // `given`: {at, value}, oldest first; a value of null is a gap.
    update(given, now) {
      end = now;
      points = given.filter((point) => point.value !== null && point.at >= now - SPAN_SECS);
      highest = steps ? top : roundUp(Math.max(top, ...points.map((point) => point.value)));
      draw();
      describe();
    },
    destroy() {
      observer.disconnect();
    },
  };
}

// Index of the point nearest to a time; -1 without points.
function nearest(points, at) {
  let best = -1;
  points.forEach((point, index) => {
    if (best === -1 || Math.abs(point.at - at) <= Math.abs(points[best].at - at)) best = index;
  });
  return best;
}

// Where no figures came for a while there is no line.
function split(points) {
  const runs = [];
  for (const point of points) {
    const run = runs.at(-1);
    if (run && point.at - run.at(-1).at <= GAP_SECS) run.push(point);
    else runs.push([point]);
  }
  return runs;
}

function path(run, x, y, steps) {
  const [first, ...rest] = run;
  let d = `M${round(x(first.at))} ${round(y(first.value))}`;
  if (rest.length === 0) d += 'h0.01';
  for (const point of rest) {
    d += steps
      ? `H${round(x(point.at))}V${round(y(point.value))}`
      : `L${round(x(point.at))} ${round(y(point.value))}`;
  }
  return d;
}

function closed(run, x, y, steps, floor) {
  return `${path(run, x, y, steps)}V${floor}H${round(x(run[0].at))}Z`;
}

function round(value) {
  return Math.round(value * 10) / 10;
}

// The next round number above.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((factor) => factor * power >= value * 0.999);
  return step * power;
}

const PAD = 4;
const GAP_SECS = 16;
