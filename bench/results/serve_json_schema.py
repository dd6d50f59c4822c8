"""Answers kept to 50 JSON schemas, 500 of them at temperature 1: whether those that end by themselves validate with PyPI's
jsonschema, and what the constraint costs while tokens are generated. Needs the Python package jsonschema."""

import json
import pathlib
import statistics
import tempfile

import common
import schemas

GENERATIONS = 10  # of each schema
MOST_TOKENS = 400


def answer(model, *options, most):
    return common.onset_json("run", "--json", "--model", model, "--temperature", 1, "--threads", 2, "-n", most, *options)


def decode_seconds(done):
    """For the tokens after the first; None where there is no such."""
    return (done["new_tokens"] - 1) / done["decode_tokens_per_second"] if done["new_tokens"] > 8 else None


def measure(claims, model):
    try:
        import jsonschema
    except ImportError:
        raise common.Skip("the Python package jsonschema is missing") from None
    ended = valid = cut = 0
    times = []  # of a token with a schema over that without
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "schema.json"
        for number, (what, schema) in enumerate(schemas.SCHEMAS):
            file.write_text(json.dumps(schema))
            judge = jsonschema.Draft202012Validator(schema)
            prompt = f"Give me {what}, in JSON."
            for seed in range(GENERATIONS):
                done = answer(model, "--json-schema", file, "--seed", 100 * number + seed, prompt, most=MOST_TOKENS)
                if done["finish"] != "stop":
                    cut += 1
                    continue
                ended += 1
                right = is_valid(judge, done["text"])
                valid += right
                if not right:
                    print(f"{what}: not valid: {done['text']}")
                if seed == 0 and (seconds := decode_seconds(done)):
                    # As many tokens without a constraint, at once, so that noise meets both alike.
                    plain = answer(model, "--ignore-end", "--seed", seed, prompt, most=done["new_tokens"])
                    times.append(seconds / decode_seconds(plain))
    print(f"{ended + cut} generations: {ended} ended by themselves, {valid} of them valid, {cut} cut after {MOST_TOKENS} tokens")
    if not ended or not times:
        raise common.Failure("no answer ended by itself")
    claims.report("serve.json_schema.valid", 100 * valid / ended)
    claims.report("serve.json_schema.generations", ended + cut)
    print("an answer's tokens with a schema, against as many without:", common.describe(times))
    claims.report("serve.json_schema.slower", 100 * (statistics.median(times) - 1))


def is_valid(judge, text):
    try:
        return judge.is_valid(json.loads(text))
    except ValueError:
        return False


def measure(claims):
    measure(claims, common.model(common.SMOLLM2))


if __name__ == "__main__":
    common.measure_long(__file__, measure, "serve.json_schema")
