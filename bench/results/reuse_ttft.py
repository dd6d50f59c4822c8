"""Time to the first token where most of the prompt was read before: a known prefix, contexts encoded apart (APE, arXiv:2502.05431), and
contexts of which a part is computed again (CacheBlend, arXiv:2405.16444).

    python3 bench/results/reuse_ttft.py
"""

import statistics

import common

ROWS = {4096: "reuse.ape.4096", 7000: "reuse.ape.7000"}


def report_of(model, tokens):
    report = common.onset_json("bench", "reuse", "--model", model, "--tokens", tokens, "--contexts", 8, "--query", 128, "--new", 64, "--repeat", 5, "--json")
    ways = {}
    for way in report["ways"]:
        seconds = statistics.median(way["first_token_seconds"])
        print(f"{tokens} tokens, {way['way']}: {common.describe([1e3 * each for each in way['first_token_seconds']])} ms")
        ways[way["way"]] = seconds
    return ways


def main():
    claims = common.Claims(__file__)
    with claims.rows("reuse"):
        model = common.model(common.SMOLLM2)
        for tokens, name in ROWS.items():
            ways = report_of(model, tokens)
            claims.report(name, ways["contexts one after the other"] / ways["known contexts, parallel"])
            if tokens == 4096:
                claims.report("reuse.cacheblend.4096", ways["contexts one after the other"] / ways["known contexts, blended"])
        claims.report("reuse.prefix.ttft", ways["all of it"] / ways["behind a known prefix"])
    claims.finish()


if __name__ == "__main__":
    main()
