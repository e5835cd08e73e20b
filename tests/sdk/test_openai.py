"""The official OpenAI SDK for Python, unmodified: only base_url and api_key are ours."""

import asyncio
import io
import unittest

import openai

from observe import node_stats, until_idle, url
from stack import ALIAS, EMBEDDING_MODEL, KEY, MODEL, SLOW_MODEL, TOKENS, until

HELLO = [{"role": "user", "content": "Hello"}]


def client(**options):
    # No retries: a failure must show, not be repaired by the SDK.
    options = {"api_key": KEY, "base_url": f"{url()}/v1", "max_retries": 0, **options}
    return openai.OpenAI(**options)


class Chat(unittest.TestCase):
    def test_a_chat_completion_is_the_nodes_own(self):
        with client() as api:
            answer = api.chat.completions.create(model=MODEL, messages=HELLO, user="nonce-1")
        self.assertEqual(answer.object, "chat.completion")
        self.assertEqual(answer.model, MODEL)
        self.assertTrue(answer.choices[0].message.content.startswith("nonce-1 "))
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertEqual(answer.usage.completion_tokens, TOKENS)
        self.assertIn(answer.model_extra["mock"]["node"], ("node-a", "node-b"))

    def test_an_answer_carries_a_request_id_and_the_load_state(self):
        with client() as api:
            raw = api.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
        self.assertTrue(raw.headers["x-request-id"])
        self.assertEqual(raw.headers["x-backpressure"], "normal")

    def test_a_stream_arrives_complete_and_in_order(self):
        with client() as api:
            stream = api.chat.completions.create(
                model=MODEL, messages=HELLO, user="nonce-2", stream=True
            )
            chunks = list(stream)
        events = [chunk.model_extra["mock"]["event"] for chunk in chunks]
        self.assertEqual(events, list(range(TOKENS + 2)))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual(chunks[-1].choices[0].finish_reason, "stop")
        for number, chunk in enumerate(chunks[1:-1], start=1):
            self.assertTrue(chunk.choices[0].delta.content.startswith(f"nonce-2#{number} "))
        self.assertEqual({chunk.model_extra["mock"]["nonce"] for chunk in chunks}, {"nonce-2"})

    def test_a_stream_ends_with_the_usage_when_it_is_asked_for(self):
        with client() as api:
            stream = api.chat.completions.create(
                model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
            chunks = list(stream)
        self.assertEqual(chunks[-1].choices, [])
        self.assertEqual(chunks[-1].usage.completion_tokens, TOKENS)
        self.assertTrue(all(chunk.usage is None for chunk in chunks[:-1]))

    def test_an_alias_reaches_the_model_behind_it(self):
        with client() as api:
            answer = api.chat.completions.create(model=ALIAS, messages=HELLO)
        self.assertEqual(answer.model, MODEL)

    def test_concurrent_requests_get_their_own_answers_from_both_nodes(self):
        async def ask(api, number):
            nonce = f"nonce-c{number}"
            answer = await api.chat.completions.create(model=MODEL, messages=HELLO, user=nonce)
            mark = answer.model_extra["mock"]
            return mark["nonce"] == nonce, mark["node"]

        async def ask_all():
            async with openai.AsyncOpenAI(
                api_key=KEY, base_url=f"{url()}/v1", max_retries=0
            ) as api:
                return await asyncio.gather(*(ask(api, number) for number in range(40)))

        answers = asyncio.run(ask_all())
        self.assertTrue(all(own for own, _ in answers))
        self.assertEqual({node for _, node in answers}, {"node-a", "node-b"})


class OtherEndpoints(unittest.TestCase):
    def test_a_text_completion(self):
        with client() as api:
            answer = api.completions.create(model=MODEL, prompt="The capital of France is")
        self.assertEqual(answer.object, "text_completion")
        self.assertTrue(answer.choices[0].text)

    def test_a_streamed_text_completion(self):
        with client() as api:
            stream = api.completions.create(model=MODEL, prompt="The capital", stream=True)
            chunks = list(stream)
        events = [chunk.model_extra["mock"]["event"] for chunk in chunks]
        self.assertEqual(events, list(range(TOKENS + 1)))

    def test_embeddings_in_the_sdks_base64_equal_those_in_floats(self):
        with client() as api:
            texts = ["Hello world", "Goodbye world"]
            usual = api.embeddings.create(model=EMBEDDING_MODEL, input=texts)
            floats = api.embeddings.create(
                model=EMBEDDING_MODEL, input=texts, encoding_format="float"
            )
        self.assertEqual(len(usual.data), 2)
        self.assertEqual(
            [item.embedding for item in usual.data], [item.embedding for item in floats.data]
        )

    def test_the_responses_api(self):
        with client() as api:
            answer = api.responses.create(model=MODEL, input="Hello", user="nonce-3")
        self.assertEqual(answer.status, "completed")
        self.assertTrue(answer.output_text.startswith("nonce-3 "))

    def test_the_responses_api_as_a_stream(self):
        with client() as api:
            events = list(api.responses.create(model=MODEL, input="Hello", stream=True))
        self.assertEqual(events[0].type, "response.created")
        self.assertEqual(events[-1].type, "response.completed")
        numbers = [event.sequence_number for event in events]
        self.assertEqual(numbers, list(range(len(numbers))))

    def test_an_uploaded_file_in_a_form(self):
        with client() as api:
            sound = io.BytesIO(b"RIFF" + bytes(100_000))
            sound.name = "speech.wav"
            answer = api.audio.transcriptions.create(model=MODEL, file=sound)
        self.assertTrue(answer.text)

    def test_the_models_of_all_nodes_and_the_aliases_are_listed_once(self):
        with client() as api:
            ids = [model.id for model in api.models.list()]
        self.assertEqual(sorted(ids), sorted([MODEL, EMBEDDING_MODEL, SLOW_MODEL, ALIAS]))

    def test_one_model_can_be_retrieved(self):
        with client() as api:
            self.assertEqual(api.models.retrieve(MODEL).id, MODEL)
            with self.assertRaises(openai.NotFoundError) as caught:
                api.models.retrieve("nobody-has-this")
        self.assertEqual(caught.exception.code, "model_not_found")


class Errors(unittest.TestCase):
    def test_a_wrong_key_is_an_authentication_error(self):
        with client(api_key="sk-wrong") as api, self.assertRaises(
            openai.AuthenticationError
        ) as caught:
            api.chat.completions.create(model=MODEL, messages=HELLO)
        self.assertEqual(caught.exception.status_code, 401)
        self.assertEqual(caught.exception.code, "invalid_api_key")
        self.assertEqual(caught.exception.body["message"], "Invalid API key")

    def test_an_unknown_model_is_a_not_found_error(self):
        with client() as api, self.assertRaises(openai.NotFoundError) as caught:
            api.chat.completions.create(model="nobody-has-this", messages=HELLO)
        self.assertEqual(caught.exception.code, "model_not_found")
        self.assertIn("nobody-has-this", caught.exception.body["message"])

    def test_a_request_without_a_model_is_a_bad_request_error(self):
        with client() as api, self.assertRaises(openai.BadRequestError) as caught:
            api.post("/chat/completions", body={"messages": HELLO}, cast_to=object)
        self.assertEqual(caught.exception.code, "missing_model")
        self.assertEqual(caught.exception.type, "invalid_request_error")


class LeavingEarly(unittest.TestCase):
    def test_a_client_that_runs_out_of_patience_frees_the_node(self):
        aborted_before = node_stats()["aborted"]
        with client(timeout=0.3) as api, self.assertRaises(openai.APITimeoutError):
            api.chat.completions.create(model=SLOW_MODEL, messages=HELLO)
        until("the node to notice", lambda: node_stats()["aborted"] > aborted_before)
        until_idle()

    def test_a_stream_closed_in_the_middle_frees_the_node(self):
        aborted_before = node_stats()["aborted"]
        with client() as api:
            stream = api.chat.completions.create(model=SLOW_MODEL, messages=HELLO, stream=True)
            first = next(iter(stream))
            stream.close()
        self.assertEqual(first.choices[0].delta.role, "assistant")
        until("the node to notice", lambda: node_stats()["aborted"] > aborted_before)
        until_idle()

    def test_a_cancelled_task_frees_the_node(self):
        aborted_before = node_stats()["aborted"]

        async def cancel():
            async with openai.AsyncOpenAI(
                api_key=KEY, base_url=f"{url()}/v1", max_retries=0
            ) as api:
                asking = asyncio.create_task(
                    api.chat.completions.create(model=SLOW_MODEL, messages=HELLO)
                )
                await asyncio.wait([asking], timeout=0.3)
                asking.cancel()
                with self.assertRaises(asyncio.CancelledError):
                    await asking

        asyncio.run(cancel())
        until("the node to notice", lambda: node_stats()["aborted"] > aborted_before)
        until_idle()
