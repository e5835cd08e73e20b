// Parts that all pages use: tables, dialogs, notices, and what is shown while there is nothing to show.

import { el, icon, newId, setText } from './dom.js';

// A table whose rows are kept by key, so that an update does not move focus or lose an open row.
// `columns`: {label, class?, unseen?}. `create(item)` gives {cells, update(item), after?}: `after` is a
// row that belongs below.
export function table({ caption, columns, class: kind = '' }) {
  const body = el('tbody', { role: 'rowgroup' });
  const head = el('tr', { role: 'row' }, columns.map((column) => el(
    'th',
    { scope: 'col', role: 'columnheader', class: column.class },
    column.unseen ? el('span', { class: 'unseen' }, column.label) : column.label,
  )));
  const node = el(
    'table',
    { class: kind, role: 'table' },
    el('caption', { class: 'unseen' }, caption),
    el('thead', { role: 'rowgroup' }, head),
    body,
  );
  const rows = new Map();
  return {
    node,
    size: () => rows.size,
    show(items, key, create) {
      const seen = new Set();
      const wanted = [];
      for (const item of items) {
        const id = key(item);
        if (seen.has(id)) continue;
        seen.add(id);
        if (!rows.has(id)) {
          const made = create(item);
          const cells = made.cells.map((content, index) => cell(columns[index], content, index));
          rows.set(id, { made, row: el('tr', { role: 'row' }, cells) });
        }
        const { made, row } = rows.get(id);
        made.update(item);
        wanted.push(row, ...(made.after ? [made.after] : []));
      }
      for (const [id, { made, row }] of rows) {
        if (seen.has(id)) continue;
        row.remove();
        made.after?.remove();
        rows.delete(id);
      }
      order(body, wanted);
    },
  };
}

function cell(column, content, index) {
  const attributes = { class: column.class, 'data-label': column.label };
  return index === 0
    ? el('th', { ...attributes, scope: 'row', role: 'rowheader' }, content)
    : el('td', { ...attributes, role: 'cell' }, content);
}

// Puts rows in order and touches only those that stand wrong.
function order(body, wanted) {
  wanted.forEach((row, index) => {
    const there = body.children[index];
    if (there !== row) body.insertBefore(row, there ?? null);
  });
}

export function panel(title, ...content) {
  const id = newId('panel');
  return el('section', { class: 'card panel', 'aria-labelledby': id }, el('h2', { id }, title), content);
}

export function button(label, { icon: sign, kind = '', unseenIn, ...rest } = {}, onClick = undefined) {
  return el(
    'button',
    { type: 'button', class: `button ${kind}`, ...rest, on: onClick ? { click: onClick } : undefined },
    sign && icon(sign),
    el('span', {}, label, unseenIn && el('span', { class: 'unseen' }, ` ${unseenIn}`)),
  );
}

// A button that shows only a sign; `label` is its name.
export function iconButton(label, sign, onClick) {
  return el('button', { type: 'button', class: 'button small square', title: label, 'aria-label': label, on: { click: onClick } }, icon(sign));
}

export function loading(words = 'Loading…') {
  return el('div', { class: 'state', role: 'status' }, el('span', { class: 'spinner', 'aria-hidden': 'true' }), el('p', {}, words));
}

export function empty(title, words, ...actions) {
  return el('div', { class: 'state' }, el('p', { class: 'state-title' }, title), el('p', {}, words), actions);
}

export function failed(failure, again) {
  return el(
    'div',
    { class: 'state', role: 'alert' },
    icon('warning'),
    el('p', { class: 'state-title' }, 'This could not be loaded'),
    el('p', {}, failure.message),
    button('Try again', {}, again),
  );
}

// A short notice at the edge of the page that goes by itself.
export function toast(words, tone = 'good') {
  const list = document.getElementById('toasts');
  const node = el('div', { class: 'toast', 'data-tone': tone }, icon(tone === 'good' ? 'check' : 'warning'), el('p', {}, words));
  const close = el('button', { type: 'button', class: 'quiet', 'aria-label': 'Dismiss' }, icon('close'));
  close.addEventListener('click', () => node.remove());
  node.append(close);
  list.append(node);
  while (list.children.length > 3) list.firstElementChild.remove();
  let timer = setTimeout(() => node.remove(), TOAST_MS);
  node.addEventListener('pointerenter', () => clearTimeout(timer));
  node.addEventListener('pointerleave', () => {
    timer = setTimeout(() => node.remove(), TOAST_MS);
  });
}

// A dialog with a form. `submit()` may throw: its message is shown and the dialog stays open. Resolves to
// what `submit` gave, or to undefined when the dialog was left.
export function formDialog({ title, content, action, tone = '', submit, cancel = 'Cancel', begin }) {
  const id = newId('dialog');
  const problem = el('p', { class: 'problem', role: 'alert' });
  const confirm = el('button', { type: 'submit', class: `button primary ${tone}` }, el('span', {}, action));
  const form = el(
    'form',
    { method: 'dialog', novalidate: true },
    el('h2', { id }, title),
    content,
    problem,
    el('div', { class: 'dialog-actions' }, cancel && button(cancel, { 'data-cancel': true }, () => node.close()), confirm),
  );
  const node = el('dialog', { 'aria-labelledby': id }, form);
  let result;
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (confirm.getAttribute('aria-disabled') === 'true') return;
    setText(problem, '');
    clearInvalid(form);
    confirm.setAttribute('aria-disabled', 'true');
    try {
      result = (await submit()) ?? true;
      node.close();
    } catch (failure) {
      setText(problem, inWords(form, failure.message));
      markInvalid(form, failure);
    } finally {
      confirm.removeAttribute('aria-disabled');
    }
  });
  return open(node, begin).then(() => result);
}

export function confirmDialog({ title, words, action, submit }) {
  return formDialog({
    title,
    content: words.map((line) => el('p', {}, line)),
    action,
    tone: 'danger',
    submit,
    begin: '[data-cancel]',
  });
}

// Shows a secret that cannot be seen again. Escape does not close it by accident.
export function secretDialog({ title, words, secrets }) {
  const id = newId('dialog');
  const node = el(
    'dialog',
    { 'aria-labelledby': id, class: 'secret' },
    el('h2', { id }, title),
    el('p', {}, words),
    secrets.map(secretField),
    el('div', { class: 'dialog-actions' }, el('button', { type: 'button', class: 'button primary', on: { click: () => node.close() } }, 'I have kept it')),
  );
  node.addEventListener('cancel', (event) => event.preventDefault());
  return open(node, 'button');
}

function secretField({ label, value }) {
  const id = newId('secret');
  const input = el('input', { id, class: 'mono', readonly: true, value, spellcheck: 'false', autocomplete: 'off' });
  input.addEventListener('focus', () => input.select());
  const words = el('span', {}, 'Copy');
  const copy = el('button', { type: 'button', class: 'button', 'aria-label': `Copy ${label}` }, icon('copy'), words);
  copy.addEventListener('click', async () => {
    const copied = await copyText(value, input);
    setText(words, copied ? 'Copied' : 'Press Ctrl-C');
    document.getElementById('announcer').textContent = copied ? `${label} copied` : `${label} is selected`;
  });
  return el('div', { class: 'field' }, el('label', { for: id }, label), el('div', { class: 'with-button' }, input, copy));
}

// The clipboard is only there on secure origins; elsewhere the selected field is copied the old way.
async function copyText(text, input) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    input.focus();
    input.select();
    return document.execCommand('copy');
  }
}

function open(node, begin) {
  const before = document.activeElement;
  document.body.append(node);
  return new Promise((resolve) => {
    node.addEventListener('close', () => {
      node.remove();
      if (before?.isConnected) before.focus();
      else document.querySelector('h1')?.focus();
      resolve();
    });
    node.showModal();
    (begin ? node.querySelector(begin) : node.querySelector('input, select, textarea'))?.focus();
  });
}

export function closeDialogs() {
  for (const node of document.querySelectorAll('dialog[open]')) node.close();
}

// The API names the field it refuses; so does the form.
function markInvalid(form, failure) {
  const names = String(failure.message).match(/[a-z_]+/g) ?? [];
  const field = failure.field ?? names.find((name) => form.elements.namedItem(name));
  const input = field && form.elements.namedItem(field);
  if (!(input instanceof HTMLElement)) return;
  input.setAttribute('aria-invalid', 'true');
  input.focus();
}

// Fields have names in the API and labels on the page.
function inWords(form, message) {
  return message.replace(/`([a-z_]+)`/g, (whole, name) => {
    const control = form.elements.namedItem(name);
    return control instanceof HTMLElement && control.labels?.[0] ? control.labels[0].textContent : whole;
  });
}

function clearInvalid(form) {
  for (const input of form.querySelectorAll('[aria-invalid]')) input.removeAttribute('aria-invalid');
}

// A labelled input with a line of help.
export function field({ label, name, hint, control, ...attributes }) {
  const id = newId('field');
  const hintId = hint && `${id}-hint`;
  const input = control ?? el('input', { type: 'text', autocomplete: 'off', spellcheck: 'false', ...attributes });
  input.id = id;
  input.setAttribute('name', name);
  if (hintId) input.setAttribute('aria-describedby', hintId);
  return {
    node: el('div', { class: 'field' }, el('label', { for: id }, label), input, hint && el('p', { class: 'hint', id: hintId }, hint)),
    input,
  };
}

export function select(options, value, attributes = {}) {
  return el('select', attributes, options.map(([key, words]) => el('option', { value: key, selected: key === value }, words)));
}

// A form's own complaint, with the field it is about.
export class Complaint extends Error {
  constructor(fieldName, message) {
    super(message);
    this.field = fieldName;
  }
}

const TOAST_MS = 6000;
