#include "onset/model/fingerprint.h"

#include <xxhash.h>

#include "onset/model/load_options.h"

namespace onset {

std::string model_fingerprint(const Model& model) {
  XXH3_state_t* state = XXH3_createState();
  XXH3_128bits_reset(state);
  const auto number = [&](uint64_t value) { XXH3_128bits_update(state, &value, sizeof(value)); };
  // Lengths first: what belongs to one part cannot be taken for the next one's.
  const auto add = [&](const void* data, size_t size) {
    number(size);
    XXH3_128bits_update(state, data, size);
  };
  for (const MetadataEntry& entry : model.file().metadata()) {
    add(entry.key.data(), entry.key.size());
    number(static_cast<uint64_t>(entry.type));
    add(entry.bytes.data(), entry.bytes.size());
  }
  for (const StoredTensor& tensor : model.file().tensors()) {
    add(tensor.name.data(), tensor.name.size());
    number(static_cast<uint64_t>(tensor.dtype));
    add(tensor.shape.data(), tensor.shape.size() * sizeof(int64_t));
    add(tensor.bytes.data(), tensor.bytes.size());
  }
  const std::string options = load_options_identity(model.options().rope_scaling, model.options().layers);
  if (!options.empty()) add(options.data(), options.size());
  const XXH128_hash_t hash = XXH3_128bits_digest(state);
  XXH3_freeState(state);
  return fmt::format("{:016x}{:016x}-{}", hash.high64, hash.low64, precision_name(model.precision()));
}

}  // namespace onset
