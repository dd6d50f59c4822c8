// A stored model: typed metadata by key, and named tensors whose bytes can be read in place.
//
// This is what a GGUF file holds, and what a Hugging Face folder is read as: the keys and tensor names are
// GGUF's
// ("llama.block_count", "blk.0.attn_q.weight") whatever the source, so that everything behind this header
// knows one naming only. open_model() (open_model.h) opens either.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "onset/base/status.h"
#include "onset/tensor/dtype.h"

namespace onset {

// The types of metadata, with the numbers that GGUF gives them.
enum class MetadataType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  text = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

// "u32", "text", "array".
const char* metadata_type_name(MetadataType type);
// Bytes of one value; 0 for texts, arrays, and numbers that are no type.
size_t metadata_value_bytes(MetadataType type);

// One key and its value, kept as GGUF's bytes: numbers little-endian, a text as its length (u64) and its
// bytes.
struct MetadataEntry {
  std::string_view key;
  MetadataType type = MetadataType::u8;  // of the value, or of each element of an array
  bool is_array = false;
  uint64_t count = 1;                // elements of an array
  std::span<const std::byte> bytes;  // the value, or the elements one after another
};

// One tensor. Extents are row-major: a linear layer's weight is [out, in], the last extent is contiguous.
struct StoredTensor {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // exactly tensor_bytes(dtype, shape) long; valid while its ModelFile lives

  int64_t columns() const { return shape.back(); }
  int64_t rows() const {
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
    return rows;
  }
  // The stored bytes of row `index` (0..rows()-1).
  std::span<const std::byte> row(int64_t index) const {
    const size_t size = row_bytes(dtype, columns());
    return bytes.subspan(static_cast<size_t>(index) * size, size);
  }
};

// A model that was opened. Movable; the bytes of tensors and texts stay where they are when it moves.
class ModelFile {
 public:
  const std::filesystem::path& path() const { return path_; }

  // --- metadata ---
  // Errors of the readers name the file, the key and the type that was expected: not_found when the key is
  // absent, invalid_argument when it has another type or a number that does not fit.
  std::span<const MetadataEntry> metadata() const { return metadata_; }
  const MetadataEntry* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }

  Result<int64_t> integer(std::string_view key) const;  // any integer type
  Result<double> real(std::string_view key) const;      // any number
  Result<bool> boolean(std::string_view key) const;
  Result<std::string_view> text(std::string_view key) const;  // points into the file
  Result<std::vector<int64_t>> integers(std::string_view key) const;
  Result<std::vector<float>> reals(std::string_view key) const;
  Result<std::vector<std::string_view>> texts(std::string_view key) const;

  // The same, or `otherwise` where the key is absent (a wrong type stays an error).
  Result<int64_t> integer_or(std::string_view key, int64_t otherwise) const;
  Result<double> real_or(std::string_view key, double otherwise) const;
  Result<bool> boolean_or(std::string_view key, bool otherwise) const;
  Result<std::string_view> text_or(std::string_view key, std::string_view otherwise) const;

  // --- tensors ---
  std::span<const StoredTensor> tensors() const { return tensors_; }
  const StoredTensor* find_tensor(std::string_view name) const;
  // Errors: not_found, naming file and tensor.
  Result<const StoredTensor*> tensor(std::string_view name) const;
  // Also checks the shape; the error says the shape found and the one expected.
  Result<const StoredTensor*> tensor(std::string_view name, std::span<const int64_t> shape) const;

  // --- making one ---
  explicit ModelFile(std::filesystem::path path) : path_(std::move(path)) {}
  // Keeps `object` (a mapping, a buffer) alive as long as this.
  void keep(std::shared_ptr<const void> object) { kept_.push_back(std::move(object)); }
  // Errors: invalid_argument for a key or name that is already there. The entry's key and bytes must stay
  // valid.
  Status add_metadata(const MetadataEntry& entry);
  Status add_tensor(StoredTensor tensor);

 private:
  std::filesystem::path path_;
  std::vector<MetadataEntry> metadata_;
  std::vector<StoredTensor> tensors_;
  std::unordered_map<std::string_view, size_t> metadata_index_;
  std::unordered_map<std::string, size_t> tensor_index_;
  std::vector<std::shared_ptr<const void>> kept_;
};

// Whether every value of the tensor is finite; block formats are judged by their scales, so this costs little
// beside reading the tensor. Errors: invalid_argument, naming the tensor.
Status check_finite(const StoredTensor& tensor);

// "[576, 1536]".
std::string shape_text(std::span<const int64_t> shape);

}  // namespace onset
