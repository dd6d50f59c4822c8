// LazyLLM through the engine and the model (arXiv:2407.14057): what is pruned, what comes back, and what must stay the same bits.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "onset/attend/policy.h"
#include "onset/compute/page_format.h"
#include "onset/engine/testing.h"
#include "onset/model/testing.h"
#include "onset/select/lazy.h"

namespace onset {
namespace {

using namespace onset::testing;

constexpr int32_t story_layers = 5;

std::shared_ptr<const SelectSpec> spec(const std::string& text) {
  const auto found = named_select(text);
  EXPECT_TRUE(found.ok()) << found.status().message();
  return *found;
}

Request prompt(int32_t tokens, int32_t new_tokens, const std::string& select) {
  Request request{.tokens = random_tokens(tokens, 7), .most_new_tokens = new_tokens, .ignore_end = true};
  request.select_spec = spec(select);
  return request;
}

// One look of a policy at its tokens.
struct Look {
  int32_t layer;
  std::vector<int32_t> positions, kept;
  std::vector<float> scores;
};

LazyOptions watched(std::vector<int32_t> layers, std::vector<double> keep, std::vector<Look>& looks) {
  LazyOptions options{.layers = std::move(layers), .keep = std::move(keep)};
  options.observe = [&looks](int32_t layer, std::span<const int32_t> positions, std::span<const float> scores,
                             std::span<const int32_t> kept) {
    looks.push_back({layer, {positions.begin(), positions.end()}, {kept.begin(), kept.end()}, {scores.begin(), scores.end()}});
  };
  return options;
}

// --- through the engine ---------------------------------------------------------------------------------------------

TEST(Lazy, KeepingEverythingIsDenseBitForBit) {
  const auto read = [](const std::string& select) {
    auto engine = make_engine(test_options());
    std::vector<std::vector<float>> logits(200);
    Request request = prompt(200, 64, select);
    request.on_logits = [&](int32_t position, std::span<const float> row) { logits[position].assign(row.begin(), row.end()); };
    const Told told = answer(*engine, std::move(request));
    return std::pair(told.tokens, logits);
  };
  const auto dense = read("all");
  EXPECT_EQ(dense.first.size(), 64u);
  EXPECT_EQ(read("lazyllm:1,2,4:1"), dense);
  EXPECT_NE(read("lazyllm:1,2,4:0.2").first, dense.first);
}

TEST(Lazy, RowsAreTheShareThatIsKeptRoundedUp) {
  auto engine = make_engine(test_options());
  const Told told = answer(*engine, prompt(201, 1, "lazyllm:1,2,4:0.7,0.5,0.3"));
  // 201, ceil(140.7), ceil(70.5), ceil(21.3)
  ASSERT_NE(told.last.select, nullptr);
  EXPECT_EQ(told.last.select->prompt_rows, (std::vector<int32_t>{201, 141, 71, 71, 22}));
  EXPECT_EQ(told.last.select->stored_rows, 201 - 22);
  EXPECT_EQ(told.last.select->stored_bytes, (201 - 22) * engine->model().config().hidden * 4);
  expect_no_pages(*engine);
}

TEST(Lazy, TheSameTokensAloneOrInABusyBatchWithAnyBudgetAndPolicy) {
  EngineOptions options = test_options();
  options.threads = 1;
  options.pool_tokens = 4096;
  auto engine = make_engine(std::move(options));
  const auto request = [] { return prompt(230, 24, "lazyllm:1,2,4:0.5:revive=7"); };
  const std::vector<int32_t> expected = answer(*engine, request()).tokens;
  EXPECT_EQ(expected.size(), 24u);
  for (const std::string& policy : schedule_policy_names()) {
    for (const int32_t budget : {16, 1024}) {
      auto schedule = make_schedule_policy(policy, {.token_budget = budget});
      ASSERT_TRUE(schedule.ok() && engine->use_schedule(*std::move(schedule)).ok());
      EXPECT_EQ(answer(*engine, request()).tokens, expected) << policy << ' ' << budget << " alone";
      Told told, others[3];
      for (int i = 0; i < 3; ++i) {
        Request other{.tokens = random_tokens(40 + 61 * i, 20 + i), .most_new_tokens = 60, .ignore_end = true};
        if (i == 2) other.select_spec = spec("lazyllm:2:0.4");
        ASSERT_TRUE(engine->submit(std::move(other), listen(others[i])).ok());
      }
      for (int i = 0; i < 5; ++i) ASSERT_TRUE(engine->step().ok());
      ASSERT_TRUE(engine->submit(request(), listen(told)).ok());
      run_all(*engine);
      EXPECT_EQ(told.tokens, expected) << policy << ' ' << budget << " busy: " << told.last.status.message();
      for (const Told& other : others) EXPECT_EQ(other.tokens.size(), 60u);
      expect_no_pages(*engine);
    }
  }
}

TEST(Lazy, EachTokenRunsOncePerLayerAndTheStoredStatesAreThoseOfUnfinishedTokens) {
  auto engine = make_engine(test_options());
  std::vector<Look> looks;
  auto policy = LazySelect::create(watched({1, 2, 4}, {0.6, 0.5, 0.5}, looks), engine->model().cache_layout(engine->kv_type()));
  ASSERT_TRUE(policy.ok());
  LazySelect* lazy = policy->get();
  Request request{.tokens = random_tokens(220, 3), .most_new_tokens = 256, .ignore_end = true};
  request.select = *std::move(policy);
  Told told;
  int steps = 0;
  std::vector<int64_t> bytes;
  engine->set_step_hook([&](const StepReport& report) {
    if (report.running == 0 || told.ends > 0) return;
    const Status whole = lazy->audit();
    ASSERT_TRUE(whole.ok()) << whole.message();
    const auto now = lazy->report();
    for (int32_t layer = 0; layer < story_layers; ++layer) EXPECT_LE(now->rows_by_now[layer], 220);
    EXPECT_EQ(now->stored_bytes, now->stored_rows * engine->model().config().hidden * 4);
    ++steps;
  });
  ASSERT_TRUE(engine->submit(std::move(request), listen(told)).ok());
  run_all(*engine);
  EXPECT_GE(steps, 255);
  EXPECT_EQ(told.tokens.size(), 256u);
  ASSERT_EQ(looks.size(), 3u * 256);
  // Sets are nested within a step, and all tokens are looked at again in each step.
  std::set<std::vector<int32_t>> subsets;
  for (size_t i = 0; i < looks.size(); ++i) {
    const Look& look = looks[i];
    EXPECT_TRUE(std::includes(look.positions.begin(), look.positions.end(), look.kept.begin(), look.kept.end()));
    if (i % 3 == 0) {
      EXPECT_EQ(look.positions.size(), 220 + i / 3);
    } else {
      EXPECT_EQ(look.positions, looks[i - 1].kept);
    }
    EXPECT_EQ(look.kept.back(), look.positions.back());
    double sum = 0;
    for (const float score : look.scores) sum += score;
    EXPECT_NEAR(sum, 1, 1e-3) << i;
    if (i % 3 == 1) {
      std::vector<int32_t> of_prompt = look.kept;
      std::erase_if(of_prompt, [](int32_t position) { return position >= 220; });
      subsets.insert(std::move(of_prompt));
    }
  }
  EXPECT_GT(subsets.size(), 10u);
  EXPECT_GT(told.last.select->rejoined, 0);
  EXPECT_GT(told.last.select->rows_by_now.back(), told.last.select->prompt_rows.back());
}

TEST(Lazy, WithoutRevivalNothingComesBack) {
  auto engine = make_engine(test_options());
  const Told none = answer(*engine, prompt(220, 100, "lazyllm:1,3:0.3:revive=0"));
  EXPECT_EQ(none.last.select->rejoined, 0);
  EXPECT_EQ(none.last.select->rows_by_now, none.last.select->prompt_rows);
  const Told some = answer(*engine, prompt(220, 100, "lazyllm:1,3:0.3"));
  EXPECT_GT(some.last.select->rejoined, 0);
  EXPECT_NE(some.tokens, none.tokens);
  const Told few = answer(*engine, prompt(220, 100, "lazyllm:1,3:0.3:revive=1"));
  EXPECT_GT(few.last.select->rejoined, 0);
  EXPECT_LE(few.last.select->rejoined, 2 * 99);
}

TEST(Lazy, ShortPromptsAreReadWhole) {
  auto engine = make_engine(test_options());
  for (const int32_t tokens : {1, 2, 63}) {
    Told dense = answer(*engine, prompt(tokens, 20, "all")), lazy = answer(*engine, prompt(tokens, 20, "lazyllm:1,2:0.1"));
    EXPECT_EQ(lazy.tokens, dense.tokens);
    EXPECT_EQ(lazy.last.select->prompt_rows, std::vector<int32_t>(story_layers, tokens));
  }
  EXPECT_EQ(answer(*engine, prompt(1, 20, "lazyllm:1,2:0.1:least=0")).tokens.size(), 20u);
  EXPECT_EQ(answer(*engine, prompt(3, 20, "lazyllm:1,2:0.1:least=0")).tokens.size(), 20u);
}

TEST(Lazy, PagesOfPrunedPromptsAreNobodyElses) {
  auto engine = make_engine(test_options());
  const Told before = answer(*engine, prompt(200, 10, "all"));
  auto fresh = make_engine(test_options());
  answer(*fresh, prompt(200, 10, "lazyllm:1,2:0.2"));
  const Told after = answer(*fresh, prompt(200, 10, "all"));
  EXPECT_EQ(after.last.cached_tokens, 0);
  EXPECT_EQ(after.tokens, before.tokens);
  // Nor does a pruned prompt take those of a dense one.
  EXPECT_EQ(answer(*fresh, prompt(200, 10, "lazyllm:1,2:0.2")).last.cached_tokens, 0);
}

TEST(Lazy, WhatDoesNotGoTogetherIsRefused) {
  auto engine = make_engine(test_options());
  const auto refused = [&](Request request) { return engine->submit(std::move(request), {}).status().message(); };
  EXPECT_EQ(refused(prompt(100, 1, "lazyllm:1,5:0.5")), "lazyllm prunes after layer 5, expected 1 to 4: the model has 5 layers");
  EXPECT_EQ(refused(prompt(100, 1, "lazyllm:0:0.5")), "lazyllm prunes after layer 0, expected 1 to 4: the model has 5 layers");
  EXPECT_EQ(refused(prompt(100, 1, "lazyllm:3,2:0.5")), "lazyllm prunes after layer 3 and then after layer 2, expected ascending layers");
  EXPECT_EQ(refused(prompt(100, 1, "lazyllm:2,2:0.5")), "lazyllm prunes after layer 2 and then after layer 2, expected ascending layers");
  EXPECT_EQ(refused(prompt(100, 1, "lazyllm:1,2,3:0.5,0.4")),
            "lazyllm has 2 shares to keep for 3 layers, expected one for all or one for each");
  Request windowed = prompt(100, 1, "lazyllm:2:0.5");
  windowed.attend = std::make_unique<WindowAttend>(8, 2);
  EXPECT_NE(refused(std::move(windowed)).find("expected no attend policy"), std::string::npos);
  Request session = prompt(100, 1, "lazyllm:2:0.5");
  session.session = engine->open_session();
  EXPECT_NE(refused(std::move(session)).find("goes with no session"), std::string::npos);
  Request empty = prompt(100, 1, "lazyllm:2:0.5");
  empty.tokens.clear();
  EXPECT_EQ(refused(std::move(empty)), "the prompt is empty: expected one token or more");
  EXPECT_NE(refused(prompt(2000, 1, "lazyllm:2:0.5")).find("the context has room for"), std::string::npos);
  auto windows = make_engine(test_options(fixture_model("mistral")));
  Request other = prompt(100, 1, "lazyllm:1:0.5");
  EXPECT_EQ(windows->submit(std::move(other), {}).status().message(),
            "lazyllm needs layers that see everything, this model has layers with windows");
}

// --- through the model ----------------------------------------------------------------------------------------------

// A prompt's, then single rows' way through the model in float32.
class LazyRows : public ::testing::Test {
 protected:
  static constexpr int32_t count = 150;
  Runner runner{open_shared(stories_model()), Precision::reference, KvType::f32, 1, *choose_isa()};
  const std::vector<int32_t> tokens = random_tokens(count + 20, 11);
  const CacheLayout& layout = runner.layout;

  // Runs positions begin.. through the model with a policy (or none).
  void run(SequenceCache& cache, int32_t begin, int32_t rows, LazySelect* lazy, AttendPolicy* attend = nullptr) {
    Batch batch;
    const std::span<const int32_t> earlier = lazy != nullptr ? lazy->earlier() : std::span<const int32_t>();
    for (const int32_t position : earlier) batch.tokens.push_back(tokens[position]), batch.positions.push_back(position);
    for (int32_t i = begin; i < begin + rows; ++i) batch.tokens.push_back(tokens[i]), batch.positions.push_back(i);
    if (attend == nullptr && lazy != nullptr) attend = lazy->attend();
    batch.sequences = {{.row_begin = 0, .row_end = batch.rows(), .cache = &cache, .attend = attend, .select = lazy}};
    batch.outputs = {{.row = batch.rows() - 1}};
    runner.run(batch);
  }

  // The key and value of a position in a layer; empty if it has none.
  std::vector<float> at(const SequenceCache& cache, int layer, int32_t position) const {
    const KeyValueView view = cache.view(layer);
    const size_t size = static_cast<size_t>(layout.heads_per_group) * layout.head_size;
    for (int32_t slot = 0; slot < view.length; ++slot) {
      if ((view.positions != nullptr ? view.positions[slot] : slot) != position) continue;
      std::vector<float> both(2 * size);
      read_slot(layout.type, layout.heads_per_group, layout.head_size, view.pages[slot / page_tokens], slot % page_tokens, both.data(),
                both.data() + size);
      return both;
    }
    return {};
  }

  std::unique_ptr<LazySelect> policy(LazyOptions options) {
    auto made = LazySelect::create(std::move(options), layout);
    EXPECT_TRUE(made.ok()) << made.status().message();
    return *std::move(made);
  }
};

TEST_F(LazyRows, KeysUpToTheLayerAfterTheFirstPruningAreTheDenseOnes) {
  const auto dense = runner.cache(), cache = runner.cache();
  run(*dense, 0, count, nullptr);
  const auto lazy = policy({.layers = {2, 3}, .keep = {0.3}});
  run(*cache, 0, count, lazy.get());
  int32_t kept = 0;
  for (int32_t position = 0; position < count; ++position) {
    for (const int layer : {0, 1}) EXPECT_EQ(at(*cache, layer, position), at(*dense, layer, position));
    // What enters the next layer is exact, its positions are those of the text.
    if (lazy->has_keys(1, position)) {
      EXPECT_EQ(at(*cache, 2, position), at(*dense, 2, position)) << position;
    } else {
      EXPECT_TRUE(at(*cache, 2, position).empty());
    }
    kept += lazy->has_keys(1, position);
  }
  EXPECT_EQ(kept, 45);
  EXPECT_EQ(cache->length(2), 45);
  EXPECT_LT(cache->pages_held(), dense->pages_held());
}

TEST_F(LazyRows, RevivedRowsGoOnFromWhereTheyStopped) {
  const auto dense = runner.cache(), cache = runner.cache();
  run(*dense, 0, count, nullptr);
  const auto lazy = policy({.layers = {2, 4}, .keep = {0.3}});
  run(*cache, 0, count, lazy.get());
  lazy->set_keep({1, 1});
  run(*cache, count, 1, lazy.get());
  EXPECT_TRUE(lazy->audit().ok()) << lazy->audit().message();
  EXPECT_EQ(lazy->report()->stored_rows, 0);
  for (int32_t position = 0; position < count; ++position) {
    const std::vector<float> now = at(*cache, 2, position), expected = at(*dense, 2, position);
    ASSERT_EQ(now.size(), expected.size()) << position;
    for (size_t i = 0; i < now.size(); ++i) EXPECT_NEAR(now[i], expected[i], 1e-6) << position;
    EXPECT_EQ(at(*cache, 4, position).size(), expected.size());
  }
  EXPECT_EQ(cache->length(4), count + 1);
}

// Does as the policy's own, and computes the scores of its pruning layers anew in double precision.
class ScoreSpy : public AttendPolicy {
 public:
  ScoreSpy(LazySelect& lazy, std::set<int> layers) : lazy_(&lazy), layers_(std::move(layers)) {}
  const AttentionPlan& plan(const AttendContext& context) override {
    const AttentionPlan& plan = lazy_->attend()->plan(context);
    if (!layers_.contains(context.layer)) return plan;
    const KeyValueView view = context.cache->view(context.layer);
    const auto last = static_cast<int64_t>(context.positions.size()) - 1;
    const size_t size = static_cast<size_t>(view.heads) * view.head_size;
    std::map<int32_t, double> mean;
    for (int head = 0; head < context.query_heads; ++head) {
      const float* query = context.queries + last * context.query_stride + int64_t{head} * view.head_size;
      std::map<int32_t, double> scores;
      double most = -1e300, sum = 0;
      for (int32_t slot = 0; slot < view.length; ++slot) {
        if (!visits(plan, slot)) continue;
        std::vector<float> key(size), value(size);
        read_slot(view.type, view.heads, view.head_size, view.pages[slot / page_tokens], slot % page_tokens, key.data(), value.data());
        const float* of_head = key.data() + static_cast<size_t>(head / (context.query_heads / view.heads)) * view.head_size;
        double score = 0;
        for (int i = 0; i < view.head_size; ++i) score += double{query[i]} * of_head[i];
        score *= context.scale;
        scores[view.positions != nullptr ? view.positions[slot] : slot] = score;
        most = std::max(most, score);
      }
      for (auto& [position, score] : scores) sum += score = std::exp(score - most);
      for (const auto& [position, score] : scores) mean[position] += score / sum / context.query_heads;
    }
    seen.push_back(std::move(mean));
    return plan;
  }
  std::vector<std::map<int32_t, double>> seen;

 private:
  static bool visits(const AttentionPlan& plan, int32_t slot) {
    const PlanBlock& block = plan.patterns[0].blocks[0];
    return std::binary_search(block.columns.begin(), block.columns.end(), slot) ||
           std::any_of(block.ranges.begin(), block.ranges.end(),
                       [slot](const KeyRange& range) { return range.begin <= slot && slot < range.end; });
  }
  LazySelect* lazy_;
  std::set<int> layers_;
};

TEST_F(LazyRows, ScoresAreTheMeanOverHeadsOfTheSoftmaxRow) {
  ASSERT_GT(runner.model.query_heads(), runner.model.kv_heads());
  const auto cache = runner.cache();
  std::vector<Look> looks;
  const auto lazy = policy(watched({1, 3}, {0.5, 0.5}, looks));
  ScoreSpy spy(*lazy, {0, 2});
  run(*cache, 0, count, lazy.get(), &spy);
  for (int32_t i = 0; i < 5; ++i) run(*cache, count + i, 1, lazy.get(), &spy);
  ASSERT_EQ(looks.size(), 12u);
  ASSERT_EQ(spy.seen.size(), 12u);
  for (size_t i = 0; i < looks.size(); ++i) {
    ASSERT_EQ(looks[i].positions.size(), spy.seen[i].size());
    for (size_t j = 0; j < looks[i].positions.size(); ++j) {
      ASSERT_TRUE(spy.seen[i].contains(looks[i].positions[j]));
      EXPECT_NEAR(looks[i].scores[j], spy.seen[i][looks[i].positions[j]], 1e-5);
    }
    // Those that go on have the highest scores; the first, the last and the answer's tokens in any case.
    float worst = 1, best_gone = 0;
    for (size_t j = 0; j < looks[i].positions.size(); ++j) {
      const int32_t position = looks[i].positions[j];
      if (position == 0 || position >= count - 1) continue;
      const bool kept = std::binary_search(looks[i].kept.begin(), looks[i].kept.end(), position);
      (kept ? worst : best_gone) = kept ? std::min(worst, looks[i].scores[j]) : std::max(best_gone, looks[i].scores[j]);
    }
    if (i < 2) {
      EXPECT_GE(worst, best_gone);
    }
  }
}

}  // namespace
}  // namespace onset
