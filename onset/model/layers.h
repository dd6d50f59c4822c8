// From a configuration and a stored model to layers: operations, the matrices they need, and their vectors.
#pragma once

#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "onset/base/aligned.h"
#include "onset/formats/model_file.h"
#include "onset/model/config.h"
#include "onset/model/operations.h"
#include "onset/model/packed_weights.h"

namespace onset {

using Vectors = std::vector<std::unique_ptr<AlignedVector<float>>>;

struct BuiltLayers {
  std::vector<Layer> layers;
  std::vector<WeightPlan> plans;  // LinearOperation::weight is an index into these
  int32_t head = 0;               // the plan of the output head
  const float* output_norm = nullptr;
  Vectors vectors;  // owns the gains and biases that operations point to
};

// Errors: not_found and invalid_argument (shape, type, values that are not finite) for tensors, unsupported for a tensor that nothing
// uses; all name the tensor. invalid_argument if the heads or the feed-forward cannot be shared out evenly.
Result<BuiltLayers> build_layers(const ModelFile& file, const ModelConfig& config, const Shard& shard);

}  // namespace onset
