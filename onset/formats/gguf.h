// GGUF files, version 2 and 3: reading by mapping, writing by streaming.
//
// The format: "GGUF", version (u32), number of tensors and of metadata entries (u64 each), the entries, the
// tensors' names, extents, types and offsets, and after padding the tensors' bytes. Everything is
// little-endian. A model may be split over files NAME-00001-of-0000N.gguf that carry split.no, split.count
// and split.tensors.count.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/mapped_file.h"
#include "onset/base/status.h"
#include "onset/formats/model_file.h"

namespace onset {

// Maps a GGUF file. Given any part of a split model, opens all of its parts; the metadata are the first
// part's. Every size, offset and count is checked: each tensor lies inside its file, aligned, apart from the
// others. Errors: not_found for an absent file or part, invalid_argument for a damaged one, unsupported for a
// version, byte order or tensor type that this program does not know; each names the file and the field.
Result<ModelFile> open_gguf(const std::filesystem::path& path);

// The same from memory, for one unsplit file; `name` stands for the path in errors. The bytes must outlive
// the result.
Result<ModelFile> parse_gguf(std::span<const std::byte> bytes, const std::string& name);

// Metadata to be written, in order. Setting a key again replaces its value.
class GgufMetadata {
 public:
  void set_u32(std::string_view key, uint32_t value);
  void set_u16(std::string_view key, uint16_t value);
  void set_i32(std::string_view key, int32_t value);
  void set_u64(std::string_view key, uint64_t value);
  void set_f32(std::string_view key, float value);
  void set_boolean(std::string_view key, bool value);
  void set_text(std::string_view key, std::string_view value);
  void set_i32s(std::string_view key, std::span<const int32_t> values);
  void set_f32s(std::string_view key, std::span<const float> values);
  void set_booleans(std::string_view key, const std::vector<bool>& values);
  void set_texts(std::string_view key, std::span<const std::string> values);
  // Copies an entry as it is, for example out of another file.
  void set(const MetadataEntry& entry);
  void remove(std::string_view key);

  // Views of the entries; they point into this object and are valid until it changes.
  std::vector<MetadataEntry> entries() const;

 private:
  struct Item {
    std::string key;
    MetadataType type;
    bool is_array;
    uint64_t count;
    std::vector<std::byte> bytes;
  };
  Item& item(std::string_view key, MetadataType type, bool is_array, uint64_t count);

  std::vector<Item> items_;
};

// A tensor that will be written: row-major extents.
struct GgufTensorInfo {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
};

// When to begin another part. Zero means no limit; both zero means one file under its own name.
struct GgufSplit {
  uint64_t part_bytes = 0;   // largest sum of tensor bytes in a part (a part has at least one tensor)
  int64_t part_tensors = 0;  // largest number of tensors in a part
};

// Writes a GGUF version 3 file as its bytes come. Nothing appears under the final names before commit().
class GgufWriter {
 public:
  // Writes the headers. `path` ends in ".gguf"; with a split that needs it the parts are
  // PATH-0000i-of-0000N.gguf. Errors: invalid_argument (bad extents, a name twice, more than 512 parts), and
  // what AtomicFile says.
  static Result<GgufWriter> create(const std::filesystem::path& path, const GgufMetadata& metadata, std::vector<GgufTensorInfo> tensors,
                                   const GgufSplit& split = {});

  // The next bytes of the tensors, in the order they were declared; any number of bytes up to the end of the
  // tensor at hand.
  Status write(std::span<const std::byte> bytes);
  // Puts the file or files in place. Errors: invalid_argument if tensor bytes are missing.
  Status commit();

  const std::vector<std::filesystem::path>& paths() const { return paths_; }

 private:
  struct Place {
    size_t part;
    uint64_t bytes;
  };
  GgufWriter() = default;

  std::vector<std::filesystem::path> paths_;
  std::vector<AtomicFile> files_;
  std::vector<GgufTensorInfo> tensors_;
  std::vector<Place> places_;
  size_t next_tensor_ = 0;
  uint64_t written_of_tensor_ = 0;
};

}  // namespace onset
