"""What the network costs: 32 streams against the same load inside the process, and 2,000 streams that are hardly read."""

import json
import select
import socket
import pathlib
import statistics
import tempfile
import threading
import time

import common
import serve_process

STREAMS, TOKENS, REPEATS = 32, 128, 5
SLOW, SLOW_TOKENS, PAIRS = 2000, 100, 9


def bodies(stream, model="a"):
    return [{"model": model, "prompt": f"Here is story number {i} about the sea.", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True,
             **({"stream": True} if stream else {})} for i in range(STREAMS)]


def request(body):
    text = json.dumps(body).encode()
    return b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text


def inside(model):
    """Tokens/s of the load as a batch, which has no network."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}) for i, body in enumerate(bodies(False))]
        pathlib.Path(folder, "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        report = common.parse(common.onset("batch", "--model", f"a={model}", "--in-flight", STREAMS, "--no-prefix-cache", "--json", f"{folder}/in.jsonl", f"{folder}/out.jsonl").out, "onset batch")
        return report["new_tokens"] / report["seconds"]


def through_sockets(server, model="a"):
    """(tokens/s, share of one core that this client used)"""
    began, cpu = time.perf_counter(), time.process_time()
    poll, open_streams = select.epoll(), {}
    for body in bodies(True, model):
        sock = socket.create_connection(("127.0.0.1", server.port))
        sock.sendall(request(body))
        poll.register(sock, select.EPOLLIN)
        open_streams[sock.fileno()] = [sock, b""]
    finished = 0
    while open_streams:
        for number, _ in poll.poll():
            entry = open_streams[number]
            data = entry[0].recv(65536)
            entry[1] = (entry[1] + data)[-32:]
            if not data:
                finished += entry[1].endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
                poll.unregister(number)
                open_streams.pop(number)[0].close()
    seconds = time.perf_counter() - began
    if finished != STREAMS:
        raise common.Failure(f"{finished} of {STREAMS} streams came to their end")
    return STREAMS * TOKENS / seconds, (time.process_time() - cpu) / seconds


def cost_of_streams(claims, model):
    # What was sent before is computed again, as it is in the other process.
    with serve_process.serving("--model", f"a={model}", "--no-prefix-cache") as server:
        through_sockets(server)  # warms up
        shares = []

        def outside():
            rate, share = through_sockets(server)
            shares.append(share)
            return rate
        samples = common.interleaved(REPEATS, {"inside": lambda: inside(model), "outside": outside})
    for name, values in samples.items():
        print(f"{name}: tokens/s, {common.describe(values)}")
    print(f"the client used {100 * statistics.median(shares):.1f} % of one core")
    claims.report("serve.cost.streams", 100 * statistics.median(samples["outside"]) / statistics.median(samples["inside"]))


class SlowReaders:
    """Streams of which a thread reads one byte a second each."""

    def __init__(self, server):
        body = {"model": "a", "prompt": "Once upon a time", "max_tokens": SLOW_TOKENS, "ignore_eos": True, "stream": True}
        self.sockets, self.failure, self.closing = [], None, threading.Event()
        for _ in range(SLOW):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes it as small as it can
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(request(body))
            self.sockets.append(sock)
        self.thread = threading.Thread(target=self.read)
        self.thread.start()

    def read(self):
        began, rounds = time.monotonic(), 0
        while not self.closing.is_set():
            for sock in self.sockets:
                if not sock.recv(1):
                    self.failure = "a slow stream was closed"
                    return
            rounds += 1
            self.closing.wait(max(0.0, began + rounds - time.monotonic()))

    def close(self):
        self.closing.set()
        self.thread.join()
        for sock in self.sockets:
            sock.close()
        if self.failure:
            raise common.Failure(self.failure)


def cost_of_slow_readers(claims, model):
    """They read the small story model's answers, which are ready long before they are read; the others ask the default model."""
    stories = common.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"
    options = ["--model", f"a={stories}", "--model", f"b={model}", "--max-requests", 4 * SLOW, "--max-tokens-in-flight", 10**9, "--idle-time", 3600,
               "--pool", 1 << 14, "--no-prefix-cache"]
    # Another server without slow readers does the same in turns, so that noise meets both alike.
    with serve_process.serving(*options) as server, serve_process.serving(*options) as other:
        for name in ("a", "b"):
            through_sockets(server, name)
            through_sockets(other, name)
        before = server.resident_bytes()
        slow = SlowReaders(server)
        try:
            largest = before
            end = time.monotonic() + 30  # all are answered by then
            while time.monotonic() < end:
                largest = max(largest, server.resident_bytes())
                time.sleep(0.5)
            samples = common.interleaved(PAIRS, {"alone": lambda: through_sockets(other, "b")[0], "beside": lambda: through_sockets(server, "b")[0]})
            largest = max(largest, server.resident_bytes())
        finally:
            slow.close()
    for name, values in samples.items():
        print(f"{name} {SLOW} slow readers: tokens/s, {common.describe(values)}")
    claims.report("serve.cost.memory", (largest - before) / SLOW / 1024)
    claims.report("serve.cost.others", 100 * statistics.median(beside / alone for beside, alone in zip(samples["beside"], samples["alone"])))


def main():
    claims = common.Claims(__file__)
    with claims.rows("serve.cost"):
        model = common.model(common.SMOLLM2)
        cost_of_streams(claims, model)
        cost_of_slow_readers(claims, model)
    claims.finish()


if __name__ == "__main__":
    main()
