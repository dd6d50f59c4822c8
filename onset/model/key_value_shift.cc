#include "onset/model/key_value_shift.h"

#include <algorithm>
#include <numeric>

#include "onset/compute/elementwise.h"
#include "onset/model/rotary.h"

namespace onset {
namespace {

RotaryPairs pairs_of(const RopeConfig& rope) {
  return rope.interleaved ? RotaryPairs::neighbours : RotaryPairs::halves;
}

}  // namespace

KeyValueShift mean_shift(const Model& model, int32_t layer, std::span<const int32_t> positions, std::span<const int32_t> indices,
                         const KeyValueRows& fresh, const KeyValueRows& stored) {
  const ModelConfig& config = model.config();
  const RopeConfig& rope = config.ropes[config.layer[layer].rope];
  const auto width = static_cast<size_t>(fresh.width);
  std::vector<double> key(width), value(width);
  std::vector<float> differences;
  std::vector<int32_t> places;
  for (const int32_t index : indices) {
    const auto at = static_cast<size_t>(index) * width;
    places.push_back(positions[index]);
    for (size_t i = 0; i < width; ++i) {
      differences.push_back(fresh.keys[at + i] - stored.keys[at + i]);
      value[i] += fresh.values[at + i] - stored.values[at + i];
    }
  }
  // Turned back, by the negative angles. The attention factor has been multiplied twice then: by the keys' embedding and by this one.
  std::vector<float> table(places.size() * static_cast<size_t>(rope.dimensions));
  rotary_table(rope, rotary_frequencies(rope), places, table.data());
  const auto pairs = static_cast<size_t>(rope.dimensions / 2);
  for (size_t row = 0; row < places.size(); ++row) {
    for (size_t i = 0; i < pairs; ++i) table[(2 * row + 1) * pairs + i] *= -1;
  }
  apply_rotary(model.isa(), pairs_of(rope), {differences.data(), fresh.width}, static_cast<int64_t>(places.size()), model.kv_heads(),
               config.head_size, rope.dimensions, table.data(), nullptr);
  for (size_t i = 0; i < differences.size(); ++i) key[i % width] += differences[i];
  KeyValueShift mean{.key = std::vector<float>(width), .value = std::vector<float>(width)};
  const double count = static_cast<double>(places.size()), factor = double{rope.attention_factor} * rope.attention_factor;
  for (size_t i = 0; i < width; ++i) {
    const bool turns = static_cast<int32_t>(i) % config.head_size < rope.dimensions;
    mean.key[i] = static_cast<float>(key[i] / count / (turns ? factor : 1));
    mean.value[i] = static_cast<float>(value[i] / count);
  }
  return mean;
}

PageRotary::PageRotary(const RopeConfig& rope)
    : rope_(rope), frequencies_(rotary_frequencies(rope)), table_(static_cast<size_t>(page_tokens) * static_cast<size_t>(rope.dimensions)) {
  std::vector<int32_t> slots(page_tokens);
  std::iota(slots.begin(), slots.end(), 0);
  rotary_table(rope_, frequencies_, slots, table_.data());
  // The first slot's embedding has the attention factor already.
  for (float& entry : table_) entry /= rope_.attention_factor;
}

void PageRotary::turn(Isa isa, int heads, int head_size, int32_t position, std::span<const float> vector, std::span<float> rows) const {
  std::vector<float> first(vector.begin(), vector.end()), line(static_cast<size_t>(rope_.dimensions));
  const auto width = static_cast<int64_t>(vector.size());
  rotary_table(rope_, frequencies_, {&position, 1}, line.data());
  apply_rotary(isa, pairs_of(rope_), {first.data(), width}, 1, heads, head_size, rope_.dimensions, line.data(), nullptr);
  for (int64_t slot = 0; slot < page_tokens; ++slot) std::copy(first.begin(), first.end(), rows.begin() + slot * width);
  apply_rotary(isa, pairs_of(rope_), {rows.data(), width}, page_tokens, heads, head_size, rope_.dimensions, table_.data(), nullptr);
}

}  // namespace onset
