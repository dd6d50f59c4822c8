#include "onset/model/reposition.h"

#include <cmath>

#include "onset/compute/page_format.h"
#include "onset/model/rotary.h"

namespace onset {
namespace {

// Cosines and sines of one page's slots for each rope of the model.
class PageTurns {
 public:
  explicit PageTurns(const ModelConfig& config) {
    for (const RopeConfig& rope : config.ropes) {
      ropes_.push_back({.frequencies = rotary_frequencies(rope), .cosines = {}, .sines = {}, .neighbours = rope.interleaved});
      ropes_.back().cosines.resize(ropes_.back().frequencies.size() * page_tokens);
      ropes_.back().sines.resize(ropes_.back().cosines.size());
    }
  }

  // For the slots begin..end-1 of a page whose slot 0 is at `position`, and which come from `distance` further below.
  void set(int32_t position, int32_t distance, int begin, int end) {
    for (Rope& rope : ropes_) {
      for (size_t pair = 0; pair < rope.frequencies.size(); ++pair) {
        for (int slot = begin; slot < end; ++slot) {
          const float here = static_cast<float>(position + slot) * rope.frequencies[pair];
          const float there = static_cast<float>(position + slot - distance) * rope.frequencies[pair];
          const double angle = static_cast<double>(here) - static_cast<double>(there);
          rope.cosines[pair * page_tokens + slot] = static_cast<float>(std::cos(angle));
          rope.sines[pair * page_tokens + slot] = static_cast<float>(std::sin(angle));
        }
      }
    }
  }

  KeyTurn turn(int32_t rope) const {
    const Rope& here = ropes_[rope];
    return {.cosines = here.cosines.data(),
            .sines = here.sines.data(),
            .pairs = static_cast<int>(here.frequencies.size()),
            .neighbours = here.neighbours};
  }

 private:
  struct Rope {
    std::vector<float> frequencies, cosines, sines;
    bool neighbours = false;
  };
  std::vector<Rope> ropes_;
};

}  // namespace

void reposition(const Model& model, const SequenceCache& from, int32_t first, int32_t last, SequenceCache& to, int32_t place,
                ThreadPool& workers) {
  const ModelConfig& config = model.config();
  const CacheLayout& layout = to.layout();
  const int32_t end = place + last - first, distance = place - first;
  const int32_t first_page = place / page_tokens;
  std::vector<PageTurns> turns(workers.threads(), PageTurns(config));
  workers.for_each((end + page_tokens - 1) / page_tokens - first_page, [&](int64_t index, int worker) {
    const int32_t page = first_page + static_cast<int32_t>(index), base = page * page_tokens;
    const int32_t begin = std::max(place, base), stop = std::min(end, base + page_tokens);
    PageTurns& turn = turns[worker];
    turn.set(base, distance, begin - base, stop - base);
    for (int layer = 0; layer < layout.layers; ++layer) {
      for (int group = 0; group < layout.head_groups; ++group) {
        const KeyValueView source = from.view(layer, group);
        std::byte* target = to.page_for_write(layer, group, begin);
        // A page's slots come from two pages at most.
        for (int32_t slot = begin; slot < stop;) {
          const int32_t source_slot = slot - distance, within = source_slot % page_tokens;
          const int32_t count = std::min(stop - slot, page_tokens - within);
          move_slots(model.isa(), layout.type, layout.heads_per_group, layout.head_size, source.pages[source_slot / page_tokens], within,
                     target, slot - base, count, turn.turn(config.layer[layer].rope));
          slot += count;
        }
      }
    }
  });
}

}  // namespace onset
