// The API Keys page: who may ask, made and revoked here. A key's secret is shown once and never kept.

import { get, post, remove } from './api.js';
import { el, setHidden, setText } from './dom.js';
import { fullDateTime, shortDate } from './format.js';
import { now } from './live.js';
import { Complaint, button, confirmDialog, empty, failed, field, formDialog, loading, secretDialog, select, table, toast } from './ui.js';

export function keysPage() {
  const holder = el('div', {}, loading('Loading the keys…'));
  const shown = table({
    caption: 'API keys',
    class: 'cards',
    columns: [
      { label: 'Name', class: 'stretch' },
      { label: 'Key' },
      { label: 'Scopes' },
      { label: 'Created' },
      { label: 'Expires' },
      { label: 'Actions', unseen: true, class: 'row-actions' },
    ],
  });
  const frame = el('div', { class: 'card table-card' }, shown.node);
  let isGone = false;

  async function load() {
    try {
      const { keys } = await get('/api/keys');
      if (!isGone) draw(keys);
    } catch (failure) {
      if (!isGone && failure.status !== 401) holder.replaceChildren(failed(failure, load));
    }
  }

  function draw(keys) {
    const sorted = [...keys].sort((a, b) => b.created_at - a.created_at);
    shown.show(sorted, (key) => key.id, (key) => keyRow(key, revoke));
    if (keys.length > 0) {
      holder.replaceChildren(frame);
      return;
    }
    holder.replaceChildren(el('div', { class: 'card' }, empty(
      'No keys yet',
      'Programs need an API key to ask for answers. Keys from the configuration file work too; they are not listed here.',
      button('Create key', { icon: 'plus', kind: 'primary' }, create),
    )));
  }

  async function create() {
    const answer = await createDialog();
    if (!answer) return;
    await secretDialog({
      title: `Key ${answer.name} was created`,
      words: 'Copy it now: only its digest is kept, so it cannot be shown again.',
      secrets: [{ label: 'API key', value: answer.key }],
    });
    load();
  }

  async function revoke(key) {
    const done = await confirmDialog({
      title: `Revoke ${key.name}?`,
      words: ['Whoever uses this key is refused from now on. This cannot be undone.'],
      action: 'Revoke',
      submit: () => remove(`/api/keys/${encodeURIComponent(key.id)}`),
    });
    if (done) toast(`${key.name} was revoked.`);
    load();
  }

  load();
  return {
    title: 'API Keys',
    actions: [button('Create key', { icon: 'plus', kind: 'primary' }, create)],
    content: [holder],
    destroy() {
      isGone = true;
    },
  };
}

function keyRow(key, revoke) {
  const isExpired = key.expires_at !== null && key.expires_at <= now();
  const expires = key.expires_at === null
    ? el('span', { class: 'faint' }, 'Never')
    : el('time', { title: fullDateTime(key.expires_at * 1000) }, shortDate(key.expires_at));
  return {
    cells: [
      el('span', { class: 'name' }, key.name),
      el('code', { class: 'faint' }, `…${key.last_four ?? ''}`),
      el('span', { class: 'chips' }, (key.scopes ?? []).map((scope) => el('span', { class: 'chip' }, scope))),
      el('time', { title: fullDateTime(key.created_at * 1000) }, shortDate(key.created_at)),
      isExpired ? el('span', { class: 'badge', 'data-tone': 'bad' }, 'Expired') : expires,
      el('span', { class: 'button-row' }, button('Revoke', { kind: 'small', unseenIn: key.name }, () => revoke(key))),
    ],
    update() {},
  };
}

function createDialog() {
  const name = field({ label: 'Name', name: 'name', maxlength: 64, hint: 'Who or what uses the key.' });
  const boxes = SCOPES.map(([scope]) => el('input', {
    type: 'checkbox', name: 'scopes', value: scope, id: `scope-${scope}`, checked: scope === 'inference', 'aria-describedby': `scope-${scope}-hint`,
  }));
  const scopes = el(
    'fieldset',
    { class: 'choices' },
    el('legend', {}, 'Scopes'),
    SCOPES.map(([scope, words], index) => el(
      'div',
      { class: 'choice' },
      boxes[index],
      el('label', { for: `scope-${scope}` }, scope),
      el('p', { class: 'hint', id: `scope-${scope}-hint` }, words),
    )),
  );
  const expiry = field({ label: 'Expires', name: 'expiry', control: select(EXPIRY, '7776000') });
  const day = field({ label: 'Last day', name: 'expires_at', type: 'date', min: isoDay(Date.now()) });
  setHidden(day.node, true);
  expiry.input.addEventListener('change', () => setHidden(day.node, expiry.input.value !== 'day'));

  return formDialog({
    title: 'Create API key',
    action: 'Create key',
    content: [name.node, scopes, el('div', { class: 'field-pair' }, expiry.node, day.node)],
    begin: '[name=name]',
    submit() {
      const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
      if (name.input.value.trim() === '') throw new Complaint('name', 'Enter a name.');
      if (chosen.length === 0) throw new Complaint(boxes[0].name, 'Choose at least one scope.');
      return post('/api/keys', { name: name.input.value.trim(), scopes: chosen, expires_at: expiryOf(expiry.input.value, day.input.value) });
    },
  });
}

function expiryOf(choice, day) {
  if (choice === 'never') return undefined;
  if (choice !== 'day') return Math.floor(Date.now() / 1000) + Number(choice);
  // The end of that day where the viewer is.
  const end = new Date(`${day}T23:59:59`).getTime();
  if (Number.isNaN(end)) throw new Complaint('expires_at', 'Choose the last day the key is valid.');
  if (end <= Date.now()) throw new Complaint('expires_at', 'The last day must not lie in the past.');
  return Math.floor(end / 1000);
}

function isoDay(ms) {
  const at = new Date(ms);
  const two = (value) => String(value).padStart(2, '0');
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

const SCOPES = [
  ['inference', 'Ask for answers: everything under /v1.'],
  ['nodes', 'Register nodes with the router.'],
  ['admin', 'Everything this dashboard can do. Give it to few.'],
];

const EXPIRY = [
  ['2592000', 'In 30 days'],
  ['7776000', 'In 90 days'],
  ['31536000', 'In a year'],
  ['day', 'On a day…'],
  ['never', 'Never'],
];
