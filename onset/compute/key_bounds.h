// How large products of a query with the keys of a page can be: the largest and the smallest number of each channel over its keys bound
// them (Quest, arXiv:2406.10774), for each *logical* page of some tokens, of which a page of page_tokens holds several (LServe,
// arXiv:2502.14866, section 3.4).
//
// Bounds of one KV head lie in tiles of bound_lanes logical pages: [tile][largest, smallest][head_size][lane], as half precision rounded
// outwards, so that they stay bounds (beyond 65,504, which no key reaches, they end there).
#pragma once

#include <cstddef>
#include <cstdint>

#include "onset/base/cpu_features.h"
#include "onset/tensor/key_value_view.h"

namespace onset {

inline constexpr int bound_lanes = 16;

// Halves that the bounds of so many logical pages take.
size_t key_bounds_size(int head_size, int64_t logical_pages);

// Bounds of the logical pages of one whole page, whose head lies at `head` (compute/page_format.h); the first of them has this number among
// those at `bounds`. logical_tokens divides page_tokens.
void store_key_bounds(Isa isa, KvType type, int head_size, const std::byte* head, int logical_tokens, int64_t logical_page,
                      uint16_t* bounds);

// scores[q * stride + page - first] = the largest over the page's logical pages of sum_d max(query_d * largest_d, query_d * smallest_d),
// for pages first..last-1 and `count` queries (query q at queries + q * head_size). The same bits with every instruction set, alone or
// together.
void score_pages(Isa isa, int head_size, int logical_tokens, const uint16_t* bounds, const float* queries, int count, int32_t first,
                 int32_t last, float* scores, int64_t stride);

}  // namespace onset
