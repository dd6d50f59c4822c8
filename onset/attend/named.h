// Attend policies by name, as options and requests say them:
//
//   dense                          every earlier position
//   window:SIZE[:SINK]             the last SIZE positions and the first SINK (default 4)
//   minference[:TABLE][:NAME=NUMBER...]
//                                  each head in the way that TABLE says: a file, or one that is built in (attend/head_table.h); without,
//                                  the built-in one for the model's layers and heads. `every` rows (1024) are estimated together, those
//                                  below `from` (1024) are dense, `ratio` multiplies all budgets; `vertical` and `slash`, in place of a
//                                  table, are columns and diagonals of every head (arXiv:2407.02490)
//   lserve[:TABLE][:NAME=NUMBER...]
//                                  KV heads that TABLE says lose least by it (`sparsity`, a half) see the first `sink` tokens (128) and the
//                                  last `prefill` in a prompt (512) and `local` in an answer (256); the others see everything in a prompt
//                                  and `budget` tokens (1024) in an answer: the pages whose bounds of products with the query are largest,
//                                  by logical pages of `logical` tokens (16), chosen anew every `interval` positions (4) for each KV head,
//                                  or (`group`=0) for each query head (arXiv:2502.14866)
//   longgen:FULL[:NAME=TOKENS...]  FULL layers in the middle see everything; the others the first `sink` tokens (64) and the last `window`
//                                  (1984), or stripes: `stride`, `offset`, and `step` from one KV head to the next (arXiv:2410.01485)
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "onset/attend/policy.h"

namespace onset {

// What a policy must know of a model.
struct AttendFacts {
  int32_t layers = 0;
  int32_t query_heads = 0;
  int32_t kv_heads = 0;
  bool windows = false;       // some layer has a window
  bool patterns = false;      // some layer was given a pattern of blocks at load
  bool streams = false;       // they are those of streaming heads
  int32_t prompt_tokens = 0;  // of the request at hand: rows from that position on are its answer
};

// What was asked for: made once, shared by any number of requests.
class AttendSpec {
 public:
  virtual ~AttendSpec() = default;
  // As it was said. Two specs of one text are the same.
  const std::string& text() const { return text_; }
  // Errors: invalid_argument or unsupported, saying why the model cannot run it.
  virtual Status check(const AttendFacts& facts) const = 0;
  // A policy for one sequence.
  virtual std::unique_ptr<AttendPolicy> make(const AttendFacts& facts) const = 0;
  // Its plans follow from positions alone: rows may be computed again, or found in the prefix cache among those of the same spec.
  virtual bool stateless() const = 0;
  // Rows of a prompt run together in blocks that begin at multiples of this many positions, for its plans look at a whole block; what lies
  // in whole blocks can be found in the prefix cache. 0: rows run as they come.
  virtual int32_t block_rows() const { return 0; }
  // What an answer's rows see is not what they would see in a prompt: nobody else can use their keys, and a prompt that begins as this
  // one and its answer is no help to it.
  virtual bool answers_apart() const { return false; }
  // Something about it that its user should know; or empty.
  virtual std::string warning() const { return ""; }
  // Its plans allow for slots that are not positions: it goes with policies that drop rows.
  virtual bool allows_dropped_rows() const = 0;

 protected:
  explicit AttendSpec(std::string text) : text_(std::move(text)) {}

 private:
  std::string text_;
};

// Errors: invalid_argument naming what is not known, or the number that makes no sense.
// files: whether a name may be that of a file, which is read; not where others than the program's user say it.
enum class AttendFiles : uint8_t { refused, read };
Result<std::shared_ptr<const AttendSpec>> parse_attend(std::string_view text, AttendFiles files = AttendFiles::refused);

// Pairs of a query and a key, over all layers and query heads of one sequence's rows so far.
struct AttendCounts {
  int64_t visited = 0;  // by the plans
  int64_t dense = 0;    // that the model itself would visit
};
// The share of the dense pairs that was not visited; 0 where there was nothing to visit.
inline double skipped_share(const AttendCounts& counts) {
  return counts.dense > 0 ? 1.0 - static_cast<double>(counts.visited) / static_cast<double>(counts.dense) : 0.0;
}

// Runs another policy and counts what its plans visit.
class CountedAttend : public AttendPolicy {
 public:
  explicit CountedAttend(std::unique_ptr<AttendPolicy> policy) : policy_(std::move(policy)) {}
  const AttentionPlan& plan(const AttendContext& context) override;
  const AttendCounts& counts() const { return counts_; }

 private:
  std::unique_ptr<AttendPolicy> policy_;
  AttendCounts counts_;
};

// Pairs that a plan visits for rows at these positions; slots are positions.
int64_t visited_pairs(const AttentionPlan& plan, std::span<const int32_t> positions);

}  // namespace onset
