// Peaks of portable C++: what the compiler makes of plain loops.
#include "onset/compute/machine_kernels.h"

namespace onset {
namespace {

struct Int8 {
  static constexpr int sums = 4, lanes = 8;
  static constexpr int64_t operations = 2 * lanes;
  struct Vector { int32_t lane[lanes]; };
  static Vector start(int seed) {
    Vector v;
    for (int i = 0; i < lanes; ++i) v.lane[i] = seed + i;
    return v;
  }
  static Vector step(Vector sum, const Vector& a, const Vector& b) {
    for (int i = 0; i < lanes; ++i) sum.lane[i] += static_cast<int8_t>(a.lane[i]) * static_cast<int8_t>(b.lane[i]);
    return sum;
  }
  static void keep(Vector& v) { asm volatile("" : "+m"(v)); }
};

struct Float32 {
  static constexpr int sums = 4, lanes = 8;
  static constexpr int64_t operations = 2 * lanes;
  struct Vector { float lane[lanes]; };
  static Vector start(int seed) {
    Vector v;
    for (int i = 0; i < lanes; ++i) v.lane[i] = 1e-9f * static_cast<float>(seed + i);
    return v;
  }
  static Vector step(Vector sum, const Vector& a, const Vector& b) {
    for (int i = 0; i < lanes; ++i) sum.lane[i] = sum.lane[i] + a.lane[i] * b.lane[i];
    return sum;
  }
  static void keep(Vector& v) { asm volatile("" : "+m"(v)); }
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
const MachineKernels machine_generic = {
    turn_operations<Int8>, multiply_loop<Int8>, 0, nullptr, turn_operations<Float32>, multiply_loop<Float32>, read};
}  // namespace onset
