"""LazyLLM (arXiv:2407.14057) against reading every token in every layer, on SmolLM2 with prompts of 4,096 tokens.

    python3 bench/results/long_lazyllm.py           the time to the first token
    python3 bench/results/long_lazyllm.py --long    also how near the first token is to that of reading everything

The quality is that of the distribution after the prompt, over the 20 tokens that reading everything finds most likely and all others together: the
divergence (nats; a token that the other way does not have among its own 20 counts as its least likely one, so that the figure is a lower bound) and the
share of prompts with the same most likely token. Prompts are windows of WikiText-2.
"""

import math
import statistics
import tempfile
from pathlib import Path

import common

TOKENS = 4096
REPEATS = 9
WINDOWS = 12
FAST, MILD = "lazyllm:4,10,18:0.5", "lazyllm:9,18,27:0.7"
FALLING = ["lazyllm:4,10,18:0.7", FAST, "lazyllm:4,10,18:0.3"]
DEPTHS = ["lazyllm:6:0.3", "lazyllm:15:0.3", "lazyllm:24:0.3"]  # 0.2, 0.5 and 0.8 of 30 layers
RANDOM, STATIC = FAST + ":score=random", "lazyllm:4:0.3:revive=0"
# What the arithmetic of the layers alone would give (7.08 MFLOP for each row, 2,304 FLOP for each pair that attention looks at).
CEILINGS = {FAST: 3.42, MILD: 1.59}


def first_token_seconds(model, select):
    report = common.onset_json("bench", "--model", model, "--prompt", TOKENS, "--generate", 0, "--repeat", 1, "--select", select, "--json")
    return TOKENS / statistics.median(report["prefill"][0]["tokens_per_second"])


def measure_speed(claims):
    model = common.model(common.SMOLLM2)
    ways = ["all", *dict.fromkeys([*FALLING, MILD])]
    seconds = common.interleaved(REPEATS, {way: (lambda way=way: first_token_seconds(model, way)) for way in ways})
    gains = {way: [dense / lazy for dense, lazy in zip(seconds["all"], seconds[way])] for way in ways}
    for way in ways:
        ceiling = f" of {CEILINGS[way]}" if way in CEILINGS else ""
        print(f"{way}: {1e3 * statistics.median(seconds[way]):.0f} ms to the first token, {statistics.median(gains[way]):.2f}{ceiling} times as fast")
    middle = {way: statistics.median(values) for way, values in gains.items()}
    claims.report("long.lazyllm.ttft.fast", middle[FAST], samples=gains[FAST])
    claims.report("long.lazyllm.ttft.mild", middle[MILD], samples=gains[MILD])
    claims.report("long.lazyllm.ttft.falling", min(middle[b] / middle[a] for a, b in zip(FALLING, FALLING[1:])))


def windows(folder):
    """Files of text that are about as long as the prompts whose times are measured."""
    text = common.shared("data/text/wikitext2-raw-test.txt").read_text(encoding="utf-8")
    length = 4 * TOKENS  # characters; some 4,000 tokens
    step = (len(text) - length) // WINDOWS
    for i in range(WINDOWS):
        path = Path(folder, f"{i}.txt")
        path.write_text(text[i * step : i * step + length].rsplit(" ", 1)[0], encoding="utf-8")
        yield path


def read(model, path, select, tokens=1):
    return common.onset_json("run", "--raw", "--json", "--ignore-end", "--model", model, "--select", select, "--max-tokens", tokens, "--top-logprobs", 20,
                             "--file", path)


def distribution(answer):
    return {each["id"]: each["logprob"] for each in answer["tokens"][0]["top"]}


def divergence(expected, found):
    """Of the tokens in `expected`, and of all others as one."""
    least = min(found.values())
    other_expected, other_found, sum_ = 1.0, 1.0, 0.0
    for token, logprob in expected.items():
        there = found.get(token, least)
        sum_ += math.exp(logprob) * (logprob - there)
        other_expected -= math.exp(logprob)
        other_found -= math.exp(there)
    other_expected, other_found = max(other_expected, 1e-6), max(other_found, 1e-6)
    return max(0.0, sum_ + other_expected * math.log(other_expected / other_found))


def measure_quality(claims):
    model = common.model(common.SMOLLM2)
    ways = list(dict.fromkeys(["lazyllm:4,10,18:1", MILD, "lazyllm:medium", FAST, RANDOM, STATIC, *DEPTHS]))
    kl, same = {way: [] for way in ways}, {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        for path in windows(folder):
            dense = distribution(read(model, path, "all"))
            for way in ways:
                found = distribution(read(model, path, way))
                kl[way].append(divergence(dense, found))
                same[way].append(max(dense, key=dense.get) == max(found, key=found.get))
        path = next(windows(folder))
        equal = read(model, path, "all", 64)["ids"] == read(model, path, "lazyllm:4,10,18:1", 64)["ids"]
    mean = {way: statistics.mean(values) for way, values in kl.items()}
    for way in ways:
        print(f"{way}: divergence {mean[way]:.4f} nats, the same most likely token {100 * statistics.mean(same[way]):.0f} %")
    claims.report("long.lazyllm.quality.all", float(equal and mean["lazyllm:4,10,18:1"] == 0))
    claims.report("long.lazyllm.quality.mild", statistics.mean(same[MILD]))
    claims.report("long.lazyllm.quality.random", mean[FAST] / mean[RANDOM])
    claims.report("long.lazyllm.quality.depth", max(mean[b] / mean[a] for a, b in zip(DEPTHS, DEPTHS[1:])))


def main():
    claims = common.Claims(__file__)
    with claims.rows("long.lazyllm.ttft"):
        measure_speed(claims)
    with claims.rows("long.lazyllm.quality"):
        if claims.long:
            measure_quality(claims)
    claims.finish()


if __name__ == "__main__":
    main()
