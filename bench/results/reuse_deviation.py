"""How far keys and values of passages that are read apart are from those of reading everything (CacheBlend, arXiv:2405.16444, figures 6 to 8).

    python3 bench/results/reuse_deviation.py
"""

import json
import statistics
import tempfile
from pathlib import Path

import common

QUESTIONS, PASSAGES = 3, 6


def measure(claims):
    model = common.model(common.SMOLLM2)
    ranks, attention = [], []
    for item in json.loads(common.shared("data/text/musique_s.json").read_text(encoding="utf-8"))[:QUESTIONS]:
        with tempfile.TemporaryDirectory() as folder:
            contexts = []
            for i, passage in enumerate(item["ctxs"][:PASSAGES]):
                path = Path(folder, f"{i}.txt")
                path.write_text("\n".join(filter(None, (passage["title"], passage["text"]))), encoding="utf-8")
                contexts += ["--context", path]
            report = common.onset_json("kv-deviation", "--model", model, *contexts, "--ratios", "0.15", "--json", item["question"])
        chosen, random = (entry["mean"] for entry in report["attention"])
        print(f"median rank correlation {report['median_rank_correlation']:.3f}; attention's distance {chosen:.4f}, of random tokens {random:.4f}")
        ranks.append(report["median_rank_correlation"])
        attention.append(chosen / random)
    claims.report("reuse.cacheblend.deviation.ranks", min(ranks))
    claims.report("reuse.cacheblend.deviation.attention", statistics.mean(attention))


def main():
    claims = common.Claims(__file__)
    with claims.rows("reuse.cacheblend.deviation"):
        measure(claims)
    claims.finish()


if __name__ == "__main__":
    main()
