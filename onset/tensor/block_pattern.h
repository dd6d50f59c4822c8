// A static pattern of key blocks (LongGen, arXiv:2410.01485): which blocks of page_tokens keys a block of as many queries sees.
#pragma once

#include <algorithm>
#include <cstdint>

#include "onset/tensor/key_value_view.h"

namespace onset {

// Key block kb is seen by query block qb >= kb if it is one of the first `sink`, one of the last `local` up to qb itself, or stands on a
// stripe: (kb + offset) % stride == 0. Numbers count blocks of absolute positions, so that they do not depend on how a text is cut. A
// block that is seen no more never comes back: a cache can let go of it.
struct BlockPattern {
  int32_t sink = 0;
  int32_t local = 0;   // the query's own block counts; 0: no pattern, everything is seen
  int32_t stride = 0;  // 0: no stripes
  int32_t offset = 0;

  bool any() const { return local > 0; }
  // Seen by every later query.
  bool keeps(int64_t key_block) const { return key_block < sink || (stride > 0 && (key_block + offset) % stride == 0); }
  bool sees(int64_t query_block, int64_t key_block) const {
    return key_block <= query_block && (query_block - key_block < local || keeps(key_block));
  }
  // Blocks that a cache of `blocks` blocks holds while at most `rows` rows run at a time, the last of them in the last block.
  int64_t kept(int64_t blocks, int64_t rows) const {
    const int64_t near = std::min<int64_t>(blocks, local - 1 + (rows + page_tokens - 2) / page_tokens + 1);
    const int64_t far = blocks - near, sinks = std::min<int64_t>(sink, far);
    return near + sinks + stripes(far) - stripes(sinks);
  }
  bool operator==(const BlockPattern&) const = default;

 private:
  // Of the first `blocks`, those on a stripe.
  int64_t stripes(int64_t blocks) const {
    if (stride == 0) return 0;
    const int64_t begin = offset % stride;
    return (begin + blocks + stride - 1) / stride - (begin + stride - 1) / stride;
  }
};

}  // namespace onset
