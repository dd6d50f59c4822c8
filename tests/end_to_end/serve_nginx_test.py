"""packaging/nginx.conf: nginx is run with it, and streams come through event by event."""

import http.client
import json
import pathlib
import re
import shutil
import socket
import subprocess
import time
import unittest

import harness
from serve_client import Server


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Nginx(harness.Test):
    def setUp(self):
        super().setUp()
        self.nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        if not pathlib.Path(self.nginx).exists():
            raise unittest.SkipTest("nginx is not installed (tools/setup --developer)")
        self.server = Server(self)
        self.port = free_port()
        text = (harness.ROOT / "packaging" / "nginx.conf").read_text(encoding="utf-8")
        text, servers = re.subn(r"server 127\.0\.0\.1:8080;", f"server 127.0.0.1:{self.server.port};", text)
        text, listens = re.subn(r"listen 127\.0\.0\.1:8081;", f"listen 127.0.0.1:{self.port};", text)
        self.assertEqual((servers, listens), (1, 1))
        (self.folder / "nginx.conf").write_text(text, encoding="utf-8")
        self.folder.chmod(0o755)  # its workers may be another user
        process = subprocess.Popen([self.nginx, "-p", str(self.folder), "-c", "nginx.conf", "-g", "daemon off;"], cwd=self.folder, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.terminate)
        for _ in range(500):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                break
            except OSError:
                self.assertIsNone(process.poll(), "nginx did not start")
                time.sleep(0.02)

    def test_events_come_one_by_one(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        body = {"model": "a", "prompt": "Once upon a time", "max_tokens": 400, "temperature": 0, "ignore_eos": True, "stream": True, "n": 16}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        first = answer.read1()
        self.assertIn(b"data: ", first)
        # The server still works on the rest.
        self.assertGreater(self.server.metric("onset_requests_running", model="a"), 0)
        connection.close()
        for _ in range(1000):
            if self.server.metric("onset_requests_total", model="a", reason="cancelled") == 16:
                return
            time.sleep(0.02)
        self.fail("a client that left nginx goes on at the server")

    def test_whole_answers_and_errors(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        for body, status in (({"model": "a", "prompt": "Once", "max_tokens": 3}, 200), ({"model": "b", "prompt": "Once"}, 404)):
            connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            self.assertEqual(answer.status, status, answer.read())
            answer.read()


if __name__ == "__main__":
    harness.main()
