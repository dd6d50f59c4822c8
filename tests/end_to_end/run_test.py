"""onset run: prompts from everywhere, streaming, figures, the chat template, interruptions."""

import json
import os
import signal
import subprocess

import harness

STORIES = harness.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"
OPENING = ", there was a little girl named Lily."


class Run(harness.Test):
    def run_stories(self, *arguments, **options):
        return self.onset("run", "--no-cache", "--model", STORIES, *arguments, **options)

    def test_the_answer_goes_out_and_the_figures_beside_it(self):
        done = self.run_stories("--max-tokens", 20, "Once upon a time")
        self.assertTrue(done.stdout.startswith(OPENING), done.stdout)
        self.assertTrue(done.stdout.endswith("\n"))
        self.assertRegex(done.stderr, r"^\[5 prompt tokens at \d+ tokens/s, first token after \d+ ms \(\d+ ms to load\), 20 new tokens at \d+ tokens/s, "
                                      r"[\d.]+ MiB of memory; stopped at the most tokens allowed\]\n$")
        self.assertEqual(self.run_stories("--quiet", "--max-tokens", 20, "Once upon a time").stderr, "")

    def test_prompts_come_as_arguments_file_or_standard_input(self):
        expected = self.run_stories("-n", 12, "Once upon a time").stdout
        (self.folder / "prompt.txt").write_text("Once upon a time")
        self.assertEqual(self.run_stories("-n", 12, "Once", "upon", "a", "time").stdout, expected)
        self.assertEqual(self.run_stories("-n", 12, "--file", "prompt.txt").stdout, expected)
        self.assertEqual(self.run_stories("-n", 12, stdin="Once upon a time").stdout, expected)
        self.assertEqual(self.run_stories("-n", 12, "-", stdin="Once upon a time").stdout, expected)

    def test_json_tells_all(self):
        done = json.loads(self.run_stories("-n", 15, "--json", "--top-logprobs", 2, "Once upon a time").stdout)
        self.assertTrue(done["text"].startswith(OPENING))
        self.assertEqual((done["prompt_tokens"], done["new_tokens"], done["finish"]), (5, 15, "length"))
        self.assertEqual([token["id"] for token in done["tokens"]], done["ids"])
        self.assertEqual(len(done["tokens"][0]["top"]), 2)
        self.assertEqual(done["tokens"][0]["top"][0]["id"], done["ids"][0])
        for figure in ("load_seconds", "first_token_seconds", "prefill_tokens_per_second", "decode_tokens_per_second", "peak_rss_bytes"):
            self.assertGreater(done[figure], 0, figure)

    def test_sampling_options_do_what_they_say(self):
        def answer(*options):
            return self.run_stories("-q", "-n", 30, *options, "Once upon a time").stdout

        greedy = answer()
        self.assertEqual(answer("--temperature", 0, "--seed", 7), greedy)
        warm = answer("--temperature", 1.5, "--seed", 7)
        self.assertNotEqual(warm, greedy)
        self.assertEqual(answer("--temperature", 1.5, "--seed", 7), warm)
        self.assertNotEqual(answer("--temperature", 1.5, "--seed", 8), warm)
        self.assertEqual(answer("--temperature", 1.5, "--top-k", 1, "--seed", 7), greedy)
        self.assertEqual(answer("--temperature", 1.5, "--min-p", 1, "--seed", 7), greedy)
        self.assertEqual(answer("--temperature", 1.5, "--top-p", 0.000001, "--seed", 7), greedy)
        self.assertEqual(answer("--stop", "Lily", "--stop", "girl"), ", there was a little \n")
        self.assertNotEqual(answer("--repetition-penalty", 2), greedy)
        self.assertNotEqual(answer("--frequency-penalty", 5), greedy)
        self.assertNotEqual(answer("--logit-bias", "419:-100"), answer("--logit-bias", "419:100"))

    def test_chunks_threads_and_kept_types(self):
        expected = self.run_stories("-n", 30, "Once upon a time there was a dog who").stdout
        for options in (["--budget", 1], ["--budget", 3, "--threads", 1], ["--threads", 3], ["--pool", 64]):
            self.assertEqual(self.run_stories("-n", 30, *options, "Once upon a time there was a dog who").stdout, expected, options)
        for kept in ("f32", "f16", "bf16", "int8"):
            self.assertTrue(self.run_stories("-n", 8, "--kv", kept, "Once upon a time").stdout.startswith(", there was"), kept)
        self.assertTrue(self.run_stories("-n", 12, "--precision", "reference", "Once upon a time").stdout.startswith(OPENING[:20]))

    def test_deviations_of_contexts_are_shown(self):
        (self.folder / "a.txt").write_text("Lily has a red ball. " * 4, encoding="utf-8")
        (self.folder / "b.txt").write_text("Tom has a blue car. " * 5, encoding="utf-8")
        command = ["kv-deviation", "--no-cache", "--model", STORIES, "--context", "a.txt", "--context", "b.txt", "--precision", "reference"]
        report = self.onset_json(*command, "--json", "--ratios", "0,0.5,1", "One day")
        self.assertEqual(len(report["layers"]), 5)
        self.assertLess(report["layers"][0]["percentile_99"], 1e-5)
        self.assertGreater(report["layers"][1]["median"], 0)
        self.assertEqual([(entry["ratio"], entry["metric"]) for entry in report["attention"][::2]], [(0, "keys-values"), (0.5, "keys-values"), (1, "keys-values")])
        self.assertEqual(report["attention"][-1]["mean"], 0)
        text = self.onset(*command, "--svg", "picture.svg", "One day").stdout
        self.assertIn(f"median rank correlation {report['median_rank_correlation']:.3f}", text)
        self.assertIn("Ranks of neighbouring layers", (self.folder / "picture.svg").read_text(encoding="utf-8"))

    def test_the_search_for_parallel_contexts(self):
        items = [{"contexts": ["Lily has a red ball.", "Tom has a blue car.", f"Ben has {count} cats."], "question": f"{name} has a", "labels": [" ball", " car", " cat"],
                  "label": label} for name, label, count in (("Lily", " ball", 1), ("Tom", " car", 2), ("Ben", " cat", 3), ("Lily", " ball", 4))]
        (self.folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
        command = ["tune-ape", "--no-cache", "--model", STORIES, "items.jsonl", "--items", 3, "--seed", 5]
        report = self.onset_json(*command, "--json", "--trace", "trace.jsonl")
        self.assertEqual(report["items"], 3)
        trace = [json.loads(line) for line in (self.folder / "trace.jsonl").read_text().splitlines()]
        self.assertEqual([{key: value for key, value in entry.items() if key != "logprobs"} for entry in trace], report["trace"])
        self.assertTrue(all(len(entry["logprobs"]) == 3 for entry in trace))
        # The prefixes, the other temperatures, the other scales, and the defaults where they were not among these.
        stages = [entry["stage"] for entry in trace]
        self.assertEqual(stages[:23], 5 * ["prefix"] + 9 * ["temperature"] + 9 * ["scale"])
        self.assertEqual([entry["newlines"] for entry in trace[:5]], [2, 0, 12, 22, 42])
        self.assertEqual((report["default"]["newlines"], report["default"]["temperature"], report["default"]["scale"]), (2, 0.9, 0.9))
        merit = lambda entry: (entry["accuracy"], entry["logprob"])
        self.assertEqual(merit(report["best"]), max(map(merit, trace)))
        self.assertEqual(self.onset_json(*command, "--json"), report)
        best = report["best"]
        self.assertEqual(report["options"], f"--reuse ape --context-newlines {best['newlines']} --ape-temperature {best['temperature']:g} --ape-scale {best['scale']:g}")
        text = self.onset(*command, "--temperatures", "0.9", "--scales", "0.9,0.5", "--newlines", "2").stdout
        self.assertEqual(len(text.splitlines()), 1 + 4 + 2)
        self.assertIn("\nbest: --reuse ape --context-newlines 2 ", text)
        # Without labels the right answers' log-probability decides.
        (self.folder / "answers.jsonl").write_text(json.dumps({"contexts": ["Lily has a ball."], "question": "She has a", "answers": [" ball", " red ball"]}), encoding="utf-8")
        report = self.onset_json("tune-ape", "--no-cache", "--model", STORIES, "answers.jsonl", "--newlines", "2,4", "--json")
        self.assertNotIn("accuracy", report["best"])
        self.assertEqual(report["best"]["logprob"], max(entry["logprob"] for entry in report["trace"]))

    def test_contexts_are_read_before_the_prompt(self):
        (self.folder / "a.txt").write_text("Lily has a red ball.", encoding="utf-8")
        (self.folder / "b.txt").write_text("Tom has a blue car.", encoding="utf-8")
        both = ["--context", "a.txt", "--context", "b.txt"]

        def answer(*options):
            return self.onset_json("run", "--no-cache", "--model", STORIES, "--json", "-n", 12, "--precision", "reference", *options, "One day")

        sequential = answer(*both)
        self.assertEqual(sequential["context_tokens"], 0)
        parallel = answer(*both, "--reuse", "ape")
        self.assertGreater(parallel["context_tokens"], 10)
        self.assertEqual(parallel["context_tokens"] + parallel["prompt_tokens"], sequential["prompt_tokens"])
        # The order of parallel contexts makes no difference; a single one without scaling is read as it would be in one text.
        self.assertEqual(answer("--context", "b.txt", "--context", "a.txt", "--reuse", "ape")["text"], parallel["text"])
        one = ["--context", "a.txt"]
        self.assertEqual(answer(*one, "--reuse", "ape", "--ape-temperature", 1, "--ape-scale", 1)["ids"], answer(*one)["ids"])
        # The steps on the way to ape are ape with fewer of its options; without a shared prefix each text begins one.
        logprobs = lambda *options: [token["logprob"] for token in answer(*both, "--top-logprobs", 1, *options)["tokens"]]
        unscaled = ["--reuse", "ape", "--ape-temperature", 1, "--ape-scale", 1]
        self.assertEqual(logprobs("--reuse", "pcw+p"), logprobs(*unscaled))
        self.assertEqual(logprobs("--reuse", "pcw+p", "--ape-temperature", 0.5), logprobs(*unscaled))
        self.assertEqual(logprobs("--reuse", "pcw+p+t", "--ape-temperature", 0.5), logprobs("--reuse", "ape", "--ape-temperature", 0.5, "--ape-scale", 1))
        self.assertNotEqual(logprobs("--reuse", "pcw"), logprobs("--reuse", "pcw+p"))
        alone = answer(*both, "--reuse", "pcw")
        self.assertLess(alone["context_tokens"], parallel["context_tokens"])
        self.assertEqual(alone["context_tokens"] + alone["prompt_tokens"], parallel["context_tokens"] + parallel["prompt_tokens"])
        self.assertEqual(logprobs("--reuse", "ape", "--context-newlines", 2), logprobs("--reuse", "ape"))
        self.assertNotEqual(logprobs("--reuse", "ape", "--context-newlines", 12), logprobs("--reuse", "ape"))
        # Blended with everything computed again is reading it all; less is computed where less is asked for.
        self.assertEqual(answer(*both, "--reuse", "cacheblend", "--ratio", 1)["ids"], answer(*both)["ids"])
        blend = answer(*both, "--reuse", "cacheblend", "--ratio", 0.25, "--blend-schedule", "gradual")["blend"]
        rows = blend["recomputed_tokens"]
        self.assertEqual(rows[0], blend["reused_tokens"])
        self.assertTrue(0 < rows[-1] < 0.25 * rows[0] < rows[1] < rows[0], rows)
        self.assertEqual(set(answer(*both, "--reuse", "full")["blend"]["recomputed_tokens"]), {0})
        (self.folder / "empty.txt").write_text("")
        for options, sentence in ((["--context", "empty.txt"], "--context empty.txt: the file is empty"),
                                  (["--context", "none.txt"], "none.txt: cannot be opened: No such file or directory"),
                                  ([*one, "--reuse", "ape", "--ape-temperature", 0], "the temperature of parallel contexts is 0, expected a number above 0")):
            done = self.onset("run", "--no-cache", "--model", STORIES, *options, "One day", status=1)
            self.assertEqual(done.stderr, f"onset: {sentence}\n")

    def test_tokens_that_wait_until_they_matter(self):
        (self.folder / "long.txt").write_text("Once upon a time there was a little dog who liked to play. " * 8, encoding="utf-8")

        def answer(*options):
            return self.onset_json("run", "--raw", "--no-cache", "--model", STORIES, "--json", "-n", 40, "--ignore-end", "--file", "long.txt", *options)

        whole = answer()
        self.assertNotIn("select", whole)
        kept = answer("--select", "lazyllm:1,3:1")
        self.assertEqual(kept["ids"], whole["ids"])
        tokens = whole["prompt_tokens"]
        self.assertEqual(kept["select"]["prompt_rows"], [tokens] * 5)
        pruned = answer("--select", "lazyllm:1,3:0.5")["select"]
        half = (tokens + 1) // 2
        self.assertEqual(pruned["prompt_rows"], [tokens, half, half, (half + 1) // 2, (half + 1) // 2])
        self.assertEqual(pruned["policy"], "lazyllm:1,3:0.5")
        self.assertGreater(pruned["revived"], 0)
        self.assertEqual(answer("--select", "lazyllm:1,3:0.5:revive=0")["select"]["revived"], 0)
        # What a step runs changes nothing.
        self.assertEqual(answer("--select", "lazyllm:1,3:0.5", "--budget", 16)["ids"], answer("--select", "lazyllm:1,3:0.5")["ids"])

    def test_a_reader_that_leaves_ends_the_program_quietly(self):
        command = f"'{harness.ONSET}' run --no-cache -q --model '{STORIES}' --ignore-end 'Once upon a time' | head -c 10"
        done = self.run_command("bash", "-c", command + "; echo; echo ${PIPESTATUS[0]}")
        self.assertEqual(done.stdout, OPENING[:10] + "\n0\n")
        self.assertEqual(done.stderr, "")

    def test_a_full_output_is_an_error(self):
        done = self.run_command("bash", "-c", f"'{harness.ONSET}' run --no-cache --model '{STORIES}' Once > /dev/full", status=1)
        self.assertEqual(done.stderr, "onset: standard output: No space left on device\n")

    def test_interrupting_ends_the_answer_with_its_figures(self):
        process = subprocess.Popen([harness.ONSET, "run", "--no-cache", "--ignore-end", "--temperature", "1", "--model", STORIES, "Once upon a time"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        first = os.read(process.stdout.fileno(), 1)  # the answer has begun
        process.send_signal(signal.SIGINT)
        rest, figures = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0)
        self.assertTrue(first)
        self.assertTrue(rest.endswith("\n"))
        # The whole context may have been filled before the signal came.
        self.assertRegex(figures, r"; (interrupted|stopped at the most tokens allowed)\]")


class Default(harness.Test):
    """The default model, with its chat template."""

    def test_the_template_is_applied_unless_raw(self):
        model = harness.default_model()
        chat = self.onset_json("run", "--model", model, "--json", "-n", 24, "What is the capital of France?")
        self.assertTrue(chat["text"].strip())
        self.assertNotIn("<|im_", chat["text"])
        self.assertGreater(chat["prompt_tokens"], 20)  # the template has a system message of its own
        raw = self.onset_json("run", "--model", model, "--json", "-n", 5, "--raw", "The capital of France is")
        self.assertEqual(raw["prompt_tokens"], 5)
        self.assertTrue(raw["text"].startswith(" Paris"), raw["text"])

    def test_a_system_message_goes_before_the_prompt(self):
        model = harness.default_model()
        plain = self.onset_json("run", "--model", model, "--json", "-n", 1, "Hello")
        system = self.onset_json("run", "--model", model, "--json", "-n", 1, "--system", "You only speak about the weather, whatever you are asked.", "Hello")
        self.assertNotEqual(plain["prompt_tokens"], system["prompt_tokens"])


if __name__ == "__main__":
    harness.main()
