"""Small random models by Hugging Face transformers (tests/fixtures/models): reference logits from the folder, our GGUF, and split files."""

import json
import pathlib
import struct
import tempfile

import common

FIXTURES = common.ROOT / "tests" / "fixtures" / "models"


def golden(path):
    """Token ids, and the logits of some rows: {row: [vocabulary]} (the layout is in make_models.py)."""
    data = path.read_bytes()
    tokens, rows, vocabulary = struct.unpack_from("<iii", data)
    ids = struct.unpack_from(f"<{tokens}i", data, 12)
    numbers = struct.unpack_from(f"<{rows}i", data, 12 + 4 * tokens)
    at = 12 + 4 * (tokens + rows)
    logits = {row: struct.unpack_from(f"<{vocabulary}f", data, at + 4 * vocabulary * index) for index, row in enumerate(numbers)}
    return list(ids), logits


def largest_difference(model, ids, logits, folder):
    file = folder / "ids.json"
    largest = 0.0
    for row, expected in logits.items():
        file.write_text(json.dumps(ids[:row + 1]))
        mine = common.onset_json("score", "--model", model, "--precision", "reference", "--json", "--logits", "--ids", file)["logits"]
        largest = max(largest, *(abs(a - b) for a, b in zip(mine, expected, strict=True)))
    return largest


def main():
    claims = common.Claims(__file__)
    with claims.rows("engine.right.architectures"), tempfile.TemporaryDirectory() as temporary:
        folder, worst = pathlib.Path(temporary), 0.0
        for source in sorted(path.parent for path in FIXTURES.glob("*/golden.bin")):
            ids, logits = golden(source / "golden.bin")
            whole, split = folder / f"{source.name}.gguf", folder / f"{source.name}-split.gguf"
            common.run([common.onset_program(), "convert", "--type", "F32", source, whole])
            common.run([common.onset_program(), "convert", "--type", "F32", "--split-tensors", 7, source, split])
            first = min(folder.glob(f"{source.name}-split-00001-of-*.gguf"))
            found = {name: largest_difference(model, ids, logits, folder)
                     for name, model in (("safetensors", source), ("GGUF", whole), ("split", first))}
            print(f"{source.name}: " + ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
            worst = max(worst, *found.values())
        claims.report("engine.right.architectures", worst)
    claims.finish()


if __name__ == "__main__":
    main()
