"""Clients whose requests wait or are refused: the flows of the load and queue quickstarts, and the
OpenAI SDK on streams that begin while they wait."""

import asyncio
import os
import threading
import time
import unittest

import aiohttp
import httpx
import openai
import requests

from stack import BUSY_MODEL, KEY, STUCK_MODEL, TOKENS, WAITING_STREAMS, QueueStack, until

HEADERS = {"Authorization": f"Bearer {KEY}"}


def chat(prompt, model=BUSY_MODEL):
    return {"model": model, "messages": [{"role": "user", "content": prompt}]}


class Queueing(unittest.TestCase):
    """A router of its own for each test, before nodes that serve one request at a time."""

    def start(self, nodes, **settings):
        self.stack = QueueStack(
            os.environ["LLM_ROUTER_TEST_BINARY"],
            os.environ["LLM_ROUTER_TEST_IO_DRIVER"],
            nodes,
            **settings,
        )
        self.addCleanup(self.stack.close)
        self.url = f"{self.stack.url}/v1/chat/completions"

    def occupy(self, in_flight, waiting, model=BUSY_MODEL):
        """One request in the background; returns once so many are under way and so many wait."""

        def ask():
            httpx.post(self.url, headers=HEADERS, json=chat("background", model), timeout=60)

        thread = threading.Thread(target=ask)
        thread.start()
        self.addCleanup(thread.join)
        until(
            "the request is where it should be",
            lambda: (self.stack.in_flight(), self.stack.waiting()) == (in_flight, waiting),
        )


class LoadQuickstart(Queueing):
    """Tries again after 503 and 504, with httpx."""

    def ask_until_served(self, prompt, tries=5):
        statuses = []
        for attempt in range(tries):
            response = httpx.post(self.url, headers=HEADERS, json=chat(prompt), timeout=60.0)
            statuses.append(response.status_code)
            if response.status_code == 200:
                return response.json(), statuses
            code = response.json()["error"]["code"]
            if response.status_code == 503:
                self.assertEqual(code, "queue_full")
                self.assertGreaterEqual(int(response.headers["Retry-After"]), 1)
                time.sleep(2**attempt)
            elif response.status_code == 504:
                self.assertEqual(code, "wait_timeout")
                time.sleep(5)
            else:
                response.raise_for_status()
        self.fail(f"never served: {statuses}")

    def test_a_refusal_by_an_overloaded_router_is_followed_by_an_answer(self):
        self.start({BUSY_MODEL: 1500}, **{"load_manager.max_waiting": 1})
        self.occupy(1, 0)
        self.occupy(2, 1)
        answer, statuses = self.ask_until_served("Hello")
        self.assertEqual(answer["object"], "chat.completion")
        self.assertEqual(statuses[0], 503)
        self.assertEqual(statuses[-1], 200)

    def test_a_wait_in_vain_is_followed_by_an_answer(self):
        self.start({BUSY_MODEL: 2500}, **{"load_manager.default_timeout_secs": 1})
        self.occupy(1, 0)
        answer, statuses = self.ask_until_served("Hello")
        self.assertEqual(answer["object"], "chat.completion")
        self.assertEqual(statuses, [504, 200])


class QueueQuickstart(Queueing):
    """Five requests at once with aiohttp; tries again after 429, with requests."""

    def test_five_requests_at_once_are_all_answered_and_four_are_told_their_place(self):
        self.start({BUSY_MODEL: 200})

        async def ask(session, number):
            async with session.post(
                self.url, headers=HEADERS, json=chat(f"Question {number}")
            ) as response:
                told = (
                    response.headers.get("X-Queue-Position"),
                    response.headers.get("X-Estimated-Wait"),
                )
                return told, await response.json()

        async def ask_all():
            async with aiohttp.ClientSession() as session:
                return await asyncio.gather(*(ask(session, number) for number in range(5)))

        results = asyncio.run(ask_all())
        for _, answer in results:
            self.assertTrue(answer["choices"][0]["message"]["content"])
        told = [told for told, _ in results if told != (None, None)]
        self.assertEqual(sorted(place for place, _ in told), ["1", "2", "3", "4"])
        for place, wait in told:
            # A second each is assumed until something was measured.
            self.assertEqual(wait, place)

    def ask_until_served(self, prompt, tries=4):
        statuses = []
        for _ in range(tries):
            response = requests.post(self.url, headers=HEADERS, json=chat(prompt), timeout=60)
            statuses.append(response.status_code)
            if response.status_code == 200:
                return response.json(), statuses
            if response.status_code == 429:
                self.assertEqual(response.json()["error"]["code"], "queue_full")
                time.sleep(int(response.headers.get("Retry-After", 5)))
            elif response.status_code != 504:
                response.raise_for_status()
        self.fail(f"never served: {statuses}")

    def test_a_full_queue_is_followed_by_an_answer(self):
        self.start({BUSY_MODEL: 1500}, **{"queue.max_size": 1})
        self.occupy(1, 0)
        self.occupy(2, 1)
        answer, statuses = self.ask_until_served("Hello")
        self.assertEqual(answer["object"], "chat.completion")
        self.assertEqual(statuses, [429, 200], "Retry-After told long enough")


class WaitingStreams(Queueing):
    """The OpenAI SDK, unmodified, with `queue.stream_position`."""

    def setUp(self):
        self.start(**WAITING_STREAMS)
        self.api = openai.OpenAI(api_key=KEY, base_url=f"{self.stack.url}/v1", max_retries=0)
        self.addCleanup(self.api.close)

    def test_a_stream_that_waited_is_complete(self):
        self.occupy(1, 0)
        raw = self.api.chat.completions.with_raw_response.create(
            model=BUSY_MODEL, messages=chat("Hi")["messages"], user="nonce-q", stream=True
        )
        # The head was there before the node had heard of the request.
        self.assertEqual(raw.headers["x-queue-position"], "1")
        self.assertEqual(raw.headers["x-estimated-wait"], "1")
        self.assertEqual(self.stack.waiting(), 1)
        chunks = list(raw.parse())
        events = [chunk.model_extra["mock"]["event"] for chunk in chunks]
        self.assertEqual(events, list(range(TOKENS + 2)))
        self.assertEqual(chunks[-1].choices[0].finish_reason, "stop")

    def test_a_wait_in_vain_is_an_api_error(self):
        self.occupy(1, 0, STUCK_MODEL)
        with self.assertRaises(openai.APIError) as caught:
            list(
                self.api.chat.completions.create(
                    model=STUCK_MODEL, messages=chat("Hi")["messages"], stream=True
                )
            )
        self.assertEqual(caught.exception.message, "Request timeout after 2 seconds")
        self.assertEqual(caught.exception.code, "wait_timeout")
        self.assertEqual(caught.exception.type, "gateway_timeout")
