// How far keys and values that were read apart are from those of reading everything, and what that does to attention: figures 6 to 8 of
// CacheBlend (arXiv:2405.16444) for any model and any texts.
#pragma once

#include <span>
#include <vector>

#include "onset/engine/chat.h"
#include "onset/select/cache_blend.h"

namespace onset {

// Spearman's rank correlation of two lists of one length; equal values share their mean rank. 0 where one list has only one value.
double rank_correlation(std::span<const float> a, std::span<const float> b);

// With a share of the contexts' tokens computed again: how far the attention of the prompt's last tokens to the contexts is from that of
// reading everything (the L2 norm of the difference of their attention matrices, the mean over heads).
struct AttentionDeviation {
  float ratio = 0;
  CacheBlendMetric metric = CacheBlendMetric::keys_values;
  std::vector<double> layers;
  double mean() const;
};

struct KvDeviation {
  std::vector<std::vector<float>> tokens;  // [layer][token of the contexts]: squared distance of the keys, values or both
  std::vector<double> correlation;         // [layer]: of the tokens' ranks at this layer and the next one; from layer 1 on
  std::vector<AttentionDeviation> attention;
  double median_correlation() const;
};

// The prompt's attention is that of its last `rows` tokens. For each ratio one entry with the tokens chosen by `metric`, one with tokens
// chosen at random. Errors: those of Engine::submit and what made a request fail.
Result<KvDeviation> measure_kv_deviation(Engine& engine, const PromptParts& parts, CacheBlendMetric metric, std::span<const float> ratios,
                                         int32_t rows = 16);

}  // namespace onset
