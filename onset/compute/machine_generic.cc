// Peaks of portable C++: what the compiler makes of plain loops.
#include "onset/compute/machine_kernels.h"

namespace onset {
namespace {

constexpr int values = 2048;  // fit any first-level cache

// A dot product of small integers, which compilers turn into multiply-add instructions of 16 bits where there
// are any.
void int8_loop(int64_t turns) {
  int16_t a[values], b[values];
  for (int i = 0; i < values; ++i) {
    a[i] = static_cast<int16_t>(i % 251 - 125);
    b[i] = static_cast<int16_t>(i % 241 - 120);
  }
  for (int64_t turn = 0; turn < turns; ++turn) {
    int32_t sum = 0;
    for (int i = 0; i < values; ++i) sum += a[i] * b[i];
    a[turn % values] = static_cast<int16_t>(sum % 100);  // or one turn would do for all
  }
  asm volatile("" : : "m"(a));
}

struct Float32 {
  static constexpr int sums = 12;
  static constexpr int64_t operations = 2 * 4;
  typedef float Vector __attribute__((vector_size(16)));
  static Vector start(int seed) {
    const float value = 1e-9f * static_cast<float>(seed);
    return Vector{value, value, value, value};
  }
  static Vector step(Vector sum, Vector a, Vector b) { return sum + a * b; }
  static void keep(Vector& v) {
#if defined(__x86_64__)
    asm volatile("" : "+x"(v));
#elif defined(__aarch64__)
    asm volatile("" : "+w"(v));
#else
    asm volatile("" : "+m"(v));
#endif
  }
};

uint64_t read(const std::byte* data, int64_t bytes) {
  uint64_t folded[8] = {};
  for (int64_t i = 0; i < bytes; i += 64) {
    uint64_t words[8];
    __builtin_memcpy(words, data + i, sizeof(words));
    for (int j = 0; j < 8; ++j) folded[j] ^= words[j];
  }
  return folded[0] ^ folded[1] ^ folded[2] ^ folded[3] ^ folded[4] ^ folded[5] ^ folded[6] ^ folded[7];
}

}  // namespace
}  // namespace onset

#include "onset/compute/machine_kernels.inc"

namespace onset {

const MachineKernels machine_generic = {2 * values, int8_loop, 0, nullptr, turn_operations<Float32>, multiply_loop<Float32>, read};

}  // namespace onset
