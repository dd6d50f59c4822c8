// Bits of keys, values and logits: whatever else is in the step, in the batch, or in memory behind them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "onset/compute/page_format.h"
#include "onset/engine/offline.h"
#include "onset/engine/testing.h"
#include "onset/model/testing.h"

namespace onset {
namespace {

using namespace onset::testing;
using Bits = std::vector<float>;

bool same(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0);
}

// All keys and values of a sequence, one after another.
Bits stored(const SequenceCache& cache, int32_t first = 0) {
  const CacheLayout& layout = cache.layout();
  const size_t size = static_cast<size_t>(layout.heads_per_group) * layout.head_size;
  Bits all, slot(2 * size);
  for (int layer = 0; layer < layout.layers; ++layer) {
    for (int group = 0; group < layout.head_groups; ++group) {
      const KeyValueView view = cache.view(layer, group);
      for (int32_t i = first; i < view.length; ++i) {
        read_slot(layout.type, layout.heads_per_group, layout.head_size, view.pages[i / page_tokens], i % page_tokens, slot.data(),
                  slot.data() + size);
        all.insert(all.end(), slot.begin(), slot.end());
      }
    }
  }
  return all;
}

std::vector<int32_t> random_tokens(int32_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = 3 + static_cast<int32_t>(random() % 500);
  return tokens;
}

Runner stories_runner(KvType type = KvType::int8) {
  return {open_shared(stories_model()), Precision::fast, type, 1, *choose_isa()};
}

// Brief of arXiv:2308.16369, check 1.
TEST(Exactness, ChunksOfAnySizeStoreTheSameBits) {
  for (const KvType type : {KvType::int8, KvType::bf16}) {
    Runner runner = stories_runner(type);
    const std::vector<int32_t> prompt = random_tokens(450, 1);
    Bits keys_and_values, logits;
    for (const int32_t chunk : {450, 1, 7, 16, 64, 333}) {
      const auto cache = runner.cache();
      Bits last;
      for (int32_t first = 0; first < 450; first += chunk) {
        last = runner.run(*cache, prompt, first, std::min(chunk, 450 - first)).back();
      }
      if (chunk == 450) {
        keys_and_values = stored(*cache);
        logits = last;
      }
      EXPECT_TRUE(same(stored(*cache), keys_and_values)) << chunk << " " << kv_type_name(type);
      EXPECT_TRUE(same(last, logits)) << chunk << " " << kv_type_name(type);
    }
  }
}

// Check 2: a chunk of a prompt with answers beside it, and without.
TEST(Exactness, AChunkAndAnswersBesideItChangeNothingOfEachOther) {
  Runner runner = stories_runner();
  const std::vector<int32_t> prompt = random_tokens(160, 1);
  const auto begin = [&] {
    auto cache = runner.cache();
    runner.run(*cache, prompt, 0, 100);
    return cache;
  };
  const auto alone = begin();
  runner.run(*alone, prompt, 100, 60);
  for (const int32_t answers : {1, 5, 30}) {
    Batch batch;
    const auto chunk = begin();
    for (int32_t i = 100; i < 160; ++i) {
      batch.tokens.push_back(prompt[i]);
      batch.positions.push_back(i);
    }
    batch.sequences.push_back({.row_begin = 0, .row_end = 60, .cache = chunk.get()});
    std::vector<std::unique_ptr<SequenceCache>> caches;
    std::vector<Bits> expected;
    for (int32_t i = 0; i < answers; ++i) {
      const int32_t length = 1 + 11 * i;
      const std::vector<int32_t> tokens = random_tokens(length + 1, 100 + i);
      const auto solo = runner.cache();
      runner.run(*solo, tokens, 0, length);
      expected.push_back(runner.run(*solo, tokens, length, 1)[0]);
      caches.push_back(runner.cache());
      runner.run(*caches.back(), tokens, 0, length);
      const int32_t row = batch.rows();
      batch.tokens.push_back(tokens.back());
      batch.positions.push_back(length);
      batch.outputs.push_back({.row = row});
      batch.sequences.push_back({.row_begin = row, .row_end = row + 1, .cache = caches.back().get()});
    }
    const auto together = runner.run(batch);
    EXPECT_TRUE(same(stored(*chunk), stored(*alone))) << answers;
    for (int32_t i = 0; i < answers; ++i) EXPECT_TRUE(same(together[i], expected[i])) << i << " of " << answers;
  }
}

// Check 3: memory behind what a query may see holds NaN: slots of its last page that are not written yet.
TEST(Exactness, NoQuerySeesWhatComesAfterIt) {
  for (const KvType type : {KvType::f32, KvType::f16, KvType::bf16}) {
    Runner runner = stories_runner(type);
    const std::vector<int32_t> tokens = random_tokens(110, 3);
    const auto plain = runner.cache(), poisoned = runner.cache();
    runner.run(*plain, tokens, 0, 100);
    runner.run(*poisoned, tokens, 0, 100);
    const CacheLayout& layout = runner.layout;
    const Bits nan(static_cast<size_t>(layout.heads_per_group) * layout.head_size, std::numeric_limits<float>::quiet_NaN());
    for (int layer = 0; layer < layout.layers; ++layer) {
      for (int slot = 100 % page_tokens; slot < page_tokens; ++slot) {
        write_slot(Isa::generic, type, layout.heads_per_group, layout.head_size, poisoned->page_for_write(layer, 0, 99), slot, nan.data(),
                   nan.data());
      }
    }
    for (const auto& [first, count] : {std::pair(100, 1), std::pair(101, 6), std::pair(107, 3)}) {
      const auto expected = runner.run(*plain, tokens, first, count), got = runner.run(*poisoned, tokens, first, count);
      for (int32_t i = 0; i < count; ++i) {
        EXPECT_TRUE(same(got[i], expected[i])) << kv_type_name(type) << " " << first + i;
        EXPECT_TRUE(std::all_of(got[i].begin(), got[i].end(), [](float value) { return std::isfinite(value); }));
      }
    }
  }
}

// --- prompts in batches -----------------------------------------------------------------------------------------------

struct Read {
  Bits keys_and_values, logits;
  std::vector<int32_t> answer;
};

constexpr int32_t answer_tokens = 32;

EngineOptions one_thread() {
  EngineOptions options = test_options();
  options.threads = 1;
  return options;
}

// Every prompt of some batch as it was read there.
std::vector<Read> read_in_batch(const Engine& engine, const std::vector<std::vector<int32_t>>& prompts, OfflineOptions options) {
  std::vector<Read> reads(prompts.size());
  options.on_read = [&](int32_t prompt, const SequenceCache& cache, std::span<const float> logits) {
    reads[prompt].keys_and_values = stored(cache);
    reads[prompt].logits.assign(logits.begin(), logits.end());
  };
  const Result<OfflineRun> run = run_offline(engine, prompts, options);
  EXPECT_TRUE(run.ok()) << run.status().message();
  for (size_t i = 0; run.ok() && i < prompts.size(); ++i) reads[i].answer = run->tokens[i];
  return reads;
}

// Brief of arXiv:2404.09529, checks 1 and 2: in 200 random batches the keys and values of each prompt, the logits after it and the most
// likely answers are the bits that it has alone: so its neighbours, which differ from batch to batch, are no matter.
TEST(Exactness, PromptsInTwoHundredRandomBatchesAreWhatTheyAreAlone) {
  const auto engine = make_engine(one_thread());
  std::mt19937 random(5);
  std::vector<std::vector<int32_t>> prompts;
  std::vector<int32_t> lengths = {1, 1, 2, 3, 40, 40, 40, 40, 63, 64, 65, 128, 400, 480};
  while (lengths.size() < 60) lengths.push_back(1 + static_cast<int32_t>(std::exp2(std::uniform_real_distribution<>(0, 8)(random))));
  for (size_t i = 0; i < lengths.size(); ++i) prompts.push_back(random_tokens(lengths[i], static_cast<uint32_t>(i)));
  prompts.push_back(random_tokens(512, 99));  // has no room for an answer
  std::vector<Read> alone;
  for (const auto& prompt : prompts) {
    const int32_t tokens = prompt.size() == 512 ? 1 : answer_tokens;
    alone.push_back(read_in_batch(*engine, {prompt}, {.policy = OfflinePolicy::ragged, .new_tokens = tokens})[0]);
    const Told told = answer(*engine, {.tokens = prompt, .most_new_tokens = tokens, .ignore_end = true});
    EXPECT_EQ(alone.back().answer, told.tokens);
  }
  int64_t compared = 0;
  for (int batch = 0; batch < 200; ++batch) {
    // One giant among short ones; all equal; anything, with some prompts twice.
    const auto count = static_cast<int32_t>(std::exp2(std::uniform_real_distribution<>(0, 6.02)(random)));
    std::vector<size_t> chosen;
    for (int32_t i = 0; i < count; ++i) {
      const bool giant = batch % 10 == 0 && i == 0;
      chosen.push_back(giant ? prompts.size() - 1 : batch % 10 == 1 ? 4 + random() % 4 : random() % (prompts.size() - 1));
    }
    std::vector<std::vector<int32_t>> asked;
    for (const size_t prompt : chosen) asked.push_back(prompts[prompt]);
    const bool answers = batch % 8 == 3;  // never the giant
    for (const OfflinePolicy policy : {OfflinePolicy::prepack, OfflinePolicy::ragged}) {
      const auto reads = read_in_batch(*engine, asked, {.policy = policy, .batch = 64, .new_tokens = answers ? answer_tokens : 1});
      for (size_t i = 0; i < chosen.size(); ++i) {
        const Read& expected = alone[chosen[i]];
        ASSERT_TRUE(same(reads[i].keys_and_values, expected.keys_and_values)) << batch << " " << i << " " << offline_policy_name(policy);
        ASSERT_TRUE(same(reads[i].logits, expected.logits)) << batch << " " << i << " " << offline_policy_name(policy);
        if (answers) {
          ASSERT_EQ(reads[i].answer, expected.answer) << batch << " " << i << " " << offline_policy_name(policy);
        }
        ++compared;
      }
    }
  }
  EXPECT_GT(compared, 4000);
}

// As the paper's code reads prompts: all but the last token.
TEST(Exactness, OmittedLastTokensAreNotInTheCache) {
  const auto engine = make_engine(one_thread());
  const std::vector<std::vector<int32_t>> prompts = {random_tokens(70, 1), random_tokens(1, 2), random_tokens(30, 3)};
  const auto whole = read_in_batch(*engine, prompts, {.policy = OfflinePolicy::ragged});
  for (const OfflinePolicy policy : {OfflinePolicy::padded, OfflinePolicy::prepack, OfflinePolicy::ragged}) {
    const auto omitted = read_in_batch(*engine, prompts, {.policy = policy, .omit_last = true});
    EXPECT_TRUE(omitted[1].keys_and_values.empty());
    EXPECT_EQ(omitted[0].keys_and_values.size(), whole[0].keys_and_values.size() / 70 * 69);
    for (size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(omitted[i].answer, whole[i].answer);
  }
}

}  // namespace
}  // namespace onset
