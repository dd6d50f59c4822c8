"""onset bench steps, bench schedule, bench offline, and --tbt: what they print, not how fast it is."""

import json

import harness

STORIES = harness.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"
USUAL = ("--no-cache", "--model", STORIES, "--threads", 1)


class Schedule(harness.Test):
    def test_step_times_are_kept_and_pick_a_budget(self):
        machine = self.folder / "machine.json"
        report = self.onset_json("bench", "steps", *USUAL, "--samples", 60, "--rows", 64, "--answers", 4, "--most-context", 128,
                                 "--machine-file", machine, "--json")
        self.assertEqual(report["samples"], 60)
        self.assertEqual(report["layers"], 5)
        self.assertTrue(all(value >= 0 for name, value in report["weights"].items() if name != "bends"), report)
        kept = json.loads(machine.read_text())
        self.assertEqual(kept["format"], "onset machine file")
        self.assertEqual(kept["step_models"][0]["weights"], report["weights"])
        # Again: one entry in the place of the other, and a table this time.
        out = self.onset("bench", "steps", *USUAL, "--samples", 60, "--rows", 64, "--answers", 4, "--most-context", 128, "--machine-file", machine).stdout
        self.assertIn("each prompt token", out)
        self.assertEqual(len(json.loads(machine.read_text())["step_models"]), 1)

    def test_a_dry_run_keeps_nothing(self):
        machine = self.folder / "machine.json"
        self.onset_json("bench", "steps", *USUAL, "--samples", 40, "--rows", 16, "--answers", 2, "--most-context", 64, "--dry",
                        "--machine-file", machine, "--json")
        self.assertFalse(machine.exists())

    def test_a_file_that_is_no_machine_file_is_not_written_over(self):
        machine = self.folder / "machine.json"
        machine.write_text("{}")
        done = self.onset("bench", "steps", *USUAL, "--samples", 40, "--rows", 16, "--answers", 2, "--most-context", 64,
                          "--machine-file", machine, "--json", status=1)
        self.assertIn("machine.json.format is missing", done.stderr)
        self.assertEqual(machine.read_text(), "{}")

    def test_chosen_steps(self):
        report = self.onset_json("bench", "steps", *USUAL, "--points", "16+0@32,0+3@32,13+3@32", "--repeat", 2, "--json")
        self.assertEqual([len(point["seconds"]) for point in report["points"]], [2, 2, 2])
        self.assertGreaterEqual(report["row_block"], 1)

    def test_policies_give_equal_answers_and_time_lines(self):
        report = self.onset_json("bench", "schedule", *USUAL, "--policies", "sarathi-serve,sarathi,vllm,orca,request-level,hybrid-only,chunked-only",
                                 "--requests", 5, "--prompt", 40, "--answer", 12, "--places", 3, "--budget", 24, "--trace", "line", "--json")
        self.assertEqual(len(report["policies"]), 7)
        for one in report["policies"]:
            self.assertTrue(one["equal"], one)
            self.assertEqual(one["tokens"], 5 * 52)
            self.assertEqual(one["gaps"], 5 * 11)
            events = json.loads((self.folder / f"line.{one['policy']}.json").read_text())["traceEvents"]
            steps = [event for event in events if event.get("cat") == "step"]
            self.assertEqual(len(steps), one["steps"])
            self.assertEqual(sum(step["args"]["prompt_rows"] for step in steps), 5 * 40)
            self.assertEqual(sum(step["args"]["answer_rows"] for step in steps), 5 * 11)
        by_name = {one["policy"]: one for one in report["policies"]}
        self.assertGreater(by_name["request-level"]["answers_alone"], by_name["sarathi-serve"]["answers_alone"])

    def test_a_late_prompt_stalls_nobody_under_sarathi_serve(self):
        report = self.onset_json("bench", "schedule", *USUAL, "--policies", "sarathi-serve,vllm", "--requests", 3, "--prompt", 8, "--answer", 60,
                                 "--late-prompt", 300, "--late-after", 4, "--budget", 16, "--trace", "late", "--json")
        for one in report["policies"]:
            events = [event for event in json.loads((self.folder / f"late.{one['policy']}.json").read_text())["traceEvents"] if event.get("cat") == "step"]
            stalls = [step for step in events if step["args"]["running"] >= 3 and step["args"]["prompt_rows"] > 100 and step["args"]["answer_rows"] == 0]
            self.assertEqual(len(stalls), 0 if one["policy"] == "sarathi-serve" else 1)
            self.assertTrue(one["equal"])

    def test_reuse_reads_only_what_is_new(self):
        report = self.onset_json("bench", "reuse", *USUAL, "--tokens", "200,300", "--contexts", 3, "--query", 20, "--new", 10, "--repeat", 2, "--json")
        for tokens, ways in ((200, report["ways"][:6]), (300, report["ways"][6:])):
            # A prefix of whole pages and the rest of its last one; the contexts and what stands before them.
            self.assertEqual([way["cached_tokens"] for way in ways], [0, tokens, 0] + 3 * [tokens + 32])
            self.assertTrue(all(len(way["first_token_seconds"]) == 2 for way in ways))
        out = self.onset("bench", "reuse", *USUAL, "--tokens", 100, "--repeat", 1).stdout
        self.assertIn("known contexts, parallel", out)
        self.assertIn("--tokens 4: expected a token or more for each of the 8 contexts", self.onset("bench", "reuse", *USUAL, "--tokens", 4, status=1).stderr)

    def test_the_fidelity_of_reuse(self):
        item = json.dumps({"contexts": ["Lily has a red ball.", "Tom has a blue car. He likes Lily."], "question": "One day"})
        (self.folder / "items.jsonl").write_text(item + "\n\n" + item + "\n", encoding="utf-8")
        ways = ["full", "ape", "ape:1:1", "cacheblend:1", "cacheblend:0.5:values:gradual", "cacheblend:0.5:values:gradual:0"]
        report = self.onset_json("bench", "fidelity", *USUAL, "items.jsonl", "--ways", ",".join(ways), "--answer", 4, "--json")
        self.assertEqual([way["way"] for way in report["ways"]], ways)
        self.assertEqual(report["questions"], 2)
        self.assertAlmostEqual(report["ways"][3]["kl"], 0, places=9)
        self.assertTrue(all(way["kl"] > 1e-6 for way in report["ways"] if way["way"] != "cacheblend:1"), report)
        out = self.onset("bench", "fidelity", *USUAL, "items.jsonl", "--limit", 1).stdout
        self.assertIn("cacheblend:0.15", out)
        for ways, sentence in (("what", "--ways what: expected full, pcw, pcw+p, pcw+p+t[:TEMPERATURE], ape[:TEMPERATURE:SCALE] or cacheblend:RATIO[:METRIC[:SCHEDULE[:CARRY]]]"),
                               ("cacheblend:x", "--ways cacheblend:x: x is no number"), ("cacheblend:2", "the ratio of cacheblend is 2, expected 0 to 1")):
            self.assertEqual(self.onset("bench", "fidelity", *USUAL, "items.jsonl", "--ways", ways, status=1).stderr, f"onset: {sentence}\n")
        (self.folder / "wrong.jsonl").write_text('{"contexts": [], "question": "Why?"}\n', encoding="utf-8")
        # Steps on the way to ape, and answers that are known.
        known = [{**json.loads(item), "labels": [" ball", " car"], "label": label} for label in (" ball", " car")]
        (self.folder / "known.jsonl").write_text("".join(json.dumps(each) + "\n" for each in known), encoding="utf-8")
        ways = ["pcw", "pcw+p", "pcw+p+t:0.5", "ape:1:1", "ape:0.5:1"]
        report = self.onset_json("bench", "fidelity", *USUAL, "known.jsonl", "--ways", ",".join(ways), "--answer", 2, "--context-newlines", 3, "--json")
        of = {way["way"]: [answer["each"] for answer in way["answers"]] for way in report["ways"]}
        self.assertEqual(of["pcw+p"], of["ape:1:1"])
        self.assertEqual(of["pcw+p+t:0.5"], of["ape:0.5:1"])
        self.assertNotEqual(of["pcw"], of["pcw+p"])
        everything = report["reading_everything"]
        self.assertEqual((everything["kl"], everything["top1"], everything["accuracy"]), (0, 1, 0.5))
        self.assertIn("right labels", self.onset("bench", "fidelity", *USUAL, "known.jsonl", "--ways", "ape").stdout)
        self.assertIn("wrong.jsonl, line 1: expected an object with", self.onset("bench", "fidelity", *USUAL, "wrong.jsonl", status=1).stderr)

    def test_offline_batches_agree(self):
        report = self.onset_json("bench", "offline", *USUAL, "--lengths", "100,60,40,30,50,20,1", "--batch", 3, "--new", 4, "--each-batch", "--json")
        rows = {one["policy"]: one["computed_rows"] for one in report["policies"]}
        self.assertEqual(rows["ragged"], 301)
        self.assertEqual(rows["padded"], 3 * 100 + 3 * 50 + 1)
        self.assertEqual(rows["prepack"], 2 * 100 + 2 * 50 + 1)
        for one in report["policies"]:
            self.assertTrue(one["equal"], one)
            self.assertEqual(len(one["batch_seconds"]), 3)
        out = self.onset("bench", "offline", *USUAL, "--lengths", "30,20,10", "--policy", "padded,ragged").stdout
        self.assertRegex(out, r"ragged +\d+ +60 ")

    def test_traces_of_both_kinds(self):
        (self.folder / "a.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,40,3\n1.5,80,9\n")
        (self.folder / "b.jsonl").write_text('{"timestamp": 0, "input_length": 40, "output_length": 5, "hash_ids": [1]}\n')
        for name in ("a.csv", "b.jsonl"):
            report = self.onset_json("bench", "offline", *USUAL, "--trace", name, "--prompts", 5, "--scale", 0.5, "--json")
            self.assertEqual(report["prompts"], 5)
        for text, sentence in (("a,b\n1,2\n", "a.csv:1: expected columns"), ("ContextTokens,GeneratedTokens\n1,x\n", "a.csv:2: expected whole numbers"),
                               ('{"input_length": -1}\n', "a.csv:1: expected a JSON object"), ("", "a.csv: has no requests")):
            (self.folder / "a.csv").write_text(text)
            self.assertIn(sentence, self.onset("bench", "offline", *USUAL, "--trace", "a.csv", status=1).stderr)

    def test_durations(self):
        for text in ("5x", "-5ms", "0", "ms", "nan"):
            done = self.onset("run", *USUAL, f"--tbt={text}", "Once", status=1)
            self.assertIn(f"--tbt: {text} is not a duration above 0, as in 50ms or 0.05s", done.stderr)
        done = self.onset("run", *USUAL, "--tbt", "50ms", "Once", status=1, environment={"XDG_CACHE_HOME": str(self.folder)})
        self.assertIn("has no step times of stories260K.gguf on 1 threads", done.stderr)


if __name__ == "__main__":
    harness.main()
