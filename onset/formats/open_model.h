// One door for models: a GGUF file (or any part of a split one) or a Hugging Face folder.
#pragma once

#include <filesystem>

#include "onset/base/status.h"
#include "onset/formats/model_file.h"

namespace onset {

// A folder is read as a Hugging Face model (huggingface.h), anything else as GGUF (gguf.h).
Result<ModelFile> open_model(const std::filesystem::path& path);

}  // namespace onset
