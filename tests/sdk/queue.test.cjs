// The official OpenAI SDK for Node, unmodified, on streams that begin while they wait for a node.
'use strict';

const assert = require('node:assert/strict');
const { test } = require('node:test');
const { setTimeout: pause } = require('node:timers/promises');
const OpenAI = require('openai');

const url = process.env.LLM_ROUTER_TEST_QUEUE_URL;
const messages = [{ role: 'user', content: 'Hello' }];
const tokens = 16;
// No retries: a failure must show, not be repaired by the SDK.
const client = new OpenAI({ apiKey: 'sk-sdk-test', baseURL: `${url}/v1`, maxRetries: 0 });

async function gauge(name) {
  const page = await (await fetch(`${url}/metrics`)).text();
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(page)[1]);
}

async function until(what, condition, deadlineMs = 10000) {
  const end = Date.now() + deadlineMs;
  while (!(await condition())) {
    if (Date.now() > end) assert.fail(`did not happen within ${deadlineMs} ms: ${what}`);
    await pause(10);
  }
}

// A request that occupies the only slot of the model's node; to be awaited at the end.
async function occupy(model) {
  const answer = client.chat.completions.create({ model, messages });
  await until('the node is busy', async () => (await gauge('llm_router_requests_in_flight')) === 1);
  return { answer };
}

test('a stream that waited is complete', async () => {
  const model = 'busy-model';
  const { answer } = await occupy(model);
  const { data: stream, response } = await client.chat.completions
    .create({ model, messages, stream: true })
    .withResponse();
  assert.equal(response.headers.get('x-queue-position'), '1');
  assert.equal(response.headers.get('x-estimated-wait'), '1');
  const events = [];
  for await (const chunk of stream) events.push(chunk.mock.event);
  assert.deepEqual(events, [...Array(tokens + 2).keys()]);
  await answer;
});

test('a wait in vain is an APIError', async () => {
  const model = 'stuck-model';
  const { answer } = await occupy(model);
  const reading = async () => {
    const stream = await client.chat.completions.create({ model, messages, stream: true });
    for await (const chunk of stream) assert.fail(`an event of nobody: ${JSON.stringify(chunk)}`);
  };
  await assert.rejects(reading, (error) => {
    assert.ok(error instanceof OpenAI.APIError);
    assert.match(error.message, /Request timeout after 2 seconds/);
    assert.equal(error.code, 'wait_timeout');
    assert.equal(error.type, 'gateway_timeout');
    return true;
  });
  await answer;
});
