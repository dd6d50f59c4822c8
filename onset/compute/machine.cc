#include "onset/compute/machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "onset/compute/machine_kernels.h"

namespace onset {
namespace {

constexpr int repeats = 8;
constexpr int64_t run_operations = 200'000'000;  // some tenths of a millisecond
constexpr int64_t read_total = 256ll << 20;      // several times any third-level cache's share of a few cores

const MachineKernels& kernels_of(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::generic:
      return machine_generic;
    case Isa::avx2:
      return machine_avx2;
    case Isa::avx_vnni:
      return vnni256_is_evex() ? machine_evex_vnni : machine_avx_vnni;
    case Isa::avx512:
      return machine_avx512;
  }
#endif
  static_cast<void>(isa);
  return machine_generic;
}

// The least time in which all workers have run body(worker), over the repeats; the first warms up.
template <typename Body>
double best_seconds(ThreadPool& pool, const Body& body) {
  double best = 1e30;
  for (int i = 0; i <= repeats; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    pool.run(body);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    if (i > 0) best = std::min(best, seconds.count());
  }
  return best;
}

double operations_per_second(ThreadPool& pool, void (*loop)(int64_t), int64_t operations) {
  if (loop == nullptr) return 0;
  const int64_t turns = run_operations / operations;
  const double seconds = best_seconds(pool, [&](int) { loop(turns); });
  return static_cast<double>(operations) * static_cast<double>(turns) * pool.threads() / seconds;
}

double read_bytes_per_second(ThreadPool& pool, const MachineKernels& kernels) {
  void* memory = mmap(nullptr, read_total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  madvise(memory, read_total, MADV_HUGEPAGE);
  const int64_t share = read_total / pool.threads() / 4096 * 4096;
  auto* data = static_cast<std::byte*>(memory);
  pool.run([&](int worker) { std::memset(data + worker * share, 1, share); });
  std::vector<uint64_t> folded(pool.threads() * 8);
  const double seconds = best_seconds(pool, [&](int worker) { folded[worker * 8] = kernels.read(data + worker * share, share); });
  asm volatile("" : : "m"(folded[0]));
  munmap(memory, read_total);
  return static_cast<double>(share) * pool.threads() / seconds;
}

}  // namespace

double measure_int8_peak(Isa isa, ThreadPool& pool) {
  return operations_per_second(pool, kernels_of(isa).int8, kernels_of(isa).int8_operations);
}

double measure_read_peak(Isa isa, ThreadPool& pool) {
  return read_bytes_per_second(pool, kernels_of(isa));
}

MachinePeaks measure_machine(Isa isa, ThreadPool& pool) {
  const MachineKernels& kernels = kernels_of(isa);
  MachinePeaks peaks;
  peaks.isa = isa;
  peaks.threads = pool.threads();
  peaks.int8_operations_per_second = measure_int8_peak(isa, pool);
  peaks.bf16_operations_per_second = operations_per_second(pool, kernels.bf16, kernels.bf16_operations);
  peaks.float32_operations_per_second = operations_per_second(pool, kernels.float32, kernels.float32_operations);
  peaks.read_bytes_per_second = measure_read_peak(isa, pool);
  return peaks;
}

std::vector<MachinePeaks> measure_machine(Isa isa, int threads) {
  std::vector<MachinePeaks> peaks;
  for (int count = 1; count <= threads; ++count) {
    ThreadPool pool(count);
    peaks.push_back(measure_machine(isa, pool));
  }
  return peaks;
}

}  // namespace onset
