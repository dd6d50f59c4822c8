"""Fuzz targets of what clients send a server: JSON schemas and requests' bodies.

Each runs ten minutes (ONSET_FUZZ_SECONDS) beginning with its seeds (tests/fixtures/fuzz/NAME); a crash, a leak, a time-out or a
sanitizer report is a finding and stops that target. Coverage is that of the lines of the parser's own sources (COVERED) by the
seeds alone; what the run found on top is printed beside it.
"""

import fuzzing

COVERED = {
    "json_schema": ["onset/text/json_schema.cc", "onset/text/json_schema_constants.cc", "onset/text/json_schema_containers.cc",
                    "onset/text/json_schema_formats.cc", "onset/text/json_schema_numbers.cc", "onset/text/json_schema_scalars.cc",
                    "onset/text/grammar_pattern.cc"],
    "requests": ["onset/serve/fields.cc", "onset/serve/requests.cc", "onset/serve/chat_messages.cc"],
}


if __name__ == "__main__":
    fuzzing.main(__file__, "serve.tough", COVERED)
