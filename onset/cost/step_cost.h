// What a step costs: the one question schedulers, admission and loading controllers ask of a machine.
#pragma once

#include <cstdint>

namespace onset {

// The work of a step, as far as its time depends on it.
struct StepShape {
  int64_t prefill_row_layers = 0;  // prompt rows times the layers they run through
  int64_t decode_row_layers = 0;   // rows that continue an answer, likewise
  int64_t attended_slots = 0;      // sum over rows and layers of the keys they see
  int64_t output_rows = 0;         // rows through the head
};

class StepCost {
 public:
  virtual ~StepCost() = default;
  // Predicted seconds; more of anything never costs less.
  virtual double seconds(const StepShape& shape) const = 0;
};

// Time as a weighted sum of the shape's counts; the weights come from measurements.
class LinearStepCost : public StepCost {
 public:
  struct Weights {
    double per_step = 0;
    double per_prefill_row_layer = 0;
    double per_decode_row_layer = 0;
    double per_attended_slot = 0;
    double per_output_row = 0;
  };
  explicit LinearStepCost(const Weights& weights) : weights_(weights) {}
  double seconds(const StepShape& shape) const override;

 private:
  Weights weights_;
};

}  // namespace onset
