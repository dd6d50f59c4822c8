#include "onset/engine/kernel_benchmark.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <set>

#include "onset/base/aligned.h"
#include "onset/compute/attention.h"
#include "onset/compute/elementwise.h"
#include "onset/compute/linear.h"
#include "onset/compute/machine.h"
#include "onset/compute/page_format.h"
#include "onset/kv/page_pool.h"
#include "onset/kv/sequence_cache.h"

namespace onset {
namespace {

// The middle time of calls over 0.2 seconds or so.
template <typename Call>
double time_of(const Call& call) {
  using Clock = std::chrono::steady_clock;
  call();
  std::vector<double> times;
  double total = 0;
  while (times.size() < 5 || (total < 0.2 && times.size() < 1000)) {
    const auto begin = Clock::now();
    call();
    times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
    total += times.back();
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

AlignedVector<float> random_values(size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  AlignedVector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

class Bench {
 public:
  Bench(const Engine& engine, ThreadPool& pool, const KernelBenchmarkOptions& options)
      : model_(engine.model()),
        kv_type_(engine.kv_type()),
        isa_(engine.model().isa()),
        pool_(pool),
        options_(options),
        peaks_(measure_machine(isa_, pool)) {}

  Result<std::vector<KernelTiming>> run() {
    std::set<std::pair<int64_t, int64_t>> seen;
    for (const LinearWeight& weight : model_.weights()) {
      if (!seen.insert({weight.in, weight.out}).second) continue;
      for (const int32_t rows : options_.rows) linear(weight, rows);
    }
    for (const int32_t rows : options_.rows) ONSET_TRY(attention(rows));
    for (const int32_t rows : options_.rows) elementwise(rows);
    return std::move(timings_);
  }

 private:
  void add(KernelTiming timing, double arithmetic_peak) {
    if (timing.operations > 0 && arithmetic_peak > 0) timing.share_of_arithmetic = timing.operations / timing.seconds / arithmetic_peak;
    if (timing.bytes > 0) timing.share_of_reading = timing.bytes / timing.seconds / peaks_.read_bytes_per_second;
    timings_.push_back(std::move(timing));
  }

  void linear(const LinearWeight& weight, int32_t rows) {
    const std::string shape = fmt::format("{} x {} -> {}", rows, weight.in, weight.out);
    if (options_.progress) options_.progress("linear " + shape);
    const AlignedVector<float> input = random_values(size_t(rows) * weight.in);
    AlignedVector<float> output(size_t(rows) * weight.out);
    AlignedVector<std::byte> prepared(linear_input_bytes(weight, rows));
    // Matrices of all layers take turns, as in a step: what one call read is not in the cache for the next one.
    std::vector<const LinearWeight*> equal;
    for (const LinearWeight& other : model_.weights()) {
      if (other.in == weight.in && other.out == weight.out) equal.push_back(&other);
    }
    const int64_t steps = (weight.out + linear_column_step - 1) / linear_column_step;
    size_t turn = 0;
    const double seconds = time_of([&] {
      const LinearWeight& here = *equal[turn++ % equal.size()];
      prepare_linear_input(isa_, here, input.data(), weight.in, rows, prepared.data());
      pool_.run([&](int worker) {
        const int64_t begin = steps * worker / pool_.threads() * linear_column_step;
        const int64_t end = std::min(weight.out, steps * (worker + 1) / pool_.threads() * linear_column_step);
        if (begin < end) multiply_linear(isa_, here, prepared.data(), rows, begin, end, {.data = output.data(), .stride = weight.out});
      });
    });
    const double peak = weight.precision == Precision::fast ? peaks_.int8_operations_per_second
                        : weight.precision == Precision::bf16 && peaks_.bf16_operations_per_second > 0
                            ? peaks_.bf16_operations_per_second
                            : peaks_.float32_operations_per_second;
    add({.name = "linear",
         .shape = shape,
         .seconds = seconds,
         .operations = 2.0 * rows * static_cast<double>(weight.in * weight.out),
         .bytes = static_cast<double>(linear_bytes(weight.precision, weight.in, weight.out))},
        peak);
  }

  // The rows' keys are the last of `keys` stored ones.
  Status attention(int32_t rows) {
    const ModelConfig& config = model_.config();
    const int32_t keys = std::max(rows, options_.keys);
    const int group = config.query_heads / config.kv_heads;
    if (options_.progress) options_.progress(fmt::format("attention of {} rows to {} keys", rows, keys));
    CacheLayout layout{
        .type = kv_type_, .layers = 1, .head_groups = 1, .heads_per_group = config.kv_heads, .head_size = config.head_size, .windows = {0}};
    ONSET_ASSIGN(PagePool pages, PagePool::create(layout_page_bytes(layout), pages_needed(layout, keys, keys)));
    SequenceCache cache(layout, pages);
    std::vector<int32_t> positions(keys);
    for (int32_t i = 0; i < keys; ++i) positions[i] = i;
    ONSET_TRY(cache.append(0, positions).status());
    const AlignedVector<float> values = random_values(size_t(config.kv_heads) * config.head_size * 2);
    for (int32_t slot = 0; slot < keys; ++slot) {
      write_slot(isa_, kv_type_, config.kv_heads, config.head_size, cache.page_for_write(0, 0, slot), slot % page_tokens, values.data(),
                 values.data() + size_t(config.kv_heads) * config.head_size);
    }
    const int64_t width = int64_t{config.query_heads} * config.head_size;
    const AlignedVector<float> queries = random_values(size_t(rows) * width);
    AlignedVector<float> output(size_t(rows) * width);
    DenseAttend dense;
    const std::span<const int32_t> row_positions(positions.data() + keys - rows, rows);
    const AttentionPlan& plan = dense.plan({.layer = 0,
                                            .group = 0,
                                            .query_heads = config.query_heads,
                                            .scale = config.softmax_scale,
                                            .window = 0,
                                            .positions = row_positions,
                                            .cache = &cache,
                                            .queries = queries.data(),
                                            .query_stride = width});
    const std::vector<AttentionCall> calls = {{.plan = &plan,
                                               .keys = cache.view(0),
                                               .rows = rows,
                                               .query_heads = config.query_heads,
                                               .positions = row_positions.data(),
                                               .queries = queries.data(),
                                               .query_stride = width,
                                               .output = output.data(),
                                               .output_stride = width}};
    std::vector<AlignedVector<std::byte>> scratch(pool_.threads());
    for (auto& own : scratch) own.resize(attention_scratch_bytes(calls));
    const double seconds = time_of([&] {
      AttentionTasks tasks = attention_tasks(calls, pool_.threads());
      pool_.for_each(static_cast<int64_t>(tasks.tasks.size()),
                     [&](int64_t task, int worker) { run_attention(isa_, calls, tasks, task, scratch[worker].data()); });
      finish_attention(calls, tasks);
    });
    // Row r sees keys - rows + r + 1 keys; each costs a product with the key and one with the value.
    const double visible = static_cast<double>(rows) * keys - static_cast<double>(rows) * (rows - 1) / 2.0;
    const double bytes = static_cast<double>(layout_page_bytes(layout)) * keys / page_tokens;
    add({.name = "attention",
         .shape = fmt::format("{} x {} keys, {} heads of {} / {}", rows, keys, config.query_heads, config.head_size, group),
         .seconds = seconds,
         .operations = 4.0 * visible * static_cast<double>(width),
         .bytes = bytes},
        attention_peak());
    return {};
  }

  double attention_peak() const {
    switch (kv_type_) {
      case KvType::int8:
      case KvType::int4:
        return peaks_.int8_operations_per_second;
      case KvType::bf16:
        return peaks_.bf16_operations_per_second > 0 ? peaks_.bf16_operations_per_second : peaks_.float32_operations_per_second;
      default:
        return peaks_.float32_operations_per_second;
    }
  }

  // Norm and activation read and write the caches; their shares are of the memory bandwidth.
  void elementwise(int32_t rows) {
    const ModelConfig& config = model_.config();
    const auto each_row = [&](const auto& body) {
      pool_.run([&](int worker) {
        const int64_t begin = int64_t{rows} * worker / pool_.threads();
        const int64_t end = int64_t{rows} * (worker + 1) / pool_.threads();
        if (begin < end) body(begin, end - begin);
      });
    };
    AlignedVector<float> data = random_values(size_t(rows) * std::max(config.hidden, 2 * config.feed_forward));
    AlignedVector<float> output(data.size());
    const int64_t hidden = config.hidden;
    double seconds = time_of([&] {
      each_row([&](int64_t begin, int64_t count) {
        rms_norm(isa_, {data.data() + begin * hidden, hidden}, count, hidden, model_.output_norm(), config.norm_epsilon,
                 {output.data() + begin * hidden, hidden});
      });
    });
    add({.name = "norm",
         .shape = fmt::format("{} x {}", rows, hidden),
         .seconds = seconds,
         .bytes = 4.0 * rows * static_cast<double>(hidden)},
        0);
    const int64_t width = config.feed_forward;
    seconds = time_of([&] {
      each_row([&](int64_t begin, int64_t count) {
        gated_activation(isa_, config.activation, {data.data() + begin * 2 * width, 2 * width}, count, width,
                         {output.data() + begin * width, width});
      });
    });
    add({.name = "activation",
         .shape = fmt::format("{} x {}", rows, width),
         .seconds = seconds,
         .bytes = 8.0 * rows * static_cast<double>(width)},
        0);
  }

  const Model& model_;
  KvType kv_type_;
  Isa isa_;
  ThreadPool& pool_;
  const KernelBenchmarkOptions& options_;
  MachinePeaks peaks_;
  std::vector<KernelTiming> timings_;
};

}  // namespace

Result<std::vector<KernelTiming>> benchmark_kernels(const Engine& engine, ThreadPool& pool, const KernelBenchmarkOptions& options) {
  for (const int32_t rows : options.rows) {
    if (rows < 1) return error(Code::invalid_argument, "{} rows cannot be measured: expected 1 or more", rows);
  }
  return Bench(engine, pool, options).run();
}

}  // namespace onset
