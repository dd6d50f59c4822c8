// LazyLLM: tokens to which the last one hardly attends are not computed in deeper layers now, but may be later (arXiv:2407.14057).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "onset/attend/policy.h"
#include "onset/base/status.h"
#include "onset/select/policy.h"

namespace onset {

// By what tokens are ranked.
enum class LazyScore : uint8_t {
  attention,  // the mean over all query heads of the last row's softmax weights (equation 1)
  random,     // nothing: for comparison
};

struct LazyOptions {
  std::vector<int32_t> layers;  // after so many layers tokens are dropped; ascending
  std::vector<double> keep;     // which share of those that are still there goes on; one for all of them, or one for each
  // Tokens that come back in one step, those with the highest scores; the others are passed over in this step. 0: none ever.
  int32_t most_revived = INT32_MAX;
  int32_t least_tokens = 64;  // shorter prompts are left alone
  LazyScore score = LazyScore::attention;
  std::string name = "lazyllm";  // for the report
  // Not null: told what was looked at after a layer: positions, and the scores by which they are ranked. Then, what is kept.
  std::function<void(int32_t layer, std::span<const int32_t> positions, std::span<const float> scores, std::span<const int32_t> kept)>
      observe = {};
};

// One request's tokens on their way through the layers.
//
// Prompt: after each pruning layer p the ceil(keep * n) of n tokens go on that rank highest (ties: the earlier one; the last token and the
// first, where attention rests, always). Of a token that stops, the hidden state is stored: the auxiliary cache. Deeper layers
// store no keys for it, so that their rows, keys and products all shrink.
//
// Answer: each step ranks all tokens anew, from the prompt's first on, by the attention of its own row. Tokens that are wanted where they
// have no keys rejoin with their stored state and run in the same step; those that have keys but are not wanted are not seen in this step.
// Tokens of the answer are never dropped. Each token runs at most once through each layer. Positions are always those of the text.
//
// A prompt's rows have to run together, since its last token decides; layer by layer is fine. Not for layers with windows.
class LazySelect : public SelectPolicy {
 public:
  // Errors: invalid_argument (layers that do not ascend or are not 1 to the model's last but one, shares outside 0 to 1 or not as many as
  // layers, numbers below 0), unsupported for layers with windows.
  static Result<std::unique_ptr<LazySelect>> create(LazyOptions options, const CacheLayout& layout);

  bool asks(int layer) const override;
  Selection select(const SelectContext& context) override;
  bool waits(int32_t row) const override;
  std::span<const int32_t> earlier() override;
  bool whole_prompt() const override { return true; }
  AttendPolicy* attend() override { return &attend_; }
  bool repeats() const override { return first_layer_only_; }
  std::shared_ptr<const SelectReport> report() const override { return report_; }

  // Other shares from the next step on; as many as there are pruning layers.
  void set_keep(std::vector<double> keep) { options_.keep = std::move(keep); }
  // Between steps: each token has keys in a stage only if it has them in all earlier ones, and a stored state if and only if some stage
  // lacks it; the report's figures are those. Errors: failed, saying what differs.
  Status audit() const;
  int32_t stages() const { return static_cast<int32_t>(begins_.size()) - 1; }
  // Whether a token has keys in a stage (the layers between two pruning layers).
  bool has_keys(int32_t stage, int32_t position) const { return slot(stage, position) >= 0; }

 private:
  // Whom rows see: the keys of tokens that are alive. Also where the last row's softmax is looked at.
  class Attend : public AttendPolicy {
   public:
    explicit Attend(LazySelect& lazy) : lazy_(&lazy) {}
    const AttentionPlan& plan(const AttendContext& context) override { return lazy_->plan(context); }

   private:
    LazySelect* lazy_;
  };

  LazySelect(LazyOptions options, const CacheLayout& layout);
  int32_t stage_of(int32_t layer) const;
  int32_t slot(int32_t stage, int32_t position) const {
    const auto& slots = slots_[stage];
    return position < static_cast<int32_t>(slots.size()) ? slots[position] : -1;
  }
  const AttentionPlan& plan(const AttendContext& context);
  void begin_step(const AttendContext& context);
  void take_slots(int32_t stage, const AttendContext& context);
  void see_alive(int32_t stage, const AttendContext& context);
  void score(const AttendContext& context);
  std::vector<int32_t> ranked(double keep) const;
  void keep_alive(int32_t stage, const std::vector<int32_t>& order);
  void store(int32_t position, const float* hidden, int64_t size);

  LazyOptions options_;
  int32_t layers_;
  std::vector<int32_t> begins_;  // the first layer of each stage, and the number of layers
  Attend attend_;
  std::shared_ptr<SelectReport> report_ = std::make_shared<SelectReport>();

  int32_t prompt_ = 0;                       // its tokens, once they have come
  bool answers_ = false;                     // the prompt has run
  bool first_layer_only_ = true;             // nothing has been dropped yet
  std::vector<std::vector<int32_t>> slots_;  // for each stage: where a position's keys lie, -1: nowhere
  std::vector<std::vector<float>> stored_;   // the auxiliary cache: for each position its hidden state after its last stage, or none
  std::vector<int32_t> waiting_;             // what earlier() has handed out
  std::vector<char> alive_flags_;            // by position
  std::vector<int32_t> alive_;               // positions that this step has not dropped, ascending
  std::vector<float> scores_;                // of these
  int32_t scored_heads_ = 0;
  AttentionPlan plan_, last_row_plan_;
};

}  // namespace onset
