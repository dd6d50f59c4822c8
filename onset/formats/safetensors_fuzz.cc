// Any bytes as a safetensors file: an error, or tensors that can be read. An input that is cut into pieces
// stands for a folder: the index, then a.safetensors and b.safetensors.
#include <cstdint>

#include "onset/formats/fuzzing.h"
#include "onset/formats/safetensors.h"

namespace {

void read_everything(const onset::Safetensors& file) {
  for (const onset::StoredTensor& tensor : file.tensors()) (void)onset::check_finite(tensor).ok();
  for (const auto& [name, type] : file.unsupported()) (void)file.tensor(name).ok();
  (void)file.tensor("weight").ok();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const onset::fuzzing::Folder folder;
  const auto pieces = onset::fuzzing::pieces({reinterpret_cast<const char*>(data), size});
  if (pieces.size() == 1) {
    const auto file = onset::Safetensors::parse(std::as_bytes(std::span(data, size)), "fuzz.safetensors");
    if (file.ok()) read_everything(*file);
    return 0;
  }
  constexpr const char* names[] = {"model.safetensors.index.json", "a.safetensors", "b.safetensors"};
  for (size_t i = 0; i < pieces.size() && i < 3; ++i) folder.put(names[i], pieces[i]);
  const auto file = onset::Safetensors::open(folder.path());
  if (file.ok()) read_everything(*file);
  folder.clear();
  return 0;
}
