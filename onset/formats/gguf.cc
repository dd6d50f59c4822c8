#include "onset/formats/gguf.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "onset/formats/gguf_types.h"

namespace onset {
namespace {

// The numbers that GGUF gives the element types we know.
struct TypeNumber {
  DType dtype;
  uint32_t number;
};
constexpr TypeNumber type_numbers[] = {
    {DType::f32, 0},  {DType::f16, 1},   {DType::q4_0, 2},  {DType::q4_1, 3},  {DType::q5_0, 6}, {DType::q5_1, 7},
    {DType::q8_0, 8}, {DType::q4_k, 12}, {DType::q5_k, 13}, {DType::q6_k, 14}, {DType::i8, 24},  {DType::i16, 25},
    {DType::i32, 26}, {DType::i64, 27},  {DType::f64, 28},  {DType::bf16, 30},
};

// What other programs call the types that we cannot read, for the error message.
const char* foreign_type_name(uint32_t number) {
  switch (number) {
    case 9:
      return "Q8_1";
    case 10:
      return "Q2_K";
    case 11:
      return "Q3_K";
    case 15:
      return "Q8_K";
    case 16:
      return "IQ2_XXS";
    case 17:
      return "IQ2_XS";
    case 18:
      return "IQ3_XXS";
    case 19:
      return "IQ1_S";
    case 20:
      return "IQ4_NL";
    case 21:
      return "IQ3_S";
    case 22:
      return "IQ2_S";
    case 23:
      return "IQ4_XS";
    case 29:
      return "IQ1_M";
    case 34:
      return "TQ1_0";
    case 35:
      return "TQ2_0";
    case 39:
      return "MXFP4";
    default:
      return "unknown";
  }
}

uint64_t padded(uint64_t offset, uint64_t alignment) {
  return (offset + alignment - 1) / alignment * alignment;
}

// --- reading ---

// Reads numbers and texts one after another; never past the end.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  template <typename T>
  Result<T> number(std::string_view what) {
    ONSET_ASSIGN(const auto bytes, take(sizeof(T), what));
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }

  Result<std::span<const std::byte>> take(uint64_t count, std::string_view what) {
    if (count > remaining()) {
      return error(Code::invalid_argument, "{}: the file ends at byte {} within {}: it is truncated or damaged", name_, bytes_.size(),
                   what);
    }
    const auto taken = bytes_.subspan(position_, static_cast<size_t>(count));
    position_ += static_cast<size_t>(count);
    return taken;
  }

  Result<std::string_view> text(uint64_t longest, std::string_view what) {
    ONSET_ASSIGN(const uint64_t length, number<uint64_t>(what));
    if (length > longest) {
      return error(Code::invalid_argument, "{}: {} claims {} bytes, at most {} are allowed", name_, what, length, longest);
    }
    ONSET_ASSIGN(const auto bytes, take(length, what));
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }
  std::span<const std::byte> since(size_t begin) const { return bytes_.subspan(begin, position_ - begin); }

 private:
  std::span<const std::byte> bytes_;
  const std::string& name_;
  size_t position_ = 0;
};

// A key comes from the file: only its printable part goes into messages.
std::string shown(std::string_view text) {
  std::string result;
  for (const char c : text.substr(0, 80)) result += (c >= 32 && c < 127) ? c : '?';
  return text.size() > 80 ? result + "..." : result;
}

Result<MetadataEntry> read_entry(Cursor& cursor, const std::string& name, uint64_t index) {
  MetadataEntry entry;
  ONSET_ASSIGN(entry.key, cursor.text(gguf_largest_key, fmt::format("the key of metadata entry {}", index)));
  const std::string what = "key " + shown(entry.key);
  ONSET_ASSIGN(uint32_t type, cursor.number<uint32_t>(what));
  if (type == static_cast<uint32_t>(MetadataType::array)) {
    entry.is_array = true;
    ONSET_ASSIGN(type, cursor.number<uint32_t>(what));
    ONSET_ASSIGN(entry.count, cursor.number<uint64_t>(what));
    if (type == static_cast<uint32_t>(MetadataType::array)) {
      return error(Code::unsupported, "{}: {} is an array of arrays", name, what);
    }
  }
  entry.type = static_cast<MetadataType>(type);
  const size_t begin = cursor.position();
  if (entry.type == MetadataType::text) {
    // Each text takes at least its 8 bytes of length, so a huge count ends at the end of the file at the
    // latest.
    for (uint64_t i = 0; i < entry.count; ++i) {
      ONSET_TRY(cursor.text(std::numeric_limits<uint64_t>::max(), what).status());
    }
  } else {
    const size_t width = metadata_value_bytes(static_cast<MetadataType>(type));
    if (width == 0) return error(Code::invalid_argument, "{}: {} has type {}, which is no metadata type", name, what, type);
    if (entry.count > cursor.remaining() / width) {
      return error(Code::invalid_argument, "{}: {} claims {} elements, the rest of the file has room for {}", name, what, entry.count,
                   cursor.remaining() / width);
    }
    ONSET_TRY(cursor.take(entry.count * width, what).status());
  }
  entry.bytes = cursor.since(begin);
  return entry;
}

// A tensor as its file declares it: the bytes are not known before the header's end is.
struct DeclaredTensor {
  StoredTensor tensor;
  uint64_t offset = 0;
  uint64_t size = 0;
};

Result<DeclaredTensor> read_tensor(Cursor& cursor, const std::string& name, uint64_t index) {
  DeclaredTensor declared;
  ONSET_ASSIGN(const std::string_view tensor_name, cursor.text(gguf_largest_name, fmt::format("the name of tensor {}", index)));
  declared.tensor.name = tensor_name;
  const std::string what = "tensor " + shown(tensor_name);
  ONSET_ASSIGN(const uint32_t extents, cursor.number<uint32_t>(what));
  if (extents < 1 || extents > gguf_largest_extents) {
    return error(Code::invalid_argument, "{}: {} claims {} dimensions, expected 1 to {}", name, what, extents, gguf_largest_extents);
  }
  declared.tensor.shape.resize(extents);
  for (size_t i = extents; i-- > 0;) {  // stored with the contiguous extent first
    ONSET_ASSIGN(const uint64_t extent, cursor.number<uint64_t>(what));
    if (extent < 1 || extent > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return error(Code::invalid_argument, "{}: {} claims an extent of {}", name, what, extent);
    }
    declared.tensor.shape[i] = static_cast<int64_t>(extent);
  }
  ONSET_ASSIGN(const uint32_t number, cursor.number<uint32_t>(what));
  const auto dtype = gguf_dtype_of(number);
  if (!dtype) {
    return error(Code::unsupported, "{}: {} has element type {} ({}), which this program cannot read", name, what, number,
                 foreign_type_name(number));
  }
  declared.tensor.dtype = *dtype;
  const auto size = tensor_bytes(*dtype, declared.tensor.shape);
  if (!size) {
    return error(Code::invalid_argument, "{}: {} of type {} cannot have shape {}", name, what, dtype_name(*dtype),
                 shape_text(declared.tensor.shape));
  }
  declared.size = *size;
  ONSET_ASSIGN(declared.offset, cursor.number<uint64_t>(what));
  return declared;
}

Status check_no_overlap(const std::vector<DeclaredTensor>& declared, const std::string& name) {
  std::vector<const DeclaredTensor*> order;
  for (const DeclaredTensor& tensor : declared) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i - 1]->offset + order[i - 1]->size > order[i]->offset) {
      return error(Code::invalid_argument, "{}: tensors {} and {} overlap", name, shown(order[i - 1]->tensor.name),
                   shown(order[i]->tensor.name));
    }
  }
  return {};
}

// Reads one file, whole or a part of a split model.
Result<ModelFile> read_file(std::span<const std::byte> bytes, const std::string& name) {
  ModelFile model{std::filesystem::path(name)};
  Cursor cursor(bytes, name);
  ONSET_ASSIGN(const uint32_t found_magic, cursor.number<uint32_t>("the header"));
  if (found_magic != gguf_magic) return error(Code::invalid_argument, "{}: not a GGUF file: it does not begin with \"GGUF\"", name);
  ONSET_ASSIGN(const uint32_t version, cursor.number<uint32_t>("the header"));
  if (version != 2 && version != 3) {
    if (__builtin_bswap32(version) <= 3) {
      return error(Code::unsupported, "{}: a big-endian GGUF file; only little-endian ones can be read", name);
    }
    return error(Code::unsupported, "{}: GGUF version {}; versions 2 and 3 can be read", name, version);
  }
  ONSET_ASSIGN(const uint64_t tensor_count, cursor.number<uint64_t>("the header"));
  ONSET_ASSIGN(const uint64_t entry_count, cursor.number<uint64_t>("the header"));
  // An entry takes at least 13 bytes, a tensor's declaration 32.
  if (entry_count > cursor.remaining() / 13 || tensor_count > cursor.remaining() / 32) {
    return error(Code::invalid_argument, "{}: the header claims {} tensors and {} metadata entries, more than the file's {} bytes can hold",
                 name, tensor_count, entry_count, bytes.size());
  }
  for (uint64_t i = 0; i < entry_count; ++i) {
    ONSET_ASSIGN(const MetadataEntry entry, read_entry(cursor, name, i));
    ONSET_TRY(model.add_metadata(entry));
  }
  ONSET_ASSIGN(const int64_t alignment, model.integer_or("general.alignment", gguf_default_alignment));
  if (alignment < 1 || alignment > (int64_t{1} << 30) || (alignment & (alignment - 1)) != 0) {
    return error(Code::invalid_argument, "{}: key general.alignment is {}, expected a power of two", name, alignment);
  }
  std::vector<DeclaredTensor> declared;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    ONSET_ASSIGN(DeclaredTensor tensor, read_tensor(cursor, name, i));
    declared.push_back(std::move(tensor));
  }
  const uint64_t data_begin = padded(cursor.position(), static_cast<uint64_t>(alignment));
  const uint64_t data_size = data_begin <= bytes.size() ? bytes.size() - data_begin : 0;
  for (const DeclaredTensor& tensor : declared) {
    if (tensor.offset % static_cast<uint64_t>(alignment) != 0) {
      return error(Code::invalid_argument, "{}: tensor {} has offset {}, expected a multiple of {}", name, shown(tensor.tensor.name),
                   tensor.offset, alignment);
    }
    if (tensor.offset > data_size || tensor.size > data_size - tensor.offset) {
      return error(Code::invalid_argument,
                   "{}: tensor {} needs {} bytes at offset {}, but the file has {} bytes of tensors: it is "
                   "truncated or damaged",
                   name, shown(tensor.tensor.name), tensor.size, tensor.offset, data_size);
    }
  }
  ONSET_TRY(check_no_overlap(declared, name));
  for (DeclaredTensor& tensor : declared) {
    tensor.tensor.bytes = bytes.subspan(static_cast<size_t>(data_begin + tensor.offset), static_cast<size_t>(tensor.size));
    ONSET_TRY(model.add_tensor(std::move(tensor.tensor)));
  }
  return model;
}

// What a part says about the split model that it belongs to.
struct SplitKeys {
  int64_t number = 0;
  int64_t count = 1;
  int64_t tensors = -1;
};

Result<SplitKeys> split_keys(const ModelFile& file) {
  SplitKeys keys;
  ONSET_ASSIGN(keys.count, file.integer_or("split.count", 1));
  if (keys.count < 1 || keys.count > gguf_largest_part_count) {
    return error(Code::invalid_argument, "{}: key split.count is {}, expected 1 to {}", file.path().string(), keys.count,
                 gguf_largest_part_count);
  }
  if (keys.count == 1) return keys;
  ONSET_ASSIGN(keys.number, file.integer("split.no"));
  ONSET_ASSIGN(keys.tensors, file.integer("split.tensors.count"));
  return keys;
}

struct OpenedPart {
  ModelFile model;
  SplitKeys split;
};

Result<OpenedPart> open_part(const std::filesystem::path& path) {
  ONSET_ASSIGN(MappedFile mapped, MappedFile::open(path));
  auto file = std::make_shared<const MappedFile>(std::move(mapped));
  ONSET_ASSIGN(ModelFile model, read_file(file->bytes(), path.string()));
  model.keep(std::move(file));
  ONSET_ASSIGN(const SplitKeys split, split_keys(model));
  return OpenedPart{std::move(model), split};
}

// The path of part `index` of the model that the part `path` with the keys `split` belongs to.
Result<std::filesystem::path> part_path(const std::filesystem::path& path, const SplitKeys& split, int64_t index) {
  const std::string name = path.string();
  const std::string suffix = gguf_part_suffix(split.number, split.count);
  if (split.number < 0 || split.number >= split.count || !name.ends_with(suffix)) {
    return error(Code::invalid_argument, "{}: keys split.no and split.count say part {} of {}, the file's name does not", name,
                 split.number + 1, split.count);
  }
  return std::filesystem::path(name.substr(0, name.size() - suffix.size()) + gguf_part_suffix(index, split.count));
}

}  // namespace

std::optional<DType> gguf_dtype_of(uint32_t number) {
  for (const TypeNumber& known : type_numbers) {
    if (known.number == number) return known.dtype;
  }
  return std::nullopt;
}

uint32_t gguf_number_of(DType dtype) {
  for (const TypeNumber& known : type_numbers) {
    if (known.dtype == dtype) return known.number;
  }
  return 0;
}

std::string gguf_part_suffix(int64_t index, int64_t count) {
  return fmt::format("-{:05}-of-{:05}.gguf", index + 1, count);
}

Result<ModelFile> parse_gguf(std::span<const std::byte> bytes, const std::string& name) {
  ONSET_ASSIGN(ModelFile model, read_file(bytes, name));
  ONSET_ASSIGN(const SplitKeys split, split_keys(model));
  if (split.count > 1) {
    return error(Code::unsupported, "{}: part {} of {} of a split model cannot be read alone", name, split.number + 1, split.count);
  }
  return model;
}

Result<ModelFile> open_gguf(const std::filesystem::path& path) {
  ONSET_ASSIGN(OpenedPart asked, open_part(path));
  if (asked.split.count == 1) return std::move(asked.model);
  // The first part has the metadata; the others add their tensors to it.
  ONSET_ASSIGN(const std::filesystem::path first, part_path(path, asked.split, 0));
  ONSET_ASSIGN(OpenedPart whole, open_part(first));
  for (int64_t i = 0; i < asked.split.count; ++i) {
    ONSET_ASSIGN(const std::filesystem::path name, part_path(path, asked.split, i));
    ONSET_ASSIGN(OpenedPart part, open_part(name));
    if (part.split.number != i || part.split.count != asked.split.count || part.split.tensors != asked.split.tensors) {
      return error(Code::invalid_argument, "{}: its keys say part {} of {} of a model of {} tensors, expected part {} of {} of {} tensors",
                   name.string(), part.split.number + 1, part.split.count, part.split.tensors, i + 1, asked.split.count,
                   asked.split.tensors);
    }
    if (i == 0) continue;
    for (const StoredTensor& tensor : part.model.tensors()) {
      ONSET_TRY(whole.model.add_tensor(tensor).within(name.string()));
    }
    whole.model.keep(std::make_shared<const ModelFile>(std::move(part.model)));
  }
  const auto tensors = static_cast<int64_t>(whole.model.tensors().size());
  if (tensors != asked.split.tensors) {
    return error(Code::invalid_argument, "{}: the {} parts hold {} tensors, key split.tensors.count says {}", first.string(),
                 asked.split.count, tensors, asked.split.tensors);
  }
  return std::move(whole.model);
}

}  // namespace onset
