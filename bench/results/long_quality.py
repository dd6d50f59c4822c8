"""Answers to long prompts in each way of reading less of them, against reading everything (onset long-bench): passkeys, needles, two facts, questions of
NaturalQuestions; and how much of the softmax the heads' tables visit.

    python3 bench/results/long_quality.py --long
"""

import json
import math
import os
import random
import statistics
import tempfile
from pathlib import Path

import common
import parallel

EACH = int(os.environ.get("ONSET_QUALITY_EACH", 2))
QUESTIONS = int(os.environ.get("ONSET_QUALITY_QUESTIONS", 60))
TRAINING = int(os.environ.get("ONSET_QUALITY_TRAINING", 16))
LENGTHS = os.environ.get("ONSET_QUALITY_LENGTHS", "2048,4096,8000")
RECALL_TOKENS = int(os.environ.get("ONSET_QUALITY_RECALL", 8192))
LONGGEN = "longgen:10:sink=64:window=448"
# Of these the best one on other questions is taken, if it is quicker by half.
SCHEDULES = ["lazyllm:9,18,27:0.7", "lazyllm:12:0.4", "lazyllm:10,20:0.6,0.4", "lazyllm:14:0.25", "lazyllm:15,20:0.4,0.3", "lazyllm:16:0.1",
             "lazyllm:18,24:0.4,0.3", "lazyllm:20:0.1"]
QUICKER = 1.5
FAST = "lazyllm:4,10,18:0.5"
LAYERS = "2,8,14,20,26"


def long_bench(model, *options):
    report = common.onset_json("long-bench", "--model", model, "--raw", "--json", *options, timeout=7200)
    for task in report["tasks"]:
        for way in task["ways"]:
            shown = {key: round(way[key], 3) for key in ("exact", "likeliest", "logprob", "first_token_seconds") if key in way}
            print(f"{task['task']}, {way['way']}: {shown}")
    return {task["task"]: {way["way"]: way for way in task["ways"]} for task in report["tasks"]}


def shares(way, lengths):
    """The share of prompts of each length that were answered exactly."""
    return {length: statistics.mean(prompt["exact"] for prompt in way["prompts"] if prompt["length"] == length) for length in lengths}


def kept(ways, name):
    """Percent of dense, over the lengths at which dense answers 80 % or more."""
    lengths = sorted({prompt["length"] for prompt in ways["dense"]["prompts"]})
    dense, own = shares(ways["dense"], lengths), shares(ways[name], lengths)
    good = [length for length in lengths if dense[length] >= 0.8]
    if not good:
        raise common.Skip("dense answers 80 % at no length")
    return 100 * sum(own[length] for length in good) / sum(dense[length] for length in good)


def measure_needles(claims, model):
    ways = ["minference", LONGGEN]
    found = long_bench(model, "--tasks", "passkey,needle", "--ways", ",".join(ways), "--lengths", LENGTHS, "--depths", "0,25,50,75,100", "--each", EACH, "--wrong", 0)
    for task in ("passkey", "needle"):
        claims.report(f"long.quality.minference.{task}", kept(found[task], "minference"))
    claims.report("long.quality.longgen.untrained", 100 * (found["needle"]["dense"]["exact"] - found["needle"][LONGGEN]["exact"]))


def measure_facts(claims, model):
    final = FAST + ":revive=0"
    ways = long_bench(model, "--tasks", "two-facts", "--ways", f"{FAST},{final}", "--lengths", "1024,2048", "--depths", "10,35,65,90", "--each", EACH,
                      "--wrong", 0)["two-facts"]
    claims.report("long.quality.lazyllm.two_facts", ways[FAST]["logprob"] - ways[final]["logprob"])


def upper_end(dense, own):
    """Of the 95 % interval (bootstrap over questions) of the likelihood of a right answer's token over dense's, percent."""
    chance = random.Random(6)
    differences = [b["logprob"] - a["logprob"] for a, b in zip(dense["prompts"], own["prompts"])]
    means = sorted(statistics.mean(chance.choices(differences, k=len(differences))) for _ in range(2000))
    return 100 * math.exp(means[int(0.975 * len(means))])


def measure_questions(claims, model):
    with tempfile.TemporaryDirectory() as folder:
        train, test = parallel.nq_items(TRAINING, QUESTIONS, documents=20)
        path = parallel.write(Path(folder, "nq.jsonl"), train)
        tried = long_bench(model, "--tasks", "none", "--questions", path, "--ways", ",".join(SCHEDULES))["questions"]
        quick = [way for way in SCHEDULES if tried[way]["times_as_soon"] >= QUICKER]
        if not quick:
            raise common.Failure(f"no schedule is {QUICKER} times as quick as dense")
        best = max(quick, key=lambda way: tried[way]["logprob"])
        print(f"tuned: {best}")
        path = parallel.write(Path(folder, "nq.jsonl"), test)
        by_chance, final = best + ":score=random", best + ":revive=0"
        ways = long_bench(model, "--tasks", "none", "--questions", path, "--ways", ",".join((best, by_chance, final)))["questions"]
    print(f"likelihood of a right answer's token: {100 * ways[best]['likelihood_of_dense']:.1f} % of dense")
    claims.report("long.quality.lazyllm.gain", ways[best]["times_as_soon"])
    claims.report("long.quality.lazyllm.nq", upper_end(ways["dense"], ways[best]))
    claims.report("long.quality.lazyllm.random", ways[best]["logprob"] - ways[by_chance]["logprob"])
    claims.report("long.quality.lazyllm.final", ways[best]["logprob"] - ways[final]["logprob"])


def mean_recall(model, text, attend):
    report = common.onset_json("map", "--model", model, "--file", text, "--tokens", RECALL_TOKENS, "--layer", LAYERS, "--recall", "--attend", attend, "--json", timeout=3600)
    heads = [head for layer in report["layers"] for head in layer["heads"]]
    return statistics.mean(head["recall"] for head in heads), 1 - statistics.mean(head["skipped"] for head in heads)


def one_pattern(folder, name, record):
    """A table in which all 30 x 9 heads have one way of looking."""
    path = Path(folder, f"{name}.json")
    path.write_text(json.dumps([{str(head): record for head in range(9)} for _ in range(30)]), encoding="utf-8")
    return f"minference:{path}"


def at_equal_cost(model, text, own_visited, make):
    """The recall of a single-pattern table whose numbers are scaled until it visits no less than the searched table."""
    low, high = 0.05, 4.0
    for _ in range(6):
        middle = (low + high) / 2
        recall, visited = mean_recall(model, text, make(middle))
        low, high = (middle, high) if visited < own_visited else (low, middle)
    recall, visited = mean_recall(model, text, make(high))
    return recall, visited


def measure_recall(claims, model):
    text = common.shared("data/text/wikitext2-raw-test.txt")  # the tables were searched on other texts
    own, own_visited = mean_recall(model, text, "minference")
    print(f"searched table: {100 * own:.2f} % of the softmax on {100 * own_visited:.1f} % of the pairs")
    eighth = RECALL_TOKENS // 8
    patterns = {"A-shape": lambda scale: ["stream_llm", 64, int(eighth * scale), 0],
                "columns": lambda scale: ["vertical_and_slash", int(eighth * scale), 64, 0],
                "diagonals": lambda scale: ["vertical_and_slash", 30, int(eighth * scale), 0],
                "blocks": lambda scale: ["block_sparse", max(1, int(eighth * scale / 64)), 0, 0]}
    best = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, record in patterns.items():
            recall, visited = at_equal_cost(model, text, own_visited, lambda scale, name=name, record=record: one_pattern(folder, name, record(scale)))
            print(f"{name} for all heads: {100 * recall:.2f} % of the softmax on {100 * visited:.1f} % of the pairs")
            best = max(best, recall)
    claims.report("long.quality.minference.recall", 100 * (own - best))


def measure(claims):
    model = common.model(common.SMOLLM2)
    measure_needles(claims, model)
    measure_facts(claims, model)
    measure_questions(claims, model)
    measure_recall(claims, model)


if __name__ == "__main__":
    common.measure_long(__file__, measure, "long.quality")
