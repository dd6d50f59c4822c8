"""Time to the first token of prompts of 512 to 32,768 tokens, dense and in each way of reading less of them, in one run; attention alone at 65,536
and 131,072 tokens for one layer.

    python3 bench/results/long_curves.py --long

puts the table into docs/long.md and the picture beside it, unless ONSET_CURVES asks for other lengths.
"""

import itertools
import os
import pathlib
import statistics
import sys
import tempfile

import common
import figures

sys.path.insert(0, str(common.ROOT / "tests" / "end_to_end"))
import gguf_edit

ALL = "512,1024,2048,4096,8192,16384,32768"
LENGTHS = [int(part) for part in os.environ.get("ONSET_CURVES", ALL).split(",")]
PAIRS = 9  # interleaved
WINDOW, LONGGEN, MINFERENCE, LAZYLLM = "window:1024:64", "longgen:10:sink=64:window=448", "minference", "lazyllm:mild"
ALONE = [int(part) for part in os.environ.get("ONSET_CURVES_ALONE", "65536,131072").split(",")]
ONE_HEAD = "minference:vertical=2048:slash=512"  # the same for all heads, at any length


def pairs_at(tokens):
    """Long prompts take long, and are far from the crossover."""
    return PAIRS if tokens <= 4096 else 3 if tokens <= 8192 else 1


def seconds_of(model, tokens, way, scaling):
    option = ("--select", way) if way.startswith("lazyllm") else ("--attend", way)
    pool = max(tokens + 64, 2048)  # the rows that run together have to fit
    report = common.onset_json("bench", "--model", model, "--prompt", tokens, "--generate", 0, "--repeat", 1, "--pool", pool, "--json", *option, *scaling,
                               timeout=3600)
    return tokens / report["prefill"][0]["tokens_per_second"][0]


def curves(model, ways, scaling):
    """{way: {tokens: samples}}, dense among them."""
    found = {way: {} for way in ("dense", *ways)}
    for tokens in LENGTHS:
        runs = {way: (lambda way=way: seconds_of(model, tokens, way, scaling)) for way in found}
        for way, samples in common.interleaved(pairs_at(tokens), runs).items():
            found[way][tokens] = samples
        print(f"{model.stem}, {tokens} tokens: " + ", ".join(f"{way} {1e3 * statistics.median(found[way][tokens]):.0f} ms" for way in found))
    return found


def gain(found, way, tokens):
    return statistics.median(dense / own for dense, own in zip(found["dense"][tokens], found[way][tokens]))


def slowest(found):
    """The largest median of a way's time over dense's."""
    return max(1 / gain(found, way, tokens) for way in found if way != "dense" for tokens in LENGTHS)


def crossover(found, way):
    """The shortest length from which on it is faster by 2 % or more."""
    faster = [gain(found, way, tokens) >= 1.02 for tokens in LENGTHS]
    at = next((i for i in range(len(LENGTHS)) if all(faster[i:])), None)
    return "-" if at is None else str(LENGTHS[at])


def table(name, found):
    lines = [f"{name}: milliseconds to the first token, and times as soon as dense", "", "| tokens | dense | " + " | ".join(f"`{way}`" for way in found if way != "dense") + " |",
             "|" + "---|" * (1 + len(found))]
    for tokens in LENGTHS:
        cells = [f"{1e3 * statistics.median(found[way][tokens]):.0f}" + (f" ({gain(found, way, tokens):.2f})" if way != "dense" else "") for way in found]
        lines.append(f"| {tokens} | " + " | ".join(cells) + " |")
    lines.append("| faster from | | " + " | ".join(crossover(found, way) for way in found if way != "dense") + " |")
    return lines


def one_layer(model, folder):
    """The same model with its first layer alone."""
    gguf = gguf_edit.Gguf(model)
    gguf.entries["llama.block_count"] = (4, (1).to_bytes(4, "little"))
    for name in [name for name in gguf.tensors if name.startswith("blk.") and not name.startswith("blk.0.")]:
        del gguf.tensors[name]
    path = pathlib.Path(folder, "one_layer.gguf")
    gguf.write(path)
    return path


def attention_seconds(model, text, attend):
    report = common.onset_json("profile", "--model", model, "--no-cache", "--rope-scaling", "ntk:16", "--file", text, "--attend", attend, "--json", timeout=3600)
    return sum(each["seconds"] for each in report["operations"] if each["name"] in ("attention.plan", "attention.attend"))


def measure_alone(claims, model):
    gains = []
    with tempfile.TemporaryDirectory() as folder:
        layer = one_layer(model, folder)
        wiki = common.shared("data/text/wikitext2-raw-test.txt").read_text(encoding="utf-8")
        for tokens in ALONE:
            text = pathlib.Path(folder, "text.txt")
            text.write_text(wiki[:4 * tokens], encoding="utf-8")  # a token has more than four characters, if not by much
            dense, heads, band = (attention_seconds(layer, text, attend) for attend in ("dense", ONE_HEAD, WINDOW))
            gains.append(dense / heads)
            print(f"{tokens} tokens, one layer's attention: dense {dense:.2f} s, {ONE_HEAD} {heads:.2f} s ({dense / heads:.1f} x), {WINDOW} {band:.2f} s ({dense / band:.1f} x)")
    claims.report("long.curves.attention.65536", gains[0])
    claims.report("long.curves.attention.grows", min((b / a for a, b in itertools.pairwise(gains)), default=1))


def write(name, model_curves):
    """The table between its marks in docs/long.md, and the picture of SmolLM2's curves."""
    page = common.ROOT / "docs" / "long.md"
    begin, end = "<!-- curves: written by tools/results long.curves --long -->\n", "<!-- end of curves -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    lines = [line for model, found in model_curves.items() for line in [*table(model, found), ""]]
    lines += ["![Time to the first token of dense over that of each way, by length](long_curves.svg)", ""]
    page.write_text(before + begin + "\n".join(lines) + end + rest.split(end)[1], encoding="utf-8")
    found = model_curves[name]
    figures.curve(common.ROOT / "docs" / "long_curves.svg", f"{name}: time to the first token of dense over that of each way", "tokens of the prompt", "times as soon",
                  {way.split(":")[0]: [(tokens, gain(found, way, tokens)) for tokens in LENGTHS] for way in found if way != "dense"})


def measure(claims):
    smollm2 = common.model(common.SMOLLM2)
    found = {"SmolLM2-135M": curves(smollm2, [MINFERENCE, LAZYLLM, LONGGEN, WINDOW], ("--rope-scaling", "ntk:4"))}
    claims.report("long.curves.smollm2.slower", slowest(found["SmolLM2-135M"]))
    measure_alone(claims, smollm2)
    if common.GEMMA3.is_file():
        found["Gemma 3 270M"] = curves(common.GEMMA3, [MINFERENCE], ())
        claims.report("long.curves.gemma3.slower", slowest(found["Gemma 3 270M"]))
    else:
        claims.skip("long.curves.gemma3.slower", f"{common.GEMMA3.name} is not in the models folder (onset pull --list)")
    for name, curve in found.items():
        print("\n".join(["", *table(name, curve)]))
    if "ONSET_CURVES" not in os.environ:
        write("SmolLM2-135M", found)


if __name__ == "__main__":
    common.measure_long(__file__, measure, "long.curves")
