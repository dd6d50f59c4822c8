#include "onset/cost/step_cost.h"

namespace onset {

double LinearStepCost::seconds(const StepShape& shape) const {
  return weights_.per_step + weights_.per_prefill_row_layer * static_cast<double>(shape.prefill_row_layers) +
         weights_.per_decode_row_layer * static_cast<double>(shape.decode_row_layers) +
         weights_.per_attended_slot * static_cast<double>(shape.attended_slots) +
         weights_.per_output_row * static_cast<double>(shape.output_rows);
}

}  // namespace onset
