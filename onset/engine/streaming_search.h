// Which KV heads can look at the beginning and the neighbours alone: what it costs when one of them does and all others see everything.
// DuoAttention (arXiv:2410.10819) trains gates on the same texts and the same distance; this is the score that needs no gradients.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "onset/attend/streaming_table.h"
#include "onset/base/status.h"
#include "onset/engine/engine.h"

namespace onset {

// A text with passkeys in it, that asks for all of them at its end.
struct PasskeyText {
  std::vector<int32_t> tokens;
  std::vector<int32_t> rows;  // positions whose next token is one of an answer, ascending
};

// `length` tokens of `haystack` with up to ten passkeys of 32 words of the NATO alphabet at random depths, and a question and answer for
// each. Errors: invalid_argument for a haystack that is too short; `name` stands for it.
Result<PasskeyText> passkey_text(const Engine& engine, const std::string& haystack, const std::string& name, int32_t length, uint64_t seed);

struct StreamingSearchOptions {
  int32_t sink = 128, local = 256;                  // what a streaming head sees; multiples of page_tokens
  std::function<void(double share)> progress = {};  // of all heads that are done
};

// distances[layer][KV head]: the mean square by which the final hidden states of the text's rows change when that head streams. None where
// a layer has a window of its own.
Result<std::vector<std::vector<double>>> streaming_distances(Engine& engine, const PasskeyText& text,
                                                             const StreamingSearchOptions& options);

// The table of these distances: each over the largest one.
StreamingTable streaming_table(const std::vector<std::vector<double>>& distances);

}  // namespace onset
