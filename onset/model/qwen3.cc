// Qwen3, dense models (arXiv:2505.09388): Llama's layer with a norm on each query and key head.
#include "onset/model/architecture.h"

namespace onset {
namespace {

Status describe(const ModelFile& file, ModelConfig& config) {
  ONSET_ASSIGN(RopeConfig rope, read_rope(file, config, /*interleaved=*/false));
  config.ropes = {std::move(rope)};
  config.query_key_norms = true;
  return {};
}

}  // namespace

const Architecture qwen3_architecture = {"qwen3", describe};

}  // namespace onset
