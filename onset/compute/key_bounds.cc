#include "onset/compute/key_bounds.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

#include "onset/base/aligned.h"
#include "onset/compute/key_bounds_kernels.h"
#include "onset/compute/page_format.h"
#include "onset/tensor/dtype.h"

namespace onset {
namespace {

const KeyBoundsKernels& kernels_for(Isa isa) {
  switch (isa) {
    case Isa::generic:
      break;
#if defined(__x86_64__)
    case Isa::avx2:
    case Isa::avx_vnni:
      return key_bounds_avx2;
    case Isa::avx512:
      return key_bounds_avx512;
#else
    default:
      break;
#endif
  }
  return key_bounds_generic;
}

constexpr float largest_half = 65504.0f;

// The smallest half that is no smaller, and the largest that is no larger.
uint16_t half_above(float value) {
  value = std::clamp(value, -largest_half, largest_half);
  const uint16_t half = f32_to_f16(value);
  if (!(f16_to_f32(half) < value)) return half;
  if (half == 0x8000) return 1;
  return static_cast<uint16_t>((half & 0x8000) != 0 ? half - 1 : half + 1);
}
uint16_t half_below(float value) {
  return static_cast<uint16_t>(half_above(-value) ^ 0x8000);
}

size_t tile_size(int head_size) {
  return size_t{2} * static_cast<size_t>(head_size) * bound_lanes;
}

}  // namespace

size_t key_bounds_size(int head_size, int64_t logical_pages) {
  return static_cast<size_t>((logical_pages + bound_lanes - 1) / bound_lanes) * tile_size(head_size);
}

void store_key_bounds(Isa isa, KvType type, int head_size, const std::byte* head, int logical_tokens, int64_t logical_page,
                      uint16_t* bounds) {
  const int pages = page_tokens / logical_tokens;
  AlignedVector<float> plane(static_cast<size_t>(head_size) * page_tokens);
  read_keys(isa, type, head_size, head, plane.data());
  const KeyBoundsKernels& kernels = kernels_for(isa);
  float largest[page_tokens], smallest[page_tokens];
  for (int d = 0; d < head_size; ++d) {
    kernels.extremes(plane.data() + static_cast<size_t>(d) * page_tokens, page_tokens, logical_tokens, largest, smallest);
    for (int i = 0; i < pages; ++i) {
      const int64_t page = logical_page + i;
      uint16_t* at = bounds + static_cast<size_t>(page / bound_lanes) * tile_size(head_size) + d * bound_lanes + page % bound_lanes;
      at[0] = half_above(largest[i]);
      at[head_size * bound_lanes] = half_below(smallest[i]);
    }
  }
}

void score_pages(Isa isa, int head_size, int logical_tokens, const uint16_t* bounds, const float* queries, int count, int32_t first,
                 int32_t last, float* scores, int64_t stride) {
  const KeyBoundsKernels& kernels = kernels_for(isa);
  const int64_t of_page = page_tokens / logical_tokens;
  const int shift = std::countr_zero(static_cast<uint64_t>(of_page));  // logical_tokens divides a power of two
  std::vector<float> parts(static_cast<size_t>(head_size) * most_bound_queries * 2);
  float sums[most_bound_queries * bound_lanes];
  for (int begin = 0; begin < count; begin += most_bound_queries) {
    const int some = std::min(most_bound_queries, count - begin);
    for (int d = 0; d < head_size; ++d) {
      for (int q = 0; q < some; ++q) {
        const float number = queries[(begin + q) * head_size + d];
        parts[static_cast<size_t>((d * some + q) * 2)] = std::max(number, 0.0f);
        parts[static_cast<size_t>((d * some + q) * 2 + 1)] = std::min(number, 0.0f);
      }
    }
    for (int q = 0; q < some; ++q) std::fill_n(scores + (begin + q) * stride, last - first, -std::numeric_limits<float>::infinity());
    const int64_t end = last * of_page;
    for (int64_t tile = first * of_page / bound_lanes; tile * bound_lanes < end; ++tile) {
      kernels.score(bounds + static_cast<size_t>(tile) * tile_size(head_size), head_size, parts.data(), some, sums);
      const int64_t from = std::max(tile * bound_lanes, first * of_page), to = std::min((tile + 1) * bound_lanes, end);
      for (int q = 0; q < some; ++q) {
        float* line = scores + (begin + q) * stride - first;
        for (int64_t page = from; page < to; ++page) {
          float& score = line[page >> shift];
          score = std::max(score, sums[q * bound_lanes + page % bound_lanes]);
        }
      }
    }
  }
}

}  // namespace onset
