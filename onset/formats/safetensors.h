// safetensors files and sharded folders of them, mapped.
//
// The format: the header's length (u64), a JSON object {name: {"dtype", "shape", "data_offsets"}}, the
// tensors' bytes. A sharded model has model.safetensors.index.json with {"weight_map": {tensor name: file
// name}}.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/mapped_file.h"
#include "onset/base/status.h"
#include "onset/formats/model_file.h"

namespace onset {

// Tensors of one or several safetensors files. F32, F16 and BF16 are weights; I8, I16, I32, I64 and F64 are
// listed too.
class Safetensors {
 public:
  // Opens a .safetensors file, or a folder with model.safetensors or model.safetensors.index.json.
  // Errors: not_found, invalid_argument (a damaged header, offsets outside the file or overlapping, a name
  // twice, an index that does not fit its files); each names the file and the tensor.
  static Result<Safetensors> open(const std::filesystem::path& path);

  // One file's bytes in memory; `name` stands for the path in errors. The bytes must outlive the result.
  static Result<Safetensors> parse(std::span<const std::byte> bytes, const std::string& name);

  std::span<const StoredTensor> tensors() const { return tensors_; }
  const StoredTensor* find(std::string_view name) const;
  // Errors: not_found; unsupported for a tensor of an element type that this program does not know (F8_E4M3,
  // ...).
  Result<const StoredTensor*> tensor(std::string_view name) const;
  // Tensors whose element type is not known: name and type.
  const std::map<std::string, std::string>& unsupported() const { return unsupported_; }
  // The "__metadata__" of the files.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const { return path_; }
  // Keeps the mapped bytes valid beyond this object.
  std::vector<std::shared_ptr<const MappedFile>> files() const { return files_; }

 private:
  Status read(std::span<const std::byte> bytes, const std::string& name);

  std::filesystem::path path_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
  std::vector<StoredTensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> unsupported_, metadata_;
};

}  // namespace onset
