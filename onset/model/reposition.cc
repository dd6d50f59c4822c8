#include "onset/model/reposition.h"

#include <algorithm>
#include <cmath>

#include "onset/compute/page_format.h"
#include "onset/model/rotary.h"

namespace onset {

// Cosines and sines of one page's slots for each rope of the model.
class Repositioning::PageTurns {
 public:
  // For the slots begin..end-1 of a page whose slot 0 is at `position`, and which come from `distance` further below.
  void set(const ModelConfig& config, int32_t position, int32_t distance, int begin, int end) {
    for (const RopeConfig& config_of_rope : config.ropes) {
      const std::vector<float> frequencies = rotary_frequencies(config_of_rope);
      Rope& rope = ropes_.emplace_back();
      rope.pairs = frequencies.size();
      rope.neighbours = config_of_rope.interleaved;
      rope.cosines.resize(rope.pairs * page_tokens);
      rope.sines.resize(rope.pairs * page_tokens);
      for (size_t pair = 0; pair < rope.pairs; ++pair) {
        for (int slot = begin; slot < end; ++slot) {
          const float here = static_cast<float>(position + slot) * frequencies[pair];
          const float there = static_cast<float>(position + slot - distance) * frequencies[pair];
          const double angle = static_cast<double>(here) - static_cast<double>(there);
          rope.cosines[pair * page_tokens + slot] = static_cast<float>(std::cos(angle));
          rope.sines[pair * page_tokens + slot] = static_cast<float>(std::sin(angle));
        }
      }
    }
  }

  KeyTurn turn(int32_t rope) const {
    const Rope& here = ropes_[rope];
    return {
        .cosines = here.cosines.data(), .sines = here.sines.data(), .pairs = static_cast<int>(here.pairs), .neighbours = here.neighbours};
  }

 private:
  struct Rope {
    size_t pairs = 0;
    std::vector<float> cosines, sines;
    bool neighbours = false;
  };
  std::vector<Rope> ropes_;
};

Repositioning::Repositioning(const Model& model, const SequenceCache& from, int32_t first, int32_t last, SequenceCache& to, int32_t place,
                             ThreadPool& workers)
    : model_(&model), from_(&from), to_(&to), distance_(place - first), place_(place), end_(place + last - first) {
  const int32_t first_page = place / page_tokens;
  turns_.resize((end_ + page_tokens - 1) / page_tokens - first_page);
  workers.for_each(static_cast<int64_t>(turns_.size()), [&](int64_t index, int) {
    const int32_t base = (first_page + static_cast<int32_t>(index)) * page_tokens;
    turns_[index].set(model.config(), base, distance_, std::max(place_, base) - base, std::min(end_, base + page_tokens) - base);
  });
}

Repositioning::~Repositioning() = default;
Repositioning::Repositioning(Repositioning&&) noexcept = default;

void Repositioning::move(int layer, ThreadPool& workers) const {
  const CacheLayout& layout = to_->layout();
  const int32_t rope = model_->config().layer[layer].rope;
  workers.for_each(static_cast<int64_t>(turns_.size()), [&](int64_t index, int) {
    const int32_t base = (place_ / page_tokens + static_cast<int32_t>(index)) * page_tokens;
    const int32_t begin = std::max(place_, base), stop = std::min(end_, base + page_tokens);
    for (int group = 0; group < layout.head_groups; ++group) {
      const KeyValueView source = from_->view(layer, group);
      std::byte* target = to_->page_for_write(layer, group, begin);
      // A page's slots come from two pages at most.
      for (int32_t slot = begin; slot < stop;) {
        const int32_t source_slot = slot - distance_, within = source_slot % page_tokens;
        const int32_t count = std::min(stop - slot, page_tokens - within);
        move_slots(model_->isa(), layout.type, layout.heads_per_group, layout.head_size, source.pages[source_slot / page_tokens], within,
                   target, slot - base, count, turns_[index].turn(rope));
        slot += count;
      }
    }
  });
}

}  // namespace onset
