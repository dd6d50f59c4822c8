"""What the claims about fuzz targets share: a run of each, and how much of the parser its committed seeds cover."""

import os
import re
import shutil

import common
from tough import call, tail

FUZZ_SECONDS = int(os.environ.get("ONSET_FUZZ_SECONDS") or 600)
SEEDS = common.ROOT / "tests" / "fixtures" / "fuzz"
BUILD = common.ROOT / "build" / "fuzz"


def fuzz(claims, prefix, covered):
    """Reports PREFIX.fuzz and PREFIX.coverage. covered: the sources of the parser behind each target; X_fuzz.cc is the program onset_X_fuzz."""
    output, status = call(["cmake", "--preset", "fuzz"], 600)
    if not status:
        output, status = call(["ninja", "-C", BUILD, *[f"onset_{name}_fuzz" for name in covered]], 3600)
    if status:
        raise common.Failure(f"the fuzz preset does not build: {tail(output)}")
    work = BUILD / "runs" / prefix
    shutil.rmtree(work, ignore_errors=True)
    findings, lowest = 0, 100.0
    for name, sources in covered.items():
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
    claims.report(f"{prefix}.fuzz", findings)
    claims.report(f"{prefix}.coverage", lowest)


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


def main(script, prefix, covered):
    """The whole of a script whose rows are PREFIX.fuzz and PREFIX.coverage."""
    claims = common.Claims(script)
    with claims.rows(prefix):
        if claims.long:
            fuzz(claims, prefix, covered)
    claims.finish()
