"""Every bad input with the sentence it gives: runs each, and compares with docs/errors.md.

    python3 tests/end_to_end/errors_test.py --rewrite     writes docs/errors.md anew

A row that this machine cannot produce (a full disk needs a file system of its own, an instruction set that the CPU lacks must
be lacking) keeps the sentence that stands there; the test says which.
"""

import hashlib
import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import sys
import unittest

import gguf_edit
import harness
import https_server

PAGE = harness.ROOT / "docs" / "errors.md"
STORIES = harness.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"
HEADER = """# Errors

What goes wrong is said in one sentence on standard error, with `onset: ` in front, naming the file, field or option and what was
expected. Exit status 2: the command line; 1: everything else. This page is written by `tests/end_to_end/errors_test.py --rewrite`,
and the test of that name fails when a sentence here is not what the program says.
"""


class Unavailable(Exception):
    """This machine cannot produce the error; the text says why."""


class Rows:
    """Makes the bad inputs in `folder`, runs the program on them, and collects the table's rows."""

    def __init__(self, test):
        self.test, self.folder = test, test.folder
        self.sections, self.skipped = [], []

    def section(self, title):
        self.sections.append((title, []))

    def row(self, what, *arguments, status=1, make=None, environment=None, stdin=None, command=None, otherwise=None):
        """`command` runs instead of the program with these arguments; `otherwise` is the sentence where no machine of ours has the error."""
        try:
            if make:
                make()
            run = command or [harness.ONSET, *arguments]
            done = self.test.run_command(*run, status=status, stdin=stdin, environment={"XDG_CACHE_HOME": str(self.folder / "cache"), **(environment or {})})
            sentences = [line for line in done.stderr.splitlines() if line.startswith("onset: ")]
            self.test.assertEqual(len(sentences), 1, f"{what}: expected one sentence, got {done.stderr!r}")
            sentence = sentences[0].removeprefix("onset: ").replace(f"{self.folder}/", "").replace(f"{harness.ROOT}/", "")
            # What differs from run to run.
            for pattern, instead in ((r"localhost:\d+", "localhost"), (r" port \d{4,5}", " port N"), (r"-[0-9a-f]{16}\.packed", "-….packed"), (r" after \d+ ms", "")):
                sentence = re.sub(pattern, instead, sentence)
        except Unavailable as reason:
            sentence = otherwise
            self.skipped.append(f"{what}: {reason}")
        self.sections[-1][1].append((what, status, sentence))

    def page(self, old):
        text = HEADER
        for title, rows in self.sections:
            text += f"\n## {title}\n\n| what is wrong | status | sentence |\n|---|---|---|\n"
            for what, status, sentence in rows:
                line = f"| {what} | {status} | "
                if sentence is None:  # keep what stands there
                    kept = [row for row in old.splitlines() if row.startswith(line)]
                    text += (kept[0] if kept else f"{line}(not produced on this machine) |") + "\n"
                else:
                    text += line + sentence.replace("|", "\\|") + " |\n"
        return text


def edited(test, name, change, **options):
    """Makes folder/name: the story model after change(model)."""
    def make():
        model = gguf_edit.Gguf(STORIES)
        change(model)
        model.write(test.folder / name, **options)
    return make


def write(test, name, data):
    return lambda: (test.folder / name).write_bytes(data)


def small_disk(test, script):
    """A command that runs a shell script in a folder `disk` of 256 KiB, in a mount namespace of its own."""
    (test.folder / "disk").mkdir(exist_ok=True)
    mount = "mount -t tmpfs -o size=256k none disk"
    for unshare in (["unshare", "-m"], ["unshare", "-rm"]):
        try:
            works = subprocess.run([*unshare, "bash", "-c", mount], cwd=test.folder, capture_output=True, check=False).returncode == 0
        except OSError:
            works = False
        if works:
            return [*unshare, "bash", "-c", f"{mount} && {script}"]
    raise Unavailable("no mount namespace to make a small disk in")


def bad_model_files(rows):
    test, model = rows.test, lambda name: ("run", "--no-cache", "--raw", "--model", name, "Hello")
    whole = STORIES.read_bytes()

    rows.section("Model files")
    rows.row("no such file", *model("none.gguf"))
    rows.row("an empty file", *model("empty.gguf"), make=write(test, "empty.gguf", b""))
    rows.row("not a GGUF file", *model("text.gguf"), make=write(test, "text.gguf", b"Once upon a time there was a text file."))
    rows.row("a truncated file, tensors missing", *model("truncated.gguf"), make=write(test, "truncated.gguf", whole[:500_000]))
    rows.row("a truncated file, cut within the header", *model("cut.gguf"), make=write(test, "cut.gguf", whole[:3000]))
    rows.row("a flipped tensor offset: beyond the file", *model("offset.gguf"),
             make=edited(test, "offset.gguf", lambda m: m.tensors["blk.1.attn_q.weight"].__setitem__(2, 1 << 40)))
    rows.row("a flipped tensor offset: inside another tensor", *model("overlap.gguf"),
             make=edited(test, "overlap.gguf", lambda m: m.tensors["blk.1.attn_q.weight"].__setitem__(2, m.tensors["blk.0.attn_q.weight"][2])))
    rows.row("a flipped tensor offset: not aligned", *model("unaligned.gguf"),
             make=edited(test, "unaligned.gguf", lambda m: m.tensors["blk.1.attn_q.weight"].__setitem__(2, 4)))
    rows.row("huge declared sizes: tensors", *model("many.gguf"), make=edited(test, "many.gguf", lambda m: None, tensor_count=1 << 60))
    rows.row("huge declared sizes: extents that overflow", *model("huge.gguf"),
             make=edited(test, "huge.gguf", lambda m: m.tensors["blk.0.ffn_up.weight"].__setitem__(0, [1 << 40, 1 << 40])))
    rows.row("huge declared sizes: a text", *model("long.gguf"),
             make=edited(test, "long.gguf", lambda m: m.entries.__setitem__("general.name", (8, struct.pack("<Q", 1 << 62) + b"x"))))
    rows.row("wrong vocabulary size: the tokenizer's tables differ", *model("tables.gguf"),
             make=edited(test, "tables.gguf", lambda m: m.cut_array("tokenizer.ggml.scores", 500, 4)))

    def more_tokens(m):
        m.set_texts("tokenizer.ggml.tokens", m.texts("tokenizer.ggml.tokens") + ["surplus"])
        for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
            kind, raw = m.entries[key]
            m.entries[key] = (kind, raw[:4] + struct.pack("<Q", 513) + raw[12:] + raw[-4:])
    rows.row("wrong vocabulary size: more tokens than embedding rows", *model("vocabulary.gguf"), make=edited(test, "vocabulary.gguf", more_tokens))
    rows.row("an unknown architecture", *model("mamba.gguf"), make=edited(test, "mamba.gguf", lambda m: m.set_text("general.architecture", "mamba")))
    rows.row("an unknown tokenizer", *model("tokenizer.gguf"), make=edited(test, "tokenizer.gguf", lambda m: m.set_text("tokenizer.ggml.model", "bert")))

    def unknown_tensor(m):
        m.tensors["blk.0.ssm_in.weight"] = m.tensors.pop("blk.0.ffn_up.weight")
    rows.row("a tensor that is missing", *model("missing.gguf"), make=edited(test, "missing.gguf", lambda m: m.tensors.pop("blk.0.ffn_up.weight")))
    rows.row("a tensor under an unknown name", *model("unknown.gguf"), make=edited(test, "unknown.gguf", unknown_tensor))
    rows.row("a tensor of another shape", *model("shape.gguf"),
             make=edited(test, "shape.gguf", lambda m: m.tensors["blk.0.ffn_up.weight"][0].reverse()))
    rows.row("metadata that is missing", *model("metadata.gguf"), make=edited(test, "metadata.gguf", lambda m: m.entries.pop("llama.block_count")))

    def not_a_number(m):
        offset = m.tensors["blk.2.ffn_down.weight"][2] + 400
        m.data[offset:offset + 4] = struct.pack("<f", float("nan"))
    rows.row("NaN weights", *model("nan.gguf"), make=edited(test, "nan.gguf", not_a_number))

    def infinite_norm(m):
        offset = m.tensors["blk.2.ffn_norm.weight"][2]
        m.data[offset:offset + 4] = struct.pack("<f", float("inf"))
    rows.row("an infinite norm weight", *model("infinite.gguf"), make=edited(test, "infinite.gguf", infinite_norm))
    rows.row("a folder that is no model", *model("folder"), make=lambda: (test.folder / "folder").mkdir())


def bad_requests(rows):
    test = rows.test
    stories = ("--no-cache", "--model", STORIES)

    rows.section("Prompts and requests")
    rows.row("a prompt past the context", "score", *stories, "--ids", "-", stdin=json.dumps([5] * 600))
    rows.row("zero tokens", "score", *stories, "--ids", "-", stdin="[]")
    rows.row("a token id outside the vocabulary", "score", *stories, "--ids", "-", stdin="[1, 512]")
    rows.row("ids that are no JSON list", "score", *stories, "--ids", "-", stdin="1 2 3")
    rows.row("ids that are no integers", "score", *stories, "--ids", "-", stdin='[1, "two"]')
    rows.row("a full pool: the key/value cache asked for is smaller than the prompt", "score", *stories, "--pool", 64, "--ids", "-", stdin=json.dumps([5] * 100))
    rows.row("a prompt file that does not exist", "run", *stories, "--file", "none.txt")
    rows.row("a system message without a chat template", "run", *stories, "--system", "Be brief.", "Hello")
    rows.row("a conversation without a chat template", "chat", *stories)
    rows.row("a chat template that does not parse", "run", "--no-cache", "--model", "template.gguf", "Hello",
             make=edited(test, "template.gguf", lambda m: m.set_text("tokenizer.chat_template", "{% for m in messages %}")))
    rows.row("a chat template that refuses", "run", "--no-cache", "--model", "refuses.gguf", "--system", "Be brief.", "Hello",
             make=edited(test, "refuses.gguf", lambda m: m.set_text("tokenizer.chat_template",
                                                                    "{{ raise_exception('System role not supported') }}")))
    rows.row("a context file that is empty", "run", *stories, "--context", "empty.txt", "Hello", make=write(test, "empty.txt", b""))
    ape = ("--context", "context.txt", "--reuse", "ape")
    context = write(test, "context.txt", b"Lily has a red ball.")
    rows.row("parallel contexts with a temperature of zero", "run", *stories, *ape, "--ape-temperature", 0, "Hello", make=context)
    rows.row("parallel contexts with a scale below zero", "run", *stories, *ape, "--ape-scale", -1, "Hello", make=context)
    rows.row("contexts blended at a ratio above one", "run", *stories, "--context", "context.txt", "--reuse", "cacheblend", "--ratio", 1.5, "Hello", make=context)
    rows.row("contexts blended whose others move too far", "run", *stories, "--context", "context.txt", "--reuse", "cacheblend", "--carry", 2, "Hello",
             make=context)
    rows.row("contexts blended by an unknown metric", "run", *stories, "--context", "context.txt", "--reuse", "cacheblend", "--blend-metric", "x", "Hello",
             make=context)
    mistral = ["--no-cache", "--model", harness.ROOT / "tests/fixtures/models/mistral"]
    rows.row("an attend policy that nobody has", "run", *stories, "--attend", "everything", "Hello")
    rows.row("a window of nothing", "run", *stories, "--attend", "window:0", "Hello")
    rows.row("a window that is not whole blocks", "run", *stories, "--attend", "longgen:2:window=100", "Hello")
    rows.row("an option that the policy does not have", "serve", *stories, "--port", 0, "--attend", "longgen:2:pad=64")
    rows.row("a table of heads for another model", "run", *stories, "--attend", "minference:heads.json", "Hello",
             make=write(test, "heads.json", b'[{"0":["stream_llm",64,960,0]}]'))
    rows.row("no built-in table for the model", "run", *stories, "--attend", "minference", "Hello")
    rows.row("a table that does not exist", "run", *stories, "--attend", "minference:nobody.json", "Hello")
    rows.row("blocks that are not whole pages", "run", *stories, "--attend", "minference:every=100", "Hello")
    rows.row("no diagonals", "run", *stories, "--attend", "minference:vertical=9", "Hello")
    rows.row("no built-in table of streaming heads for the model", "run", *stories, "--attend", "lserve", "Hello")
    rows.row("a table of streaming heads for another model", "run", *stories, "--attend", "lserve:streams.tsv", "Hello",
             make=write(test, "streams.tsv", b"0\t1\n" * 5))
    rows.row("a table of streaming heads that are no numbers", "run", *stories, "--attend", "lserve:streams.tsv", "Hello",
             make=write(test, "streams.tsv", b"0\t1\tmany\n"))
    rows.row("a sink that is not whole pages", "run", *stories, "--attend", "lserve:sparsity=0:sink=100", "Hello")
    rows.row("a budget of nothing", "run", *stories, "--attend", "lserve:sparsity=0:budget=0", "Hello")
    rows.row("an interval that pages do not hold", "run", *stories, "--attend", "lserve:sparsity=0:interval=5", "Hello")
    rows.row("logical pages that pages do not hold", "run", *stories, "--attend", "lserve:sparsity=0:logical=24", "Hello")
    rows.row("more than all heads to stream", "run", *stories, "--attend", "lserve:sparsity=1.5", "Hello")
    rows.row("answers that see more than prompts", "run", *stories, "--attend", "lserve:sparsity=0:local=1024", "Hello")
    rows.row("a budget of a cache", "run", *stories, "--layers", "lserve:sparsity=1:budget=64", "Hello")
    rows.row("a search for streaming heads without a text", "search-heads", *stories, "--streaming", "--output", "streams.json")
    rows.row("more full layers than layers", "run", *stories, "--attend", "longgen:6", "Hello")
    rows.row("an attend policy for a model with windows", "run", *mistral, "--attend", "longgen:1", "Hello")
    rows.row("an attend policy with contexts that are read apart", "run", *stories, "--attend", "window:64", "--context", "text.gguf", "--reuse", "ape", "Hello")
    rows.row("layers with a policy that is none of theirs", "run", *stories, "--layers", "window:64", "Hello")
    rows.row("one pattern of blocks for each head", "run", *stories, "--layers", "longgen:2:stride=128:step=64", "Hello")
    rows.row("a pattern and an attend policy", "run", *stories, "--layers", "longgen:2", "--attend", "window:64", "Hello")
    rows.row("a rope scaling that nobody has", "run", *stories, "--rope-scaling", "cubic:4", "Hello")
    rows.row("a rope scaling that shrinks", "run", *stories, "--rope-scaling", "linear:0.5", "Hello")
    rows.row("bounds the wrong way round", "run", *stories, "--rope-scaling", "yarn:4:1:32", "Hello")
    rows.row("a model with a scaling of its own", "run", "--no-cache", "--model", harness.ROOT / "tests/fixtures/models/llama_yarn", "--rope-scaling", "ntk:2", "Hello")
    rows.row("a select policy that nobody has", "run", *stories, "--select", "lazy", "Hello")
    rows.row("a select policy without shares", "run", *stories, "--select", "lazyllm:2", "Hello")
    rows.row("a select policy that keeps more than all", "run", *stories, "--select", "lazyllm:2:1.5", "Hello")
    rows.row("tokens dropped after the last layer", "run", *stories, "--select", "lazyllm:2,5:0.5", "Hello")
    rows.row("layers in the wrong order", "serve", *stories, "--port", 0, "--select", "lazyllm:3,2:0.5")
    rows.row("tokens dropped from a model with windows", "run", "--no-cache", "--model", harness.ROOT / "tests/fixtures/models/mistral", "--select", "lazyllm:1:0.5",
             "Hello")
    rows.row("deviations of a single context", "kv-deviation", *stories, "--context", "context.txt", "Hello", make=context)
    tune = ("tune-ape", *stories, "questions.jsonl")
    question = {"contexts": ["Lily has a ball."], "question": "Lily has a"}
    for what, line in (("without answers", question), ("with an empty answer", {**question, "answers": [""]}),
                       ("with a label that is none of the labels", {**question, "labels": [" ball"], "label": " car"}),
                       ("with answers and labels", {**question, "labels": [" ball"], "answers": [" car"]}), ("that is no question", {"question": "Why?"})):
        rows.row(f"a search for parallel contexts: a line {what}", *tune, make=write(test, "questions.jsonl", json.dumps(line).encode()))
    right = write(test, "questions.jsonl", json.dumps({**question, "answers": [" ball"]}).encode())
    rows.row("a search at a temperature of zero", *tune, "--temperatures", 0, make=right)
    rows.row("a search at a scale below zero", *tune, "--scales", "1,-1", make=right)
    rows.row("a search with a trace that cannot be written", *tune, "--trace", "questions.jsonl/trace.jsonl", "--temperatures", 1, "--scales", 1, make=right)
    kept = ("--context", "context.txt", "--reuse", "cacheblend")
    rows.row("a chunk store that is a file", "run", *stories, *kept, "--store", "context.txt", "Hello", make=context)
    rows.row("a chunk store at an address of another kind", "run", *stories, *kept, "--store", "https://example.org/", "Hello", make=context)
    rows.row("a chunk store at a port that is none", "run", *stories, *kept, "--store", "redis://localhost:65536", "Hello", make=context)
    rows.row("a chunk store without room", "run", *stories, *kept, "--store", "chunks", "--store-capacity", 0, "Hello", make=context)
    rows.row("texts to be kept nowhere", "store", "add", *stories, "context.txt", make=context)
    rows.row("an empty text to be kept", "store", "add", *stories, "--store", "chunks", "empty.txt", make=write(test, "empty.txt", b""))
    rows.row("a list of chunks where there are none", "store", "list", "nowhere")
    rows.row("chunks pruned to no size", "store", "prune", "nowhere")
    rows.row("a parallel context that is longer than the model's context", "run", *stories, *ape, "Hello",
             make=write(test, "context.txt", b"Once upon a time there was a dog. " * 400))
    rows.row("parallel contexts for a model with windows", "run", "--no-cache", "--model", harness.ROOT / "tests/fixtures/models/mistral", *ape, "Hello", make=context)
    rows.row("a bias for an unknown token", "run", *stories, "--logit-bias", "9999:1", "Hello")
    rows.row("a perplexity window beyond the context", "perplexity", *stories, "--window", 1000, "--file", "-", stdin="Once upon a time. " * 500)
    rows.row("a text shorter than a window", "perplexity", *stories, "--window", 100, "--file", "-", stdin="Once upon a time.")
    rows.row("a benchmark beyond the context", "bench", *stories, "--prompt", 1000)
    needle = ["long-bench", *stories, "--raw", "--ways", "dense", "--tasks", "needle", "--depths", "50"]
    rows.row("long prompts beyond the context", *needle, "--lengths", 4096)
    rows.row("long prompts that are too short", *needle, "--lengths", 60)
    rows.row("long prompts in a way that nobody has", "long-bench", *stories, "--ways", "window:64,lazy")
    rows.row("long prompts in two ways of one seat", "long-bench", *stories, "--ways", "window:64+longgen:2")
    rows.row("long prompts in ways that exclude each other", "long-bench", *stories, "--raw", "--tasks", "needle", "--lengths", 300, "--depths", "50", "--ways",
             "window:64+lazyllm:2:0.5")
    rows.row("long prompts under a policy of all requests", *needle, "--attend", "window:64")
    rows.row("a task that nobody has", "long-bench", *stories, "--tasks", "noodle", status=2)
    rows.row("no tasks", "long-bench", *stories, "--ways", "dense", "--tasks", "none")
    rows.row("a haystack that is not there", *needle, "--lengths", 300, "--haystack", "nowhere.txt")
    rows.row("a haystack of one sentence", *needle, "--lengths", 300, "--haystack", "one.txt", make=write(test, "one.txt", b"Once upon a time"))
    rows.row("a haystack without texts", *needle, "--lengths", 300, "--haystack", "straw", make=lambda: (test.folder / "straw").mkdir())
    rows.row("a text with too few windows", "long-bench", *stories, "--ways", "dense", "--tasks", "none", "--lengths", 100, "--text", "one.txt")
    rows.row("a window without a prompt", "long-bench", *stories, "--ways", "dense", "--tasks", "none", "--lengths", 64, "--text", "one.txt")
    rows.row("questions without answers", "long-bench", *stories, "--raw", "--ways", "dense", "--tasks", "none", "--questions", "unanswered.jsonl",
             make=write(test, "unanswered.jsonl", b'{"contexts": ["A dog."], "question": "Who?"}'))
    rows.row("a map of a layer that is not there", "map", *stories, "--layer", 5, "Hello")
    rows.row("a map under policies that exclude each other", "map", *stories, "--attend", "window:64", "--select", "lazyllm:2:0.5", "Hello")
    rows.row("a break-even of one length", "bench", "break-even", *stories, "--tokens", 100)
    rows.row("a break-even beyond the context", "bench", "break-even", *stories, "--tokens", "100,510")
    rows.row("a break-even of a disk that is not there", "bench", "break-even", *stories, "--tokens", "40,100", "--folder", "nowhere")
    rows.row("a break-even of a Redis server at a port that is none", "bench", "break-even", *stories, "--tokens", "40,100", "--redis", "redis://localhost:65536")
    rows.row("an output that is full", command=["bash", "-c", f"'{harness.ONSET}' tokenize --model '{STORIES}' Hello > /dev/full"])


def bad_machines(rows):
    test = rows.test
    stories = ("--model", STORIES)

    rows.section("Machine, cache and disk")

    def occupied_cache():
        (test.folder / "occupied").mkdir()
        (test.folder / "occupied" / "onset").write_text("a file where a folder should be")
    rows.row("an unwritable cache (the answer comes all the same)", "run", "-q", *stories, "-n", 1, "Hello", status=0, make=occupied_cache,
             environment={"XDG_CACHE_HOME": str(test.folder / "occupied")})
    rows.row("ONSET_ISA is no word that it knows", "run", *stories, "Hello", environment={"ONSET_ISA": "sse9"})

    flags = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").split()

    def lack_avx512():
        if "avx512_bf16" in flags:
            raise Unavailable("this CPU has them all")
    rows.row("ONSET_ISA names an instruction set that the CPU lacks", "run", *stories, "Hello", make=lack_avx512, environment={"ONSET_ISA": "avx512"},
             otherwise="ONSET_ISA=avx512: this CPU lacks that instruction set")

    def on_small_disk(what, script, **options):
        try:
            rows.row(what, command=small_disk(test, script), **options)
        except Unavailable as reason:
            def refuse(reason=reason):
                raise reason
            rows.row(what, make=refuse)
    on_small_disk("a full disk while converting", f"'{harness.ONSET}' convert --type F16 '{STORIES}' disk/out.gguf")
    on_small_disk("a full disk while keeping packed weights (the answer comes all the same)",
                  f"XDG_CACHE_HOME=$PWD/disk '{harness.ONSET}' run -q -n 1 --model '{STORIES}' Hello", status=0)
    try:
        with https_server.serve(test.folder, {"/own.gguf": b"a" * 1_000_000}) as server:
            trusted = {**https_server.DIRECT, "SSL_CERT_FILE": str(test.folder / "certificate.pem")}
            on_small_disk("a full disk while pulling", f"'{harness.ONSET}' pull --output disk/own.gguf {server.address}/own.gguf", environment=trusted)
            rows.section("Fetching models")
            rows.row("a server that does not have the file", "pull", "--output", "own.gguf", f"{server.address}/none.gguf", environment=trusted)
            rows.row("a checksum that differs", "pull", "--sha256", hashlib.sha256(b"other").hexdigest(), "--output", "own.gguf",
                     f"{server.address}/own.gguf", environment=trusted)
    except unittest.SkipTest as reason:
        rows.skipped.append(f"downloads: {reason}")


def bad_pulls(rows):
    rows.row("nobody answers", "pull", "--output", "own.gguf", "https://127.0.0.1:1/own.gguf", environment=https_server.DIRECT)
    rows.row("an address that is not https", "pull", "http://example.org/own.gguf")
    rows.row("a checksum that is none", "pull", "--sha256", "12", "https://example.org/own.gguf")
    rows.row("an address without a file name", "pull", "https://example.org/")
    rows.row("an unknown name", "pull", "gpt-9")
    rows.row("a licence that was not accepted", "pull", "gemma-3-270m")
    rows.row("no default model", "run", "Hello")
    rows.row("a named model that was not fetched", "run", "--model", "gemma-3-270m", "Hello")
    rows.row("converting onto a file that exists", "convert", STORIES, "there.gguf", make=write(rows.test, "there.gguf", b"x"))


def bad_servers(rows):
    test, serve = rows.test, lambda *options: ("serve", "--no-cache", "--port", "0", "--model", f"a={STORIES}", *options)
    rows.section("Starting a server, and batches")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        rows.row("a port in use", "serve", "--no-cache", "--model", f"a={STORIES}", "--port", str(taken.getsockname()[1]))
    rows.row("an address that is not this machine's", *serve("--host", "192.0.2.1"))
    rows.row("a certificate that does not exist", *serve("--tls-certificate", "none.pem", "--tls-key", "none.pem"))
    rows.row("a certificate that is none", *serve("--tls-certificate", "text.pem", "--tls-key", "text.pem"), make=write(test, "text.pem", b"Hello"))
    rows.row("a certificate without its key", *serve("--tls-certificate", "text.pem"))
    rows.row("a key file that cannot be read", *serve("--api-keys", "none.txt"))
    rows.row("a key file without keys", *serve("--api-keys", "keys.txt"), make=write(test, "keys.txt", b"# none yet\n"))
    rows.row("a key of two words", *serve("--api-keys", "keys.txt"), make=write(test, "keys.txt", b"good\nnot good\n"))
    rows.row("a budget below one token", *serve("--budget", "0"), status=2)
    rows.row("a pool below one token", *serve("--pool", "0"), status=2)
    rows.row("an unknown policy", *serve("--schedule", "fastest"))
    rows.row("a limit that makes no sense", *serve("--max-requests", "0"))
    rows.row("two models of one name", *serve("--model", f"a={STORIES}"))
    rows.row("a model without a name", "serve", "--model", f"={STORIES}")
    rows.row("a batch line that is no request", "batch", "--no-cache", "--model", f"a={STORIES}", "in.jsonl", "out.jsonl",
             make=write(test, "in.jsonl", b'{"custom_id": "1"}\n'))
    rows.row("two batch lines of one id", "batch", "--no-cache", "--model", f"a={STORIES}", "in.jsonl", "out.jsonl",
             make=write(test, "in.jsonl", b'{"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {}}\n' * 2))


def bad_command_lines(rows):
    rows.section("Command line")
    rows.row("no command", status=2)
    rows.row("an unknown command", "sing", status=2)
    rows.row("an unknown option", "run", "--loud", "Hello", status=2)
    rows.row("a value of the wrong kind", "run", "--seed", "seven", "Hello", status=2)
    rows.row("a value out of range", "run", "--temperature", "-1", "Hello", status=2)
    rows.row("an unknown precision", "run", "--precision", "perfect", "Hello", status=2)
    rows.row("options that exclude each other", "score", "--text", "a", "--file", "b", status=2)
    rows.row("something that is missing", "convert", "model.gguf", status=2)
    rows.row("a bias that is none", "run", "--logit-bias", "the", "Hello")


class Errors(harness.Test):
    def test_the_page_says_what_the_program_says(self):
        rows = Rows(self)
        bad_model_files(rows)
        bad_requests(rows)
        bad_machines(rows)
        bad_pulls(rows)
        bad_servers(rows)
        bad_command_lines(rows)
        for reason in rows.skipped:
            print(f"kept as it stands: {reason}")
        old = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
        new = rows.page(old)
        if os.environ.get("ONSET_REWRITE"):
            PAGE.write_text(new, encoding="utf-8")
        else:
            self.assertEqual(old, new, "docs/errors.md is out of date: python3 tests/end_to_end/errors_test.py --rewrite")


if __name__ == "__main__":
    if "--rewrite" in sys.argv:
        sys.argv.remove("--rewrite")
        os.environ["ONSET_REWRITE"] = "1"
    harness.main()
