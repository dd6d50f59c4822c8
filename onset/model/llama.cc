// Llama 2 and 3 (arXiv:2302.13971, 2407.21783), SmolLM2, and Mistral (arXiv:2310.06825) with its window.
#include "onset/model/architecture.h"

namespace onset {
namespace {

Status describe(const ModelFile& file, ModelConfig& config) {
  // GGUF stores Llama's query and key rows so that rotary pairs are neighbours.
  ONSET_ASSIGN(RopeConfig rope, read_rope(file, config, /*interleaved=*/true));
  config.ropes = {std::move(rope)};
  ONSET_ASSIGN(const int64_t window, file.integer_or(key_of(config, "attention.sliding_window"), 0));
  if (window < 0 || window > (1 << 27)) {
    return error(Code::invalid_argument, "{}: {} is {}, expected 0 or more", file.path().string(),
                 key_of(config, "attention.sliding_window"), window);
  }
  for (LayerConfig& layer : config.layer) layer.window = static_cast<int32_t>(window);
  return {};
}

}  // namespace

const Architecture llama_architecture = {"llama", describe};

}  // namespace onset
