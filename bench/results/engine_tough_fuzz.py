"""Fuzz targets, each for ten minutes, and how much of the parser their committed seeds cover.

Each runs FUZZ_SECONDS beginning with its seeds (tests/fixtures/fuzz/NAME); a crash, a leak, a time-out or a sanitizer
report is a finding and stops that target. Coverage is that of the lines of the parser's own sources (COVERED) by the
seeds alone; what the run found on top is printed beside it.
"""

import os
import re
import shutil

import common
from tough import call, tail

FUZZ_SECONDS = int(os.environ.get("ONSET_FUZZ_SECONDS") or 600)
SEEDS = common.ROOT / "tests" / "fixtures" / "fuzz"
BUILD = common.ROOT / "build" / "fuzz"
# The parser behind each fuzz target: X_fuzz.cc is the program onset_X_fuzz.
COVERED = {
    "gguf": ["onset/formats/gguf.cc"],
    "safetensors": ["onset/formats/safetensors.cc"],
    "tokenizer_json": ["onset/text/tokenizer_json.cc"],
    "chat_template": ["onset/text/jinja_lexer.cc", "onset/text/jinja_parser.cc", "onset/text/jinja_expression_parser.cc"],
    "convert": ["onset/formats/convert.cc", "onset/formats/huggingface.cc", "onset/formats/huggingface_config.cc",
                "onset/formats/huggingface_tokenizer.cc"],
}


def fuzz(claims):
    output, status = call(["cmake", "--preset", "fuzz"], 600)
    if not status:
        output, status = call(["ninja", "-C", BUILD, *[f"onset_{name}_fuzz" for name in COVERED]], 3600)
    if status:
        raise common.Failure(f"the fuzz preset does not build: {tail(output)}")
    work = BUILD / "runs"
    shutil.rmtree(work, ignore_errors=True)
    findings, lowest = 0, 100.0
    for name, sources in COVERED.items():
        program, seeds = BUILD / "bin" / f"onset_{name}_fuzz", SEEDS / name
        if not program.is_file() or not seeds.is_dir():
            raise common.Failure(f"{name}: the fuzz target or its seeds ({seeds.relative_to(common.ROOT)}) do not exist")
        corpus = work / name / "corpus"
        corpus.mkdir(parents=True)
        profile = work / name / "profile"
        environment = {**os.environ, "LLVM_PROFILE_FILE": str(profile) + ".%p"}
        dictionary = [f"-dict={file}" for file in [SEEDS / f"{name}.dict"] if file.is_file()]
        # The grown corpus first, then the seeds, which are only read.
        output, status = call([program, corpus, seeds, f"-max_total_time={FUZZ_SECONDS}", "-timeout=25", "-rss_limit_mb=4096",
                               f"-artifact_prefix={work / name}/", "-print_final_stats=1", *dictionary], FUZZ_SECONDS + 600, env=environment)
        if status:
            findings += 1
            print(f"{name}: FINDING\n{tail(output, 30)}")
        runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
        share = coverage(program, [seeds], sources, work / name)
        grown = coverage(program, [corpus, seeds], sources, work / name)
        lowest = min(lowest, share)
        print(f"{name}: {runs[1] if runs else '?'} inputs in {FUZZ_SECONDS} s, {len(list(corpus.iterdir()))} kept; lines of "
              f"{', '.join(sources)}: {share:.1f} % by the seeds, {grown:.1f} % in the end", flush=True)
    claims.report("engine.tough.fuzz", findings)
    claims.report("engine.tough.coverage", lowest)


def coverage(program, inputs, sources, work):
    """Per cent of the lines of `sources` that these folders of inputs reach."""
    raw, merged = work / "replay.profraw", work / "replay.profdata"
    call([program, *inputs, "-runs=0"], 600, env={**os.environ, "LLVM_PROFILE_FILE": str(raw)})
    for tool in ("llvm-profdata-19", "llvm-cov-19"):
        if not shutil.which(tool):
            raise common.Skip(f"{tool} was not found (tools/setup --developer)")
    output, status = call(["llvm-profdata-19", "merge", "-o", merged, raw], 300)
    if status:
        raise common.Failure(f"llvm-profdata: {tail(output)}")
    output, status = call(["llvm-cov-19", "export", "--summary-only", f"--instr-profile={merged}", program,
                           *[common.ROOT / source for source in sources]], 300)
    if status:
        raise common.Failure(f"llvm-cov: {tail(output)}")
    lines = common.parse(output, "llvm-cov")["data"][0]["totals"]["lines"]
    if not lines["count"]:
        raise common.Failure(f"{program.name} does not contain {', '.join(sources)}")
    return lines["percent"]


def main():
    claims = common.Claims(__file__)
    with claims.rows("engine.tough"):
        if claims.long:
            fuzz(claims)
    claims.finish()


if __name__ == "__main__":
    main()
