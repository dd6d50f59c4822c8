"""Servers under load, for the serve_* claims: starts them, loads them with `onset load`, and finds their capacity."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import common

THREADS = 2
# Every load has the ShareGPT lengths, a quarter each, and prompts of at most half the context.
CONTEXT = 8192


def trace():
    return common.shared("data/traces/sharegpt_8k_filtered_stats_llama2_tokenizer.csv")


def load_options(requests, seed=1):
    return ["--trace", trace(), "--divide-lengths", 4, "--most-prompt-tokens", CONTEXT // 2, "--requests", requests, "--seed", seed,
            "--more", '{"ignore_eos": true}']


class Server:
    """A running server."""

    def __init__(self, process, url, lines):
        self.process, self.url, self.lines = process, url, lines

    def load(self, *options, timeout=3600):
        return common.onset_json("load", "--url", self.url, "--json", *options, timeout=timeout)


@contextlib.contextmanager
def running(command, ready, url=None, timeout=300):
    """A server until the body ends. `ready`: the pattern of the line that says it listens, with the address as its group, or, where
    `url` is given, none: /health is asked."""
    command = [str(part) for part in command]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
    lines, found = [], threading.Event()
    address = [url]

    def read():
        for line in process.stderr:
            lines.append(line.rstrip())
            del lines[:-50]
            if ready and (match := re.search(ready, line)):
                address[0] = match[1]
                found.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        end = time.monotonic() + timeout
        while not found.is_set():
            if process.poll() is not None or time.monotonic() > end:
                raise common.Failure(f"{' '.join(command)}: did not start: {(lines or ['no reason given'])[-1]}")
            if url and healthy(url):
                break
            time.sleep(0.1)
        yield Server(process, address[0], lines)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def healthy(url):
    try:
        with urllib.request.urlopen(url + "/health", timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def onset_server(model, *options):
    """`onset serve`, with requests under the name "model"."""
    if "serve" not in common.onset("--help").out:
        raise common.Skip("this build has no onset serve")
    # Prompts that a search sends again and again must be read each time.
    return running([common.onset_program(), "serve", "--model", f"model={model}", "--threads", THREADS, "--port", 0, "--no-prefix-cache", *options],
                   r"listening at (http://\S+)")


def capacity(server, requests, first_token, between_tokens, first_rate=1.0, precision=0.1):
    """(requests a second, all probes) with limits in seconds."""
    found = server.load("--model", "model", *load_options(requests), "--capacity", "--rate", first_rate, "--ttft", f"{first_token}s",
                        "--tbt", f"{1e3 * between_tokens:.3f}ms", "--precision", precision, timeout=6 * 3600)
    for probe in found["probes"]:
        print(f"  {probe['rate']:.3f} requests/s: median TTFT {probe['first_token_seconds']['p50']:.3f} s, P99 TBT "
              f"{1e3 * probe['between_tokens_seconds']['p99']:.1f} ms, {probe['failed']} failed: {'met' if probe['meets_limits'] else 'missed'}")
    return found["capacity_requests_per_second"]


def python_package(name, *packages):
    """The Python of a virtual environment of the cache folder that has these PyPI packages; made at first use. Raises Skip where that
    cannot be."""
    folder = common.CACHE / f"serve-{name}"
    python = folder / "bin" / "python"
    if not (folder / ".complete").exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, capture_output=True, timeout=300)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, capture_output=True, timeout=1800)
        except (OSError, subprocess.SubprocessError) as error:
            raise common.Skip(f"{', '.join(packages)} cannot be installed: {error}") from None
        (folder / ".complete").touch()
    return python


def unloaded_step(server, batch=8, tokens=64, prompt=128):
    """The median time between tokens, in seconds, of `batch` requests that decode together and nothing else."""
    done = server.load("--model", "model", "--prompt-tokens", prompt, "--output-tokens", tokens, "--requests", batch, "--rate", 1000,
                       "--more", '{"ignore_eos": true}')
    return done["between_tokens_seconds"]["p50"]


def workload(requests, rate, folder, seed=1):
    """The requests that a load at this rate consists of: [{"arrival_seconds", "prompt_tokens", "output_tokens", "prompt"}]."""
    file = pathlib.Path(folder) / "workload.jsonl"
    file.write_text(common.onset("load", *load_options(requests, seed), "--rate", rate, "--plan").out)
    return file


def read_plan(file):
    return [json.loads(line) for line in pathlib.Path(file).read_text().splitlines()]


def free_port():
    import socket
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def temporary():
    return tempfile.TemporaryDirectory(prefix="onset-serve-", dir=os.environ.get("TMPDIR"))
