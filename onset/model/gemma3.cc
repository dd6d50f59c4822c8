// Gemma 3, text (arXiv:2503.19786): five layers with a window for each global one, a rotary base for either kind, norms before
// and after attention and feed-forward, scaled embeddings, a GELU-gated feed-forward, norms on query and key heads.
#include <cmath>

#include "onset/model/architecture.h"

namespace onset {
namespace {

Status describe(const ModelFile& file, ModelConfig& config) {
  config.activation = Activation::gelu_tanh;
  config.query_key_norms = true;
  config.sandwich_norms = true;
  config.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(config.hidden)));
  // The 27B model alone scales by hidden / heads instead of the head size; its file has no key that says so.
  if (config.layers == 62) {
    config.softmax_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config.hidden) / config.query_heads));
  }
  ONSET_ASSIGN(RopeConfig global, read_rope(file, config, /*interleaved=*/false));
  RopeConfig local = {.base = 10000.0f, .dimensions = global.dimensions, .frequency_factors = {}};
  ONSET_ASSIGN(const double local_base, file.real_or(key_of(config, "rope.freq_base_swa"), 10000.0));
  local.base = static_cast<float>(local_base);
  config.ropes = {std::move(global), std::move(local)};

  ONSET_ASSIGN(const int64_t window, file.integer(key_of(config, "attention.sliding_window")));
  ONSET_ASSIGN(const int64_t pattern, file.integer_or(key_of(config, "attention.sliding_window_pattern"), 6));
  if (window < 1 || window > (1 << 27) || pattern < 1 || pattern > 1024 || !(local_base > 0)) {
    return error(Code::invalid_argument, "{}: window {}, pattern {} and local rope base {} must be positive", file.path().string(), window,
                 pattern, local_base);
  }
  for (int32_t i = 0; i < config.layers; ++i) {
    if ((i + 1) % pattern == 0) continue;
    config.layer[i].window = static_cast<int32_t>(window);
    config.layer[i].rope = 1;
  }
  return {};
}

}  // namespace

const Architecture gemma3_architecture = {"gemma3", describe};

}  // namespace onset
