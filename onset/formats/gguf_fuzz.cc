// Any bytes as a GGUF file: an error, or a model whose every entry and tensor can be read. An input that is
// cut into pieces stands for the parts of a split model.
#include <cstdint>

#include "onset/formats/fuzzing.h"
#include "onset/formats/gguf.h"

namespace {

void read_everything(const onset::ModelFile& model) {
  for (const onset::MetadataEntry& entry : model.metadata()) {
    // All but one of these refuse.
    (void)model.integer(entry.key).ok();
    (void)model.real(entry.key).ok();
    (void)model.boolean(entry.key).ok();
    (void)model.text(entry.key).ok();
    (void)model.integers(entry.key).ok();
    (void)model.reals(entry.key).ok();
    if (const auto texts = model.texts(entry.key); texts.ok()) {
      size_t total = 0;
      for (const std::string_view text : *texts) total += text.empty() ? 0 : static_cast<unsigned char>(text.back());
      if (total == SIZE_MAX) std::abort();
    }
  }
  for (const onset::StoredTensor& tensor : model.tensors()) (void)onset::check_finite(tensor).ok();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const onset::fuzzing::Folder folder;
  const auto parts = onset::fuzzing::pieces({reinterpret_cast<const char*>(data), size});
  if (parts.size() == 1) {
    const auto model = onset::parse_gguf(std::as_bytes(std::span(data, size)), "fuzz.gguf");
    if (model.ok()) read_everything(*model);
    return 0;
  }
  for (size_t i = 0; i < parts.size() && i < 4; ++i) {
    folder.put("m-0000" + std::to_string(i + 1) + "-of-0000" + std::to_string(parts.size()) + ".gguf", parts[i]);
  }
  const auto model = onset::open_gguf(folder.path() / ("m-00001-of-0000" + std::to_string(parts.size()) + ".gguf"));
  if (model.ok()) read_everything(*model);
  folder.clear();
  return 0;
}
