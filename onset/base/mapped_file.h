// A whole file mapped read-only into memory, and files that appear whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "onset/base/status.h"

namespace onset {

// Owns one read-only mapping; movable. The bytes stay valid until it is destroyed.
class MappedFile {
 public:
  // Errors: not_found, failed (with the system's reason), invalid_argument for a folder.
  static Result<MappedFile> open(const std::filesystem::path& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::filesystem::path& path() const { return path_; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  std::filesystem::path path_;
};

// Reads a whole (small) file into a string. Errors as MappedFile::open.
Result<std::string> read_file(const std::filesystem::path& path);

// A file that is written beside its target and moved into place by commit(), after an fsync; without
// commit() nothing is left behind. Every failed write (a full disk, say) is an error that names the file.
class AtomicFile {
 public:
  static Result<AtomicFile> create(const std::filesystem::path& target);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  Status write(std::span<const std::byte> bytes);
  Status write(std::string_view text);
  // Writes at an absolute offset; the file grows as needed.
  Status write_at(size_t offset, std::span<const std::byte> bytes);
  size_t size() const { return size_; }  // bytes appended by write()
  Status commit();

 private:
  AtomicFile(int descriptor, std::filesystem::path target, std::filesystem::path temporary)
      : descriptor_(descriptor), target_(std::move(target)), temporary_(std::move(temporary)) {}

  int descriptor_ = -1;
  size_t size_ = 0;
  std::filesystem::path target_, temporary_;
};

// `$XDG_CACHE_HOME/onset`, else `~/.cache/onset`; not created.
std::filesystem::path cache_folder();

}  // namespace onset
