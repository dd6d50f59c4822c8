#include "onset/attend/parallel_contexts.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "onset/base/aligned.h"
#include "onset/compute/attention.h"
#include "onset/compute/page_format.h"
#include "onset/compute/reference/attention.h"

namespace onset {
namespace {

constexpr int heads = 3, group = 3, size = 16, query_heads = heads * group;
constexpr int64_t stride = int64_t{query_heads} * size;

float normal(std::mt19937& random) {
  return std::normal_distribution<float>()(random);
}

// One layer of a sequence whose keys and values are random.
class OneLayer {
 public:
  OneLayer(std::mt19937& random, int32_t length)
      : layout_{.type = KvType::f32, .layers = 1, .head_groups = 1, .heads_per_group = heads, .head_size = size, .windows = {0}},
        pool_(*PagePool::create(layout_page_bytes(layout_), (length + page_tokens - 1) / page_tokens)),
        cache_(layout_, pool_) {
    std::vector<int32_t> positions(static_cast<size_t>(length));
    std::iota(positions.begin(), positions.end(), 0);
    EXPECT_TRUE(cache_.append(0, positions).ok());
    std::vector<float> key(heads * size), value(heads * size);
    for (int32_t slot = 0; slot < length; ++slot) {
      for (float& x : key) x = normal(random);
      for (float& x : value) x = normal(random);
      write_slot(Isa::generic, KvType::f32, heads, size, cache_.page_for_write(0, 0, slot), slot % page_tokens, key.data(), value.data());
    }
  }
  const SequenceCache& cache() const { return cache_; }

 private:
  CacheLayout layout_;
  PagePool pool_;
  SequenceCache cache_;
};

// A softmax over some slots, in double precision.
struct PlainSoftmax {
  double total = 0;
  std::vector<double> sums = std::vector<double>(size);

  void add(const reference::PlainKeyValues& stored, int32_t slot, int kv, const float* query, double divisor) {
    const size_t line = (static_cast<size_t>(slot) * heads + static_cast<size_t>(kv)) * size;
    double score = 0;
    for (size_t d = 0; d < size; ++d) score += double{query[d]} * stored.keys[line + d];
    const double weight = std::exp(score / std::sqrt(double{size}) / divisor);
    total += weight;
    for (size_t d = 0; d < size; ++d) sums[d] += weight * stored.values[line + d];
  }
};

struct Attended {
  std::vector<float> output;
  reference::PlainKeyValues stored;
};

// Runs the policy's plan as the executor does.
Attended attend(ParallelContextsAttend& policy, const SequenceCache& cache, const std::vector<float>& queries, int32_t rows, Isa isa) {
  std::vector<int32_t> positions(static_cast<size_t>(rows));
  std::iota(positions.begin(), positions.end(), cache.length(0) - rows);
  const AttentionPlan& plan = policy.plan(
      {.query_heads = query_heads, .scale = 1.0f / std::sqrt(static_cast<float>(size)), .positions = positions, .cache = &cache});
  EXPECT_EQ(check_plan(plan, rows, cache.length(0), query_heads), "");
  Attended attended{.output = std::vector<float>(static_cast<size_t>(rows * stride)), .stored = {}};
  std::vector<float> log_sum_exp(static_cast<size_t>(rows) * query_heads);
  std::vector<AttentionCall> calls(1);
  calls[0].plan = &plan;
  calls[0].keys = cache.view(0);
  calls[0].rows = rows;
  calls[0].query_heads = query_heads;
  calls[0].positions = positions.data();
  calls[0].queries = queries.data();
  calls[0].query_stride = calls[0].output_stride = stride;
  calls[0].output = attended.output.data();
  calls[0].log_sum_exp = log_sum_exp.data();
  BesideAttention part;
  add_beside(calls, part);
  AttentionTasks tasks = attention_tasks(calls, 1);
  AlignedVector<std::byte> scratch(attention_scratch_bytes(calls));
  for (size_t task = 0; task < tasks.tasks.size(); ++task) run_attention(isa, calls, tasks, task, scratch.data());
  finish_attention(calls, tasks);
  for (int32_t row = 0; row < rows; ++row) merge_beside(calls, part, row);
  attended.stored = reference::read_view(calls[0].keys);
  return attended;
}

// Equation 5 and appendix C of arXiv:2502.05431 as two softmaxes in plain double-precision sums, for every row and head (checks 2 and 3 of
// its brief). The log-sum-exp is the absolute one: keys that all score higher change the contexts' share by their scale.
TEST(ParallelContexts, AreMergedByTheirLogSumExp) {
  std::mt19937 random(21);
  constexpr int32_t rows = 6, first_own = 324;
  const OneLayer layer(random, first_own + rows);
  std::vector<float> queries(static_cast<size_t>(rows * stride));
  for (float& x : queries) x = normal(random);
  for (int contexts = 1; contexts <= 7; ++contexts) {
    std::vector<KeyRange> ranges;
    for (int32_t i = 0, begin = 40; i < contexts; ++i) {
      const auto length = 1 + static_cast<int32_t>(random() % 35);
      ranges.push_back({begin, begin + length});
      begin += length + static_cast<int32_t>(random() % 3);
    }
    const KeyRange prefix{0, contexts == 2 ? 0 : 33};
    for (const float temperature : {0.2f, 0.9f, 1.0f}) {
      for (const float scale : {0.5f, 0.9f, 1.0f}) {
        const ParallelContextsOptions options{.temperature = temperature, .scale = scale, .shift = contexts == 3 ? -0.4f : 0.0f};
        ParallelContextsAttend policy(options, prefix, ranges, first_own);
        for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx_vnni, Isa::avx512}) {
          if (!cpu_supports(isa)) continue;
          const Attended attended = attend(policy, layer.cache(), queries, rows, isa);
          for (int32_t row = 0; row < rows; ++row) {
            for (int32_t head = 0; head < query_heads; ++head) {
              const float* query = queries.data() + row * stride + int64_t{head} * size;
              PlainSoftmax own, beside;
              for (int32_t slot = prefix.begin; slot < prefix.end; ++slot) own.add(attended.stored, slot, head / group, query, 1);
              for (int32_t slot = first_own; slot <= first_own + row; ++slot) own.add(attended.stored, slot, head / group, query, 1);
              for (const KeyRange& range : ranges) {
                for (int32_t slot = range.begin; slot < range.end; ++slot) {
                  beside.add(attended.stored, slot, head / group, query, temperature);
                }
              }
              const double ell = double{scale} * temperature * std::log(beside.total) + options.shift;
              const double share = 1 / (1 + std::exp(std::log(own.total) - ell));
              for (size_t d = 0; d < size; ++d) {
                const double expected = share * beside.sums[d] / beside.total + (1 - share) * own.sums[d] / own.total;
                ASSERT_NEAR(attended.output[static_cast<size_t>(row * stride + head * size) + d], expected, 2e-5)
                    << isa_name(isa) << ", " << contexts << " contexts, T " << temperature << ", S " << scale;
              }
            }
          }
        }
      }
    }
  }
}

TEST(ParallelContexts, StepsHaveWhatTheirNamesSay) {
  const ParallelContextsOptions asked{.temperature = 0.5f, .scale = 0.7f, .shift = 0.2f};
  const auto expect = [&](const std::string& name, bool shared_prefix, float temperature, float scale, float shift) {
    ASSERT_TRUE(is_parallel_contexts(name));
    const ParallelContextsOptions step = parallel_contexts_step(name, asked);
    EXPECT_EQ(step.shared_prefix, shared_prefix) << name;
    EXPECT_EQ(step.temperature, temperature) << name;
    EXPECT_EQ(step.scale, scale) << name;
    EXPECT_EQ(step.shift, shift) << name;
  };
  expect("pcw", false, 1, 1, 0);
  expect("pcw+p", true, 1, 1, 0);
  expect("pcw+p+t", true, 0.5f, 1, 0);
  expect("ape", true, 0.5f, 0.7f, 0.2f);
  EXPECT_FALSE(is_parallel_contexts("pcw+t"));
}

TEST(ParallelContexts, RefuseOptionsThatMakeNoSense) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(check_parallel_contexts({}).ok());
  EXPECT_TRUE(check_parallel_contexts({.temperature = 1, .scale = 0, .shift = -3}).ok());
  for (const float bad : {0.0f, -1.0f, nan, infinity}) EXPECT_FALSE(check_parallel_contexts({.temperature = bad}).ok()) << bad;
  for (const float bad : {-0.1f, nan, infinity}) EXPECT_FALSE(check_parallel_contexts({.scale = bad}).ok()) << bad;
  for (const float bad : {nan, infinity}) EXPECT_FALSE(check_parallel_contexts({.shift = bad}).ok()) << bad;
}

}  // namespace
}  // namespace onset
