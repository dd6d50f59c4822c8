// LongGen (arXiv:2410.01485): full attention in the middle layers, a static pattern of blocks in the others.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "onset/attend/policy.h"
#include "onset/tensor/block_pattern.h"

namespace onset {

// Which layers see everything, and what the others see.
struct LongGenOptions {
  int32_t full_layers = 0;
  BlockPattern pattern = {.sink = 1, .local = 31};  // 2,048 tokens
  int32_t head_step = 0;                            // KV head h has its stripes `head_step * h` blocks earlier
};

// "FULL[:sink=TOKENS][:window=TOKENS][:stride=TOKENS][:offset=TOKENS][:step=TOKENS]", tokens in blocks of page_tokens. Errors:
// invalid_argument for numbers that make no sense, naming the one.
Result<LongGenOptions> parse_long_gen(std::string_view text);

// Whether a layer sees everything: layers floor((L - F) / 2) and the F - 1 behind it do.
bool long_gen_full(const LongGenOptions& options, int32_t layers, int32_t layer);
// Errors: invalid_argument for more full layers than there are.
Status check_long_gen(const LongGenOptions& options, int32_t layers);

// The plan by which every row sees what the pattern lets it see; slots are positions. head_step: as in LongGenOptions.
AttentionPlan block_plan(const BlockPattern& pattern, const AttendContext& context, int32_t head_step = 0);

class LongGenAttend : public AttendPolicy {
 public:
  LongGenAttend(const LongGenOptions& options, int32_t layers) : options_(options), layers_(layers) {}
  const AttentionPlan& plan(const AttendContext& context) override;

 private:
  LongGenOptions options_;
  int32_t layers_;
  DenseAttend dense_;
  AttentionPlan plan_;
};

}  // namespace onset
