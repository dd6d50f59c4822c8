"""16 contexts of 2,000 tokens, four times what the model's context holds, and a sentence to be found in each of them in turn.

    python3 bench/results/reuse_ape_needle.py --long
"""

import json
import re
import urllib.request

import common
import serving

CONTEXTS, TOKENS = 16, 2000
# A key and a value for each of 30 layers and 3 heads of 64 values of two bytes.
BYTES = 2 * 30 * 3 * 64 * 2
SENTENCE = "\nThe special magic number is {}.\n"
ASK = "What is the special magic number? The special magic number is"


def texts(model):
    """Pieces of essays of TOKENS tokens each, cut where tokens end."""
    essays = "\n\n".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(common.shared("data/text/essays").iterdir()))
    pieces, begin = [], 0
    with_size = 9000  # characters, more than TOKENS tokens
    for _ in range(CONTEXTS):
        piece = essays[begin:begin + with_size]
        count = tokens_of(model, piece)
        piece = piece[:int(len(piece) * (TOKENS - 16) / count)]
        pieces.append(piece)
        begin += len(piece)
    return pieces


def tokens_of(model, text):
    import tempfile
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        return len(common.onset_json("tokenize", "--model", model, "--file", file.name, "--no-special", "--json")["ids"])


def ask(url, path, **body):
    request = urllib.request.Request(url + path, json.dumps({"model": "model", **body}).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=900) as answer:
        return json.load(answer)


def pages_used(url):
    with urllib.request.urlopen(url + "/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return float(re.search(r"^onset_pool_pages_used\{.*?\} (\S+)$", text, re.M)[1])


def measure(claims):
    model = common.model(common.SMOLLM2)
    pieces = texts(model)
    numbers = [str(7013 + 541 * i) for i in range(CONTEXTS)]
    found, finite = {"ape": 0, "pcw": 0}, 0
    command = [common.onset_program(), "serve", "--model", f"model={model}", "--port", 0, "--kv", "bf16", "--pool", 200_000]
    with serving.running(command, r"listening at (http://\S+)") as server:
        for place in range(CONTEXTS):
            contexts = [{"text": piece} for piece in pieces]
            middle = len(pieces[place]) // 2
            contexts[place] = {"text": pieces[place][:middle] + SENTENCE.format(numbers[place]) + pieces[place][middle:]}
            for way in found:
                answer = ask(server.url, "/v1/completions", prompt=ASK, max_tokens=8, temperature=0, logprobs=1, onset={"contexts": contexts, "reuse": way})
                choice = answer["choices"][0]
                finite += sum(-1e4 < value <= 0 for value in choice["logprobs"]["token_logprobs"])
                found[way] += numbers[place] in choice["text"]
                print(f"sentence in context {place + 1}, {way}: {choice['text']!r}, {answer['onset']['context_tokens']} tokens of contexts")
    claims.report("reuse.ape.needle.found", 100 * found["ape"] / CONTEXTS)
    claims.report("reuse.ape.needle.pcw", 100 * (found["ape"] - found["pcw"]) / CONTEXTS)
    claims.report("reuse.ape.needle.finite", 100 * finite / (2 * CONTEXTS * 8))


if __name__ == "__main__":
    common.measure_long(__file__, measure, "reuse.ape.needle")
