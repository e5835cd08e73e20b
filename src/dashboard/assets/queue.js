// The Queue page: who waits now, what the nodes work on, how the past hour went.

import { el, setText } from './dom.js';
import { count, durationParts, shortCount } from './format.js';
import { emptyOr, figure, meter, nodeState, share } from './figures.js';
import { live } from './live.js';
import { panel, table } from './ui.js';

export function queuePage() {
  const figures = [...nowFigures(), ...hourFigures()];
  const models = modelsPanel();
  const nodes = nodesPanel();
  return {
    title: 'Queue',
    content: [
      el('h2', { class: 'section' }, 'Now'),
      el('div', { class: 'grid halves' }, figures.slice(0, 2).map((card) => card.node)),
      el('h2', { class: 'section' }, 'Past hour'),
      el('div', { class: 'grid traffic' }, figures.slice(2).map((card) => card.node)),
      el('div', { class: 'grid halves' }, models.node, nodes.node),
    ],
    update() {
      for (const part of [...figures, models, nodes]) part.update();
    },
    destroy() {
      for (const card of figures) card.destroy();
    },
  };
}

function nowFigures() {
  return [
    figure({
      title: 'Waiting',
      value: ({ queue }) => [count(queue.waiting_count), 'requests'],
      words: ({ load }) => `of ${count(load.max_queue_size)} that may wait`,
      line: {
        point: (point) => point.queue_size,
        snapshot: ({ queue }) => queue.waiting_count,
        format: (value) => `${count(value)} waiting`,
        scale: shortCount,
        top: 5,
      },
    }),
    figure({
      title: 'Processing',
      value: ({ queue }) => [count(queue.processing_count), 'requests'],
      words: ({ nodes }) => {
        const slots = nodes.filter((node) => node.state === 'online').reduce((sum, node) => sum + node.slots_total, 0);
        return `${count(slots)} slots on nodes that are online`;
      },
      line: {
        point: (point) => Math.max(0, point.in_flight - point.queue_size),
        snapshot: ({ queue }) => queue.processing_count,
        format: (value) => `${count(value)} processing`,
        scale: shortCount,
        top: 5,
      },
    }),
  ];
}

function hourFigures() {
  return [
    figure({
      title: 'Mean Wait',
      value: ({ queue }) => durationParts(queue.avg_wait_time_ms),
      words: () => 'of requests that had to wait',
    }),
    figure({
      title: 'Mean Processing Time',
      value: ({ queue }) => durationParts(queue.avg_process_time_ms),
      words: () => 'from the node chosen to the answer’s end',
    }),
    figure({
      title: 'Timeouts',
      value: ({ queue }) => [count(queue.timeout_count), queue.timeout_count === 1 ? 'request' : 'requests'],
      words: () => 'waited for as long as they may',
    }),
    figure({
      title: 'Refusals',
      value: ({ queue }) => [count(queue.rejected_count), queue.rejected_count === 1 ? 'request' : 'requests'],
      words: () => 'turned away without waiting',
    }),
  ];
}

function modelsPanel() {
  const shown = table({
    caption: 'Requests waiting now, by model',
    class: 'compact shares',
    columns: [{ label: 'Model' }, { label: 'Waiting', class: 'figure-cell' }, { label: 'Share', class: 'stretch' }],
  });
  const content = emptyOr(shown, 'Nobody waits.');
  return {
    node: panel('Waiting by Model', content.nodes),
    update() {
      const all = live.snapshot?.queue.per_model ?? [];
      const waiting = all.filter((entry) => entry.waiting_count > 0).sort((a, b) => b.waiting_count - a.waiting_count);
      const sum = waiting.reduce((total, entry) => total + entry.waiting_count, 0);
      content.update(live.snapshot !== null && waiting.length === 0);
      shown.show(waiting, (entry) => entry.model, (entry) => {
        const number = el('span');
        const bar = share();
        return {
          cells: [el('span', { class: 'name' }, entry.model), number, bar.node],
          update({ waiting_count: waits }) {
            setText(number, count(waits));
            bar.update(waits, sum);
          },
        };
      });
    },
  };
}

function nodesPanel() {
  const shown = table({
    caption: 'Requests the nodes work on now',
    class: 'compact',
    columns: [{ label: 'Node' }, { label: 'State' }, { label: 'Processing', class: 'figure-cell roomy' }, { label: 'Slots in use', class: 'stretch' }],
  });
  const content = emptyOr(shown, ['No nodes yet. ', el('a', { href: '#/nodes' }, 'Add one'), '.']);
  return {
    node: panel('Processing by Node', content.nodes),
    update() {
      const { snapshot } = live;
      const processing = new Map((snapshot?.queue.per_node ?? []).map((entry) => [entry.node, entry.processing_count]));
      content.update(snapshot !== null && snapshot.nodes.length === 0);
      shown.show(snapshot?.nodes ?? [], (node) => node.id, () => {
        const name = el('span', { class: 'name' });
        const state = nodeState();
        const number = el('span');
        const slots = meter();
        return {
          cells: [name, state.node, number, slots.node],
          update(node) {
            setText(name, node.name);
            state.update(node.state);
            setText(number, count(processing.get(node.name) ?? node.slots_used));
            slots.update(node.slots_used, node.slots_total);
          },
        };
      });
    },
  };
}
