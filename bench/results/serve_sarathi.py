"""SARATHI (arXiv:2308.16369): what a decode costs beside a chunk, and the throughput of decode-maximal batches over prompt : answer.

    python3 bench/results/serve_sarathi.py --long [--figure FILE.svg]
"""

import statistics
import sys

import common
import figures

PLACES, LENGTH = 4, 1024
RIDES = PLACES - 1
# Whole row blocks of the kernels (12 rows, 6 on AVX2). Small ones let more answers ride, large ones waste less.
CHUNKS = (60, 120, 240)
RATIO_CHUNK = 240  # the chunk of the marginal cost: nothing but arithmetic is left to pay for


def point_seconds(model, points, repeat=9, precision="fast"):
    """(the seconds of each point, round by round; rows of a block)"""
    texts = ",".join(f"{rows}+{answers}@{context}" for rows, answers, context in points)
    report = common.onset_json("bench", "steps", "--model", model, "--points", texts, "--repeat", repeat, "--precision", precision, "--json")
    return [point["seconds"] for point in report["points"]], report["row_block"]


def decode_speed_up(model, precision, kind, peaks):
    """(measured, measured over the roofline's) of one weight format; `kind`: its arithmetic."""
    chunk = RATIO_CHUNK - RIDES
    context = LENGTH - RATIO_CHUNK
    points, _ = point_seconds(model, [(0, PLACES, context), (chunk, 0, context), (chunk, RIDES, context)], repeat=25, precision=precision)
    # Whatever else the machine does only adds: the shortest of many rounds is what a step costs.
    alone, prompt, both = (min(seconds) for seconds in points)
    usual, marginal = alone / PLACES, max(1e-6, (both - prompt) / RIDES)
    print(f"{kind}: {PLACES} answers by themselves {1e3 * alone:.2f} ms, {chunk} prompt rows {1e3 * prompt:.2f} ms, "
          f"both {1e3 * both:.2f} ms: {1e3 * usual:.2f} ms a token become {1e3 * marginal:.2f} ms")
    block = 64  # tokens of a page
    sizes = common.onset_json("bench", "--model", model, "--prompt", block - 8, "--generate", 4, "--repeat", 1, "--precision", precision, "--json")
    # Roofline: a step of answers reads every weight once, and every answer its keys and values; a row beside a chunk costs its arithmetic (two
    # operations for each weight) and reads its keys and values too.
    weights = sizes["packed_weight_bytes"]
    reading, keys = weights / peaks["read"], sizes["pool_bytes"] / block * context / peaks["read"]
    row = 2 * weights / (2 if kind == "bf16" else 1) / peaks[kind]
    predicted = (max(reading, PLACES * row) / PLACES + keys) / (row + keys)
    print(f"{kind}, roofline: {1e3 * reading:.2f} ms to read the weights, {1e3 * keys:.3f} ms a token's keys and values, {1e3 * row:.3f} ms a row: "
          f"a speed-up of {predicted:.2f}")
    return usual / marginal, usual / marginal / predicted


def decode(claims, model):
    """With weights of 16 bits, as the claim has it; the roofline of each format."""
    peaks = common.onset_json("bench", "machine", "--json")
    speed_up, of_roofline = decode_speed_up(model, "bf16", "bf16", peaks)
    _, of_roofline_8 = decode_speed_up(model, "fast", "int8", peaks)
    claims.report("serve.sarathi.decode", speed_up)
    claims.report("serve.sarathi.roofline", min(of_roofline, of_roofline_8))


def gains_at(model, chunk, ratio):
    """(sarathi, orca): tokens/s against request-level batches, neighbours in time compared."""
    answer = max(2, round(LENGTH / (1 + ratio)))
    report = common.onset_json("bench", "schedule", "--model", model, "--precision", "bf16", "--policies", "request-level,orca,sarathi", "--requests", 8,
                               "--places", PLACES, "--prompt", LENGTH - answer, "--answer", answer, "--budget", chunk, "--repeat", 3, "--json")
    seconds = {one["policy"]: one["seconds"] for one in report["policies"]}
    gains = [statistics.median(base / own for base, own in zip(seconds["request-level"], seconds[name])) for name in ("sarathi", "orca")]
    print(f"chunk {chunk}, prompt : answer {ratio:.0f}: sarathi {gains[0]:.3f}, orca {gains[1]:.3f} times request-level")
    return gains


def throughput(claims, model, figure):
    # The chunk that is best where its answers just cover its prompt, as the paper chooses it.
    at_best = {chunk: gains_at(model, chunk, chunk / RIDES) for chunk in CHUNKS}
    chunk = max(CHUNKS, key=lambda each: at_best[each][0])
    best_at = chunk / RIDES
    gains, orca_gains = {best_at: at_best[chunk][0]}, {best_at: at_best[chunk][1]}
    for ratio in (best_at / 4, best_at / 2, best_at * 2, best_at * 4):
        gains[ratio], orca_gains[ratio] = gains_at(model, chunk, ratio)
    best = max(gains, key=gains.get)
    claims.report("serve.sarathi.throughput", 100 * (gains[best] - 1))
    claims.report("serve.sarathi.peak", max(best / best_at, best_at / best))
    if figure:
        figures.curve(figure, f"Throughput against request-level batches, 8 requests of 1,024 tokens, 4 places, chunks of {chunk}", "prompt : answer tokens", "times",
                      {"sarathi": sorted(gains.items()), "orca": sorted(orca_gains.items())})


def stairs(claims, model):
    """A step's time jumps where its rows begin another block."""
    _, block = point_seconds(model, [(1, 0, 16)])
    blocks = (4, 8, 12)
    points = [(rows + extra, 0, 16) for rows in (block * count for count in blocks) for extra in (0, 1, -block + 1)]
    rounds, _ = point_seconds(model, points)
    seconds = [min(each) for each in rounds]
    jumps = []
    for index in range(0, len(seconds), 3):
        at, beyond, first = seconds[index:index + 3]
        within = (at - first) / max(1, block - 1)
        jumps.append((beyond - at) / max(1e-9, within))
    print(f"blocks of {block} rows: a row that begins a block costs", ", ".join(f"{jump:.1f}" for jump in jumps), "times one within it")
    claims.report("serve.sarathi.stairs", statistics.median(jumps))


def main():
    claims = common.Claims(__file__)
    with claims.rows("serve.sarathi"):
        model = common.model(common.SMOLLM2)
        if claims.wanted("serve.sarathi.decode"):
            decode(claims, model)
            throughput(claims, model, sys.argv[sys.argv.index("--figure") + 1] if "--figure" in sys.argv else None)
        if claims.wanted("serve.sarathi.stairs"):
            stairs(claims, model)
    claims.finish()


if __name__ == "__main__":
    main()
