#include "onset/formats/open_model.h"

#include "onset/formats/gguf.h"
#include "onset/formats/huggingface.h"

namespace onset {

Result<ModelFile> open_model(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return open_huggingface(path);
  return open_gguf(path);
}

}  // namespace onset
