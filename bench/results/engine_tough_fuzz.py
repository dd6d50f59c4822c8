"""Fuzz targets of the engine, each for ten minutes, and how much of the parser their committed seeds cover.

Each runs ten minutes (ONSET_FUZZ_SECONDS) beginning with its seeds (tests/fixtures/fuzz/NAME); a crash, a leak, a time-out or a
sanitizer report is a finding and stops that target. Coverage is that of the lines of the parser's own sources (COVERED) by the
seeds alone; what the run found on top is printed beside it.
"""

import fuzzing

COVERED = {
    "gguf": ["onset/formats/gguf.cc"],
    "safetensors": ["onset/formats/safetensors.cc"],
    "tokenizer_json": ["onset/text/tokenizer_json.cc"],
    "chat_template": ["onset/text/jinja_lexer.cc", "onset/text/jinja_parser.cc", "onset/text/jinja_expression_parser.cc"],
    "convert": ["onset/formats/convert.cc", "onset/formats/huggingface.cc", "onset/formats/huggingface_config.cc",
                "onset/formats/huggingface_tokenizer.cc"],
    "chunk_header": ["onset/kv/chunk_header.cc"],
}


if __name__ == "__main__":
    fuzzing.main(__file__, "engine.tough", COVERED)
