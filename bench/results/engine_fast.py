"""SmolLM2: prefill and decode beside the peers, all formats, one interleaved run; and the share of the int8 peak.

Prompts of 8,192 tokens take some peers half a minute each: engine_fast_8192.py measures those in a run of their own.
"""

import statistics

import common
import peers

PROMPTS = (512, 2048)
LINEAR_WEIGHTS = 106.2e6  # of SmolLM2's 30 layers (../shared/kernels.md): each is one multiply and one add for each token


def measure(claims):
    model = common.model(common.SMOLLM2)
    # A peak is the best of several: whoever else runs for a moment can only lower it.
    peak = max(common.onset_json("bench", "machine", "--json", "--threads", 2)["int8"] for _ in range(5))
    report = peers.compare("--model", model, "--formats", "--repeat", 5, "--prompt", ",".join(map(str, PROMPTS)), timeout=2 * 3600)
    peers.check_quiet(report)
    mine, right = peers.engines(report)
    for tokens in PROMPTS:
        peers.ratio(claims, f"engine.fast.smollm2.prefill.{tokens}", mine, right, lambda e, n=tokens: e.prefill(n))
        share = statistics.median(mine.prefill(tokens)) * 2 * LINEAR_WEIGHTS / peak
        print(f"linear layers at {tokens} tokens: {100 * share:.0f} % of the measured int8 peak ({peak / 1e12:.2f} Tops)")
    peers.write_readme(report, "SmolLM2-135M-Instruct", PROMPTS)
    peers.ratio(claims, "engine.fast.smollm2.decode", mine, peers.only(right, "ik_llama.cpp"), lambda e: e.decode())


if __name__ == "__main__":
    common.measure_long(__file__, measure, "engine.fast.smollm2")
