// CacheBlend: reused keys and values with selective recomputation (arXiv:2405.16444, section 4).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/select/policy.h"
#include "onset/tensor/attention_plan.h"

namespace onset {

// By what the tokens are chosen whose keys and values are computed again.
enum class CacheBlendMetric : uint8_t {
  keys_values,  // the squared distance of stored from fresh keys and values
  keys,
  values,
  random,  // by nothing: for comparison
};
// "keys-values", "keys", "values", "random".
Result<CacheBlendMetric> cache_blend_metric(const std::string& name);
const char* cache_blend_metric_name(CacheBlendMetric metric);

// How many tokens go through which layer.
enum class CacheBlendSchedule : uint8_t {
  single,   // chosen at layer 1, and the same ones from there on
  gradual,  // a little more at first and fewer in each layer, the ratio on average (section 4.3, figure 9)
};
// "single", "gradual".
Result<CacheBlendSchedule> cache_blend_schedule(const std::string& name);
const char* cache_blend_schedule_name(CacheBlendSchedule schedule);

struct CacheBlendOptions {
  float ratio = 0.15f;  // of the reused tokens that are computed again; 0: none, 1: all, as if nothing was known
  CacheBlendMetric metric = CacheBlendMetric::keys_values;
  CacheBlendSchedule schedule = CacheBlendSchedule::single;
  // Tokens that are not computed again move with those of their text that are, layer by layer: by this share of the mean difference between
  // the fresh and the stored keys and values of these (not in the paper, where they stay: 0). A good part of what the tokens of a text lack
  // is the same for all of them; those that are computed differ most, so that their whole mean is too much.
  float carry = 0.75f;
  // The ratio is the least: where loading what is known takes longer, more is computed meanwhile (section 5.1; cost/loading.h).
  bool hide_loading = false;
  // Not null: nothing is left out, and each layer's deviations of the reused tokens, in the order of their positions, are told here.
  std::function<void(int layer, std::span<const float> deviations)> observe = {};
};
// Errors: invalid_argument for a ratio or a carry outside 0 to 1.
Status check_cache_blend(const CacheBlendOptions& options);

// The share of reused tokens that goes through a layer above 0: the ratio itself, or r * (1 + 0.3 * (1 - 2t)) with t from 0 to 1 over the
// layers from 1 on. (The paper gives no formula for gradual filtering; this one decreases and has mean r.) Not above 1.
double cache_blend_ratio(const CacheBlendOptions& options, int layer, int layers);

// What became of a request's reused tokens.
struct CacheBlendReport {
  float ratio = 0;                  // that was asked for, or that hides the loading
  int32_t reused_tokens = 0;        // whose stored keys and values were there
  int32_t fresh_tokens = 0;         // all others
  std::vector<int32_t> recomputed;  // for each layer: reused tokens that went through it nevertheless
  double place_seconds = 0;         // for moving the stored keys to their positions
};

// The rows at reused positions have keys and values already (SequenceCache::hold); of them, those whose stored keys or values are farthest
// from what they would be go on through the layers from the check layer on. Layer 0 sees all rows: its keys and values depend on the token
// alone, and deviations begin above it. Fresh keys and values of rows that end at a check stay. Rows at other positions always run.
//
// The others of a text are moved by what those that run show (CacheBlendOptions::carry).
//
// Where a prompt comes in pieces, each piece gets its share, so that after each of them floor(ratio * reused tokens so far) were chosen.
class CacheBlendSelect : public SelectPolicy {
 public:
  // `reused`: ranges of positions, ascending.
  CacheBlendSelect(const CacheBlendOptions& options, int layers, std::vector<KeyRange> reused, std::shared_ptr<CacheBlendReport> report);
  bool asks(int layer) const override;
  Selection select(const SelectContext& context) override;

 private:
  int64_t reused_below(int32_t position) const;
  bool is_reused(int32_t position) const;
  size_t most_rows(const SelectContext& context, size_t candidates) const;
  float deviation(const SelectContext& context, int32_t index, KeyValueRows& fresh, KeyValueRows& stored) const;
  std::vector<char> farthest(const SelectContext& context, std::span<const int32_t> candidates, size_t most, KeyValueRows& fresh,
                             KeyValueRows& stored) const;
  void count(const SelectContext& context, size_t rows);
  // From the layer behind the first check on: none of the rows that run there has all of its stored keys and values.
  bool carries(int layer) const { return options_.carry > 0 && options_.ratio > 0 && options_.ratio < 1 && !options_.observe && layer > 1; }
  void carry(const SelectContext& context, std::span<const int32_t> candidates, KeyValueRows& fresh, KeyValueRows& stored);

  CacheBlendOptions options_;
  int layers_;
  std::vector<KeyRange> reused_;
  std::shared_ptr<CacheBlendReport> report_;
  std::vector<int32_t> earlier_;  // rows of the pieces before this one
  int32_t piece_ = -1;            // where this one begins
  std::vector<int32_t> carried_;  // for each layer: the end of the positions that have been moved
};

}  // namespace onset
