// Memory aligned to cache lines, for what the kernels read and write.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <vector>

namespace onset {

inline constexpr size_t cache_line_bytes = 64;

// An allocator for std::vector whose elements begin on a cache line and are left uninitialised by resize(n).
template <typename T>
struct AlignedAllocator {
  using value_type = T;
  AlignedAllocator() = default;
  template <typename U>
  AlignedAllocator(const AlignedAllocator<U>&) {}  // NOLINT: converting, as allocators do
  T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{cache_line_bytes})); }
  void deallocate(T* data, size_t) { ::operator delete(data, std::align_val_t{cache_line_bytes}); }
  template <typename U>
  void construct(U* place) {
    ::new (static_cast<void*>(place)) U;
  }
  template <typename U, typename... Args>
  void construct(U* place, Args&&... args) {
    ::new (static_cast<void*>(place)) U(static_cast<Args&&>(args)...);
  }
  friend bool operator==(const AlignedAllocator&, const AlignedAllocator&) { return true; }
};

template <typename T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

}  // namespace onset
