"""What the claim scripts share. Each script is one claim, or a few that one measurement answers:

    import common
    claims = common.Claims(__file__)
    with claims.rows("engine.small"):
        claims.report("engine.small.start", seconds, samples=[...])
    claims.finish()

A script prints its samples, how often it repeated and the spread, and for each of its rows in required.tsv one
line of four columns, two spaces or more between them:

    NAME  figure  required  pass|fail|skipped: reason

Options of every script: --long also measures the rows marked long in required.tsv. Standard library only.
"""

import array
import ast
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SHARED = pathlib.Path(os.environ.get("ONSET_SHARED") or ROOT.parent / "shared")
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "onset"
ONSET = pathlib.Path(os.environ.get("ONSET") or ROOT / "build" / "release" / "bin" / "onset")
REQUIRED = ROOT / "bench" / "results" / "required.tsv"
SMOLLM2 = CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA3 = CACHE / "models" / "gemma-3-270m-q4_k_m.gguf"


class Skip(Exception):
    """These rows cannot be measured here; the text says why."""


class Failure(Exception):
    """Something that must work does not; the text says what."""


# --- the table of required figures ---------------------------------------------------------------


class Row(NamedTuple):
    name: str
    comparison: str  # "<=" or ">="
    value: float
    unit: str
    when: str  # "short", or "long": only measured with --long
    script: str
    sentence: str

    def passes(self, figure):
        return figure <= self.value if self.comparison == "<=" else figure >= self.value

    def required(self):
        return f"{self.comparison} {self.value:g} {self.unit}".rstrip()


def required_rows(table=REQUIRED):
    """{name: Row}, in the order of the table."""
    rows = {}
    for number, line in enumerate(pathlib.Path(table).read_text(encoding="utf-8").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != 7 or fields[1] not in ("<=", ">=") or fields[4] not in ("short", "long"):
            raise ValueError(f"{table}:{number}: expected name, <= or >=, value, unit, short or long, script, sentence")
        row = Row(fields[0], fields[1], float(fields[2]), *fields[3:])
        if row.name in rows:
            raise ValueError(f"{table}:{number}: {row.name} stands there twice")
        rows[row.name] = row
    return rows


def figure_text(figure, unit=""):
    return f"{figure:.4g} {unit}".rstrip()


class Claims:
    """Reports the rows that required.tsv gives to one script."""

    def __init__(self, script):
        stem = pathlib.Path(script).stem
        table = os.environ.get("ONSET_REQUIRED") or REQUIRED
        self.long = "--long" in sys.argv[1:]
        self.mine = {name: row for name, row in required_rows(table).items() if row.script == stem}
        self.said = {}
        if not self.mine:
            sys.exit(f"{stem}: no row of required.tsv names this script")

    def report(self, name, figure, samples=None):
        """One row's figure. `samples`: what it was computed from, printed with their spread."""
        if samples:
            print(f"{name}: {describe(samples)}")
        self._say(name, figure_text(figure, self.mine[name].unit), "pass" if self.mine[name].passes(figure) else "fail")

    def skip(self, name, reason):
        self._say(name, "-", f"skipped: {reason}")

    def fail(self, name, reason):
        print(f"{name}: {reason}")
        self._say(name, "none", "fail")

    def wanted(self, name):
        """Whether this row is to be measured now, and has not been yet."""
        return name in self.mine and name not in self.said and (self.long or self.mine[name].when == "short")

    @contextlib.contextmanager
    def rows(self, prefix):
        """Rows below `prefix` that the body leaves unreported are skipped on Skip and fail on Failure."""
        def rest():
            return [name for name in self.mine if (name == prefix or name.startswith(prefix + ".")) and self.wanted(name)]

        try:
            yield
        except Skip as reason:
            for name in rest():
                self.skip(name, str(reason))
        except Failure as reason:
            for name in rest():
                self.fail(name, str(reason))
        except (KeyError, IndexError, TypeError, ValueError) as error:  # a report that lacks what it should have
            for name in rest():
                self.fail(name, f"{type(error).__name__}: {error}")

    def finish(self):
        """Prints the rows, at the end and together; a row that was forgotten fails. Leaves the program."""
        for name in self.mine:
            if self.wanted(name):
                self.fail(name, "was not measured")
        print()
        for name, row in self.mine.items():
            if name in self.said:
                figure, verdict = self.said[name]
                print(f"{name}  {figure}  {row.required()}  {verdict}")
        sys.exit(any(verdict == "fail" for _, verdict in self.said.values()))

    def _say(self, name, figure, verdict):
        if name not in self.mine:
            raise KeyError(f"{name} is not a row of this script in required.tsv")
        self.said[name] = (figure, verdict)
        sys.stdout.flush()


def measure_long(script, measure, prefix):
    """All of a script whose rows below `prefix` are long ones: measure(claims) reports them."""
    claims = Claims(script)
    with claims.rows(prefix):
        if claims.long:
            measure(claims)
    claims.finish()


# --- where things are ----------------------------------------------------------------------------


def shared(path):
    """A file or folder of ../shared. Raises Skip when it is missing."""
    found = SHARED / path
    if not found.exists():
        raise Skip(f"../shared/{path} is not here")
    return found


def model(path):
    """A model of the cache folder. Raises Skip when it is missing."""
    if not path.is_file():
        raise Skip(f"{path.name} is not in the models folder (onset pull --list)")
    return path


def onset_program():
    if not ONSET.is_file():
        raise Failure(f"{ONSET} is not built (tools/start builds it)")
    return ONSET


def arrays(path):
    """{name: values, flattened} of an .npz file of float32 and int32 arrays (a zip of .npy: a header, then the bytes)."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            data = archive.read(member)
            start = 10 + int.from_bytes(data[8:10], "little")
            header = ast.literal_eval(data[10:start].decode("latin-1"))
            kind = {"<f4": "f", "<i4": "i"}.get(header["descr"])
            if data[:8] != b"\x93NUMPY\x01\x00" or kind is None or header["fortran_order"]:
                raise Failure(f"{path}: {member} is no float32 or int32 array in row order")
            values = array.array(kind, data[start:])
            if sys.byteorder == "big":
                values.byteswap()
            found[member.removesuffix(".npy")] = values
    return found


# --- running things ------------------------------------------------------------------------------


class Run(NamedTuple):
    out: str
    seconds: float
    peak_bytes: int  # largest resident set of the process itself


def run(command, timeout=900, environment=None):
    """Runs a program to its end. Raises Failure when it fails or takes too long."""
    command = [str(part) for part in command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL,
                                   env={**os.environ, **(environment or {})})
        stopper = threading.Timer(timeout, process.kill)
        stopper.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            stopper.cancel()
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        text, complaint = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if seconds >= timeout:
        raise Failure(f"{' '.join(command)}: took more than {timeout} s")
    if process.returncode:
        last = (complaint.strip().splitlines() or ["no reason given"])[-1]
        raise Failure(f"{' '.join(command)}: exit status {process.returncode}: {last}")
    return Run(text, seconds, usage.ru_maxrss * 1024)


def onset(*arguments, timeout=900, environment=None):
    return run([onset_program(), *arguments], timeout, environment)


def parse(text, source):
    """The one JSON value that a command printed."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failure(f"{source}: did not print one JSON value: {error}") from None


def onset_json(*arguments, timeout=900, environment=None):
    return parse(onset(*arguments, timeout=timeout, environment=environment).out, f"onset {' '.join(map(str, arguments))}")


# --- figures -------------------------------------------------------------------------------------


def describe(samples):
    middle = statistics.median(samples)
    spread = 100 * (max(samples) - min(samples)) / 2 / abs(middle) if middle else 0.0
    values = ", ".join(f"{sample:.4g}" for sample in samples)
    return f"{len(samples)} samples: {values}; median {middle:.4g}, ±{spread:.1f} %"


def interleaved(repeats, candidates):
    """{name: samples} of {name: function returning a number}, in turns, so that noise meets all alike."""
    samples = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, measure in candidates.items():
            samples[name].append(measure())
    return samples
