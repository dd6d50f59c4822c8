"""LServe (arXiv:2502.14866) with SmolLM2's built-in table: decode behind long contexts, attention in prompts, the selector, and keys of few bits.

    python3 bench/results/long_lserve.py --long
"""

import statistics

import common

CONTEXTS = [2048, 4096, 8192, 16384, 32768, 65536]
REPEATS = 5
SCALING = ("--rope-scaling", "ntk:9")


def decode_speeds(model, attend):
    """Tokens a second behind each context, of 64 tokens."""
    report = common.onset_json("bench", "--model", model, *SCALING, "--attend", attend, "--prompt", 1, "--generate", 64, "--repeat", 1, "--behind",
                               ",".join(map(str, CONTEXTS)), "--json", timeout=3600)
    return [behind["tokens_per_second"][0] for behind in report["decode_behind"]]


def measure_decode(claims, model):
    speeds = {attend: [decode_speeds(model, attend) for _ in range(REPEATS)] for attend in ("lserve", "dense")}
    middle = {attend: [statistics.median(runs) for runs in zip(*speeds[attend])] for attend in speeds}
    for context, sparse, dense in zip(CONTEXTS, middle["lserve"], middle["dense"]):
        print(f"behind {context} tokens: {sparse:.1f} tokens/s with lserve, dense {dense:.1f}")
    claims.report("long.lserve.flat", 100 * (max(middle["lserve"]) / min(middle["lserve"]) - 1))
    claims.report("long.lserve.decode", middle["lserve"][-1] / middle["dense"][-1])


def decode_seconds(model, context, attend):
    """Seconds of 64 tokens: in plans, in attention, in all."""
    report = common.onset_json("profile", "--model", model, *SCALING, "--attend", attend, "--behind", context, "--generate", 64, "--json", timeout=3600)
    seconds = {operation["name"]: operation["seconds"] for operation in report["operations"]}
    return seconds["attention.plan"], seconds["attention.attend"], report["seconds"]


def measure_selector(claims, model):
    ways = {interval: (lambda interval=interval: decode_seconds(model, CONTEXTS[-1], f"lserve:interval={interval}")) for interval in (1, 4)}
    runs = common.interleaved(REPEATS, ways)
    plans = {interval: statistics.median(run[0] for run in runs[interval]) for interval in runs}
    for interval, seconds in plans.items():
        share = statistics.median(run[0] / run[2] for run in runs[interval])
        print(f"interval {interval}: {1e3 * seconds / 64:.2f} ms of plans for a token, {100 * share:.1f} % of its time")
    claims.report("long.lserve.selector", plans[1] / plans[4])


def attention_seconds(model, attend):
    report = common.onset_json("profile", "--model", model, "--prompt", 8192, "--attend", attend, "--json", timeout=3600)
    seconds = {operation["name"]: operation["seconds"] for operation in report["operations"]}
    return seconds["attention.plan"] + seconds["attention.attend"]


def measure_prefill(claims, model):
    runs = common.interleaved(REPEATS, {way: (lambda way=way: attention_seconds(model, way)) for way in ("dense", "lserve")})
    claims.report("long.lserve.prefill", statistics.median(sparse / dense for dense, sparse in zip(runs["dense"], runs["lserve"])))


def perplexity(model, *options):
    text = common.shared("data/text/wikitext2-raw-test.txt")
    return common.onset_json("perplexity", "--model", model, "--file", text, "--json", *options, timeout=3600)


def measure_quality(claims, model):
    plain = {kv: perplexity(model, "--window", 2048, "--tokens", 32 * 2048, "--kv", kv)["perplexity"] for kv in ("f16", "int8", "int4")}
    print(", ".join(f"{kv}: perplexity {value:.4f}" for kv, value in plain.items()))
    claims.report("long.lserve.kv8", 100 * (plain["int8"] / plain["f16"] - 1))
    claims.report("long.lserve.kv4", 100 * (plain["int4"] / plain["f16"] - 1))
    report = perplexity(model, "--window", 8192, "--tokens", 16 * 8192, "--last", 256, "--kl-against", "dense", "--attend", "lserve")
    claims.report("long.lserve.perplexity", 100 * (report["perplexity"] / report["against"]["perplexity"] - 1))


def measure_limits(claims, model):
    text = "The capital of France is Paris. " * 200
    run = ["run", "--model", model, "--raw", "--temperature", 0, "-n", 32, "--json"]
    dense, *limits = (common.onset_json(*run, "--attend", attend, text)["ids"] for attend in ("dense", "lserve:sparsity=0:budget=2048", "lserve:sparsity=1:sink=2048"))
    claims.report("long.lserve.limits", min(100 * sum(a == b for a, b in zip(dense, ids)) / len(dense) for ids in limits))


def measure(claims):
    model = common.model(common.SMOLLM2)
    measure_limits(claims, model)
    measure_prefill(claims, model)
    measure_quality(claims, model)
    measure_selector(claims, model)
    measure_decode(claims, model)


if __name__ == "__main__":
    common.measure_long(__file__, measure, "long.lserve")
