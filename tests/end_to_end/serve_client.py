"""What tests of `onset serve` share: starting it, asking it, reading streams."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import gguf_edit
import harness

STORIES = harness.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"
# Short, without special tokens: the story model has none for chats.
TEMPLATE = "{% for m in messages %}{{ m.content }} {% endfor %}"
# Models that call tools the way of Hermes are told of <tool_call>.
TOOLS_TEMPLATE = "{% for t in tools or [] %}{{ t.function.name }}: write <tool_call>{}</tool_call> {% endfor %}" + TEMPLATE


def chat_model(folder, template=TEMPLATE, name="chat.gguf"):
    """The story model with a chat template."""
    path = folder / name
    model = gguf_edit.Gguf(STORIES)
    model.set_text("tokenizer.chat_template", template)
    model.write(path)
    return path


def certificate(folder, names):
    """cert.pem, signed by itself for `names`, and key.pem."""
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
                    "-subj", "/CN=onset", "-addext", names], cwd=folder, check=True, capture_output=True)


@contextlib.contextmanager
def redis():
    """The address of a Redis server without files."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    # redis-tools brings the server without the service, under another name.
    options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--logfile", "/dev/null"]
    with subprocess.Popen(["redis-server", *map(str, options)], executable=shutil.which("redis-check-rdb")) as process:
        try:
            for _ in range(500):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.kill()


def redis_command(address, command):
    """What the Redis server answers, as it is on the wire."""
    host, port = address.removeprefix("redis://").split(":")
    with socket.create_connection((host, int(port)), 30) as sock:
        sock.sendall(command.encode() + b"\r\n")
        return sock.recv(4096)


class Server:
    """`onset serve` in a process, stopped at the end of the test."""

    def __init__(self, test, *arguments, model=None, environment=None):
        self.test = test
        command = [harness.ONSET, "serve", "--port", 0, "--no-cache", "--threads", 1, *arguments]
        if model is not False:
            command += ["--model", f"a={model or chat_model(test.folder)}"]
        self.errors = []
        self.process = subprocess.Popen([str(part) for part in command], cwd=test.folder, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
                                        env={**os.environ, **(environment or {})})
        test.addCleanup(self.kill)
        while True:
            line = self.process.stderr.readline()
            self.errors.append(line)
            if not line:
                raise AssertionError(f"the server did not start: {''.join(self.errors)}")
            if found := re.search(r"listening at (https?)://\S+:(\d+) ", line):
                self.scheme, self.port = found[1], int(found[2])
                break
        # Nobody else reads what it says, and a full pipe would stop it.
        self.reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self.reader.start()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if hasattr(self, "reader"):
            self.reader.join()
        self.process.stderr.close()

    def terminate(self, timeout=300):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def connection(self, timeout=300):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def raw(self, data=b"", timeout=300):
        """A socket, with bytes sent."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout)
        self.test.addCleanup(sock.close)
        sock.sendall(data)
        return sock

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, JSON or text)"""
        connection = self.connection()
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {**({"Content-Type": "application/json"} if data is not None else {}), **(headers or {})})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        kind = answer.headers.get("Content-Type", "")
        return answer.status, answer.headers, json.loads(text) if kind.startswith("application/json") and text else text

    def get(self, path, **options):
        return self.ask("GET", path, **options)

    def post(self, path, status=200, **body):
        """The JSON answer, whose status is checked."""
        got, _, answer = self.ask("POST", path, body)
        self.test.assertEqual(got, status, answer)
        return answer

    def events(self, path, **body):
        """The stream's chunks; its last event must be [DONE]."""
        connection = self.connection()
        connection.request("POST", path, json.dumps({"stream": True, **body}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        self.test.assertEqual((answer.status, answer.headers["Content-Type"]), (200, "text/event-stream"), text)
        events = text.split("\n\n")
        self.test.assertEqual(events[-2:], ["data: [DONE]", ""])
        self.test.assertTrue(all(event.startswith("data: ") for event in events[:-1]))
        return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]

    def metric(self, name, **labels):
        """The value of a metric, 0 if it is absent."""
        wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
        for line in self.get("/metrics")[2].splitlines():
            if line.startswith(wanted + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0
