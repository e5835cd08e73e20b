// The Request History page: what was asked, who answered, how long each phase took. Filters and the page
// number stand in the address, so that a view can be linked.

import { get } from './api.js';
import { el, icon, newId, setAttribute, setHidden, setText } from './dom.js';
import { bytes, count, duration, fullDateTime, isKnown, shortDateTime } from './format.js';
import { live } from './live.js';
import { button, empty, failed, loading, select, table } from './ui.js';

export function historyPage(initial) {
  const filters = filterForm(initial, go);
  const holder = el('div', {}, loading('Loading the history…'));
  const shown = table({
    caption: 'Requests, newest first',
    class: 'cards history',
    columns: [
      { label: 'Time' },
      { label: 'Model', class: 'stretch' },
      { label: 'Node' },
      { label: 'Duration', class: 'figure-cell' },
      { label: 'Tokens', class: 'figure-cell' },
      { label: 'Status' },
    ],
  });
  const pager = pagerOf(go);
  const frame = el('div', { class: 'card table-card' }, shown.node, pager.node);
  const exports = ['csv', 'json'].map((format) => el(
    'a',
    { class: 'button', download: true },
    icon('download'),
    el('span', {}, el('span', { class: 'unseen' }, 'Export '), format.toUpperCase()),
  ));
  let parameters = initial;
  let controller = null;
  let isGone = false;
  let seenTotal = null;
  let freshUntil = 0;
  let nextRefresh = performance.now() + REFRESH_MS;

  function follow(next) {
    parameters = next;
    filters.set(next);
    load();
  }

  function go(changes) {
    const next = new URLSearchParams(parameters);
    for (const [name, value] of Object.entries(changes)) {
      if (value === '' || value === null) next.delete(name);
      else next.set(name, value);
    }
    const query = next.toString();
    const target = `#/history${query ? `?${query}` : ''}`;
    if (target === location.hash) load();
    else location.hash = target;
  }

  async function load({ quietly = false } = {}) {
    controller?.abort();
    controller = new AbortController();
    const { signal } = controller;
    exports.forEach((link, index) => {
      link.href = `/api/history/export?${question(parameters, { format: ['csv', 'json'][index] })}`;
    });
    if (!quietly) setAttribute(frame, 'aria-busy', 'true');
    try {
      const answer = await get(`/api/history?${question(parameters, paging(parameters))}`, signal);
      if (isGone) return;
      draw(answer);
    } catch (failure) {
      if (isGone || signal.aborted || failure.status === 401) return;
      if (!quietly) holder.replaceChildren(failed(failure, load));
    } finally {
      if (!signal.aborted) frame.removeAttribute('aria-busy');
    }
  }

  function draw(answer) {
    const { records } = answer;
    shown.show(records, (record) => String(record.id), recordRow);
    if (records.length === 0) {
      const isFiltered = FILTERS.some((name) => parameters.get(name));
      holder.replaceChildren(el('div', { class: 'card' }, isFiltered
        ? empty('Nothing matches', 'No kept request fits these filters.', button('Clear filters', {}, () => go(CLEARED)))
        : empty('No requests yet', 'Each request to /v1 appears here as soon as it has ended. What was asked and answered is not kept.')));
      return;
    }
    pager.show(answer);
    if (holder.firstElementChild !== frame) holder.replaceChildren(frame);
  }

  // New requests appear by themselves on the first page. A record is stored shortly after its request has
  // ended, so it is asked for a little longer than the count of requests moves.
  function update() {
    const total = live.snapshot?.load.stats?.total_requests ?? null;
    const isFirstPage = (parameters.get('page') ?? '1') === '1' && !parameters.get('to');
    if (live.state !== 'live' || !isFirstPage) return;
    const at = performance.now();
    if (total !== seenTotal) {
      seenTotal = total;
      freshUntil = at + SETTLE_MS;
    }
    if (at > freshUntil || at < nextRefresh) return;
    nextRefresh = at + REFRESH_MS;
    load({ quietly: true });
  }

  filters.fill();
  load();
  return {
    title: 'Request History',
    actions: exports,
    content: [filters.node, holder],
    follow,
    update,
    destroy() {
      isGone = true;
      controller?.abort();
    },
  };
}

function paging(parameters) {
  return { page: parameters.get('page') ?? '1', per_page: String(PER_PAGE) };
}

// What the API is asked: a range that moves with the clock becomes a moment here.
function question(parameters, more) {
  const query = new URLSearchParams(more);
  for (const name of ['model', 'node', 'status', 'from', 'to']) {
    const value = parameters.get(name);
    if (value) query.set(name, value);
  }
  const secs = RANGES.find(([key]) => key === parameters.get('range'))?.[2];
  if (secs) query.set('from', String(Math.floor(Date.now() / 1000) - secs));
  return query.toString();
}

function filterForm(initial, go) {
  const model = select([['', 'All models']], '', { id: 'filter-model' });
  const node = select([['', 'All nodes']], '', { id: 'filter-node' });
  const status = select(STATUSES, '', { id: 'filter-status' });
  const range = select(RANGES.map(([key, words]) => [key, words]), '', { id: 'filter-range' });
  const from = el('input', { id: 'filter-from', type: 'datetime-local', step: 1 });
  const to = el('input', { id: 'filter-to', type: 'datetime-local', step: 1 });
  const custom = el('div', { class: 'filter-times' }, labelled('From', from), labelled('To', to));
  const clear = button('Clear', { kind: 'plain' }, () => go(CLEARED));
  const form = el(
    'form',
    { class: 'filters', 'aria-label': 'Filters', role: 'search' },
    labelled('Model', model), labelled('Node', node), labelled('Status', status), labelled('Time', range), custom, clear,
  );
  form.addEventListener('submit', (event) => event.preventDefault());

  const changed = (changes) => go({ ...changes, page: null });
  model.addEventListener('change', () => changed({ model: model.value }));
  node.addEventListener('change', () => changed({ node: node.value }));
  status.addEventListener('change', () => changed({ status: status.value }));
  range.addEventListener('change', () => {
    if (range.value === 'custom') {
      const since = Math.floor(Date.now() / 1000) - 3600;
      changed({ range: 'custom', from: String(since), to: null });
    } else {
      changed({ range: range.value, from: null, to: null });
    }
  });
  from.addEventListener('change', () => changed({ from: unixOf(from.value) }));
  to.addEventListener('change', () => changed({ to: unixOf(to.value) }));

  function set(parameters) {
    choose(model, parameters.get('model') ?? '');
    choose(node, parameters.get('node') ?? '');
    choose(status, parameters.get('status') ?? '');
    const hasTimes = Boolean(parameters.get('from') || parameters.get('to'));
    const isCustom = hasTimes || parameters.get('range') === 'custom';
    choose(range, isCustom ? 'custom' : parameters.get('range') ?? '');
    setHidden(custom, !isCustom);
    from.value = localOf(parameters.get('from'));
    to.value = localOf(parameters.get('to'));
    setHidden(clear, !FILTERS.some((name) => parameters.get(name)));
  }

  set(initial);
  return {
    node: form,
    set,
    async fill() {
      try {
        const { models, nodes } = await get('/api/history/facets');
        for (const [control, names] of [[model, models], [node, nodes]]) {
          const known = new Set([...control.options].map((option) => option.value));
          control.append(...names.filter((name) => !known.has(name)).map((name) => el('option', { value: name }, name)));
        }
      } catch {
        // The lists stay short; the filters in the address work all the same.
      }
    },
  };
}

// Chooses a value that may not be in the list yet: it came with the address.
function choose(control, value) {
  if (![...control.options].some((option) => option.value === value)) control.append(el('option', { value }, value));
  control.value = value;
}

function labelled(words, control) {
  return el('div', { class: 'filter' }, el('label', { for: control.id }, words), control);
}

function unixOf(local) {
  const ms = new Date(local).getTime();
  return Number.isNaN(ms) ? null : String(Math.floor(ms / 1000));
}

// A moment as a date field shows it, in the viewer's zone.
function localOf(unixSecs) {
  const at = new Date(Number(unixSecs) * 1000);
  if (!unixSecs || Number.isNaN(at.getTime())) return '';
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

function pagerOf(go) {
  const words = el('p', { 'aria-live': 'polite' });
  let page = 1;
  let last = 1;
  const turn = (to) => () => {
    if (to() >= 1 && to() <= last) go({ page: String(to()) });
  };
  const before = button('Previous', { icon: 'left', kind: 'small' }, turn(() => page - 1));
  const after = button('Next', { icon: 'chevron', kind: 'small trailing' }, turn(() => page + 1));
  return {
    node: el('nav', { class: 'pager', 'aria-label': 'Pages of the history' }, words, el('div', { class: 'button-row' }, before, after)),
    show(answer) {
      page = answer.page;
      last = Math.max(1, Math.ceil(answer.total / answer.per_page));
      const first = (page - 1) * answer.per_page + 1;
      const of = `${count(answer.total)}${answer.total_capped ? ' or more' : ''}`;
      setText(words, `${count(first)} to ${count(first + answer.records.length - 1)} of ${of}`);
      setAttribute(before, 'aria-disabled', page <= 1);
      setAttribute(after, 'aria-disabled', page >= last);
    },
  };
}

function recordRow(record) {
  const id = newId('details');
  const details = el('tr', { class: 'details', id, role: 'row', hidden: true });
  const opener = el(
    'button',
    { type: 'button', class: 'opener', 'aria-expanded': 'false', 'aria-controls': id },
    icon('chevron'),
    el('time', { title: fullDateTime(record.started_at_ms), datetime: new Date(record.started_at_ms).toISOString() }, shortDateTime(record.started_at_ms)),
    el('span', { class: 'unseen' }, ' details'),
  );
  const toggle = () => {
    const open = opener.getAttribute('aria-expanded') !== 'true';
    opener.setAttribute('aria-expanded', String(open));
    if (open && details.childElementCount === 0) details.append(el('td', { colspan: 6, role: 'cell' }, recordDetails(record)));
    details.hidden = !open;
    opener.closest('tr').classList.toggle('open', open);
  };
  opener.addEventListener('click', toggle);
  const model = el('span', { class: 'name' }, record.model || '–');
  model.addEventListener('click', toggle);
  return {
    cells: [
      opener,
      model,
      el('span', {}, record.node || '–'),
      el('span', {}, duration(record.duration_ms)),
      el('span', { class: isKnown(record.total_tokens) ? '' : 'none' }, count(record.total_tokens)),
      statusBadge(record),
    ],
    after: details,
    update() {},
  };
}

function statusBadge(record) {
  const { status } = record;
  const good = status >= 200 && status < 400 && record.ended_in === 'done';
  const cut = status >= 200 && status < 400 && record.ended_in && record.ended_in !== 'done';
  const tone = good ? 'good' : cut || status < 500 ? 'warn' : 'bad';
  const words = good ? 'Success' : cut ? 'Cut off' : (STATUS_WORDS[status] ?? (status < 500 ? 'Refused' : 'Failed'));
  return el('span', { class: 'badge', 'data-tone': tone }, icon(good ? 'check' : tone === 'warn' ? 'warning' : 'close'), el('span', {}, `${status || '–'} ${words}`));
}

function recordDetails(record) {
  return el('div', { class: 'record' }, phases(record), facts(record));
}

// Where the time went: one bar, and the same as a list.
function phases(record) {
  const parts = PHASES.map(([key, words], index) => ({ words, index, ms: record.phases?.[`${key}_ms`] ?? 0 }));
  const total = parts.reduce((sum, part) => sum + part.ms, 0);
  const bar = el('div', { class: 'phase-bar', 'aria-hidden': 'true' }, parts.filter((part) => part.ms > 0).map((part) => {
    const piece = el('span', { class: `phase phase-${part.index}`, title: `${part.words}: ${duration(part.ms)}` });
    // In thousandths: parts whose sum is below one would not fill the bar.
    piece.style.flexGrow = String((part.ms / total) * 1000);
    return piece;
  }));
  const legend = el('dl', { class: 'legend' }, parts.map((part) => el(
    'div',
    { class: part.ms > 0 ? '' : 'zero' },
    el('dt', {}, el('span', { class: `swatch phase-${part.index}`, 'aria-hidden': 'true' }), part.words),
    el('dd', {}, duration(part.ms), total > 0 && part.ms > 0 && el('span', { class: 'faint' }, ` ${shareWords(part.ms / total)}`)),
  )));
  return el('section', { class: 'phases' }, el('h2', {}, 'Phases'), bar, legend);
}

function shareWords(ratio) {
  return ratio < 0.005 ? '< 1 %' : `${Math.round(ratio * 100)} %`;
}

function facts(record) {
  const tokens = record.total_tokens === null || record.total_tokens === undefined
    ? 'not reported'
    : `${count(record.prompt_tokens)} in the prompt, ${count(record.completion_tokens)} in the answer`;
  const rows = [
    ['Started', fullDateTime(record.started_at_ms)],
    ['Endpoint', `${record.endpoint}${record.is_stream ? ', streamed' : ''}`],
    ['Ended', endWords(record)],
    ['Attempts', count(record.attempts)],
    ['Tokens', tokens],
    ['Received', bytes(record.request_bytes)],
    ['Sent', bytes(record.response_bytes)],
    ['Key', record.key_id ?? '–'],
    ['Request id', record.request_id ?? '–'],
  ];
  return el('section', { class: 'facts' }, el('h2', {}, 'Details'), el('dl', {}, rows.map(([term, value]) => el('div', {}, el('dt', {}, term), el('dd', {}, value)))));
}

function endWords(record) {
  const who = ENDED_BY[record.ended_by] ?? record.ended_by;
  if (record.ended_in === 'done') return `by ${who}, whole`;
  const phase = PHASES.find(([key]) => key === record.ended_in)?.[1];
  return phase ? `by ${who}, in the phase “${phase}”` : `by ${who}`;
}

const ENDED_BY = { client: 'the client', node: 'the node', router: 'the router', timeout: 'a time limit' };

const PHASES = [
  ['read', 'Reading the request'],
  ['auth', 'Checking the key'],
  ['admit', 'Admission'],
  ['queue', 'Waiting in the queue'],
  ['connect', 'Connecting to the node'],
  ['first_byte', 'Waiting for the first byte'],
  ['stream', 'Relaying the answer'],
];

const STATUS_WORDS = { 401: 'No valid key', 404: 'Unknown model', 429: 'Queue full', 499: 'Client left', 502: 'Node failed', 503: 'Refused', 504: 'Timeout' };

const STATUSES = [
  ['', 'All'], ['success', 'Success'], ['error', 'Errors'], ['4xx', '4xx: refused'], ['5xx', '5xx: failed'],
  ['401', '401: no valid key'], ['404', '404: unknown model'], ['429', '429: queue full'], ['499', '499: client left'],
  ['502', '502: node failed'], ['503', '503: refused'], ['504', '504: timeout'],
];

const RANGES = [
  ['', 'All kept'], ['15m', 'Last 15 minutes', 900], ['1h', 'Last hour', 3600], ['24h', 'Last 24 hours', 86_400], ['custom', 'From … to …'],
];

const FILTERS = ['model', 'node', 'status', 'range', 'from', 'to'];
const CLEARED = { model: null, node: null, status: null, range: null, from: null, to: null, page: null };
const PER_PAGE = 50;
const REFRESH_MS = 2000;
const SETTLE_MS = 4000;
