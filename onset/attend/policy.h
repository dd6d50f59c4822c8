// The attend seat: policies that say whom a query sees.
#pragma once

#include <cstdint>
#include <span>

#include "onset/base/cpu_features.h"
#include "onset/base/thread_pool.h"
#include "onset/kv/sequence_cache.h"
#include "onset/tensor/attention_plan.h"
#include "onset/tensor/block_pattern.h"

namespace onset {

// The rows of one sequence that run at one layer, when their keys have been stored.
struct AttendContext {
  int layer = 0;
  int group = 0;                       // group of KV heads
  int query_heads = 0;                 // query heads of this group
  float scale = 1.0f;                  // the model's own softmax scale
  int32_t window = 0;                  // the model's own window at this layer, 0 = none
  BlockPattern blocks = {};            // what the layer was given at load, if anything
  std::span<const int32_t> positions;  // of the query rows, ascending
  const SequenceCache* cache = nullptr;
  // The query vectors (rotary embedding applied): row r, head h at queries + r * query_stride + h * head_size.
  const float* queries = nullptr;
  int64_t query_stride = 0;
  Isa isa = Isa::generic;      // for policies that look at softmax rows themselves (compute/attention.h)
  ThreadPool* pool = nullptr;  // the same; null: there is one thread
};

// Runs body(index, worker) on the context's pool, or here if it has none.
template <typename Body>
void for_each(const AttendContext& context, int64_t count, const Body& body) {
  if (context.pool != nullptr) {
    context.pool->for_each(count, body);
  } else {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
  }
}

// Makes the plan of a layer. One object serves one sequence and may keep state between steps; it is called from the
// engine's thread only. A plan must not depend on how the sequence was cut into steps.
class AttendPolicy {
 public:
  virtual ~AttendPolicy() = default;
  virtual const AttentionPlan& plan(const AttendContext& context) = 0;
};

// Every row sees every earlier position, within the model's own window or pattern of blocks.
class DenseAttend : public AttendPolicy {
 public:
  const AttentionPlan& plan(const AttendContext& context) override;

 private:
  AttentionPlan plan_;
  int32_t rows_ = -1, length_ = -1, window_ = -1;
  int query_heads_ = -1;
  float scale_ = 0;
};

// As dense, but a layer sees only the last `window` positions and the first `sink` ones, whatever the model was
// trained with (a StreamingLLM-style band).
class WindowAttend : public AttendPolicy {
 public:
  WindowAttend(int32_t window, int32_t sink) : window_(window), sink_(sink) {}
  const AttentionPlan& plan(const AttendContext& context) override;

 private:
  int32_t window_, sink_;
  AttentionPlan plan_;
};

// A whole prompt that shares a cache with others (Prepacking, arXiv:2404.09529, section 3.2: independent masks, positions that begin at 0
// again): its rows see its own slots, from `first_slot` on, and nobody else's.
class PackedAttend : public AttendPolicy {
 public:
  explicit PackedAttend(int32_t first_slot) : first_slot_(first_slot) {}
  const AttentionPlan& plan(const AttendContext& context) override;

 private:
  int32_t first_slot_;
  AttentionPlan plan_;
};

// Rows that see nobody: padding.
class BlindAttend : public AttendPolicy {
 public:
  const AttentionPlan& plan(const AttendContext& context) override;

 private:
  AttentionPlan plan_;
};

}  // namespace onset
