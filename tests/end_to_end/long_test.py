"""Policies for long texts through the program: --attend, --layers, --rope-scaling, and the field attend of the API."""

import harness
import serve_client

STORIES = harness.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"
TEXT = "Lily has a red ball. Tom has a blue car. " * 12
ASK = {"model": "a", "prompt": TEXT, "max_tokens": 8, "temperature": 0}


class Long(harness.Test):
    def answer(self, *options):
        return self.onset_json("run", "--no-cache", "--model", STORIES, "--raw", "--json", "-n", 8, *options, TEXT)

    def test_run_says_what_was_skipped(self):
        dense = self.answer()
        self.assertNotIn("attend", dense)
        every = self.answer("--attend", "longgen:5")
        self.assertEqual((every["ids"], every["attend"]["skipped"]), (dense["ids"], 0))
        window = self.answer("--attend", "window:32:4")
        self.assertEqual(window["attend"]["name"], "window:32:4")
        self.assertLess(window["attend"]["pairs"], window["attend"]["dense_pairs"])
        self.assertEqual(self.answer("--attend", "window:32:4", "--budget", 7)["ids"], window["ids"])
        self.assertEqual(self.answer("--attend", "window:32:4", "--budget", 7)["attend"], window["attend"])

    def test_heads_are_searched_and_used(self):
        (self.folder / "text.txt").write_text(TEXT * 20, encoding="utf-8")
        search = ["search-heads", "--no-cache", "--model", STORIES, "--rope-scaling", "ntk:4", "--length", 1024, "--file", "text.txt", "--output", "table.json"]
        self.assertRegex(self.onset(*search).stdout, r"^table\.json: .*\d+ .* heads\n$")
        self.assertRegex(self.onset(*search, "--slash-alone").stdout, r"^table\.json: 40 vertical-slash heads\n$")
        report = self.onset_json(*search, "--even", "--json")
        self.assertEqual(sum(report["heads"].values()), 5 * 8)
        self.assertEqual((len(report["trials"]), len(report["trials"][0]), len(report["trials"][0][0])), (5, 8, 24))
        table = self.folder / "table.json"
        self.assertEqual([len(layer) for layer in harness.json.loads(table.read_text(encoding="utf-8"))["layers"]], 5 * [8])
        spec = "minference:table.json:every=64:from=64:ratio=0.1"
        sparse = self.answer("--attend", spec)
        self.assertGreater(sparse["attend"]["skipped"], 0.1)
        self.assertEqual(self.answer("--attend", spec, "--budget", 7)["ids"], sparse["ids"])
        dense = self.answer("--attend", "minference:table.json")
        self.assertEqual((dense["ids"], dense["attend"]["skipped"]), (self.answer()["ids"], 0))
        measure = ["perplexity", "--no-cache", "--model", STORIES, "--file", "text.txt", "--window", 400, "--tokens", 800, "--last", 32, "--json", "--kl-against", "dense"]
        self.assertEqual(self.onset_json(*measure)["kl_mean"], 0)
        report = self.onset_json(*measure, "--attend", spec)
        self.assertEqual((report["tokens_scored"], report["against"]["tokens_scored"]), (64, 64))
        self.assertGreater(report["kl_mean"], 0)

    def test_layers_that_forget_answer_as_the_policy(self):
        spec = "longgen:1:sink=64:window=64"
        self.assertEqual(self.answer("--layers", spec)["ids"], self.answer("--attend", spec)["ids"])

    def test_a_text_past_the_context(self):
        (self.folder / "text.txt").write_text(TEXT * 5, encoding="utf-8")
        measure = ["perplexity", "--no-cache", "--model", STORIES, "--file", "text.txt", "--window", 1000, "--tokens", 1000, "--json"]
        self.assertIn("expected 2 to 512", self.onset(*measure, status=1).stderr)
        self.assertEqual(self.onset_json(*measure, "--rope-scaling", "ntk:2")["tokens_scored"], 999)

    def test_the_server(self):
        server = serve_client.Server(self)

        def ask(spec, **more):
            return server.post("/v1/completions", **{**ASK, "onset": {"attend": spec, **more}})

        dense = server.post("/v1/completions", **ASK)
        self.assertNotIn("onset", dense)
        full = ask("longgen:5")
        self.assertEqual(full["choices"][0]["text"], dense["choices"][0]["text"])
        self.assertEqual(full["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        self.assertEqual(full["onset"]["attend"]["skipped"], 0)
        window = ask("window:32:4")
        self.assertGreater(window["onset"]["attend"]["skipped"], 0.5)
        again = ask("window:32:4")
        self.assertGreater(again["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        self.assertEqual(again["choices"][0]["text"], window["choices"][0]["text"])
        heads = ask("minference:vertical=5:slash=1:every=64:from=64")
        self.assertGreater(heads["onset"]["attend"]["skipped"], 0.2)
        both = ask("window:32:4", contexts=[{"text": "A dog."}])
        self.assertEqual((both["onset"]["reuse"], both["onset"]["attend"]["name"]), ("prefix", "window:32:4"))
        for onset in ({"attend": "window"}, {"attend": 5}, {"attend": "longgen:6"}, {"attend": "minference:/etc/hostname"}, {"attend": "minference"}, {"attend": "window:9", "contexts": [{"text": "a"}], "reuse": "ape"}):
            self.assertIn("attend", server.post("/v1/completions", status=400, **{**ASK, "onset": onset})["error"]["message"])


if __name__ == "__main__":
    harness.main()
