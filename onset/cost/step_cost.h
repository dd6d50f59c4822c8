// What a step costs: the one question schedulers, admission and loading controllers ask of a machine.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace onset {

// The work of a step, as far as its time depends on it.
struct StepShape {
  int64_t prefill_row_layers = 0;  // prompt rows times the layers they run through
  int64_t decode_row_layers = 0;   // rows that continue an answer, likewise
  int64_t prefill_slots = 0;       // sum over prompt rows and layers of the keys they see
  int64_t decode_slots = 0;        // the same of rows that continue an answer
  int64_t prefill_keys = 0;        // sum over pieces of prompts and layers of the keys before the piece: read however few its rows are
  int64_t output_rows = 0;         // rows through the head
};

class StepCost {
 public:
  virtual ~StepCost() = default;
  // Predicted seconds; more of anything never costs less.
  virtual double seconds(const StepShape& shape) const = 0;
};

// Time as a weighted sum of the shape's counts; the weights come from measurements (step_fit.h) and are none of them negative.
// Few rows are bound by reading the weights and cost little more than one, many by arithmetic: so that the time of rows is a line that
// bends upwards.
struct StepWeights {
  // From `row_layers` rows times layers of a step on, each costs so much more.
  struct Bend {
    double row_layers = 0, seconds = 0;
  };
  double per_step = 0;
  double per_prefill_row_layer = 0;
  double per_decode_row_layer = 0;
  double per_prefill_slot = 0;
  double per_decode_slot = 0;
  double per_prefill_key = 0;
  double per_output_row = 0;
  std::vector<Bend> bends = {};
};

class LinearStepCost : public StepCost {
 public:
  explicit LinearStepCost(StepWeights weights) : weights_(std::move(weights)) {}
  double seconds(const StepShape& shape) const override;
  const StepWeights& weights() const { return weights_; }

 private:
  StepWeights weights_;
};

}  // namespace onset
