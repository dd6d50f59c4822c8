#include "onset/compute/page_format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "onset/base/aligned.h"

namespace onset {
namespace {

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx_vnni, Isa::avx512}) {
    if (cpu_supports(isa)) isas.push_back(isa);
  }
  return isas;
}

std::vector<float> random_numbers(std::mt19937& random, int count) {
  std::normal_distribution<float> normal;
  std::vector<float> numbers(static_cast<size_t>(count));
  for (float& x : numbers) x = normal(random);
  return numbers;
}

// Largest error relative to the largest number of the head.
float tolerance(KvType type) {
  switch (type) {
    case KvType::f32:
      return 0;
    case KvType::f16:
      return 1.0f / 2048;
    case KvType::bf16:
      return 1.0f / 256;
    case KvType::int8:
      return 1.0f / 40;  // half a step in each rotated number, added up by rotating back
    case KvType::int4:
      return 0.6f;
  }
  return 0;
}

TEST(PageFormat, WhatIsWrittenIsRead) {
  std::mt19937 random(1);
  for (const KvType type : all_kv_types) {
    for (const int size : {1, 4, 6, 8, 12, 16, 20, 32, 48, 64, 80, 96, 128, 256, 300}) {
      const int heads = 3;
      const size_t bytes = page_bytes(type, heads, size);
      EXPECT_EQ(bytes % 64, 0u);
      for (const Isa isa : supported_isas()) {
        AlignedVector<std::byte> page(bytes);
        std::memset(page.data(), 0xff, bytes);
        std::vector<std::vector<float>> keys, values;
        std::vector<int> slots(page_tokens);
        std::iota(slots.begin(), slots.end(), 0);
        std::shuffle(slots.begin(), slots.end(), random);
        for (int slot = 0; slot < page_tokens; ++slot) {
          keys.push_back(random_numbers(random, heads * size));
          values.push_back(random_numbers(random, heads * size));
        }
        for (const int slot : slots) {
          write_slot(isa, type, heads, size, page.data(), slot, keys[static_cast<size_t>(slot)].data(),
                     values[static_cast<size_t>(slot)].data());
        }
        std::vector<float> key(static_cast<size_t>(heads * size)), value(key.size());
        for (int slot = 0; slot < page_tokens; ++slot) {
          read_slot(type, heads, size, page.data(), slot, key.data(), value.data());
          for (const bool is_key : {true, false}) {
            const std::vector<float>& written = is_key ? keys[static_cast<size_t>(slot)] : values[static_cast<size_t>(slot)];
            const std::vector<float>& read = is_key ? key : value;
            for (int h = 0; h < heads; ++h) {
              float largest = 0;
              for (int d = 0; d < size; ++d) largest = std::max(largest, std::fabs(written[static_cast<size_t>(h * size + d)]));
              for (int d = 0; d < size; ++d) {
                const auto at = static_cast<size_t>(h * size + d);
                ASSERT_NEAR(read[at], written[at], tolerance(type) * std::max(largest, 1.0f))
                    << kv_type_name(type) << " " << isa_name(isa) << " head size " << size << " slot " << slot;
              }
            }
          }
        }
      }
    }
  }
}

// A slot's bytes depend neither on the instruction set nor on what the page holds otherwise.
TEST(PageFormat, BytesOfASlotDependOnlyOnIt) {
  std::mt19937 random(2);
  for (const KvType type : all_kv_types) {
    for (const int size : {4, 20, 64, 80, 256}) {
      const size_t bytes = page_bytes(type, 2, size);
      const std::vector<float> key = random_numbers(random, 2 * size), value = random_numbers(random, 2 * size);
      AlignedVector<std::byte> expected(bytes);
      std::memset(expected.data(), 0, bytes);
      write_slot(Isa::generic, type, 2, size, expected.data(), 37, key.data(), value.data());
      for (const Isa isa : supported_isas()) {
        AlignedVector<std::byte> page(bytes);
        std::memset(page.data(), 0, bytes);
        write_slot(isa, type, 2, size, page.data(), 37, key.data(), value.data());
        EXPECT_EQ(std::memcmp(page.data(), expected.data(), bytes), 0) << kv_type_name(type) << " " << isa_name(isa) << " " << size;
      }
      // Writing the slot touches only bytes that are its own: a page of ones differs from ones exactly where
      // a page of zeros differs from zeros, or where the written byte is one of these two.
      AlignedVector<std::byte> ones(bytes);
      std::memset(ones.data(), 0xff, bytes);
      write_slot(Isa::generic, type, 2, size, ones.data(), 37, key.data(), value.data());
      for (size_t i = 0; i < bytes; ++i) {
        const bool untouched = expected[i] == std::byte{0} && ones[i] == std::byte{0xff};
        EXPECT_TRUE(untouched || expected[i] == ones[i]);
      }
    }
  }
}

// LServe (arXiv:2502.14866), check 6: what is stored lies within half a step of what was written; of odd heads, which are not rotated,
// number by number.
TEST(PageFormat, RoundsByHalfAStep) {
  std::mt19937 random(6);
  for (const float shift : {0.0f, 5.0f, -5.0f}) {
    for (const int size : {5, 63, 255}) {
      std::vector<float> key = random_numbers(random, size), value = random_numbers(random, size), read_key(key.size()),
                         read_value(key.size());
      for (auto* numbers : {&key, &value}) {
        for (float& number : *numbers) number += shift;
      }
      for (const KvType type : {KvType::int8, KvType::int4}) {
        AlignedVector<std::byte> page(page_bytes(type, 1, size));
        write_slot(Isa::generic, type, 1, size, page.data(), 9, key.data(), value.data());
        read_slot(type, 1, size, page.data(), 9, read_key.data(), read_value.data());
        for (const bool is_key : {true, false}) {
          const std::vector<float>&written = is_key ? key : value, &read = is_key ? read_key : read_value;
          const auto [least, most] = std::minmax_element(written.begin(), written.end());
          const float scale = type == KvType::int8 ? std::max(*most, -*least) / 127 : (std::max(*most, 0.0f) - std::min(*least, 0.0f)) / 15;
          for (size_t d = 0; d < written.size(); ++d) ASSERT_LE(std::fabs(read[d] - written[d]), 0.5001f * scale) << kv_type_name(type);
        }
      }
    }
  }
}

TEST(PageFormat, AnInt4PageTakesLittleMoreThanHalfOfAnInt8One) {
  EXPECT_LT(static_cast<double>(page_bytes(KvType::int4, 3, 64)), 0.56 * static_cast<double>(page_bytes(KvType::int8, 3, 64)));
}

TEST(PageFormat, ZerosAndLargeNumbersAreStored) {
  const int size = 16;
  for (const float magnitude : {0.0f, 1e-20f, 1e4f}) {
    AlignedVector<std::byte> page(page_bytes(KvType::int8, 1, size));
    std::vector<float> key(size, magnitude), value(size, -magnitude), read_key(size), read_value(size);
    write_slot(Isa::generic, KvType::int8, 1, size, page.data(), 5, key.data(), value.data());
    read_slot(KvType::int8, 1, size, page.data(), 5, read_key.data(), read_value.data());
    for (size_t d = 0; d < size; ++d) {
      EXPECT_NEAR(read_key[d], key[d], 0.03f * magnitude + 1e-12f);
      EXPECT_NEAR(read_value[d], value[d], 0.03f * magnitude + 1e-12f);
    }
  }
}

TEST(PageFormat, RotationIsItsOwnInverseAndKeepsLengths) {
  std::mt19937 random(3);
  for (const int size : {1, 2, 6, 8, 48, 64, 80, 256}) {
    const std::vector<float> numbers = random_numbers(random, size);
    std::vector<float> rotated = numbers;
    rotate_head(rotated.data(), size);
    double before = 0, after = 0;
    for (size_t i = 0; i < numbers.size(); ++i) {
      before += static_cast<double>(numbers[i]) * numbers[i];
      after += static_cast<double>(rotated[i]) * rotated[i];
    }
    EXPECT_NEAR(after, before, 1e-5 * before);
    EXPECT_EQ(rotated == numbers, size % 2 != 0);
    rotate_head(rotated.data(), size);
    for (size_t i = 0; i < numbers.size(); ++i) EXPECT_NEAR(rotated[i], numbers[i], 1e-5);
  }
}

// Keys whose slots go to other positions are the keys that would be there (check 4 of the brief of arXiv:2405.16444): a rotation by the
// angle between, in both pairings, for distances to both sides; values are the same.
// What is added comes to what is there, and the slots beside it stay.
TEST(PageFormat, NumbersAreAddedToSlots) {
  std::mt19937 random(8);
  for (const KvType type : all_kv_types) {
    for (const int size : {6, 16, 64, 96}) {
      const int heads = 2, first = 5, count = 9, width = heads * size;
      for (const Isa isa : supported_isas()) {
        AlignedVector<std::byte> page(page_bytes(type, heads, size));
        std::fill(page.begin(), page.end(), std::byte{0});
        for (int slot = 0; slot < page_tokens; ++slot) {
          write_slot(isa, type, heads, size, page.data(), slot, random_numbers(random, width).data(), random_numbers(random, width).data());
        }
        const AlignedVector<std::byte> before = page;
        const std::vector<float> keys = random_numbers(random, count * width), value = random_numbers(random, width);
        add_to_slots(isa, type, heads, size, page.data(), first, count, keys.data(), value.data());
        std::vector<float> key_before(width), value_before(width), key_after(width), value_after(width);
        for (int slot = 0; slot < page_tokens; ++slot) {
          read_slot(type, heads, size, before.data(), slot, key_before.data(), value_before.data());
          read_slot(type, heads, size, page.data(), slot, key_after.data(), value_after.data());
          const bool added = slot >= first && slot < first + count;
          if (!added) {
            EXPECT_EQ(key_after, key_before) << slot;
            EXPECT_EQ(value_after, value_before) << slot;
            continue;
          }
          // A rounding of numbers of up to about 5; one that adds exactly differs by nothing in float32.
          const float most = 6 * tolerance(type) + 1e-6f;
          for (int i = 0; i < width; ++i) {
            EXPECT_NEAR(key_after[i], key_before[i] + keys[(slot - first) * width + i], most) << kv_type_name(type) << " " << slot;
            EXPECT_NEAR(value_after[i], value_before[i] + value[i], most) << kv_type_name(type) << " " << slot;
          }
        }
      }
    }
  }
}

TEST(PageFormat, KeysTurnAsTheirSlotsMove) {
  std::mt19937 random(7);
  for (const KvType type : all_kv_types) {
    for (const int size : {4, 12, 64, 80, 128, 256}) {
      for (const bool neighbours : {false, true}) {
        const int heads = 2, rotated = size == 80 ? 40 : size, pairs = rotated / 2, from_slot = 11, to_slot = 30, count = 23;
        const int distance = std::uniform_int_distribution<int>(-4000, 4000)(random);
        std::vector<double> frequencies;
        for (int p = 0; p < pairs; ++p) frequencies.push_back(std::pow(10000.0, -2.0 * p / rotated));
        std::vector<float> cosines(static_cast<size_t>(pairs) * page_tokens, NAN), sines(cosines);
        for (int p = 0; p < pairs; ++p) {
          for (int i = 0; i < count; ++i) {
            cosines[static_cast<size_t>(p * page_tokens + to_slot + i)] =
                static_cast<float>(std::cos(distance * frequencies[static_cast<size_t>(p)]));
            sines[static_cast<size_t>(p * page_tokens + to_slot + i)] =
                static_cast<float>(std::sin(distance * frequencies[static_cast<size_t>(p)]));
          }
        }
        const size_t bytes = page_bytes(type, heads, size);
        AlignedVector<std::byte> from(bytes), expected(bytes), blank(bytes);
        std::memset(blank.data(), 0, bytes);
        std::vector<float> key(static_cast<size_t>(heads * size)), value(key.size());
        for (int slot = 0; slot < page_tokens; ++slot) {
          write_slot(Isa::generic, type, heads, size, from.data(), slot, random_numbers(random, heads * size).data(),
                     random_numbers(random, heads * size).data());
          write_slot(Isa::generic, type, heads, size, blank.data(), slot, key.data(), value.data());
        }
        for (const Isa isa : supported_isas()) {
          AlignedVector<std::byte> to = blank;
          move_slots(isa, type, heads, size, from.data(), from_slot, to.data(), to_slot, count,
                     {.cosines = cosines.data(), .sines = sines.data(), .pairs = pairs, .neighbours = neighbours});
          if (isa == Isa::generic) expected = to;
          EXPECT_EQ(std::memcmp(to.data(), expected.data(), bytes), 0) << isa_name(isa);
          for (int slot = 0; slot < page_tokens; ++slot) {
            std::vector<float> moved(key.size()), moved_value(key.size());
            read_slot(type, heads, size, to.data(), slot, moved.data(), moved_value.data());
            if (slot < to_slot || slot >= to_slot + count) {
              read_slot(type, heads, size, blank.data(), slot, key.data(), value.data());
              EXPECT_EQ(moved, key);
              EXPECT_EQ(moved_value, value);
              continue;
            }
            read_slot(type, heads, size, from.data(), slot - to_slot + from_slot, key.data(), value.data());
            EXPECT_EQ(moved_value, value);
            for (int h = 0; h < heads; ++h) {
              float largest = 0;
              for (int d = 0; d < size; ++d) largest = std::max(largest, std::fabs(key[static_cast<size_t>(h * size + d)]));
              for (int p = 0; p < pairs; ++p) {
                const auto first = static_cast<size_t>(h * size + (neighbours ? 2 * p : p));
                const size_t second = first + static_cast<size_t>(neighbours ? 1 : pairs);
                const double cosine = std::cos(distance * frequencies[static_cast<size_t>(p)]);
                const double sine = std::sin(distance * frequencies[static_cast<size_t>(p)]);
                const double allowed = tolerance(type) * std::max(2 * largest, 1.0f) + 1e-5;
                ASSERT_NEAR(moved[first], key[first] * cosine - key[second] * sine, allowed) << kv_type_name(type) << " " << size;
                ASSERT_NEAR(moved[second], key[second] * cosine + key[first] * sine, allowed) << kv_type_name(type) << " " << size;
              }
              for (int d = rotated; d < size; ++d) {
                const auto at = static_cast<size_t>(h * size + d);
                ASSERT_NEAR(moved[at], key[at], tolerance(type) * std::max(2 * largest, 1.0f) + 1e-5);
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace onset
