"""onset tune-ape on 32 questions of TREC: the search never ends below the defaults, and ends the same each time.

    python3 bench/results/reuse_ape_search.py --long
"""

import common
import parallel


def measure(claims):
    model = common.model(common.SMOLLM2)
    items, _ = parallel.trec_items(32, 1)
    first, second = (parallel.tune(model, items) for _ in range(2))
    for entry in first["trace"]:
        print(f"{entry['stage']:12}  {entry['newlines']:2} line ends, temperature {entry['temperature']:g}, scale {entry['scale']:g}: "
              f"{100 * entry['accuracy']:.1f} % right, {entry['logprob']:.4f}")
    claims.report("reuse.ape.search.default", 100 * (first["best"]["accuracy"] - first["default"]["accuracy"]))
    claims.report("reuse.ape.search.same", 100 * sum(a == b for a, b in zip(first["trace"], second["trace"])) / max(len(first["trace"]), len(second["trace"])))


if __name__ == "__main__":
    common.measure_long(__file__, measure, "reuse.ape.search")
