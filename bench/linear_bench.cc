// Linear layers against the machine's peaks: prefill as a share of int8 products, decode of reading memory.
//
// linear_bench [shapes] [decode] [threads N]  prints one line for each shape and number of rows. Samples are
// the best of many short runs, and the peaks are measured anew beside each shape, because clocks and
// neighbours change.
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include "onset/base/aligned.h"
#include "onset/compute/linear.h"
#include "onset/compute/machine.h"

namespace onset {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <typename Body>
double best_of(int repeats, const Body& body) {
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const double begin = now();
    body();
    best = std::min(best, now() - begin);
  }
  return best;
}

std::byte* huge(size_t bytes) {
  bytes = (bytes + (2u << 20) - 1) / (2u << 20) * (2u << 20);
  void* data = std::aligned_alloc(2u << 20, bytes);
  madvise(data, bytes, MADV_HUGEPAGE);
  std::memset(data, 1, bytes);
  return static_cast<std::byte*>(data);
}

LinearWeight random_weight(int64_t in, int64_t out, std::byte* data, ThreadPool& pool) {
  std::vector<float> values(65536 + in);
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (float& value : values) value = normal(random);
  pack_linear(
      Precision::fast, in, out, [&](int64_t n, std::span<float> row) { std::copy_n(&values[n * 977 % 65536], row.size(), row.data()); },
      data, pool);
  return {Precision::fast, in, out, data};
}

// One layer on `rows` rows, as the executor runs it: with many rows each worker takes some of them, with few
// rows each prepares all of them for itself and takes some columns.
struct Run {
  Isa isa;
  ThreadPool& pool;
  LinearWeight weight;
  int64_t rows;
  const float* input;
  std::vector<AlignedVector<std::byte>>& prepared;  // one for each worker
  float* output;

  void operator()(bool prepare = true) const {
    const int threads = pool.threads();
    const LinearOutput target{output, weight.out};
    pool.run([&](int worker) {
      std::byte* own = prepared[worker].data();
      if (rows >= 16 * threads) {
        const int64_t begin = rows * worker / threads, count = rows * (worker + 1) / threads - begin;
        if (prepare) prepare_linear_input(isa, weight, input + begin * weight.in, weight.in, count, own);
        multiply_linear(isa, weight, own, count, 0, weight.out, {output + begin * weight.out, weight.out});
        return;
      }
      if (prepare) prepare_linear_input(isa, weight, input, weight.in, rows, own);
      const int64_t steps = (weight.out + linear_column_step - 1) / linear_column_step;
      const int64_t begin = steps * worker / threads * linear_column_step;
      const int64_t end = std::min(weight.out, steps * (worker + 1) / threads * linear_column_step);
      if (begin < end) multiply_linear(isa, weight, own, rows, begin, end, target);
    });
  }
};

std::vector<AlignedVector<std::byte>> buffers(const ThreadPool& pool, size_t bytes) {
  std::vector<AlignedVector<std::byte>> buffers(pool.threads());
  for (auto& buffer : buffers) buffer.resize(bytes);
  return buffers;
}

void bench_shapes(Isa isa, ThreadPool& pool) {
  const int64_t shapes[][2] = {{576, 960}, {576, 576}, {576, 3072}, {1536, 576}, {640, 2048}, {2048, 640}};
  std::byte* memory = huge(linear_bytes(Precision::fast, 1536, 3072));
  for (const auto& [in, out] : shapes) {
    const LinearWeight weight = random_weight(in, out, memory, pool);
    for (const int64_t rows : {1, 2, 4, 5, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 333, 512}) {
      AlignedVector<float> input(rows * in), output(rows * out);
      auto prepared = buffers(pool, linear_input_bytes(weight, rows));
      std::mt19937 random(1);
      std::normal_distribution<float> normal;
      for (float& value : input) value = normal(random);
      const Run run{isa, pool, weight, rows, input.data(), prepared, output.data()};
      double peak = 0, whole = 1e30, multiply = 1e30;
      const double operations = 2.0 * static_cast<double>(rows * in * out);
      const int repeats = static_cast<int>(std::clamp(2e10 / operations, 5.0, 2000.0));
      for (int i = 0; i < 3; ++i) {
        peak = std::max(peak, measure_int8_peak(isa, pool));
        whole = std::min(whole, best_of(repeats, [&] { run(); }));
        multiply = std::min(multiply, best_of(repeats, [&] { run(false); }));
      }
      std::printf(
          "%-9s in %5ld out %5ld rows %4ld  %8.1f us  %6.3f Tops  %5.1f%% of int8 peak  (products alone "
          "%5.1f%%, peak %.3f)\n",
          isa_name(isa), in, out, rows, whole * 1e6, operations / whole * 1e-12, 100 * operations / whole / peak,
          100 * operations / multiply / peak, peak * 1e-12);
      std::fflush(stdout);
    }
  }
}

// All linear layers of SmolLM2-135M, one after the other, as a decode step reads them.
void bench_decode(Isa isa, ThreadPool& pool) {
  std::vector<std::pair<int64_t, int64_t>> shapes;
  for (int layer = 0; layer < 30; ++layer) {
    for (const auto& [in, out] : {std::pair{576, 960}, {576, 576}, {576, 3072}, {1536, 576}}) shapes.emplace_back(in, out);
  }
  shapes.emplace_back(576, 49152);
  size_t bytes = 0;
  for (const auto& [in, out] : shapes) bytes += linear_bytes(Precision::fast, in, out);
  std::byte* memory = huge(bytes);
  std::vector<LinearWeight> weights;
  size_t offset = 0;
  const double begin = now();
  for (const auto& [in, out] : shapes) {
    weights.push_back(random_weight(in, out, memory + offset, pool));
    offset += linear_bytes(Precision::fast, in, out);
  }
  std::printf("packed %.1f MB in %.3f s\n", static_cast<double>(bytes) * 1e-6, now() - begin);
  for (const int64_t rows : {1, 2, 3, 4, 5, 6, 8, 12, 16, 24}) {
    AlignedVector<float> input(rows * 1536), output(rows * 49152);
    auto prepared = buffers(pool, linear_input_bytes(weights[3], rows));
    for (size_t i = 0; i < input.size(); ++i) input[i] = static_cast<float>(i % 17) - 8;
    double peak = 0, best = 1e30, products = 1e30;
    for (int i = 0; i < 5; ++i) {
      peak = std::max(peak, measure_read_peak(isa, pool));
      best = std::min(best, best_of(12, [&] {
                        for (const LinearWeight& weight : weights) {
                          Run{isa, pool, weight, rows, input.data(), prepared, output.data()}();
                        }
                      }));
      products = std::min(products, best_of(12, [&] {
                            for (const LinearWeight& weight : weights) {
                              Run{isa, pool, weight, rows, input.data(), prepared, output.data()}(false);
                            }
                          }));
    }
    std::printf("%-9s decode rows %2ld  %7.3f ms  %5.1f GB/s  %5.1f%% of read peak %.1f  (products alone %5.1f%%)\n", isa_name(isa), rows,
                best * 1e3, static_cast<double>(bytes) / best * 1e-9, 100 * static_cast<double>(bytes) / best / peak, peak * 1e-9,
                100 * static_cast<double>(bytes) / products / peak);
    std::fflush(stdout);
  }
}

int run(int argc, char** argv) {
  const auto isa = choose_isa();
  if (!isa.ok()) {
    std::fprintf(stderr, "%s\n", isa.status().message().c_str());
    return 1;
  }
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  bool shapes = false, decode = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "shapes") shapes = true;
    if (word == "decode") decode = true;
    if (word == "threads" && i + 1 < argc) threads = std::max(1, std::atoi(argv[++i]));
  }
  if (!shapes && !decode) shapes = decode = true;
  ThreadPool pool(threads);
  const MachinePeaks peaks = measure_machine(*isa, pool);
  std::printf("%s, %d threads: int8 %.3f Tops, bf16 %.3f TFLOP/s, float32 %.3f TFLOP/s, read %.1f GB/s\n", isa_name(*isa), peaks.threads,
              peaks.int8_operations_per_second * 1e-12, peaks.bf16_operations_per_second * 1e-12,
              peaks.float32_operations_per_second * 1e-12, peaks.read_bytes_per_second * 1e-9);
  if (decode) bench_decode(*isa, pool);
  if (shapes) bench_shapes(*isa, pool);
  return 0;
}

}  // namespace
}  // namespace onset

int main(int argc, char** argv) {
  return onset::run(argc, argv);
}
