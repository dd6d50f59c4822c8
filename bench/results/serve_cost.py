"""What the network costs: 32 streams against the same load inside the process, and 2,000 streams that are hardly read."""

import json
import os
import select
import socket
import statistics
import tempfile
import pathlib
import re
import time

import common
import serve_process

STREAMS, TOKENS, REPEATS = 32, 128, 5
SLOW, SLOW_TOKENS = 2000, 100


def bodies(stream):
    return [{"model": "a", "prompt": f"Here is story number {i} about the sea.", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, **({"stream": True} if stream else {})}
            for i in range(STREAMS)]


def request(body):
    text = json.dumps(body).encode()
    return b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text


def inside(model):
    """Tokens/s of the load as a batch, which has no network."""
    with tempfile.TemporaryDirectory() as folder:
        lines = [json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}) for i, body in enumerate(bodies(False))]
        pathlib.Path(folder, "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        report = common.parse(common.onset("batch", "--model", f"a={model}", "--in-flight", STREAMS, "--json", f"{folder}/in.jsonl", f"{folder}/out.jsonl").out, "onset batch")
        return report["new_tokens"] / report["seconds"]


def through_sockets(server):
    """(tokens/s, share of one core that this client used)"""
    began, cpu = time.perf_counter(), time.process_time()
    poll, open_streams = select.epoll(), {}
    for body in bodies(True):
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
    with serve_process.serving("--model", f"a={model}") as server:
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


def cost_of_slow_readers(claims):
    """With the small story model, whose answers are ready long before they are read."""
    stories = common.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"
    options = ["--model", f"a={stories}", "--max-requests", 4 * SLOW, "--max-tokens-in-flight", 10**9, "--idle-time", 3600, "--pool", 1 << 17, "--no-cache"]
    # Another server without slow readers does the same in turns, so that noise meets both alike.
    with serve_process.serving(*options) as server, serve_process.serving(*options) as other:
        for _ in range(3):
            through_sockets(server)
            through_sockets(other)
        before = server.resident_bytes()
        slow = []
        body = {"model": "a", "prompt": "Once upon a time", "max_tokens": SLOW_TOKENS, "ignore_eos": True, "stream": True}
        for _ in range(SLOW):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes it as small as it can
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(request(body))
            slow.append(sock)
        largest, alone, beside = 0, [], []
        end = time.monotonic() + 60
        while time.monotonic() < end or len(beside) < 3:
            second = time.monotonic() + 1
            for sock in slow:
                if not sock.recv(1):
                    raise common.Failure("a slow stream was closed")
            largest = max(largest, server.resident_bytes())
            if end - time.monotonic() < 30:  # all are answered by now
                beside.append(through_sockets(server)[0])
                alone.append(through_sockets(other)[0])
            time.sleep(max(0.0, second - time.monotonic()))
        print(f"alone {common.describe(alone)} tokens/s; beside {SLOW} slow readers: {common.describe(beside)}")
        claims.report("serve.cost.memory", (largest - before) / SLOW / 1024)
        claims.report("serve.cost.others", 100 * statistics.median(beside) / statistics.median(alone))
        for sock in slow:
            sock.close()


def main():
    claims = common.Claims(__file__)
    with claims.rows("serve.cost"):
        cost_of_streams(claims, common.model(common.SMOLLM2))
        cost_of_slow_readers(claims)
    claims.finish()


if __name__ == "__main__":
    main()
