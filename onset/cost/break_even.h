// Where loading a text's keys and values begins to be quicker than computing them: for lengths and devices that were measured, and for
// models that are not here, by the operations that computing them takes and the bytes that they are.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "onset/base/status.h"

namespace onset {

// The sizes of a decoder-only transformer with gated feed-forward layers.
struct ModelShape {
  std::string name;
  int64_t layers = 0, hidden = 0, query_heads = 0, kv_heads = 0, head_size = 0, feed_forward = 0;
};

// Of models that break-evens are asked for, as their makers publish them (each model's config.json):
//                 layers  hidden  query heads  KV heads  head size  feed-forward
//   Llama-2-7B        32   4,096           32        32        128        11,008
//   Mistral-7B        32   4,096           32         8        128        14,336
//   Llama-2-70B       80   8,192           64         8        128        28,672
std::span<const ModelShape> published_shapes();

// Multiplications and additions (a pair counts as two) that reading a text by itself takes: every weight of the layers once for each
// token, and for each token and key before it a product of query and key and one of weight and value in every query head. The head that
// makes logits is left out: a text that is read to be kept has none.
double prefill_operations(const ModelShape& shape, double tokens);

// Bytes of a token's keys and values; bytes_of_number may count what a quantised number shares with others.
double key_value_bytes(const ModelShape& shape, double bytes_of_number);

// A text whose computing or loading was measured.
struct TimedChunk {
  double tokens = 0, bytes = 0, seconds = 0;
};

// Seconds to compute `tokens` tokens (CacheBlend's offline profile, arXiv:2405.16444, section 5.1, and what the first one costs).
struct ComputeFit {
  double fixed = 0, per_token = 0, per_token_squared = 0;
  double seconds(double tokens) const { return fixed + tokens * (per_token + tokens * per_token_squared); }
};
// Seconds to load `bytes` bytes.
struct LoadFit {
  double fixed = 0, per_byte = 0;
  double seconds(double bytes) const { return fixed + bytes * per_byte; }
  double bytes_per_second() const { return per_byte > 0 ? 1 / per_byte : 0; }  // 0: too quick to tell
};

// The least sum of squared relative errors; nothing is negative. Errors: invalid_argument for fewer than two measurements, or one whose
// seconds, tokens (bytes) are not above 0.
Result<ComputeFit> fit_computing(std::span<const TimedChunk> measured);
Result<LoadFit> fit_loading(std::span<const TimedChunk> measured);

// The least number of tokens from which on loading takes no longer than computing, up to `most`; 0 where it takes longer at `most`.
int64_t break_even_tokens(const std::function<double(int64_t tokens)>& compute_seconds,
                          const std::function<double(int64_t tokens)>& load_seconds, int64_t most);

}  // namespace onset
