#include "onset/kv/page_pool.h"

#include <sys/mman.h>

#include <cassert>
#include <cstring>
#include <utility>

namespace onset {

Result<PagePool> PagePool::create(size_t page_bytes, int64_t pages) {
  constexpr int64_t most_pages = int64_t{1} << 30;
  if (page_bytes == 0 || page_bytes % 64 != 0 || pages < 1 || pages > most_pages ||
      page_bytes > (size_t{1} << 46) / static_cast<size_t>(pages)) {
    return error(Code::invalid_argument, "key/value pool: {} pages of {} bytes is not a size that can be had", pages, page_bytes);
  }
  PagePool pool;
  pool.page_bytes_ = page_bytes;
  pool.mapped_bytes_ = page_bytes * static_cast<size_t>(pages);
  void* memory = mmap(nullptr, pool.mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    pool.mapped_bytes_ = 0;
    return error(Code::resource_exhausted, "key/value pool: {} bytes of memory cannot be reserved",
                 page_bytes * static_cast<size_t>(pages));
  }
  pool.base_ = static_cast<std::byte*>(memory);
  pool.references_.assign(pages, 0);
  pool.used_before_.assign(pages, false);
  pool.free_.reserve(pages);
  for (int64_t page = pages - 1; page >= 0; --page) pool.free_.push_back(static_cast<PageId>(page));
  return pool;
}

PagePool::PagePool(PagePool&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      page_bytes_(other.page_bytes_),
      mapped_bytes_(std::exchange(other.mapped_bytes_, 0)),
      references_(std::move(other.references_)),
      free_(std::move(other.free_)),
      used_before_(std::move(other.used_before_)),
      reclaimer_(std::move(other.reclaimer_)) {}

PagePool::~PagePool() {
  if (base_ != nullptr) munmap(base_, mapped_bytes_);
}

PageId PagePool::acquire() {
  if (free_.empty()) return no_page;
  const PageId page = free_.back();
  free_.pop_back();
  references_[page] = 1;
  if (used_before_[page]) std::memset(data(page), 0, page_bytes_);
  used_before_[page] = true;
  return page;
}

bool PagePool::make_room(int64_t pages) {
  if (free_pages() < pages && reclaimer_) reclaimer_(pages);
  return free_pages() >= pages;
}

void PagePool::release(PageId page) {
  assert(references_[page] > 0);
  if (--references_[page] == 0) free_.push_back(page);
}

}  // namespace onset
