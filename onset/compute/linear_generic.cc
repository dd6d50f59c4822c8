// Linear layers in portable C++: the vectors are short arrays, which compilers put in what registers there are.
#include "onset/compute/linear_kernels.h"
#include "onset/compute/linear_quantizer.inc"

namespace onset {
namespace {

struct Ints {
  static constexpr int lanes = 8, rows = 2;
  static constexpr uint8_t bias = 0;
  struct Vector { int32_t lane[lanes]; };
  struct Weights { int8_t lane[4 * lanes]; };
  struct Four { int32_t value[4]; };

  static Vector zero() { return {}; }
  static Vector load(const int32_t* from) {
    Vector v;
    for (int i = 0; i < lanes; ++i) v.lane[i] = from[i];
    return v;
  }
  static void store(int32_t* to, const Vector& v) {
    for (int i = 0; i < lanes; ++i) to[i] = v.lane[i];
  }
  static Four four(const std::byte* from) {
    const auto* bytes = reinterpret_cast<const int8_t*>(from);
    return {{bytes[0], bytes[1], bytes[2], bytes[3]}};
  }
  static Weights weights(const std::byte* from) {
    Weights w;
    __builtin_memcpy(w.lane, from, sizeof(w.lane));
    return w;
  }
  static Vector add(Vector a, Vector b) {
    for (int i = 0; i < lanes; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static Vector dot(Vector sum, const Four& four, const Weights& w) {
    for (int i = 0; i < lanes; ++i) {
      for (int j = 0; j < 4; ++j) sum.lane[i] += four.value[j] * w.lane[4 * i + j];
    }
    return sum;
  }
};

struct Floats {
  static constexpr int lanes = 8;
  struct Vector { float lane[lanes]; };
  static Vector load(const float* from) {
    Vector v;
    for (int i = 0; i < lanes; ++i) v.lane[i] = from[i];
    return v;
  }
  static void store(float* to, const Vector& v) {
    for (int i = 0; i < lanes; ++i) to[i] = v.lane[i];
  }
  static Vector broadcast(float value) {
    Vector v;
    for (int i = 0; i < lanes; ++i) v.lane[i] = value;
    return v;
  }
  static Vector from_ints(const Ints::Vector& ints) {
    Vector v;
    for (int i = 0; i < lanes; ++i) v.lane[i] = static_cast<float>(ints.lane[i]);
    return v;
  }
  static Vector add(Vector a, const Vector& b) {
    for (int i = 0; i < lanes; ++i) a.lane[i] = a.lane[i] + b.lane[i];
    return a;
  }
  static Vector mul(Vector a, const Vector& b) {
    for (int i = 0; i < lanes; ++i) a.lane[i] = a.lane[i] * b.lane[i];
    return a;
  }
};

void rotate_row(const FastLayout& layout, float* values) { rotate_blocks(layout, values); }

float quantize_group(const float* values, int64_t count, uint8_t* bytes) {
  uint32_t largest = 0;
  for (int64_t k = 0; k < count; ++k) {
    uint32_t bits;
    __builtin_memcpy(&bits, values + k, sizeof(bits));
    bits &= 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  const QuantizerScale scale = quantizer_scale(largest);
  for (int64_t k = 0; k < count; ++k) {
    // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
    const float shifted = values[k] * scale.inverse + 12582912.0f;
    uint32_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof(bits));
    bytes[k] = static_cast<uint8_t>(bits);
  }
  return scale.scale;
}

}  // namespace
}  // namespace onset

#include "onset/compute/linear_kernels.inc"

namespace onset {
const LinearKernels linear_generic = {rotate_row, prepare, multiply, multiply_reference};
}  // namespace onset
