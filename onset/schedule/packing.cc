#include "onset/schedule/packing.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <set>

namespace onset {
namespace {

constexpr std::array names = {"padded", "length-ordered", "prepack", "ragged"};

Status check_lengths(std::span<const int32_t> lengths, int32_t capacity) {
  if (lengths.empty()) return error(Code::invalid_argument, "there are no prompts: expected one or more");
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 1) return error(Code::invalid_argument, "prompt {} is empty: expected one token or more", i);
    if (lengths[i] > capacity)
      return error(Code::invalid_argument, "prompt {} has {} tokens, a line has room for {}", i, lengths[i], capacity);
  }
  return {};
}

std::vector<int32_t> in_order(std::span<const int32_t> lengths) {
  std::vector<int32_t> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// Equals in their order.
std::vector<int32_t> longest_first(std::span<const int32_t> lengths) {
  std::vector<int32_t> order = in_order(lengths);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b; });
  return order;
}

// One prompt to a line, those of `order` in groups of `batch`.
std::vector<OfflineBatch> padded_batches(std::span<const int32_t> lengths, const std::vector<int32_t>& order, int32_t batch) {
  std::vector<OfflineBatch> batches;
  for (size_t i = 0; i < order.size(); ++i) {
    if (i % batch == 0) batches.emplace_back();
    batches.back().lines.push_back({order[i]});
    batches.back().line_tokens = std::max(batches.back().line_tokens, lengths[order[i]]);
  }
  return batches;
}

int32_t load_of(std::span<const int32_t> lengths, const std::vector<int32_t>& line) {
  return std::accumulate(line.begin(), line.end(), 0, [&](int32_t sum, int32_t prompt) { return sum + lengths[prompt]; });
}

// Lines in groups of `batch`.
std::vector<OfflineBatch> line_batches(std::span<const int32_t> lengths, std::vector<std::vector<int32_t>> lines, size_t batch) {
  std::vector<OfflineBatch> batches;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i % batch == 0) batches.emplace_back();
    batches.back().line_tokens = std::max(batches.back().line_tokens, load_of(lengths, lines[i]));
    batches.back().lines.push_back(std::move(lines[i]));
  }
  return batches;
}

}  // namespace

const char* offline_policy_name(OfflinePolicy policy) {
  return names[static_cast<size_t>(policy)];
}

std::vector<std::string> offline_policy_names() {
  return {names.begin(), names.end()};
}

Result<OfflinePolicy> offline_policy(const std::string& name) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return static_cast<OfflinePolicy>(found - names.begin());
  return error(Code::invalid_argument, "there is no offline policy {}, expected one of {}", name, fmt::join(names, ", "));
}

Result<std::vector<std::vector<int32_t>>> pack_best_fit(std::span<const int32_t> lengths, int32_t capacity) {
  ONSET_TRY(check_lengths(lengths, capacity));
  const std::vector<int32_t> order = longest_first(lengths);
  std::vector<std::vector<int32_t>> bins;
  // Load and number of each bin; of equal loads the first bin comes last, where the search ends.
  std::set<std::pair<int32_t, int32_t>> loads;
  for (const int32_t prompt : order) {
    auto beyond = loads.upper_bound({capacity - lengths[prompt], 1});
    int32_t bin = static_cast<int32_t>(bins.size());
    int32_t load = 0;
    if (beyond != loads.begin()) {
      --beyond;
      load = beyond->first;
      bin = -beyond->second;
      loads.erase(beyond);
    } else {
      bins.emplace_back();
    }
    bins[bin].push_back(prompt);
    loads.insert({load + lengths[prompt], -bin});
  }
  return bins;
}

Result<std::vector<OfflineBatch>> offline_batches(OfflinePolicy policy, std::span<const int32_t> lengths, int32_t batch,
                                                  bool whole_data_set) {
  if (batch < 1) return error(Code::invalid_argument, "a batch of {} prompts is not one: expected 1 or more", batch);
  ONSET_TRY(check_lengths(lengths, INT32_MAX));
  if (policy == OfflinePolicy::length_ordered) return padded_batches(lengths, longest_first(lengths), batch);
  if (policy == OfflinePolicy::padded) return padded_batches(lengths, in_order(lengths), batch);
  if (policy == OfflinePolicy::prepack && whole_data_set) {
    ONSET_ASSIGN(auto bins, pack_best_fit(lengths, *std::max_element(lengths.begin(), lengths.end())));
    return line_batches(lengths, std::move(bins), static_cast<size_t>(batch));
  }
  std::vector<OfflineBatch> batches;
  for (size_t begin = 0; begin < lengths.size(); begin += static_cast<size_t>(batch)) {
    const std::span<const int32_t> part = lengths.subspan(begin, std::min<size_t>(batch, lengths.size() - begin));
    std::vector<std::vector<int32_t>> lines(1);
    if (policy == OfflinePolicy::prepack) {
      ONSET_ASSIGN(lines, pack_best_fit(part, *std::max_element(part.begin(), part.end())));
    } else {
      lines[0].resize(part.size());
      std::iota(lines[0].begin(), lines[0].end(), 0);
    }
    for (auto& line : lines) {
      for (int32_t& prompt : line) prompt += static_cast<int32_t>(begin);
    }
    batches.push_back(std::move(line_batches(lengths, std::move(lines), part.size())[0]));
  }
  return batches;
}

}  // namespace onset
