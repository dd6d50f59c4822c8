"""Equal bits: 32 requests in fast precision, chunks x threads x companions x KV types, by bench/same_logits.cc."""

import json

import common

BUILD = common.ROOT / "build" / "release"


def main():
    claims = common.Claims(__file__)
    with claims.rows("engine.same"):
        model = common.model(common.SMOLLM2)
        common.run(["cmake", "-S", common.ROOT, "-B", BUILD, "-DONSET_BENCHMARKS=ON"])
        common.run(["cmake", "--build", BUILD, "--target", "same_logits"])
        report = json.loads(common.run([BUILD / "bin" / "same_logits", model], timeout=850).out)
        for case in report["different"]:
            print("different:", case)
        print(f"{report['runs']} runs of a prompt of {report['prompt_tokens']} tokens, logits of every row and 8 greedy tokens")
        claims.report("engine.same", 100 * report["equal"] / report["runs"])
    claims.finish()


if __name__ == "__main__":
    main()
