// Qwen2 and Qwen2.5 (arXiv:2407.10671): Llama's layer with biases on queries, keys and values.
#include "onset/model/architecture.h"

namespace onset {
namespace {

Status describe(const ModelFile& file, ModelConfig& config) {
  ONSET_ASSIGN(RopeConfig rope, read_rope(file, config, /*interleaved=*/false));
  config.ropes = {std::move(rope)};
  config.attention_biases = true;
  return {};
}

}  // namespace

const Architecture qwen2_architecture = {"qwen2", describe};

}  // namespace onset
