#include "onset/compute/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>

#include "onset/base/aligned.h"
#include "onset/compute/page_format.h"
#include "onset/compute/reference/attention.h"

namespace onset {
namespace {

using Random = std::mt19937;

float uniform(Random& random, float low, float high) {
  return low + (high - low) * static_cast<float>(random() >> 8) * 0x1p-24f;
}
int integer(Random& random, int low, int high) {
  return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
}
// Roughly normal: cheaper than the library's, which takes most of the time otherwise.
float normal(Random& random) {
  const uint32_t a = random(), b = random();
  const auto sum = static_cast<float>((a & 0xffff) + (a >> 16) + (b & 0xffff) + (b >> 16));
  return (sum * 0x1p-16f - 2.0f) * 1.7320508f;
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx_vnni, Isa::avx512}) {
    if (cpu_supports(isa)) isas.push_back(isa);
  }
  return isas;
}

// Largest error against the reference computed from what the pages hold, relative to the largest value.
float tolerance(KvType type) {
  switch (type) {
    case KvType::f32:
    case KvType::f16:
      return 2e-5f;
    case KvType::bf16:
      return 2e-2f;  // queries and probabilities rounded to bf16
    case KvType::int8:
    case KvType::int4:
      return 6e-2f;  // queries and probabilities rounded to 8 bits
  }
  return 0;
}

// A sequence's pages, its queries and a plan, with everything they point to.
struct Case {
  KvType type = KvType::f32;
  int heads = 1, group = 1, size = 8;
  int32_t length = 0, rows = 0;
  std::vector<AlignedVector<std::byte>> pages;
  std::vector<const std::byte*> page_pointers;
  std::vector<int32_t> key_positions, positions;
  std::vector<float> queries, output, log_sum_exp;
  AttentionPlan plan;

  int query_heads() const { return heads * group; }
  int64_t stride() const { return static_cast<int64_t>(query_heads()) * size; }

  AttentionCall call() {
    output.assign(static_cast<size_t>(rows * stride()), 77.0f);
    log_sum_exp.assign(static_cast<size_t>(rows * query_heads()), 77.0f);
    AttentionCall call;
    call.plan = &plan;
    call.keys = {.type = type,
                 .length = length,
                 .heads = heads,
                 .head_size = size,
                 .pages = page_pointers,
                 .positions = key_positions.empty() ? nullptr : key_positions.data()};
    call.rows = rows;
    call.query_heads = query_heads();
    call.positions = positions.data();
    call.queries = queries.data();
    call.query_stride = stride();
    call.output = output.data();
    call.output_stride = stride();
    call.log_sum_exp = log_sum_exp.data();
    return call;
  }
};

// Fills pages and queries; the rows are the last positions of the sequence and the plan is dense.
Case make_case(Random& random, KvType type, int heads, int group, int size, int32_t length, int32_t rows) {
  Case c;
  c.type = type;
  c.heads = heads;
  c.group = group;
  c.size = size;
  c.length = length;
  c.rows = rows;
  const size_t token = static_cast<size_t>(heads) * static_cast<size_t>(size);
  const int32_t pages = (length + page_tokens - 1) / page_tokens;
  // Bytes that were never written must not matter: 0xff is not-a-number in every float format.
  c.pages.assign(static_cast<size_t>(pages), AlignedVector<std::byte>(page_bytes(type, heads, size), std::byte{0xff}));
  std::vector<float> key(token), value(token);
  for (int32_t slot = 0; slot < length; ++slot) {
    const float loud = slot % 37 == 0 ? 3.0f : 1.0f;
    for (float& x : key) x = loud * normal(random);
    for (float& x : value) x = normal(random) / loud;
    write_slot(Isa::generic, type, heads, size, c.pages[static_cast<size_t>(slot / page_tokens)].data(), slot % page_tokens, key.data(),
               value.data());
  }
  for (const auto& page : c.pages) c.page_pointers.push_back(page.data());
  c.queries.resize(static_cast<size_t>(rows * c.stride()));
  for (float& x : c.queries) x = normal(random);
  c.positions.resize(static_cast<size_t>(rows));
  std::iota(c.positions.begin(), c.positions.end(), std::max(0, length - rows));
  c.plan = dense_plan(rows, length, c.query_heads(), 1.0f / std::sqrt(static_cast<float>(size)));
  return c;
}

// Runs calls with `threads` workers, which take the tasks in turn.
void run(Isa isa, std::vector<AttentionCall> calls, int threads = 1) {
  AttentionTasks tasks = attention_tasks(calls, threads);
  std::vector<std::thread> workers;
  for (int worker = 0; worker < threads; ++worker) {
    workers.emplace_back([&, worker] {
      AlignedVector<std::byte> scratch(attention_scratch_bytes(calls));
      for (size_t task = static_cast<size_t>(worker); task < tasks.tasks.size(); task += static_cast<size_t>(threads)) {
        run_attention(isa, calls, tasks, task, scratch.data());
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  finish_attention(calls, tasks);
}

// Runs a case with every instruction set and compares with the reference.
void expect_near_reference(Case& c, const std::string& what, int threads = 1) {
  const AttentionCall call = c.call();
  ASSERT_EQ(check_plan(c.plan, c.rows, c.length, c.query_heads()), "") << what;
  const reference::PlainKeyValues stored = reference::read_view(call.keys);
  const reference::AttentionResult expected = reference::attention(call, stored);
  double largest = 1e-3;
  for (const double x : stored.values) largest = std::max(largest, std::fabs(x));
  for (const Isa isa : supported_isas()) {
    run(isa, {c.call()}, threads);
    for (size_t i = 0; i < expected.output.size(); ++i) {
      ASSERT_NEAR(c.output[i], expected.output[i], tolerance(c.type) * largest)
          << what << " " << kv_type_name(c.type) << " " << isa_name(isa) << " number " << i;
    }
    for (size_t i = 0; i < expected.log_sum_exp.size(); ++i) {
      if (std::isinf(expected.log_sum_exp[i])) {
        ASSERT_EQ(c.log_sum_exp[i], -std::numeric_limits<float>::infinity()) << what;
      } else {
        ASSERT_NEAR(c.log_sum_exp[i], expected.log_sum_exp[i], 3 * tolerance(c.type) + 1e-6 * std::fabs(expected.log_sum_exp[i]))
            << what << " " << kv_type_name(c.type) << " " << isa_name(isa) << " row and head " << i;
      }
    }
  }
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// A random pattern: its own scale, causal or not, band, blocks of rows with ranges and columns, uncovered
// rows.
AttentionPattern random_pattern(Random& random, int32_t rows, int32_t length, int size) {
  AttentionPattern pattern;
  pattern.scale = uniform(random, 0.3f, 1.5f) / std::sqrt(static_cast<float>(size));
  pattern.causal = integer(random, 0, 3) != 0;
  if (integer(random, 0, 1) == 0) {
    pattern.window = integer(random, 1, length);
    pattern.sink = integer(random, 0, 5);
  }
  for (int32_t row = 0; row < rows;) {
    const int32_t end = std::min(rows, row + integer(random, 1, std::max(1, rows / 2)));
    if (integer(random, 0, 7) != 0) {
      PlanBlock block{.row_begin = row, .row_end = end, .ranges = {}, .columns = {}};
      int32_t slot = integer(random, 0, 3) == 0 ? 0 : integer(random, 0, length / 2);
      while (slot < length) {
        const int32_t kind = integer(random, 0, 2);
        if (kind == 0) {
          const int32_t stop = std::min(length, slot + integer(random, 1, 150));
          block.ranges.push_back({slot, stop});
          slot = stop;
        } else if (kind == 1) {
          for (int n = integer(random, 1, 30); n > 0 && slot < length; --n, slot += integer(random, 1, 9)) {
            block.columns.push_back(slot);
          }
        } else {
          slot += integer(random, 1, 200);
        }
      }
      pattern.blocks.push_back(block);
    }
    row = end;
  }
  return pattern;
}

// A random case with everything a plan may do.
Case random_case(Random& random, KvType type, int largest_length) {
  const int sizes[] = {4, 8, 12, 16, 20, 32, 48, 64, 80, 128, 256, 6, 7};
  const int size = sizes[integer(random, 0, 12)];
  const int32_t length = integer(random, 1, largest_length);
  const int32_t rows = integer(random, 1, std::min(length, 90));
  Case c = make_case(random, type, integer(random, 1, 3), integer(random, 1, 5), size, length, rows);
  if (integer(random, 0, 1) == 0) {  // scattered rows, in any order, perhaps repeated
    for (int32_t& position : c.positions) position = integer(random, 0, length + 5);
  }
  if (integer(random, 0, 1) == 0) {  // keys that were moved or dropped
    c.key_positions.resize(static_cast<size_t>(length));
    int32_t position = 0;
    for (int32_t& p : c.key_positions) p = position += integer(random, 0, 3);
    if (integer(random, 0, 1) == 0) std::shuffle(c.key_positions.begin(), c.key_positions.end(), random);
  }
  if (integer(random, 0, 2) == 0) {
    for (const std::byte*& page : c.page_pointers) page = integer(random, 0, 2) == 0 ? nullptr : page;
  }
  if (integer(random, 0, 4) != 0) {
    c.plan.patterns.clear();
    for (int n = integer(random, 1, 3); n > 0; --n) c.plan.patterns.push_back(random_pattern(random, rows, length, size));
    for (uint16_t& index : c.plan.pattern_of_head) {
      index = static_cast<uint16_t>(random() % c.plan.patterns.size());
    }
  }
  return c;
}

TEST(Attention, RandomCallsEqualTheReference) {
  for (const KvType type : all_kv_types) {
    Random random(static_cast<unsigned>(type) * 10 + 1);
    for (int i = 0; i < 80; ++i) {
      Case c = random_case(random, type, i % 8 == 0 ? 2600 : 300);
      expect_near_reference(c, "case " + std::to_string(i), 1 + i % 3);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Attention, DenseWindowAndSinkEqualTheReference) {
  Random random(2);
  for (const KvType type : all_kv_types) {
    for (const int size : {64, 128, 256}) {
      for (const int32_t window : {0, 50, 300}) {
        Case c = make_case(random, type, 1, 3, size, 400, 90);
        c.plan = dense_plan(c.rows, c.length, c.query_heads(), 1.0f / std::sqrt(static_cast<float>(size)), window);
        c.plan.patterns[0].sink = window == 50 ? 4 : 0;
        expect_near_reference(c, "window " + std::to_string(window));
        if (HasFatalFailure()) return;
      }
    }
  }
}

// The calls that compute rows begin..end-1 of a case by themselves.
AttentionCall part(const AttentionCall& whole, AttentionPlan& plan, int32_t begin, int32_t end) {
  AttentionCall call = whole;
  plan = *whole.plan;
  for (AttentionPattern& pattern : plan.patterns) {
    std::vector<PlanBlock> blocks;
    for (PlanBlock block : pattern.blocks) {
      block.row_begin = std::max(block.row_begin, begin) - begin;
      block.row_end = std::min(block.row_end, end) - begin;
      if (block.row_begin < block.row_end) blocks.push_back(block);
    }
    pattern.blocks = blocks;
  }
  call.plan = &plan;
  call.rows = end - begin;
  call.positions += begin;
  call.queries += begin * call.query_stride;
  call.output += begin * call.output_stride;
  call.log_sum_exp += static_cast<int64_t>(begin) * call.query_heads;
  return call;
}

TEST(Attention, AnySplitOfRowsGivesEqualBits) {
  Random random(3);
  for (const KvType type : all_kv_types) {
    for (const Isa isa : supported_isas()) {
      for (int i = 0; i < 10; ++i) {
        Case c =
            i % 2 == 0 ? make_case(random, type, 1, 3, 64, 200 + 200 * (i % 7), 70) : random_case(random, type, i % 4 == 1 ? 1500 : 300);
        run(isa, {c.call()});
        const std::vector<float> output = c.output, log_sum_exp = c.log_sum_exp;
        const int steps[] = {1, 2, 7, 33, 64};
        const int32_t step = steps[i % 5];
        const AttentionCall whole = c.call();
        std::vector<AttentionCall> calls;
        std::vector<std::unique_ptr<AttentionPlan>> plans;
        for (int32_t row = 0; row < c.rows; row += step) {
          plans.push_back(std::make_unique<AttentionPlan>());
          calls.push_back(part(whole, *plans.back(), row, std::min(c.rows, row + step)));
        }
        run(isa, calls, 1 + i % 2);
        EXPECT_TRUE(same_bits(output, c.output)) << kv_type_name(type) << " " << isa_name(isa) << " rows by " << step;
        EXPECT_TRUE(same_bits(log_sum_exp, c.log_sum_exp)) << kv_type_name(type) << " " << isa_name(isa);
      }
    }
  }
}

// As in chunked prefill: a row's call knows only the slots up to the end of its chunk.
TEST(Attention, ChunkedPrefillGivesEqualBits) {
  Random random(4);
  for (const KvType type : all_kv_types) {
    for (const Isa isa : supported_isas()) {
      for (const int32_t window : {0, 100}) {
        for (const int32_t chunk : {1, 7, 64}) {
          Case c = make_case(random, type, 1, 3, 32, 200, 200);
          c.plan = dense_plan(c.rows, c.length, 3, 0.125f, window);
          run(isa, {c.call()});
          const std::vector<float> output = c.output;
          const AttentionCall whole = c.call();
          for (int32_t row = 0; row < c.rows; row += chunk) {
            const int32_t end = std::min(c.rows, row + chunk);
            AttentionPlan plan;
            AttentionCall call = part(whole, plan, row, end);
            call.keys.length = end;
            plan = dense_plan(end - row, end, 3, 0.125f, window);
            run(isa, {call});
          }
          EXPECT_TRUE(same_bits(output, c.output)) << kv_type_name(type) << " " << isa_name(isa) << " chunk " << chunk;
        }
      }
    }
  }
}

// Many threads make decode split its keys; one thread does not.
TEST(Attention, ThreadsAndKeySegmentsGiveEqualBits) {
  Random random(5);
  for (const KvType type : all_kv_types) {
    for (const Isa isa : supported_isas()) {
      for (const int32_t rows : {1, 3, 20}) {
        Case c = make_case(random, type, 1, 3, 64, 3000, rows);
        run(isa, {c.call()}, 1);
        const std::vector<float> output = c.output, log_sum_exp = c.log_sum_exp;
        for (const int threads : {2, 16}) {
          run(isa, {c.call()}, threads);
          EXPECT_TRUE(same_bits(output, c.output)) << kv_type_name(type) << " " << isa_name(isa) << " " << threads << " threads";
          EXPECT_TRUE(same_bits(log_sum_exp, c.log_sum_exp)) << kv_type_name(type);
        }
      }
    }
  }
}

// A plan written with other ranges and columns that shows the same keys gives the same bits.
TEST(Attention, EqualVisibleKeysGiveEqualBits) {
  Random random(6);
  for (const KvType type : all_kv_types) {
    for (const Isa isa : supported_isas()) {
      Case c = make_case(random, type, 2, 2, 32, 500, 70);
      run(isa, {c.call()});
      const std::vector<float> output = c.output;
      PlanBlock& block = c.plan.patterns[0].blocks[0];
      block.ranges = {{0, 30}, {30, 64}, {64, 301}, {302, 500}};
      block.columns = {301};
      c.plan.patterns[0].window = 100000;
      run(isa, {c.call()});
      EXPECT_TRUE(same_bits(output, c.output)) << kv_type_name(type) << " " << isa_name(isa);
      // A window of 100 as a band, and as ranges for each row.
      c.plan = dense_plan(c.rows, c.length, c.query_heads(), 0.2f, 100);
      run(isa, {c.call()});
      const std::vector<float> banded = c.output;
      c.plan.patterns[0].window = 0;
      c.plan.patterns[0].blocks.clear();
      for (int32_t row = 0; row < c.rows; ++row) {
        const int32_t position = c.positions[static_cast<size_t>(row)];
        c.plan.patterns[0].blocks.push_back(
            {.row_begin = row, .row_end = row + 1, .ranges = {{position - 99, position + 1}}, .columns = {}});
      }
      run(isa, {c.call()});
      EXPECT_TRUE(same_bits(banded, c.output)) << kv_type_name(type) << " " << isa_name(isa);
    }
  }
}

// Exact integer sums and the same float steps everywhere; float pages wherever products are fused. (bf16
// products differ.)
TEST(Attention, InstructionSetsGiveEqualBits) {
  Random random(13);
  for (const KvType type : {KvType::f32, KvType::f16, KvType::int8, KvType::int4}) {
    for (int i = 0; i < 12; ++i) {
      Case c = random_case(random, type, 300);
      const std::vector<Isa> isas = supported_isas();
      if (isas.size() == 1) GTEST_SKIP() << "only one instruction set here";
      const Isa first = is_integer(type) ? Isa::generic : Isa::avx2;
      run(first, {c.call()});
      const std::vector<float> output = c.output, log_sum_exp = c.log_sum_exp;
      for (const Isa isa : isas) {
        if (isa < first) continue;
        run(isa, {c.call()});
        EXPECT_TRUE(same_bits(output, c.output)) << kv_type_name(type) << " " << isa_name(isa);
        EXPECT_TRUE(same_bits(log_sum_exp, c.log_sum_exp)) << kv_type_name(type) << " " << isa_name(isa);
      }
    }
  }
}

TEST(Attention, RowsThatSeeNothingAreZero) {
  Random random(7);
  for (const KvType type : all_kv_types) {
    Case c = make_case(random, type, 1, 2, 16, 100, 10);
    for (int32_t& position : c.positions) position = -1;
    expect_near_reference(c, "nothing visible");
    EXPECT_EQ(c.output[0], 0.0f);
    for (const std::byte*& page : c.page_pointers) page = nullptr;
    expect_near_reference(c, "all absent");
    c.plan.patterns[0].blocks.clear();
    expect_near_reference(c, "no block");
    c.length = 0;
    expect_near_reference(c, "no slot");
  }
}

// Scores far apart and far from zero.
TEST(Attention, ExtremeScoresStayFinite) {
  Random random(8);
  for (const KvType type : all_kv_types) {
    for (const Isa isa : supported_isas()) {
      Case c = make_case(random, type, 1, 2, 16, 300, 20);
      for (size_t i = 0; i < c.queries.size(); ++i) c.queries[i] *= i % 5 == 0 ? 1000.0f : 0.0f;
      run(isa, {c.call()});
      for (const float x : c.output) ASSERT_TRUE(std::isfinite(x)) << kv_type_name(type) << " " << isa_name(isa);
    }
    Case c = make_case(random, type, 1, 2, 16, 300, 20);
    for (float& x : c.queries) x = 0;
    expect_near_reference(c, "queries of zero");
    if (HasFatalFailure()) return;
  }
}

TEST(Attention, TwoPlansOverDisjointKeysMergeToOne) {
  Random random(9);
  for (const KvType type : all_kv_types) {
    for (const Isa isa : supported_isas()) {
      Case c = make_case(random, type, 2, 3, 64, 700, 50);
      run(isa, {c.call()});
      const std::vector<float> output = c.output, log_sum_exp = c.log_sum_exp;
      c.plan.patterns[0].blocks[0].ranges = {{0, 233}, {400, 500}};
      run(isa, {c.call()});
      std::vector<float> merged = c.output, merged_lse = c.log_sum_exp;
      c.plan.patterns[0].blocks[0].ranges = {{233, 400}, {500, 700}};
      run(isa, {c.call()});
      merge_attention(c.rows, c.query_heads(), c.size, merged.data(), merged_lse.data(), c.output.data(), c.log_sum_exp.data());
      for (size_t i = 0; i < output.size(); ++i) ASSERT_NEAR(merged[i], output[i], 2 * tolerance(type)) << kv_type_name(type);
      for (size_t i = 0; i < log_sum_exp.size(); ++i) ASSERT_NEAR(merged_lse[i], log_sum_exp[i], 2 * tolerance(type));
    }
  }
}

TEST(Attention, MergingIsTheDefinition) {
  Random random(10);
  const int rows = 5, heads = 3, size = 7;
  std::vector<float> a(rows * heads * size), b(a.size()), lse_a(rows * heads), lse_b(lse_a.size());
  for (float& x : a) x = normal(random);
  for (float& x : b) x = normal(random);
  for (float& x : lse_a) x = 20 * normal(random);
  for (float& x : lse_b) x = 20 * normal(random);
  const float infinity = std::numeric_limits<float>::infinity();
  lse_a[1] = lse_b[2] = lse_a[3] = lse_b[3] = -infinity;
  for (int d = 0; d < size; ++d) a[static_cast<size_t>(3 * size + d)] = 0;
  std::vector<float> merged = a, lse = lse_a;
  merge_attention(rows, heads, size, merged.data(), lse.data(), b.data(), lse_b.data());
  for (size_t i = 0; i < lse.size(); ++i) {
    const double x = lse_a[i], y = lse_b[i], top = std::max(x, y);
    const double total = std::isinf(top) ? -infinity : top + std::log(std::exp(x - top) + std::exp(y - top));
    if (std::isinf(total)) {
      EXPECT_EQ(lse[i], -infinity);
      EXPECT_EQ(merged[i * size], 0.0f);
      continue;
    }
    EXPECT_NEAR(lse[i], total, 1e-5 * std::max(1.0, std::fabs(total)));
    for (size_t d = i * size; d < (i + 1) * size; ++d) {
      EXPECT_NEAR(merged[d], std::exp(x - total) * a[d] + std::exp(y - total) * b[d], 1e-5);
    }
  }
}

TEST(Attention, SoftmaxSumsEqualTheReference) {
  Random random(11);
  for (const KvType type : all_kv_types) {
    for (const Isa isa : supported_isas()) {
      for (int i = 0; i < 8; ++i) {
        Case c = random_case(random, type, i % 5 == 0 ? 1500 : 300);
        AttentionCall call = c.call();
        call.output = nullptr;
        call.log_sum_exp = nullptr;
        SoftmaxSums sums;
        AlignedVector<std::byte> scratch(attention_scratch_bytes({call}));
        softmax_sums(isa, call, sums, scratch.data());
        const reference::PlainKeyValues stored = reference::read_view(call.keys);
        const auto length = static_cast<size_t>(c.length);
        std::vector<double> column(static_cast<size_t>(c.query_heads()) * length), diagonal(column.size());
        for (int32_t head = 0; head < c.query_heads(); ++head) {
          for (int32_t row = 0; row < c.rows; ++row) {
            const std::vector<double> probability = reference::softmax_row(call, stored, row, head);
            for (int32_t slot = 0; slot < c.length; ++slot) {
              const int32_t position = c.key_positions.empty() ? slot : c.key_positions[static_cast<size_t>(slot)];
              const int64_t distance = static_cast<int64_t>(c.positions[static_cast<size_t>(row)]) - position;
              const size_t line = static_cast<size_t>(head) * length;
              column[line + static_cast<size_t>(slot)] += probability[static_cast<size_t>(slot)];
              if (distance >= 0 && distance < c.length) {
                diagonal[line + static_cast<size_t>(distance)] += probability[static_cast<size_t>(slot)];
              }
            }
          }
        }
        ASSERT_EQ(sums.column.size(), column.size());
        ASSERT_EQ(sums.diagonal.size(), diagonal.size());
        const double allowed = tolerance(type) * (1.0 + 0.1 * c.rows);
        for (size_t s = 0; s < column.size(); ++s) {
          ASSERT_NEAR(sums.column[s], column[s], allowed) << kv_type_name(type) << " " << isa_name(isa) << " case " << i;
          ASSERT_NEAR(sums.diagonal[s], diagonal[s], allowed) << kv_type_name(type) << " " << isa_name(isa) << " case " << i;
        }
      }
    }
  }
}

TEST(Attention, TasksCoverEveryRowOnceLargestFirst) {
  Random random(12);
  Case a = make_case(random, KvType::f32, 2, 3, 8, 3000, 700);
  Case b = make_case(random, KvType::f32, 2, 3, 8, 5000, 1);
  const std::vector<AttentionCall> calls = {a.call(), b.call()};
  for (const int threads : {1, 2, 8}) {
    const AttentionTasks tasks = attention_tasks(calls, threads);
    double previous = std::numeric_limits<double>::infinity();
    std::vector<int64_t> covered(2, 0);
    for (const AttentionTask& task : tasks.tasks) {
      EXPECT_LE(task.cost, previous);
      previous = task.cost;
      covered[static_cast<size_t>(task.call)] +=
          static_cast<int64_t>(task.row_end - task.row_begin) * (task.segment_end - task.segment_begin);
    }
    const auto segments = [](const AttentionCall& call) {
      return (call.keys.length + attention_segment_slots - 1) / attention_segment_slots;
    };
    EXPECT_EQ(covered[0], 2 * 700 * segments(calls[0]));
    EXPECT_EQ(covered[1], 2 * 1 * segments(calls[1]));
    EXPECT_GE(tasks.tasks.size(), static_cast<size_t>(threads));
  }
}

}  // namespace
}  // namespace onset
