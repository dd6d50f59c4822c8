// A file for pages that have to make room: of fixed size, without a name, gone with the program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <vector>

#include "onset/base/status.h"

namespace onset {

class SwapFile {
 public:
  // A new file in `folder` for pages of `page_bytes` bytes, at most `most_pages` of them. It takes disk space as pages are written.
  // Errors: failed, with the folder and the system's reason; invalid_argument for sizes that make no sense.
  static Result<SwapFile> create(const std::filesystem::path& folder, size_t page_bytes, int64_t most_pages);
  SwapFile(SwapFile&& other) noexcept;
  SwapFile& operator=(SwapFile&&) = delete;
  ~SwapFile();

  // Writes a page; returns the place it has now. Errors: resource_exhausted when the file is full or the disk is; failed, with the
  // system's reason. Nothing has changed then.
  Result<int64_t> write(const std::byte* page);
  // Reads the page at a place, which stays taken. Errors: failed.
  Status read(int64_t place, std::byte* page) const;
  void free(int64_t place) { free_.push_back(place); }

  int64_t most_pages() const { return most_pages_; }
  int64_t free_pages() const { return most_pages_ - used_pages(); }
  int64_t used_pages() const { return places_ - static_cast<int64_t>(free_.size()); }

 private:
  SwapFile() = default;
  int descriptor_ = -1;
  std::filesystem::path folder_;
  size_t page_bytes_ = 0;
  int64_t most_pages_ = 0;
  int64_t places_ = 0;         // given out so far
  std::vector<int64_t> free_;  // of these, taken no more
};

}  // namespace onset
