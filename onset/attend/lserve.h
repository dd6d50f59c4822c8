// LServe (arXiv:2502.14866): half of the KV heads stream, the others keep everything and, in answers, read only the pages that matter.
//
// Streaming heads see the first `sink` tokens and the last ones: `prefill` in a prompt, `local` in an answer. Retrieval heads see
// everything in a prompt; a row of an answer with more than `budget` tokens before it sees budget / 64 pages: its own and those whose keys
// may have the largest product with its query (compute/key_bounds.h), chosen anew at every multiple of `interval` positions. Which rows
// choose follows from positions alone, so that a request is answered alike in any company and after its pages were taken away.
#pragma once

#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "onset/attend/lserve_options.h"
#include "onset/attend/policy.h"
#include "onset/base/aligned.h"

namespace onset {

// Pages that a retrieval head reads for a row at `position` (the row's own is one of them).
int32_t lserve_pages(const LServeOptions& options, int32_t position);
// The position whose query chooses for a row of an answer, where the prompt has so many tokens and the row has more than `budget` before
// it.
int32_t lserve_chooser(const LServeOptions& options, int32_t prompt_tokens, int32_t position);

// Bounds of the keys of a layer's whole pages, of some KV heads of one group; kept while a sequence grows.
class PageBounds {
 public:
  // Makes sure of the first `pages` pages, which are full. kv_heads: the same each time.
  void extend(const AttendContext& context, int32_t pages, int logical_tokens, std::span<const int> kv_heads);
  const uint16_t* head(int kv_head) const { return heads_[kv_head].data(); }
  int32_t pages() const { return pages_; }

 private:
  int32_t pages_ = 0;
  std::vector<std::vector<uint16_t>> heads_;  // by KV head; empty where nobody asks
};

// The `count` largest scores' numbers, ascending; of equals the first. Scores that are not numbers count as 0.
std::vector<int32_t> best_pages(std::span<const float> scores, int32_t count);

class LServeAttend : public AttendPolicy {
 public:
  // heads: those of the model. prompt_tokens: rows from that position on are an answer's.
  LServeAttend(std::shared_ptr<const StreamingHeads> heads, const LServeOptions& options, int32_t prompt_tokens)
      : heads_(std::move(heads)), options_(options), prompt_tokens_(prompt_tokens) {}
  const AttentionPlan& plan(const AttendContext& context) override;

 private:
  // What the retrieval heads of a layer and group read, and how it was found.
  struct Retrieval {
    PageBounds bounds;
    int32_t chosen_at = -1;                    // the position whose query chose
    std::vector<std::vector<int32_t>> chosen;  // by selection: pages before the chooser's own, ascending
  };
  std::vector<PlanBlock> streaming_blocks(const AttendContext& context, int32_t prompt_rows) const;
  void choose(const AttendContext& context, int32_t row, int32_t position, const std::vector<int>& kv_heads, Retrieval& retrieval) const;
  int selections_of(const AttendContext& context) const;

  std::shared_ptr<const StreamingHeads> heads_;
  LServeOptions options_;
  int32_t prompt_tokens_;
  DenseAttend dense_;
  AttentionPlan plan_;
  std::map<std::pair<int, int>, Retrieval> retrievals_;  // by layer and group
};

}  // namespace onset
