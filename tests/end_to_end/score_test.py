"""onset score and onset perplexity."""

import json
import math

import harness

STORIES = harness.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"


class Score(harness.Test):
    def score(self, *arguments, **options):
        return self.onset_json("score", "--no-cache", "--model", STORIES, "--json", *arguments, **options)

    def test_one_entry_for_each_token(self):
        done = self.score("--precision", "reference", "--text", "Once upon a time, there was a little girl", "--top", 3)
        self.assertEqual(set(done), {"ids", "logprob", "rank", "argmax", "top"})
        count = len(done["ids"])
        self.assertEqual([len(done[key]) for key in ("logprob", "rank", "argmax")], [count] * 3)
        self.assertIsNone(done["logprob"][0])
        self.assertIsNone(done["rank"][0])
        for i in range(1, count):
            self.assertLess(done["logprob"][i], 0)
            self.assertEqual(done["rank"][i] == 1, done["argmax"][i - 1] == done["ids"][i])
        self.assertEqual([len(pair) for pair in done["top"]], [2, 2, 2])
        self.assertEqual(done["top"][0][0], done["argmax"][-1])
        self.assertGreater(done["top"][0][1], done["top"][1][1])

    def test_ids_are_scored_as_they_are(self):
        by_text = self.score("--text", "Once upon a time")
        ids = by_text["ids"]
        (self.folder / "ids.json").write_text(json.dumps(ids))
        self.assertEqual(self.score("--ids", "ids.json"), by_text)
        self.assertEqual(self.score("--ids", "-", stdin=json.dumps(ids)), by_text)
        (self.folder / "text").write_text("Once upon a time")
        self.assertEqual(self.score("--file", "text"), by_text)
        self.assertEqual(self.score("--file", "-", stdin="Once upon a time"), by_text)
        self.assertEqual(self.score("--no-special", "--text", "Once upon a time")["ids"], ids[1:])

    def test_logits_follow_the_last_token(self):
        done = self.score("--logits", "--text", "Once upon a time", "--top", 1)
        logits = done["logits"]
        self.assertEqual(len(logits), 512)
        self.assertEqual(logits.index(max(logits)), done["argmax"][-1])
        total = math.log(sum(math.exp(logit) for logit in logits))
        self.assertAlmostEqual(done["top"][0][1], max(logits) - total, places=5)

    def test_the_prediction_is_what_run_generates(self):
        run = self.onset_json("run", "--no-cache", "--model", STORIES, "--json", "-n", 20, "Once upon a time")
        prompt = self.score("--text", "Once upon a time")["ids"]
        done = self.score("--ids", "-", stdin=json.dumps(prompt + run["ids"]))
        self.assertEqual(done["argmax"][len(prompt) - 1:-1], run["ids"])

    def test_a_table_without_json(self):
        done = self.onset("score", "--no-cache", "--model", STORIES, "--text", "Once upon a time")
        self.assertIn("logprob", done.stdout.splitlines()[0])
        self.assertIn("perplexity", done.stdout)

    def test_text_can_be_large(self):
        done = self.score("--text", "Once upon a time there was a girl. " * 20, "--top", 0)
        self.assertGreater(len(done["ids"]), 150)
        self.assertEqual(done["top"], [])


class Perplexity(harness.Test):
    def perplexity(self, *arguments):
        return self.onset_json("perplexity", "--no-cache", "--model", STORIES, "--json", *arguments)

    def setUp(self):
        super().setUp()
        (self.folder / "story.txt").write_bytes(b"Once upon a time, there was a little girl named Lily.\r\nShe loved to play outside.\r\n" * 12)

    def test_windows_and_tokens(self):
        done = self.perplexity("--file", "story.txt", "--window", 50, "--tokens", 160)
        self.assertEqual((done["windows"], done["tokens_scored"], done["window"]), (3, 3 * 49, 50))
        self.assertAlmostEqual(math.log(done["perplexity"]), done["nll"])
        (self.folder / "unix.txt").write_bytes((self.folder / "story.txt").read_bytes().replace(b"\r\n", b"\n"))
        self.assertEqual(self.perplexity("--file", "unix.txt", "--window", 50, "--tokens", 160), done)

    def test_divergence_from_another_precision(self):
        done = self.perplexity("--file", "story.txt", "--window", 100, "--kl-against", "reference")
        self.assertLess(done["kl_mean"], 0.02)
        self.assertGreater(done["kl_mean"], 0)
        self.assertGreaterEqual(done["kl_99"], done["kl_mean"])
        self.assertGreater(done["top1"], 0.9)
        self.assertLess(abs(done["perplexity"] / done["against"]["perplexity"] - 1), 0.02)
        same = self.perplexity("--file", "story.txt", "--window", 100, "--kl-against", "fast")
        self.assertEqual(same["top1"], 1)
        self.assertLess(abs(same["kl_mean"]), 1e-6)


if __name__ == "__main__":
    harness.main()
