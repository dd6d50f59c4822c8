"""`onset convert`: its quantisers against llama-quantize's, and its files in the peers' llama.cpp.

The model is SmolLM2, de-quantised by llama.cpp and written as a Hugging Face folder; for the K formats, which its rows are
too short for, also one with random Gaussian and Laplace weights. Both programs make a file of each type, llama.cpp expands
both to F32, and the root-mean-square error over all matrices is compared. Greedy: llama.cpp continues a few prompts on our
file expanded to F32, so by its own reading of the format but with float32 products, and `onset score` in reference precision
must predict the very same tokens. It also continues them on the file as it is; there it multiplies rounded activations, so its
answer may leave ours where two tokens are near to each other for us (NEAR_TIE), and nowhere else.
"""

import json
import pathlib
import tempfile

import common

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
THEIR_NAMES = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}  # what llama-quantize makes of "Q4_K"
NOISE = 1e-7  # errors below this are rounding: the weights were on the type's grid already
ANSWER_TOKENS = 24
NEAR_TIE = 0.5  # nats: as far as products of rounded activations move single tokens (engine_right_fast prints ours)
PROMPTS = ["The capital of France is", "Water boils at a temperature of", "Once upon a time, there was a"]
TOOLS = "tools/peers"


class Peer:
    """llama.cpp, through the peers' installation."""

    def __init__(self):
        self.python = common.run(["python3", "-B", common.shared(f"{TOOLS}/install.py"), "llama.cpp"], timeout=1800).out.split()[-1]

    def helper(self, *arguments):
        return common.run([self.python, "-B", pathlib.Path(__file__).with_name("convert_peer.py"), *arguments]).out

    def quantise(self, source, target, kind):
        common.run([self.python, "-B", common.shared(f"{TOOLS}/llama_bench.py"), "--requantise", source, target, kind])


def figures(peer, folder, source, truth, kind):
    """(our file, it expanded to F32 by llama.cpp, our error, llama-quantize's)."""
    ours, theirs = folder / f"ours-{kind}.gguf", folder / "theirs.gguf"
    common.onset("convert", source, ours, "--type", kind)
    peer.quantise(truth, theirs, THEIR_NAMES.get(kind, kind))
    for file in (ours, theirs):
        peer.quantise(file, folder / f"{file.stem}.f32", "F32")
    expanded = [folder / f"{ours.stem}.f32", folder / "theirs.f32"]
    result = common.parse(peer.helper("rmse", truth, *expanded), "convert_peer.py")
    theirs.unlink()
    expanded[1].unlink()
    return ours, expanded[0], result["ours"], result["theirs"]


def score(file, tokens):
    with tempfile.NamedTemporaryFile("w", suffix=".json") as ids:
        json.dump(tokens, ids)
        ids.flush()
        return common.onset_json("score", "--model", file, "--precision", "reference", "--json", "--ids", ids.name)


def departure(file, prompt, answer):
    """By how many nats we hold our own next token likelier than the answer's where the answer leaves ours; None where it never
    does. Infinite when the answer's token is not among our ten most likely."""
    ours = score(file, prompt + answer)["argmax"][len(prompt) - 1:-1]
    at = next((i for i, (one, other) in enumerate(zip(ours, answer)) if one != other), None)
    if at is None:
        return None
    top = dict(score(file, prompt + answer[:at])["top"])
    return max(top.values()) - top.get(answer[at], float("-inf"))


def same_answers(peer, file, expanded, prompts):
    """(whether both ways of running the file count as equal, a sentence about it)"""
    texts = [",".join(map(str, ids)) for ids in prompts]
    exact, rounded = ([departure(file, ids, answer) for ids, answer in
                       zip(prompts, json.loads(peer.helper("greedy", model, ANSWER_TOKENS, *texts)))] for model in (expanded, file))
    left = [f"{gap:.3f}" for gap in rounded if gap is not None]
    sentence = (f"{exact.count(None)} of {len(prompts)} answers equal in float32, {rounded.count(None)} with llama.cpp's own products"
                + (f", which left ours where the two tokens are {', '.join(left)} nats apart" if left else ""))
    return exact.count(None) == len(prompts) and all(gap is None or gap <= NEAR_TIE for gap in rounded), sentence


def main():
    claims = common.Claims(__file__)
    with claims.rows("engine.convert"), tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        peer = Peer()
        smollm2, random = folder / "SmolLM2", folder / "random"
        truth, random_truth = folder / "truth.gguf", folder / "random.gguf"
        peer.quantise(common.model(common.SMOLLM2), truth, "F32")
        peer.helper("folder", truth, smollm2)
        peer.helper("random", common.ROOT / "tests/fixtures/models/llama", random)
        common.onset("convert", random, random_truth, "--type", "F32")
        prompts = [common.onset_json("tokenize", "--model", truth, "--json", text)["ids"] for text in PROMPTS]
        worst, types_equal = 0.0, 0
        for kind in TYPES:
            file, expanded, ours, theirs = figures(peer, folder, smollm2, truth, kind)
            equal, sentence = same_answers(peer, file, expanded, prompts)
            lines, ratios = [f"{ours:.4g} against {theirs:.4g}"], [(ours + NOISE) / (theirs + NOISE)]
            expanded.unlink()
            file.unlink()
            if kind.endswith("_K"):
                file, expanded, ours, theirs = figures(peer, folder, random, random_truth, kind)
                lines.append(f"random {ours:.4g} against {theirs:.4g}")
                ratios.append((ours + NOISE) / (theirs + NOISE))
                expanded.unlink()
                file.unlink()
            row = claims.mine["engine.convert.rmse"]
            print(f"{kind}: {max(ratios):.4f} × ({'; '.join(lines)}); {sentence}: "
                  f"{'pass' if max(ratios) <= row.value and equal else 'fail'}", flush=True)
            worst, types_equal = max(worst, *ratios), types_equal + equal
        claims.report("engine.convert.rmse", worst)
        claims.report("engine.convert.greedy", 100 * types_equal / len(TYPES))
    claims.finish()


if __name__ == "__main__":
    main()
