// quantize_row(): for each block, the scale (and offset) with the smallest sum of squared errors that a
// search finds.
//
// A fit tries several placements of the block's extremes on the integer grid, a little inside or outside of
// it: for a peak that no other value comes near, clipping it buys a finer grid for the rest. With the
// integers of a placement fixed, the best scale and offset follow in closed form (least squares); the best
// placement is then refined by turns of rounding and least squares. Super-blocks round those fits to their
// short integers, choose the rounding of each by its true error and refit their two half-precision scales.

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

#include "onset/tensor/block_formats.h"

namespace onset {
namespace {

constexpr int lanes = 8;  // independent partial sums: vector code without reordering any addition

// Nearest integer, ties to even, for |value| below 2^22.
inline float nearest(float value) {
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23
  return (value + magic) - magic;
}

// The integer code of value * inverse + shift. Not-a-number becomes `low`.
inline float code(float value, float inverse, float shift, float low, float high) {
  return nearest(std::min(high, std::max(low, value * inverse + shift)));
}

float halved(float value) {
  return f16_to_f32(f32_to_f16(std::clamp(value, -65504.0f, 65504.0f)));
}

float inverse_or_zero(float value) {
  const float inverse = 1.0f / value;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

// What least squares needs to know of the codes q of values x.
struct Sums {
  double q = 0, qq = 0, xq = 0;
};

template <int N>
Sums sums_of(const float* x, float inverse, float shift, float low, float high) {
  float q[lanes] = {}, qq[lanes] = {}, xq[lanes] = {};
  for (int i = 0; i < N; i += lanes) {
    for (int l = 0; l < lanes; ++l) {
      const float c = code(x[i + l], inverse, shift, low, high);
      q[l] += c;
      qq[l] += c * c;
      xq[l] += x[i + l] * c;
    }
  }
  Sums sums;
  for (int l = 0; l < lanes; ++l) {
    sums.q += static_cast<double>(q[l]);
    sums.qq += static_cast<double>(qq[l]);
    sums.xq += static_cast<double>(xq[l]);
  }
  return sums;
}

// Sum of squared errors when every value takes its nearest code under scale * q + offset.
template <int N>
double error_of(const float* x, float scale, float offset, float low, float high) {
  const float inverse = inverse_or_zero(scale), shift = -offset * inverse;
  float error[lanes] = {};
  for (int i = 0; i < N; i += lanes) {
    for (int l = 0; l < lanes; ++l) {
      const float difference = x[i + l] - (scale * code(x[i + l], inverse, shift, low, high) + offset);
      error[l] += difference * difference;
    }
  }
  double sum = 0;
  for (int l = 0; l < lanes; ++l) sum += static_cast<double>(error[l]);
  return sum;
}

// --- value = scale * q, q in [low, high] ---

template <int N>
float fit_scale(const float* x, float low, float high, std::span<const float> margins) {
  float peak = 0;
  for (int i = 0; i < N; ++i) {
    if (std::fabs(x[i]) > std::fabs(peak)) peak = x[i];
  }
  if (inverse_or_zero(peak) == 0.0f) return 0.0f;
  float best_scale = 0;
  double best_gain = 0;  // error = sum of x^2 - gain
  const auto attempt = [&](float inverse) {
    const Sums sums = sums_of<N>(x, inverse, 0.0f, low, high);
    if (sums.qq <= 0) return false;
    const double gain = sums.xq * sums.xq / sums.qq;
    if (!(gain > best_gain)) return false;
    best_gain = gain;
    best_scale = static_cast<float>(sums.xq / sums.qq);
    return true;
  };
  for (const float margin : margins) {
    attempt((low - margin) / peak);
    attempt((high + margin) / peak);
  }
  for (int turn = 0; turn < 4 && attempt(inverse_or_zero(best_scale)); ++turn) {
  }
  return best_scale;
}

// --- value = scale * q + offset, q in [0, high] ---

struct Affine {
  float scale = 0, offset = 0;
};

// With `offset_below_zero` the offset is at most 0.
template <int N>
Affine fit_affine(const float* x, float high, bool offset_below_zero, std::span<const float> margins) {
  auto [least, most] = std::minmax_element(x, x + N);
  const float top = *most, bottom = offset_below_zero ? std::min(*least, 0.0f) : *least;
  const float range = top - bottom;
  if (inverse_or_zero(range) == 0.0f || !std::isfinite(range)) return {0.0f, bottom};
  // Centred values keep the sums accurate when the range is small beside the values.
  const float middle = bottom + 0.5f * range;
  float centred[N];
  double sum = 0, square = 0;
  for (int i = 0; i < N; ++i) {
    centred[i] = x[i] - middle;
    sum += static_cast<double>(centred[i]);
    square += static_cast<double>(centred[i]) * static_cast<double>(centred[i]);
  }
  // Placements that are equally good up to rounding (all codes one higher, the offset one step lower) are
  // told apart by their order: margins begin with 0, so the codes begin at 0.
  const double noise = 3e-7 * square;
  Affine best{range / high, bottom};
  double best_error = std::numeric_limits<double>::infinity();
  const auto attempt = [&](float inverse, float shift) {
    const Sums s = sums_of<N>(centred, inverse, shift, 0.0f, high);
    const double determinant = N * s.qq - s.q * s.q;
    if (determinant <= 0) return false;
    double scale = (N * s.xq - s.q * sum) / determinant;
    double offset = (sum - scale * s.q) / N;
    if (offset_below_zero && offset + static_cast<double>(middle) > 0) {
      offset = -static_cast<double>(middle);  // the total offset is zero; the scale follows alone
      scale = (s.xq - offset * s.q) / s.qq;
    }
    const double error =
        square + scale * scale * s.qq + N * offset * offset - 2 * scale * s.xq - 2 * offset * sum + 2 * scale * offset * s.q;
    if (!(error < best_error - noise) || scale <= 0) return false;
    best_error = error;
    best = {static_cast<float>(scale), static_cast<float>(offset)};
    return true;
  };
  for (const float below : margins) {
    for (const float above : margins) {
      const float inverse = (high + below + above) / range;
      attempt(inverse, 0.5f * range * inverse - below);
    }
  }
  if (!std::isfinite(best_error)) return {range / high, bottom};
  for (int turn = 0; turn < 4; ++turn) {
    const float inverse = inverse_or_zero(best.scale);
    if (!attempt(inverse, -best.offset * inverse)) break;
  }
  return {best.scale, offset_below_zero ? std::min(best.offset + middle, 0.0f) : best.offset + middle};
}

// Margins in steps of the grid: how far outside of it the extremes may lie (inside where negative). Found by
// measuring the error on Gaussian, Laplace and real weights; more of them gain less than 0.1 %.
constexpr std::array scale_margins_16 = {-1.0f, -0.6f, -0.3f, 0.0f, 0.3f, 0.6f, 1.0f, 1.5f, 2.0f};
constexpr std::array scale_margins_32 = {-1.0f, -0.5f, 0.0f, 0.5f, 1.0f, 1.75f, 2.5f, 3.5f};
constexpr std::array scale_margins_64 = {-1.0f, -0.5f, 0.0f, 0.5f, 1.0f, 2.0f};
constexpr std::array affine_margins_16 = {0.0f, -1.0f, 0.3f, 0.7f, 1.1f};
constexpr std::array affine_margins_32 = {0.0f, -1.0f, 0.4f, 0.9f, 1.5f};

// --- blocks of 32 ---

template <typename Block>
void put_nibbles(const uint8_t codes[32], Block& block) {
  for (int i = 0; i < 16; ++i) {
    block.nibbles[i] = static_cast<uint8_t>((codes[i] & 15) | ((codes[i + 16] & 15) << 4));
  }
  if constexpr (requires { block.fifth_bits; }) {
    std::memset(block.fifth_bits, 0, sizeof(block.fifth_bits));
    for (int i = 0; i < 32; ++i) {
      block.fifth_bits[i / 8] = static_cast<uint8_t>(block.fifth_bits[i / 8] | ((codes[i] >> 4) << (i % 8)));
    }
  }
}

template <int Half, typename Block>
void encode_scaled_32(const float* x, std::span<const float> margins, Block& block) {
  const float scale = halved(fit_scale<32>(x, -Half, Half - 1, margins));
  const float inverse = inverse_or_zero(scale);
  uint8_t codes[32];
  for (int i = 0; i < 32; ++i) codes[i] = static_cast<uint8_t>(code(x[i], inverse, 0, -Half, Half - 1) + Half);
  block.d = f32_to_f16(scale);
  put_nibbles(codes, block);
}

template <int High, typename Block>
void encode_affine_32(const float* x, std::span<const float> margins, Block& block) {
  const Affine fit = fit_affine<32>(x, High, false, margins);
  const float scale = halved(fit.scale), offset = halved(fit.offset);
  const float inverse = inverse_or_zero(scale), shift = -offset * inverse;
  uint8_t codes[32];
  for (int i = 0; i < 32; ++i) codes[i] = static_cast<uint8_t>(code(x[i], inverse, shift, 0, High));
  block.d = f32_to_f16(scale);
  block.m = f32_to_f16(offset);
  put_nibbles(codes, block);
}

void encode(const float* x, BlockQ4_0& block) {
  encode_scaled_32<8>(x, scale_margins_16, block);
}
void encode(const float* x, BlockQ5_0& block) {
  encode_scaled_32<16>(x, scale_margins_32, block);
}
void encode(const float* x, BlockQ4_1& block) {
  encode_affine_32<15>(x, affine_margins_16, block);
}
void encode(const float* x, BlockQ5_1& block) {
  encode_affine_32<31>(x, affine_margins_32, block);
}

// 255 levels: the peak at +-127 is within 1 % of the best that any search finds.
void encode(const float* x, BlockQ8_0& block) {
  float peak = 0;
  for (int i = 0; i < 32; ++i) peak = std::max(peak, std::fabs(x[i]));
  const float scale = halved(peak / 127.0f), inverse = inverse_or_zero(scale);
  for (int i = 0; i < 32; ++i) block.values[i] = static_cast<int8_t>(code(x[i], inverse, 0, -127, 127));
  block.d = f32_to_f16(scale);
}

// --- super-blocks ---

// What a Q4_K or Q5_K block stores beside its codes.
struct ScaledFit {
  float d = 0, dmin = 0;
  std::array<int, 8> scale{}, min{};
  double error = std::numeric_limits<double>::infinity();
};

// Chooses each sub-block's integers near its wish, by the true error.
void choose_integers(const float* x, float high, const std::array<Affine, 8>& wish, ScaledFit& fit) {
  fit.error = 0;
  const float inverse_d = inverse_or_zero(fit.d), inverse_dmin = inverse_or_zero(fit.dmin);
  for (size_t sub = 0; sub < 8; ++sub) {
    const int scale_near = static_cast<int>(code(wish[sub].scale, inverse_d, 0, 0, 63));
    const int min_near = static_cast<int>(code(-wish[sub].offset, inverse_dmin, 0, 0, 63));
    double best = std::numeric_limits<double>::infinity();
    for (int scale = std::max(0, scale_near - 1); scale <= std::min(63, scale_near + 1); ++scale) {
      for (int min = std::max(0, min_near - 1); min <= std::min(63, min_near + 1); ++min) {
        const double error = error_of<32>(x + 32 * sub, fit.d * static_cast<float>(scale), -(fit.dmin * static_cast<float>(min)), 0, high);
        if (error < best) {
          best = error;
          fit.scale[sub] = scale;
          fit.min[sub] = min;
        }
      }
    }
    fit.error += best;
  }
}

// d and dmin by least squares over the whole block, everything else fixed.
void refit_scales(const float* x, float high, ScaledFit& fit) {
  double ss = 0, mm = 0, sm = 0, xs = 0, xm = 0;
  for (size_t sub = 0; sub < 8; ++sub) {
    const float scale = fit.d * static_cast<float>(fit.scale[sub]), min = fit.dmin * static_cast<float>(fit.min[sub]);
    const float inverse = inverse_or_zero(scale), shift = min * inverse;
    for (size_t i = 32 * sub; i < 32 * sub + 32; ++i) {
      const double s = static_cast<double>(code(x[i], inverse, shift, 0, high)) * fit.scale[sub];
      const double m = -fit.min[sub];
      ss += s * s, mm += m * m, sm += s * m;
      xs += static_cast<double>(x[i]) * s, xm += static_cast<double>(x[i]) * m;
    }
  }
  const double determinant = ss * mm - sm * sm;
  if (determinant > 1e-9 * ss * mm) {
    fit.d = halved(static_cast<float>((xs * mm - xm * sm) / determinant));
    fit.dmin = halved(static_cast<float>((xm * ss - xs * sm) / determinant));
  } else if (ss > 0 && fit.dmin == 0.0f) {
    fit.d = halved(static_cast<float>(xs / ss));
  }
  // Both stay above zero in every sane block; a fit that turned around is not worth keeping.
  fit.d = std::max(fit.d, 0.0f);
  fit.dmin = std::max(fit.dmin, 0.0f);
}

ScaledFit fit_super_block(const float* x, float high, std::span<const float> margins) {
  std::array<Affine, 8> wish;
  float largest_scale = 0, largest_min = 0;
  for (size_t sub = 0; sub < 8; ++sub) {
    wish[sub] = fit_affine<32>(x + 32 * sub, high, true, margins);
    largest_scale = std::max(largest_scale, wish[sub].scale);
    largest_min = std::max(largest_min, -wish[sub].offset);
  }
  ScaledFit fit;
  fit.d = halved(largest_scale / 63.0f);
  fit.dmin = halved(largest_min / 63.0f);
  choose_integers(x, high, wish, fit);
  for (int turn = 0; turn < 2; ++turn) {
    ScaledFit next = fit;
    refit_scales(x, high, next);
    choose_integers(x, high, wish, next);
    if (!(next.error < fit.error)) break;
    fit = next;
  }
  return fit;
}

template <typename Block>
void encode_super_block(const float* x, float high, std::span<const float> margins, Block& block) {
  const ScaledFit fit = fit_super_block(x, high, margins);
  std::memset(&block, 0, sizeof(block));
  block.d = f32_to_f16(fit.d);
  block.dmin = f32_to_f16(fit.dmin);
  for (size_t sub = 0; sub < 8; ++sub) {
    const auto scale = static_cast<unsigned>(fit.scale[sub]), min = static_cast<unsigned>(fit.min[sub]);
    if (sub < 4) {
      block.scales[sub] = static_cast<uint8_t>(block.scales[sub] | scale);
      block.scales[sub + 4] = static_cast<uint8_t>(block.scales[sub + 4] | min);
    } else {
      block.scales[sub + 4] = static_cast<uint8_t>((scale & 15) | ((min & 15) << 4));
      block.scales[sub - 4] = static_cast<uint8_t>(block.scales[sub - 4] | ((scale >> 4) << 6));
      block.scales[sub] = static_cast<uint8_t>(block.scales[sub] | ((min >> 4) << 6));
    }
    const float step = fit.d * static_cast<float>(scale), inverse = inverse_or_zero(step);
    const float shift = fit.dmin * static_cast<float>(min) * inverse;
    for (size_t i = 0; i < 32; ++i) {
      const auto q = static_cast<unsigned>(code(x[32 * sub + i], inverse, shift, 0, high));
      uint8_t& nibbles = block.nibbles[32 * (sub / 2) + i];
      nibbles = static_cast<uint8_t>(nibbles | ((q & 15) << (sub % 2 * 4)));
      if constexpr (requires { block.fifth_bits; }) {
        block.fifth_bits[i] = static_cast<uint8_t>(block.fifth_bits[i] | ((q >> 4) << sub));
      }
    }
  }
}

void encode(const float* x, BlockQ4_K& block) {
  encode_super_block(x, 15, affine_margins_16, block);
}
void encode(const float* x, BlockQ5_K& block) {
  encode_super_block(x, 31, affine_margins_32, block);
}

struct SignedFit {
  float d = 0;
  std::array<int, 16> scale{};
  double error = std::numeric_limits<double>::infinity();
};

void choose_integers(const float* x, const std::array<float, 16>& wish, SignedFit& fit) {
  fit.error = 0;
  const float inverse = inverse_or_zero(fit.d);
  for (size_t sub = 0; sub < 16; ++sub) {
    const int near = static_cast<int>(code(wish[sub], inverse, 0, -128, 127));
    double best = std::numeric_limits<double>::infinity();
    for (int scale = std::max(-128, near - 1); scale <= std::min(127, near + 1); ++scale) {
      const double error = error_of<16>(x + 16 * sub, fit.d * static_cast<float>(scale), 0, -32, 31);
      if (error < best) {
        best = error;
        fit.scale[sub] = scale;
      }
    }
    fit.error += best;
  }
}

void refit_scale(const float* x, SignedFit& fit) {
  double ss = 0, xs = 0;
  for (size_t i = 0; i < 256; ++i) {
    const int scale = fit.scale[i / 16];
    const float inverse = inverse_or_zero(fit.d * static_cast<float>(scale));
    const double s = static_cast<double>(code(x[i], inverse, 0, -32, 31)) * scale;
    ss += s * s;
    xs += static_cast<double>(x[i]) * s;
  }
  if (ss > 0) fit.d = halved(static_cast<float>(xs / ss));
}

void encode(const float* x, BlockQ6_K& block) {
  std::array<float, 16> wish;
  float largest = 0;
  for (size_t sub = 0; sub < 16; ++sub) {
    wish[sub] = fit_scale<16>(x + 16 * sub, -32, 31, scale_margins_64);
    if (std::fabs(wish[sub]) > std::fabs(largest)) largest = wish[sub];
  }
  SignedFit fit;
  fit.d = halved(largest / -128.0f);
  choose_integers(x, wish, fit);
  for (int turn = 0; turn < 2; ++turn) {
    SignedFit next = fit;
    refit_scale(x, next);
    choose_integers(x, wish, next);
    if (!(next.error < fit.error)) break;
    fit = next;
  }
  std::memset(&block, 0, sizeof(block));
  block.d = f32_to_f16(fit.d);
  for (size_t sub = 0; sub < 16; ++sub) block.scales[sub] = static_cast<int8_t>(fit.scale[sub]);
  for (size_t index = 0; index < 256; ++index) {
    const size_t half = index / 128, group = index % 128 / 32, i = index % 32;
    const float inverse = inverse_or_zero(fit.d * static_cast<float>(fit.scale[index / 16]));
    const auto q = static_cast<unsigned>(code(x[index], inverse, 0, -32, 31) + 32);
    uint8_t& low = block.nibbles[64 * half + 32 * (group % 2) + i];
    uint8_t& high = block.high_bits[32 * half + i];
    low = static_cast<uint8_t>(low | ((q & 15) << (group / 2 * 4)));
    high = static_cast<uint8_t>(high | ((q >> 4) << (2 * group)));
  }
}

template <typename Block>
void encode_blocks(std::span<const float> row, std::byte* stored, size_t values) {
  for (size_t begin = 0; begin < row.size(); begin += values, stored += sizeof(Block)) {
    Block block;
    encode(row.data() + begin, block);
    std::memcpy(stored, &block, sizeof(Block));
  }
}

}  // namespace

void quantize_row(DType dtype, std::span<const float> row, std::byte* stored) {
  assert(is_weight_type(dtype) && static_cast<int64_t>(row.size()) % block_size(dtype) == 0);
  switch (dtype) {
    case DType::f32:
      std::memcpy(stored, row.data(), row.size_bytes());
      return;
    case DType::f16:
    case DType::bf16:
      for (size_t i = 0; i < row.size(); ++i) {
        const uint16_t half = dtype == DType::f16 ? f32_to_f16(row[i]) : f32_to_bf16(row[i]);
        std::memcpy(stored + 2 * i, &half, 2);
      }
      return;
    case DType::q4_0:
      return encode_blocks<BlockQ4_0>(row, stored, 32);
    case DType::q4_1:
      return encode_blocks<BlockQ4_1>(row, stored, 32);
    case DType::q5_0:
      return encode_blocks<BlockQ5_0>(row, stored, 32);
    case DType::q5_1:
      return encode_blocks<BlockQ5_1>(row, stored, 32);
    case DType::q8_0:
      return encode_blocks<BlockQ8_0>(row, stored, 32);
    case DType::q4_k:
      return encode_blocks<BlockQ4_K>(row, stored, 256);
    case DType::q5_k:
      return encode_blocks<BlockQ5_K>(row, stored, 256);
    case DType::q6_k:
      return encode_blocks<BlockQ6_K>(row, stored, 256);
    case DType::f64:
    case DType::i8:
    case DType::i16:
    case DType::i32:
    case DType::i64:
      return;
  }
}

}  // namespace onset
