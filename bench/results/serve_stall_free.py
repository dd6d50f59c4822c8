"""Stall-free batching (arXiv:2403.02310): eight streams run, a prompt of 6,000 tokens arrives; sarathi-serve and vllm in one process.

    python3 bench/results/serve_stall_free.py --long [--figure FILE.svg]
"""

import json
import pathlib
import sys
import tempfile

import common
import figures

BUDGET = 96  # whole blocks of 12 rows: a step of some 20 ms on two cores


def measure(model, folder):
    machine = pathlib.Path(folder) / "machine.json"
    steps = common.onset_json("bench", "steps", "--model", model, "--machine-file", machine, "--rows", 256, "--answers", 16,
                              "--most-context", 7000, "--samples", 400, "--json")
    print(f"step times: predictions of unseen steps {100 * steps['held_out_mean_error']:.1f} % off on average, "
          f"99th percentile {steps['held_out_ratio_99']:.2f} times")
    return common.onset_json("bench", "schedule", "--model", model, "--machine-file", machine, "--policies", "sarathi-serve,vllm",
                             "--requests", 8, "--prompt", 64, "--answer", 160, "--late-prompt", 6000, "--budget", BUDGET, "--repeat", 2,
                             "--trace", pathlib.Path(folder) / "stall", "--json")


def steps_after_arrival(path):
    """(begin, seconds, prompt rows, answers) of the steps from the one in which the long prompt begins."""
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event.get("cat") == "step"]
    begun = [index for index, event in enumerate(events) if event["args"]["prompt_rows"] > 0 and index > 4 and event["args"]["running"] >= 8]
    first = begun[0]
    origin = events[first]["ts"]
    return [((event["ts"] - origin) / 1e6, event["dur"] / 1e6, event["args"]["prompt_rows"], event["args"]["answer_rows"]) for event in events[first:]]


def main():
    claims = common.Claims(__file__)
    with claims.rows("serve.stall"), tempfile.TemporaryDirectory() as folder:
        if any(claims.wanted(name) for name in claims.mine):
            report = measure(common.model(common.SMOLLM2), folder)
            ours, vllm = ({one["policy"]: one for one in report["policies"]}[name] for name in ("sarathi-serve", "vllm"))
            print(f"time between tokens, ms: sarathi-serve 50 % {1e3 * ours['tbt_50']:.1f}, 99 % {1e3 * ours['tbt_99']:.1f}, worst "
                  f"{1e3 * ours['tbt_worst']:.1f}; vllm worst {1e3 * vllm['tbt_worst']:.0f}")
            claims.report("serve.stall.predicted_99", ours["predicted"]["ratio_99"])
            claims.report("serve.stall.predicted_worst", ours["predicted"]["ratio_worst"])
            claims.report("serve.stall.vllm", vllm["tbt_worst"] / ours["tbt_worst"])
            claims.report("serve.stall.equal", 100.0 * all(one["equal"] for one in report["policies"]))
            if "--figure" in sys.argv:
                runs = {name: steps_after_arrival(pathlib.Path(folder) / f"stall.{name}.json") for name in ("sarathi-serve", "vllm")}
                seconds = max(begin + length for begin, length, rows, _ in runs["sarathi-serve"] if rows)
                figures.time_lines(sys.argv[sys.argv.index("--figure") + 1], "Eight streams and a prompt of 6,000 tokens that arrives at 0", runs, seconds)
    claims.finish()


if __name__ == "__main__":
    main()
