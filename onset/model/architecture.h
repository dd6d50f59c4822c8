// What an architecture file provides, and what they share.
#pragma once

#include "onset/model/config.h"

namespace onset {

// A function that fills in what is particular to its architecture; the common sizes are there already.
struct Architecture {
  const char* name;  // general.architecture
  Status (*describe)(const ModelFile& file, ModelConfig& config);
};

extern const Architecture llama_architecture, qwen2_architecture, qwen3_architecture, gemma3_architecture;

// Metadata key "ARCHITECTURE.name".
std::string key_of(const ModelConfig& config, const char* name);

// The usual rotary embedding from NAME.rope.*: base, dimensions, scaling, and rope_freqs.weight where the file has it.
Result<RopeConfig> read_rope(const ModelFile& file, const ModelConfig& config, bool interleaved);

}  // namespace onset
