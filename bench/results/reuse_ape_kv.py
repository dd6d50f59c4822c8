"""75 pairs of keys and values in five contexts, and the value of one key, each read by itself (APE, arXiv:2502.05431).

    python3 bench/results/reuse_ape_kv.py --long
"""

import common
import parallel


def measure(claims):
    train, test = parallel.kv_items(8, 20)
    steps = parallel.ladder(common.model(common.SMOLLM2), train, test, 8)
    claims.report("reuse.ape.kv.prefix", steps["+p"]["answer_logprob"] - steps["pcw"]["answer_logprob"])
    claims.report("reuse.ape.kv.tuned", steps["+s"]["answer_logprob"] - steps["+p"]["answer_logprob"])
    claims.report("reuse.ape.kv.divergence", steps["+s"]["kl"] / steps["pcw"]["kl"])


if __name__ == "__main__":
    common.measure_long(__file__, measure, "reuse.ape.kv")
