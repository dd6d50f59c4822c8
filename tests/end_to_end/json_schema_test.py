"""onset run --json-schema and --json-object: answers that are JSON, and schemas that cannot be kept to."""

import json

import harness

STORIES = harness.ROOT / "tests" / "fixtures" / "models" / "stories260K.gguf"
PERSON = {"type": "object", "properties": {"name": {"type": "string", "minLength": 2, "maxLength": 20}, "age": {"type": "integer", "minimum": 1, "maximum": 9},
                                           "friends": {"type": "array", "items": {"enum": ["Tim", "Lily"]}, "maxItems": 2}},
          "required": ["name", "age", "friends"], "additionalProperties": False}


class JsonSchema(harness.Test):
    def answer(self, *options, **more):
        return self.onset("run", "--no-cache", "-q", "--model", STORIES, "--threads", 1, *options, "Once upon a time", **more)

    def schema(self, schema, name="schema.json"):
        (self.folder / name).write_text(schema if isinstance(schema, str) else json.dumps(schema))
        return name

    def test_answers_are_json_of_the_schema(self):
        name = self.schema(PERSON)
        texts = set()
        for options in ([], ["--temperature", 1, "--seed", 1], ["--temperature", 1, "--seed", 2, "--top-p", 0.9, "--repetition-penalty", 1.2]):
            text = self.answer("--json-schema", name, "-n", 300, *options).stdout
            person = json.loads(text)
            self.assertEqual(list(person), ["name", "age", "friends"])
            self.assertTrue(2 <= len(person["name"]) <= 20 and 1 <= person["age"] <= 9 and len(person["friends"]) <= 2, text)
            self.assertLessEqual(set(person["friends"]), {"Tim", "Lily"})
            texts.add(text)
        self.assertGreater(len(texts), 1)

    def test_any_object(self):
        done = json.loads(self.answer("--json-object", "--json", "-n", 40, "--temperature", 1, "--seed", 3).stdout)
        self.assertTrue(done["text"].startswith("{"), done["text"])
        if done["finish"] == "stop":
            self.assertIsInstance(json.loads(done["text"]), dict)

    def test_log_probabilities_are_told_as_ever(self):
        done = json.loads(self.answer("--json-schema", self.schema({"enum": ["never"]}), "--json", "--top-logprobs", 2, "-n", 30).stdout)
        self.assertEqual((done["text"], done["finish"]), ('"never"', "stop"))
        self.assertTrue(all(token["logprob"] < 0 for token in done["tokens"]))

    def test_what_is_wrong_is_named(self):
        for schema, sentence in (({"type": "array", "uniqueItems": True}, 'schema.json: the keyword "uniqueItems" is not supported'),
                                 ({"properties": {"a": {"minLength": "x"}}}, "schema.json at /properties/a/minLength: expected an integer, 0 or more"),
                                 ("{", "schema.json: not valid JSON near byte 2"),
                                 (False, "schema.json: nothing can satisfy it")):
            done = self.answer("--json-schema", self.schema("false" if schema is False else schema), status=1)
            self.assertEqual(done.stderr, f"onset: {sentence}\n")
        self.assertEqual(self.answer("--json-schema", "missing.json", status=1).stderr, "onset: missing.json: cannot be opened: No such file or directory\n")
        self.assertIn("excludes", self.answer("--json-schema", self.schema(PERSON), "--json-object", status=2).stderr)


if __name__ == "__main__":
    harness.main()
