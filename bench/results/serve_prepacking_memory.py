"""Peak memory of 32 conversations' prompts in one batch, prepacked and padded; what the program takes without them is taken off."""

import common

BATCH = 32


def peak(model, *options):
    run = common.onset("bench", "offline", "--model", model, "--repeat", 1, "--json", *options)
    return run.peak_bytes, common.parse(run.out, "onset bench offline")["policies"][0]


def main():
    claims = common.Claims(__file__)
    with claims.rows("serve.prepacking.memory"):
        model = common.model(common.SMOLLM2)
        trace = ("--trace", common.shared("data/traces/splitwise_conv.csv"), "--scale", "0.25", "--most", "2000", "--prompts", BATCH, "--batch", BATCH)
        base, _ = peak(model, "--policy", "ragged", "--lengths", "1", "--batch", 1)
        padded, _ = peak(model, "--policy", "padded", *trace)
        packed, report = peak(model, "--policy", "prepack", *trace)
        share, lines = (packed - base) / (padded - base), report["lines"] / BATCH
        print(f"beyond {base / 2**20:.0f} MiB: padded {(padded - base) / 2**20:.1f} MiB, prepack {(packed - base) / 2**20:.1f} MiB, {share:.3f} of it; "
              f"lines a prompt {lines:.3f}")
        claims.report("serve.prepacking.memory", share - lines)
    claims.finish()


if __name__ == "__main__":
    main()
