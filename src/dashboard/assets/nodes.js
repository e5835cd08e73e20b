// The Nodes page: what each node is and does, and adding, editing, draining, enabling, removing it.

import { get, post, put, remove } from './api.js';
import { el, setHidden, setText } from './dom.js';
import { meter, nodeState } from './figures.js';
import { ago, count, duration, fullDateTime, percent } from './format.js';
import { live, now } from './live.js';
import { Complaint, button, confirmDialog, empty, failed, field, formDialog, iconButton, loading, secretDialog, table, toast } from './ui.js';

export function nodesPage() {
  const holder = el('div', {}, loading('Loading the nodes…'));
  const shown = table({
    caption: 'Nodes',
    class: 'cards',
    columns: [
      { label: 'Node', class: 'node-cell' },
      { label: 'State' },
      { label: 'Slots in use' },
      { label: 'Models', class: 'stretch' },
      { label: 'Latency', class: 'figure-cell' },
      { label: 'Last sign of life' },
      { label: 'Actions', unseen: true, class: 'row-actions' },
    ],
  });
  const frame = el('div', { class: 'card table-card' }, shown.node);
  let nodes = null;
  let timer = 0;
  let isGone = false;
  let seenByEvents = '';

  async function load() {
    clearTimeout(timer);
    try {
      const answer = await get('/api/nodes');
      if (isGone) return;
      ({ nodes } = answer);
      draw();
    } catch (failure) {
      if (isGone || failure.status === 401) return;
      // Old rows stay: the mark beside the title tells that they are old.
      if (nodes === null) holder.replaceChildren(failed(failure, load));
    }
    timer = setTimeout(load, POLL_MS);
  }

  function draw() {
    if (nodes.length === 0) {
      holder.replaceChildren(el('div', { class: 'card' }, empty(
        'No nodes yet',
        'A node is one inference server: vLLM, SGLang, llama.cpp, Ollama, or anything that speaks the OpenAI API.',
        button('Add node', { icon: 'plus', kind: 'primary' }, add),
      )));
      shown.show([], () => '', () => {});
      return;
    }
    if (holder.firstElementChild !== frame) holder.replaceChildren(frame);
    shown.show(nodes, (node) => node.id, (node) => nodeRow(node, { edit, drain, enable, removeNode }));
  }

  // States and slots come with the live figures, everything else is asked for now and then.
  function update() {
    const { snapshot } = live;
    if (!snapshot || nodes === null) return;
    const key = snapshot.nodes.map((node) => `${node.id} ${node.state}`).join('\n');
    if (key !== seenByEvents) {
      if (seenByEvents !== '') load();
      seenByEvents = key;
    }
    const fresh = new Map(snapshot.nodes.map((node) => [node.id, node]));
    nodes = nodes.map((node) => ({ ...node, ...fresh.get(node.id) }));
    draw();
  }

  async function add() {
    const answer = await nodeDialog({
      title: 'Add node',
      action: 'Add node',
      send: (body) => post('/api/nodes', body),
    });
    if (!answer) return;
    await secretDialog({
      title: `${answer.name} was added`,
      words: 'It takes requests as soon as a probe has succeeded. The node itself needs this token to report its load; it is shown only now.',
      secrets: [
        { label: 'Node id', value: answer.node_id ?? answer.id },
        { label: 'Node token', value: answer.node_token },
      ],
    });
    load();
  }

  async function edit(node) {
    const answer = await nodeDialog({
      title: `Edit ${node.name}`,
      action: 'Save',
      node,
      send: (body) => put(path(node), body),
    });
    if (!answer) return;
    toast(`${node.name} was changed.`);
    load();
  }

  async function drain(node) {
    const done = await confirmDialog({
      title: `Drain ${node.name}?`,
      words: [
        'It takes no new requests. What it has begun is finished.',
        ...lastOnlineWarning(node, nodes),
      ],
      action: 'Drain',
      submit: () => post(`${path(node)}/drain`),
    });
    if (done) toast(`${node.name} takes no new requests.`);
    load();
  }

  async function enable(node) {
    try {
      await post(`${path(node)}/enable`);
      toast(`${node.name} may take requests again.`);
    } catch (failure) {
      toast(`${node.name} was not enabled: ${failure.message}`, 'bad');
    }
    load();
  }

  async function removeNode(node) {
    const done = await confirmDialog({
      title: `Remove ${node.name}?`,
      words: [
        'The router forgets it and its token. Requests it works on are finished.',
        ...lastOnlineWarning(node, nodes),
      ],
      action: 'Remove',
      submit: () => remove(path(node)),
    });
    if (done) toast(`${node.name} was removed.`);
    load();
  }

  load();
  return {
    title: 'Nodes',
    actions: [button('Add node', { icon: 'plus', kind: 'primary' }, add)],
    content: [holder],
    update,
    destroy() {
      isGone = true;
      clearTimeout(timer);
    },
  };
}

function path(node) {
  return `/api/nodes/${encodeURIComponent(node.id)}`;
}

function lastOnlineWarning(node, nodes) {
  const isOnline = (other) => other.state === 'online';
  const alone = (node.models ?? []).filter((model) => isOnline(node)
    && !nodes.some((other) => other.id !== node.id && isOnline(other) && other.models?.includes(model)));
  return alone.length > 0 ? [`No other node that is online has ${list(alone)}: requests for it will be refused.`] : [];
}

function list(names) {
  return names.length > 3 ? `${names.slice(0, 3).join(', ')} and ${names.length - 3} more` : names.join(', ');
}

function nodeRow(first, actions) {
  let node = first;
  const name = el('span', { class: 'name' });
  const address = el('span', { class: 'mono faint' });
  const origin = el('span', { class: 'faint' });
  const state = nodeState();
  const trouble = el('span', { class: 'trouble' });
  const slots = meter();
  const setting = el('span', { class: 'faint' });
  const models = el('span', { class: 'chips' });
  const latency = el('span');
  const sign = el('time');
  const machine = el('span', { class: 'faint' });
  let shownModels = null;

  const enable = button('Enable', { kind: 'small', unseenIn: first.name }, () => actions.enable(node));
  const drain = button('Drain', { kind: 'small', unseenIn: first.name }, () => actions.drain(node));
  const edit = iconButton(`Edit ${first.name}`, 'edit', () => actions.edit(node));
  const gone = iconButton(`Remove ${first.name}`, 'bin', () => actions.removeNode(node));

  return {
    cells: [
      el('span', { class: 'two-lines' }, name, address, origin),
      el('span', { class: 'two-lines' }, state.node, trouble),
      el('span', { class: 'two-lines' }, slots.node, setting),
      models,
      latency,
      el('span', { class: 'two-lines' }, sign, machine),
      el('span', { class: 'button-row' }, enable, drain, edit, gone),
    ],
    update(next) {
      node = next;
      const isConfigured = node.source === 'config';
      setText(name, node.name);
      setText(address, node.base_url);
      setText(origin, `${ENGINES[node.engine] ?? node.engine ?? 'engine unknown'}${isConfigured ? ' · in config.toml' : ''}`);
      state.update(node.state);
      setText(trouble, node.state === 'online' ? '' : (node.last_error ?? ''));
      slots.update(node.slots_used, node.slots_total);
      setText(setting, slotWords(node));
      const wanted = (node.models ?? []).join('\n');
      if (wanted !== shownModels) {
        shownModels = wanted;
        models.replaceChildren(...chips(node.models ?? []));
      }
      setText(latency, duration(node.latency_ms));
      const seen = node.last_heartbeat_at ?? node.last_probe_at;
      setText(sign, seen ? `${node.last_heartbeat_at ? 'Heartbeat' : 'Probe'} ${ago(seen, now())}` : 'None yet');
      if (seen) sign.title = fullDateTime(seen * 1000);
      setText(machine, machineWords(node.heartbeat));
      const mayDrain = node.state !== 'draining';
      setHidden(enable, mayDrain);
      setHidden(drain, !mayDrain);
      setHidden(edit, isConfigured);
      setHidden(gone, isConfigured);
    },
  };
}

function slotWords(node) {
  const weight = node.weight > 1 ? ` · weight ${count(node.weight)}` : '';
  return `${node.max_concurrency === 'auto' ? 'automatic' : 'set by hand'}${weight}`;
}

function machineWords(heartbeat) {
  if (!heartbeat) return '';
  const parts = [];
  if (heartbeat.initializing) parts.push('starting up');
  for (const [key, word] of [['cpu_usage', 'CPU'], ['memory_usage', 'memory'], ['gpu_usage', 'GPU'], ['gpu_memory_usage', 'GPU memory']]) {
    const value = heartbeat[key];
    if (typeof value === 'number') parts.push(`${word} ${percent(value / 100)}`);
  }
  return parts.join(' · ');
}

function chips(models) {
  if (models.length === 0) return [el('span', { class: 'faint' }, 'none known')];
  const shown = models.slice(0, CHIPS_MAX).map((model) => el('span', { class: 'chip', title: model }, model));
  const more = models.length - CHIPS_MAX;
  return more > 0 ? [...shown, el('span', { class: 'faint', title: models.slice(CHIPS_MAX).join('\n') }, `and ${count(more)} more`)] : shown;
}

function nodeDialog({ title, action, node, send }) {
  const name = field({
    label: 'Name', name: 'name', value: node?.name ?? '', readonly: Boolean(node), maxlength: 64,
    hint: node ? 'The name cannot be changed.' : 'Shown here, in the history and in metrics.',
  });
  const url = field({
    label: 'Base URL', name: 'base_url', type: 'url', value: node?.base_url ?? '', placeholder: 'http://192.168.1.20:8000', class: 'mono',
  });
  const models = field({
    label: 'Models', name: 'models', value: '', class: 'mono',
    hint: node ? 'Separated by commas. Empty: as they are.' : 'Separated by commas. Empty: the node is asked for them.',
  });
  if (node) models.input.placeholder = (node.models ?? []).join(', ');
  const key = field({
    label: 'API key of the node', name: 'api_key', type: 'password', autocomplete: 'new-password',
    hint: node ? 'Empty: as it is.' : 'Sent to the node with every request. Empty: none.',
  });
  const slots = field({
    label: 'Slots', name: 'max_concurrency', inputmode: 'numeric',
    value: node && node.max_concurrency !== 'auto' ? node.max_concurrency : '', placeholder: 'automatic',
    hint: 'Requests it works on at once. Empty: what the engine reports, else 1.',
  });
  const weight = field({ label: 'Weight', name: 'weight', inputmode: 'numeric', value: node?.weight ?? 1, hint: 'Its share beside other nodes.' });

  return formDialog({
    title,
    action,
    content: [
      name.node, url.node, models.node, key.node,
      el('div', { class: 'field-pair' }, slots.node, weight.node),
    ],
    begin: node ? '[name=base_url]' : '[name=name]',
    submit() {
      const body = {};
      if (!node) body.name = required(name.input, 'name', 'Enter a name.');
      body.base_url = required(url.input, 'base_url', 'Enter the base URL.');
      const listed = models.input.value.split(',').map((model) => model.trim()).filter(Boolean);
      if (listed.length > 0) body.models = listed;
      if (key.input.value) body.api_key = key.input.value;
      const limit = slots.input.value.trim();
      if (limit !== '') body.max_concurrency = wholeNumber(limit, 'max_concurrency', 'Slots');
      else if (node) body.max_concurrency = 'auto';
      body.weight = wholeNumber(weight.input.value.trim() || '1', 'weight', 'Weight');
      return send(body);
    },
  });
}

function required(input, name, complaint) {
  const value = input.value.trim();
  if (value === '') throw new Complaint(name, complaint);
  return value;
}

function wholeNumber(text, name, label) {
  if (!/^[1-9][0-9]{0,8}$/.test(text)) throw new Complaint(name, `${label} must be a whole number of at least 1.`);
  return Number(text);
}

const ENGINES = { vllm: 'vLLM', sglang: 'SGLang', 'llama.cpp': 'llama.cpp', ollama: 'Ollama', 'lm-studio': 'LM Studio', generic: 'OpenAI-compatible' };
const POLL_MS = 4000;
const CHIPS_MAX = 3;
