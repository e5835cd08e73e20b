// The official OpenAI SDK for Node, unmodified: only baseURL and apiKey are ours.
'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { setTimeout: pause } = require('node:timers/promises');
const OpenAI = require('openai');

const url = process.env.LLM_ROUTER_TEST_URL;
const nodes = process.env.LLM_ROUTER_TEST_NODES.split(',');
const messages = [{ role: 'user', content: 'Hello' }];
const model = 'llama-3.2-1b';
const slowModel = 'slow-model';
const tokens = 16;

// No retries: a failure must show, not be repaired by the SDK.
const client = (options = {}) =>
  new OpenAI({ apiKey: 'sk-sdk-test', baseURL: `${url}/v1`, maxRetries: 0, ...options });

async function all(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

async function until(what, condition, deadlineMs = 5000) {
  const end = Date.now() + deadlineMs;
  while (!(await condition())) {
    if (Date.now() > end) assert.fail(`did not happen within ${deadlineMs} ms: ${what}`);
    await pause(10);
  }
}

async function abortedAtNodes() {
  const stats = await Promise.all(nodes.map(async (node) => (await fetch(`${node}/stats`)).json()));
  return stats.reduce((sum, one) => sum + one.aborted, 0);
}

async function idle() {
  const page = await (await fetch(`${url}/metrics`)).text();
  const busy = /^llm_router_(requests_in_flight|streams_active|node_in_flight\S*) (?!0$)/m;
  return !busy.test(page);
}

test('a chat completion is the node\'s own', async () => {
  const answer = await client().chat.completions.create({ model, messages, user: 'nonce-1' });
  assert.equal(answer.object, 'chat.completion');
  assert.ok(answer.choices[0].message.content.startsWith('nonce-1 '));
  assert.equal(answer.usage.completion_tokens, tokens);
});

test('a stream arrives complete and in order', async () => {
  const stream = await client().chat.completions.create({ model, messages, stream: true });
  const chunks = await all(stream);
  assert.deepEqual(chunks.map((chunk) => chunk.mock.event), [...Array(tokens + 2).keys()]);
  assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
});

test('a stream ends with the usage when it is asked for', async () => {
  const stream = await client().chat.completions.create({
    model, messages, stream: true, stream_options: { include_usage: true },
  });
  const last = (await all(stream)).at(-1);
  assert.deepEqual(last.choices, []);
  assert.equal(last.usage.completion_tokens, tokens);
});

test('a text completion', async () => {
  const answer = await client().completions.create({ model, prompt: 'The capital of France is' });
  assert.equal(answer.object, 'text_completion');
});

test('embeddings in the SDK\'s base64 equal those in floats', async () => {
  const request = { model: 'all-minilm-l6-v2', input: ['Hello world', 'Goodbye world'] };
  const usual = await client().embeddings.create(request);
  const floats = await client().embeddings.create({ ...request, encoding_format: 'float' });
  assert.equal(usual.data.length, 2);
  assert.deepEqual(
    usual.data.map((item) => Array.from(item.embedding)),
    floats.data.map((item) => item.embedding),
  );
});

test('the responses API, whole and as a stream', async () => {
  const answer = await client().responses.create({ model, input: 'Hello' });
  assert.equal(answer.status, 'completed');
  const events = await all(await client().responses.create({ model, input: 'Hi', stream: true }));
  assert.equal(events[0].type, 'response.created');
  assert.equal(events.at(-1).type, 'response.completed');
});

test('models are listed and retrieved', async () => {
  const ids = (await all(await client().models.list())).map((entry) => entry.id);
  assert.deepEqual(ids.sort(), ['all-minilm-l6-v2', 'gpt-4o-mini', model, slowModel].sort());
  assert.equal((await client().models.retrieve(model)).id, model);
});

test('an alias reaches the model behind it', async () => {
  const answer = await client().chat.completions.create({ model: 'gpt-4o-mini', messages });
  assert.equal(answer.model, model);
});

test('a wrong key is an AuthenticationError', async () => {
  const asking = client({ apiKey: 'sk-wrong' }).chat.completions.create({ model, messages });
  await assert.rejects(asking, (error) => {
    assert.ok(error instanceof OpenAI.AuthenticationError);
    assert.equal(error.status, 401);
    assert.equal(error.code, 'invalid_api_key');
    return true;
  });
});

test('an unknown model is a NotFoundError', async () => {
  const asking = client().chat.completions.create({ model: 'nobody-has-this', messages });
  await assert.rejects(asking, (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, 'model_not_found');
    return true;
  });
});

test('a stream aborted in the middle frees the node', async () => {
  const before = await abortedAtNodes();
  const stream = await client().chat.completions.create({ model: slowModel, messages, stream: true });
  for await (const chunk of stream) {
    assert.equal(chunk.choices[0].delta.role, 'assistant');
    stream.controller.abort();
    break;
  }
  await until('the node to notice', async () => (await abortedAtNodes()) > before);
  await until('all gauges at zero', idle);
});

test('a client that runs out of patience frees the node', async () => {
  const before = await abortedAtNodes();
  const asking = client({ timeout: 300 }).chat.completions.create({ model: slowModel, messages });
  await assert.rejects(asking, OpenAI.APIConnectionTimeoutError);
  await until('the node to notice', async () => (await abortedAtNodes()) > before);
  await until('all gauges at zero', idle);
});
