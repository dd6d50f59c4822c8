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

    def test_streaming_heads(self):
        dense = self.answer()
        limit = self.answer("--attend", "lserve:sparsity=0:budget=512")
        self.assertEqual((limit["ids"], limit["attend"]["skipped"]), (dense["ids"], 0))
        (self.folder / "text.txt").write_text(TEXT * 20, encoding="utf-8")
        search = ["search-heads", "--no-cache", "--model", STORIES, "--rope-scaling", "ntk:4", "--length", 1200, "--streaming", "--sink", 64, "--local", 64, "--output", "table.json"]
        self.assertIn("expected --file", self.onset(*search, status=1).stderr)
        self.assertEqual(self.onset(*search, "--file", "text.txt").stdout, "table.json: 20 KV heads\n")
        distances = self.onset_json(*search, "--file", "text.txt", "--json")["distances"]
        table = harness.json.loads((self.folder / "table.json").read_text(encoding="utf-8"))["streaming"]
        self.assertEqual([len(layer) for layer in table], 5 * [4])
        self.assertEqual(max(map(max, table)), 1)
        most = max(map(max, distances))
        for layer, numbers in zip(table, distances):
            for value, distance in zip(layer, numbers):
                self.assertAlmostEqual(value, distance / most, places=3)
        spec = "lserve:table.json:sink=64:prefill=64:local=64:budget=64"
        half = self.answer("--attend", spec)
        self.assertGreater(half["attend"]["skipped"], 0.1)
        for more in (["--budget", 7], ["--threads", 1]):
            again = self.answer("--attend", spec, *more)
            self.assertEqual((again["ids"], again["attend"]), (half["ids"], half["attend"]))
        (self.folder / "wide.tsv").write_text("-1\t0\t1\t2\n" * 5, encoding="utf-8")
        said = self.onset("run", "--no-cache", "--model", STORIES, "--raw", "-n", 1, "--attend", "lserve:wide.tsv", TEXT).stderr
        self.assertIn("10 numbers of the table lay outside of 0 to 1", said)

    def test_layers_whose_heads_stream(self):
        (self.folder / "table.tsv").write_text("0\t0\t1\t1\n" * 5, encoding="utf-8")
        layers = "lserve:table.tsv:sink=64:local=64"
        plain = self.answer("--layers", layers)
        self.assertEqual(self.answer("--layers", layers, "--budget", 7)["ids"], plain["ids"])
        chosen = self.answer("--layers", layers, "--attend", "lserve:budget=64")
        self.assertGreater(chosen["attend"]["skipped"], 0.05)
        self.assertEqual(self.answer("--layers", layers, "--attend", "lserve:budget=512")["ids"], plain["ids"])

    def test_keys_of_four_bits(self):
        (self.folder / "text.txt").write_text(TEXT * 5, encoding="utf-8")
        measure = ["perplexity", "--no-cache", "--model", STORIES, "--file", "text.txt", "--window", 400, "--json", "--kv"]
        by_kind = {kind: self.onset_json(*measure, kind)["perplexity"] for kind in ("f16", "int8", "int4")}
        self.assertNotEqual(by_kind["int4"], by_kind["int8"])
        self.assertLess(abs(by_kind["int8"] / by_kind["f16"] - 1), 0.01)
        self.assertLess(abs(by_kind["int4"] / by_kind["f16"] - 1), 0.6)  # heads of 8 numbers
        behind = self.onset_json("bench", "--no-cache", "--model", STORIES, "--prompt", 1, "--generate", 4, "--repeat", 1, "--behind", "100,200", "--kv", "int4", "--json")
        self.assertEqual([each["context"] for each in behind["decode_behind"]], [100, 200])
        answer = self.onset_json("profile", "--no-cache", "--model", STORIES, "--behind", 300, "--generate", 5, "--attend", "lserve:sparsity=0:budget=64", "--json")
        calls = {operation["name"]: operation["calls"] for operation in answer["operations"]}
        self.assertEqual((answer["tokens"], answer["steps"], calls["attention.plan"]), (5, 5, 25))

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
        pages = ask("lserve:sparsity=1:sink=64:prefill=64:local=64")
        self.assertGreater(pages["onset"]["attend"]["skipped"], 0.1)
        both = ask("window:32:4", contexts=[{"text": "A dog."}])
        self.assertEqual((both["onset"]["reuse"], both["onset"]["attend"]["name"]), ("prefix", "window:32:4"))
        for onset in ({"attend": "window"}, {"attend": 5}, {"attend": "longgen:6"}, {"attend": "minference:/etc/hostname"}, {"attend": "minference"}, {"attend": "lserve"}, {"attend": "lserve:/etc/hostname"}, {"attend": "window:9", "contexts": [{"text": "a"}], "reuse": "ape"}):
            self.assertIn("attend", server.post("/v1/completions", status=400, **{**ASK, "onset": onset})["error"]["message"])


if __name__ == "__main__":
    harness.main()
