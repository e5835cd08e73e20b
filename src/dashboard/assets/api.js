// Speaks to the control API of the router that served this page, and to nobody else.

export class ApiFailure extends Error {
  // `status` is 0 when there was no answer.
  constructor(status, code, message, retryAfterSecs) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfterSecs = retryAfterSecs;
  }
}

// Told when the router no longer knows this session.
let onSessionEnd = () => {};

export function whenSessionEnds(listener) {
  onSessionEnd = listener;
}

export function sessionEnded() {
  onSessionEnd();
}

export function get(path, signal) {
  return ask('GET', path, undefined, signal);
}

export function post(path, body) {
  return ask('POST', path, body);
}

export function put(path, body) {
  return ask('PUT', path, body);
}

export function remove(path) {
  return ask('DELETE', path);
}

// Logging in and asking who is logged in: a 401 is the answer here, not the end of a session.
export function logIn(username, password) {
  return exchange('POST', '/api/auth/login', { username, password });
}

export function whoAmI() {
  return exchange('GET', '/api/auth/me');
}

async function ask(method, path, body, signal) {
  try {
    return await exchange(method, path, body, signal);
  } catch (failure) {
    if (failure.status === 401) onSessionEnd();
    throw failure;
  }
}

async function exchange(method, path, body, signal) {
  const headers = { Accept: 'application/json', 'X-Requested-With': 'llm-router' };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const limit = AbortSignal.timeout(TIMEOUT_MS);
  let response;
  let text;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: 'same-origin',
      cache: 'no-store',
      redirect: 'error',
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiFailure(0, 'no_answer', 'The router does not answer.');
  }
  const answer = parse(text);
  if (response.ok) return answer;
  const retryAfter = Number.parseInt(response.headers.get('Retry-After') ?? '', 10);
  throw new ApiFailure(
    response.status,
    answer?.error?.code ?? '',
    answer?.error?.message ?? `The router answered ${response.status}.`,
    Number.isNaN(retryAfter) ? null : retryAfter,
  );
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

const TIMEOUT_MS = 10_000;
