"""Prepacking (arXiv:2404.09529): prompts of conversation lengths read padded, prepacked and ragged, in turns, one process each row.

    python3 bench/results/serve_prepacking.py [--long] [--figure FILE.svg]
"""

import statistics
import sys

import common
import figures

SCALE = "0.25"
SHORT = "0.125"  # where many batches count


def offline(model, prompts, batch, policies, *options, repeat=3):
    """{policy: report} of onset bench offline over the conversation trace."""
    scale = () if "--scale" in options else ("--scale", SCALE)
    report = common.onset_json("bench", "offline", "--model", model, "--trace", common.shared("data/traces/splitwise_conv.csv"), *scale,
                               "--most", "2000", "--prompts", prompts, "--batch", batch, "--policy", ",".join(policies), "--repeat", repeat,
                               "--json", *options)
    return {one["policy"]: one for one in report["policies"]}


def seconds(one):
    return statistics.median(one["prefill_seconds"])


def slope_and_r2(points):
    """Of the least-squares line through (x, y)."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    mean_x, mean_y = statistics.mean(xs), statistics.mean(ys)
    over = sum((x - mean_x) * (y - mean_y) for x, y in points)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = over / spread
    left = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return slope, 1 - left / sum((y - mean_y) ** 2 for y in ys)


def speed(claims, model):
    runs = offline(model, 64, 16, ["padded", "length-ordered", "prepack", "ragged"])
    padded, packed, ragged = runs["padded"], runs["prepack"], runs["ragged"]
    predicted = padded["computed_rows"] / packed["computed_rows"]
    measured = seconds(padded) / seconds(packed)
    print(f"batch 16: prepack computes {predicted:.2f} times fewer rows and is {measured:.2f} times as fast; "
          f"ragged {padded['computed_rows'] / ragged['computed_rows']:.2f} and {seconds(padded) / seconds(ragged):.2f} times")
    claims.report("serve.prepacking.gain", measured / predicted)
    claims.report("serve.prepacking.ragged", seconds(packed) / seconds(ragged))
    claims.report("serve.prepacking.equal", 100 * sum(one["equal"] for one in runs.values()) / len(runs))
    claims.report("serve.prepacking.packing", 100 * packed["packing_seconds"] / seconds(packed))
    return {name: one["tokens_per_second"] for name, one in runs.items()}


def trend(claims, model):
    """On average: more prompts than a batch has, and shorter ones, so that each size has batches enough."""
    gains, rows = [], []
    for batch in (4, 8, 16, 32, 64):
        runs = offline(model, 128, batch, ["padded", "prepack"], "--scale", SHORT, repeat=2)
        gains.append(seconds(runs["padded"]) / seconds(runs["prepack"]))
        rows.append(runs["padded"]["computed_rows"] / runs["prepack"]["computed_rows"])
    print("speed-up over padded at 4, 8, 16, 32, 64 prompts:", ", ".join(f"{gain:.2f}" for gain in gains),
          "(by the rows alone:", ", ".join(f"{gain:.2f}" for gain in rows) + ")")
    claims.report("serve.prepacking.trend", min(after / before for before, after in zip(gains, gains[1:])))


def data_set(claims, model):
    whole = offline(model, 64, 8, ["prepack"], "--data-set")
    parts = offline(model, 64, 8, ["padded", "prepack"])
    print(f"batch 8, tokens/s: data set packed {whole['prepack']['tokens_per_second']:.0f}, batches packed "
          f"{parts['prepack']['tokens_per_second']:.0f}, padded {parts['padded']['tokens_per_second']:.0f}")
    claims.report("serve.prepacking.data_set", whole["prepack"]["tokens_per_second"] / parts["prepack"]["tokens_per_second"])


def correlation(claims, model):
    """Speed-up of each of 100 batches, by the shortest of three runs, against r/k."""
    runs = offline(model, 800, 8, ["padded", "prepack"], "--scale", SHORT, "--each-batch", repeat=3)
    padded, packed = runs["padded"], runs["prepack"]
    points = [(lines / 8, before / after) for lines, before, after in zip(packed["batch_lines"], padded["batch_seconds"], packed["batch_seconds"])]
    slope, r2 = slope_and_r2(points)
    print(f"speed-up = {slope:.2f} r/k + ..., R² {r2:.3f} over {len(points)} batches")
    claims.report("serve.prepacking.r2", r2 if slope < 0 else -r2)


def main():
    claims = common.Claims(__file__)
    with claims.rows("serve.prepacking"):
        model = common.model(common.SMOLLM2)
        speeds = None
        if claims.wanted("serve.prepacking.gain"):
            speeds = speed(claims, model)
        if claims.wanted("serve.prepacking.trend"):
            trend(claims, model)
        if claims.wanted("serve.prepacking.data_set"):
            data_set(claims, model)
        if claims.wanted("serve.prepacking.r2"):
            correlation(claims, model)
        if speeds and "--figure" in sys.argv:
            figures.bars(sys.argv[sys.argv.index("--figure") + 1], "Prompt tokens a second, 64 conversations in batches of 16", speeds, "tokens/s")
    claims.finish()


if __name__ == "__main__":
    main()
