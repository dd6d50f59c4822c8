"""LongGen's masks (arXiv:2410.01485) on a model that was not trained with them: bits, memory, and time beside the dense engine.

    python3 bench/results/long_longgen.py --long
"""

import tempfile
from pathlib import Path

import common

LENGTH = 32768
# 10 of 30 layers in the middle see everything, the others 512 tokens: 1/64 of the length.
LAYERS = "longgen:10:sink=64:window=448"
REPEATS = 3


def speeds(model, *options):
    """Prefill at LENGTH and decode behind a text of nearly that length, tokens a second."""
    bench = ["bench", "--model", model, "--rope-scaling", "ntk:4", "--prompt", LENGTH, "--generate", 0, "--repeat", 1, "--json", *options]
    prefill = common.onset_json(*bench, timeout=3600)
    with tempfile.TemporaryDirectory() as folder:
        ids = Path(folder, "prompt.txt")
        ids.write_text(common.shared("data/text/wikitext2-raw-test.txt").read_text(encoding="utf-8")[: LENGTH * 4], encoding="utf-8")
        run = common.onset_json("run", "--model", model, "--rope-scaling", "ntk:4", "--raw", "--ignore-end", "--temperature", 0, "-n", 64, "--json", *options,
                                "--file", ids, timeout=3600)
    return prefill["prefill"][0]["tokens_per_second"][0], run["decode_tokens_per_second"]


def measure(claims):
    model = common.model(common.SMOLLM2)
    text = "The capital of France is Paris. " * 200
    dense, full = (common.onset_json("run", "--model", model, "--raw", "--temperature", 0, "-n", 32, "--json", *options, text)["ids"]
                   for options in ((), ("--layers", "longgen:30")))
    claims.report("long.longgen.full", 100 * sum(a == b for a, b in zip(dense, full)) / len(dense))
    plain, sparse = [], []
    for _ in range(REPEATS):
        plain.append(speeds(model))
        sparse.append(speeds(model, "--layers", LAYERS))
        print(f"{LENGTH} tokens: dense {plain[-1][0]:.0f} and {plain[-1][1]:.1f} tokens/s, {LAYERS} {sparse[-1][0]:.0f} and {sparse[-1][1]:.1f}")

    def ratio(index):
        return sorted(b[index] / a[index] for a, b in zip(plain, sparse))[REPEATS // 2]

    claims.report("long.longgen.prefill", ratio(0))
    claims.report("long.longgen.decode", ratio(1))


if __name__ == "__main__":
    common.measure_long(__file__, measure, "long.longgen")
