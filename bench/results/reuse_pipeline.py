"""Contexts loaded layer by layer while the layers before are computed: how much of the loading is hidden (CacheBlend, check 10), from devices
that are as quick as the computing, and quicker and slower ones; all are the same folder with a limit on how fast it is read.

    python3 bench/results/reuse_pipeline.py
"""

import statistics
import tempfile
from pathlib import Path

import common

# Chunks of about 512 tokens, as in the paper.
CONTEXTS, WORDS, ROUNDS = 8, 250, 7
LAYERS = 30


def first_token(folder, files, *options):
    """The median over the rounds of seconds to the first token, with what loading them took."""
    runs = []
    for _ in range(ROUNDS):
        contexts = [part for file in files for part in ("--context", file)]
        report = common.onset_json("run", "--model", common.model(common.SMOLLM2), "--store", folder, *contexts, "--reuse", "cacheblend", "--json", "-n", 1, *options,
                                   "What is it about?")
        assert "read" not in report["contexts"]["tokens"], report["contexts"]
        runs.append(report)
    return sorted(runs, key=lambda run: run["first_token_seconds"])[ROUNDS // 2]


def measure(claims):
    words = common.shared("data/text/tinyshakespeare.txt").read_text(encoding="utf-8").split(" ")
    with tempfile.TemporaryDirectory() as name:
        files = []
        for i in range(CONTEXTS):
            files.append(Path(name, f"{i}.txt"))
            files[-1].write_text(" ".join(words[i * WORDS:(i + 1) * WORDS]), encoding="utf-8")
        folder = Path(name, "chunks")
        common.onset_json("store", "add", "--model", common.model(common.SMOLLM2), "--store", folder, "--json", *files)
        alone = first_token(folder, files)
        compute, size = alone["first_token_seconds"], alone["contexts"]["loaded_bytes"]
        print(f"{alone['context_tokens']} tokens, {size / 1e6:.1f} MB: first token after {1e3 * compute:.0f} ms, loaded at {size / alone['contexts']['load_seconds'] / 1e6:.0f} MB/s")
        worst, sums = 0, []
        for share in (0.25, 0.5, 1.0, 2.0):
            load = share * compute
            run = first_token(folder, files, "--store-rate", size / load / 1e6)
            bound = max(load, compute) + load / LAYERS
            worst = max(worst, run["first_token_seconds"] / bound)
            sums.append(run["first_token_seconds"] / (load + compute))
            print(f"{size / load / 1e6:.0f} MB/s: loading takes {1e3 * load:.0f} ms, first token after {1e3 * run['first_token_seconds']:.0f} ms, computing waited "
                  f"{1e3 * run['contexts']['wait_seconds']:.0f} ms")
        claims.report("reuse.store.pipeline.bound", worst)
        claims.report("reuse.store.pipeline.sum", statistics.mean(sums))


def main():
    claims = common.Claims(__file__)
    with claims.rows("reuse.store.pipeline"):
        measure(claims)
    claims.finish()


if __name__ == "__main__":
    main()
