// The Metrics page: how loaded the router is, how fast it answers, which node does what, what it refuses.

import { el, setText } from './dom.js';
import { count, duration, durationParts, percent, rate, shortCount, shortDuration } from './format.js';
import {
  BACKPRESSURE, backpressure, backpressureWord, emptyOr, figure, markBackpressure, meter, nodeState, share,
} from './figures.js';
import { live, now } from './live.js';
import { panel, table } from './ui.js';

export function metricsPage() {
  const load = loadFigures();
  const traffic = trafficFigures();
  const nodes = nodesPanel();
  const refusals = refusalsPanel();
  const all = [...load, ...traffic];
  return {
    title: 'Metrics',
    content: [
      el('h2', { class: 'section' }, 'Load'),
      el('div', { class: 'grid load' }, load.map((card) => card.node)),
      el('h2', { class: 'section' }, 'Traffic'),
      el('div', { class: 'grid traffic' }, traffic.map((card) => card.node)),
      el('div', { class: 'grid halves' }, nodes.node, refusals.node),
    ],
    update() {
      for (const part of [...all, nodes, refusals]) part.update();
    },
    destroy() {
      for (const card of all) card.destroy();
    },
  };
}

function loadFigures() {
  return [
    figure({
      title: 'Queue Size',
      wide: true,
      value: ({ load }) => [count(load.queue_size), 'waiting'],
      words: ({ load }) => `of ${count(load.max_queue_size)} that may wait`,
      line: {
        point: (point) => point.queue_size,
        snapshot: ({ load }) => load.queue_size,
        format: (value) => `${count(value)} waiting`,
        scale: shortCount,
        top: 5,
      },
    }),
    figure({
      title: 'Backpressure State',
      wide: true,
      value: (snapshot) => [backpressure(snapshot)?.word ?? '–', ''],
      words: ({ load }) => `${percent(load.load_ratio)} of the places in the queue are taken`,
      decorate: markBackpressure(),
      line: {
        point: (point) => point.backpressure,
        snapshot: (snapshot) => backpressure(snapshot)?.level,
        format: backpressureWord,
        top: BACKPRESSURE.overloaded.level,
        steps: true,
      },
    }),
    figure({
      title: 'Request Latency (p95)',
      value: ({ latency }) => durationParts(latency.p95_ms),
      words: ({ latency }) => `p50 ${duration(latency.p50_ms)} · p99 ${duration(latency.p99_ms)}, last minute`,
      line: {
        point: (point) => point.p95_ms,
        snapshot: ({ latency }) => latency.p95_ms,
        format: duration,
        scale: shortDuration,
        top: 10,
      },
    }),
    figure({
      title: 'Cache Hit Rate',
      value: ({ load }) => ratioParts(load.cache_hit_rate),
      words: () => 'of the choices of a node used the cache',
      line: {
        point: (point) => point.cache_hit_rate,
        snapshot: ({ load }) => load.cache_hit_rate,
        format: percent,
        top: 1,
      },
    }),
    figure({
      title: 'Active Connections',
      value: ({ load }) => [count(load.active_connections), 'open'],
      words: ({ streams_active: streams }) => `${count(streams)} answers streaming`,
      line: {
        point: (point) => point.active_connections,
        snapshot: ({ load }) => load.active_connections,
        format: (value) => `${count(value)} open`,
        scale: shortCount,
        top: 5,
      },
    }),
  ];
}

function trafficFigures() {
  return [
    figure({
      title: 'Throughput',
      value: (snapshot) => [rate(snapshot.requests_per_sec), 'requests/s'],
      words: ({ load }) => `${count(load.stats?.total_requests)} since the start`,
      line: {
        point: (point) => point.requests_per_sec,
        snapshot: (snapshot) => snapshot.requests_per_sec,
        format: (value) => `${rate(value)} requests/s`,
        scale: shortCount,
        top: 1,
      },
    }),
    figure({
      title: 'Time to First Byte (p95)',
      value: ({ ttfb }) => durationParts(ttfb.p95_ms),
      words: ({ ttfb }) => `p50 ${duration(ttfb.p50_ms)}, last minute`,
      line: {
        point: (point) => point.ttfb_p95_ms,
        snapshot: ({ ttfb }) => ttfb.p95_ms,
        format: duration,
        scale: shortDuration,
        top: 10,
      },
    }),
    figure({
      title: 'Tokens',
      value: (snapshot) => [rate(snapshot.tokens_per_sec), 'tokens/s'],
      words: () => 'as the answers report them',
      line: {
        point: (point) => point.tokens_per_sec,
        snapshot: (snapshot) => snapshot.tokens_per_sec,
        format: (value) => `${rate(value)} tokens/s`,
        scale: shortCount,
        top: 10,
      },
    }),
    figure({
      title: 'In Flight',
      value: (snapshot) => [count(snapshot.in_flight), 'requests'],
      words: ({ queue }) => `${count(queue.processing_count)} at nodes, ${count(queue.waiting_count)} waiting`,
      line: {
        point: (point) => point.in_flight,
        snapshot: (snapshot) => snapshot.in_flight,
        format: (value) => `${count(value)} in flight`,
        scale: shortCount,
        top: 5,
      },
    }),
  ];
}

function ratioParts(ratio) {
  const text = percent(ratio);
  return text.endsWith(' %') ? [text.slice(0, -2), '%'] : [text, ''];
}

function nodesPanel() {
  const shown = table({
    caption: 'Nodes, their state and the slots in use',
    class: 'compact',
    columns: [{ label: 'Node' }, { label: 'State' }, { label: 'Slots in use', class: 'stretch' }],
  });
  const content = emptyOr(shown, ['No nodes yet. ', el('a', { href: '#/nodes' }, 'Add one'), '.']);
  return {
    node: panel('Nodes', content.nodes),
    update() {
      const nodes = live.snapshot?.nodes ?? [];
      content.update(live.snapshot !== null && nodes.length === 0);
      shown.show(nodes, (node) => node.id, () => {
        const name = el('span', { class: 'name' });
        const state = nodeState();
        const slots = meter();
        return {
          cells: [name, state.node, slots.node],
          update(node) {
            setText(name, node.name);
            state.update(node.state);
            slots.update(node.slots_used, node.slots_total);
          },
        };
      });
    },
  };
}

function refusalsPanel() {
  const shown = table({
    caption: 'Refused requests by reason',
    class: 'compact shares',
    columns: [
      { label: 'Reason' },
      { label: 'Last minute', class: 'figure-cell' },
      { label: 'In all', class: 'figure-cell' },
      { label: 'Share', class: 'stretch' },
    ],
  });
  const content = emptyOr(shown, 'Nothing was refused since the start.');
  return {
    node: panel('Refusals by Reason', content.nodes),
    update() {
      const totals = live.snapshot?.rejections ?? {};
      const entries = Object.entries(totals).filter(([, total]) => total > 0).sort((a, b) => b[1] - a[1]);
      const sum = entries.reduce((all, [, total]) => all + total, 0);
      // Known only once this page has watched for a minute.
      const [oldest] = live.refusals;
      const before = oldest && now() - oldest.at > 55 ? oldest.totals : null;
      content.update(live.snapshot !== null && entries.length === 0);
      shown.show(entries, ([reason]) => reason, ([reason]) => {
        const recent = el('span');
        const all = el('span');
        const bar = share();
        return {
          cells: [reasonCell(reason), recent, all, bar.node],
          update([, total]) {
            setText(recent, count(before ? total - (before[reason] ?? 0) : null));
            setText(all, count(total));
            bar.update(total, sum);
          },
        };
      });
    },
  };
}

function reasonCell(reason) {
  const words = REASONS[reason];
  return el('span', { class: 'two-lines' }, el('span', {}, words ?? reason), words && el('code', {}, reason));
}

const REASONS = {
  overloaded: 'The router was overloaded',
  model_queue_full: 'The queue of the model was full',
  wait_too_long: 'The wait would have been too long',
  wait_timeout: 'Waited for the longest time allowed',
  queue_timeout: 'Waited for the longest time of a queue',
  no_nodes: 'No node was online',
  draining: 'The router was shutting down',
  buffer_budget: 'No room to hold the body',
  invalid_key: 'No valid API key',
  unknown_model: 'Nobody has the model',
  bad_request: 'The request was malformed',
};
