#include "onset/compute/machine.h"

#include <gtest/gtest.h>

#include <cmath>

namespace onset {
namespace {

TEST(Machine, PeaksAreFiniteAndPositive) {
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx_vnni, Isa::avx512}) {
    if (!cpu_supports(isa)) continue;
    ThreadPool pool(2);
    const MachinePeaks peaks = measure_machine(isa, pool);
    EXPECT_EQ(peaks.isa, isa);
    EXPECT_EQ(peaks.threads, 2);
    for (const double peak : {peaks.int8_operations_per_second, peaks.float32_operations_per_second, peaks.read_bytes_per_second}) {
      EXPECT_TRUE(std::isfinite(peak) && peak > 0);
    }
    EXPECT_EQ(peaks.bf16_operations_per_second > 0, isa == Isa::avx512);
  }
}

TEST(Machine, OneEntryForEachNumberOfThreads) {
  const std::vector<MachinePeaks> peaks = measure_machine(Isa::generic, 2);
  ASSERT_EQ(peaks.size(), 2u);
  EXPECT_EQ(peaks[0].threads, 1);
  EXPECT_EQ(peaks[1].threads, 2);
}

}  // namespace
}  // namespace onset
