// Attention against the machine's peaks: prefill as a share of bf16 and int8 products, decode of reading
// memory.
//
// attention_bench [threads N] [head_size N] [group N] [type f32|f16|bf16|int8] [isa NAME] [heads N] [quick]
// Prefill: a block of rows at the end of a prompt, operations counted causally (4 * head_size for each row,
// head and visible key). Samples are the best of many short runs and the peaks are measured anew beside them,
// because clocks and neighbours change.
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include "onset/base/aligned.h"
#include "onset/compute/attention.h"
#include "onset/compute/machine.h"
#include "onset/compute/page_format.h"

namespace onset {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Options {
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  int head_size = 64, group = 3, heads = 3;
  std::vector<KvType> types = {KvType::int8, KvType::bf16, KvType::f16, KvType::f32};
  std::vector<Isa> isas;
  bool quick = false;
};

// One layer's pages and queries. Pages of several layers, so that decode reads memory and not a cache.
struct Layers {
  std::vector<AlignedVector<std::byte>> pages;
  std::vector<std::vector<const std::byte*>> pointers;  // for each layer
  std::vector<float> queries, output, log_sum_exp;
  std::vector<int32_t> positions;
  AttentionPlan plan;
  std::vector<AttentionCall> calls;  // one for each layer
};

void fill(Layers& data, const Options& options, KvType type, int32_t length, int32_t rows, int layers) {
  const auto token = static_cast<size_t>(options.heads * options.head_size);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> noise(65536 + token);
  for (float& x : noise) x = normal(random);
  const int32_t pages = (length + page_tokens - 1) / page_tokens;
  for (int layer = 0; layer < layers; ++layer) {
    std::vector<const std::byte*> pointers;
    for (int32_t p = 0; p < pages; ++p) {
      AlignedVector<std::byte>& page = data.pages.emplace_back(page_bytes(type, options.heads, options.head_size));
      if (layer > 0) {
        page = data.pages[static_cast<size_t>(p)];
      } else {
        for (int slot = 0; slot < page_tokens; ++slot) {
          const size_t at = random() % 65536;
          write_slot(Isa::generic, type, options.heads, options.head_size, page.data(), slot, &noise[at], &noise[(at + 999) % 65536]);
        }
      }
      pointers.push_back(page.data());
    }
    data.pointers.push_back(pointers);
  }
  const int query_heads = options.heads * options.group;
  const int64_t stride = static_cast<int64_t>(query_heads) * options.head_size;
  data.queries.resize(static_cast<size_t>(rows * stride));
  for (float& x : data.queries) x = normal(random);
  data.output.resize(data.queries.size());
  data.positions.resize(static_cast<size_t>(rows));
  std::iota(data.positions.begin(), data.positions.end(), length - rows);
  data.plan = dense_plan(rows, length, query_heads, 1.0f / std::sqrt(static_cast<float>(options.head_size)));
  for (int layer = 0; layer < layers; ++layer) {
    AttentionCall call;
    call.plan = &data.plan;
    call.keys = {.type = type,
                 .length = length,
                 .heads = options.heads,
                 .head_size = options.head_size,
                 .pages = data.pointers[static_cast<size_t>(layer)]};
    call.rows = rows;
    call.query_heads = query_heads;
    call.positions = data.positions.data();
    call.queries = data.queries.data();
    call.output = data.output.data();
    call.query_stride = call.output_stride = stride;
    data.calls.push_back(call);
  }
}

// Seconds since some moment: of the processor with one thread, so that other programs matter less, else of
// the clock.
double seconds_of(const ThreadPool& pool) {
  if (pool.threads() > 1) return now();
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Seconds for all layers, one after the other, as the executor runs them.
double run_layers(Isa isa, const Layers& data, ThreadPool& pool, std::vector<AlignedVector<std::byte>>& scratch) {
  const double begin = seconds_of(pool);
  for (const AttentionCall& call : data.calls) {
    const std::vector<AttentionCall> calls = {call};
    AttentionTasks tasks = attention_tasks(calls, pool.threads());
    pool.for_each(static_cast<int64_t>(tasks.tasks.size()), [&](int64_t task, int worker) {
      run_attention(isa, calls, tasks, static_cast<size_t>(task), scratch[static_cast<size_t>(worker)].data());
    });
    finish_attention(calls, tasks);
  }
  return seconds_of(pool) - begin;
}

double best_of(Isa isa, const Layers& data, ThreadPool& pool, double seconds) {
  std::vector<AlignedVector<std::byte>> scratch(static_cast<size_t>(pool.threads()));
  for (auto& bytes : scratch) bytes.resize(attention_scratch_bytes(data.calls));
  double best = 1e30;
  const double until = now() + seconds;
  for (int i = 0; i < 3 || now() < until; ++i) best = std::min(best, run_layers(isa, data, pool, scratch));
  return best;
}

void bench(const Options& options) {
  ThreadPool pool(options.threads);
  std::printf("%d threads, head size %d, %d KV heads, %d query heads for each\n", options.threads, options.head_size, options.heads,
              options.group);
  for (const Isa isa : options.isas) {
    for (const KvType type : options.types) {
      for (const int32_t length : {512, 2048, 8192}) {
        Layers data;
        const int32_t rows = options.quick ? 64 : 256;
        fill(data, options, type, length, rows, 1);
        const double seconds = best_of(isa, data, pool, options.quick ? 0.15 : 0.4);
        const MachinePeaks peaks = measure_machine(isa, pool);
        const double keys = static_cast<double>(length) - (rows - 1) / 2.0;
        const double rate = 4.0 * options.head_size * options.heads * options.group * rows * keys / seconds;
        std::printf("%-9s %-5s prefill %5d keys: %7.1f GFLOP/s, %5.1f %% of int8 peak", isa_name(isa), kv_type_name(type), length,
                    rate * 1e-9, 100 * rate / peaks.int8_operations_per_second);
        if (peaks.bf16_operations_per_second > 0) std::printf(", %5.1f %% of bf16 peak", 100 * rate / peaks.bf16_operations_per_second);
        std::printf(", %5.1f %% of float32 peak; %.2f us a row\n", 100 * rate / peaks.float32_operations_per_second, 1e6 * seconds / rows);
      }
      for (const int32_t length : {64, 512, 8192}) {
        Layers data;
        const int layers = length < 8192 ? 30 : 12;
        fill(data, options, type, length, 1, layers);
        const double seconds = best_of(isa, data, pool, 0.2);
        const double bytes = static_cast<double>(page_bytes(type, options.heads, options.head_size)) * length / page_tokens * layers;
        std::printf("%-9s %-5s decode  %5d keys: %7.2f GB/s, %5.1f %% of reading memory; %.2f us a layer\n", isa_name(isa),
                    kv_type_name(type), length, bytes / seconds * 1e-9, 100 * bytes / seconds / measure_read_peak(isa, pool),
                    1e6 * seconds / layers);
      }
    }
  }
}

}  // namespace
}  // namespace onset

int main(int argc, char** argv) {
  using namespace onset;
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : "";
    if (word == "quick") {
      options.quick = true;
      continue;
    }
    if (word == "threads") options.threads = std::max(1, std::atoi(value));
    if (word == "head_size") options.head_size = std::max(1, std::atoi(value));
    if (word == "group") options.group = std::max(1, std::atoi(value));
    if (word == "heads") options.heads = std::max(1, std::atoi(value));
    for (const KvType type : all_kv_types) {
      if (word == "type" && value == std::string_view(kv_type_name(type))) options.types = {type};
    }
    for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx_vnni, Isa::avx512}) {
      if (word == "isa" && value == std::string_view(isa_name(isa)) && cpu_supports(isa)) options.isas.push_back(isa);
    }
    ++i;
  }
  if (options.isas.empty()) {
    const Result<Isa> isa = choose_isa();
    if (!isa.ok()) {
      std::fprintf(stderr, "%s\n", isa.status().message().c_str());
      return 1;
    }
    options.isas.push_back(*isa);
  }
  bench(options);
  return 0;
}
