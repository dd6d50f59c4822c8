// Any files as a Hugging Face model: an error, or a model that converts to a GGUF file that opens again. The
// input is cut into config.json, tokenizer.json, tokenizer_config.json, generation_config.json and
// model.safetensors.
#include <cstdint>

#include "onset/formats/convert.h"
#include "onset/formats/fuzzing.h"
#include "onset/formats/open_model.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const onset::fuzzing::Folder source, destination;
  static onset::ThreadPool pool(1);
  constexpr const char* names[] = {"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"};
  const auto pieces = onset::fuzzing::pieces({reinterpret_cast<const char*>(data), size});
  for (size_t i = 0; i < pieces.size() && i < 5; ++i) {
    if (!pieces[i].empty()) source.put(names[i], pieces[i]);
  }
  const auto model = onset::open_model(source.path());
  if (model.ok()) {
    // The type follows from the input, so that every type is met.
    const auto dtype = static_cast<onset::DType>(size % 11);
    const auto report = onset::convert(*model, destination.path() / "m.gguf", {.dtype = dtype}, pool);
    if (report.ok() && !onset::open_gguf(destination.path() / "m.gguf").ok()) std::abort();
    destination.clear();
  }
  source.clear();
  return 0;
}
