"""MInference (arXiv:2407.02490) with SmolLM2's built-in table: time of prompts and of attention, and what it costs in quality.

    python3 bench/results/long_minference.py --long
"""

import statistics

import common

REPEATS = 9
LENGTHS = [2048, 4096, 8192, 16384, 32768]
SHORT = [512, 1024, 2048]
WINDOWS = 16


def prefill_seconds(model, tokens, attend):
    report = common.onset_json("bench", "--model", model, "--prompt", tokens, "--generate", 0, "--repeat", 1, "--attend", attend, "--json")
    return tokens / statistics.median(report["prefill"][0]["tokens_per_second"])


def attention_seconds(model, tokens, attend):
    """Plans and attention itself, all layers."""
    scaling = ("--rope-scaling", "ntk:4") if tokens > 8192 else ()
    report = common.onset_json("profile", "--model", model, "--prompt", tokens, "--attend", attend, "--json", *scaling, timeout=3600)
    seconds = {operation["name"]: operation["seconds"] for operation in report["operations"]}
    return seconds["attention.plan"], seconds["attention.attend"]


def pairs(model, tokens):
    ways = {way: (lambda way=way: prefill_seconds(model, tokens, way)) for way in ("dense", "minference")}
    seconds = common.interleaved(REPEATS, ways)
    return [dense / sparse for dense, sparse in zip(seconds["dense"], seconds["minference"])]


def measure_attention(claims, model):
    gains = []
    for tokens in LENGTHS:
        dense = sum(attention_seconds(model, tokens, "dense"))
        plan, attend = attention_seconds(model, tokens, "minference")
        gains.append(dense / (plan + attend))
        print(f"{tokens} tokens: attention {dense:.2f} s, {plan + attend:.2f} s with minference ({100 * plan / (plan + attend):.0f} % of it plans): {gains[-1]:.2f} x")
    claims.report("long.minference.attention.8192", gains[LENGTHS.index(8192)])
    claims.report("long.minference.attention.grows", min(after / before for before, after in zip(gains, gains[1:])))


def measure_quality(claims, model):
    text = common.shared("data/text/wikitext2-raw-test.txt")
    report = common.onset_json("perplexity", "--model", model, "--file", text, "--window", 8192, "--tokens", WINDOWS * 8192, "--last", 256, "--kl-against", "dense",
                               "--attend", "minference", "--json", timeout=3600)
    claims.report("long.minference.perplexity", 100 * (report["perplexity"] / report["against"]["perplexity"] - 1))
    claims.report("long.minference.top1", 100 * report["top1"])
    claims.report("long.minference.kl", report["kl_mean"])


def measure(claims):
    model = common.model(common.SMOLLM2)
    gains = pairs(model, 8192)
    claims.report("long.minference.prefill", statistics.median(gains), gains)
    measure_attention(claims, model)
    claims.report("long.minference.short", max(1 / statistics.median(pairs(model, tokens)) for tokens in SHORT))
    measure_quality(claims, model)


if __name__ == "__main__":
    common.measure_long(__file__, measure, "long.minference")
