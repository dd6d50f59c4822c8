#include "onset/compute/linear.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "onset/base/aligned.h"
#include "onset/compute/linear_layout.h"
#include "onset/compute/reference/linear.h"
#include "onset/tensor/dtype.h"

namespace onset {
namespace {

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx_vnni, Isa::avx512}) {
    if (cpu_supports(isa)) isas.push_back(isa);
  }
  return isas;
}

// One random layer with its packed weight and some rows.
struct Layer {
  int64_t in, out, rows, input_stride;
  std::vector<float> matrix, input, bias;
  AlignedVector<std::byte> packed;
  LinearWeight weight;

  std::vector<float> shift, inverse;

  Layer(Precision precision, int64_t in, int64_t out, int64_t rows, uint32_t seed, int threads = 2)
      : in(in), out(out), rows(rows), input_stride(in + static_cast<int64_t>(seed % 5)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    matrix.resize(out * in);
    input.resize(rows * input_stride);
    bias.resize(out);
    // Some columns of the input are far larger than others, as in language models.
    for (float& value : matrix) value = normal(random) * 0.05f;
    for (size_t i = 0; i < input.size(); ++i) input[i] = normal(random) * (i % 97 == 3 ? 20.0f : 1.0f);
    for (float& value : bias) value = normal(random);
    if (seed % 2 == 0) {
      shift.resize(in);
      inverse.resize(in);
      for (float& value : shift) value = normal(random);
      for (float& value : inverse) value = std::exp(0.5f * normal(random));
    }
    packed.resize(linear_bytes(precision, in, out));
    std::memset(packed.data(), 0x5a, packed.size());
    ThreadPool pool(threads);
    pack_linear(
        precision, in, out, [&](int64_t n, std::span<float> row) { std::copy_n(&matrix[n * in], in, row.data()); }, {shift, inverse},
        packed.data(), pool);
    weight = {precision, in, out, packed.data()};
  }

  // A row of weights, and one of inputs, as they are before the rotation.
  std::vector<double> conditioned_weights(int64_t n) const {
    std::vector<double> row = {&matrix[n * in], &matrix[n * in] + in};
    if (!shift.empty()) {
      for (int64_t k = 0; k < in; ++k) row[k] /= inverse[k];
    }
    return row;
  }
  std::vector<double> conditioned_input(int64_t r) const {
    std::vector<double> row = {&input[r * input_stride], &input[r * input_stride] + in};
    if (!shift.empty()) {
      for (int64_t k = 0; k < in; ++k) row[k] = (row[k] - shift[k]) * inverse[k];
    }
    return row;
  }

  AlignedVector<std::byte> prepare(Isa isa, int64_t first, int64_t count) const {
    AlignedVector<std::byte> prepared(linear_input_bytes(weight, count));
    prepare_linear_input(isa, weight, input.data() + first * input_stride, input_stride, count, prepared.data());
    return prepared;
  }
  AlignedVector<std::byte> prepare(Isa isa) const { return prepare(isa, 0, rows); }

  std::vector<float> multiply(Isa isa, bool with_bias = false) const {
    std::vector<float> output(rows * out);
    const auto prepared = prepare(isa);
    multiply_linear(isa, weight, prepared.data(), rows, 0, out, {output.data(), out, with_bias ? bias.data() : nullptr});
    return output;
  }
};

struct Shape {
  int64_t in, out, rows;
};

std::vector<Shape> shapes() {
  // Every way through the rotation: powers of two on both sides of 64 and of each further pass, odd factors.
  std::vector<Shape> shapes = {{1, 1, 1},     {3, 5, 2},     {4, 32, 1},    {64, 33, 3},   {100, 64, 13}, {576, 96, 12},
                               {577, 31, 25}, {1536, 40, 7}, {640, 65, 50}, {2052, 34, 3}, {192, 1, 6},   {128, 100, 96},
                               {256, 5, 3},   {1024, 9, 3},  {2048, 33, 2}, {4096, 3, 2},  {7168, 2, 1},  {2496, 3, 2}};
  std::mt19937 random(11);
  for (int i = 0; i < 20; ++i) {
    const int64_t in = i % 3 == 0 ? 64 * (1 + random() % 12) : 1 + random() % 300;
    shapes.push_back({in, static_cast<int64_t>(1 + random() % 150), static_cast<int64_t>(1 + random() % 40)});
  }
  return shapes;
}

std::string describe(Isa isa, const Shape& shape) {
  return fmt::format("{} in {} out {} rows {}", isa_name(isa), shape.in, shape.out, shape.rows);
}

// Where a test finds the integers and scales of packed and prepared bytes.
struct Fast {
  const FastLayout layout;
  explicit Fast(const LinearWeight& weight) : layout(fast_layout(weight.in, weight.out)) {}

  const std::byte* panel(const LinearWeight& weight, int64_t n) const {
    return weight.data + n / linear_panel_columns * layout.panel_bytes;
  }
  int weight_at(const LinearWeight& weight, int64_t n, int64_t k) const {
    const int64_t place = (k / 4 * linear_panel_columns + n % linear_panel_columns) * 4 + k % 4;
    return static_cast<int8_t>(panel(weight, n)[place]);
  }
  float column_scale(const LinearWeight& weight, int64_t n) const {
    return reinterpret_cast<const float*>(panel(weight, n) + layout.panel_scales)[n % linear_panel_columns];
  }
  float bias(const LinearWeight& weight, int64_t n) const {
    return reinterpret_cast<const float*>(panel(weight, n) + layout.panel_biases)[n % linear_panel_columns];
  }
  int value_at(Isa isa, const std::byte* prepared, int64_t r, int64_t k) const {
    const std::byte* values = prepared + r * layout.row_bytes + layout.row_values;
    if (isa == Isa::avx_vnni || isa == Isa::avx512) return static_cast<int>(values[k]) - 128;
    return reinterpret_cast<const int16_t*>(values)[k];
  }
  float row_scale(const std::byte* prepared, int64_t r) const { return *reinterpret_cast<const float*>(prepared + r * layout.row_bytes); }
};

std::vector<double> as_doubles(const float* values, int64_t count) {
  return {values, values + count};
}

// The integers are those of the rotated row in double precision, but where that is within rounding of a tie.
void expect_quantized(const std::vector<double>& rotated, float scale, const std::function<int(int64_t)>& integer) {
  const reference::Quantized expected = reference::quantize(rotated);
  EXPECT_NEAR(scale, expected.scale, 1e-5 * expected.scale);
  for (size_t k = 0; k < rotated.size(); ++k) {
    EXPECT_LE(std::abs(integer(static_cast<int64_t>(k)) - expected.integers[k]), 0.5 + 3e-3) << "k " << k;
  }
}

TEST(Linear, PackedIntegersAreTheRotatedWeights) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(describe(Isa::generic, shape));
    const Layer layer(Precision::fast, shape.in, shape.out, 1, 3 + shape.in % 2);
    const Fast fast(layer.weight);
    for (int64_t n = 0; n < shape.out; n += 7) {
      const std::vector<double> rotated = reference::rotate(layer.conditioned_weights(n));
      const float scale = fast.column_scale(layer.weight, n) * std::sqrt(static_cast<float>(fast.layout.rotation.power));
      expect_quantized(rotated, scale, [&](int64_t k) { return fast.weight_at(layer.weight, n, k); });
    }
  }
}

TEST(Linear, PreparedIntegersAreTheRotatedRows) {
  for (const Shape& shape : shapes()) {
    const Layer layer(Precision::fast, shape.in, 1, shape.rows, 4);
    const Fast fast(layer.weight);
    const float norm = std::sqrt(static_cast<float>(fast.layout.rotation.power));
    for (int64_t r = 0; r < shape.rows; ++r) {
      const std::vector<double> rotated = reference::rotate(layer.conditioned_input(r));
      for (const Isa isa : supported_isas()) {
        SCOPED_TRACE(describe(isa, shape));
        const auto prepared = layer.prepare(isa, r, 1);
        expect_quantized(rotated, fast.row_scale(prepared.data(), 0) / norm,
                         [&](int64_t k) { return fast.value_at(isa, prepared.data(), 0, k); });
      }
    }
  }
}

// Products recomputed from the stored integers and scales, step by step as linear_kernels.h writes them:
// equal bit for bit.
TEST(Linear, FastProductsAreExact) {
  for (const Isa isa : supported_isas()) {
    for (const Shape& shape : shapes()) {
      SCOPED_TRACE(describe(isa, shape));
      const Layer layer(Precision::fast, shape.in, shape.out, shape.rows, 5 + shape.in % 2);
      const Fast fast(layer.weight);
      const auto prepared = layer.prepare(isa);
      const std::vector<float> output = layer.multiply(isa, true);
      for (int64_t r = 0; r < shape.rows; ++r) {
        for (int64_t n = 0; n < shape.out; ++n) {
          int64_t sum = 0;
          for (int64_t k = 0; k < shape.in; ++k) {
            sum += fast.value_at(isa, prepared.data(), r, k) * fast.weight_at(layer.weight, n, k);
          }
          float total = static_cast<float>(sum) * fast.row_scale(prepared.data(), r);
          total = total * fast.column_scale(layer.weight, n);
          total = total + fast.bias(layer.weight, n);
          ASSERT_EQ(output[r * shape.out + n], total + layer.bias[n]) << "row " << r << " column " << n;
        }
      }
    }
  }
}

TEST(Linear, FastIsNearTheReference) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(describe(Isa::generic, shape));
    const Layer layer(Precision::fast, shape.in, shape.out, shape.rows, 6);
    const std::vector<float> output = layer.multiply(supported_isas().back());
    std::vector<double> rows;
    for (int64_t r = 0; r < shape.rows; ++r) {
      rows.insert(rows.end(), &layer.input[r * layer.input_stride], &layer.input[r * layer.input_stride] + shape.in);
    }
    const std::vector<double> expected =
        reference::linear(rows, std::vector<double>(layer.matrix.begin(), layer.matrix.end()), {}, shape.rows, shape.in, shape.out);
    double error = 0, size = 0;
    for (size_t i = 0; i < output.size(); ++i) {
      error += (output[i] - expected[i]) * (output[i] - expected[i]);
      size += expected[i] * expected[i];
    }
    // Rows of a prime length are not rotated: their outliers cost what the rotation is there to save.
    const Rotation rotation = fast_layout(shape.in, shape.out).rotation;
    EXPECT_LE(std::sqrt(error / size), rotation.power == 1 && rotation.factors == 0 ? 0.1 : 0.04);
  }
}

// Each sum from the first k to the last in float32, multiplied and added separately.
TEST(Linear, ReferenceHasOneOrderOfAddition) {
  for (const Isa isa : supported_isas()) {
    for (const Shape& shape : shapes()) {
      SCOPED_TRACE(describe(isa, shape));
      const Layer layer(Precision::reference, shape.in, shape.out, shape.rows, 7);
      const std::vector<float> output = layer.multiply(isa, true);
      const std::vector<float> plain = layer.multiply(isa);
      std::vector<double> rows;
      for (int64_t r = 0; r < shape.rows; ++r) {
        rows.insert(rows.end(), &layer.input[r * layer.input_stride], &layer.input[r * layer.input_stride] + shape.in);
      }
      const std::vector<double> expected = reference::linear(rows, as_doubles(layer.matrix.data(), layer.matrix.size()),
                                                             as_doubles(layer.bias.data(), shape.out), shape.rows, shape.in, shape.out);
      for (int64_t r = 0; r < shape.rows; ++r) {
        for (int64_t n = 0; n < shape.out; ++n) {
          float sum = 0;
          double magnitude = 1;
          for (int64_t k = 0; k < shape.in; ++k) {
            const float product = layer.input[r * layer.input_stride + k] * layer.matrix[n * shape.in + k];
            sum = sum + product;
            magnitude += std::abs(product);
          }
          ASSERT_EQ(plain[r * shape.out + n], sum);
          ASSERT_EQ(output[r * shape.out + n], sum + layer.bias[n]);
          ASSERT_NEAR(output[r * shape.out + n], expected[r * shape.out + n],
                      magnitude * 1.2e-7 * std::sqrt(static_cast<double>(shape.in) + 8));
        }
      }
    }
  }
}

// Against the same rounded values in double precision; products of bfloat16 are exact, sums are float32.
TEST(Linear, Bf16IsTheProductOfRoundedValues) {
  const auto rounded = [](const float* values, int64_t count) {
    std::vector<double> result(count);
    for (int64_t k = 0; k < count; ++k) result[k] = bf16_to_f32(f32_to_bf16(values[k]));
    return result;
  };
  for (const Isa isa : supported_isas()) {
    for (const Shape& shape : shapes()) {
      SCOPED_TRACE(describe(isa, shape));
      const Layer layer(Precision::bf16, shape.in, shape.out, shape.rows, 9);
      const std::vector<float> output = layer.multiply(isa, true);
      for (int64_t r = 0; r < shape.rows; ++r) {
        const std::vector<double> row = rounded(&layer.input[r * layer.input_stride], shape.in);
        for (int64_t n = 0; n < shape.out; ++n) {
          const std::vector<double> weights = rounded(&layer.matrix[n * shape.in], shape.in);
          double sum = layer.bias[n], magnitude = 1;
          for (int64_t k = 0; k < shape.in; ++k) {
            sum += row[k] * weights[k];
            magnitude += std::abs(row[k] * weights[k]);
          }
          ASSERT_NEAR(output[r * shape.out + n], sum, magnitude * 1.2e-7 * std::sqrt(static_cast<double>(shape.in) + 8));
        }
      }
    }
  }
}

TEST(Linear, Bf16KeepsInfinitiesAndNotANumbers) {
  for (const Isa isa : supported_isas()) {
    Layer layer(Precision::bf16, 61, 40, 3, 15);
    const std::vector<float> before = layer.multiply(isa);
    layer.input[17] = std::numeric_limits<float>::infinity();
    // A payload in the low half only, which rounding would lose.
    layer.input[layer.input_stride + 60] = std::bit_cast<float>(0x7f800001u);
    const std::vector<float> after = layer.multiply(isa);
    for (int64_t n = 0; n < 40; ++n) {
      EXPECT_FALSE(std::isfinite(after[n])) << isa_name(isa);
      EXPECT_TRUE(std::isnan(after[40 + n])) << isa_name(isa);
      EXPECT_EQ(after[80 + n], before[80 + n]) << isa_name(isa);
    }
  }
}

TEST(Linear, InstructionSetsAgreeBitForBit) {
  for (const Precision precision : {Precision::reference, Precision::fast}) {
    for (const Shape& shape : shapes()) {
      const Layer layer(precision, shape.in, shape.out, shape.rows, 8);
      const std::vector<float> first = layer.multiply(Isa::generic, true);
      for (const Isa isa : supported_isas()) {
        SCOPED_TRACE(describe(isa, shape));
        ASSERT_EQ(layer.multiply(isa, true), first);
      }
    }
  }
}

// Rows alone, in any blocks, and any column ranges: the same bits, and nothing outside the range is touched.
TEST(Linear, SplitsDoNotMatter) {
  std::mt19937 random(9);
  for (const Precision precision : {Precision::reference, Precision::bf16, Precision::fast}) {
    for (const Isa isa : supported_isas()) {
      for (const Shape& shape : shapes()) {
        SCOPED_TRACE(describe(isa, shape));
        const Layer layer(precision, shape.in, shape.out, shape.rows, 10);
        const std::vector<float> whole = layer.multiply(isa, true);
        const int64_t stride = shape.out + 3;
        std::vector<float> pieces(shape.rows * stride, -77.0f);
        for (int64_t row = 0; row < shape.rows;) {
          const int64_t count = std::min<int64_t>(shape.rows - row, 1 + static_cast<int64_t>(random() % 17));
          const auto prepared = layer.prepare(isa, row, count);
          for (int64_t begin = 0; begin < shape.out;) {
            const int64_t end = std::min<int64_t>(shape.out, begin + linear_column_step * (1 + random() % 3));
            multiply_linear(isa, layer.weight, prepared.data(), count, begin, end,
                            {pieces.data() + row * stride, stride, layer.bias.data()});
            begin = end;
          }
          row += count;
        }
        for (int64_t r = 0; r < shape.rows; ++r) {
          for (int64_t n = 0; n < shape.out; ++n) ASSERT_EQ(pieces[r * stride + n], whole[r * shape.out + n]);
          for (int64_t n = shape.out; n < stride; ++n) ASSERT_EQ(pieces[r * stride + n], -77.0f);
        }
        const auto one = layer.prepare(isa, shape.rows - 1, 1);
        std::vector<float> last(shape.out);
        multiply_linear(isa, layer.weight, one.data(), 1, 0, shape.out, {last.data(), shape.out, layer.bias.data()});
        ASSERT_EQ(last, std::vector<float>(whole.end() - shape.out, whole.end()));
      }
    }
  }
}

// Prepared rows lie one after another, so workers may prepare and multiply parts of one buffer.
TEST(Linear, PreparedRowsStandAlone) {
  for (const Precision precision : {Precision::reference, Precision::bf16, Precision::fast}) {
    const Layer layer(precision, 576, 70, 29, 12);
    for (const Isa isa : supported_isas()) {
      const auto whole = layer.prepare(isa);
      const auto tail = layer.prepare(isa, 10, 19);
      std::vector<float> output(19 * 70);
      multiply_linear(isa, layer.weight, whole.data() + linear_input_bytes(layer.weight, 10), 19, 0, 70, {output.data(), 70});
      std::vector<float> expected(19 * 70);
      multiply_linear(isa, layer.weight, tail.data(), 19, 0, 70, {expected.data(), 70});
      EXPECT_EQ(output, expected);
    }
  }
}

TEST(Linear, AccumulateAddsToWhatIsThere) {
  for (const Precision precision : {Precision::reference, Precision::bf16, Precision::fast}) {
    for (const Isa isa : supported_isas()) {
      for (const int64_t out : {32, 45}) {
        const Layer layer(precision, 130, out, 14, 13);
        const std::vector<float> products = layer.multiply(isa, true);
        std::vector<float> stream(products.size());
        for (size_t i = 0; i < stream.size(); ++i) stream[i] = static_cast<float>(i % 13) - 6;
        std::vector<float> expected = stream;
        for (size_t i = 0; i < stream.size(); ++i) expected[i] = expected[i] + products[i];
        const auto prepared = layer.prepare(isa);
        multiply_linear(isa, layer.weight, prepared.data(), 14, 0, out, {stream.data(), out, layer.bias.data(), true});
        EXPECT_EQ(stream, expected) << isa_name(isa);
      }
    }
  }
}

TEST(Linear, PackingDoesNotDependOnThreads) {
  for (const Precision precision : {Precision::reference, Precision::bf16, Precision::fast}) {
    const Layer one(precision, 320, 333, 1, 14, 1), three(precision, 320, 333, 1, 14, 3);
    EXPECT_EQ(std::memcmp(one.packed.data(), three.packed.data(), one.packed.size()), 0);
  }
}

TEST(Linear, OddRows) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Isa isa : supported_isas()) {
    for (const int64_t in : {576, 61}) {  // 61 is not rotated: infinities stay where they are
      SCOPED_TRACE(describe(isa, {in, 40, 6}));
      Layer layer(Precision::fast, in, 40, 6, 15);
      const std::vector<float> before = layer.multiply(isa);
      float* rows = layer.input.data();
      for (int64_t k = 0; k < in; ++k) {
        rows[0 * layer.input_stride + k] = 0;
        rows[1 * layer.input_stride + k] = 1e-42f;
        rows[4 * layer.input_stride + k] *= 1e30f;
      }
      rows[2 * layer.input_stride + in - 1] = infinity;
      rows[3 * layer.input_stride + 17] = std::numeric_limits<float>::quiet_NaN();
      const std::vector<float> after = layer.multiply(isa);
      for (int64_t n = 0; n < 40; ++n) {
        EXPECT_EQ(after[0 * 40 + n], 0.0f);
        EXPECT_NEAR(after[1 * 40 + n], 0.0f, 1e-36f);
        EXPECT_TRUE(std::isnan(after[2 * 40 + n]));
        EXPECT_TRUE(std::isnan(after[3 * 40 + n]));
        EXPECT_TRUE(std::isfinite(after[4 * 40 + n]));
        EXPECT_EQ(after[5 * 40 + n], before[5 * 40 + n]);  // neighbours notice nothing
      }
    }
  }
}

// The largest sums that can be: every product is 127 * 127 with the same sign, where 16-bit steps would
// overflow.
TEST(Linear, ExtremeIntegersDoNotOverflow) {
  for (const int64_t in : {1, 61, 4093, 20011}) {  // primes: nothing is rotated
    for (const float sign : {1.0f, -1.0f}) {
      AlignedVector<std::byte> packed(linear_bytes(Precision::fast, in, 33));
      ThreadPool pool(1);
      pack_linear(
          Precision::fast, in, 33, [&](int64_t, std::span<float> row) { std::fill(row.begin(), row.end(), 127.0f * sign); }, packed.data(),
          pool);
      const LinearWeight weight = {Precision::fast, in, 33, packed.data()};
      const std::vector<float> input(3 * in, 127.0f);
      for (const Isa isa : supported_isas()) {
        AlignedVector<std::byte> prepared(linear_input_bytes(weight, 3));
        prepare_linear_input(isa, weight, input.data(), in, 3, prepared.data());
        std::vector<float> output(3 * 33);
        multiply_linear(isa, weight, prepared.data(), 3, 0, 33, {output.data(), 33});
        for (const float value : output) ASSERT_FLOAT_EQ(value, sign * 127 * 127 * static_cast<float>(in)) << isa_name(isa);
      }
    }
  }
}

TEST(Linear, Names) {
  EXPECT_STREQ(precision_name(Precision::fast), "fast");
  EXPECT_STREQ(precision_name(Precision::bf16), "bf16");
  EXPECT_STREQ(precision_name(Precision::reference), "reference");
}

}  // namespace
}  // namespace onset
