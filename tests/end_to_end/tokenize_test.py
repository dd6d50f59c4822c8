"""onset tokenize, onset inspect, onset convert."""

import json

import harness

MODELS = harness.ROOT / "tests" / "fixtures" / "models"
STORIES = MODELS / "stories260K.gguf"


class Tokenize(harness.Test):
    def test_there_and_back(self):
        done = self.onset_json("tokenize", "--model", STORIES, "--json", "--text", "Once upon a time")
        self.assertEqual(done["ids"][0], 1)
        self.assertEqual(done["count"], len(done["ids"]))
        self.assertEqual("".join(done["texts"][1:]), " Once upon a time")
        bare = self.onset_json("tokenize", "--model", STORIES, "--json", "--no-special", "Once", "upon", "a", "time")
        self.assertEqual(bare["ids"], done["ids"][1:])
        text = self.onset("tokenize", "--model", STORIES, "--decode", ",".join(map(str, bare["ids"]))).stdout
        self.assertEqual(text, "Once upon a time\n")

    def test_files_and_counts(self):
        (self.folder / "text").write_text("Once upon a time\nthere was a cat.\n" * 100)
        done = self.onset_json("tokenize", "--model", STORIES, "--json", "--file", "text")
        self.assertEqual(self.onset("tokenize", "--model", STORIES, "--count", "--file", "text").stdout, f"{done['count']}\n")
        lines = self.onset("tokenize", "--model", STORIES, stdin="a cat").stdout.splitlines()
        self.assertEqual(len(lines), self.onset_json("tokenize", "--model", STORIES, "--json", "a cat")["count"])


class Inspect(harness.Test):
    def test_what_a_model_holds(self):
        done = self.onset_json("inspect", "--json", STORIES)
        self.assertEqual(done["metadata"]["general.architecture"]["value"], "llama")
        self.assertEqual(len(done["tensors"]), 47)
        self.assertEqual({tensor["type"] for tensor in done["tensors"]}, {"F32"})
        out = self.onset("inspect", "--tensors", "--metadata", STORIES).stdout
        for words in ("stories260K", "5 layers of 64", "blk.4.ffn_up.weight", "tokenizer.ggml.tokens (text[512])", "context 512"):
            self.assertIn(words, out)

    def test_folders(self):
        out = self.onset("inspect", MODELS / "llama").stdout
        self.assertIn("llama", out)


class Convert(harness.Test):
    def test_types_run_and_split_files_are_the_same(self):
        for kind in ("F16", "Q8_0", "q4_0"):
            report = self.onset_json("convert", "--json", "--type", kind, "--pure", STORIES, f"{kind}.gguf")
            self.assertEqual(report["files"], [f"{kind}.gguf"])
            out = self.onset("run", "--no-cache", "-q", "-n", 10, "--model", f"{kind}.gguf", "Once upon a time").stdout
            self.assertTrue(out.startswith(", there was a"), (kind, out))
        report = self.onset_json("convert", "--json", "--type", "Q8_0", "--pure", "--split-tensors", 20, STORIES, "split.gguf")
        self.assertEqual(len(report["files"]), 3)
        whole, split = (self.onset("run", "--no-cache", "-q", "-n", 30, "--model", model, "Once upon a time").stdout
                        for model in ("Q8_0.gguf", report["files"][0]))
        self.assertEqual(whole, split)

    def test_folders_become_files_that_say_the_same(self):
        self.onset("convert", "--type", "F32", MODELS / "qwen3", "qwen3.gguf")
        (self.folder / "ids").write_text(json.dumps(list(range(3, 60))))
        folder, file = (self.onset_json("score", "--no-cache", "--precision", "reference", "--json", "--model", model, "--ids", "ids")
                        for model in (MODELS / "qwen3", "qwen3.gguf"))
        self.assertEqual(folder, file)


if __name__ == "__main__":
    harness.main()
