// Linear layers in portable C++: the vectors are short arrays, which compilers put in what registers there
// are.
#include "onset/compute/linear_kernels.h"
#include "onset/compute/linear_quantizer.inc"

namespace onset {
namespace {

struct FloatVector {
  float lane[8];
};

struct Ints {
  static constexpr int columns = 8;
  static constexpr int value_bytes = 2;
  static constexpr bool biased = false;
  static constexpr int registers = 8;
  struct Vector {
    int32_t lane[columns];
  };
  struct Weights {
    int16_t lane[4 * columns];
  };
  struct Four {
    int16_t value[4];
  };

  static Vector zero() { return {}; }
  static Vector load(const int32_t*) { return zero(); }  // only for biased values
  static Four four(const std::byte* from) {
    Four four;
    __builtin_memcpy(four.value, from, sizeof(four.value));
    return four;
  }
  static Weights weights(const std::byte* from) {
    Weights w;
    for (int i = 0; i < 4 * columns; ++i) w.lane[i] = static_cast<int8_t>(from[i]);
    return w;
  }
  static Vector add(Vector a, const Vector& b) {
    for (int i = 0; i < columns; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static Vector dot(Vector sum, const Four& four, const Weights& w) {
    for (int i = 0; i < columns; ++i) {
      for (int j = 0; j < 4; ++j) sum.lane[i] += four.value[j] * w.lane[4 * i + j];
    }
    return sum;
  }
  template <int V>
  static void to_floats(const Vector (&sums)[V], FloatVector (&values)[V]) {
    for (int v = 0; v < V; ++v) {
      for (int i = 0; i < columns; ++i) values[v].lane[i] = static_cast<float>(sums[v].lane[i]);
    }
  }
};

struct Floats {
  static constexpr int lanes = 8, registers = 4;
  using Vector = FloatVector;
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
  static Vector add(Vector a, const Vector& b) {
    for (int i = 0; i < lanes; ++i) a.lane[i] = a.lane[i] + b.lane[i];
    return a;
  }
  static Vector sub(Vector a, const Vector& b) {
    for (int i = 0; i < lanes; ++i) a.lane[i] = a.lane[i] - b.lane[i];
    return a;
  }
  static Vector mul(Vector a, const Vector& b) {
    for (int i = 0; i < lanes; ++i) a.lane[i] = a.lane[i] * b.lane[i];
    return a;
  }
};

struct Pairs {
  static constexpr int64_t value_bytes = sizeof(float), step_values = 2;
  struct Weights {
    Floats::Vector low, high;
  };
  struct Two {
    float value[2];
  };
  static Two one_step(const std::byte* values) {
    Two two;
    __builtin_memcpy(two.value, values, sizeof(two.value));
    return two;
  }
  static Weights weights(const std::byte* from) {
    Weights w;
    for (int i = 0; i < Floats::lanes; ++i) {
      uint32_t pair;
      __builtin_memcpy(&pair, from + 4 * i, sizeof(pair));
      const uint32_t bits[2] = {pair << 16, pair & 0xffff0000u};
      __builtin_memcpy(&w.low.lane[i], &bits[0], sizeof(float));
      __builtin_memcpy(&w.high.lane[i], &bits[1], sizeof(float));
    }
    return w;
  }
  static Floats::Vector dot(Floats::Vector sum, const Two& two, const Weights& w) {
    for (int i = 0; i < Floats::lanes; ++i) sum.lane[i] = sum.lane[i] + two.value[1] * w.high.lane[i] + two.value[0] * w.low.lane[i];
    return sum;
  }
  static void store_row(const float* values, int64_t count, std::byte* stored) { store_rounded_to_bf16(values, count, stored); }
};

// Strides 1, 2 and 4.
Floats::Vector hadamard_lanes(Floats::Vector v) {
  for (int stride = 1; stride < Floats::lanes; stride *= 2) {
    for (int i = 0; i < Floats::lanes; ++i) {
      if (i & stride) continue;
      const float a = v.lane[i], b = v.lane[i + stride];
      v.lane[i] = a + b;
      v.lane[i + stride] = a - b;
    }
  }
  return v;
}

QuantizerScale row_scale(const float* values, int64_t count) {
  uint32_t largest = 0;
  for (int64_t k = 0; k < count; ++k) {
    uint32_t bits;
    __builtin_memcpy(&bits, values + k, sizeof(bits));
    bits &= 0x7fffffffu;
    largest = bits > largest ? bits : largest;
  }
  return quantizer_scale(largest);
}

void quantize_row(const float* values, int64_t count, float scale_inverse, std::byte* stored) {
  for (int64_t k = 0; k < count; ++k) {
    // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
    const float shifted = values[k] * scale_inverse + 12582912.0f;
    uint32_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof(bits));
    reinterpret_cast<int16_t*>(stored)[k] = static_cast<int8_t>(bits);
  }
}

}  // namespace
}  // namespace onset

#include "onset/compute/rotation_kernels.inc"

#include "onset/compute/linear_kernels.inc"

namespace onset {
const LinearKernels linear_generic = {narrow_rows,           rotate, prepare, multiply, multiply_floats<Singles>, prepare_bf16,
                                      multiply_floats<Pairs>};
}  // namespace onset
