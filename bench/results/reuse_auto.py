"""Known texts found inside ordinary chat messages (onset serve --reuse-auto): passages of MuSiQue, shuffled.

    python3 bench/results/reuse_auto.py
"""

import json
import random
import statistics
import time
import urllib.request

import common
import serving

QUESTIONS = 12


def items():
    chosen = json.loads(common.shared("data/text/musique_s.json").read_text(encoding="utf-8"))[:QUESTIONS]
    for item in chosen:
        yield ["\n".join(filter(None, (each["title"], each["text"]))) for each in item["ctxs"]], item["question"]


def measure(claims):
    model = common.model(common.SMOLLM2)
    order = random.Random(7)
    command = [common.onset_program(), "serve", "--model", f"m={model}", "--port", 0, "--threads", serving.THREADS, "--reuse-auto"]
    found, looks, gains = [], [], []
    with serving.running(command, r"(http://\S+)") as server:

        def ask(body):
            began = time.monotonic()
            data = json.dumps({"model": "m", "max_tokens": 1, "temperature": 0, **body}).encode()
            request = urllib.request.Request(server.url + "/v1/chat/completions", data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer), time.monotonic() - began

        for passages, question in items():
            contexts = [{"text": text} for text in passages]
            known, _ = ask({"messages": [{"role": "user", "content": question}], "onset": {"contexts": contexts, "reuse": "cacheblend"}})
            order.shuffle(passages)
            message = {"messages": [{"role": "user", "content": "\n\n".join([*passages, question])}]}
            plain, seconds = ask(message)
            tokens = known["onset"]["context_tokens"]
            onset = plain.get("onset", {"reused_tokens": 0, "find_seconds": 0})
            _, everything = ask({"messages": [{"role": "user", "content": question}], "onset": {"contexts": contexts, "reuse": "none"}})
            found.append(100 * onset["reused_tokens"] / tokens)
            looks.append(100 * onset["find_seconds"] / seconds)
            gains.append(everything / seconds)
    print(f"tokens of passages found, %: {common.describe(found)}")
    print(f"looking for them, % of the time to the first token: {common.describe(looks)}")
    print(f"time to the first token of reading everything, over that: {common.describe(gains)}")
    claims.report("reuse.auto.found", min(found))
    claims.report("reuse.auto.look", statistics.median(looks))
    claims.report("reuse.auto.ttft", statistics.median(gains))


def main():
    claims = common.Claims(__file__)
    with claims.rows("reuse.auto"):
        measure(claims)
    claims.finish()


if __name__ == "__main__":
    main()
