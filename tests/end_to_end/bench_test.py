"""onset bench, bench machine, bench kernels and profile: what they print, not how fast it is."""

import json

import harness
import serve_client

STORIES = harness.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"


class Bench(harness.Test):
    def test_the_contract_of_the_comparison(self):
        done = self.onset("bench", "--no-cache", "--model", STORIES, "--prompt", "16,100", "--generate", 8, "--threads", 2, "--repeat", 3, "--json")
        self.assertEqual(done.stderr, "")
        report = json.loads(done.stdout)
        self.assertEqual(report["model"], str(STORIES))
        self.assertEqual(report["threads"], 2)
        self.assertEqual([entry["tokens"] for entry in report["prefill"]], [16, 100])
        for entry in [*report["prefill"], report["decode"]]:
            self.assertEqual(len(entry["tokens_per_second"]), 3)
            self.assertTrue(all(speed > 0 for speed in entry["tokens_per_second"]))
        self.assertEqual(report["decode"]["tokens"], 8)
        self.assertTrue(report["engine"].startswith("onset "))
        for figure in ("load_seconds", "peak_rss_bytes", "packed_weight_bytes", "tensor_bytes", "pool_bytes"):
            self.assertGreater(report[figure], 0, figure)

    def test_no_decode_and_a_whole_context(self):
        report = self.onset_json("bench", "--no-cache", "--model", STORIES, "--prompt", 512, "--generate", 0, "--repeat", 1, "--json")
        self.assertEqual(report["decode"], {"tokens": 0, "tokens_per_second": []})
        self.assertEqual(len(report["prefill"][0]["tokens_per_second"]), 1)

    def test_a_table_otherwise(self):
        out = self.onset("bench", "--no-cache", "--model", STORIES, "--prompt", 16, "--generate", 4, "--repeat", 1).stdout
        self.assertRegex(out, r"prefill 16 +\d")
        self.assertRegex(out, r"decode 4 +\d")

    def test_machine(self):
        report = self.onset_json("bench", "machine", "--threads", 2, "--json")
        self.assertEqual([entry["threads"] for entry in report["by_threads"]], [1, 2])
        self.assertEqual(report["threads"], 2)
        for peak in ("int8", "float32", "read"):
            self.assertGreater(report[peak], 1e6, peak)
        generic = self.onset("bench", "machine", "--threads", 1, environment={"ONSET_ISA": "generic"}).stdout
        self.assertTrue(generic.startswith("generic"), generic)

    def test_kernels(self):
        report = self.onset_json("bench", "kernels", "--no-cache", "--model", STORIES, "--rows", "1,16", "--keys", 64, "--json")
        names = {entry["name"] for entry in report}
        self.assertTrue({"linear", "attention"} <= names, names)
        for entry in report:
            self.assertGreater(entry["seconds"], 0, entry)
        linear = [entry for entry in report if entry["name"] == "linear"]
        self.assertTrue(all(0 < entry["share_of_arithmetic"] < 2 for entry in linear), linear)

    def test_break_even(self):
        with serve_client.redis() as address:
            command = ["bench", "break-even", "--no-cache", "--model", STORIES, "--tokens", "40,100,300", "--repeat", 2, "--folder", ".", "--redis", address]
            report = self.onset_json(*command, "--json", "--svg", "picture.svg")
            table = self.onset(*command).stdout
            # Nothing is left behind.
            self.assertEqual(serve_client.redis_command(address, "DBSIZE"), b":0\r\n")
        self.assertEqual([path.name for path in self.folder.iterdir()], ["picture.svg"])
        self.assertIn("</svg>", (self.folder / "picture.svg").read_text(encoding="utf-8"))
        names = ["memory", "disk", "disk, cold", "redis"]
        names = [name for name in names if name not in report["cannot_be_measured"]]
        self.assertEqual(list(report["tiers"]), names)
        self.assertEqual([entry["tokens"] for entry in report["lengths"]], [40, 100, 300])
        for entry in report["lengths"]:
            self.assertAlmostEqual(entry["needed_bytes_per_second"] * entry["compute_seconds"], entry["tiers"]["disk"]["bytes"], delta=1)
            for tier in names:
                found = entry["tiers"][tier]
                self.assertEqual((len(found["first_token_seconds"]), len(found["load_seconds"])), (2, 2))
                self.assertAlmostEqual(found["times_as_fast"] * found["seconds"], entry["compute_seconds"], delta=1e-9 + entry["compute_seconds"] / 1e6)
        model = report["cost_model"]
        self.assertGreater(model["efficiency"], 0)
        self.assertEqual([each["model"] for each in model["models"]], ["Llama-2-7B", "Mistral-7B", "Llama-2-70B"])
        llama, mistral, large = model["models"]
        # Four times the heads; 80 layers instead of 32.
        self.assertAlmostEqual(llama["bytes_of_token"] / mistral["bytes_of_token"], 4)
        self.assertAlmostEqual(large["bytes_of_token"] / mistral["bytes_of_token"], 80 / 32)
        for each in model["models"]:
            self.assertEqual(list(each["from_tokens"]), names)
            for entry in each["lengths"]:
                self.assertAlmostEqual(entry["needed_bytes_per_second"] * entry["compute_seconds"] / each["bytes_of_token"], entry["tokens"])
        self.assertGreater(large["lengths"][0]["compute_seconds"], 8 * mistral["lengths"][0]["compute_seconds"])
        for line in ("By the cost model", "loading wins from so many tokens on", "Llama-2-70B  "):
            self.assertIn(line, table)

    def test_profile(self):
        report = self.onset_json("profile", "--no-cache", "--model", STORIES, "--prompt", 40, "--trace", "trace.json", "--json")
        self.assertEqual(report["tokens"], 40)
        total = sum(operation["seconds"] for operation in report["operations"])
        self.assertLessEqual(total, report["seconds"])
        trace = json.loads((self.folder / "trace.json").read_text())
        self.assertEqual(len(trace["traceEvents"]), sum(operation["calls"] for operation in report["operations"]))
        table = self.onset("profile", "--no-cache", "--model", STORIES, "--prompt", 40).stdout
        self.assertIn("between them", table)


if __name__ == "__main__":
    harness.main()
