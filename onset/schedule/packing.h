// Offline batches: which prompts are read together, and how many rows are computed for them (Prepacking, arXiv:2404.09529).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "onset/base/status.h"

namespace onset {

enum class OfflinePolicy : uint8_t {
  padded,          // every prompt is a line of the batch, padded to the longest
  length_ordered,  // the same, after the whole data set was sorted by length
  prepack,         // several prompts to a line, as long as the longest prompt; lines are padded to the longest line
  ragged,          // all prompts one after another, no padding at all
};
const char* offline_policy_name(OfflinePolicy policy);  // "padded", "length-ordered", "prepack", "ragged"
Result<OfflinePolicy> offline_policy(const std::string& name);
std::vector<std::string> offline_policy_names();

// Lines of prompts (their numbers) that are computed as `lines.size()` x `line_tokens` rows.
struct OfflineBatch {
  std::vector<std::vector<int32_t>> lines;
  int32_t line_tokens = 0;
  int64_t rows() const { return static_cast<int64_t>(lines.size()) * line_tokens; }
};

// Best-fit decreasing: prompts from the longest to the shortest (equals in their order) each go into the bin that has the least room left
// among those where it fits (the first one of equals), or into a new one. O(k log k). Bins in the order they were opened.
// Errors: invalid_argument for no prompts, an empty one, or one longer than `capacity`; all name the prompt.
Result<std::vector<std::vector<int32_t>>> pack_best_fit(std::span<const int32_t> lengths, int32_t capacity);

// The batches of prompts of these lengths, `batch` prompts in each (the last may have fewer). whole_data_set: prepack packs all prompts
// at once into lines as long as the longest of all, and `batch` lines make a batch. Errors: those of pack_best_fit, and
// invalid_argument for a batch below 1.
Result<std::vector<OfflineBatch>> offline_batches(OfflinePolicy policy, std::span<const int32_t> lengths, int32_t batch,
                                                  bool whole_data_set = false);

}  // namespace onset
