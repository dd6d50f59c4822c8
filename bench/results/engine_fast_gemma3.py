"""Gemma 3 270M Q4_K_M: prefill and decode beside llama.cpp and the installed ik_llama.cpp, one interleaved run."""

import common
import peers


def measure(claims):
    report = peers.compare("--model", common.model(common.GEMMA3), "--peers", "llama.cpp,ik_llama.cpp", "--repeat", 5,
                           timeout=2 * 3600)
    peers.check_quiet(report)
    mine, right = peers.engines(report)
    right = peers.only(right, "ik_llama.cpp")
    for tokens in peers.PROMPTS:
        peers.ratio(claims, f"engine.fast.gemma3.prefill.{tokens}", mine, right, lambda e, n=tokens: e.prefill(n))
    peers.ratio(claims, "engine.fast.gemma3.decode", mine, right, lambda e: e.decode())


if __name__ == "__main__":
    common.measure_long(__file__, measure, "engine.fast.gemma3")
