"""Fast precision: log-probabilities and perplexity against golden, distributions against our reference precision."""

import json

import common
from engine_right_golden import score

TOKENS = 16384


def logprobs(claims, name, model, golden):
    """Mean |difference| of next_logprob over all prompt tokens."""
    prompts = json.loads(common.shared(f"data/golden/{golden}.json").read_text())["prompts"]
    truth = common.arrays(common.shared(f"data/golden/{golden}.npz"))
    differences = []
    for prompt, entry in prompts.items():
        mine = score(model, "fast", entry["ids"])["logprob"][1:]
        here = [abs(a - b) for a, b in zip(mine, truth[f"{prompt}.next_logprob"].tolist(), strict=True)]
        print(f"{name} {prompt}: {len(here)} tokens, mean |difference| {sum(here) / len(here):.4f}, largest {max(here):.3f}")
        differences += here
    claims.report(f"{name}.logprob", sum(differences) / len(differences))


def perplexity(model, window, *options):
    text = common.shared("data/text/wikitext2-raw-test.txt")
    return common.onset_json("perplexity", "--model", model, "--precision", "fast", "--file", text, "--tokens", TOKENS,
                             "--window", window, "--json", *options)


def perplexities(claims, name, model, golden):
    for window, its in json.loads(common.shared(f"data/golden/{golden}.ppl.json").read_text())["by_window"].items():
        mine = perplexity(model, window)
        if mine["tokens_scored"] != its["tokens_scored"]:
            raise common.Failure(f"window {window}: {mine['tokens_scored']} tokens scored, golden scored {its['tokens_scored']}")
        away = 100 * (mine["perplexity"] / its["ppl"] - 1)
        print(f"{name} window {window}: perplexity {mine['perplexity']:.4f}, golden {its['ppl']:.4f}, {away:+.3f} %")
        claims.report(f"{name}.perplexity.{window}", abs(away))


def divergence(claims, name, model):
    if not claims.wanted(f"{name}.kl_mean"):
        return
    mine = perplexity(model, 2048, "--kl-against", "reference")
    print(f"{name}: {mine['tokens_scored']} tokens at window 2048 against our reference precision")
    claims.report(f"{name}.kl_mean", mine["kl_mean"])
    claims.report(f"{name}.kl_99", mine["kl_99"])
    claims.report(f"{name}.top1", 100 * mine["top1"])


def main():
    claims = common.Claims(__file__)
    for part, model, golden in (("smollm2", common.SMOLLM2, "smollm2-135m-q4_1"), ("gemma3", common.GEMMA3, "gemma-3-270m-q4_k_m")):
        name = f"engine.right.fast.{part}"
        with claims.rows(name):
            model = common.model(model)
            logprobs(claims, name, model, golden)
            perplexities(claims, name, model, golden)
            divergence(claims, name, model)
    claims.finish()


if __name__ == "__main__":
    main()
