"""onset batch: answers, refusals, a run that is killed again and again, outputs that belong to something else."""

import json
import signal
import subprocess
import time

import harness
from serve_client import STORIES, chat_model


def line(number, url="/v1/completions", **body):
    return {"custom_id": str(number), "method": "POST", "url": url, "body": {"model": "a", **body}}


class Batch(harness.Test):
    def write(self, lines, name="in.jsonl"):
        (self.folder / name).write_text("".join(json.dumps(entry) + "\n" for entry in lines), encoding="utf-8")

    def answers(self):
        return [json.loads(text) for text in (self.folder / "out.jsonl").read_text(encoding="utf-8").splitlines()]

    def command(self, model=STORIES):
        return ["batch", "--no-cache", "--threads", 1, "--model", f"a={model}", "in.jsonl", "out.jsonl"]

    def test_every_url_and_refusals(self):
        self.write([line("text", prompt="Once upon", max_tokens=5, temperature=0),
                    line("chat", "/v1/chat/completions", messages=[{"role": "user", "content": "Once"}], max_tokens=5),
                    line("vector", "/v1/embeddings", input="a dog"),
                    line("unknown", prompt="x", frobnicate=1),
                    line("stream", prompt="x", stream=True),
                    {**line("model", prompt="x"), "body": {"model": "b", "prompt": "x"}}])
        done = self.onset(*self.command(chat_model(self.folder)))
        self.assertIn("6 requests: 3 answered now, 0 before, 3 refused", done.stderr)
        answers = {answer["custom_id"]: answer for answer in self.answers()}
        self.assertEqual({key: answer["response"]["status_code"] for key, answer in answers.items()},
                         {"text": 200, "chat": 200, "vector": 200, "unknown": 400, "stream": 400, "model": 404})
        for answer in answers.values():
            self.assertEqual(set(answer), {"id", "custom_id", "response", "error"})
            self.assertEqual(set(answer["response"]), {"status_code", "request_id", "body"})
        self.assertEqual(answers["text"]["response"]["body"]["usage"]["completion_tokens"], 5)
        self.assertEqual(answers["unknown"]["response"]["body"]["error"]["param"], "frobnicate")

    def test_killed_and_started_again_nothing_is_lost_or_done_twice(self):
        self.write([line(i, prompt=f"Tom had {i}", max_tokens=150, temperature=0, ignore_eos=True) for i in range(60)])
        output, kills = self.folder / "out.jsonl", 0
        for _ in range(3):
            process = subprocess.Popen([str(part) for part in [harness.ONSET, *self.command(), "--in-flight", 4]], cwd=self.folder, stderr=subprocess.DEVNULL)
            had = output.stat().st_size if output.exists() else 0
            while process.poll() is None and (not output.exists() or output.stat().st_size == had):
                time.sleep(0.005)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            process.wait()
            with output.open("ab") as file:  # what a kill in the middle of a write leaves
                file.write(b'{"id": "batch_req_x", "custom_id": "5')
        self.assertGreater(kills, 0)
        before = len(output.read_bytes().splitlines()) - 1
        self.assertIn(f"{60 - before} answered now, {before} before", self.onset(*self.command()).stderr)
        self.assertEqual(sorted(int(answer["custom_id"]) for answer in self.answers()), list(range(60)))
        self.assertIn("0 answered now, 60 before", self.onset(*self.command()).stderr)

    def test_interrupted(self):
        self.write([line(i, prompt="Once", max_tokens=400, ignore_eos=True) for i in range(200)])
        process = subprocess.Popen([str(part) for part in [harness.ONSET, *self.command(), "--in-flight", 2]], cwd=self.folder, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and (not (self.folder / "out.jsonl").exists() or not (self.folder / "out.jsonl").stat().st_size):
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 130)
        self.assertRegex(said, r"onset: interrupted with \d+ of 200 requests answered: run it again to go on\n$")

    def test_inputs_and_outputs_that_are_none(self):
        for entry, sentence in (({"custom_id": "1"}, "line 1: url: is missing"), ({**line(1), "url": "/v1/images"}, "line 1: url: expected /v1/chat/completions"),
                                ({**line(1), "method": "GET"}, "line 1: method: expected \"POST\""), ({**line(1), "more": 1}, "line 1: more: unknown field")):
            self.write([entry])
            self.assertIn(f"onset: in.jsonl: {sentence}", self.onset(*self.command(), status=1).stderr)
        self.write([line(1, prompt="x"), line(1, prompt="y")])
        self.assertIn('line 2: custom_id "1" is that of line 1 too', self.onset(*self.command(), status=1).stderr)
        self.write([line(1, prompt="x", max_tokens=1)])
        (self.folder / "out.jsonl").write_text('{"custom_id": "other"}\n', encoding="utf-8")
        self.assertIn('out.jsonl has an answer to "other"', self.onset(*self.command(), status=1).stderr)
        (self.folder / "out.jsonl").write_text("Dear diary,\n", encoding="utf-8")
        self.assertIn("out.jsonl: line 1 is no answer of a batch", self.onset(*self.command(), status=1).stderr)
        self.assertEqual((self.folder / "out.jsonl").read_text(encoding="utf-8"), "Dear diary,\n")


if __name__ == "__main__":
    harness.main()
