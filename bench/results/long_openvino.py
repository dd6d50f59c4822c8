"""Prompts of some 8,000 tokens beside OpenVINO GenAI's sparse prefill (TRISHAPE and XATTENTION): the time to the first token, and how many of 64 greedy tokens are
those of the same engine reading everything. On Q8_0, which both read rightly.

    python3 bench/results/long_openvino.py --long
"""

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

import common

PROMPTS = int(os.environ.get("ONSET_OPENVINO_PROMPTS", 20))
LONGEST = int(os.environ.get("ONSET_OPENVINO_TOKENS", 8064))  # and 64 of the answer: the context is 8,192
ANSWER = 64
BATCHES = (256, 1024, 0)  # prompt tokens that OpenVINO reads together: the quickest counts; 0: all
OURS = "minference"


def model_of(folder):
    path = Path(folder, "smollm2.Q8_0.gguf")
    common.onset("convert", common.model(common.SMOLLM2), path, "--type", "Q8_0", "--pure")
    return path


def tokens_of(model, text, folder):
    path = Path(folder, "prompt.txt")
    path.write_text(text, encoding="utf-8")
    return common.onset_json("tokenize", "--model", model, "--file", path, "--json")["ids"]


def prompts_of(model, folder):
    """[(file, token ids)] of pieces of WikiText-2, as long as LONGEST allows."""
    text = common.shared("data/text/wikitext2-raw-test.txt").read_text(encoding="utf-8")
    step = len(text) // PROMPTS
    prompts = []
    for i in range(PROMPTS):
        piece = text[i * step:i * step + 5 * LONGEST]
        ids = tokens_of(model, piece, folder)
        while len(ids) > LONGEST:
            piece = piece[:int(len(piece) * LONGEST / len(ids)) - 20]
            ids = tokens_of(model, piece, folder)
        path = Path(folder, f"{i}.txt")
        path.write_text(piece, encoding="utf-8")
        prompts.append((path, ids))
    print(f"{PROMPTS} prompts of {min(len(ids) for _, ids in prompts)} to {max(len(ids) for _, ids in prompts)} tokens")
    return prompts


def openvino(model, folder, prompts, mode, batch, limit=0):
    python = common.CACHE / "openvino-genai-2026.4.1" / "bin" / "python"
    if not python.is_file():
        raise common.Skip("openvino-genai is not installed (../shared/tools/peers/install.py openvino)")
    source, out = Path(folder, "prompts.json"), Path(folder, "out.json")
    source.write_text(json.dumps([ids for _, ids in prompts]), encoding="utf-8")
    try:
        common.run([python, common.ROOT / "bench" / "results" / "openvino_sparse.py", "--model", model, "--prompts", source, "--out", out, "--mode", mode, "--batch", batch,
                    "--tokens", ANSWER, "--limit", limit], timeout=3600)
    except subprocess.SubprocessError as error:
        raise common.Failure(f"OpenVINO: {error}") from None
    return json.loads(out.read_text(encoding="utf-8"))


def quickest(model, folder, prompts, mode):
    """The answers with the batch that reads the first two prompts soonest."""
    times = {}
    for batch in BATCHES:
        try:
            times[batch] = statistics.median(each["first_token_seconds"] for each in openvino(model, folder, prompts, mode, batch, limit=2))
        except common.Failure as failure:
            print(f"OpenVINO {mode} with batches of {batch}: {failure}")
    if not times:
        raise common.Failure(f"OpenVINO {mode} runs with no batch")
    best = min(times, key=times.get)
    print(f"OpenVINO {mode}: " + ", ".join(f"batches of {batch or 'all'} tokens {seconds:.2f} s" for batch, seconds in times.items()))
    return openvino(model, folder, prompts, mode, best)


def onset(model, prompts, attend):
    return [common.onset_json("run", "--model", model, "--raw", "--json", "--ignore-end", "--temperature", 0, "-n", ANSWER, "--attend", attend, "--file", path)
            for path, _ in prompts]


def first_token(answers):
    return statistics.median(each["first_token_seconds"] for each in answers)


def same(dense, sparse):
    """Percent of the tokens that are those of the dense run."""
    return statistics.mean(100 * sum(a == b for a, b in zip(one["ids"], other["ids"])) / ANSWER for one, other in zip(dense, sparse))


def measure(claims):
    with tempfile.TemporaryDirectory() as folder:
        model = model_of(folder)
        prompts = prompts_of(model, folder)
        dense, ours = onset(model, prompts, "dense"), onset(model, prompts, OURS)
        print(f"Onset: dense {first_token(dense):.2f} s, {OURS} {first_token(ours):.2f} s; {same(dense, ours):.1f} % of the tokens are those of dense")
        theirs = {mode: quickest(model, folder, prompts, mode) for mode in ("dense", "trishape", "xattention")}
    for mode, answers in theirs.items():
        print(f"OpenVINO {mode}: {first_token(answers):.2f} s; {same(theirs['dense'], answers):.1f} % of the tokens are those of dense")
    for mode in ("trishape", "xattention"):
        claims.report(f"long.openvino.{mode}.ttft", first_token(theirs[mode]) / first_token(ours))
        claims.report(f"long.openvino.{mode}.same", same(dense, ours) - same(theirs["dense"], theirs[mode]))


if __name__ == "__main__":
    common.measure_long(__file__, measure, "long.openvino")
