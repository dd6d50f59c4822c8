"""onset serve: every endpoint, streams, errors, limits, keys, TLS, leaving clients, the end."""

import base64
import json
import re
import ssl
import struct
import threading
import time
import unittest

import harness
from serve_client import STORIES, TOOLS_TEMPLATE, Server, certificate, chat_model

ONCE = {"model": "a", "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
HELLO = {"model": "a", "messages": [{"role": "user", "content": "Once upon a time"}], "max_tokens": 12, "temperature": 0}


# Some hundred thousand tokens: no machine is so fast that this ends before a test has done what it must do meanwhile.
ENDLESS = {**ONCE, "prompt": ["Once upon a time"] * 16, "n": 128, "max_tokens": 400, "stream": True, "ignore_eos": True}


def streamed(server, asked):
    """A socket on which the answer's stream has begun, and what came."""
    body = json.dumps(asked)
    sock = server.raw(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    first = sock.recv(1000)
    server.test.assertIn(b"200 OK", first)
    return sock, first


def wait_until(test, condition, what, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        test.assertLess(time.monotonic(), end, what)
        time.sleep(0.02)


class Answers(harness.Test):
    def setUp(self):
        super().setUp()
        self.server = Server(self)

    def test_completions_whole_and_streamed_are_the_same(self):
        whole = self.server.post("/v1/completions", **ONCE)
        self.assertEqual((whole["object"], whole["model"]), ("text_completion", "a"))
        self.assertEqual(whole["choices"][0]["finish_reason"], "length")
        self.assertEqual(whole["usage"]["completion_tokens"], 12)
        self.assertEqual(whole["usage"]["total_tokens"], whole["usage"]["prompt_tokens"] + 12)
        chunks = self.server.events("/v1/completions", **ONCE, stream_options={"include_usage": True})
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks[:-1]), whole["choices"][0]["text"])
        usage = chunks[-1]["usage"]
        # The same prompt again: all of it is known, but its last token has to run.
        self.assertEqual(usage.pop("prompt_tokens_details"), {"cached_tokens": usage["prompt_tokens"] - 1})
        whole["usage"].pop("prompt_tokens_details")
        self.assertEqual(usage, whole["usage"])
        self.assertEqual(chunks[-1]["choices"], [])
        reasons = [c["choices"][0]["finish_reason"] for c in chunks[:-1]]
        self.assertEqual((set(reasons[:-1]) - {None}, reasons[-1]), (set(), "length"))
        self.assertEqual(len({c["id"] for c in chunks}), 1)

    def test_the_same_as_onset_run(self):
        run = self.onset("run", "--raw", "--no-cache", "--quiet", "--model", STORIES, "-n", 12, "Once upon a time").stdout
        self.assertEqual(self.server.post("/v1/completions", **ONCE)["choices"][0]["text"], run.removesuffix("\n"))

    def test_chat_whole_and_streamed_are_the_same(self):
        whole = self.server.post("/v1/chat/completions", **HELLO)
        self.assertEqual(whole["object"], "chat.completion")
        message = whole["choices"][0]["message"]
        self.assertEqual((message["role"], message["refusal"]), ("assistant", None))
        chunks = self.server.events("/v1/chat/completions", **HELLO)
        self.assertEqual(chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": "", "refusal": None})
        self.assertEqual("".join(c["choices"][0]["delta"].get("content", "") for c in chunks), message["content"])
        self.assertEqual((chunks[-1]["choices"][0]["delta"], chunks[-1]["choices"][0]["finish_reason"]), ({}, "length"))
        self.assertNotIn("usage", chunks[-1])

    def test_a_request_says_which_tokens_go_on(self):
        text = "Once upon a time there was a little dog who liked to play. " * 8
        ask = {**ONCE, "prompt": text, "ignore_eos": True}
        whole = self.server.post("/v1/completions", **ask)
        self.assertNotIn("onset", whole)
        kept = self.server.post("/v1/completions", **ask, onset={"select": "lazyllm:1,3:1"})
        self.assertEqual(kept["choices"], whole["choices"])
        pruned = self.server.post("/v1/completions", **ask, onset={"select": "lazyllm:1,3:0.5"})
        tokens = pruned["usage"]["prompt_tokens"]
        self.assertEqual(pruned["onset"]["select"]["prompt_rows"][:2], [tokens, (tokens + 1) // 2])
        self.assertEqual(pruned["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        self.assertNotIn("reuse", pruned["onset"])
        self.assertNotIn("onset", self.server.post("/v1/completions", **ask, onset={"select": "all"}))
        # The same beside others.
        answers = []
        others = [threading.Thread(target=lambda: self.server.post("/v1/completions", **{**ask, "n": 4, "max_tokens": 60})) for _ in range(3)]
        askers = [threading.Thread(target=lambda: answers.append(self.server.post("/v1/completions", **ask, onset={"select": "lazyllm:1,3:0.5"})))
                  for _ in range(3)]
        for thread in others + askers:
            thread.start()
        for thread in others + askers:
            thread.join()
        self.assertEqual([answer["choices"] for answer in answers], [pruned["choices"]] * 3)
        for onset, sentence in (({"select": "lazy"}, "there is no select policy lazy"), ({"select": "lazyllm:1,9:0.5"}, "prunes after layer 9"),
                                ({"select": 5}, "onset.select"), ({"select": "lazyllm:1:2"}, "2 is not a share"),
                                ({"select": "lazyllm", "contexts": [{"text": "A."}], "reuse": "ape"}, "goes with contexts that are read in order")):
            refused = self.server.post("/v1/completions", status=400, **ask, onset=onset)
            self.assertIn(sentence, refused["error"]["message"])
            self.assertEqual(refused["error"]["param"], "onset.select")

    def test_contexts_are_reused_in_any_order(self):
        contexts = [{"text": "Lily has a red ball. " * 3}, {"text": "Tom has a blue car and a dog. " * 2}]

        def ask(order, path="/v1/completions", body=ONCE, **onset):
            return self.server.post(path, **{**body, "onset": {"contexts": [contexts[i] for i in order], **onset}})

        sequential = ask((0, 1))
        self.assertEqual(sequential["onset"]["reuse"], "prefix")
        self.assertNotIn("recomputed_tokens", sequential["onset"])
        for _ in range(2):  # nothing is looked up, and nothing kept
            whole = ask((0, 1), reuse="none")
            self.assertEqual((whole["onset"]["reuse"], whole["onset"]["cached_tokens"]), ("none", 0))
            self.assertEqual(whole["choices"], sequential["choices"])
        # Everything computed again is the same answer.
        self.assertEqual(ask((0, 1), reuse="cacheblend", ratio=1)["choices"], sequential["choices"])
        for way in ("cacheblend", "full", "ape"):
            ask((0, 1), reuse=way)
            again = ask((1, 0), reuse=way)
            tokens = again["onset"]["context_tokens"]
            self.assertGreaterEqual(again["onset"]["cached_tokens"], tokens, again)
            self.assertGreater(again["usage"]["prompt_tokens"], tokens)
            if way != "ape":
                rows = again["onset"]["recomputed_tokens"]
                self.assertEqual(again["onset"]["reused_tokens"], tokens)
                self.assertEqual((rows[0], rows[1]), (tokens, int(0.15 * tokens)) if way == "cacheblend" else (0, 0))
        # By their names, of which the answer tells.
        named = [{"id": context["id"]} for context in again["onset"]["contexts"]]
        by_name = self.server.post("/v1/completions", **{**ONCE, "onset": {"contexts": named, "reuse": "ape"}})
        self.assertEqual((by_name["choices"], by_name["usage"]), (again["choices"], again["usage"]))
        unknown = self.server.post("/v1/completions", status=404, **{**ONCE, "onset": {"contexts": [*named, {"id": "ctx-0"}]}})
        self.assertEqual((unknown["error"]["param"], unknown["error"]["code"]), ("onset.contexts[2].id", "context_not_found"))
        # The steps on the way to ape differ from it, and from each other; line ends may stand before the contexts.
        steps = [ask((0, 1), body={**ONCE, "logprobs": 1}, reuse=way, **more)["choices"][0]["logprobs"] for way, more in (("pcw", {}), ("pcw+p", {}), ("pcw+p+t", {}), ("ape", {}), ("ape", {"newlines": 9}))]
        self.assertEqual(len({json.dumps(step) for step in steps}), 5)
        self.assertEqual(ask((0, 1), body={**ONCE, "logprobs": 1}, reuse="ape", scale=1)["choices"][0]["logprobs"], steps[2])
        chat = ask((0, 1), "/v1/chat/completions", HELLO, reuse="cacheblend")
        self.assertEqual(chat["onset"]["reuse"], "cacheblend")
        streamed = {**HELLO, "stream_options": {"include_usage": True}, "onset": {"contexts": contexts, "reuse": "cacheblend"}}
        self.assertEqual(self.server.events("/v1/chat/completions", **streamed)[-1]["onset"]["context_tokens"], chat["onset"]["context_tokens"])
        for body, param in (({**ONCE, "prompt": [5]}, "prompt"), ({**ONCE, "prompt": ["a", "b"]}, "prompt"), ({**ONCE, "prompt": ""}, "prompt")):
            refused = self.server.post("/v1/completions", status=400, **{**body, "onset": {"contexts": contexts}})
            self.assertEqual(refused["error"]["param"], param)
        long = {"contexts": [{"text": "x " * 2000}], "reuse": "cacheblend"}
        self.assertEqual(self.server.post("/v1/completions", status=400, **{**ONCE, "onset": long})["error"]["code"], "context_length_exceeded")
        long["reuse"] = "ape"
        self.assertIn("context 1 has", self.server.post("/v1/completions", status=400, **{**ONCE, "onset": long})["error"]["message"])

    def test_choices_prompts_and_seeds(self):
        asked = {**ONCE, "temperature": 1.0, "seed": 3, "n": 2, "prompt": ["Once upon", "There was"]}
        first, second = (self.server.post("/v1/completions", **asked) for _ in range(2))
        texts = [choice["text"] for choice in first["choices"]]
        self.assertEqual([choice["index"] for choice in first["choices"]], [0, 1, 2, 3])
        self.assertEqual(len(set(texts)), 4)
        self.assertEqual(texts, [choice["text"] for choice in second["choices"]])
        chunks = self.server.events("/v1/completions", **asked)
        for index in range(4):
            self.assertEqual("".join(c["choices"][0]["text"] for c in chunks if c["choices"][0]["index"] == index), texts[index])

    def test_token_ids_as_prompt(self):
        tokens = self.server.post("/tokenize", text="Once upon a time")["tokens"]
        by_text, by_ids = self.server.post("/v1/completions", **ONCE), self.server.post("/v1/completions", **{**ONCE, "prompt": tokens})
        self.assertEqual(by_text["choices"], by_ids["choices"])
        self.assertIn("Once upon a time", self.server.post("/detokenize", tokens=tokens)["text"])

    def test_stop_strings(self):
        text = self.server.post("/v1/completions", **{**ONCE, "max_tokens": 40})["choices"][0]["text"]
        stop = text[10:14]
        stopped = self.server.post("/v1/completions", **{**ONCE, "max_tokens": 40, "stop": stop})["choices"][0]
        self.assertEqual((stopped["text"], stopped["finish_reason"]), (text[:text.index(stop)], "stop"))
        chunks = self.server.events("/v1/completions", **{**ONCE, "max_tokens": 40, "stop": [stop]})
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks), stopped["text"])

    def test_logprobs(self):
        logprobs = self.server.post("/v1/completions", **ONCE, logprobs=3)["choices"][0]["logprobs"]
        self.assertEqual({name: len(values) for name, values in logprobs.items()},
                         {"text_offset": 12, "token_logprobs": 12, "tokens": 12, "top_logprobs": 12})
        for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]):
            self.assertEqual(max(top, key=top.get), token)  # greedy
            self.assertEqual(top[token], value)
        content = self.server.post("/v1/chat/completions", **HELLO, logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(content), 12)
        self.assertEqual([len(entry["top_logprobs"]) for entry in content], [2] * 12)
        self.assertEqual(bytes(content[0]["bytes"]).decode(), content[0]["token"])
        streamed = [entry for c in self.server.events("/v1/chat/completions", **HELLO, logprobs=True, top_logprobs=2)
                    for entry in (c["choices"][0]["logprobs"] or {"content": []})["content"]]
        self.assertEqual(streamed, content)

    def test_bias_and_penalties_change_the_answer(self):
        plain = self.server.post("/v1/completions", **ONCE)["choices"][0]["text"]
        first = self.server.post("/v1/completions", **{**ONCE, "max_tokens": 1}, logprobs=0)["choices"][0]
        token = self.server.post("/tokenize", text=first["text"], add_special=False)["tokens"][-1]
        self.assertNotEqual(self.server.post("/v1/completions", **ONCE, logit_bias={str(token): -100})["choices"][0]["text"], plain)
        long = {**ONCE, "max_tokens": 60}
        self.assertNotEqual(self.server.post("/v1/completions", **long, frequency_penalty=2)["choices"][0]["text"],
                            self.server.post("/v1/completions", **long)["choices"][0]["text"])

    def test_answers_that_keep_to_a_schema(self):
        schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
                  "required": ["name", "age"], "additionalProperties": False}
        asked = {**HELLO, "max_tokens": 100, "temperature": 1, "seed": 1}
        for _ in range(2):  # the second uses the grammar of the first
            answer = self.server.post("/v1/chat/completions", **asked, response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema}})
            said = json.loads(answer["choices"][0]["message"]["content"])
            self.assertEqual((set(said), answer["choices"][0]["finish_reason"]), ({"name", "age"}, "stop"))
        self.assertTrue(self.server.post("/v1/chat/completions", **asked, response_format={"type": "json_object"})["choices"][0]["message"]["content"].lstrip().startswith("{"))
        for wrong in ({"type": "xml"}, {"type": "json_schema"}, {"type": "json_object", "x": 1}, {"type": "json_schema", "json_schema": {"name": "x", "schema": {"uniqueItems": True}}}):
            error = self.server.post("/v1/chat/completions", status=400, **asked, response_format=wrong)["error"]
            self.assertTrue(error["param"].startswith("response_format"), error)

    def test_calls_of_tools(self):
        tools = [{"type": "function", "function": {"name": "add", "parameters": {
            "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["a"], "additionalProperties": False}}}]
        asked = {**HELLO, "max_tokens": 120, "temperature": 1, "seed": 5, "tools": tools, "parallel_tool_calls": False}
        self.assertIn("tools", self.server.post("/v1/chat/completions", status=400, **asked)["error"]["param"])  # its template knows none
        server = Server(self, model=chat_model(self.folder, TOOLS_TEMPLATE, "tools.gguf"))
        for choice in ("required", {"type": "function", "function": {"name": "add"}}):
            whole = server.post("/v1/chat/completions", **asked, tool_choice=choice)["choices"][0]
            self.assertEqual((whole["finish_reason"], whole["message"]["content"]), ("tool_calls", None))
            call = whole["message"]["tool_calls"][0]
            self.assertEqual((call["type"], call["function"]["name"], set(json.loads(call["function"]["arguments"]))), ("function", "add", {"a"}))
        chunks = server.events("/v1/chat/completions", **asked, tool_choice="required")
        deltas = [c["choices"][0]["delta"]["tool_calls"][0] for c in chunks if "tool_calls" in c["choices"][0]["delta"]]
        self.assertEqual((deltas[0]["function"]["name"], deltas[0]["index"]), ("add", 0))
        self.assertIn("a", json.loads("".join(delta["function"]["arguments"] for delta in deltas)))
        self.assertEqual(chunks[-1]["choices"][0]["finish_reason"], "tool_calls")
        plain = server.post("/v1/chat/completions", **asked, tool_choice="none")["choices"][0]
        self.assertNotIn("tool_calls", plain["message"])

    def test_embeddings(self):
        one = self.server.post("/v1/embeddings", model="a", input="a small dog")
        many = self.server.post("/v1/embeddings", model="a", input=["a small dog", "the big cat"])
        vector = one["data"][0]["embedding"]
        self.assertAlmostEqual(sum(x * x for x in vector), 1, places=4)
        self.assertEqual(many["data"][0]["embedding"], vector)
        self.assertNotEqual(many["data"][1]["embedding"], vector)
        raw = base64.b64decode(self.server.post("/v1/embeddings", model="a", input="a small dog", encoding_format="base64")["data"][0]["embedding"])
        for packed, value in zip(struct.unpack(f"<{len(vector)}f", raw), vector):
            self.assertAlmostEqual(packed, value, places=6)

    def test_models_health_metrics_steps(self):
        self.assertEqual(self.server.get("/health")[2], {"status": "ok"})
        self.assertEqual([model["id"] for model in self.server.get("/v1/models")[2]["data"]], ["a"])
        self.assertEqual(self.server.get("/v1/models/a")[2]["object"], "model")
        self.assertEqual(self.server.get("/v1/models/b")[0], 404)
        self.server.post("/v1/completions", **ONCE)
        self.assertEqual(self.server.metric("onset_time_to_first_token_seconds_count", model="a"), 1)
        self.assertEqual(self.server.metric("onset_time_between_tokens_seconds_count", model="a"), 11)
        self.assertEqual(self.server.metric("onset_new_tokens_total", model="a"), 12)
        self.assertEqual(self.server.metric("onset_pool_pages_used", model="a"), 0)
        steps = self.server.get("/onset/steps?model=a")[2]["steps"]
        self.assertEqual(sum(step["answers"] for step in steps), 11)
        self.assertEqual(sum(sum(step["prompts"]) for step in steps), self.server.post("/tokenize", text=ONCE["prompt"])["count"])
        self.assertEqual(self.server.get(f"/onset/steps?after={steps[-1]['number']}")[2]["steps"], [])

    def test_errors_are_openais(self):
        cases = [
            ("/v1/completions", {**ONCE, "frobnicate": 1}, 400, "frobnicate"),
            ("/v1/completions", {**ONCE, "model": "b"}, 404, "model"),
            ("/v1/completions", {**ONCE, "prompt": "x " * 2000}, 400, "prompt"),
            ("/v1/completions", {**ONCE, "prompt": [5000000]}, 400, "prompt"),
            ("/v1/completions", {**ONCE, "logit_bias": {"5000000": 1}}, 400, "logit_bias"),
            ("/v1/completions", {**ONCE, "prompt": ""}, 200, None),
            ("/v1/chat/completions", {**HELLO, "messages": []}, 400, "messages"),
            ("/v1/embeddings", {"model": "a", "input": "x", "dimensions": 3}, 400, "dimensions"),
            ("/detokenize", {"tokens": [5000000]}, 400, "tokens"),
        ]
        for path, body, status, param in cases:
            with self.subTest(path=path, body=str(body)[:80]):
                answer = self.server.post(path, status=status, **body)
                if status != 200:
                    self.assertEqual(answer["error"]["param"], param)
                    self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})
        self.assertEqual(self.server.post("/v1/completions", status=400, **{**ONCE, "prompt": "x " * 2000})["error"]["code"], "context_length_exceeded")
        self.assertEqual(self.server.ask("POST", "/v1/completions", b"{")[0], 400)
        self.assertEqual(self.server.ask("POST", "/v1/completions", b"{}", {"Content-Type": "text/plain"})[0], 415)
        status, headers, _ = self.server.get("/v1/completions")
        self.assertEqual((status, headers["Allow"]), (405, "POST"))
        self.assertEqual(self.server.get("/nothing")[0], 404)

    def test_head_and_keep_alive(self):
        connection = self.server.connection()
        for _ in range(3):
            connection.request("GET", "/health")
            answer = connection.getresponse()
            self.assertEqual((answer.status, answer.read()), (200, b'{"status":"ok"}'))
            connection.request("HEAD", "/health")
            answer = connection.getresponse()
            self.assertEqual((answer.status, answer.headers["Content-Length"], answer.read()), (200, "15", b""))
        connection.request("POST", "/v1/completions", json.dumps({**ONCE, "stream": True}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        self.assertTrue(answer.read().endswith(b"data: [DONE]\n\n"))
        connection.request("GET", "/health")
        self.assertEqual(connection.getresponse().status, 200)

    def test_pipelined_requests_and_http_1_0(self):
        body = json.dumps(ONCE)
        ask = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        sock = self.server.raw(ask * 2 + b"GET /health HTTP/1.0\r\n\r\n")
        said = b"".join(iter(lambda: sock.recv(65536), b""))
        self.assertEqual(said.count(b"200 OK"), 3)
        old = json.dumps({**ONCE, "stream": True})
        sock = self.server.raw(f"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(old)}\r\n\r\n{old}".encode())
        said = b"".join(iter(lambda: sock.recv(65536), b""))
        self.assertTrue(said.endswith(b"data: [DONE]\n\n") and b"chunked" not in said, said)

    def test_many_at_once_each_get_their_own(self):
        alone = [self.server.post("/v1/completions", **{**ONCE, "prompt": f"Tom had {i} apples"})["choices"] for i in range(6)]
        together = [None] * 6
        def ask(i):
            together[i] = self.server.post("/v1/completions", **{**ONCE, "prompt": f"Tom had {i} apples"})["choices"]
        threads = [threading.Thread(target=ask, args=(i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(together, alone)

    def test_a_client_that_goes_away_frees_its_pages(self):
        for stream in (True, False):
            body = json.dumps({**ENDLESS, "prompt": "Once", "stream": stream})
            sock = self.server.raw(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            wait_until(self, lambda: self.server.metric("onset_pool_pages_used", model="a") > 0, "the request did not begin")
            before = self.server.metric("onset_requests_total", model="a", reason="cancelled")
            sock.close()
            wait_until(self, lambda: self.server.metric("onset_requests_total", model="a", reason="cancelled") == before + 128, "the requests go on")
            wait_until(self, lambda: self.server.metric("onset_pool_pages_used", model="a") == 0, "the pages are not free")

    def test_broken_http_is_refused_and_harms_nobody(self):
        for data in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n",
                     b"GET / HTTP/1.1\r\n" + b"A: " + b"x" * 20000 + b"\r\n\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
            sock = self.server.raw(data)
            said = b"".join(iter(lambda: sock.recv(65536), b""))
            self.assertRegex(said.split(b"\r\n")[0], rb"^HTTP/1\.[01] 4\d\d", data[:40])
        self.assertEqual(self.server.get("/health")[0], 200)

    def test_the_page_and_the_description(self):
        status, headers, page = self.server.get("/")
        self.assertEqual((status, headers["Content-Type"]), (200, "text/html; charset=utf-8"))
        self.assertIn("default-src 'self'", headers["Content-Security-Policy"])
        for name in re.findall(r'(?:src|href)="([^"]+)"', page):
            self.assertEqual(self.server.get(f"/{name}")[0], 200, name)
        self.assertEqual(self.server.get("/openapi.yaml")[2], (harness.ROOT / "onset" / "serve" / "openapi.yaml").read_text(encoding="utf-8"))

    def test_the_description_has_every_path_and_field(self):
        text = (harness.ROOT / "onset" / "serve" / "openapi.yaml").read_text(encoding="utf-8")
        routes = (harness.ROOT / "onset" / "serve" / "routes.cc").read_text(encoding="utf-8")
        lists = re.search(r"read_paths\[\] = \{(.*?)\};.*?written_paths\[\] = \{(.*?)\};", routes, re.DOTALL)
        for path in re.findall(r'"([^"]+)"', lists[1] + lists[2]):
            self.assertRegex(text, rf"(?m)^  {re.escape(path)}:$")
        parser = (harness.ROOT / "onset" / "serve" / "requests.cc").read_text(encoding="utf-8")
        for name in re.findall(r'(?:fields|inner)\.(?:need|find|text|boolean|integer|number|only|ignore)\("([a-z_]+)"', parser):
            self.assertRegex(text, rf"(?m)\b{name}:( |$)", name)


class Refusals(harness.Test):
    def test_keys(self):
        (self.folder / "keys").write_text("# ours\nfirst-key\n\nsecond-key\r\n", encoding="utf-8")
        server = Server(self, "--api-keys", "keys")
        self.assertEqual(server.get("/health")[0], 200)
        for headers, status in (({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Authorization": "first-key"}, 401),
                                ({"Authorization": "Bearer first-key"}, 200), ({"Authorization": "Bearer second-key"}, 200),
                                ({"Authorization": "Bearer # ours"}, 401), ({"Authorization": "Bearer "}, 401)):
            got, answer_headers, answer = server.get("/v1/models", headers=headers)
            self.assertEqual(got, status, headers)
            if status == 401:
                self.assertEqual((answer["error"]["code"], answer_headers["WWW-Authenticate"]), ("invalid_api_key", "Bearer"))
        self.assertEqual(server.get("/metrics")[0], 401)

    def test_keys_do_not_share_prompts_unless_told(self):
        (self.folder / "keys").write_text("one\ntwo\n", encoding="utf-8")
        for options, shared in (((), 0), (("--share-prefixes",), 1), (("--no-prefix-cache",), 0)):
            server = Server(self, "--api-keys", "keys", *options)

            def cached(key):
                answer = server.ask("POST", "/v1/completions", {**ONCE, "prompt": "one upon a time " * 20}, {"Authorization": f"Bearer {key}"})[2]
                return answer["usage"]["prompt_tokens_details"]["cached_tokens"], answer["usage"]["prompt_tokens"]

            self.assertEqual(cached("one")[0], 0)
            tokens, prompt = cached("two")
            self.assertEqual(tokens, shared * (prompt - 1))
            self.assertEqual(cached("one")[0], 0 if "--no-prefix-cache" in options else prompt - 1)
            metrics = server.ask("GET", "/metrics", headers={"Authorization": "Bearer one"})[2]
            self.assertRegex(metrics if isinstance(metrics, str) else metrics.decode(), r"onset_cached_prompt_tokens_total\{[^}]*\} \d+")

    def test_keys_tell_nothing_of_each_others_texts_unless_told(self):
        # Where a text is known from: its keys and values in memory, or in a folder that the server finds at its start.
        (self.folder / "keys").write_text("one\ntwo\nthree\n", encoding="utf-8")
        contexts = [{"text": "Lily has a red ball. " * 5}, {"text": "Tom has a blue car. " * 8}]

        def rows(server):
            """Prompt rows that it has computed: the part of the time that is the same on every machine."""
            text = server.ask("GET", "/metrics", headers={"Authorization": "Bearer one"})[2]
            return float(re.search(r"(?m)^onset_step_prompt_rows_sum\{.*\} (\S+)$", text)[1])

        def ask(server, key, reuse):
            """(tokens from each tier, cached tokens, rows computed, the answer)"""
            before = rows(server)
            status, _, answer = server.ask("POST", "/v1/completions", {**ONCE, "onset": {"contexts": contexts, "reuse": reuse}}, {"Authorization": f"Bearer {key}"})
            self.assertEqual(status, 200, answer)
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            self.assertEqual(answer["onset"]["cached_tokens"], cached)
            return answer["onset"].get("tiers"), cached, rows(server) - before, answer["choices"]

        for reuse in ("prefix", "ape", "cacheblend", "full"):
            for shared in (False, True):
                with self.subTest(reuse=reuse, shared=shared):
                    store = f"chunks-{reuse}-{shared}"
                    options = ["--api-keys", "keys", *(["--share-prefixes"] if shared else [])]
                    server = Server(self, *options, "--store", store)
                    first, own = ask(server, "one", reuse), ask(server, "one", reuse)
                    # At most the token that begins a text: the request has read it before each of its contexts.
                    self.assertLessEqual(first[1], 0 if reuse in ("prefix", "ape") else 1)
                    self.assertGreater(own[1], 1)
                    self.assertLess(own[2], first[2])
                    # In memory: another key's request is what it would be in a server that nobody has asked, or what the first key's next one is.
                    self.assertEqual(ask(server, "two", reuse), own if shared else first)
                    server.terminate()
                    if reuse == "prefix":  # memory only
                        continue
                    self.assertEqual((list(first[0]), list(own[0])), (["read"], ["memory"]))
                    # In the folder: likewise.
                    server = Server(self, *options, "--store", store)
                    third = ask(server, "three", reuse)
                    self.assertEqual(third[3], first[3])
                    if shared:
                        self.assertEqual(list(third[0]), ["disk"])
                        self.assertLess(third[2], first[2])
                    else:
                        self.assertEqual(third, first)
                        stored = ask(server, "one", reuse)
                        self.assertEqual(list(stored[0]), ["disk"])
                        self.assertLess(stored[2], first[2])
                    server.terminate()

    def test_cors_is_off_by_default(self):
        origin = {"Origin": "https://example.org"}
        server = Server(self)
        self.assertNotIn("Access-Control-Allow-Origin", server.get("/health", headers=origin)[1])
        self.assertEqual(server.ask("OPTIONS", "/v1/models", headers=origin)[0], 405)
        server = Server(self, "--cors", "https://example.org")
        self.assertEqual(server.get("/health", headers=origin)[1]["Access-Control-Allow-Origin"], "https://example.org")
        self.assertNotIn("Access-Control-Allow-Origin", server.get("/health", headers={"Origin": "https://evil.example"})[1])
        status, headers, _ = server.ask("OPTIONS", "/v1/models", headers={**origin, "Access-Control-Request-Headers": "authorization"})
        self.assertEqual((status, headers["Access-Control-Allow-Headers"]), (204, "authorization"))

    def test_too_many_requests(self):
        server = Server(self, "--max-requests", 1)
        sock, _ = streamed(server, ENDLESS)
        status, headers, answer = server.ask("POST", "/v1/completions", ONCE)
        self.assertEqual((status, answer["error"]["code"]), (429, "rate_limit_exceeded"))
        self.assertGreaterEqual(int(headers["Retry-After"]), 1)
        sock.close()
        wait_until(self, lambda: server.ask("POST", "/v1/completions", ONCE)[0] == 200, "its place is not free")

    def test_too_many_tokens_in_flight(self):
        server = Server(self, "--max-tokens-in-flight", 600)
        sock, _ = streamed(server, ENDLESS)  # more than all: it may run alone
        self.assertEqual(server.ask("POST", "/v1/completions", ONCE)[0], 429)
        sock.close()
        wait_until(self, lambda: server.ask("POST", "/v1/completions", ONCE)[0] == 200, "its tokens are not given back")

    def test_sizes_and_times(self):
        server = Server(self, "--max-body", 2000, "--header-time", 0.5, "--idle-time", 1)
        self.assertEqual(server.ask("POST", "/v1/completions", {**ONCE, "prompt": "x" * 3000})[0], 413)
        chunked = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        sock = server.raw(chunked + b"fff\r\n" + b"x" * 4095 + b"\r\n")
        self.assertIn(b" 413 ", sock.recv(1000))
        for data in (b"GET /hea", b"", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"):
            self.assertEqual(server.raw(data).recv(1000), b"")  # closed when the time is over
        server = Server(self, "--max-connections", 2)
        held = [server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(2)]
        for sock in held:
            self.assertIn(b"200 OK", sock.recv(1000))
        self.assertEqual(server.raw().recv(1000), b"")

    def test_two_models(self):
        server = Server(self, "--model", f"b={STORIES}")
        self.assertEqual([model["id"] for model in server.get("/v1/models")[2]["data"]], ["a", "b"])
        self.assertEqual(server.post("/v1/completions", **{**ONCE, "model": "b"})["choices"], server.post("/v1/completions", **ONCE)["choices"])
        self.assertIn("no chat template", server.post("/v1/chat/completions", status=400, **{**HELLO, "model": "b"})["error"]["message"])
        self.assertEqual(server.post("/tokenize", status=404, text="x")["error"]["param"], "model")

    def test_tls(self):
        certificate(self.folder, "subjectAltName=IP:127.0.0.1")
        server = Server(self, "--tls-certificate", "cert.pem", "--tls-key", "key.pem")
        self.assertEqual(server.scheme, "https")
        trust = ssl.create_default_context(cafile=str(self.folder / "cert.pem"))
        sock = trust.wrap_socket(server.raw(), server_hostname="127.0.0.1")
        body = json.dumps({**ONCE, "stream": True})
        sock.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        said = b"".join(iter(lambda: sock.recv(65536), b""))
        self.assertIn(b"data: [DONE]", said)
        self.assertNotIn(b"HTTP/1.1 200", server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").recv(1000))


class End(harness.Test):
    def test_running_requests_end_and_new_ones_are_not_taken(self):
        server = Server(self)
        idle = server.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        idle.recv(1000)
        sock, said = streamed(server, {**ENDLESS, "prompt": "Once upon a time", "n": 64})
        server.process.terminate()
        self.assertEqual(idle.recv(1000), b"")  # an idle connection is closed at once
        with self.assertRaises(OSError):
            server.ask("POST", "/v1/completions", ONCE)
        said += b"".join(iter(lambda: sock.recv(65536), b""))
        self.assertIn(b"data: [DONE]", said)
        self.assertNotIn(b'"error"', said)
        self.assertEqual(said.count(b'"finish_reason":"length"'), 64)
        self.assertEqual(server.process.wait(300), 0)

    def test_a_drain_that_is_over_says_so(self):
        server = Server(self, "--drain", 0)
        sock, said = streamed(server, ENDLESS)
        server.process.terminate()
        said += b"".join(iter(lambda: sock.recv(65536), b""))
        self.assertIn(b"the server is shutting down", said)
        self.assertIn(b"data: [DONE]", said)
        self.assertEqual(server.process.wait(300), 0)

    def test_at_rest(self):
        self.assertEqual(Server(self).terminate(), 0)


if __name__ == "__main__":
    harness.main()
