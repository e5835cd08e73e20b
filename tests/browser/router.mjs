// Starts the real binary: mock nodes and a router before them, on ports the system picks, and asks it
// things as a client would. Every wait is for a condition, with a deadline.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export const KEY = 'sk-browser-test';
export const MODEL = 'llama-3.2-1b';
const DEADLINE_MS = 20_000;

// Returns the first truthy value of `condition`; fails when there is none in time.
export async function until(what, condition, deadlineMs = DEADLINE_MS) {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (performance.now() > end) throw new Error(`did not happen within ${deadlineMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

class Process {
  constructor(command, ...options) {
    this.output = '';
    // A clean environment: settings of the caller's shell must not reach the router.
    this.child = spawn(command, options.map(String), { env: { PATH: process.env.PATH }, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.child.stdout, this.child.stderr]) stream.on('data', (piece) => { this.output += piece; });
    this.ended = new Promise((resolve) => { this.child.on('exit', (code) => resolve(code ?? 1)); });
    this.command = [command, ...options].join(' ');
  }

  async address() {
    return until(`an address from ${this.command}`, () => {
      if (this.child.exitCode !== null) throw new Error(`${this.command} ended:\n${this.output}`);
      return this.output.match(/\b127\.0\.0\.1:([1-9][0-9]*)\b/)?.[0];
    });
  }

  async stop() {
    if (this.child.exitCode === null) this.child.kill('SIGTERM');
    const late = new Promise((resolve) => { setTimeout(resolve, DEADLINE_MS, 'late').unref(); });
    if ((await Promise.race([this.ended, late])) === 'late') {
      this.child.kill('SIGKILL');
      throw new Error(`${this.command} did not end:\n${this.output}`);
    }
  }
}

// A mock node of its own process.
export async function startNode(binary, name, { models = [MODEL], slots = 8, firstTokenMs = 5, tokens = 8, tokenMs = 2 } = {}) {
  const node = new Process(binary, 'mock-node', '--name', name, '--models', models.join(','), '--tokens', tokens, '--slots', slots, '--first-token-ms', firstTokenMs, '--token-interval-ms', tokenMs);
  return { url: `http://${await node.address()}`, stop: () => node.stop() };
}

export class Router {
  static async start(binary, { nodes = 2, settings = {}, extra = [] } = {}) {
    const router = new Router();
    router.binary = binary;
    router.folder = mkdtempSync(join(tmpdir(), 'llm-router-browser-'));
    router.nodes = [];
    for (let index = 1; index <= nodes; index += 1) {
      router.nodes.push({ name: `node-${index}`, ...(await startNode(binary, `node-${index}`)) });
    }
    const described = [...router.nodes.map((node) => ({ models: [MODEL], ...node })), ...extra].map((node) => [
      '[[nodes]]', `name = ${JSON.stringify(node.name)}`, `base_url = "${node.url}"`, `models = ${JSON.stringify(node.models)}`, `max_concurrency = ${node.slots ?? 8}`,
    ].join('\n'));
    router.file = join(router.folder, 'config.toml');
    writeFileSync(router.file, [
      '[server]', 'host = "127.0.0.1"', 'workers = 2', 'drain_announce_secs = 0', `data_dir = "${router.folder}/data"`,
      '[auth]', `api_keys = ["${KEY}"]`, '[health]', 'probe_interval_secs = 1', ...described,
    ].join('\n'));
    router.isServing = described.length > 0;
    router.sets = Object.entries(settings).map(([key, value]) => `--set=${key}=${value}`);
    try {
      await router.run(0);
    } catch (error) {
      await router.close();
      throw error;
    }
    return router;
  }

  async run(port) {
    this.process = new Process(this.binary, 'serve', '--config', this.file, '--port', port, ...this.sets);
    const address = await this.process.address();
    this.port = Number(address.split(':')[1]);
    this.url = `http://${address}`;
    if (this.isServing) await until('readiness', async () => (await fetch(`${this.url}/ready`).catch(() => null))?.status === 200);
  }

  get pid() {
    return this.process.child.pid;
  }

  async stopProcess() {
    await this.process.stop();
  }

  async restart() {
    await this.run(this.port);
  }

  // One short chat; resolves to the status. A connection of its own, which is not kept.
  ask({ key = KEY, model = MODEL, path = '/v1/chat/completions', stream = false } = {}) {
    const body = JSON.stringify({ model, stream, ...(stream ? { stream_options: { include_usage: true } } : {}), messages: [{ role: 'user', content: 'Hello' }] });
    return new Promise((resolve, reject) => {
      const sent = request(`${this.url}${path}`, {
        method: 'POST', agent: false,
        headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) },
      }, (answer) => {
        answer.resume();
        answer.on('end', () => resolve(answer.statusCode));
        answer.on('error', reject);
      });
      sent.on('error', reject);
      sent.end(body);
    });
  }

  // A session of a client that is no browser: what it asks, it asks as the administrator.
  async administrator() {
    const answer = await this.api('POST', '/api/auth/login', { body: { username: 'admin', password: 'test' } });
    if (answer.status !== 200) throw new Error(`no login: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body.token;
  }

  async api(method, path, { token, body } = {}) {
    const headers = {};
    if (token) headers.Authorization = `Bearer ${token}`;
    if (body !== undefined) headers['Content-Type'] = 'application/json';
    const answer = await fetch(`${this.url}${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
    const text = await answer.text();
    return { status: answer.status, body: text && answer.headers.get('Content-Type')?.includes('json') ? JSON.parse(text) : text };
  }

  async close() {
    try {
      await this.process?.stop();
    } finally {
      await Promise.all(this.nodes.map((node) => node.stop()));
      rmSync(this.folder, { recursive: true, force: true });
    }
  }
}
