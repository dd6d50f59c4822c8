// Hugging Face model folders (config.json, safetensors, tokenizer.json) read as if they were GGUF files.
//
// Architectures: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Gemma3ForCausalLM,
// Gemma3TextModel. Keys, tensor names and layouts become those that llama.cpp defines:
// query and key rows of Llama and Mistral are reordered for interleaved rotary pairs, Gemma's norm weights
// get their +1, Llama 3's frequency factors become rope_freqs.weight, vectors become F32.
#pragma once

#include <filesystem>

#include "onset/base/status.h"
#include "onset/formats/gguf.h"
#include "onset/formats/model_file.h"

namespace onset {

// Reads the folder. Matrices stay mapped, except those whose rows are reordered, which are copied.
// Errors: not_found for a missing file, unsupported for an architecture, tokenizer or rope scaling that this
// program does not know (named), invalid_argument for damaged or contradictory files; each names the file and
// the field.
Result<ModelFile> open_huggingface(const std::filesystem::path& folder);

// The tokenizer.ggml.* entries for the tokenizer of a folder: tokenizer.json, with tokenizer_config.json,
// generation_config.json and config.json where they exist. `vocabulary_size` is the number of embedding rows.
Status read_tokenizer(const std::filesystem::path& folder, int64_t vocabulary_size, GgufMetadata& metadata);

}  // namespace onset
