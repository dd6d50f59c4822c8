"""What chunks cost a prompt of 2,048 tokens: SmolLM2 alone in the engine, chunks of 64 to 2,048 tokens and none, in turns."""

import statistics

import common

PROMPT = 2048
CHUNKS = (64, 128, 256, 512, 1024, 2048)
ROUNDS = 7


def seconds(model, policy, budget):
    report = common.onset_json("bench", "schedule", "--model", model, "--policies", policy, "--requests", 1, "--prompt", PROMPT, "--answer", 1,
                               "--budget", budget, "--repeat", 2, "--json")
    return min(report["policies"][0]["seconds"])


def main():
    claims = common.Claims(__file__)
    with claims.rows("serve.chunks"):
        if claims.long:
            model = common.model(common.SMOLLM2)
            samples = {chunk: [] for chunk in (*CHUNKS, None)}
            for _ in range(ROUNDS):
                for chunk, mine in samples.items():
                    mine.append(seconds(model, "sarathi-serve", chunk) if chunk else seconds(model, "hybrid-only", PROMPT))
            times = {chunk: statistics.median(mine) for chunk, mine in samples.items()}
            for chunk, mine in samples.items():
                print(f"chunks of {chunk or 'any size'}: {common.describe(mine)}")
            claims.report("serve.chunks.monotone", max(times[larger] / times[smaller] for smaller in CHUNKS for larger in CHUNKS if smaller < larger))
            claims.report("serve.chunks.whole", max(times[PROMPT] / times[None], times[None] / times[PROMPT]))
    claims.finish()


if __name__ == "__main__":
    main()
