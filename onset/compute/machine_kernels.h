// The loops that machine.cc times, compiled for each instruction set. Each runs `turns` turns on the calling
// thread.
#pragma once

#include <cstddef>
#include <cstdint>

namespace onset {

struct MachineKernels {
  // Operations of a turn (multiplications and additions), and the loops; bf16 may be null.
  int64_t int8_operations;
  void (*int8)(int64_t turns);
  int64_t bf16_operations;
  void (*bf16)(int64_t turns);
  int64_t float32_operations;
  void (*float32)(int64_t turns);
  // Reads `bytes` bytes, a multiple of 4096, and returns something that depends on all of them.
  uint64_t (*read)(const std::byte* data, int64_t bytes);
};

extern const MachineKernels machine_generic;
#if defined(__x86_64__)
extern const MachineKernels machine_avx2, machine_avx_vnni, machine_evex_vnni, machine_avx512;
#endif

}  // namespace onset
