"""SmolLM2: time from start to the first prompt row, packed weights against the file, peak memory."""

import statistics

import common

REPEATS = 7
PROMPT = 2048


def start(model):
    """Seconds of a whole process that computes one prompt row: the start to the first row is a part of it."""
    return common.onset("score", "--model", model, "--json", "--text", "The").seconds


def main():
    claims = common.Claims(__file__)
    with claims.rows("engine.small"):
        model = common.model(common.SMOLLM2)
        start(model)  # packs the weights where they are not kept yet, and warms the page cache
        samples = [start(model) for _ in range(REPEATS)]
        claims.report("engine.small.start", statistics.median(samples), samples)

        run = common.onset("bench", "--model", model, "--prompt", PROMPT, "--generate", 64, "--threads", 2, "--repeat", 1, "--json")
        report = common.parse(run.out, "onset bench")
        packed, tensors, pool = report["packed_weight_bytes"], report["tensor_bytes"], report["pool_bytes"]
        print(f"packed weights {packed / 2**20:.1f} MiB, tensors of the file {tensors / 2**20:.1f} MiB")
        claims.report("engine.small.packed", packed / tensors)
        print(f"prompt of {PROMPT}: peak {run.peak_bytes / 2**20:.1f} MiB by the kernel, {report['peak_rss_bytes'] / 2**20:.1f} MiB "
              f"by onset, pool {pool / 2**20:.1f} MiB")
        claims.report("engine.small.memory", (max(run.peak_bytes, report["peak_rss_bytes"]) - packed - pool) / 2**20)
    claims.finish()


if __name__ == "__main__":
    main()
