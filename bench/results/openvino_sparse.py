"""Answers prompts with OpenVINO GenAI's ContinuousBatchingPipeline, dense or with one of its sparse ways of reading prompts, one after the other, and writes how
long each first token took and the answers' tokens. Run by long_openvino with the Python of a virtual environment that has openvino-genai."""

import argparse
import json
import pathlib
import time

import numpy
import openvino
import openvino_genai as genai

BLOCK = 32  # tokens in one KV block on the CPU


def start(options, tokens):
    scheduler = genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    scheduler.dynamic_split_fuse = True
    scheduler.max_num_batched_tokens = options.batch or tokens + BLOCK
    scheduler.num_kv_blocks = -(-tokens // BLOCK) + 2
    scheduler.cache_size = 0
    if options.mode != "dense":
        scheduler.use_sparse_attention = True
        scheduler.sparse_attention_config = genai.SparseAttentionConfig(mode=getattr(genai.SparseAttentionMode, options.mode.upper()))
    return genai.ContinuousBatchingPipeline(options.model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": options.threads})


def answer(pipeline, number, prompt, tokens):
    config = genai.GenerationConfig()
    config.max_new_tokens = tokens
    config.ignore_eos = True
    config.do_sample = False
    began = time.perf_counter()
    handle = pipeline.add_request(number, openvino.Tensor(numpy.array([prompt], dtype=numpy.int64)), config)
    first, ids = None, []
    while pipeline.has_non_finished_requests():
        pipeline.step()
        while handle.can_read():
            for output in handle.read().values():
                first = first or time.perf_counter() - began
                ids += list(output.generated_ids)
    return {"first_token_seconds": first, "ids": ids[:tokens]}


def main():
    parser = argparse.ArgumentParser()
    for name in ("model", "prompts", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--mode", choices=("dense", "trishape", "xattention"), required=True)
    parser.add_argument("--batch", type=int, default=0, help="prompt tokens that are read together; 0: all")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    prompts = json.loads(pathlib.Path(options.prompts).read_text())
    if options.limit:
        prompts = prompts[:options.limit]
    pipeline = start(options, max(map(len, prompts)) + options.tokens + 2)
    answer(pipeline, 0, prompts[0][:512], 2)  # the first run is slower
    pathlib.Path(options.out).write_text(json.dumps([answer(pipeline, number + 1, prompt, options.tokens) for number, prompt in enumerate(prompts)]))


if __name__ == "__main__":
    main()
