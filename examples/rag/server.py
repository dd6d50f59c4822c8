"""Asking `onset serve`: one that is started here, or one that runs somewhere. Standard library only."""

import collections
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.parse
from typing import NamedTuple

from texts import Trouble

PROGRAM = pathlib.Path(__file__).resolve().parent.parent.parent / "build" / "release" / "bin" / "onset"
SILENCE_SECONDS = 600  # of a server, before it counts as gone
MOST_BYTES = 1 << 20   # of a line that it streams, and of what it says of itself
SYSTEM = "You answer questions from the passages that you are given, in one or two sentences."
# What becomes of passages that were read before: the name here, and the field onset.reuse of a request.
WAYS = {"off": "none", "prefix": "prefix", "ape": "ape", "cacheblend": "cacheblend", "full": "full"}


class Answer(NamedTuple):
    text: str
    first_token_seconds: float  # from sending the request to the first text of the answer
    prompt_tokens: int
    cached_tokens: int      # found, in memory or in a store
    stored_tokens: int      # of these, in a store
    reused_tokens: int      # of passages, taken to another place than they were read at
    recomputed_tokens: int  # of these, computed again nevertheless: the average of the layers
    loaded_bytes: int       # from a store


def find_program():
    """The program `onset`: $ONSET, the build of this checkout, or what the shell finds."""
    named = os.environ.get("ONSET")
    for candidate in (named,) if named else (PROGRAM, shutil.which("onset")):
        if candidate and os.access(candidate, os.X_OK) and pathlib.Path(candidate).is_file():
            return str(candidate)
    if named:
        raise Trouble(f"ONSET: expected the path of the program onset, got {named}")
    raise Trouble("the program onset was not found: build it (tools/start), or set ONSET to its path")


class Server:
    """A server, and asking it. What it says is kept to explain its end."""

    def __init__(self, address, process=None):
        self.process, self.said = process, collections.deque(maxlen=20)
        parts = urllib.parse.urlsplit(address)
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme not in ("http", "https") or not parts.hostname or (port is None and parts.netloc.rpartition("]")[2].count(":")):
            raise Trouble(f"--url: expected an address as http://127.0.0.1:8080, got {address!r}")
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.connection = make(parts.hostname, port, timeout=SILENCE_SECONDS)
        self.address = f"{parts.scheme}://{parts.netloc}"
        self.base = parts.path.rstrip("/").removesuffix("/v1")
        self.model = None

    @classmethod
    def start(cls, options):
        """`onset serve` at a free port of this machine, with further options."""
        try:
            process = subprocess.Popen([find_program(), "serve", "--port", "0", *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True, errors="replace")
        except OSError as error:
            raise Trouble(f"onset serve cannot be started: {error.strerror}") from None
        line = ""
        try:
            for line in process.stderr:
                if found := re.search(r"listening at (http://\S+)", line):
                    server = cls(found[1], process)
                    # Nobody else reads what it says, and a full pipe would stop it.
                    server.reader = threading.Thread(target=lambda: server.said.extend(process.stderr), daemon=True)
                    server.reader.start()
                    return server
        except BaseException:
            process.kill()
            raise
        process.wait()
        raise Trouble(f"onset serve did not start: {line.strip().removeprefix('onset: ') or f'exit status {process.returncode}'}")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.connection.close()
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.reader.join()
            self.process.stderr.close()

    def _gone(self, error):
        """Trouble that says what became of the server."""
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if self.process:
            try:
                self.process.wait(2)  # a server that dies closes its connections first
            except subprocess.TimeoutExpired:
                pass
            if self.process.returncode is not None:
                last = "".join(self.said).strip().splitlines()[-1:]
                reason = f"it ended with status {self.process.returncode}" + (f": {last[0]}" if last else "")
        return Trouble(f"the server at {self.address} does not answer: {reason}")

    def _send(self, method, path, body=None):
        """A response whose status is 200. Raises Trouble for the rest."""
        headers = {"Content-Type": "application/json"} if body else {}
        if key := os.environ.get("ONSET_API_KEY", "").strip():
            headers["Authorization"] = f"Bearer {key}"
        self.connection.request(method, self.base + path, json.dumps(body).encode() if body else None, headers)
        response = self.connection.getresponse()
        if response.status == 200:
            return response
        text = response.read(65536).decode("utf-8", "replace")
        try:
            reason = json.loads(text)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            reason = text.strip().splitlines()[0][:200] if text.strip() else "no reason given"
        raise Trouble(f"the server at {self.address} refuses ({response.status}): {reason}")

    def find_model(self):
        """The name of its first model."""
        if self.model is None:
            try:
                self.model = json.loads(self._send("GET", "/v1/models").read(MOST_BYTES))["data"][0]["id"]
            except (OSError, http.client.HTTPException) as error:
                raise self._gone(error) from None
            except (ValueError, KeyError, IndexError, TypeError):
                raise Trouble(f"the server at {self.address} does not name a model: is it onset serve?") from None
        return self.model

    def ask(self, question, passages, way, most_tokens, ratio=None, on_text=None):
        """The answer from passages in their order, always the most likely token; on_text gets it as it comes."""
        reuse = {"contexts": [{"text": f"{each.path}\n\n{each.text}"} for each in passages], "reuse": WAYS[way]}
        if way == "cacheblend" and ratio is not None:
            reuse["ratio"] = ratio
        body = {"model": self.find_model(), "temperature": 0, "max_tokens": most_tokens, "stream": True, "stream_options": {"include_usage": True},
                "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Question: {question}"}], "onset": reuse}
        try:
            return self._read(body, on_text)
        except (OSError, http.client.HTTPException) as error:
            raise self._gone(error) from None
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise Trouble(f"the server at {self.address} streams what is no answer: {type(error).__name__}: {error}") from None

    def _read(self, body, on_text):
        parts, first, last = [], None, {}
        self.connection.close()  # a connection of its own, so that a failed answer leaves nothing behind
        self.connection.connect()
        began = time.perf_counter()
        response = self._send("POST", "/v1/chat/completions", body)
        while (line := response.readline(MOST_BYTES)) != b"data: [DONE]\n":
            if not line:
                raise http.client.HTTPException("the answer was cut off")
            if not line.startswith(b"data: "):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise Trouble(f"the server at {self.address} ended the answer: {event['error']['message']}")
            last = event if "usage" in event else last
            for choice in event["choices"]:
                if text := choice["delta"].get("content"):
                    first = first or time.perf_counter() - began
                    parts.append(text)
                    if on_text:
                        on_text(text)
        response.read()
        seconds = first or time.perf_counter() - began  # an answer without text
        usage, onset = last["usage"], last.get("onset") or {}
        stored = sum(count for tier, count in onset.get("tiers", {}).items() if tier not in ("memory", "read"))
        layers = onset.get("recomputed_tokens") or [0]
        return Answer("".join(parts), seconds, usage["prompt_tokens"], (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
                      stored, onset.get("reused_tokens", 0), round(sum(layers) / len(layers)), onset.get("loaded_bytes", 0))
