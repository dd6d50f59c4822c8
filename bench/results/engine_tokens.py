"""Token ids of whole files, compared with golden's counts and hashes."""

import array
import hashlib
import json
import pathlib
import sys
import tempfile

import common


def measure(claims, name, model, expected):
    model, right = common.model(model), 0
    for file, its in expected.items():
        text = common.shared(f"data/text/{file}").read_bytes().decode("utf-8").replace("\r\n", "\n")
        with tempfile.TemporaryDirectory() as folder:
            copy = pathlib.Path(folder) / "text"
            copy.write_bytes(text.encode("utf-8"))
            run = common.onset("tokenize", "--model", model, "--file", copy, "--no-special", "--json")
        ids = array.array("i", json.loads(run.out)["ids"])
        if sys.byteorder == "big":
            ids.byteswap()
        digest = hashlib.sha256(ids.tobytes()).hexdigest()
        same = len(ids) == its["count"] and digest == its["sha256_int32_le"]
        print(f"{name} {file}: {len(ids)} ids (golden {its['count']}), SHA-256 {digest[:16]}… "
              f"(golden {its['sha256_int32_le'][:16]}…), {run.seconds:.2f} s with start: {'equal' if same else 'DIFFERENT'}")
        right += same
    claims.report(name, right)


def main():
    claims = common.Claims(__file__)
    for part, model, golden in (("smollm2", common.SMOLLM2, "smollm2-135m-q4_1"), ("gemma3", common.GEMMA3, "gemma-3-270m-q4_k_m")):
        name = f"engine.right.tokens.{part}"
        with claims.rows(name):
            measure(claims, name, model, json.loads(common.shared("data/golden/token-ids.json").read_text())["models"][golden])
    claims.finish()


if __name__ == "__main__":
    main()
