"""onset store and --store: contexts are found again by later runs, by other servers, and never wrongly."""

import time

import harness
import serve_client

STORIES = harness.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"


class Store(harness.Test):
    def setUp(self):
        super().setUp()
        (self.folder / "a.txt").write_text("Lily has a red ball. " * 5, encoding="utf-8")
        (self.folder / "b.txt").write_text("Tom has a blue car. " * 8, encoding="utf-8")
        self.contexts = ["--context", "a.txt", "--context", "b.txt"]

    def answer(self, *options, model=STORIES):
        return self.onset_json("run", "--no-cache", "--model", model, "--json", "-n", 12, "--precision", "reference", *options, "One day")

    def add(self, *options):
        return self.onset_json("store", "add", "--no-cache", "--model", STORIES, "--precision", "reference", "--json", *options)

    def test_what_one_run_reads_another_finds(self):
        for reuse in ("cacheblend", "full", "ape"):
            options = [*self.contexts, "--reuse", reuse, "--store", f"chunks-{reuse}"]
            first, second = self.answer(*options), self.answer(*options)
            self.assertEqual(second["ids"], first["ids"])
            self.assertEqual(list(first["contexts"]["tokens"]), ["read"])
            self.assertEqual(second["contexts"]["tokens"], {"disk": first["contexts"]["tokens"]["read"]})
            self.assertGreater(second["contexts"]["loaded_bytes"], 0)
            self.assertEqual(self.answer(*self.contexts, "--reuse", reuse)["ids"], first["ids"])

    def test_known_texts_are_found_in_ordinary_prompts(self):
        text = " ".join(f"On day {day} Lily found {day + 3} shells and {2 * day} stones." for day in range(1, 12))
        (self.folder / "a.txt").write_text(text, encoding="utf-8")
        self.add("--store", "chunks", "a.txt")
        body = {"model": "a", "max_tokens": 8, "temperature": 0, "prompt": f"Once there was a list.\n\n{text}\n\nThe end? No:"}
        options = ["--precision", "reference", "--store", "chunks"]
        server = serve_client.Server(self, *options, model=STORIES)
        self.assertNotIn("onset", server.post("/v1/completions", **body))
        server = serve_client.Server(self, *options, "--reuse-auto", "--reuse-ratio", 0.2, model=STORIES)
        for attempt in range(100):  # the folder is read in the background, and what was read before is not blended
            answer = server.post("/v1/completions", **{**body, "prompt": f"{attempt} {body['prompt']}"})
            if "onset" in answer:
                break
            time.sleep(0.1)
        reuse = answer["onset"]
        self.assertEqual((reuse["reuse"], list(reuse["tiers"])), ("auto", ["disk"]))
        self.assertGreater(reuse["reused_tokens"], 100)
        self.assertGreater(reuse["find_seconds"], 0)
        self.assertEqual(reuse["recomputed_tokens"][1], int(reuse["reused_tokens"] * 0.2))
        self.assertIn("--reuse-auto", self.onset("serve", "--reuse-ratio", 0.2, status=None).stderr)

    def test_texts_are_added_listed_and_pruned(self):
        added = self.add("--store", "chunks", "a.txt", "b.txt")
        self.assertEqual([each["known"] for each in added], [False, False])
        self.assertEqual([each["known"] for each in self.add("--store", "chunks", "b.txt")], [True])
        listed = self.onset_json("store", "list", "chunks", "--json")
        self.assertEqual([each["tokens"] for each in listed["chunks"]], [each["tokens"] for each in added])
        self.assertIn("2 chunks", self.onset("store", "list", "chunks").stdout)
        self.assertEqual(self.onset_json("store", "verify", "chunks", "--json"), {"right": 2, "damaged": []})
        found = self.answer(*self.contexts, "--reuse", "cacheblend", "--store", "chunks")
        self.assertEqual(found["contexts"]["tokens"], {"disk": sum(each["tokens"] for each in added)})
        # Another precision is another model's arithmetic.
        other = self.onset_json("run", "--no-cache", "--model", STORIES, "--json", "-n", 1, *self.contexts, "--reuse", "full", "--store", "chunks", "One day")
        self.assertEqual(set(other["contexts"]["tokens"]), {"read"})
        largest = max(each["bytes"] for each in listed["chunks"])
        pruned = self.onset_json("store", "prune", "chunks", "--capacity", largest, "--json")
        self.assertLessEqual(pruned["bytes"], largest)
        self.assertEqual(self.onset_json("store", "prune", "chunks", "--all", "--json")["chunks"], 0)

    def test_damage_is_found_and_never_used(self):
        self.add("--store", "chunks", "a.txt", "b.txt")
        expected = self.answer(*self.contexts, "--reuse", "cacheblend")["ids"]
        for path in (self.folder / "chunks").glob("*.kv"):
            data = bytearray(path.read_bytes())
            data[-3000] ^= 1
            path.write_bytes(data)
        damaged = self.answer(*self.contexts, "--reuse", "cacheblend", "--store", "chunks")
        self.assertEqual(damaged["ids"], expected)
        self.assertEqual(set(damaged["contexts"]["tokens"]), {"read"})
        for path in (self.folder / "chunks").glob("*.kv"):
            path.write_bytes(path.read_bytes()[:5000])
        done = self.onset("store", "verify", "chunks", status=1)
        self.assertIn("were damaged; they are read again when they are wanted", done.stderr)

    def test_servers_share_redis(self):
        contexts = [{"text": "Lily has a red ball. " * 5}, {"text": "Tom has a blue car. " * 8}]
        body = {"model": "a", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "onset": {"contexts": contexts, "reuse": "cacheblend"}}
        with serve_client.redis() as address:
            first = serve_client.Server(self, "--store", address, model=STORIES).post("/v1/completions", **body)
            self.assertEqual(list(first["onset"]["tiers"]), ["read"])
            second = serve_client.Server(self, "--store", address, model=STORIES)
            # The first server writes in the background.
            other = {**body, "onset": {**body["onset"], "contexts": contexts[:1]}}
            for _ in range(100):
                if "redis" in second.post("/v1/completions", **other)["onset"]["tiers"]:
                    break
                time.sleep(0.05)
            found = second.post("/v1/completions", **body)
            self.assertEqual(found["choices"], first["choices"])
            self.assertNotIn("read", found["onset"]["tiers"])
            self.assertGreater(found["onset"]["loaded_bytes"], 0)
            third = serve_client.Server(self, "--store", address, model=STORIES)
        # Without the Redis that it knew it reads the texts itself.
        alone = third.post("/v1/completions", **body)
        self.assertEqual(alone["choices"], first["choices"])
        self.assertEqual(set(alone["onset"]["tiers"]), {"read"})


if __name__ == "__main__":
    harness.main()
