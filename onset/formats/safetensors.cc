#include "onset/formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <set>

#include "onset/formats/json.h"

namespace onset {
namespace {

using nlohmann::json;

constexpr uint64_t largest_header = 100'000'000;  // the limit of the safetensors library
constexpr size_t largest_extents = 8;

std::optional<DType> dtype_of(std::string_view name) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f64, DType::i8, DType::i16, DType::i32, DType::i64}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  return std::nullopt;
}

Result<std::vector<int64_t>> shape_of(const JsonObject& entry) {
  const json* field = entry.find("shape");
  if (field == nullptr || !field->is_array() || field->size() > largest_extents) {
    return error(Code::invalid_argument, "{}: field shape is not a list of at most {} extents", entry.what(), largest_extents);
  }
  std::vector<int64_t> shape;
  for (const json& extent : *field) {
    if (!extent.is_number_unsigned() || extent.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
      return error(Code::invalid_argument, "{}: field shape has the extent {}", entry.what(), extent.dump());
    }
    shape.push_back(extent.get<int64_t>());
  }
  if (shape.empty()) shape.push_back(1);  // a single number
  return shape;
}

struct Range {
  uint64_t begin = 0, end = 0;
};

Result<Range> range_of(const JsonObject& entry, uint64_t data_size) {
  const json* field = entry.find("data_offsets");
  if (field == nullptr || !field->is_array() || field->size() != 2 || !(*field)[0].is_number_unsigned() ||
      !(*field)[1].is_number_unsigned()) {
    return error(Code::invalid_argument, "{}: field data_offsets is not a pair of offsets", entry.what());
  }
  const Range range{(*field)[0].get<uint64_t>(), (*field)[1].get<uint64_t>()};
  if (range.begin > range.end || range.end > data_size) {
    return error(Code::invalid_argument, "{}: its bytes {} to {} lie outside of the file's {} bytes of tensors: it is truncated or damaged",
                 entry.what(), range.begin, range.end, data_size);
  }
  return range;
}

}  // namespace

Status Safetensors::read(std::span<const std::byte> bytes, const std::string& name) {
  uint64_t header_size = 0;
  if (bytes.size() < 8) return error(Code::invalid_argument, "{}: {} bytes are no safetensors file", name, bytes.size());
  std::memcpy(&header_size, bytes.data(), 8);
  if (header_size > largest_header || header_size > bytes.size() - 8) {
    return error(Code::invalid_argument, "{}: the header claims {} bytes, the file has {} and at most {} are allowed", name, header_size,
                 bytes.size() - 8, largest_header);
  }
  const auto header_text = bytes.subspan(8, static_cast<size_t>(header_size));
  const auto data = bytes.subspan(8 + static_cast<size_t>(header_size));
  ONSET_ASSIGN(const json header, parse_json({reinterpret_cast<const char*>(header_text.data()), header_text.size()}, name + ": header"));
  if (!header.is_object()) return error(Code::invalid_argument, "{}: header: expected an object", name);

  std::vector<std::pair<Range, std::string>> ranges;
  for (const auto& [tensor_name, value] : header.items()) {
    if (tensor_name == "__metadata__") {
      if (!value.is_object()) return error(Code::invalid_argument, "{}: field __metadata__ is not an object", name);
      for (const auto& [key, text] : value.items()) {
        if (text.is_string()) metadata_.emplace(key, text.get<std::string>());
      }
      continue;
    }
    ONSET_ASSIGN(const JsonObject entry, JsonObject::of(value, name + ": tensor " + tensor_name));
    ONSET_ASSIGN(const std::string type, entry.text("dtype"));
    ONSET_ASSIGN(std::vector<int64_t> shape, shape_of(entry));
    ONSET_ASSIGN(const Range range, range_of(entry, data.size()));
    if (range.begin != range.end) ranges.emplace_back(range, tensor_name);
    if (index_.contains(tensor_name) || unsupported_.contains(tensor_name)) {
      return error(Code::invalid_argument, "{}: tensor {} stands in another file too", name, tensor_name);
    }
    const auto dtype = dtype_of(type);
    const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
    if (!dtype || empty) {
      unsupported_.emplace(tensor_name, empty ? "empty " + type : type);
      continue;
    }
    const auto size = tensor_bytes(*dtype, shape);
    if (!size || *size != range.end - range.begin) {
      return error(Code::invalid_argument, "{}: {} values {} do not fit its {} bytes", entry.what(), type, shape_text(shape),
                   range.end - range.begin);
    }
    index_.emplace(tensor_name, tensors_.size());
    tensors_.push_back({tensor_name, *dtype, std::move(shape), data.subspan(static_cast<size_t>(range.begin), *size)});
  }
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.first.begin < b.first.begin; });
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i - 1].first.end > ranges[i].first.begin) {
      return error(Code::invalid_argument, "{}: tensors {} and {} overlap", name, ranges[i - 1].second, ranges[i].second);
    }
  }
  return {};
}

Result<Safetensors> Safetensors::parse(std::span<const std::byte> bytes, const std::string& name) {
  Safetensors result;
  result.path_ = name;
  ONSET_TRY(result.read(bytes, name));
  return result;
}

Result<Safetensors> Safetensors::open(const std::filesystem::path& path) {
  Safetensors result;
  result.path_ = path;
  const auto add = [&result](const std::filesystem::path& file_path) -> Status {
    ONSET_ASSIGN(MappedFile file, MappedFile::open(file_path));
    result.files_.push_back(std::make_shared<const MappedFile>(std::move(file)));
    return result.read(result.files_.back()->bytes(), file_path.string());
  };
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) {
    ONSET_TRY(add(path));
    return result;
  }
  const std::filesystem::path index_path = path / "model.safetensors.index.json";
  if (!std::filesystem::exists(index_path, ignored)) {
    ONSET_TRY(add(path / "model.safetensors"));
    return result;
  }
  ONSET_ASSIGN(const json index_json, read_json(index_path));
  ONSET_ASSIGN(const JsonObject index, JsonObject::of(index_json, index_path.string()));
  ONSET_ASSIGN(const JsonObject map, index.object("weight_map"));
  std::set<std::string> names;
  for (const auto& [tensor, file] : map.value().items()) {
    // File names from outside stay inside the folder.
    if (!file.is_string() || file.get_ref<const std::string&>().find('/') != std::string::npos ||
        !file.get_ref<const std::string&>().ends_with(".safetensors")) {
      return error(Code::invalid_argument, "{}: tensor {} is not in a safetensors file of this folder", map.what(), tensor);
    }
    names.insert(file.get<std::string>());
  }
  for (const std::string& name : names) ONSET_TRY(add(path / name));
  for (const auto& [tensor, file] : map.value().items()) {
    if (result.find(tensor) == nullptr && !result.unsupported_.contains(tensor)) {
      return error(Code::not_found, "{}: tensor {} is not in {}", map.what(), tensor, file.get<std::string>());
    }
  }
  return result;
}

const StoredTensor* Safetensors::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

Result<const StoredTensor*> Safetensors::tensor(std::string_view name) const {
  if (const StoredTensor* found = find(name)) return found;
  if (const auto found = unsupported_.find(std::string(name)); found != unsupported_.end()) {
    return error(Code::unsupported, "{}: tensor {} has element type {}; F32, F16 and BF16 can be read", path_.string(), name,
                 found->second);
  }
  return error(Code::not_found, "{}: tensor {} is absent", path_.string(), name);
}

}  // namespace onset
