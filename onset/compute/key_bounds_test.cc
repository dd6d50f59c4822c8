#include "onset/compute/key_bounds.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "onset/base/aligned.h"
#include "onset/compute/page_format.h"

namespace onset {
namespace {

std::vector<Isa> supported_isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::generic, Isa::avx2, Isa::avx_vnni, Isa::avx512}) {
    if (cpu_supports(isa)) isas.push_back(isa);
  }
  return isas;
}

// Whole pages of random keys of one KV head, and queries.
struct Pages {
  Pages(KvType kv_type, int size, int32_t count, int query_count, uint32_t seed)
      : type(kv_type), head_size(size), pages(count), queries(static_cast<size_t>(size) * static_cast<size_t>(query_count)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const std::vector<float> value(static_cast<size_t>(size));
    for (int32_t page = 0; page < count; ++page) {
      bytes.emplace_back(page_bytes(type, 1, size));
      for (int slot = 0; slot < page_tokens; ++slot) {
        std::vector<float> key(static_cast<size_t>(size)), read(key.size()), ignored(key.size());
        for (int d = 0; d < size; ++d) key[static_cast<size_t>(d)] = normal(random) + (d % 5 == 0 ? 3.0f : 0.0f);
        write_slot(Isa::generic, type, 1, size, bytes.back().data(), slot, key.data(), value.data());
        read_slot(type, 1, size, bytes.back().data(), slot, read.data(), ignored.data());
        keys.push_back(read);
      }
    }
    for (float& number : queries) number = normal(random);
  }

  double product(int query, int32_t key) const {
    double sum = 0;
    for (int d = 0; d < head_size; ++d) {
      sum += double{queries[static_cast<size_t>(query * head_size + d)]} * double{keys[static_cast<size_t>(key)][static_cast<size_t>(d)]};
    }
    return sum;
  }

  // What score_pages() is to give, in double precision and without rounding the bounds.
  double score(int query, int32_t page, int logical_tokens) const {
    double best = -std::numeric_limits<double>::infinity();
    for (int32_t first = page * page_tokens; first < (page + 1) * page_tokens; first += logical_tokens) {
      double sum = 0;
      for (int d = 0; d < head_size; ++d) {
        const auto at = static_cast<size_t>(d);
        float most = keys[static_cast<size_t>(first)][at], least = most;
        for (int32_t key = first; key < first + logical_tokens; ++key) {
          most = std::max(most, keys[static_cast<size_t>(key)][at]);
          least = std::min(least, keys[static_cast<size_t>(key)][at]);
        }
        const double q = queries[static_cast<size_t>(query * head_size) + at];
        sum += std::max(q * most, q * least);
      }
      best = std::max(best, sum);
    }
    return best;
  }

  std::vector<float> scores(Isa isa, int logical_tokens, int query_count, int32_t first, int32_t last) const {
    std::vector<uint16_t> bounds(key_bounds_size(head_size, int64_t{pages} * page_tokens / logical_tokens));
    for (int32_t page = 0; page < pages; ++page) {
      store_key_bounds(isa, type, head_size, bytes[static_cast<size_t>(page)].data(), logical_tokens,
                       int64_t{page} * page_tokens / logical_tokens, bounds.data());
    }
    std::vector<float> result(static_cast<size_t>(query_count) * static_cast<size_t>(last - first));
    score_pages(isa, head_size, logical_tokens, bounds.data(), queries.data(), query_count, first, last, result.data(), last - first);
    return result;
  }

  KvType type;
  int head_size;
  int32_t pages;
  std::vector<float> queries;
  std::vector<std::vector<float>> keys;
  std::vector<AlignedVector<std::byte>> bytes;
};

TEST(KeyBounds, ReadKeysAreThoseOfTheSlots) {
  for (const KvType type : all_kv_types) {
    for (const int size : {4, 20, 64, 80, 256}) {
      const Pages pages(type, size, 1, 1, 3);
      for (const Isa isa : supported_isas()) {
        std::vector<float> plane(static_cast<size_t>(size) * page_tokens);
        read_keys(isa, type, size, pages.bytes[0].data(), plane.data());
        for (int slot = 0; slot < page_tokens; ++slot) {
          for (int d = 0; d < size; ++d) {
            ASSERT_NEAR(plane[static_cast<size_t>(d * page_tokens + slot)], pages.keys[static_cast<size_t>(slot)][static_cast<size_t>(d)],
                        1e-5)
                << kv_type_name(type) << " " << isa_name(isa) << " " << size;
          }
        }
      }
    }
  }
}

// LServe, check 2: a page's score is no smaller than any of its keys' products, and the product itself where a logical page holds one key.
TEST(KeyBounds, ScoresAreUpperBounds) {
  std::mt19937 random(1);
  for (const KvType type : all_kv_types) {
    for (const int logical : {1, 2, 4, 16, 32, 64}) {
      const int size = std::vector<int>{4, 20, 64, 80, 128}[random() % 5], count = static_cast<int>(random() % 7 + 1);
      const auto pages_count = static_cast<int32_t>(random() % 21 + 1);
      const Pages pages(type, size, pages_count, count, static_cast<uint32_t>(random()));
      const std::vector<float> scores = pages.scores(Isa::generic, logical, count, 0, pages_count);
      for (int query = 0; query < count; ++query) {
        for (int32_t page = 0; page < pages_count; ++page) {
          const float score = scores[static_cast<size_t>(query * pages_count + page)];
          double largest = -std::numeric_limits<double>::infinity();
          for (int32_t key = page * page_tokens; key < (page + 1) * page_tokens; ++key)
            largest = std::max(largest, pages.product(query, key));
          EXPECT_GE(score, largest - 1e-4) << kv_type_name(type) << " " << logical;
          const double exact = logical == 1 ? largest : pages.score(query, page, logical);
          EXPECT_NEAR(score, exact, 0.005 * size) << kv_type_name(type) << " " << logical;
        }
      }
    }
  }
}

TEST(KeyBounds, AreTheSameBitsWithEveryInstructionSetAloneAndInParts) {
  for (const int logical : {4, 16, 64}) {
    const Pages pages(KvType::f16, 64, 40, 5, 7);
    const std::vector<float> expected = pages.scores(Isa::generic, logical, 5, 0, 40);
    for (const Isa isa : supported_isas()) {
      EXPECT_EQ(pages.scores(isa, logical, 5, 0, 40), expected) << isa_name(isa);
      const std::vector<float> part = pages.scores(isa, logical, 1, 7, 33);
      EXPECT_TRUE(std::equal(part.begin(), part.end(), expected.begin() + 7)) << isa_name(isa);
    }
  }
}

}  // namespace
}  // namespace onset
