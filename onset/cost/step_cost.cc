#include "onset/cost/step_cost.h"

#include <algorithm>

namespace onset {

double LinearStepCost::seconds(const StepShape& shape) const {
  const auto rows = static_cast<double>(shape.prefill_row_layers + shape.decode_row_layers);
  double seconds = weights_.per_step + weights_.per_prefill_row_layer * static_cast<double>(shape.prefill_row_layers) +
                   weights_.per_decode_row_layer * static_cast<double>(shape.decode_row_layers) +
                   weights_.per_prefill_slot * static_cast<double>(shape.prefill_slots) +
                   weights_.per_decode_slot * static_cast<double>(shape.decode_slots) +
                   weights_.per_prefill_key * static_cast<double>(shape.prefill_keys) +
                   weights_.per_output_row * static_cast<double>(shape.output_rows);
  for (const StepWeights::Bend& bend : weights_.bends) seconds += bend.seconds * std::max(0.0, rows - bend.row_layers);
  return seconds;
}

}  // namespace onset
