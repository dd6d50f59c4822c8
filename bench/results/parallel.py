"""Questions to contexts that are read apart, for the reuse_ape_* claims: the way from parallel windows to APE (arXiv:2502.05431, table 5), step
by step, with temperature and scale from a search on other questions."""

import gzip
import json
import random
import tempfile
from pathlib import Path

import common

TYPES = {"ABBR": "abbreviation", "ENTY": "thing", "DESC": "description", "HUM": "person", "LOC": "place", "NUM": "number"}
EXAMPLES = 36


def trec(name):
    """(question, type) of a part of TREC."""
    for line in common.shared(f"data/text/trec/{name}.txt").read_text(encoding="latin-1").splitlines():
        text, kind = line.split("\t")
        yield text.split(" ", 1)[1].strip(), kind


def trec_items(train, test):
    """Two lists of questions behind the same examples, as many of each type: from the training part, which the examples are from, and from the
    test part."""

    def form(text, kind=""):
        return f"{text}\nThe answer is a{kind}"

    shuffled = list(trec("train"))
    random.Random(1).shuffle(shuffled)
    examples, rest = [], []
    for text, kind in shuffled:
        wanted = sum(each == kind for _, each in examples) < EXAMPLES // len(TYPES)
        (examples if wanted else rest).append((text, kind))
    random.Random(3).shuffle(examples)
    contexts = [form(text, " " + TYPES[kind]) for text, kind in examples]
    tested = list(trec("test"))
    random.Random(2).shuffle(tested)
    # The first 60 served to choose the wording among nine: one in which reading everything finds more than the most frequent type.
    tested = tested[60:]
    labels = [" " + name for name in TYPES.values()]
    return [[{"contexts": contexts, "question": form(text), "labels": labels, "label": " " + TYPES[kind]} for text, kind in part]
            for part in (rest[:train], tested[:test])]


def nq_items(train, test, documents=10):
    """Questions of NaturalQuestions, each with the passage that answers it among those of other questions."""
    with gzip.open(common.shared("data/text/nq-open-oracle.jsonl.gz"), "rt", encoding="utf-8") as file:
        entries = [json.loads(line) for line in file]
    passages = ["\n".join((each["ctxs"][0]["title"], each["ctxs"][0]["text"])) for each in entries]
    chance, items = random.Random(4), []
    for i in chance.sample(range(len(entries)), train + test):
        contexts = [passages[j] for j in chance.sample([j for j in range(len(entries)) if j != i], documents - 1)]
        contexts.insert(chance.randrange(documents), passages[i])
        items.append({"contexts": contexts, "question": f"Question: {entries[i]['question']}\nAnswer:", "answers": [" " + each for each in entries[i]["answers"]]})
    return items[:train], items[train:]


def kv_items(train, test, contexts=5):
    """75 pairs of keys and values in a few contexts, and the question for the value of one key."""
    with gzip.open(common.shared("data/text/kv-retrieval-75_keys.jsonl.gz"), "rt", encoding="utf-8") as file:
        entries = [json.loads(next(file)) for _ in range(train + test)]
    chance, items = random.Random(5), []
    for entry in entries:
        lines = [f'"{key}": "{value}"' for key, value in entry["ordered_kv_records"]]
        key, value = chance.choice(entry["ordered_kv_records"])
        step = -(-len(lines) // contexts)
        items.append({"contexts": ["\n".join(lines[i:i + step]) for i in range(0, len(lines), step)], "question": f'"{key}": "', "answers": [value]})
    return items[:train], items[train:]


def write(path, items):
    Path(path).write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def tune(model, items, *options, timeout=3600):
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "items.jsonl"), items)
        return common.onset_json("tune-ape", path, "--model", model, "--raw", "--items", len(items), "--json", *options, timeout=timeout)


def ladder(model, train, test, answer):
    """{step: figures} on `test`; temperature and scale are those that do best on `train`, the prefix is the usual one. Steps: pcw, +p, +t, +s,
    default (0.9 and 0.9), everything (one after the other)."""
    best = tune(model, train, "--newlines", 2)["best"]
    temperature, scale = f"{best['temperature']:g}", f"{best['scale']:g}"
    ways = {"pcw": "pcw", "+p": "pcw+p", "+t": f"pcw+p+t:{temperature}", "+s": f"ape:{temperature}:{scale}", "default": "ape"}
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder, "items.jsonl"), test)
        report = common.onset_json("bench", "fidelity", path, "--model", model, "--raw", "--answer", answer, "--ways", ",".join(ways.values()), "--json",
                                   timeout=7200)
    steps = {**dict(zip(ways, report["ways"])), "everything": report["reading_everything"]}
    print(f"tuned on {len(train)}: temperature {temperature}, scale {scale}; {len(test)} tested")
    for name, step in steps.items():
        right = f", right {100 * step['accuracy']:.1f} %" if "accuracy" in step else ""
        print(f"{name:10}  answer {step['answer_logprob']:.4f} nats a token, divergence {step['kl']:.4f}, same top token {100 * step['top1']:.1f} %{right}")
    return steps
