// Puts the page together: who is logged in, which page the address names, and the marks that all pages
// share. Pages are objects {title, actions?, content, update?(live), destroy?()}.

import { post, whenSessionEnds, whoAmI } from './api.js';
import { el, icon, setAttribute, setHidden, setText } from './dom.js';
import { backpressure } from './figures.js';
import { longDuration } from './format.js';
import { historyPage } from './history.js';
import { keysPage } from './keys.js';
import { live, start, stateWords, stop, subscribe } from './live.js';
import { showLogin } from './login.js';
import { metricsPage } from './metrics.js';
import { nodesPage } from './nodes.js';
import { queuePage } from './queue.js';
import { closeDialogs, toast } from './ui.js';

const PAGES = { metrics: metricsPage, queue: queuePage, history: historyPage, nodes: nodesPage, keys: keysPage };

const shell = document.getElementById('shell');
const login = document.getElementById('login');
const place = document.getElementById('page');
const about = document.getElementById('about');
const alerts = document.getElementById('alerts');
const announcer = document.getElementById('announcer');
const mark = el('p', { class: 'live' }, el('span', { class: 'live-dot', 'aria-hidden': 'true' }), el('span'));
const storeAlert = el('p', { class: 'banner', 'data-tone': 'warn', role: 'alert' },
  icon('warning'), 'The database does not take writes: the request history has a gap until it does.');

let page = null;
let shownPage = '';
let userName = '';
let lastState = '';
let lastPressure = '';

async function boot() {
  if (!mayHaveSession()) {
    leave();
    return;
  }
  try {
    const { user } = await whoAmI();
    enter(user);
  } catch (failure) {
    leave(failure.status === 401 ? 'Your session has ended.' : failure.message);
  }
}

function enter(user) {
  remember(SESSION, 'yes');
  userName = user?.username ?? '';
  login.replaceChildren();
  setHidden(login, true);
  setHidden(shell, false);
  start();
  route();
}

// Back to the login page; the address stays, so that a login returns to the same place.
function leave(message) {
  remember(SESSION, 'no');
  stop();
  closeDialogs();
  page?.destroy?.();
  page = null;
  shownPage = '';
  place.replaceChildren();
  alerts.replaceChildren();
  lastState = '';
  lastPressure = '';
  setHidden(shell, true);
  setHidden(login, false);
  document.title = 'Log in · llm-router';
  showLogin(login, { message, done: enter });
}

function route() {
  if (shell.hidden) return;
  const [, name = '', query = ''] = location.hash.match(/^#\/([a-z]*)(?:\?(.*))?$/) ?? [];
  if (!(name in PAGES)) {
    location.replace('#/metrics');
    return;
  }
  const parameters = new URLSearchParams(query);
  if (name === shownPage && page?.follow) {
    page.follow(parameters);
    return;
  }
  show(name, parameters);
}

function show(name, parameters) {
  const isFirst = shownPage === '';
  page?.destroy?.();
  shownPage = name;
  page = PAGES[name](parameters);
  const heading = el('h1', { tabindex: '-1' }, page.title);
  place.replaceChildren(el('div', { class: 'top' }, heading, mark, page.actions && el('div', { class: 'actions' }, page.actions)), ...page.content);
  document.title = `${page.title} · llm-router`;
  for (const link of document.querySelectorAll('.nav a')) {
    if (link.dataset.page === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  refresh();
  if (!isFirst) heading.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function refresh() {
  const { snapshot, state } = live;
  setAttribute(place, 'data-live', state);
  setAttribute(mark, 'data-live', state);
  setText(mark.lastElementChild, stateWords());
  announce(state, backpressure(snapshot)?.word ?? '');
  setText(about, aboutWords(snapshot));
  if (snapshot && snapshot.store !== 'ok') {
    if (!storeAlert.isConnected) alerts.append(storeAlert);
  } else if (snapshot) {
    storeAlert.remove();
  }
  page?.update?.(live);
}

// Says only what changes rarely: that figures are old, that they are fresh again, that the load turned.
function announce(state, pressure) {
  if (state === 'stale' && lastState === 'live') setText(announcer, 'Connection lost. The figures are old.');
  if (state === 'live' && lastState === 'stale') setText(announcer, 'The figures are live again.');
  if (pressure && lastPressure && pressure !== lastPressure) setText(announcer, `Backpressure is now ${pressure}.`);
  lastState = state;
  lastPressure = pressure || lastPressure;
}

function aboutWords(snapshot) {
  const who = userName ? `${userName}` : '';
  if (!snapshot) return who;
  return `${who} · v${snapshot.version} · up ${longDuration(snapshot.uptime_secs)}`;
}

function setUpTheme() {
  const button = document.getElementById('theme');
  const show = (choice) => {
    const word = { system: 'System', light: 'Light', dark: 'Dark' }[choice];
    button.replaceChildren(icon(choice), el('span', {}, `${word} theme`));
    if (choice === 'system') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
  };
  let current = document.documentElement.dataset.theme ?? 'system';
  show(current);
  button.addEventListener('click', () => {
    current = { system: 'light', light: 'dark', dark: 'system' }[current];
    show(current);
    remember(THEME, current);
  });
}

async function logOut() {
  try {
    await post('/api/auth/logout');
  } catch (failure) {
    if (failure.status !== 401) {
      toast(`Not logged out: ${failure.message}`, 'bad');
      return;
    }
  }
  leave('You have logged out.');
}

// Whether to ask who we are at all: the cookie itself cannot be seen from here.
function mayHaveSession() {
  try {
    return localStorage.getItem(SESSION) === 'yes';
  } catch {
    return true;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Without storage it lasts as long as the page.
  }
}

const THEME = 'llm-router.theme';
const SESSION = 'llm-router.session';

whenSessionEnds(() => {
  if (!shell.hidden) leave('Your session has ended. Log in to return to where you were.');
});
subscribe(refresh);
setUpTheme();
document.getElementById('logout').addEventListener('click', logOut);
document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  document.getElementById('content').focus();
});
window.addEventListener('hashchange', route);
boot();
