"""What the engine_tough scripts share: a command and the end of its output, and the tests under a sanitizer."""

import re
import subprocess

import common

# The rooms that run threads, or are run by them.
CONCURRENT = r"^(base|compute|kv|model|schedule|engine|serve)\."


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


def sanitized(claims, name, option, *chosen):
    """Failing tests of tools/test under a sanitizer."""
    output, status = call([common.ROOT / "tools" / "test", option, *chosen], 3 * 3600)
    found = re.search(r"(\d+)% tests passed, (\d+) tests failed out of (\d+)", output)
    if not found:
        raise common.Failure(f"tools/test {option}: exit status {status}: {tail(output, 3)}")
    print(f"tools/test {' '.join([option, *chosen])}: {found[0]}")
    print("".join(f"    {line.strip()}\n" for line in output.splitlines() if re.search(r"\((Failed|Timeout|SEGFAULT|Child aborted)\)", line)), end="")
    claims.report(name, int(found[2]))
