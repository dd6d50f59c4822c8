#include "onset/cost/break_even.h"

#include <algorithm>
#include <array>
#include <vector>

#include "onset/cost/loading.h"
#include "onset/cost/step_fit.h"

namespace onset {
namespace {

// terms: what a measurement's seconds are a weighted sum of.
template <size_t count>
Result<std::array<double, count>> fit(std::span<const TimedChunk> measured, std::array<double, count> (*terms)(const TimedChunk&)) {
  if (measured.size() < 2) return error(Code::invalid_argument, "{} measured length, expected two or more", measured.size());
  std::vector<double> a, b;
  for (const TimedChunk& chunk : measured) {
    const std::array<double, count> here = terms(chunk);
    if (!(chunk.seconds > 0) || !(here[1] > 0)) {
      return error(Code::invalid_argument, "{} tokens, {} bytes in {} s cannot be fitted: expected more than 0", chunk.tokens, chunk.bytes,
                   chunk.seconds);
    }
    for (const double term : here) a.push_back(term / chunk.seconds);
    b.push_back(1);
  }
  // Columns of one size, so that none is lost beside another.
  std::array<double, count> scale = {};
  for (size_t i = 0; i < a.size(); ++i) scale[i % count] = std::max(scale[i % count], a[i]);
  for (size_t i = 0; i < a.size(); ++i) a[i] /= scale[i % count];
  const std::vector<double> weights = non_negative_least_squares(a, b, count);
  std::array<double, count> fitted;
  for (size_t i = 0; i < count; ++i) fitted[i] = weights[i] / scale[i];
  return fitted;
}

}  // namespace

std::span<const ModelShape> published_shapes() {
  static const std::array<ModelShape, 3> shapes = {{
      {.name = "Llama-2-7B", .layers = 32, .hidden = 4096, .query_heads = 32, .kv_heads = 32, .head_size = 128, .feed_forward = 11008},
      {.name = "Mistral-7B", .layers = 32, .hidden = 4096, .query_heads = 32, .kv_heads = 8, .head_size = 128, .feed_forward = 14336},
      {.name = "Llama-2-70B", .layers = 80, .hidden = 8192, .query_heads = 64, .kv_heads = 8, .head_size = 128, .feed_forward = 28672},
  }};
  return shapes;
}

double prefill_operations(const ModelShape& shape, double tokens) {
  const int64_t heads = 2 * shape.query_heads + 2 * shape.kv_heads;  // queries and output, keys and values
  const auto weights = static_cast<double>(shape.layers * shape.hidden * (heads * shape.head_size + 3 * shape.feed_forward));
  const double pairs = tokens * (tokens + 1) / 2;
  return 2 * weights * tokens + 4 * static_cast<double>(shape.layers * shape.query_heads * shape.head_size) * pairs;
}

double key_value_bytes(const ModelShape& shape, double bytes_of_number) {
  return key_value_bytes(shape.layers, shape.kv_heads, shape.head_size, bytes_of_number);
}

Result<ComputeFit> fit_computing(std::span<const TimedChunk> measured) {
  ONSET_ASSIGN(const auto fitted,
               fit<3>(measured, [](const TimedChunk& chunk) { return std::array{1.0, chunk.tokens, chunk.tokens * chunk.tokens}; }));
  return ComputeFit{.fixed = fitted[0], .per_token = fitted[1], .per_token_squared = fitted[2]};
}

Result<LoadFit> fit_loading(std::span<const TimedChunk> measured) {
  ONSET_ASSIGN(const auto fitted, fit<2>(measured, [](const TimedChunk& chunk) { return std::array{1.0, chunk.bytes}; }));
  return LoadFit{.fixed = fitted[0], .per_byte = fitted[1]};
}

// Computing grows faster than loading in the end, but may be quicker in between: the lengths are gone through from the longest down.
int64_t break_even_tokens(const std::function<double(int64_t tokens)>& compute_seconds,
                          const std::function<double(int64_t tokens)>& load_seconds, int64_t most) {
  int64_t tokens = most;
  while (tokens > 0 && load_seconds(tokens) <= compute_seconds(tokens)) --tokens;
  return tokens == most ? 0 : tokens + 1;
}

}  // namespace onset
