"""onset long-bench and onset map, with a model so small that its answers are wrong: what is measured, what is written, and that it is the same twice."""

import json
import re

import harness

STORIES = harness.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"
TEXT = "Lily has a red ball. Tom has a blue car. " * 40
BENCH = ["long-bench", "--no-cache", "--model", STORIES, "--rope-scaling", "ntk:4", "--raw"]
WAYS = "window:64:4,lazyllm:1,3:0.5,minference:every=64:from=64:vertical=20:slash=8,window:64:4"


class LongBench(harness.Test):
    def bench(self, *options):
        return self.onset_json(*BENCH, "--json", *options)

    def test_every_task_in_every_way(self):
        report = self.bench("--ways", WAYS, "--lengths", "500,700", "--depths", "0,60", "--wrong", 2)
        self.assertEqual([task["task"] for task in report["tasks"]], ["needle", "passkey", "variables", "pairs", "two-facts"])
        for task in report["tasks"]:
            self.assertEqual((task["prompts"], round(task["chance"], 4)), (4, 0.3333))
            ways = [way["way"] for way in task["ways"]]
            self.assertEqual(ways, ["dense", "window:64:4", "lazyllm:1,3:0.5", "minference:every=64:from=64:vertical=20:slash=8"])
            dense, window, lazy, heads = task["ways"]
            self.assertEqual((dense["attention_skipped"], dense["rows"], dense["likelihood_of_dense"], dense["times_as_soon"]), (0, 1, 1, 1))
            self.assertEqual(dense["discordant"], {"only_dense": 0, "only_this": 0, "p": 1})
            self.assertGreater(window["attention_skipped"], 0.5)
            self.assertGreater(heads["attention_skipped"], 0.2)
            self.assertAlmostEqual(lazy["rows"], 0.5, delta=0.01)
            self.assertEqual([prompt["length"] for prompt in dense["prompts"]], [500, 500, 700, 700])
            self.assertEqual("depth" in dense["prompts"][0], task["task"] != "variables")
            for way in task["ways"]:
                self.assertTrue(way["first_token_seconds"] > 0 and way["decode_tokens_per_second"] > 0 and way["bytes"] > 0)
                low, high = way["exact_interval"]
                self.assertTrue(low <= way["exact"] <= high)
                self.assertLess(way["logprob"], 0)
                self.assertNotEqual(way["logprob"], dense["logprob"] if way is not dense else 0)

    def test_the_same_seed_asks_the_same(self):
        def logprobs(seed):
            report = self.bench("--ways", "dense", "--lengths", 300, "--depths", "50", "--tasks", "needle,pairs", "--seed", seed)
            return [task["ways"][0]["prompts"][0]["logprob"] for task in report["tasks"]]

        self.assertEqual(logprobs(1), logprobs(1))
        self.assertNotEqual(logprobs(1), logprobs(2))

    def test_texts_and_questions(self):
        (self.folder / "text.txt").write_text(TEXT, encoding="utf-8")
        items = [{"contexts": ["Lily has a red ball."], "question": "Lily has a", "answers": [" red ball", " ball"]},
                 {"contexts": ["Tom has a car."], "question": "Tom has a", "labels": [" car", " dog", " tree"], "label": " car"}]
        (self.folder / "questions.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
        report = self.bench("--ways", "window:20:4", "--tasks", "none", "--text", "text.txt", "--windows", 2, "--scored", 20, "--lengths", "100,200", "--questions", "questions.jsonl")
        text, questions = report["tasks"]
        self.assertEqual((text["task"], text["prompts"], questions["task"], questions["prompts"]), ("text", 4, "questions", 2))
        self.assertNotIn("exact", text["ways"][0])
        self.assertIn("answer", questions["ways"][0]["prompts"][0])
        self.assertNotIn("likeliest", text["ways"][0])
        self.assertLess(text["ways"][0]["logprob"], 0)
        self.assertEqual(self.bench("--ways", "dense", "--tasks", "none", "--questions", "questions.jsonl", "--limit", 1)["tasks"][0]["prompts"], 1)

    def test_a_haystack_and_a_picture(self):
        folder = self.folder / "essays"
        folder.mkdir()
        (folder / "a.txt").write_text(TEXT, encoding="utf-8")
        (folder / "b.txt").write_text("Another one. And one more!", encoding="utf-8")
        (folder / "c.md").write_text("not this", encoding="utf-8")
        out = self.onset(*BENCH, "--tasks", "needle", "--lengths", "200,300", "--depths", "0,50,100", "--ways", "window:32:4", "--haystack", "essays", "--svg", "map.svg").stdout
        self.assertRegex(out, r"^needle: 6 prompts of 200 to 300 tokens; the right answer is the likeliest by chance in 25\.0 %")
        self.assertIn("not above chance with this model", out)
        rows = [line.split()[0] for line in out.splitlines() if re.match(r"(dense|window)", line)]
        self.assertEqual(rows, ["dense", "window:32:4"])
        svg = (self.folder / "map.svg").read_text(encoding="utf-8")
        self.assertTrue(svg.startswith("<svg") and svg.endswith("</svg>\n"))
        self.assertEqual((svg.count(">needle: exact answers<"), svg.count(">window:32:4<")), (1, 2))
        self.assertEqual(svg.count("stroke='white'"), 2 * 2 * 6)


class Map(harness.Test):
    def map(self, *options):
        return self.onset_json("map", "--no-cache", "--model", STORIES, "--json", "--tokens", 400, *options, TEXT)

    def test_blocks_and_rows(self):
        dense = self.map("--layer", "1,4")
        tokens, blocks = dense["tokens"], -(-dense["tokens"] // 64)
        self.assertEqual((dense["rows"], dense["visited"]), (5 * [tokens], 5 * [1]))
        self.assertEqual([layer["layer"] for layer in dense["layers"]], [1, 4])
        for head in dense["layers"][0]["heads"]:
            self.assertEqual(head, {"skipped": 0, "blocks": [(query + 1) * [1] for query in range(blocks)]})
        window = self.map("--attend", "window:64:0")
        self.assertEqual([layer["layer"] for layer in window["layers"]], [2])
        head = window["layers"][0]["heads"][0]
        self.assertEqual((head["blocks"][3][0], head["blocks"][3][3]), (0, 1))
        self.assertTrue(0 < head["blocks"][3][2] < 1)
        lazy = self.map("--select", "lazyllm:1,3:0.5")
        self.assertEqual(lazy["rows"], [tokens, -(-tokens // 2), -(-tokens // 2), -(-tokens // 4), -(-tokens // 4)])

    def test_recall(self):
        heads = self.map("--attend", "window:64:4", "--recall")["layers"][0]["heads"]
        self.assertTrue(all(0 < head["recall"] < 1 for head in heads))
        dense = self.map("--recall")["layers"][0]["heads"]
        self.assertEqual([head["recall"] for head in dense], 8 * [1])

    def test_the_picture(self):
        out = self.onset("map", "--no-cache", "--model", STORIES, "--attend", "window:64:4", "--all-layers", "--svg", "map.svg", "--tokens", 400, TEXT).stdout
        self.assertRegex(out, r"^\d+ tokens\n\nlayer +rows +pairs visited\n0 ")
        svg = (self.folder / "map.svg").read_text(encoding="utf-8")
        self.assertTrue(svg.startswith("<svg") and svg.endswith("</svg>\n"))
        self.assertEqual(len(re.findall(r">layer \d head \d: \d+ %<", svg)), 5 * 8)


if __name__ == "__main__":
    harness.main()
