"""Drives OpenVINO GenAI's ContinuousBatchingPipeline with the requests of a plan (onset load --plan), each added at its time, and
writes how long they waited. Run by serve_capacity with the Python of a virtual environment that has openvino-genai."""

import argparse
import json
import pathlib
import time

import numpy
import openvino
import openvino_genai as genai


def percentile(values, share):
    return float(numpy.percentile(values, share)) if values else 0.0


def main():
    parser = argparse.ArgumentParser()
    for name in ("model", "plan", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    plan = [json.loads(line) for line in pathlib.Path(options.plan).read_text().splitlines()]

    scheduler = genai.SchedulerConfig()
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = False
    scheduler.cache_size = 4
    pipeline = genai.ContinuousBatchingPipeline(options.model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": options.threads})
    running, times, waiting = {}, [[] for _ in plan], list(enumerate(plan))
    arrivals = [request["arrival_seconds"] for request in plan]
    began = time.perf_counter()

    def add_arrived():
        while waiting and waiting[0][1]["arrival_seconds"] <= time.perf_counter() - began:
            number, request = waiting.pop(0)
            config = genai.GenerationConfig()
            config.max_new_tokens = request["output_tokens"]
            config.ignore_eos = True
            config.do_sample = False
            ids = openvino.Tensor(numpy.array([request["prompt"]], dtype=numpy.int64))
            running[number] = pipeline.add_request(number, ids, config)

    while waiting or running:
        add_arrived()
        if not pipeline.has_non_finished_requests():
            time.sleep(max(0.0, min(0.01, waiting[0][1]["arrival_seconds"] - (time.perf_counter() - began))) if waiting else 0)
            if not waiting and not running:
                break
            if not pipeline.has_non_finished_requests():
                continue
        pipeline.step()
        now = time.perf_counter() - began
        for number, handle in list(running.items()):
            while handle.can_read():
                for output in handle.read().values():
                    times[number] += [now] * len(output.generated_ids)
            if len(times[number]) >= plan[number]["output_tokens"]:
                del running[number]
    first = [seen[0] - arrival for seen, arrival in zip(times, arrivals) if seen]
    between = [b - a for seen in times for a, b in zip(seen, seen[1:])]
    pathlib.Path(options.out).write_text(json.dumps({"requests": len(plan), "first_token_p50": percentile(first, 50), "first_token_p99": percentile(first, 99),
                                                     "between_tokens_p50": percentile(between, 50), "between_tokens_p99": percentile(between, 99)}))


if __name__ == "__main__":
    main()
