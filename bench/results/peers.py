"""Runs ../shared/tools/peers/compare and reads what it measured. Used by the engine_fast scripts."""

import json
import pathlib
import statistics
import subprocess
import tempfile

import common

PROMPTS = (512, 2048, 8192)


def compare(*options, timeout, environment=None):
    """The JSON report of one interleaved run of onset and its peers; its table is printed."""
    program = common.shared("tools/peers/compare")
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "report.json"
        try:
            run = common.run([program, "--onset", common.onset_program(), "--threads", 2, "--json", out, *options],
                             timeout=timeout, environment=environment)
        except subprocess.SubprocessError as error:
            raise common.Failure(f"compare: {error}") from None
        print(run.out)
        return json.loads(out.read_text())


class Engine:
    """One engine's samples in a report."""

    def __init__(self, entry):
        self.name, self.counts, self.runs, self.trouble = entry["name"], entry["counts"], entry["runs"], entry["unavailable"]

    def prefill(self, tokens):
        return [run["prefill"][str(tokens)][0] for run in self.runs]

    def decode(self):
        return [run["decode"][0] for run in self.runs]


def engines(report):
    """(onset, the peers whose answers count)."""
    found = [Engine(entry) for entry in report["engines"]]
    mine = next(engine for engine in found if engine.name == "onset")
    if mine.trouble or not mine.runs:
        raise common.Failure(f"onset: {mine.trouble or 'no run'}")
    for engine in found:
        if engine.trouble:
            print(f"{engine.name}: unavailable: {engine.trouble}")
    return mine, [engine for engine in found if engine.counts == "yes" and engine.runs and not engine.trouble]


def ratio(claims, name, mine, peers, samples):
    """Reports our median against the best peer's; `samples` takes an engine's samples."""
    if not peers:
        claims.skip(name, "no peer whose answers count ran here")
        return
    best = max(peers, key=lambda engine: statistics.median(samples(engine)))
    for engine in (mine, best):
        print(f"{name}: {engine.name}: tokens/s, {common.describe(samples(engine))}")
    claims.report(name, statistics.median(samples(mine)) / statistics.median(samples(best)))


def only(peers, name):
    """The formats of one peer."""
    return [engine for engine in peers if engine.name.split()[0] == name]


def check_quiet(report, worst=0.05):
    """Says when somebody else used the machine."""
    others = max(run["cpu_of_others"] for entry in report["engines"] for run in entry["runs"])
    print(f"CPU of others, worst: {100 * others:.0f} %{' (noisy: measure again)' if others > worst else ''}")


def write_readme(report, model, prompts):
    """Puts the table of speeds at these lengths into README.md, between the two comments that mark its place."""
    mine, right = engines(report)
    right.sort(key=lambda engine: engine.name)
    rows = [(f"prefill {tokens}", lambda e, n=tokens: e.prefill(n)) for tokens in prompts] + [("decode 64", lambda e: e.decode())]
    rounds = len(mine.runs)
    lines = [f"Prefill and decode in tokens/s beside three other engines: {model}, 2 threads on {processor()}, medians of {rounds} interleaved",
             "rounds. Only engines and formats whose perplexity is right are shown; those with a format in their name have the model in it,",
             "the others the file as it is.", "",
             "| tokens/s | " + " | ".join(engine.name for engine in right) + " | Onset | Onset / best |",
             "|---|" + "---|" * (len(right) + 2)]
    for name, samples in rows:
        theirs = [statistics.median(samples(engine)) for engine in right]
        ours = statistics.median(samples(mine))
        lines.append(f"| {name} | " + " | ".join(f"{speed:.0f}" for speed in theirs) + f" | {ours:.0f} | {ours / max(theirs):.2f} |")
    readme = common.ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    begin, end = "<!-- speed: written by tools/results engine.fast --long -->\n", "<!-- end of speed -->"
    before, rest = text.split(begin)
    readme.write_text(before + begin + "\n".join(lines) + "\n" + end + rest.split(end)[1], encoding="utf-8")


def processor():
    """The processor's family as lscpu names it, and its instruction set as onset names it."""
    names = [line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = common.onset_json("bench", "machine", "--json", "--threads", 2)
    return f"{len(names)} cores of an {names[0]} ({cpu['isa']})" if names else "this machine"
