"""The retrieval service of examples/rag: 20 questions to tinyshakespeare, five passages each, through onset serve with each way of using again
what was read.

    python3 bench/results/reuse_rag.py --long
"""

import shutil
import sys
import tempfile

import common

sys.path.insert(0, str(common.ROOT / "examples" / "rag"))
import comparison

RAG = common.ROOT / "examples" / "rag"


def measure(claims):
    model = common.model(common.SMOLLM2)
    text = common.shared("data/text/tinyshakespeare.txt")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(text, folder)
        command = [sys.executable, "-B", RAG / "rag", "compare", folder, "--questions", RAG / "questions.txt", "--model", model,
                   "--ways", "off,prefix,ape,cacheblend,full", "--json"]
        report = common.parse(common.run(command, timeout=3600, environment={"ONSET": str(common.onset_program())}).out, "rag compare --json")
    print(comparison.table(report))
    passes = {each["passages"]: {way["way"]: way for way in each["ways"]} for each in report["passes"]}
    for state, ways in passes.items():
        for name, way in ways.items():
            print(f"{state}, {name}: ms to the first token: {common.describe([1e3 * each for each in way['first_token_seconds']])}")
    known = passes["known"]

    def gain(way):
        return known["off"]["median_first_token_seconds"] / way["median_first_token_seconds"]

    claims.report("reuse.rag.found", report["answer_in_passages"])
    claims.report("reuse.rag.prefix.equal", 100 * min(ways["prefix"]["equal_answers"] for ways in passes.values() if "prefix" in ways))
    claims.report("reuse.rag.prefix.ttft", gain(known["prefix"]))
    claims.report("reuse.rag.ape.ttft", gain(known["ape"]))
    claims.report("reuse.rag.cacheblend.ttft", gain(known["cacheblend"]))
    claims.report("reuse.rag.cacheblend.f1", known["cacheblend"]["f1"] / known["full"]["f1"])
    claims.report("reuse.rag.stored.ttft", passes["stored"]["off"]["median_first_token_seconds"] / passes["stored"]["ape"]["median_first_token_seconds"])
    pairs = list(zip(passes["stored"]["ape"]["answers"], known["ape"]["answers"]))
    claims.report("reuse.rag.stored.equal", 100 * sum(loaded == kept for loaded, kept in pairs) / len(pairs))


if __name__ == "__main__":
    common.measure_long(__file__, measure, "reuse.rag")
