"""What the engine_tough scripts share: a command and the end of its output, and the tests under a sanitizer."""

import re
import subprocess

import common

# The rooms that run threads, or are run by them.
CONCURRENT = ["base", "compute", "kv", "model", "schedule", "engine", "serve"]


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


def sanitized(claims, name, preset, rooms=()):
    """Failing tests of a sanitizer's preset: all, or those of the rooms that have any."""
    build = common.ROOT / "build" / preset
    rooms = [room for room in rooms if list((common.ROOT / "onset" / room).glob("*_test.cc"))]
    chosen = ["-R", rf"^({'|'.join(rooms)})\."] if rooms else []
    steps = [["cmake", "--preset", preset], ["ninja", "-C", build, *[f"onset_{room}_test" for room in rooms]],
             ["ctest", "--preset", preset, "--parallel", "2", *chosen]]
    for step in steps:
        output, status = call(step, 3 * 3600)
        if status and step is not steps[-1]:
            raise common.Failure(f"{' '.join(map(str, step))}: exit status {status}: {tail(output)}")
    found = re.search(r"(\d+)% tests passed, (\d+) tests failed out of (\d+)", output)
    if not found:
        raise common.Failure(f"ctest --preset {preset}: exit status {status}: {tail(output, 3)}")
    print(f"ctest --preset {' '.join([preset, *chosen])}: {found[0]}")
    print("".join(f"    {line.strip()}\n" for line in output.splitlines() if re.search(r"\((Failed|Timeout|SEGFAULT|Child aborted)\)", line)), end="")
    claims.report(name, int(found[2]))
