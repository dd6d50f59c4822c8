// What a decoder-only transformer looks like: everything its layers are built from, whatever the architecture.
//
// An architecture (llama.cc, qwen2.cc, ...) is a short function that reads a stored model's metadata into this; layers.h
// turns it into operations. Neither knows about caching, scheduling or policies.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/compute/elementwise.h"
#include "onset/formats/model_file.h"
#include "onset/tensor/block_pattern.h"

namespace onset {

// The feed-forward part of a layer.
enum class FeedForwardKind : uint8_t {
  gated,  // down(activation(gate(x)) * up(x))
  none,   // an attention-only layer
};

// How angles of the rotary position embedding follow from positions (RoFormer; scalings as in the models' own configurations).
struct RopeConfig {
  enum class Scaling : uint8_t { none, linear, factors, yarn };  // a changed base is none of them
  float base = 10000.0f;
  int32_t dimensions = 0;    // of each head that are rotated, from the first on
  bool interleaved = false;  // pairs (0,1), (2,3), ... instead of (0, d/2), (1, d/2 + 1), ...
  Scaling scaling = Scaling::none;
  float factor = 1.0f;                   // linear, yarn: positions are divided by it
  std::vector<float> frequency_factors;  // factors (Llama 3): each pair's frequency is divided by its own
  // yarn (arXiv:2309.00071, equations 18 to 23)
  float beta_fast = 32.0f, beta_slow = 1.0f, attention_factor = 1.0f;
  int32_t original_context = 0;
};

struct LayerConfig {
  int32_t window = 0;        // attention reaches back this many positions; 0 = all
  BlockPattern blocks = {};  // given at load (load_options.h); none: all that the window lets through
  // For each KV head, or empty: whether the blocks are for it (LServe's streaming heads). Pages are each head's own then.
  std::vector<bool> streams = {};
  int32_t rope = 0;  // index into ModelConfig::ropes
  FeedForwardKind feed_forward = FeedForwardKind::gated;
};

struct ModelConfig {
  std::string architecture, name;
  int32_t layers = 0, hidden = 0, query_heads = 0, kv_heads = 0, head_size = 0, feed_forward = 0, vocabulary = 0;
  int32_t context = 0;  // tokens the model was trained for
  float norm_epsilon = 1e-5f;
  float softmax_scale = 1.0f;
  float embedding_scale = 1.0f;
  Activation activation = Activation::silu;
  bool attention_biases = false;  // on q, k and v
  bool query_key_norms = false;   // RMS norm of each query and key head before the rotary embedding
  bool sandwich_norms = false;    // a norm after attention and feed-forward too, before the residual sum
  std::vector<RopeConfig> ropes;
  std::vector<LayerConfig> layer;  // `layers` long
};

// Reads the metadata of a stored model. Errors: unsupported for an architecture that nobody here knows (named), what
// ModelFile's readers say, invalid_argument for sizes that do not fit together.
Result<ModelConfig> read_config(const ModelFile& file);

// The architectures by their GGUF names, for messages and tests.
std::vector<std::string> architecture_names();

// "2.1 billion parameters"-style count from the sizes alone.
int64_t parameter_count(const ModelConfig& config);

}  // namespace onset
