// A fixed pool of equally large pages with reference counts.
//
// A page holds page_tokens slots of one layer and one group of KV heads (compute/page_format.h). The pool's memory is reserved once;
// the system gives it out as pages are first touched. A page can be shared (prefix cache, forks); its bytes are
// zero when it is handed out, so that no slot ever holds what a kernel could trip over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "onset/base/status.h"

namespace onset {

using PageId = int32_t;
inline constexpr PageId no_page = -1;

class PagePool {
 public:
  // Errors: invalid_argument for sizes that make no sense, resource_exhausted if the memory cannot be reserved.
  static Result<PagePool> create(size_t page_bytes, int64_t pages);
  PagePool(PagePool&& other) noexcept;
  PagePool& operator=(PagePool&&) = delete;
  ~PagePool();

  size_t page_bytes() const { return page_bytes_; }
  int64_t pages() const { return static_cast<int64_t>(references_.size()); }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }

  // A zeroed page with one reference, or no_page if none is free.
  PageId acquire();
  // Whether so many pages are free, if need be after somebody has given pages back.
  bool make_room(int64_t pages);
  // Asked when fewer pages are free than wanted; gives back, with release(), what it can do without. Null: nobody.
  void set_reclaimer(std::function<void(int64_t wanted)> reclaimer) { reclaimer_ = std::move(reclaimer); }
  // One more, or one less, reference to a page in use; the last release frees it.
  void share(PageId page) { ++references_[page]; }
  void release(PageId page);
  int32_t references(PageId page) const { return references_[page]; }

  std::byte* data(PageId page) { return base_ + static_cast<size_t>(page) * page_bytes_; }
  const std::byte* data(PageId page) const { return base_ + static_cast<size_t>(page) * page_bytes_; }

 private:
  PagePool() = default;
  std::byte* base_ = nullptr;
  size_t page_bytes_ = 0;
  size_t mapped_bytes_ = 0;
  std::vector<int32_t> references_;
  std::vector<PageId> free_;
  std::vector<bool> used_before_;  // fresh pages are zero already
  std::function<void(int64_t wanted)> reclaimer_;
};

}  // namespace onset
