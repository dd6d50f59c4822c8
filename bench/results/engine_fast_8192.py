"""SmolLM2: prefill of 8,192 tokens beside the peers, all formats, one interleaved run."""

import common
import peers


def measure(claims):
    model = common.model(common.SMOLLM2)
    report = peers.compare("--model", model, "--formats", "--repeat", 5, "--prompt", 8192, "--generate", 0, timeout=2 * 3600)
    peers.check_quiet(report)
    mine, right = peers.engines(report)
    peers.ratio(claims, "engine.fast.smollm2.prefill.8192", mine, right, lambda e: e.prefill(8192))


if __name__ == "__main__":
    common.measure_long(__file__, measure, "engine.fast.smollm2")
