"""Two servers that share one Redis: the first reads documents, the second loads them at its first request. And whether `onset bench break-even`
has predicted what loading takes.

    python3 bench/results/reuse_shared.py
"""

import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import common
import serving

# Documents of about 2,000 tokens, and as many that only warm up.
DOCUMENTS, WORDS, LAYERS = 7, 1000, 30
LENGTHS = "500,1000,2000,3000"


@contextlib.contextmanager
def redis():
    """The port of a Redis server without files, until the body ends."""
    program = shutil.which("redis-check-rdb")
    if program is None:
        raise common.Skip("redis-tools is not installed")
    port = serving.free_port()
    # redis-tools brings the server without the service, under another name.
    options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--logfile", "/dev/null"]
    with subprocess.Popen(["redis-server", *map(str, options)], executable=program) as process:
        try:
            for _ in range(500):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.02)
            yield port
        finally:
            process.kill()


def redis_keys(port):
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(b"DBSIZE\r\n")
        return int(sock.recv(100).strip().removeprefix(b":"))


def server(model, *options):
    command = [common.onset_program(), "serve", "--model", f"model={model}", "--threads", serving.THREADS, "--port", 0, *options]
    return serving.running(command, r"listening at (http://\S+)")


def ask(url, document, reuse):
    """(text, seconds to the first token, the field onset) of a streamed answer."""
    body = {"model": "model", "prompt": "\n\nWhat is it about?", "max_tokens": 16, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}, "onset": {"contexts": [{"text": document}], "reuse": reuse}}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    text, first, onset = "", None, None
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=600) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            first = first or time.perf_counter() - began
            event = json.loads(line[6:])
            text += "".join(choice["text"] for choice in event["choices"])
            onset = event.get("onset") or onset
    return text, first, onset


def predicted_error(name, fit, loads):
    """Per cent between what loading took and what was predicted, the median over requests."""
    ratios = [load["load_seconds"] / (fit["fixed_seconds"] + load["loaded_bytes"] / fit["bytes_per_second"]) for load in loads]
    print(f"{name}: loading over what was predicted: {common.describe(ratios)}; {loads[0]['loaded_bytes'] / 1e6:.1f} MB the first")
    return 100 * abs(statistics.median(ratios) - 1)


def measure(claims):
    model = common.model(common.SMOLLM2)
    words = common.shared("data/text/tinyshakespeare.txt").read_text(encoding="utf-8").split(" ")
    # No two of one length.
    texts = [" ".join(words[i * WORDS:(i + 1) * WORDS - 20 * i]) for i in range(2 * DOCUMENTS)]
    documents, others = texts[:DOCUMENTS], texts[DOCUMENTS:]
    with redis() as port, tempfile.TemporaryDirectory() as name:
        store = ["--store", f"redis://127.0.0.1:{port}"]
        with server(model, *store) as first, server(model, *store) as second:
            read = [ask(first.url, document, "full") for document in documents]
            end = time.monotonic() + 60
            while redis_keys(port) < DOCUMENTS * (LAYERS + 1):
                if time.monotonic() > end:
                    raise common.Failure("the first server has not put its documents into Redis")
                time.sleep(0.05)
            for other in others:
                ask(second.url, other, "prefix")  # memory is full then, and stays so
            # Both in turns; a document is loaded by the first request that names it.
            loaded, computed = [], []
            for document in documents:
                loaded.append(ask(second.url, document, "full"))
                computed.append(ask(second.url, document, "none"))
        files = [Path(name, f"{i}.txt") for i in range(DOCUMENTS)]
        for file, document in zip(files, documents):
            file.write_text(document, encoding="utf-8")
        folder = Path(name, "chunks")
        common.onset_json("store", "add", "--model", model, "--store", folder, "--json", *files)
        with server(model, "--store", folder) as third:
            for other in others:
                ask(third.url, other, "prefix")
            from_disk = [ask(third.url, document, "full") for document in documents]
        report = common.onset_json("bench", "break-even", "--model", model, "--threads", serving.THREADS, "--tokens", LENGTHS, "--folder", name,
                                   "--redis", store[1], "--json")
    tokens = [onset["context_tokens"] for _, _, onset in loaded]
    claims.report("reuse.store.shared.hits", 100 * sum(onset["tiers"] == {"redis": count} for (_, _, onset), count in zip(loaded, tokens)) / DOCUMENTS)
    claims.report("reuse.store.shared.equal", 100 * sum(ours[0] == theirs[0] for ours, theirs in zip(loaded, read)) / DOCUMENTS)
    compute, load = (statistics.median(seconds for _, seconds, _ in answers) for answers in (computed, loaded))
    line, redis_line = report["compute"], report["tiers"]["redis"]["request"]
    middle = statistics.median(tokens)
    size = statistics.median(onset["loaded_bytes"] for _, _, onset in loaded)
    predicted = ((line["fixed_seconds"] + middle * (line["seconds_per_token"] + middle * line["seconds_per_token_squared"]))
                 / (redis_line["fixed_seconds"] + size / redis_line["bytes_per_second"]))
    print(f"{middle:.0f} tokens: first token after {1e3 * compute:.0f} ms of computing, {1e3 * load:.0f} ms of loading {size / 1e6:.1f} MB; the text alone is "
          f"predicted to load {predicted:.1f} times as fast as it is computed")
    claims.report("reuse.store.shared.ttft", compute / load, [mine[1] / other[1] for mine, other in zip(computed, loaded)])
    claims.report("reuse.store.break_even.redis", predicted_error("redis", report["tiers"]["redis"]["loading"], [onset for _, _, onset in loaded]))
    claims.report("reuse.store.break_even.disk", predicted_error("disk", report["tiers"]["disk"]["loading"], [onset for _, _, onset in from_disk]))
    claims.report("reuse.store.break_even.from", max(report["tiers"][tier]["from_tokens"] or 1 << 20 for tier in report["tiers"]))


def main():
    claims = common.Claims(__file__)
    with claims.rows("reuse.store"):
        measure(claims)
    claims.finish()


if __name__ == "__main__":
    main()
