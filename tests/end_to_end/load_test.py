"""onset load against a small server of this file: what is sent, what is counted, what is said when things go wrong."""

import http.server
import json
import pathlib
import threading
import time

import harness
from serve_client import Server, certificate


class PacedServer(http.server.ThreadingHTTPServer):
    """An OpenAI-compatible server that answers at a set pace; slower the more requests run at once."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, first=0.02, between=0.01, per_request=0.0, fail=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.first, self.between, self.per_request, self.fail = first, between, per_request, fail
        self.bodies, self.headers, self.running, self.lock = [], [], 0, threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass  # clients that leave


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def chunk(self, text):
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def do_POST(self):
        paced = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with paced.lock:
            number = len(paced.bodies)
            paced.bodies.append((self.path, body))
            paced.headers.append(dict(self.headers))
            paced.running += 1
        try:
            self.answer(paced, body, number)
        finally:
            with paced.lock:
                paced.running -= 1

    def answer(self, paced, body, number):
        if paced.fail and paced.fail(number):
            data = json.dumps({"error": {"message": "the queue is full", "type": "overloaded"}}).encode()
            self.send_response(429)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        time.sleep(paced.first)
        for i in range(body["max_tokens"]):
            if i:
                time.sleep(paced.between + paced.per_request * (paced.running - 1))
            last = i == body["max_tokens"] - 1
            self.chunk("data: " + json.dumps({"choices": [{"text": f" {i}", "finish_reason": "length" if last else None}]}) + "\n\n")
        prompt = body["prompt"] if isinstance(body["prompt"], list) else body["prompt"].split()
        self.chunk("data: " + json.dumps({"choices": [], "usage": {"prompt_tokens": len(prompt), "completion_tokens": body["max_tokens"]}}) + "\n\n")
        self.chunk("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")


class Load(harness.Test):
    def paced(self, **options):
        paced = PacedServer(**options)
        self.addCleanup(paced.server_close)
        self.addCleanup(paced.shutdown)
        return paced

    def test_requests_are_what_was_asked_for_and_their_tokens_are_counted(self):
        paced = self.paced()
        (self.folder / "key").write_text("secret\n")
        done = self.onset_json("load", "--url", paced.url, "--model", "m", "--prompt-tokens", 30, "--output-tokens", 5, "-n", 8, "--rate", 50,
                               "--ban-token", 2, "--key-file", "key", "--ttft", "10s", "--tbt", "5s", "--json")
        self.assertEqual((done["requests"], done["failed"], done["within_limits"]), (8, 0, 8))
        self.assertEqual((done["prompt_tokens"], done["output_tokens"]), (240, 40))
        self.assertGreaterEqual(done["first_token_seconds"]["p50"], 0.02)
        self.assertGreaterEqual(done["between_tokens_seconds"]["p50"], 0.009)
        self.assertEqual(len(paced.bodies), 8)
        path, body = paced.bodies[0]
        self.assertEqual(path, "/v1/completions")
        self.assertEqual((body["model"], body["max_tokens"], body["stream"], body["logit_bias"]), ("m", 5, True, {"2": -100}))
        self.assertTrue(all(1000 <= token <= 9999 for token in body["prompt"]))
        self.assertEqual(paced.headers[0]["Authorization"], "Bearer secret")
        self.assertNotEqual(paced.bodies[1][1]["prompt"], body["prompt"])

    def test_traces_are_replayed_the_same_for_one_seed(self):
        (self.folder / "trace.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" +
                                               "".join(f"{i / 10},{4 * i + 4},{i % 5 + 1}\n" for i in range(60)))
        lengths = []
        for seed in (1, 1, 2):
            paced = self.paced(first=0, between=0)
            self.onset("load", "--url", paced.url, "--trace", "trace.csv", "-n", 20, "--rate", 200, "--divide-lengths", 2, "--seed", seed)
            lengths.append(sorted((len(body["prompt"]), body["max_tokens"]) for _, body in paced.bodies))
        self.assertEqual(lengths[0], lengths[1])
        self.assertNotEqual(lengths[0], lengths[2])
        paced = self.paced(first=0, between=0)
        began = time.monotonic()
        self.onset("load", "--url", paced.url, "--trace", "trace.csv", "-n", 11, "--trace-arrivals", "--speed", 2, "--words")
        self.assertGreaterEqual(time.monotonic() - began, 0.5)
        self.assertEqual([len(body["prompt"].split()) for _, body in paced.bodies][0], 4)

    def test_the_table_and_the_picture(self):
        paced = self.paced()
        done = self.onset("load", "--url", paced.url, "-n", 4, "--rate", 20, "--output-tokens", 4, "--prompt-tokens", 8, "--svg", "load.svg")
        self.assertRegex(done.stdout, r"(?m)^milliseconds +P50 +P90 +P99 +mean +most$")
        self.assertRegex(done.stdout, r"(?m)^time between tokens +[\d.]+")
        self.assertRegex(done.stdout, r"4 requests in [\d.]+ s, 0 failed")
        self.assertTrue((self.folder / "load.svg").read_text().startswith("<svg"))

    def test_the_capacity_is_found(self):
        # 5 tokens of 40 ms and 30 ms more for each other request: a limit of 200 ms leaves room for six at once.
        paced = self.paced(first=0.0, between=0.04, per_request=0.03)
        done = self.onset_json("load", "--url", paced.url, "-n", 24, "--rate", 2, "--prompt-tokens", 8, "--output-tokens", 5, "--capacity", "--tbt", "200ms",
                               "--precision", 0.3, "--json", "--svg", "capacity.svg")
        met = [probe["rate"] for probe in done["probes"] if probe["meets_limits"]]
        missed = [probe["rate"] for probe in done["probes"] if not probe["meets_limits"]]
        self.assertEqual(done["capacity_requests_per_second"], max(met))
        self.assertTrue(missed)
        for probe in done["probes"]:
            self.assertEqual(probe["meets_limits"], probe["between_tokens_seconds"]["p99"] <= 0.2)
        self.assertIn("capacity", (self.folder / "capacity.svg").read_text())

    def test_failures_are_told(self):
        paced = self.paced(fail=lambda number: number % 2 == 0)
        done = self.onset("load", "--url", paced.url, "-n", 6, "--rate", 100, "--output-tokens", 2, "--json")
        self.assertEqual(json.loads(done.stdout)["failed"], 3)
        self.assertEqual(done.stderr, "onset: 3 of 6 requests failed; the first one: status 429: the queue is full\n")
        paced = self.paced(fail=lambda number: True)
        done = self.onset("load", "--url", paced.url, "-n", 2, "--rate", 100, status=1)
        self.assertEqual(done.stderr, "onset: every request failed; the first one: status 429: the queue is full\n")
        done = self.onset("load", "--url", "http://127.0.0.1:1", "-n", 1, status=1)
        self.assertEqual(done.stderr, "onset: every request failed; the first one: 127.0.0.1:1: Connection refused\n")

    def test_wrong_options_are_named(self):
        for options, sentence in ((["--url", "ftp://x"], "url is ftp://x, expected http://HOST:PORT or https://HOST"),
                                  (["--url", "http://x/v1/completions", "--endpoint", "chat"], "url is http://x/v1/completions, which is not the endpoint of chats"),
                                  (["--endpoint", "chat", "--ids", "1:9"], "--ids: a chat's prompts are text: expected none"),
                                  (["--url", "https://x", "--ca-file", "none.pem"], "none.pem: expected a file of trusted certificates in PEM: No such file or directory"),
                                  (["--ttft", "2"], "--ttft is 2, expected a time as 2s or 100ms"),
                                  (["--capacity"], "a capacity needs a limit: expected --ttft, --tbt or both"),
                                  (["--ids", "7"], "--ids: 7 is not FIRST:LAST, two token ids"),
                                  (["--more", "[]"], "further members are [], expected a JSON object"),
                                  (["--trace", "missing.csv"], "missing.csv: cannot be opened: No such file or directory")):
            self.assertEqual(self.onset("load", "-n", 1, *options, status=1).stderr, f"onset: {sentence}\n")

    def test_the_shared_traces_are_read(self):
        paced = self.paced(first=0, between=0)
        names = {path.name for path in harness.shared("data/traces").iterdir()}
        self.assertGreaterEqual(len(names), 7)
        for name in sorted(names):
            done = self.onset_json("load", "--url", paced.url, "--trace", pathlib.Path(harness.shared("data/traces")) / name, "-n", 5, "--rate", 100,
                                   "--divide-lengths", 50, "--json")
            self.assertEqual((done["requests"], done["failed"]), (5, 0), name)


class AgainstServe(harness.Test):
    """The program itself at the other end."""

    LOAD = ("load", "--model", "a", "-n", 6, "--rate", 50, "--prompt-tokens", 12, "--output-tokens", 7, "--more", '{"ignore_eos": true}', "--json")

    def check(self, done, prompts_are_exact=True):
        self.assertEqual((done["requests"], done["failed"], done["output_tokens"]), (6, 0, 42))
        if prompts_are_exact:
            self.assertEqual(done["prompt_tokens"], 72)

    def test_completions_and_chats(self):
        server = Server(self)
        url = f"http://127.0.0.1:{server.port}"
        self.check(self.onset_json(*self.LOAD, "--url", url, "--ids", "3:300"))
        self.assertEqual(server.metric("onset_new_tokens_total", model="a"), 42)
        self.check(self.onset_json(*self.LOAD, "--url", url, "--endpoint", "chat"), False)
        self.check(self.onset_json(*self.LOAD, "--url", url + "/v1/chat/completions", "--endpoint", "chat"), False)

    def test_over_tls(self):
        certificate(self.folder, "subjectAltName=IP:127.0.0.1")
        server = Server(self, "--tls-certificate", "cert.pem", "--tls-key", "key.pem")
        url = f"https://127.0.0.1:{server.port}"
        self.check(self.onset_json(*self.LOAD, "--url", url, "--ca-file", "cert.pem", "--ids", "3:300"))
        self.check(self.onset_json(*self.LOAD, "--url", url, "--ca-file", "cert.pem", "--endpoint", "chat"), False)
        done = self.onset(*self.LOAD, "--url", url, "--ids", "3:300", status=1)  # nobody whom the system trusts has signed it
        self.assertRegex(done.stderr, rf"^onset: every request failed; the first one: 127\.0\.0\.1:{server.port}: the TLS handshake failed: self-signed certificate\n$")

    def test_another_hosts_certificate(self):
        certificate(self.folder, "subjectAltName=DNS:elsewhere.example")
        server = Server(self, "--tls-certificate", "cert.pem", "--tls-key", "key.pem")
        done = self.onset(*self.LOAD, "--url", f"https://127.0.0.1:{server.port}", "--ca-file", "cert.pem", "--ids", "3:300", status=1)
        self.assertIn("the TLS handshake failed: ", done.stderr)


if __name__ == "__main__":
    harness.main()
