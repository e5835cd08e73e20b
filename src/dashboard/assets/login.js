// The login page. Says why a login was refused in words an operator can act on.

import { logIn } from './api.js';
import { el, setHidden, setText, svg } from './dom.js';
import { longDuration } from './format.js';

// Shows the form in `place`; `done(user)` is called after a good login. `message` says why the viewer
// is here again.
export function showLogin(place, { message, done }) {
  const notice = el('p', { class: 'notice', role: 'status' });
  const problem = el('p', { class: 'problem', role: 'alert' });
  const username = el('input', {
    id: 'username', name: 'username', type: 'text', autocomplete: 'username', autocapitalize: 'none', spellcheck: 'false', required: true,
  });
  const password = el('input', { id: 'password', name: 'password', type: 'password', autocomplete: 'current-password', required: true });
  const reveal = el('button', { type: 'button', class: 'button', 'aria-pressed': 'false', 'aria-controls': 'password' }, 'Show');
  const submit = el('button', { type: 'submit', class: 'button primary large' }, 'Log in');
  const form = el(
    'form',
    { class: 'card', 'aria-labelledby': 'login-title', novalidate: true },
    notice,
    el('div', { class: 'field' }, el('label', { for: 'username' }, 'User name'), username),
    el('div', { class: 'field' }, el('label', { for: 'password' }, 'Password'), el('div', { class: 'with-button' }, password, reveal)),
    problem,
    submit,
  );

  reveal.addEventListener('click', () => {
    const isShown = password.type === 'text';
    password.type = isShown ? 'password' : 'text';
    reveal.setAttribute('aria-pressed', String(!isShown));
    setText(reveal, isShown ? 'Show' : 'Hide');
  });

  let isBusy = false;
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (isBusy) return;
    setText(problem, '');
    const missing = [username, password].find((input) => input.value === '');
    if (missing) {
      complain(`Enter your ${missing === username ? 'user name' : 'password'}.`, missing);
      return;
    }
    isBusy = true;
    submit.setAttribute('aria-disabled', 'true');
    try {
      const { user } = await logIn(username.value, password.value);
      done(user);
    } catch (failure) {
      complain(words(failure), failure.status === 401 ? password : submit);
      password.value = failure.status === 401 ? '' : password.value;
    } finally {
      isBusy = false;
      submit.removeAttribute('aria-disabled');
    }
  });

  function complain(text, focus) {
    setText(problem, text);
    focus.focus();
  }

  setText(notice, message ?? '');
  setHidden(notice, !message);
  place.replaceChildren(
    el(
      'main',
      {},
      el('div', { class: 'login-brand' }, brandMark(), el('h1', { id: 'login-title' }, 'Log in to llm-router')),
      form,
    ),
  );
  username.focus();
}

function words(failure) {
  switch (failure.code) {
    case 'invalid_credentials':
      return 'Wrong user name or password.';
    case 'too_many_attempts':
      return failure.retryAfterSecs
        ? `Too many failed attempts. Try again in ${longDuration(failure.retryAfterSecs)}.`
        : 'Too many failed attempts. Try again later.';
    case 'default_password':
      return 'The default password works only on the machine the router runs on. Set auth.admin_password to log in from here.';
    default:
      return failure.status === 0 ? 'The router does not answer. Check that it is running, then try again.' : failure.message;
  }
}

function brandMark() {
  return svg(
    'svg',
    { class: 'mark', viewBox: '0 0 32 32', 'aria-hidden': 'true' },
    svg('rect', { width: 32, height: 32, rx: 8 }),
    svg('path', { d: 'M6 16h7M13 16c4 0 3-7 8-7h4M13 16h12M13 16c4 0 3 7 8 7h4' }),
    svg('circle', { cx: 13, cy: 16, r: 2.6 }),
  );
}
