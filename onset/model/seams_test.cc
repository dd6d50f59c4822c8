// The seams that policies of later methods hang on, each used here as its owner will use it.
#include <gtest/gtest.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <mutex>
#include <thread>

#include "onset/model/layers.h"
#include "onset/model/testing.h"

namespace onset {
namespace {

using testing::Collect;
using testing::open_shared;
using testing::Runner;

constexpr int32_t prompt_tokens = 40;

std::shared_ptr<const ModelFile> fixture(const char* name) {
  return open_shared(testing::fixture_models() / name);
}

std::vector<int32_t> some_tokens() {
  return testing::read_golden(testing::fixture_models() / "llama" / "golden.bin").tokens;
}

// Rows 0..prompt_tokens-1 of one sequence, all of them wanted.
Batch whole_prompt(SequenceCache& cache) {
  const std::vector<int32_t> tokens = some_tokens();
  Batch batch;
  for (int32_t i = 0; i < prompt_tokens; ++i) {
    batch.tokens.push_back(tokens[i]);
    batch.positions.push_back(i);
    batch.outputs.push_back({.row = i});
  }
  batch.sequences = {{.row_begin = 0, .row_end = prompt_tokens, .cache = &cache}};
  return batch;
}

class Seams : public ::testing::Test {
 protected:
  Runner runner{fixture("llama"), Precision::fast, KvType::int8, 2, *choose_isa()};
  const int32_t hidden = runner.model.config().hidden;
  const int32_t layers = runner.model.config().layers;
};

TEST_F(Seams, LayerStagesGiveTheSameBitsAsTheWhole) {
  const auto cache = runner.cache(), staged = runner.cache();
  const auto expected = runner.run(whole_prompt(*cache));
  std::vector<float> state(prompt_tokens * hidden), next(prompt_tokens * hidden);
  for (int32_t layer = 0; layer < layers; ++layer) {
    Batch batch = whole_prompt(*staged);
    batch.sequences[0].layer_begin = layer;
    batch.sequences[0].layer_end = layer + 1;
    if (layer > 0) batch.sequences[0].hidden_in = state.data();
    batch.sequences[0].hidden_out = next.data();
    if (layer + 1 < layers) batch.outputs.clear();
    const auto logits = runner.run(batch);
    if (layer + 1 == layers) {
      EXPECT_EQ(expected, logits);
    }
    std::swap(state, next);
  }
}

// Rows 5, 11 and 12 leave before layer 1 and come back before layer 2 with the state they left with.
class LeaveAndRejoin : public SelectPolicy {
 public:
  bool asks(int layer) const override { return layer == 1 || layer == 2; }
  Selection select(const SelectContext& context) override {
    Selection selection;
    for (size_t i = 0; i < context.running.size(); ++i) {
      const int32_t row = context.running[i];
      if (context.layer == 1 && (row == 5 || row == 11 || row == 12)) {
        stored.push_back({row, std::vector<float>(context.hidden[i], context.hidden[i] + context.hidden_size)});
      } else {
        selection.keep.push_back(row);
      }
    }
    if (context.layer == 2) selection.rejoin = stored;
    return selection;
  }
  std::vector<RejoiningRow> stored;
};

TEST_F(Seams, RowsLeaveAndRejoin) {
  const auto cache = runner.cache();
  LeaveAndRejoin policy;
  Batch batch = whole_prompt(*cache);
  batch.sequences[0].select = &policy;
  const auto selected = runner.run(batch);
  EXPECT_EQ(cache->length(0), prompt_tokens);
  EXPECT_EQ(cache->length(1), prompt_tokens - 3);
  EXPECT_EQ(cache->view(1).positions[5], 6);  // slot 5 of layer 1 holds position 6

  // The same by hand: layer 0 for all, layer 1 for those that stay, layer 2 for all again.
  const auto by_hand = runner.cache();
  std::vector<float> state(prompt_tokens * hidden);
  Batch first = whole_prompt(*by_hand);
  first.outputs.clear();
  first.sequences[0].layer_end = 1;
  first.sequences[0].hidden_out = state.data();
  runner.run(first);
  Batch second = first;
  std::vector<float> kept_in, kept_out((prompt_tokens - 3) * hidden);
  second.tokens.clear(), second.positions.clear();
  std::vector<int32_t> kept;
  for (int32_t row = 0; row < prompt_tokens; ++row) {
    if (row == 5 || row == 11 || row == 12) continue;
    kept.push_back(row);
    second.tokens.push_back(first.tokens[row]), second.positions.push_back(row);
    kept_in.insert(kept_in.end(), state.begin() + row * hidden, state.begin() + (row + 1) * hidden);
  }
  second.sequences[0] = {.row_begin = 0,
                         .row_end = prompt_tokens - 3,
                         .cache = by_hand.get(),
                         .layer_begin = 1,
                         .layer_end = 2,
                         .hidden_in = kept_in.data(),
                         .hidden_out = kept_out.data()};
  runner.run(second);
  for (size_t i = 0; i < kept.size(); ++i) std::copy_n(kept_out.begin() + i * hidden, hidden, state.begin() + kept[i] * hidden);
  Batch third = whole_prompt(*by_hand);
  third.sequences[0].layer_begin = 2;
  third.sequences[0].hidden_in = state.data();
  EXPECT_EQ(selected, runner.run(third));
}

TEST_F(Seams, DroppedRowsGiveNoOutput) {
  class KeepEven : public SelectPolicy {
   public:
    bool asks(int layer) const override { return layer == 0; }
    bool waits(int32_t row) const override { return row == 4; }
    Selection select(const SelectContext& context) override {
      Selection selection;
      for (const int32_t row : context.running) {
        if (row % 2 == 0) selection.keep.push_back(row);
      }
      return selection;
    }
  } policy;
  const auto cache = runner.cache();
  Batch batch = whole_prompt(*cache);
  batch.sequences[0].select = &policy;
  const auto logits = runner.run(batch);
  for (int32_t row = 0; row < prompt_tokens; ++row) EXPECT_EQ(logits[row].empty(), row % 2 != 0 || row == 4) << row;
}

TEST_F(Seams, LayersWaitUntilTheirKeysAreLoaded) {
  const auto cache = runner.cache();
  std::vector<int> waited;
  cache->set_pending_load(1, [&] {
    waited.push_back(1);
    return Status();
  });
  runner.run(whole_prompt(*cache));
  EXPECT_EQ(waited, std::vector<int>{1});
  const auto failing = runner.cache();
  failing->set_pending_load(2, [] { return error(Code::failed, "the chunk store is gone"); });
  Collect sink(prompt_tokens);
  const Status status = runner.model.forward(whole_prompt(*failing), runner.executor, sink);
  EXPECT_EQ(status.message(), "the chunk store is gone");
}

TEST_F(Seams, VectorsInHiddenRowsAndAnotherHeadOut) {
  const auto cache = runner.cache(), again = runner.cache();
  const auto expected = runner.run(whole_prompt(*cache));
  Batch batch = whole_prompt(*again);
  std::vector<std::vector<float>> inputs;
  for (int32_t& token : batch.tokens) {
    inputs.emplace_back(hidden);
    runner.model.embed(token, inputs.back());
    token = -1;
  }
  for (const auto& input : inputs) batch.vectors.push_back(input.data());
  // A head of two outputs: the sum of the hidden state and its first number.
  const auto head = runner.model.add_head(
      2,
      [](int64_t n, std::span<float> row) {
        std::fill(row.begin(), row.end(), n == 0 ? 1.0f : 0.0f);
        row[0] = 1.0f;
      },
      runner.workers);
  ASSERT_TRUE(head.ok());
  batch.outputs.push_back({.row = 7, .kind = OutputKind::hidden});
  batch.outputs.push_back({.row = 7, .kind = OutputKind::logits, .head = *head});
  auto outputs = runner.run(batch);
  const std::vector<float> state = outputs[prompt_tokens], small = outputs[prompt_tokens + 1];
  outputs.resize(prompt_tokens);
  EXPECT_EQ(expected, outputs);
  ASSERT_EQ(state.size(), static_cast<size_t>(hidden));
  ASSERT_EQ(small.size(), 2u);
  double sum = 0, size = 0;
  for (const float value : state) sum += value, size += std::fabs(value);
  EXPECT_NEAR(small[0], sum, 0.02 * size);
  EXPECT_NEAR(small[1], state[0], 0.05 * std::fabs(state[0]) + 0.05);
}

TEST_F(Seams, GroupsOfHeadsHavePagesOfTheirOwn) {
  Runner split(fixture("llama"), Precision::fast, KvType::int8, 2, *choose_isa(), 4000, 2);
  const auto cache = runner.cache(), grouped = split.cache();
  EXPECT_EQ(runner.run(whole_prompt(*cache)), split.run(whole_prompt(*grouped)));
  EXPECT_EQ(grouped->pages_held(), 2 * cache->pages_held());
}

TEST_F(Seams, APolicyChoosesWhomEachHeadSees) {
  // Head 0 sees the last 8 positions and the first 2, the others everything.
  class OneNarrowHead : public AttendPolicy {
   public:
    const AttentionPlan& plan(const AttendContext& context) override {
      plan_ = dense_plan(static_cast<int32_t>(context.positions.size()), context.cache->length(context.layer), context.query_heads,
                         context.scale);
      plan_.patterns.push_back(plan_.patterns[0]);
      plan_.patterns[1].window = 8;
      plan_.patterns[1].sink = 2;
      plan_.pattern_of_head[0] = 1;
      return plan_;
    }

   private:
    AttentionPlan plan_;
  } narrow;
  const auto cache = runner.cache(), changed = runner.cache();
  const auto dense = runner.run(whole_prompt(*cache));
  Batch batch = whole_prompt(*changed);
  batch.sequences[0].attend = &narrow;
  const auto narrowed = runner.run(batch);
  EXPECT_EQ(std::vector(dense.begin(), dense.begin() + 10), std::vector(narrowed.begin(), narrowed.begin() + 10));
  EXPECT_NE(dense[30], narrowed[30]);
}

TEST_F(Seams, APlanThatMakesNoSenseIsRefused) {
  class Wrong : public AttendPolicy {
   public:
    const AttentionPlan& plan(const AttendContext& context) override {
      plan_ = dense_plan(static_cast<int32_t>(context.positions.size()), 100000, context.query_heads, context.scale);
      return plan_;
    }

   private:
    AttentionPlan plan_;
  } wrong;
  const auto cache = runner.cache();
  Batch batch = whole_prompt(*cache);
  batch.sequences[0].attend = &wrong;
  Collect sink(prompt_tokens);
  const Status status = runner.model.forward(batch, runner.executor, sink);
  EXPECT_NE(status.message().find("attention plan of layer 0"), std::string::npos) << status.message();
}

TEST_F(Seams, AnExecutorIsFreeToRunOperationsItsOwnWay) {
  class Counting : public Executor {
   public:
    explicit Counting(CpuExecutor& inner) : inner_(&inner) {}
    Status run_layer(const Layer& layer, const LayerCall& call) override {
      // One operation at a time, as an executor with two processors would hand them out.
      for (const Operation& operation : layer.operations) names.push_back(operation.name);
      return inner_->run_layer(layer, call);
    }
    void compare_layer(const Layer& layer, const LayerCall& call, KeyValueRows& fresh, KeyValueRows& stored) override {
      inner_->compare_layer(layer, call, fresh, stored);
    }
    void shift_slots(const Model& model, int32_t layer, SequenceCache& cache, KeyRange slots, const KeyValueShift& shift) override {
      inner_->shift_slots(model, layer, cache, slots, shift);
    }
    void run_outputs(const Model& model, std::span<const BatchOutput> outputs, std::span<const float* const> states,
                     OutputSink& sink) override {
      inner_->run_outputs(model, outputs, states, sink);
    }
    std::vector<std::string> names;

   private:
    CpuExecutor* inner_;
  } counting(runner.executor);
  const auto cache = runner.cache();
  Collect sink(prompt_tokens);
  ASSERT_TRUE(runner.model.forward(whole_prompt(*cache), counting, sink).ok());
  const std::vector<std::string> once = {"attention.norm",        "attention.query_key_value", "attention.rotary",  "attention.store",
                                         "attention.attend",      "attention.output",          "feed_forward.norm", "feed_forward.gate_up",
                                         "feed_forward.activate", "feed_forward.down"};
  ASSERT_EQ(counting.names.size(), once.size() * layers);
  EXPECT_TRUE(std::equal(once.begin(), once.end(), counting.names.begin()));
}

TEST_F(Seams, TheTimeHookSeesEveryOperationAndChangesNoBit) {
  const auto cache = runner.cache(), timed = runner.cache();
  const auto expected = runner.run(whole_prompt(*cache));
  int calls = 0;
  runner.executor.set_time_hook([&](const std::string&, int32_t, double begin, double end) {
    ++calls;
    EXPECT_LE(begin, end);
  });
  EXPECT_EQ(expected, runner.run(whole_prompt(*timed)));
  runner.executor.set_time_hook(nullptr);
  EXPECT_EQ(calls, 11 * layers + 1);  // attention: making plans, and following them
}

// A model without the feed-forward of its middle layer, as attention-only layers would be stored.
TEST(SeamsOfLayers, TheFeedForwardIsALayerKind) {
  const auto file = fixture("llama");
  ModelFile smaller("smaller");
  for (const MetadataEntry& entry : file->metadata()) ASSERT_TRUE(smaller.add_metadata(entry).ok());
  for (const StoredTensor& tensor : file->tensors()) {
    if (!tensor.name.starts_with("blk.1.ffn_")) {
      ASSERT_TRUE(smaller.add_tensor(tensor).ok());
    }
  }
  ModelConfig config = testing::value_or_throw(read_config(smaller));
  EXPECT_FALSE(build_layers(smaller, config, {}).ok());
  config.layer[1].feed_forward = FeedForwardKind::none;
  const BuiltLayers built = testing::value_or_throw(build_layers(smaller, config, {}));
  EXPECT_EQ(built.layers[0].operations.size(), 10u);
  EXPECT_EQ(built.layers[1].operations.size(), 6u);
  EXPECT_EQ(built.layers[1].operations.back().name, "attention.output");
}

// Two shards of one model, each with half of the heads and of the feed-forward, run side by side and add up their parts.
TEST(SeamsOfLayers, ShardsReduceToTheWholeModel) {
  for (const char* name : {"llama", "qwen2"}) {
    const std::vector<int32_t> tokens = some_tokens();
    Runner whole(fixture(name), Precision::reference, KvType::f32, 1, *choose_isa());
    const auto expected = whole.prefill({tokens.begin(), tokens.begin() + prompt_tokens}, 1000);
    std::barrier barrier(2);
    std::mutex mutex;
    std::vector<float> sum;
    std::vector<std::vector<float>> results[2];
    const auto run_shard = [&](int index) {
      ThreadPool workers(1);
      Model model = testing::value_or_throw(Model::load(
          fixture(name), {.precision = Precision::reference, .isa = *choose_isa(), .shard = {index, 2}, .packed_cache = {}, .progress = {}},
          workers));
      const CacheLayout layout = model.cache_layout(KvType::f32);
      PagePool pool = testing::value_or_throw(PagePool::create(layout_page_bytes(layout), 100));
      SequenceCache cache(layout, pool);
      CpuExecutor executor(workers);
      executor.set_reduce_hook([&](float* values, int64_t rows, int64_t width) {
        if (index == 0) sum.assign(rows * width, 0.0f);
        barrier.arrive_and_wait();
        {
          const std::lock_guard lock(mutex);
          for (int64_t i = 0; i < rows * width; ++i) sum[i] += values[i];
        }
        barrier.arrive_and_wait();
        std::copy(sum.begin(), sum.end(), values);
        barrier.arrive_and_wait();
        return Status();
      });
      Collect sink(prompt_tokens);
      EXPECT_TRUE(model.forward(whole_prompt(cache), executor, sink).ok());
      results[index] = std::move(sink.values);
    };
    std::thread other(run_shard, 1);
    run_shard(0);
    other.join();
    EXPECT_EQ(results[0], results[1]);
    for (int32_t row = 0; row < prompt_tokens; ++row) {
      for (size_t i = 0; i < expected[row].size(); ++i) ASSERT_NEAR(expected[row][i], results[0][row][i], 1e-4);
    }
  }
}

TEST(SeamsOfLayers, AShardWithoutAReduceHookIsAnError) {
  ThreadPool workers(1);
  Model model = testing::value_or_throw(
      Model::load(fixture("llama"),
                  {.precision = Precision::reference, .isa = *choose_isa(), .shard = {0, 2}, .packed_cache = {}, .progress = {}}, workers));
  const CacheLayout layout = model.cache_layout(KvType::f32);
  PagePool pool = testing::value_or_throw(PagePool::create(layout_page_bytes(layout), 100));
  SequenceCache cache(layout, pool);
  CpuExecutor executor(workers);
  Collect sink(prompt_tokens);
  EXPECT_NE(model.forward(whole_prompt(cache), executor, sink).message().find("reduce hook"), std::string::npos);
}

}  // namespace
}  // namespace onset
