// Keys and values that are moved by what others of their text show.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "onset/base/cpu_features.h"
#include "onset/model/model.h"
#include "onset/select/policy.h"

namespace onset {

// The mean of fresh - stored over the rows `indices`, of which row k is at positions[k]; of keys as they are before their rotary embedding.
KeyValueShift mean_shift(const Model& model, int32_t layer, std::span<const int32_t> positions, std::span<const int32_t> indices,
                         const KeyValueRows& fresh, const KeyValueRows& stored);

// Cosines and sines by which the slots of a page turn against its first one: the same for every page.
class PageRotary {
 public:
  explicit PageRotary(const RopeConfig& rope);
  // A vector of `heads` heads with the rotary embedding of each slot of the page whose slot 0 is at `position`, as the model's keys have
  // it: rows [page_tokens, heads * head_size].
  void turn(Isa isa, int heads, int head_size, int32_t position, std::span<const float> vector, std::span<float> rows) const;

 private:
  RopeConfig rope_;
  std::vector<float> frequencies_, table_;  // table_: [page_tokens, dimensions]
};

}  // namespace onset
