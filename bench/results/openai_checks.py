"""Run by serve_openai.py with the Python of its own environment: the real packages against a server. Prints one JSON object of checks:
{name: null for passed, or what went wrong}.

    python openai_checks.py URL MODEL
"""

import array
import base64
import json
import sys
import time
import types
import typing

import httpx
import openai
import pydantic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

URL, MODEL = sys.argv[1:3]
HELLO = [{"role": "user", "content": "Say hello."}]
raw_answers = []  # (path, streamed, text), as they came over the wire


class Recorder(httpx.HTTPTransport):
    """Keeps what is read, byte for byte."""

    def handle_request(self, request):
        answer = super().handle_request(request)
        kept = []
        raw_answers.append((request.url.path, "event-stream" in answer.headers.get("content-type", ""), answer.status_code, kept))
        inner = answer.stream

        class Stream(httpx.SyncByteStream):
            def __iter__(self):
                for data in inner:
                    kept.append(data)
                    yield data

            def close(self):
                inner.close()
        return httpx.Response(answer.status_code, headers=answer.headers, stream=Stream(), extensions=answer.extensions)


def unknown_fields(kind, value, path=""):
    """Fields of JSON that the package's own type does not have. `onset` is ours."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        kinds = [one for one in typing.get_args(kind) if one is not type(None)]
        found = [unknown_fields(one, value, path) for one in kinds]
        return min(found, key=len) if found and value is not None else []
    if origin is list and isinstance(value, list):
        return [name for i, one in enumerate(value) for name in unknown_fields(typing.get_args(kind)[0], one, f"{path}[{i}]")]
    if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel) and isinstance(value, dict):
        known = {field.alias or name: field for name, field in kind.model_fields.items()}
        return [f"{path}.{name}" for name in value if name not in known and name != "onset"] + [
            name for key, one in value.items() if key in known for name in unknown_fields(known[key].annotation, one, f"{path}.{key}")]
    return []


def validate(kind, value):
    # OpenAI's own streams of /v1/completions have finish_reason null until the last chunk; the package's type says otherwise.
    if kind is Completion:
        value = json.loads(json.dumps(value))
        for choice in value["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
    # The package asks for base64 and decodes it itself; its type is of what it has then.
    if kind is CreateEmbeddingResponse:
        value = json.loads(json.dumps(value))
        for entry in value["data"]:
            if isinstance(entry["embedding"], str):
                entry["embedding"] = list(array.array("f", base64.b64decode(entry["embedding"], validate=True)))
    kind.model_validate_json(json.dumps(value), strict=True)
    if unknown := unknown_fields(kind, value):
        raise AssertionError(f"fields that {kind.__name__} does not have: {unknown}")


def check_raw():
    """Every answer and every chunk that came, against the types."""
    whole = {"/v1/chat/completions": ChatCompletion, "/v1/completions": Completion, "/v1/embeddings": CreateEmbeddingResponse}
    count = 0
    for path, streamed, status, kept in raw_answers:
        text = b"".join(kept).decode()
        if status != 200:
            error = json.loads(text)["error"]
            assert set(error) == {"message", "type", "param", "code"}, error
            continue
        if streamed:
            events = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
            for event in events:
                if event != "[DONE]" and event.endswith("}"):  # the last may be cut by a client that left
                    validate(ChatCompletionChunk if "chat" in path else Completion, json.loads(event))
                    count += 1
        elif path in whole and text:
            validate(whole[path], json.loads(text))
            count += 1
        elif path.startswith("/v1/models/"):
            validate(Model, json.loads(text))
    assert count > 30, f"only {count} answers came"


client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0, http_client=httpx.Client(transport=Recorder()))
patient = openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)


def models():
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def chat():
    options = {"model": MODEL, "messages": HELLO, "max_completion_tokens": 24, "temperature": 0, "seed": 1}
    whole = client.chat.completions.create(**options, logprobs=True, top_logprobs=3)
    assert len(whole.choices[0].logprobs.content) > 0
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    # The package's own helper refuses answers that were cut: this one ends by itself.
    long = {**options, "max_completion_tokens": 400}
    with client.chat.completions.stream(**long) as stream:
        assert stream.get_final_completion().choices[0].message.content == client.chat.completions.create(**long).choices[0].message.content
    assert len(client.chat.completions.create(**{**options, "temperature": 1}, n=3, stop=["."], top_p=0.9, presence_penalty=0.5, frequency_penalty=0.5,
                                              logit_bias={"5": -10}, user="u", extra_body={"top_k": 40, "min_p": 0.05}).choices) == 3


def completions():
    options = {"model": MODEL, "prompt": "The sea is", "max_tokens": 16, "temperature": 0}
    whole = client.completions.create(**options, logprobs=2)
    assert "".join(c.choices[0].text for c in client.completions.create(**options, stream=True)) == whole.choices[0].text
    assert len(client.completions.create(**{**options, "prompt": ["a", "b"]}, n=2).choices) == 4
    assert client.completions.create(**{**options, "prompt": [1, 2, 3]}).usage.prompt_tokens == 3


def embeddings():
    texts = ["a small dog", "the big cat"]
    packed = client.embeddings.create(model=MODEL, input=texts)  # the package asks for base64
    plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    for one, other in zip(packed.data, plain.data):
        assert max(abs(a - b) for a, b in zip(one.embedding, other.embedding)) < 1e-6
        assert abs(sum(x * x for x in other.embedding) - 1) < 1e-4


def errors():
    def raises(kind, call, **options):
        try:
            call(**options)
        except kind as error:
            return error
        raise AssertionError(f"{options}: expected {kind.__name__}")
    assert raises(openai.BadRequestError, client.chat.completions.create, model=MODEL, messages=HELLO, extra_body={"frobnicate": 1}).param == "frobnicate"
    assert raises(openai.NotFoundError, client.chat.completions.create, model="none", messages=HELLO).code == "model_not_found"
    raises(openai.NotFoundError, client.models.retrieve, model="none")
    raises(openai.BadRequestError, client.completions.create, model=MODEL, prompt="x " * 20000)


def time_outs():
    try:
        patient.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2000, timeout=0.05, extra_body={"ignore_eos": True})
        raise AssertionError("expected a time-out")
    except openai.APITimeoutError:
        pass
    stream = patient.chat.completions.create(model=MODEL, messages=HELLO, stream=True, max_tokens=2000, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    for _ in range(200):  # nothing goes on for those who left
        if f'onset_requests_running{{model="{MODEL}"}} 0' in httpx.get(f"{URL}/metrics").text:
            return
        time.sleep(0.05)
    raise AssertionError("a request of a client that left goes on")


def langchain():
    model = ChatOpenAI(base_url=f"{URL}/v1", api_key="none", model=MODEL, temperature=0, max_tokens=16)
    said = model.invoke("Say hello.").content
    assert said and "".join(chunk.content for chunk in model.stream("Say hello.")) == said
    assert len(model.batch(["Say hello.", "Say goodbye."])) == 2
    vector = OpenAIEmbeddings(base_url=f"{URL}/v1", api_key="none", model=MODEL, check_embedding_ctx_length=False).embed_query("a dog")
    assert abs(sum(x * x for x in vector) - 1) < 1e-4


outcome = {}
for check in (models, chat, completions, embeddings, errors, time_outs, check_raw, langchain):
    try:
        check()
        outcome[check.__name__] = None
    except Exception as error:  # each check says what went wrong with it
        outcome[check.__name__] = f"{type(error).__name__}: {error}"[:500]
print(json.dumps(outcome))
