"""Reference precision against Hugging Face float32 (../shared/data/golden): logits, log-probabilities, greedy tokens.

Greedy tokens: the prompt and its golden continuation are scored together, and the most likely token after each
prefix must be the next golden one; by induction that is what greedy generation gives.
"""

import json
import tempfile

import common


def score(model, precision, ids, *options):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(ids, file)
        file.flush()
        return common.onset_json("score", "--model", model, "--precision", precision, "--json", "--ids", file.name, *options)


def measure(claims, name, model, golden):
    model, prompts = common.model(model), json.loads(common.shared(f"data/golden/{golden}.json").read_text())["prompts"]
    truth = common.arrays(common.shared(f"data/golden/{golden}.npz"))
    logits, logprobs, equal, total = {}, {}, 0, 0
    for prompt, entry in prompts.items():
        ids, greedy = entry["ids"], entry["greedy_32"]
        alone = score(model, "reference", ids, "--logits")
        if alone["ids"] != ids:
            raise common.Failure(f"{prompt}: onset score changed the ids")
        expected = truth[f"{prompt}.last_logits"]
        if len(alone["logits"]) != len(expected):
            raise common.Failure(f"{prompt}: {len(alone['logits'])} logits, golden has {len(expected)}")
        logits[prompt] = max(abs(mine - its) for mine, its in zip(alone["logits"], expected.tolist()))
        logprobs[prompt] = max(abs(mine - its) for mine, its in
                               zip(alone["logprob"][1:], truth[f"{prompt}.next_logprob"].tolist(), strict=True))
        after = score(model, "reference", ids + greedy)["argmax"][len(ids) - 1:-1]
        same = sum(mine == its for mine, its in zip(after, greedy, strict=True))
        print(f"{name} {prompt}: {len(ids)} tokens, largest difference of logits {logits[prompt]:.2e}, of log-probabilities "
              f"{logprobs[prompt]:.2e}, greedy {same} of {len(greedy)}")
        equal, total = equal + same, total + len(greedy)
    claims.report(f"{name}.logits", max(logits.values()))
    claims.report(f"{name}.logprob", max(logprobs.values()))
    claims.report(f"{name}.greedy", 100 * equal / total)


def main():
    claims = common.Claims(__file__)
    for part, model, golden in (("smollm2", common.SMOLLM2, "smollm2-135m-q4_1"), ("gemma3", common.GEMMA3, "gemma-3-270m-q4_k_m")):
        name = f"engine.right.golden.{part}"
        with claims.rows(name):
            measure(claims, name, model, golden)
    claims.finish()


if __name__ == "__main__":
    main()
