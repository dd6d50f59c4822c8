"""Questions of NaturalQuestions to ten passages, one of which has the answer, each read by itself (APE, arXiv:2502.05431).

    python3 bench/results/reuse_ape_nq.py --long
"""

import common
import parallel


def measure(claims):
    train, test = parallel.nq_items(16, 40)
    steps = parallel.ladder(common.model(common.SMOLLM2), train, test, 8)
    claims.report("reuse.ape.nq.prefix", steps["+p"]["answer_logprob"] - steps["pcw"]["answer_logprob"])
    claims.report("reuse.ape.nq.tuned", steps["+s"]["answer_logprob"] - steps["+p"]["answer_logprob"])
    claims.report("reuse.ape.nq.divergence", steps["+s"]["kl"] / steps["pcw"]["kl"])


if __name__ == "__main__":
    common.measure_long(__file__, measure, "reuse.ape.nq")
