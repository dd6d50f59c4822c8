"""Errors as documented; with --long: fuzz targets and their coverage, the suite under sanitizers.

Fuzz targets run FUZZ_SECONDS each on a copy of their committed seeds (tests/fixtures/fuzz/NAME); a crash, a leak, a
time-out or a sanitizer report is a finding and stops that target. Coverage is that of the lines of the parser's own
sources (COVERED) by the corpus that the run ended with.
"""

import os
import re
import shutil
import subprocess

import common

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
# What must be a clear error, and a word of its row in docs/errors.md.
CONDITIONS = {
    "truncated file": "truncated", "flipped tensor offset": "offset", "huge declared sizes": "huge",
    "wrong vocabulary size": "vocabulary", "NaN weights": "NaN", "prompt past the context": "context",
    "zero tokens": "zero tokens", "full pool": "pool", "unwritable cache": "unwritable", "ONSET_ISA the CPU lacks": "ONSET_ISA",
    "full disk while converting": "converting", "full disk while pulling": "pulling",
}


def call(command, timeout, **options):
    """Output and exit status; a time-out is a Failure."""
    try:
        done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout, check=False,
                              cwd=common.ROOT, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise common.Failure(str(error)) from None
    return done.stdout, done.returncode


def tail(text, lines=12):
    return "\n".join(text.strip().splitlines()[-lines:])


def errors(claims):
    """The test that writes docs/errors.md passes, leaves the page as it is, and the page has every condition."""
    page = common.ROOT / "docs" / "errors.md"
    if not page.is_file():
        raise common.Failure("docs/errors.md does not exist")
    before = page.read_text(encoding="utf-8")
    output, status = call(["ctest", "--preset", "release", "-R", r"^end_to_end\.errors", "--no-tests=error"], 600)
    after = page.read_text(encoding="utf-8")
    print(tail(output, 5))
    if status or before != after:
        raise common.Failure("the test of docs/errors.md failed" if status else "docs/errors.md was out of date")
    missing = [name for name, word in CONDITIONS.items() if word.lower() not in after.lower()]
    for name in missing:
        print(f"docs/errors.md has no row about: {name}")
    claims.report("engine.tough.errors", 100 * (1 - len(missing) / len(CONDITIONS)))


def fuzz(claims):
    output, status = call(["cmake", "--preset", "fuzz"], 600)
    if not status:
        output, status = call(["ninja", "-C", BUILD], 3600)
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
        # The grown corpus first, then the seeds, which are only read.
        output, status = call([program, corpus, seeds, f"-max_total_time={FUZZ_SECONDS}", "-timeout=25", "-rss_limit_mb=4096",
                               f"-artifact_prefix={work / name}/", "-print_final_stats=1"], FUZZ_SECONDS + 600, env=environment)
        if status:
            findings += 1
            print(f"{name}: FINDING\n{tail(output, 30)}")
        runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
        share = coverage(program, corpus, seeds, sources, work / name)
        lowest = min(lowest, share)
        print(f"{name}: {runs[1] if runs else '?'} inputs in {FUZZ_SECONDS} s, {len(list(corpus.iterdir()))} kept, "
              f"{share:.1f} % of the lines of {', '.join(sources)}", flush=True)
    claims.report("engine.tough.fuzz", findings)
    claims.report("engine.tough.coverage", lowest)


def coverage(program, corpus, seeds, sources, work):
    """Per cent of the lines of `sources` that the corpus reaches."""
    raw, merged = work / "replay.profraw", work / "replay.profdata"
    call([program, corpus, seeds, "-runs=0"], 600, env={**os.environ, "LLVM_PROFILE_FILE": str(raw)})
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


def sanitized(claims, name, option, *chosen):
    """Failing tests of tools/test under a sanitizer."""
    output, status = call([common.ROOT / "tools" / "test", option, *chosen], 3 * 3600)
    found = re.search(r"(\d+)% tests passed, (\d+) tests failed out of (\d+)", output)
    if not found:
        raise common.Failure(f"tools/test {option}: exit status {status}: {tail(output, 3)}")
    print(f"tools/test {' '.join([option, *chosen])}: {found[0]}")
    print("".join(f"    {line.strip()}\n" for line in output.splitlines() if re.search(r"\((Failed|Timeout|SEGFAULT|Child aborted)\)", line)), end="")
    claims.report(name, int(found[2]))


def main():
    claims = common.Claims(__file__)
    with claims.rows("engine.tough.errors"):
        errors(claims)
    if claims.long:
        for prefix in ("engine.tough.fuzz", "engine.tough.coverage"):
            with claims.rows(prefix):
                if claims.wanted(prefix):
                    fuzz(claims)
        with claims.rows("engine.tough.asan"):
            sanitized(claims, "engine.tough.asan", "--asan")
        with claims.rows("engine.tough.tsan"):
            sanitized(claims, "engine.tough.tsan", "--tsan", "-R", r"^(base|engine|model)\.")
    claims.finish()


if __name__ == "__main__":
    main()
