#include "onset/formats/model_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>

#include "onset/tensor/block_formats.h"

namespace onset {
namespace {

template <typename T>
T load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

// "u32", or "array of u32".
std::string type_text(const MetadataEntry& entry) {
  return std::string(entry.is_array ? "array of " : "") + metadata_type_name(entry.type);
}

bool is_integer(MetadataType type) {
  switch (type) {
    case MetadataType::u8:
    case MetadataType::i8:
    case MetadataType::u16:
    case MetadataType::i16:
    case MetadataType::u32:
    case MetadataType::i32:
    case MetadataType::u64:
    case MetadataType::i64:
      return true;
    default:
      return false;
  }
}

// The integer at `bytes`; nothing for a u64 above the largest int64.
std::optional<int64_t> integer_at(MetadataType type, const std::byte* bytes) {
  switch (type) {
    case MetadataType::u8:
      return load<uint8_t>(bytes);
    case MetadataType::i8:
      return load<int8_t>(bytes);
    case MetadataType::u16:
      return load<uint16_t>(bytes);
    case MetadataType::i16:
      return load<int16_t>(bytes);
    case MetadataType::u32:
      return load<uint32_t>(bytes);
    case MetadataType::i32:
      return load<int32_t>(bytes);
    case MetadataType::i64:
      return load<int64_t>(bytes);
    default:
      break;
  }
  const auto value = load<uint64_t>(bytes);
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
  return static_cast<int64_t>(value);
}

double real_at(MetadataType type, const std::byte* bytes) {
  if (type == MetadataType::f32) return static_cast<double>(load<float>(bytes));
  if (type == MetadataType::f64) return load<double>(bytes);
  if (type == MetadataType::u64) return static_cast<double>(load<uint64_t>(bytes));
  return static_cast<double>(*integer_at(type, bytes));
}

bool is_number(MetadataType type) {
  return is_integer(type) || type == MetadataType::f32 || type == MetadataType::f64;
}

// The text whose length stands at `bytes`; lengths were checked when the file was opened.
std::string_view text_at(const std::byte* bytes) {
  return {reinterpret_cast<const char*>(bytes + 8), static_cast<size_t>(load<uint64_t>(bytes))};
}

// The entry of `key`, checked to be (an array of) what `fits` accepts.
template <typename Fits>
Result<const MetadataEntry*> expect(const ModelFile& file, std::string_view key, bool array, const char* expected, Fits fits) {
  const MetadataEntry* entry = file.find(key);
  if (entry == nullptr) {
    return error(Code::not_found, "{}: key {} is absent, expected {}{}", file.path().string(), key, array ? "an array of " : "", expected);
  }
  if (entry->is_array != array || !fits(entry->type)) {
    return error(Code::invalid_argument, "{}: key {} has type {}, expected {}{}", file.path().string(), key, type_text(*entry),
                 array ? "an array of " : "", expected);
  }
  return entry;
}

Status too_large(const ModelFile& file, std::string_view key) {
  return error(Code::invalid_argument, "{}: key {} has a number above 2^63 - 1", file.path().string(), key);
}

}  // namespace

size_t metadata_value_bytes(MetadataType type) {
  switch (type) {
    case MetadataType::u8:
    case MetadataType::i8:
    case MetadataType::boolean:
      return 1;
    case MetadataType::u16:
    case MetadataType::i16:
      return 2;
    case MetadataType::u32:
    case MetadataType::i32:
    case MetadataType::f32:
      return 4;
    case MetadataType::u64:
    case MetadataType::i64:
    case MetadataType::f64:
      return 8;
    case MetadataType::text:
    case MetadataType::array:
      return 0;
  }
  return 0;
}

const char* metadata_type_name(MetadataType type) {
  switch (type) {
    case MetadataType::u8:
      return "u8";
    case MetadataType::i8:
      return "i8";
    case MetadataType::u16:
      return "u16";
    case MetadataType::i16:
      return "i16";
    case MetadataType::u32:
      return "u32";
    case MetadataType::i32:
      return "i32";
    case MetadataType::f32:
      return "f32";
    case MetadataType::boolean:
      return "boolean";
    case MetadataType::text:
      return "text";
    case MetadataType::array:
      return "array";
    case MetadataType::u64:
      return "u64";
    case MetadataType::i64:
      return "i64";
    case MetadataType::f64:
      return "f64";
  }
  return "unknown";
}

const MetadataEntry* ModelFile::find(std::string_view key) const {
  const auto found = metadata_index_.find(key);
  return found == metadata_index_.end() ? nullptr : &metadata_[found->second];
}

Result<int64_t> ModelFile::integer(std::string_view key) const {
  ONSET_ASSIGN(const MetadataEntry* entry, expect(*this, key, false, "an integer", is_integer));
  const auto value = integer_at(entry->type, entry->bytes.data());
  if (!value) return too_large(*this, key);
  return *value;
}

Result<double> ModelFile::real(std::string_view key) const {
  ONSET_ASSIGN(const MetadataEntry* entry, expect(*this, key, false, "a number", is_number));
  return real_at(entry->type, entry->bytes.data());
}

Result<bool> ModelFile::boolean(std::string_view key) const {
  const auto fits = [](MetadataType type) { return type == MetadataType::boolean; };
  ONSET_ASSIGN(const MetadataEntry* entry, expect(*this, key, false, "a boolean", fits));
  return load<uint8_t>(entry->bytes.data()) != 0;
}

Result<std::string_view> ModelFile::text(std::string_view key) const {
  const auto fits = [](MetadataType type) { return type == MetadataType::text; };
  ONSET_ASSIGN(const MetadataEntry* entry, expect(*this, key, false, "a text", fits));
  return text_at(entry->bytes.data());
}

Result<std::vector<int64_t>> ModelFile::integers(std::string_view key) const {
  const auto fits = [](MetadataType type) { return is_integer(type) || type == MetadataType::boolean; };
  ONSET_ASSIGN(const MetadataEntry* entry, expect(*this, key, true, "integers", fits));
  std::vector<int64_t> values(entry->count);
  const MetadataType type = entry->type == MetadataType::boolean ? MetadataType::u8 : entry->type;
  for (size_t i = 0; i < values.size(); ++i) {
    const auto value = integer_at(type, entry->bytes.data() + i * metadata_value_bytes(type));
    if (!value) return too_large(*this, key);
    values[i] = *value;
  }
  return values;
}

Result<std::vector<float>> ModelFile::reals(std::string_view key) const {
  ONSET_ASSIGN(const MetadataEntry* entry, expect(*this, key, true, "numbers", is_number));
  std::vector<float> values(entry->count);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(real_at(entry->type, entry->bytes.data() + i * metadata_value_bytes(entry->type)));
  }
  return values;
}

Result<std::vector<std::string_view>> ModelFile::texts(std::string_view key) const {
  const auto fits = [](MetadataType type) { return type == MetadataType::text; };
  ONSET_ASSIGN(const MetadataEntry* entry, expect(*this, key, true, "texts", fits));
  std::vector<std::string_view> values(entry->count);
  const std::byte* bytes = entry->bytes.data();
  for (std::string_view& value : values) {
    value = text_at(bytes);
    bytes += 8 + value.size();
  }
  return values;
}

Result<int64_t> ModelFile::integer_or(std::string_view key, int64_t otherwise) const {
  return has(key) ? integer(key) : otherwise;
}
Result<double> ModelFile::real_or(std::string_view key, double otherwise) const {
  return has(key) ? real(key) : otherwise;
}
Result<bool> ModelFile::boolean_or(std::string_view key, bool otherwise) const {
  return has(key) ? boolean(key) : otherwise;
}
Result<std::string_view> ModelFile::text_or(std::string_view key, std::string_view otherwise) const {
  return has(key) ? text(key) : otherwise;
}

const StoredTensor* ModelFile::find_tensor(std::string_view name) const {
  const auto found = tensor_index_.find(std::string(name));
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

Result<const StoredTensor*> ModelFile::tensor(std::string_view name) const {
  if (const StoredTensor* found = find_tensor(name)) return found;
  return error(Code::not_found, "{}: tensor {} is absent", path_.string(), name);
}

Result<const StoredTensor*> ModelFile::tensor(std::string_view name, std::span<const int64_t> shape) const {
  ONSET_ASSIGN(const StoredTensor* found, tensor(name));
  if (!std::equal(found->shape.begin(), found->shape.end(), shape.begin(), shape.end())) {
    return error(Code::invalid_argument, "{}: tensor {} has shape {}, expected {}", path_.string(), name, shape_text(found->shape),
                 shape_text(shape));
  }
  return found;
}

Status ModelFile::add_metadata(const MetadataEntry& entry) {
  if (!metadata_index_.try_emplace(entry.key, metadata_.size()).second) {
    return error(Code::invalid_argument, "{}: key {} stands there twice", path_.string(), entry.key);
  }
  metadata_.push_back(entry);
  return {};
}

Status ModelFile::add_tensor(StoredTensor tensor) {
  if (!tensor_index_.try_emplace(tensor.name, tensors_.size()).second) {
    return error(Code::invalid_argument, "{}: tensor {} stands there twice", path_.string(), tensor.name);
  }
  tensors_.push_back(std::move(tensor));
  return {};
}

Status check_finite(const StoredTensor& tensor) {
  if (all_finite(tensor.dtype, tensor.bytes)) return {};
  return error(Code::invalid_argument, "tensor {} holds values that are infinite or not a number", tensor.name);
}

std::string shape_text(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

}  // namespace onset
