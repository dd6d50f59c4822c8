"""`onset convert`: its quantisers against llama-quantize's, and its files in the peers' llama.cpp.

The model is SmolLM2, de-quantised by llama.cpp and written as a Hugging Face folder; for the K formats, which its rows are
too short for, also one with random Gaussian and Laplace weights. Both programs make a file of each type, llama.cpp expands
both to F32, and the root-mean-square error over all matrices is compared. Greedy: llama.cpp continues a few prompts on our
file; `onset score` in reference precision must predict the very same tokens.
"""

import json
import pathlib
import tempfile

import common

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
THEIR_NAMES = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}  # what llama-quantize makes of "Q4_K"
NOISE = 1e-7  # errors below this are rounding: the weights were on the type's grid already
ANSWER_TOKENS = 24
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
    """(our error, theirs): both files expanded to F32 by llama.cpp."""
    ours, theirs = folder / f"ours-{kind}.gguf", folder / "theirs.gguf"
    common.onset("convert", source, ours, "--type", kind)
    peer.quantise(truth, theirs, THEIR_NAMES.get(kind, kind))
    for file in (ours, theirs):
        peer.quantise(file, folder / f"{file.stem}.f32", "F32")
    expanded = [folder / f"{ours.stem}.f32", folder / "theirs.f32"]
    result = common.parse(peer.helper("rmse", truth, *expanded), "convert_peer.py")
    for file in (theirs, *expanded):
        file.unlink()
    return ours, result["ours"], result["theirs"]


def predicted(file, prompt, answer):
    """Whether onset's argmax after every prefix of the answer is the answer's next token."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as ids:
        json.dump(prompt + answer, ids)
        ids.flush()
        score = common.onset_json("score", "--model", file, "--precision", "reference", "--json", "--ids", ids.name)
    return score["argmax"][len(prompt) - 1:-1] == answer


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
        worst, equal = 0.0, 0
        for kind in TYPES:
            file, ours, theirs = figures(peer, folder, smollm2, truth, kind)
            lines, ratios = [f"{ours:.4g} against {theirs:.4g}"], [(ours + NOISE) / (theirs + NOISE)]
            if kind.endswith("_K"):
                _, ours, theirs = figures(peer, folder, random, random_truth, kind)
                lines.append(f"random {ours:.4g} against {theirs:.4g}")
                ratios.append((ours + NOISE) / (theirs + NOISE))
                (folder / f"ours-{kind}.gguf").unlink()
                common.onset("convert", smollm2, file, "--type", kind)
            answers = json.loads(peer.helper("greedy", file, ANSWER_TOKENS, *[",".join(map(str, ids)) for ids in prompts]))
            same = sum(predicted(file, ids, answer) for ids, answer in zip(prompts, answers))
            passed = "pass" if max(ratios) <= claims.mine["engine.convert.rmse"].value else "fail"
            print(f"engine.convert.{kind.lower()}.rmse  {max(ratios):.4f} ×  {claims.mine['engine.convert.rmse'].required()}  {passed}"
                  f"   ({'; '.join(lines)}; {same} of {len(prompts)} answers equal)", flush=True)
            worst, equal = max(worst, *ratios), equal + (same == len(prompts))
            file.unlink()
        claims.report("engine.convert.rmse", worst)
        claims.report("engine.convert.greedy", 100 * equal / len(TYPES))
    claims.finish()


if __name__ == "__main__":
    main()
