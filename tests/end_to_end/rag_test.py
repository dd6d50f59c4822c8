"""examples/rag: folders to passages to answers, the comparison of the ways, and what is said when something is missing."""

import contextlib
import gzip
import http.server
import json
import os
import random
import sys
import threading
import xml.etree.ElementTree

import harness
from serve_client import Server, chat_model

HERE = harness.ROOT / "examples" / "rag"
RAG = HERE / "rag"
sys.path.insert(0, str(HERE))
import comparison
import texts

STORIES = {"lily.txt": "Lily has a red ball. She plays with the ball in the park. Her mom says the ball is big.\n",
           "tom/tom.txt": "Tom has a blue car and a dog. The dog likes the car. Tom and the dog go to the park.\n",
           "sue.md": "# The cat of Sue\n\nSue has a cat. The cat sleeps in the sun all day. Sue likes the cat and the sun.\n"}


def write_stories(folder):
    for name, text in STORIES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


class Passages(harness.Test):
    def test_have_every_word_once_in_order_and_are_neither_short_nor_long(self):
        random.seed(5)
        for case in range(30):
            # Paragraphs of any length, some without ends of sentences, some without spaces at all.
            lines = []
            for number in range(random.randint(1, 60)):
                for _ in range(random.randint(1, 8)):
                    words = [f"w{case}n{number}x{random.randint(0, 9999)}" + random.choice(["", "", ".", "?"]) for _ in range(random.choice([1, 12, 60, 700]))]
                    lines.append(" ".join(words) if random.random() < 0.97 else "y" * 30000)
                lines += [""] * random.randint(1, 3)
            text = "\n".join(lines)
            passages = texts.passages_of("a", text)
            joined = "".join("".join(each.text.split()) for each in passages)
            self.assertEqual(joined, "".join(text.split()))
            for each in passages:
                self.assertLessEqual(texts.count_words(each.text), texts.MOST)
                self.assertIn(each.text[:9], "\n".join(lines[each.first_line - 1:each.last_line]))
            for each in passages[:-1]:
                self.assertGreaterEqual(texts.count_words(each.text), texts.LEAST)

    def test_end_at_paragraphs(self):
        paragraphs = [" ".join(f"p{number}w{word}" for word in range(120)) for number in range(20)]
        for each in texts.passages_of("a", "\n\n".join(paragraphs)):
            self.assertTrue(set(each.text.split("\n\n")) <= set(paragraphs))

    def test_that_have_the_answers_are_found(self):
        index = texts.Index(texts.read_folder(HERE / "text")[0])
        questions = texts.read_questions(HERE / "questions.txt")
        self.assertEqual(len(questions), 20)
        for question in questions:
            self.assertTrue(any(question.phrase in passage.text for passage in index.search(question.text, 5)), question)
        made = texts.derived_questions(index.passages, 20)
        self.assertEqual(len({question.text for question in made}), 20)

    def test_what_is_no_text_is_left_out(self):
        write_stories(self.folder)
        (self.folder / "packed.txt.gz").write_bytes(gzip.compress(b"The boat is green."))
        (self.folder / "damaged.gz").write_bytes(gzip.compress(b"The boat is green." * 100)[:-20])
        (self.folder / "picture.png").write_bytes(b"\x89PNG\0\0")
        (self.folder / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
        (self.folder / "gone.txt").symlink_to("nowhere")
        (self.folder / ".hidden").write_text("secret")
        os.mkfifo(self.folder / "pipe")  # reading it would never end
        (self.folder / "around").symlink_to(".")
        (self.folder / os.fsdecode(b"b\xff.txt")).write_text("A name of bytes.")
        found, left_out = texts.read_folder(self.folder)
        self.assertEqual([path for path, _ in found], ["b\ufffd.txt", "lily.txt", "packed.txt.gz", "sue.md", "tom/tom.txt"])
        self.assertEqual(dict(left_out), {"damaged.gz": "a damaged gzip file", "picture.png": "binary", "latin.txt": "not UTF-8",
                                          "gone.txt": "No such file or directory", "pipe": "no ordinary file"})

    def test_answers_are_compared(self):
        self.assertEqual((comparison.f1("", ""), comparison.f1("a", ""), comparison.f1("The cat.", "the CAT")), (1, 0, 1))
        self.assertEqual(comparison.f1("a b c d", "a b x y"), 0.5)
        self.assertEqual((comparison.same_beginning("a b c d", "a x c d"), comparison.same_beginning("", "")), (0.25, 1))


class Service(harness.Test):
    def setUp(self):
        super().setUp()
        self.texts = write_stories(self.folder / "texts")
        self.model = ("--model", f"a={chat_model(self.folder)}", "--threads", 1)
        self.questions = self.folder / "questions.txt"
        self.questions.write_text("# two\nWhat does Tom have: a car, a cat or a ball?\ta blue car\nWhat does Lily play in the sun with a dog?\tno such words\n")

    def rag(self, *arguments, environment=None, **options):
        return self.run_command(sys.executable, RAG, *arguments,
                                environment={"ONSET": str(harness.ONSET), "XDG_CACHE_HOME": str(self.folder), **(environment or {})}, **options)

    def test_the_ways_are_compared(self):
        report = json.loads(self.rag("compare", self.texts, *self.model, "--questions", self.questions, "--passages", 3, "--tokens", 6, "--json",
                                     "--ways", "prefix,ape,cacheblend,full", "--plot", "plot.svg").stdout)
        self.assertEqual((report["answer_in_passages"], len(report["questions"])), (1, 2))
        self.assertEqual(len(report["questions"][0]["sources"]), 3)
        passes = {each["passages"]: {way["way"]: way for way in each["ways"]} for each in report["passes"]}
        self.assertEqual([list(ways) for ways in passes.values()],
                         [["off", "prefix", "ape", "cacheblend", "full"]] * 2 + [["off", "ape", "cacheblend", "full"]])
        for ways in passes.values():
            off = ways["off"]
            self.assertEqual((off["cached_tokens"], off["loaded_bytes"], off["equal_answers"], off["f1"]), (0, 0, 1, 1))
            for way in ways.values():
                self.assertEqual((len(way["answers"]), len(way["first_token_seconds"])), (2, 2))
        self.assertEqual(passes["known"]["prefix"]["equal_answers"], 1)
        for name in ("ape", "cacheblend", "full"):
            new, known, stored = (passes[state][name] for state in ("new", "known", "stored"))
            if name != "cacheblend":  # what it computes again depends on the steps that a prompt is read in
                self.assertEqual(new["answers"], known["answers"])
                self.assertEqual(new["answers"], stored["answers"])
            self.assertGreater(known["cached_tokens"], new["cached_tokens"])
            self.assertEqual((known["stored_tokens"], known["loaded_bytes"]), (0, 0))
            self.assertGreater(stored["stored_tokens"], 0)
            self.assertGreater(stored["loaded_bytes"], 0)
        self.assertEqual(passes["known"]["full"]["recomputed_tokens"], 0)
        self.assertGreater(passes["known"]["cacheblend"]["recomputed_tokens"], 0)
        drawn = xml.etree.ElementTree.parse(self.folder / "plot.svg").getroot()
        self.assertTrue(drawn.tag.endswith("svg"))

    def test_a_server_that_runs_is_asked(self):
        server = Server(self)
        url = f"http://127.0.0.1:{server.port}/v1"
        out = self.rag("compare", self.texts, "--url", url, "--passages", 2, "--tokens", 4, "--ways", "prefix,ape").stdout
        self.assertIn("every passage was read once before", out)
        self.assertNotIn("no passage was read before", out)
        self.assertRegex(out, r"(?m)^prefix .* 100 % ")
        asked = self.rag("ask", self.texts, "Who has a blue car?", "--url", url, "--passages", 1, "--tokens", 8).stdout
        self.assertIn("[1] tom/tom.txt:1-1  Tom has a blue car and a dog.", asked)
        self.assertRegex(asked, r"\[\d+ prompt tokens, \d+ of them known; first token after \d+ ms\]")
        self.rag("ask", self.texts, os.fsdecode(b"Who has a car\xff?"), "--url", url, "--passages", 1, "--tokens", 2)
        several = self.rag("ask", self.texts, "--url", url, "--passages", 1, "--tokens", 2, stdin="Who has a cat?\nzzz?\n\nWho has a ball?\n")
        self.assertIn("[1] sue.md", several.stdout)
        self.assertIn("[1] lily.txt", several.stdout)
        self.assertEqual(several.stderr, "rag: no passage has a word of the question 'zzz?'\n")
        refused = self.rag("ask", self.texts, "Tom?", "--url", f"http://127.0.0.1:{server.port}/elsewhere", status=1)
        self.assertIn("refuses (404)", refused.stderr)

    def test_what_is_missing_is_said(self):
        empty = self.folder / "empty"
        empty.mkdir()
        (empty / "x").write_bytes(b"\0")
        (self.folder / "none.txt").write_text("# nothing\n")
        for sentence, *arguments in (
                ("nowhere: expected a folder of texts, there is none", "ask", "nowhere", "x"),
                ("none.txt: expected a folder of texts, got a file", "ask", "none.txt", "x"),
                ("empty: there is no text in this folder (left out 1: x: binary)", "compare", "empty"),
                ("no passage has a word of the question 'zzz'", "ask", self.texts, "zzz"),
                ("the question has no word to look for", "ask", self.texts, "?!"),
                ("none.txt: expected a question on each line", "compare", self.texts, "--questions", "none.txt"),
                ("nofile: No such file or directory", "compare", self.texts, "--questions", "nofile"),
                ("--url: expected an address as http://127.0.0.1:8080, got 'ftp://x'", "ask", self.texts, "Tom", "--url", "ftp://x"),
                ("the server at http://127.0.0.1:1 does not answer: Connection refused", "ask", self.texts, "Tom", "--url", "http://127.0.0.1:1"),
                ("onset serve did not start: no.gguf: there is no such file, folder or pulled model (onset pull --list shows names)",
                 "ask", self.texts, "Tom", "--model", "no.gguf")):
            done = self.rag(*arguments, status=1)
            self.assertEqual(done.stderr.splitlines()[-1], f"rag: {sentence}")
        self.assertEqual(self.rag("ask", self.texts, "Tom", status=1, environment={"ONSET": "nowhere/onset"}).stderr,
                         "rag: ONSET: expected the path of the program onset, got nowhere/onset\n")
        for arguments in (("compare", "--ways", "x"), ("compare", "--ratio", "2"), ("ask",), (), ("ask", "x", "y", "--url", "http://x", "--model", "m")):
            self.assertIn("error: ", self.rag(*arguments, status=2).stderr)
        unwritable = self.rag("compare", self.texts, *self.model, "--passages", 1, "--tokens", 1, "--ways", "off", "--plot", "nowhere/plot.svg", status=1)
        self.assertIn("rag: nowhere/plot.svg cannot be written: No such file or directory", unwritable.stderr)

    def test_a_server_that_dies(self):
        program = self.folder / "onset"
        program.write_text("#!/bin/sh\necho 'onset: listening at http://127.0.0.1:1 ' >&2\necho 'onset: out of memory' >&2\nexit 3\n")
        program.chmod(0o755)
        done = self.rag("ask", self.texts, "Tom", status=1, environment={"ONSET": str(program)})
        self.assertEqual(done.stderr, "rag: the server at http://127.0.0.1:1 does not answer: it ended with status 3: onset: out of memory\n")

    def test_answers_that_are_none(self):
        with broken_server() as (url, say):
            for events, sentence in ((b'data: {"choices": [{"delta": {"content": "To"}}]}\n\n', "does not answer: the answer was cut off"),
                                     (b'data: {"error": {"message": "no room"}}\n\n', "ended the answer: no room"),
                                     (b"data: {]\n\n", "streams what is no answer: "),
                                     (b"data: [DONE]\n\n", "streams what is no answer: ")):
                say(events)
                done = self.rag("ask", self.texts, "Tom", "--url", url, status=1)
                self.assertIn(f"rag: the server at {url} {sentence}", done.stderr)


@contextlib.contextmanager
def broken_server():
    """A server that streams whatever it was told to say, and ends there."""
    said = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, kind, data):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            self.answer("application/json", b'{"data": [{"id": "a"}]}')

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer("text/event-stream", said[-1])

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", said.append
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    harness.main()
