"""Many examples, each read by itself (APE, arXiv:2502.05431): which of six types questions of TREC have, by the likelihood of the types' names.

    python3 bench/results/reuse_ape_trec.py --long
"""

import collections

import common
import parallel


def measure(claims):
    train, test = parallel.trec_items(32, 100)
    steps = parallel.ladder(common.model(common.SMOLLM2), train, test, 1)
    right = {name: 100 * step["accuracy"] for name, step in steps.items()}
    majority = 100 * collections.Counter(item["label"] for item in test).most_common(1)[0][1] / len(test)
    print(f"always the most frequent type: {majority:.1f} % right")
    claims.report("reuse.ape.trec.prefix", right["+p"] - right["pcw"])
    claims.report("reuse.ape.trec.tuned", right["+s"] - right["+p"])
    if right["everything"] > majority + 10:
        claims.report("reuse.ape.trec.kept", 100 * right["+s"] / right["everything"])
    else:
        claims.skip("reuse.ape.trec.kept", f"reading everything is {right['everything']:.1f} % right, the most frequent type {majority:.1f} %")


if __name__ == "__main__":
    common.measure_long(__file__, measure, "reuse.ape.trec")
