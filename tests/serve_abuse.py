#!/usr/bin/env python3
"""Abuses `onset serve` for a while: leaving clients, slow readers, malformed HTTP and JSON, giant bodies, wrong keys, cut characters.

    tests/serve_abuse.py [--minutes 10] [--onset PROGRAM] [--model PATH] [--seed 1]

Beside the abusers some well-behaved clients ask all the time: each of their requests must be answered or refused with a reason (429, 503).
At the end the pool must be empty and the memory as it was after the first tenth; then SIGTERM comes in the middle of answers, which must
all end with [DONE], and the exit status must be 0. Prints one JSON object; exit status 1 when something is wrong. With a program built
with AddressSanitizer or ThreadSanitizer memory is not judged (--no-memory). Standard library only.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
KEY = "the-right-key"
WORDS = ["Once upon a time", "The little dog", "é", "日本語", "🙂" * 3, "\u0000", "x " * 50]


class Abuse:
    def __init__(self, options):
        self.options = options
        self.stop = threading.Event()
        self.counts, self.troubles, self.lock = {}, [], threading.Lock()
        self.draining = False

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def trouble(self, what):
        with self.lock:
            if len(self.troubles) < 20:
                self.troubles.append(what)

    # --- the server --------------------------------------------------------------------------------

    def start(self, folder):
        (folder / "keys").write_text(KEY + "\n", encoding="utf-8")
        command = [self.options.onset, "serve", "--port", "0", "--no-cache", "--threads", "1", "--model", f"a={self.options.model}", "--api-keys", folder / "keys",
                   "--header-time", "2", "--idle-time", "20", "--max-body", "200000", "--max-requests", "64", "--max-connections", "512", "--drain", "60"]
        self.process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, errors="replace")
        self.said = []
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"listening at \S+:(\d+) ", line):
                self.port = int(found[1])
                break
        else:
            sys.exit(f"the server did not start: {''.join(self.said)}")
        threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True).start()

    def resident(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])

    def metric(self, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {KEY}"})
        text = connection.getresponse().read().decode()
        connection.close()
        return float(re.search(rf"(?m)^{name}(?:{{[^}}]*}})? (\S+)$", text)[1])

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), 60)

    @staticmethod
    def head(body, path="/v1/completions", key=KEY, kind="application/json"):
        return (f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n").encode()

    # --- those who behave --------------------------------------------------------------------------

    def behave(self, rng):
        streamed = rng.random() < 0.7
        body = json.dumps({"model": "a", "prompt": rng.choice(WORDS), "max_tokens": rng.randint(1, 60), "stream": streamed, "n": rng.choice([1, 1, 2])}).encode()
        before = self.draining
        try:
            sock = self.connect()
        except OSError:
            if not self.draining:
                self.trouble("a connection was refused")
            return
        with sock:
            try:
                sock.sendall(self.head(body) + body)
                said = b"".join(iter(lambda: sock.recv(65536), b""))
            except OSError as error:
                said = b""
                if not self.draining:
                    self.trouble(f"a good request: {error}")
        status = said.split(b" ", 2)[1:2]
        if status == [b"200"] and (b"data: [DONE]" in said if streamed else said.rstrip().endswith(b"}")):
            self.count("answered")
        elif status in ([b"429"], [b"503"]):
            self.count("told to come later")
        elif not (before or self.draining) or said:
            self.trouble(f"a good request got {said[-300:]!r}")
        else:
            self.count("not accepted any more")

    # --- those who do not --------------------------------------------------------------------------

    def leave(self, rng):
        body = json.dumps({"model": "a", "prompt": "Once", "max_tokens": 400, "stream": rng.random() < 0.5, "ignore_eos": True, "n": rng.randint(1, 4)}).encode()
        data = self.head(body) + body
        with self.connect() as sock:
            sock.sendall(data[:rng.randint(1, len(data))] if rng.random() < 0.5 else data)
            if rng.random() < 0.7:
                sock.settimeout(rng.random())
                sock.recv(rng.randint(1, 2000))

    def read_slowly(self, rng):
        body = json.dumps({"model": "a", "prompt": "Once", "max_tokens": 300, "stream": True, "ignore_eos": True, "logprobs": 5}).encode()
        with self.connect() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            sock.sendall(self.head(body) + body)
            for _ in range(rng.randint(5, 40)):
                if self.stop.is_set() or not sock.recv(rng.randint(1, 200)):
                    return
                time.sleep(0.05)

    def send_noise(self, rng):
        noise = [bytes(rng.randrange(256) for _ in range(rng.randint(1, 3000))), b"GET /" + b"x" * 30000 + b" HTTP/1.1\r\n\r\n", b"\r\n" * 1000,
                 b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
                 b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", b"GET / HTTP/1.1\r\nHost", b"OPTIONS * HTTP/1.1\r\n\r\n"]
        with self.connect() as sock:
            sock.sendall(rng.choice(noise))
            sock.settimeout(3)
            sock.recv(4096)

    def send_bad_bodies(self, rng):
        good = json.dumps({"model": "a", "prompt": rng.choice(WORDS), "max_tokens": 3}, ensure_ascii=False).encode()
        at = rng.randrange(len(good))
        body = rng.choice([good[:at], good[:at] + bytes([rng.randrange(256)]) + good[at + 1:], b"[" * 50000, b'{"a":' * 5000, b"\xff\xfe", b'{"model":"a","prompt":"\xe6\x97","max_tokens":2}',
                           b'{"model":"a","prompt":"' + b"y" * 190000 + b'"}', b"{" + b",".join(b'"%d":0' % i for i in range(9000)) + b"}"])
        with self.connect() as sock:
            sock.sendall(self.head(body, rng.choice(["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize"])) + body)
            status = sock.recv(4096).split(b" ", 2)[1:2]
            if status and status[0][:1] == b"5" and status != [b"503"]:
                self.trouble(f"{body[:80]!r} gave {status}")

    def send_giants(self, rng):
        with self.connect() as sock:
            sock.sendall(self.head(b"x" * 10**7) + b"x" * rng.randint(1, 300000))
            sock.settimeout(3)
            sock.recv(4096)

    def send_wrong_keys(self, rng):
        body = b'{"model":"a","prompt":"x"}'
        with self.connect() as sock:
            sock.sendall(self.head(body, key=rng.choice(["", "wrong", KEY[:-1], KEY + "x", "\x80"])) + body)
            if b" 401 " not in sock.recv(4096)[:20]:
                self.trouble("a wrong key was not refused")

    def go_on(self, seed, what):
        rng = random.Random(seed)
        while not self.stop.is_set():
            kind = what or rng.choice([self.leave, self.leave, self.read_slowly, self.send_noise, self.send_bad_bodies, self.send_giants, self.send_wrong_keys])
            try:
                kind(rng)
            except OSError:
                pass  # the server has had enough, or the time was over
            if not what:
                self.count(kind.__name__)

    # --- the whole ---------------------------------------------------------------------------------

    def quiet(self):
        """Waits until nothing runs; the memory then."""
        for _ in range(600):
            if self.metric("onset_requests_running") == 0 and self.metric("onset_pool_pages_used") == 0:
                break
            time.sleep(0.1)
        else:
            self.trouble("the pool does not come back to full")
        return self.resident()

    def round(self, seconds, seed):
        self.stop.clear()
        threads = [threading.Thread(target=self.go_on, args=(seed * 100 + i, self.behave if i < 4 else None)) for i in range(16)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            time.sleep(0.2)
        return threads

    def finish(self, threads):
        self.stop.set()
        for thread in threads:
            thread.join()

    def run(self):
        seconds = 60 * self.options.minutes
        with tempfile.TemporaryDirectory() as folder:
            self.start(pathlib.Path(folder))
            sizes = []
            for number in range(9):
                self.finish(self.round(seconds / 10, self.options.seed + number))
                if self.process.poll() is not None:
                    break
                sizes.append(self.quiet())
            if self.process.poll() is None:
                threads = self.round(seconds / 10, self.options.seed + 9)
                self.draining = True
                self.process.send_signal(signal.SIGTERM)
                try:
                    self.process.wait(90)
                except subprocess.TimeoutExpired:
                    self.trouble("it does not end after SIGTERM")
                    self.process.kill()
                    self.process.wait()
                self.finish(threads)
            status = self.process.wait()
            if status != 0:
                self.trouble(f"exit status {status}: {''.join(self.said)[-1500:]}")
        growth = (sizes[-1] - sizes[0]) / 2**20 if sizes else 0
        if not self.options.no_memory and growth > 16:
            self.trouble(f"the memory grew by {growth:.1f} MiB: {[size >> 20 for size in sizes]}")
        if self.counts.get("answered", 0) < 10 * self.options.minutes:
            self.trouble("too few good requests were answered")
        return {"minutes": self.options.minutes, "counts": self.counts, "growth_mib": growth, "troubles": self.troubles}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--onset", default=os.environ.get("ONSET") or ROOT / "build" / "release" / "bin" / "onset")
    parser.add_argument("--model", default=ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true")
    outcome = Abuse(parser.parse_args()).run()
    print(json.dumps(outcome))
    return 1 if outcome["troubles"] else 0


if __name__ == "__main__":
    sys.exit(main())
