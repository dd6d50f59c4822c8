#include "onset/schedule/packing.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace onset {
namespace {

using Bins = std::vector<std::vector<int32_t>>;

std::vector<std::vector<int32_t>> lengths_in(const Bins& bins, const std::vector<int32_t>& lengths) {
  std::vector<std::vector<int32_t>> found;
  for (const auto& bin : bins) {
    auto& in_bin = found.emplace_back();
    for (const int32_t prompt : bin) in_bin.push_back(lengths[prompt]);
  }
  return found;
}

// Brief of arXiv:2404.09529, check 4.
TEST(Packing, TheKnownCase) {
  const std::vector<int32_t> lengths = {10, 10, 11, 1, 2, 7};
  const Bins bins = *pack_best_fit(lengths, 11);
  EXPECT_EQ(lengths_in(bins, lengths), (Bins{{11}, {10, 1}, {10}, {7, 2}}));
  EXPECT_EQ(bins[1][0], 0);  // equals in their order
  EXPECT_EQ(bins[2][0], 1);
}

// The least number of bins there can be, by trying everything.
int32_t fewest_bins(const std::vector<int32_t>& lengths, int32_t capacity) {
  std::vector<int32_t> loads;
  auto best = static_cast<int32_t>(lengths.size());
  const auto place = [&](const auto& self, size_t next) -> void {
    if (static_cast<int32_t>(loads.size()) >= best) return;
    if (next == lengths.size()) {
      best = static_cast<int32_t>(loads.size());
      return;
    }
    for (size_t bin = 0; bin < loads.size(); ++bin) {
      if (loads[bin] + lengths[next] > capacity) continue;
      loads[bin] += lengths[next];
      self(self, next + 1);
      loads[bin] -= lengths[next];
    }
    loads.push_back(lengths[next]);
    self(self, next + 1);
    loads.pop_back();
  };
  place(place, 0);
  return best;
}

// Check 3.
TEST(Packing, IsValidAndNearlyAsGoodAsCanBe) {
  EXPECT_TRUE(rc::check([] {
    const auto lengths = *rc::gen::nonEmpty(rc::gen::resize(9, rc::gen::container<std::vector<int32_t>>(rc::gen::inRange(1, 60))));
    const int32_t capacity = *rc::gen::inRange(60, 120);
    const Bins bins = *pack_best_fit(lengths, capacity);
    std::vector<int32_t> seen;
    for (const auto& bin : bins) {
      int32_t load = 0;
      for (const int32_t prompt : bin) load += lengths[prompt], seen.push_back(prompt);
      RC_ASSERT(load <= capacity);
    }
    std::sort(seen.begin(), seen.end());
    std::vector<int32_t> all(lengths.size());
    std::iota(all.begin(), all.end(), 0);
    RC_ASSERT(seen == all);
    const int32_t tokens = std::accumulate(lengths.begin(), lengths.end(), 0);
    RC_ASSERT(static_cast<int32_t>(bins.size()) >= (tokens + capacity - 1) / capacity);
    RC_ASSERT(static_cast<double>(bins.size()) <= 11.0 / 9.0 * fewest_bins(lengths, capacity) + 1.0);
    RC_ASSERT(bins == *pack_best_fit(lengths, capacity));
  }));
}

// Check 9: best fit over a hundred thousand prompts is no search over all bins (that would be some ten thousand million looks).
TEST(Packing, ManyPromptsArePackedAtOnce) {
  std::mt19937 random(1);
  std::vector<int32_t> lengths(100000);
  for (int32_t& length : lengths) length = 1 + static_cast<int32_t>(random() % 2000);
  const Bins bins = *pack_best_fit(lengths, 2000);
  const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  EXPECT_GE(static_cast<int64_t>(bins.size()), tokens / 2000);
  EXPECT_LE(static_cast<double>(bins.size()), 1.02 * static_cast<double>(tokens) / 2000);
}

TEST(Packing, BatchesHoldEveryPromptOnceAndAreAsLongAsTheyMust) {
  std::mt19937 random(2);
  std::vector<int32_t> lengths(50);
  for (int32_t& length : lengths) length = 1 + static_cast<int32_t>(random() % 300);
  const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  std::vector<int64_t> rows;
  for (const auto& [policy, whole] : std::vector<std::pair<OfflinePolicy, bool>>{{OfflinePolicy::padded, false},
                                                                                 {OfflinePolicy::length_ordered, false},
                                                                                 {OfflinePolicy::prepack, false},
                                                                                 {OfflinePolicy::prepack, true},
                                                                                 {OfflinePolicy::ragged, false}}) {
    std::vector<int32_t> seen;
    rows.push_back(0);
    const std::vector<OfflineBatch> batches = *offline_batches(policy, lengths, 8, whole);
    for (const OfflineBatch& batch : batches) {
      int32_t longest = 0;
      for (const auto& line : batch.lines) {
        int32_t load = 0;
        for (const int32_t prompt : line) load += lengths[prompt], seen.push_back(prompt);
        longest = std::max(longest, load);
      }
      EXPECT_EQ(longest, batch.line_tokens);
      rows.back() += batch.rows();
    }
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(seen.size(), 50u);
    EXPECT_EQ(std::unique(seen.begin(), seen.end()), seen.end());
  }
  EXPECT_GT(rows[0], rows[1]);
  EXPECT_GT(rows[0], rows[2]);
  EXPECT_GT(rows[2], rows[3]);
  EXPECT_EQ(rows[4], tokens);
  // One prompt alone, and prompts of one length, are not padded by anybody.
  for (const std::string& name : offline_policy_names()) {
    EXPECT_EQ((*offline_batches(*offline_policy(name), std::vector<int32_t>{7}, 8))[0].rows(), 7);
    EXPECT_EQ((*offline_batches(*offline_policy(name), std::vector<int32_t>(8, 7), 8))[0].rows(), 56);
  }
}

TEST(Packing, BadInputSaysSo) {
  EXPECT_EQ(pack_best_fit({}, 5).status().message(), "there are no prompts: expected one or more");
  EXPECT_EQ(pack_best_fit(std::vector<int32_t>{3, 0}, 5).status().message(), "prompt 1 is empty: expected one token or more");
  EXPECT_EQ(pack_best_fit(std::vector<int32_t>{3, 6}, 5).status().message(), "prompt 1 has 6 tokens, a line has room for 5");
  EXPECT_EQ(offline_batches(OfflinePolicy::ragged, std::vector<int32_t>{3}, 0).status().message(),
            "a batch of 0 prompts is not one: expected 1 or more");
  EXPECT_EQ(offline_policy("best").status().message(),
            "there is no offline policy best, expected one of padded, length-ordered, prepack, ragged");
}

}  // namespace
}  // namespace onset
