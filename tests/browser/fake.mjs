// A pretended router: serves the dashboard's files and speaks the control API's shapes with made-up but
// repeatable figures. For pictures, and for states that a real router reaches only by accident.
//
//     node tests/browser/fake.mjs [scenario] [port]
//
// Scenarios: busy, empty, hostile (names that try to be markup), failing (lists answer 503), loading
// (lists never answer).

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

const ASSETS = join(dirname(fileURLToPath(import.meta.url)), '../../src/dashboard/assets');
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8', '.svg': 'image/svg+xml' };
export const HOSTILE = '<img src=x onerror="document.title=\'owned\'"><script>document.title="owned"</script>';

export const SECURITY_FIELDS = {
  'Content-Security-Policy': "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'X-Frame-Options': 'DENY',
  'Cache-Control': 'no-cache',
};

// Numbers that look random and are the same every time.
function dice(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

class World {
  constructor(scenario) {
    this.scenario = scenario;
    this.random = dice(7);
    this.startedAt = Math.floor(Date.now() / 1000);
    this.tick = 0;
    this.requests = 184_203;
    this.nodes = scenario === 'empty' ? [] : this.makeNodes();
    this.keys = scenario === 'empty' ? [] : this.makeKeys();
    this.records = scenario === 'empty' ? [] : this.makeRecords(128);
    this.rejections = scenario === 'empty' ? {} : { overloaded: 412, model_queue_full: 87, invalid_key: 23, wait_timeout: 9, unknown_model: 4 };
  }

  makeNodes() {
    const now = this.startedAt;
    const base = { last_error: null, heartbeat: null, selections_total: 0, failures_total: 0, weight: 1, created_at: now - 86_400 };
    const all = [
      { id: 'config-gpu-1', name: 'gpu-1', base_url: 'http://10.0.4.11:8000', source: 'config', state: 'online', engine: 'vllm', models: ['llama-3.3-70b', 'llama-3.2-1b'], max_concurrency: 16, slots_used: 14, slots_total: 16, latency_ms: 3.4, last_probe_at: now - 4, last_heartbeat_at: null, created_at: null },
      { id: '3f1c9a02b7de4416', name: 'gpu-2', base_url: 'http://10.0.4.12:8000', source: 'registered', state: 'online', engine: 'sglang', models: ['llama-3.3-70b', 'qwen2.5-coder-32b'], max_concurrency: 'auto', slots_used: 16, slots_total: 16, weight: 2, latency_ms: 4.1, last_probe_at: now - 2, last_heartbeat_at: now - 8, heartbeat: { cpu_usage: 41.5, memory_usage: 63.2, gpu_usage: 97, gpu_memory_usage: 88.4, active_requests: 16, loaded_models: 2, initializing: false } },
      { id: '90be11f0aa34c2d5', name: 'edge-llama', base_url: 'http://10.0.7.31:8080', source: 'registered', state: 'draining', engine: 'llama.cpp', models: ['llama-3.2-1b', 'all-minilm-l6-v2', 'bge-small-en', 'phi-4-mini', 'gemma-3-4b', 'mistral-small'], max_concurrency: 'auto', slots_used: 3, slots_total: 8, latency_ms: 11.8, last_probe_at: now - 6, last_heartbeat_at: null },
      { id: '5c07d2e891aa0b3f', name: 'studio-mac', base_url: 'http://10.0.9.5:1234', source: 'registered', state: 'offline', engine: 'lm-studio', models: ['qwen2.5-coder-32b'], max_concurrency: 2, slots_used: 0, slots_total: 2, latency_ms: null, last_probe_at: now - 9, last_error: 'connection refused', last_heartbeat_at: now - 1260 },
      { id: 'b1d00f63c9274e58', name: 'gpu-3', base_url: 'http://10.0.4.13:8000', source: 'registered', state: 'pending', engine: null, models: [], max_concurrency: 'auto', slots_used: 0, slots_total: 1, latency_ms: null, last_probe_at: null, last_heartbeat_at: null },
    ];
    if (this.scenario === 'hostile') {
      all[1] = { ...all[1], name: HOSTILE, engine: HOSTILE, models: [HOSTILE, 'a'.repeat(300), '\u202eright-to-left'], last_error: HOSTILE };
      all[3] = { ...all[3], name: 'x'.repeat(64), last_error: HOSTILE };
    }
    return all.map((node) => ({ ...base, ...node }));
  }

  makeKeys() {
    const day = 86_400;
    const now = this.startedAt;
    const name = this.scenario === 'hostile' ? HOSTILE : 'chat-frontend';
    return [
      { id: '1a2b3c4d', name, scopes: ['inference'], last_four: '9fQ2', created_at: now - 92 * day, expires_at: null },
      { id: '2b3c4d5e', name: 'nightly-evaluation', scopes: ['inference'], last_four: 'Zt7a', created_at: now - 31 * day, expires_at: now + 59 * day },
      { id: '3c4d5e6f', name: 'gpu-provisioning', scopes: ['nodes'], last_four: 'm0Kx', created_at: now - 12 * day, expires_at: now + 353 * day },
      { id: '4d5e6f70', name: 'contractor', scopes: ['inference', 'admin'], last_four: 'b81c', created_at: now - 120 * day, expires_at: now - 30 * day },
    ];
  }

  makeRecords(count) {
    const roll = this.random;
    const models = ['llama-3.3-70b', 'llama-3.2-1b', 'qwen2.5-coder-32b', 'all-minilm-l6-v2'];
    const nodes = ['gpu-1', 'gpu-2', 'edge-llama'];
    const hostile = this.scenario === 'hostile';
    return Array.from({ length: count }, (_, index) => {
      const fate = roll();
      const status = fate < 0.86 ? 200 : [429, 503, 504, 401, 502, 499][Math.floor(roll() * 6)];
      const model = hostile && index % 3 === 0 ? HOSTILE : models[Math.floor(roll() * models.length)];
      const isEmbedding = model === 'all-minilm-l6-v2';
      const cut = status === 200 && index % 29 === 11;
      const reached = status === 200 || status === 502;
      const phases = {
        read_ms: 0.2 + roll(), auth_ms: 0.01, admit_ms: 0.02,
        queue_ms: status === 504 ? 30_000 : [401, 429, 503].includes(status) || roll() < 0.4 ? 0 : Math.floor(roll() * 1800),
        connect_ms: reached && roll() < 0.3 ? 1 + roll() * 4 : 0,
        first_byte_ms: reached ? 40 + Math.floor(roll() * 260) : 0,
        stream_ms: status === 200 && !isEmbedding ? 400 + Math.floor(roll() * 7400) : 0,
      };
      const total = Object.values(phases).reduce((sum, ms) => sum + ms, 0);
      const prompt = status === 200 ? 20 + Math.floor(roll() * 3000) : null;
      const completion = status === 200 && !isEmbedding ? Math.floor(phases.stream_ms / 18) : status === 200 ? 0 : null;
      return {
        id: String(count - index), request_id: `req-${(1e9 + Math.floor(roll() * 1e9)).toString(36)}`,
        started_at_ms: this.startedAt * 1000 - index * 4100 - Math.floor(roll() * 3000),
        endpoint: isEmbedding ? 'embeddings' : 'chat_completions', model, node: reached ? (hostile ? HOSTILE : nodes[Math.floor(roll() * 3)]) : null,
        status, duration_ms: Math.round(total), phases, prompt_tokens: prompt, completion_tokens: completion,
        total_tokens: prompt === null ? null : prompt + completion, attempts: reached ? 1 : 0,
        ended_by: status === 499 || cut ? 'client' : status === 504 ? 'timeout' : status === 200 ? 'node' : 'router',
        ended_in: status === 504 || status === 499 ? 'queue' : cut ? 'stream' : status === 401 ? 'auth' : status === 200 ? 'done' : 'admit',
        request_bytes: 400 + Math.floor(roll() * 9000), response_bytes: status === 200 ? 2000 + Math.floor(roll() * 90_000) : 120,
        is_stream: !isEmbedding && roll() < 0.8, key_id: status === 401 ? null : '1a2b3c4d',
      };
    });
  }

  // What the series say `back` seconds ago: a quiet morning, a wave, and what it left behind.
  point(at) {
    const back = this.startedAt - at;
    if (this.scenario === 'empty') {
      return { at, queue_size: 0, backpressure: 0, p95_ms: null, ttfb_p95_ms: null, cache_hit_rate: null, active_connections: 1, requests_per_sec: 0, tokens_per_sec: 0, in_flight: 0 };
    }
    const roll = dice(at);
    const wave = Math.exp(-(((back - 330) / 130) ** 2));
    const noise = () => roll() - 0.5;
    const queue = Math.max(0, Math.round(14 + 72 * wave + noise() * 9 + 7 * Math.sin(at / 60)));
    return {
      at, queue_size: queue, backpressure: queue >= 80 ? 2 : queue >= 50 ? 1 : 0,
      p95_ms: 1600 + 3900 * wave + noise() * 260, ttfb_p95_ms: 190 + 310 * wave + noise() * 40,
      cache_hit_rate: 0.965 + noise() * 0.02 - 0.05 * wave, active_connections: Math.round(210 + 160 * wave + noise() * 14),
      requests_per_sec: 31 + 26 * wave + noise() * 6, tokens_per_sec: 1720 + 900 * wave + noise() * 150, in_flight: Math.round(33 + 74 * wave + noise() * 6),
    };
  }

  series() {
    const first = Math.floor(Date.now() / 5000) * 5 - 895;
    return { interval_secs: 5, points: Array.from({ length: 180 }, (_, index) => this.point(first + index * 5)) };
  }

  snapshot() {
    const now = Math.floor(Date.now() / 1000);
    const point = this.point(Math.floor(now / 5) * 5);
    const empty = this.scenario === 'empty';
    this.requests += Math.round(point.requests_per_sec);
    const model = this.scenario === 'hostile' ? HOSTILE : 'llama-3.3-70b';
    const waiting = point.queue_size;
    const first = Math.round(waiting * 0.7);
    return {
      at_ms: Date.now(),
      load: {
        backpressure_state: ['normal', 'warning', 'overloaded'][point.backpressure], queue_size: waiting, max_queue_size: 100, load_ratio: waiting / 100,
        cache_hit_rate: point.cache_hit_rate, active_connections: point.active_connections,
        stats: { total_requests: empty ? 0 : this.requests, rejected_requests: empty ? 0 : 535, timeout_requests: empty ? 0 : 9, avg_wait_time_ms: empty ? 0 : 640 },
      },
      queue: {
        waiting_count: waiting, processing_count: empty ? 0 : 33,
        per_node: this.nodes.map((node) => ({ node: node.name, processing_count: node.slots_used })),
        per_model: empty ? [] : [{ model, waiting_count: first }, { model: 'qwen2.5-coder-32b', waiting_count: waiting - first }],
        avg_wait_time_ms: empty ? null : 642, avg_process_time_ms: empty ? null : 3120, timeout_count: empty ? 0 : 9, rejected_count: empty ? 0 : 499,
      },
      latency: empty ? { p50_ms: null, p95_ms: null, p99_ms: null } : { p50_ms: 1240, p95_ms: point.p95_ms, p99_ms: point.p95_ms * 1.6 },
      ttfb: empty ? { p50_ms: null, p95_ms: null } : { p50_ms: 84, p95_ms: point.ttfb_p95_ms },
      requests_per_sec: point.requests_per_sec, tokens_per_sec: point.tokens_per_sec, in_flight: point.in_flight, streams_active: empty ? 0 : 28,
      rejections: this.rejections, cancelled: {}, store: 'ok', version: '0.1.0', uptime_secs: 273_900,
      nodes: this.nodes.map(({ id, name, state, slots_used, slots_total }) => ({ id, name, state, slots_used, slots_total })),
    };
  }
}

export function startFake({ scenario = 'busy', port = 0 } = {}) {
  const world = new World(scenario);
  const streams = new Set();
  let isLoggedIn = false;
  let failures = 0;

  const json = (response, status, body, fields = {}) => {
    response.writeHead(status, { 'Content-Type': 'application/json', ...fields });
    response.end(body === undefined ? undefined : JSON.stringify(body));
  };
  const refuse = (response, status, code, message, fields) => json(response, status, { error: { message, type: 'invalid_request_error', code } }, fields);

  function asset(path, request, response) {
    const file = normalize(path === '/' ? '/index.html' : path.replace(/^\/assets/, ''));
    let body;
    try {
      body = readFileSync(join(ASSETS, file));
    } catch {
      refuse(response, 404, 'not_found', 'Not found');
      return;
    }
    const etag = `"${createHash('sha256').update(body).digest('hex').slice(0, 16)}"`;
    const fields = { ...SECURITY_FIELDS, ETag: etag, 'Content-Type': TYPES[extname(file)] };
    if (request.headers['if-none-match'] === etag) {
      response.writeHead(304, fields);
      response.end();
      return;
    }
    response.writeHead(200, fields);
    response.end(body);
  }

  function events(response) {
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
    const send = (name, data) => response.write(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
    send('series', world.series());
    send('snapshot', world.snapshot());
    let ticks = 0;
    const timer = setInterval(() => {
      ticks += 1;
      send('snapshot', world.snapshot());
      if (ticks % 5 === 0) send('point', world.point(Math.floor(Date.now() / 5000) * 5));
    }, 1000);
    const stream = { expire: () => { send('expired', {}); response.end(); }, cut: () => response.destroy() };
    streams.add(stream);
    response.on('close', () => {
      clearInterval(timer);
      streams.delete(stream);
    });
  }

  function history(url, response) {
    const page = Number(url.searchParams.get('page') ?? 1);
    const perPage = Number(url.searchParams.get('per_page') ?? 50);
    const status = url.searchParams.get('status') ?? '';
    const fits = (record) => (!url.searchParams.get('model') || record.model === url.searchParams.get('model'))
      && (!url.searchParams.get('node') || record.node === url.searchParams.get('node'))
      && (status === '' || String(record.status) === status || (status === 'success' && record.status < 400) || (status === 'error' && record.status >= 400)
        || (/^[2345]xx$/.test(status) && Math.floor(record.status / 100) === Number(status[0])));
    const records = world.records.filter(fits);
    json(response, 200, { records: records.slice((page - 1) * perPage, page * perPage), page, per_page: perPage, total: records.length, total_capped: false });
  }

  function api(url, request, response, body) {
    const path = url.pathname;
    const route = `${request.method} ${path}`;
    if (route === 'POST /api/auth/login') {
      if (failures >= 5) refuse(response, 429, 'too_many_attempts', 'Too many attempts', { 'Retry-After': '840' });
      else if (body.username === 'admin' && body.password === 'test') {
        isLoggedIn = true;
        json(response, 200, { token: 'fake', expires_in: 43_200, user: { username: 'admin' } }, { 'Set-Cookie': 'llm_router_session=fake; HttpOnly; SameSite=Strict; Path=/' });
      } else {
        failures += 1;
        refuse(response, 401, 'invalid_credentials', 'Wrong user name or password');
      }
      return;
    }
    if (!isLoggedIn) {
      refuse(response, 401, 'not_authenticated', 'Not authenticated');
      return;
    }
    if (route === 'GET /api/auth/me') json(response, 200, { user: { username: 'admin' }, via: 'session', expires_at: world.startedAt + 43_200 });
    else if (route === 'POST /api/auth/logout') {
      isLoggedIn = false;
      json(response, 204);
    } else if (route === 'GET /api/events') events(response);
    else if (scenario === 'failing') refuse(response, 503, 'store_unavailable', 'The store does not answer.');
    else if (scenario === 'loading') return;
    else if (route === 'GET /api/nodes') json(response, 200, { nodes: world.nodes });
    else if (route === 'POST /api/nodes') {
      if (!/^https?:\/\//.test(body.base_url)) {
        refuse(response, 400, 'invalid_field', '`base_url` must begin with http:// or https://');
        return;
      }
      const node = { ...world.nodes.at(-1), id: '77aa01f4c02e9b1d', name: body.name, base_url: body.base_url, state: 'pending', source: 'registered' };
      world.nodes.push(node);
      json(response, 201, { ...node, node_id: node.id, node_token: 'nt-4f9d1c07e2ab48d6b35a9e6c1f20d7b8' });
    } else if (route === 'GET /api/keys') json(response, 200, { keys: world.keys });
    else if (route === 'POST /api/keys') {
      const key = { id: '99fe', name: body.name, scopes: body.scopes, last_four: 'Qq1z', created_at: world.startedAt, expires_at: body.expires_at ?? null };
      world.keys.push(key);
      json(response, 201, { ...key, key: 'sk-V3tq8mPz0c7Wn5rYb2LxKj9dHs6fQq1z' });
    } else if (request.method === 'DELETE' && path.startsWith('/api/keys/')) {
      world.keys = world.keys.filter((key) => `/api/keys/${key.id}` !== path);
      json(response, 204);
    } else if (route === 'GET /api/history') history(url, response);
    else if (route === 'GET /api/history/facets') json(response, 200, { models: [...new Set(world.records.map((record) => record.model))], nodes: [...new Set(world.records.map((record) => record.node).filter(Boolean))] });
    else if (/^\/api\/nodes\/[^/]+(\/(drain|enable))?$/.test(path)) {
      const [, , , id, action] = path.split('/');
      const node = world.nodes.find((candidate) => candidate.id === decodeURIComponent(id));
      if (!node) refuse(response, 404, 'not_found', 'Not found');
      else if (request.method === 'DELETE') {
        world.nodes = world.nodes.filter((candidate) => candidate !== node);
        json(response, 204);
      } else {
        if (action) node.state = action === 'drain' ? 'draining' : 'online';
        else Object.assign(node, body);
        json(response, 200, node);
      }
    } else refuse(response, 404, 'not_found', 'Not found');
  }

  const server = createServer((request, response) => {
    const url = new URL(request.url, 'http://fake');
    const pieces = [];
    request.on('data', (piece) => pieces.push(piece));
    request.on('end', () => {
      if (!url.pathname.startsWith('/api/')) asset(url.pathname, request, response);
      else api(url, request, response, pieces.length > 0 ? JSON.parse(Buffer.concat(pieces)) : {});
    });
  });
  return new Promise((resolve) => {
    server.listen(port, '127.0.0.1', () => resolve({
      url: `http://127.0.0.1:${server.address().port}`,
      world,
      logIn: () => { isLoggedIn = true; },
      streams: () => streams.size,
      expire: () => {
        isLoggedIn = false;
        for (const stream of streams) stream.expire();
      },
      close: () => {
        server.closeAllConnections();
        server.close();
      },
    }));
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const fake = await startFake({ scenario: process.argv[2] ?? 'busy', port: Number(process.argv[3] ?? 8099) });
  console.log(`${fake.url} (admin / test)`);
}
