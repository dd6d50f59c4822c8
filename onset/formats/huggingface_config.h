// config.json of a Hugging Face model: what it says, as GGUF metadata, and the sizes its tensors must have.
#pragma once

#include <cstdint>
#include <vector>

#include "onset/base/status.h"
#include "onset/formats/gguf.h"
#include "onset/formats/json.h"

namespace onset::huggingface {

// What differs between the architectures, as far as files go.
struct Architecture {
  const char* huggingface;  // in config.json
  const char* gguf;         // general.architecture
  bool reorders_rows;       // query and key rows become neighbours that rotate together
  bool sandwich_norms;      // norms after attention and feed-forward too (Gemma)
  bool query_key_norms;
  bool biased;           // query, key and value projections must have biases
  float norm_shift;      // added to norm weights
  bool tied_by_default;  // output = embedding where config.json does not say
};

// The sizes that tensors depend on.
struct Sizes {
  int64_t layers = 0, hidden = 0, feed_forward = 0, heads = 0, kv_heads = 0, head = 0, vocabulary = 0;
  bool tied = false;
};

struct Configuration {
  const Architecture* architecture = nullptr;
  Sizes sizes;
  std::vector<float> frequency_factors;  // rope_freqs.weight, [head / 2]; empty but for Llama 3's scaling
};

// Sets general.architecture and the architecture's keys. Errors: unsupported for an architecture, activation,
// rotary scaling or window that this program does not know (named), invalid_argument for fields that make no
// sense.
Result<Configuration> read_configuration(const JsonObject& config, GgufMetadata& metadata);

}  // namespace onset::huggingface
