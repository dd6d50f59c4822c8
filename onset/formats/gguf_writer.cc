#include <algorithm>
#include <cassert>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "onset/formats/gguf.h"
#include "onset/formats/gguf_types.h"

namespace onset {
namespace {

using Bytes = std::vector<std::byte>;

void append(Bytes& bytes, const void* data, size_t size) {
  if (size == 0) return;
  const size_t at = bytes.size();
  bytes.resize(at + size);
  std::memcpy(bytes.data() + at, data, size);
}

template <typename T>
void append_number(Bytes& bytes, T value) {
  append(bytes, &value, sizeof(T));
}

void append_text(Bytes& bytes, std::string_view text) {
  append_number<uint64_t>(bytes, text.size());
  append(bytes, text.data(), text.size());
}

void append_entry(Bytes& bytes, const MetadataEntry& entry) {
  append_text(bytes, entry.key);
  if (entry.is_array) append_number(bytes, static_cast<uint32_t>(MetadataType::array));
  append_number(bytes, static_cast<uint32_t>(entry.type));
  if (entry.is_array) append_number<uint64_t>(bytes, entry.count);
  append(bytes, entry.bytes.data(), entry.bytes.size());
}

uint64_t padded(uint64_t size) {
  return (size + gguf_default_alignment - 1) / gguf_default_alignment * gguf_default_alignment;
}

// The part that each tensor goes to; filled in order.
std::vector<size_t> assign_parts(std::span<const uint64_t> sizes, const GgufSplit& split) {
  std::vector<size_t> parts(sizes.size());
  size_t part = 0;
  uint64_t bytes = 0;
  int64_t tensors = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const bool full = (split.part_tensors > 0 && tensors == split.part_tensors) ||
                      (split.part_bytes > 0 && tensors > 0 && bytes + padded(sizes[i]) > split.part_bytes);
    if (full) {
      ++part;
      bytes = 0;
      tensors = 0;
    }
    parts[i] = part;
    bytes += padded(sizes[i]);
    ++tensors;
  }
  return parts;
}

// The header of one file: entries, then the tensors' declarations, padded to where the tensors' bytes begin.
Bytes header_of(std::span<const MetadataEntry> entries, std::span<const GgufTensorInfo> tensors) {
  Bytes header;
  append_number(header, gguf_magic);
  append_number<uint32_t>(header, 3);
  append_number<uint64_t>(header, tensors.size());
  append_number<uint64_t>(header, entries.size());
  for (const MetadataEntry& entry : entries) append_entry(header, entry);
  uint64_t offset = 0;
  for (const GgufTensorInfo& tensor : tensors) {
    append_text(header, tensor.name);
    append_number(header, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i-- > 0;) append_number<uint64_t>(header, static_cast<uint64_t>(tensor.shape[i]));
    append_number(header, gguf_number_of(tensor.dtype));
    append_number(header, offset);
    offset += padded(*tensor_bytes(tensor.dtype, tensor.shape));
  }
  header.resize(padded(header.size()));
  return header;
}

Result<std::vector<uint64_t>> checked_sizes(const std::string& path, std::span<const GgufTensorInfo> tensors) {
  std::vector<uint64_t> sizes;
  std::set<std::string_view> names;
  for (const GgufTensorInfo& tensor : tensors) {
    if (tensor.name.empty() || tensor.name.size() > gguf_largest_name || !names.insert(tensor.name).second) {
      return error(Code::invalid_argument, "{}: a tensor cannot be named \"{}\": empty, too long or there twice", path, tensor.name);
    }
    const auto size = tensor_bytes(tensor.dtype, tensor.shape);
    if (!size || tensor.shape.size() > gguf_largest_extents) {
      return error(Code::invalid_argument, "{}: tensor {} of type {} cannot have shape {}", path, tensor.name, dtype_name(tensor.dtype),
                   shape_text(tensor.shape));
    }
    sizes.push_back(*size);
  }
  return sizes;
}

}  // namespace

GgufMetadata::Item& GgufMetadata::item(std::string_view key, MetadataType type, bool is_array, uint64_t count) {
  auto found = std::find_if(items_.begin(), items_.end(), [&](const Item& item) { return item.key == key; });
  if (found == items_.end()) found = items_.insert(items_.end(), Item{std::string(key), type, is_array, count, {}});
  *found = Item{std::move(found->key), type, is_array, count, {}};
  return *found;
}

void GgufMetadata::set_u16(std::string_view key, uint16_t value) {
  append_number(item(key, MetadataType::u16, false, 1).bytes, value);
}
void GgufMetadata::set_u32(std::string_view key, uint32_t value) {
  append_number(item(key, MetadataType::u32, false, 1).bytes, value);
}
void GgufMetadata::set_i32(std::string_view key, int32_t value) {
  append_number(item(key, MetadataType::i32, false, 1).bytes, value);
}
void GgufMetadata::set_u64(std::string_view key, uint64_t value) {
  append_number(item(key, MetadataType::u64, false, 1).bytes, value);
}
void GgufMetadata::set_f32(std::string_view key, float value) {
  append_number(item(key, MetadataType::f32, false, 1).bytes, value);
}
void GgufMetadata::set_boolean(std::string_view key, bool value) {
  append_number<uint8_t>(item(key, MetadataType::boolean, false, 1).bytes, value ? 1 : 0);
}
void GgufMetadata::set_text(std::string_view key, std::string_view value) {
  append_text(item(key, MetadataType::text, false, 1).bytes, value);
}
void GgufMetadata::set_i32s(std::string_view key, std::span<const int32_t> values) {
  append(item(key, MetadataType::i32, true, values.size()).bytes, values.data(), values.size_bytes());
}
void GgufMetadata::set_f32s(std::string_view key, std::span<const float> values) {
  append(item(key, MetadataType::f32, true, values.size()).bytes, values.data(), values.size_bytes());
}
void GgufMetadata::set_booleans(std::string_view key, const std::vector<bool>& values) {
  Bytes& bytes = item(key, MetadataType::boolean, true, values.size()).bytes;
  for (const bool value : values) append_number<uint8_t>(bytes, value ? 1 : 0);
}
void GgufMetadata::set_texts(std::string_view key, std::span<const std::string> values) {
  Bytes& bytes = item(key, MetadataType::text, true, values.size()).bytes;
  for (const std::string& value : values) append_text(bytes, value);
}
void GgufMetadata::set(const MetadataEntry& entry) {
  item(entry.key, entry.type, entry.is_array, entry.count).bytes.assign(entry.bytes.begin(), entry.bytes.end());
}
void GgufMetadata::remove(std::string_view key) {
  std::erase_if(items_, [&](const Item& item) { return item.key == key; });
}

std::vector<MetadataEntry> GgufMetadata::entries() const {
  std::vector<MetadataEntry> entries;
  for (const Item& item : items_) entries.push_back({item.key, item.type, item.is_array, item.count, item.bytes});
  return entries;
}

Result<GgufWriter> GgufWriter::create(const std::filesystem::path& path, const GgufMetadata& metadata, std::vector<GgufTensorInfo> tensors,
                                      const GgufSplit& split) {
  ONSET_ASSIGN(const std::vector<uint64_t> sizes, checked_sizes(path.string(), tensors));
  const std::vector<size_t> part_of = assign_parts(sizes, split);
  const size_t parts = part_of.empty() ? 1 : part_of.back() + 1;
  if (parts > static_cast<size_t>(gguf_largest_part_count)) {
    return error(Code::invalid_argument, "{}: would be split into {} parts, at most {} are allowed", path.string(), parts,
                 gguf_largest_part_count);
  }
  GgufWriter writer;
  for (size_t i = 0; i < tensors.size(); ++i) writer.places_.push_back({part_of[i], sizes[i]});
  for (size_t part = 0; part < parts; ++part) {
    // Our files use the default alignment, whatever the source had; parts but the first carry nothing but
    // split keys.
    GgufMetadata own = part == 0 ? metadata : GgufMetadata();
    for (const char* key : {"general.alignment", "split.no", "split.count", "split.tensors.count"}) own.remove(key);
    if (parts > 1) {
      own.set_u16("split.no", static_cast<uint16_t>(part));
      own.set_u16("split.count", static_cast<uint16_t>(parts));
      own.set_i32("split.tensors.count", static_cast<int32_t>(tensors.size()));
    }
    std::filesystem::path name = path;
    if (parts > 1) {
      if (name.extension() == ".gguf") name.replace_extension();
      name += gguf_part_suffix(static_cast<int64_t>(part), static_cast<int64_t>(parts));
    }
    const auto begin = std::find(part_of.begin(), part_of.end(), part) - part_of.begin();
    const auto count = std::count(part_of.begin(), part_of.end(), part);
    ONSET_ASSIGN(AtomicFile file, AtomicFile::create(name));
    ONSET_TRY(file.write(header_of(own.entries(), std::span(tensors).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)))));
    writer.paths_.push_back(std::move(name));
    writer.files_.push_back(std::move(file));
  }
  writer.tensors_ = std::move(tensors);
  return writer;
}

Status GgufWriter::write(std::span<const std::byte> bytes) {
  if (next_tensor_ == places_.size() || bytes.size() > places_[next_tensor_].bytes - written_of_tensor_) {
    return error(Code::invalid_argument, "{}: more bytes than tensor {} has", paths_.front().string(),
                 next_tensor_ < tensors_.size() ? tensors_[next_tensor_].name : "(none)");
  }
  const Place& place = places_[next_tensor_];
  AtomicFile& file = files_[place.part];
  ONSET_TRY(file.write(bytes));
  written_of_tensor_ += bytes.size();
  if (written_of_tensor_ < place.bytes) return {};
  const std::vector<std::byte> padding(static_cast<size_t>(padded(place.bytes) - place.bytes));
  ONSET_TRY(file.write(padding));
  ++next_tensor_;
  written_of_tensor_ = 0;
  return {};
}

Status GgufWriter::commit() {
  if (next_tensor_ < tensors_.size()) {
    return error(Code::invalid_argument, "{}: the bytes of tensor {} are missing", paths_.front().string(), tensors_[next_tensor_].name);
  }
  for (AtomicFile& file : files_) ONSET_TRY(file.commit());
  return {};
}

}  // namespace onset
