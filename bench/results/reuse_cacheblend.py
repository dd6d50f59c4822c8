"""How near answers to blended contexts (CacheBlend, arXiv:2405.16444) are to those of reading everything, on 50 questions of MuSiQue.

    python3 bench/results/reuse_cacheblend.py --long
"""

import json
import tempfile
from pathlib import Path

import common

QUESTIONS = 50
RATIOS = ("0.05", "0.15", "0.3", "0.6")
# As in the paper: what is not computed again stays as it was read.
PLAIN, PLAIN_RANDOM = "cacheblend:0.15:keys-values:single:0", "cacheblend:0.15:random:single:0"
ASK = "Answer the question about these passages within a few words. Question: "


def questions():
    """The data set as lines that bench fidelity reads."""
    for item in json.loads(common.shared("data/text/musique_s.json").read_text(encoding="utf-8"))[:QUESTIONS]:
        texts = ["\n".join(filter(None, (each["title"], each["text"]))) for each in item["ctxs"]]
        yield json.dumps({"contexts": texts, "question": ASK + item["question"]})


def measure(claims):
    model = common.model(common.SMOLLM2)
    ways = ["full", *(f"cacheblend:{ratio}" for ratio in RATIOS), "cacheblend:0.15:random", "cacheblend:0.15:keys-values:gradual", PLAIN, PLAIN_RANDOM]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "questions.jsonl")
        path.write_text("".join(line + "\n" for line in questions()), encoding="utf-8")
        report = common.onset_json("bench", "fidelity", path, "--model", model, "--ways", ",".join(ways), "--answer", 16, "--json", timeout=7200)
    kl = {}
    for way in report["ways"]:
        kl[way["way"]] = way["kl"]
        print(f"{way['way']}: divergence {way['kl']:.4f} nats, the same most likely token {100 * way['top1']:.1f} %, answer {way['logprob']:.4f}")
    curve = [kl["full"], *(kl[f"cacheblend:{ratio}"] for ratio in RATIOS), 0.0]
    claims.report("reuse.cacheblend.fidelity.half", kl["cacheblend:0.15"] / kl["full"])
    claims.report("reuse.cacheblend.fidelity.random", kl[PLAIN] / kl[PLAIN_RANDOM])
    claims.report("reuse.cacheblend.fidelity.curve", max(after / before for before, after in zip(curve, curve[1:])))


if __name__ == "__main__":
    common.measure_long(__file__, measure, "reuse.cacheblend.fidelity")
