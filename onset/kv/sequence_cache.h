// One sequence's keys and values: for each layer and each group of KV heads a table of pages with its own length.
//
// Layers need not agree: a layer with a window keeps only the pages the window still reaches (a ring), a layer that a row
// skipped has no slot for it, and a table can carry explicit positions. What a slot's bytes mean belongs to compute/page_format.h.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "onset/base/status.h"
#include "onset/kv/page_pool.h"
#include "onset/kv/swap_file.h"
#include "onset/tensor/block_pattern.h"
#include "onset/tensor/key_value_view.h"

namespace onset {

// What every sequence of a model has in common.
struct CacheLayout {
  KvType type = KvType::int8;
  int32_t layers = 0;
  int32_t head_groups = 1;  // KV heads are split evenly among groups; each has its own pages
  int32_t heads_per_group = 0;
  int32_t head_size = 0;
  std::vector<int32_t> windows;  // for each layer, 0 = keeps everything; else only the last `window` positions are needed
  // For each layer and group ([layer * head_groups + group]), or empty: one with a pattern keeps only the pages that the pattern still
  // shows to later queries.
  std::vector<BlockPattern> patterns = {};

  BlockPattern pattern(int layer, int group) const { return patterns.empty() ? BlockPattern{} : patterns[layer * head_groups + group]; }
  // Whether a layer's group lets go of pages; or one of all.
  bool forgets(int layer, int group) const { return windows[layer] > 0 || pattern(layer, group).any(); }
  bool forgets() const {
    for (int layer = 0; layer < layers; ++layer) {
      for (int group = 0; group < head_groups; ++group) {
        if (forgets(layer, group)) return true;
      }
    }
    return false;
  }
  // Whether a query at `position`, or a later one, sees a slot of the page.
  bool needs(int layer, int group, int32_t page, int32_t position) const {
    const BlockPattern blocks = pattern(layer, group);
    if (blocks.any() && !blocks.keeps(page) && position / page_tokens - page >= blocks.local) return false;
    return windows[layer] == 0 || int64_t{page + 1} * page_tokens > int64_t{position} - windows[layer] + 1;
  }
};

// Bytes of a page under this layout.
size_t layout_page_bytes(const CacheLayout& layout);

// Pages that `tokens` tokens of one sequence take at most, when `rows_per_step` rows or fewer run at a time
// (a windowed layer holds its window and the rows of the step, one with a pattern what the pattern keeps).
int64_t pages_needed(const CacheLayout& layout, int64_t tokens, int64_t rows_per_step);

// Free-form numbers that a policy keeps for a page (key minima and maxima, importance): made on first use.
struct PageMetadata {
  std::vector<float> values;
};

class SequenceCache {
 public:
  SequenceCache(const CacheLayout& layout, PagePool& pool);
  ~SequenceCache();
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;

  const CacheLayout& layout() const { return *layout_; }

  // Slots in use in one layer's group; and the positions of all of them when they are not the slot numbers.
  int32_t length(int layer, int group = 0) const { return table(layer, group).length; }

  // Appends `positions.size()` slots to a layer (all its groups) and returns the first one's number. Takes pages from the pool;
  // pages that the layer's window has left behind go back first (those below the window of the first new
  // position). A last page that is shared and not full is copied before it is written to. Errors: resource_exhausted if the pool has too
  // few pages; then nothing has changed.
  Result<int32_t> append(int layer, std::span<const int32_t> positions);

  // Takes slots for all positions below `tokens` that have none yet, in every layer: rows at these positions are stored in place from then
  // on (keys and values that are already known can be written there before; until then they are zeros). For caches whose slots are their
  // positions. Errors: those of append(); then some layers may have slots that others lack, and truncate() to the earlier length undoes it.
  Status hold(int32_t tokens);
  int32_t held() const { return held_; }
  // The slots of rows that are about to be stored at these positions: those that hold() took, or appended ones.
  Status take_slots(int layer, std::span<const int32_t> positions, std::vector<int32_t>& slots);

  // From now on each append begins at a multiple of `slots` (a multiple of page_tokens): what lies between is absent, and takes no more
  // than the rest of the page before it. Sequences that share a cache (packed prompts) then have the tiles and sums they have alone.
  void align_appends(int32_t slots) { alignment_ = slots; }

  // Gives the pages of slots first..first+count-1 of every layer to the end of another, empty cache of this layout, where they are
  // slots 0..count-1 at positions 0..count-1. `first` is a multiple of page_tokens.
  void share_with(SequenceCache& other, int32_t first, int32_t count) const;

  // Gives the pages of slots first..last-1 of every layer to the end of another cache of this layout, whose length is a multiple of
  // page_tokens: these slots keep their positions, others of the same pages are at no position that anybody sees. The other cache's length
  // is a multiple of page_tokens again. Returns where slot `first` lies there.
  int32_t lend(SequenceCache& other, int32_t first, int32_t last) const;

  // Forgets the slots from `length` on, in every layer (a request that is taken back, a chat turn that is edited).
  void truncate(int32_t length);

  // Where slot `slot` is written: the page's bytes; the slot within is slot % page_tokens.
  std::byte* page_for_write(int layer, int group, int32_t slot);

  // Puts a page that holds ready-made keys and values at the end of a layer's group (`slots` of it in use; the reference is
  // taken over), or leaves a gap of `slots` absent slots if page is no_page. The table's length must be a multiple of page_tokens.
  void attach_page(int layer, int group, PageId page, std::span<const int32_t> positions);

  // Exchanges a page for another one that holds the same, which is shared from now on.
  void replace_page(int layer, int group, int32_t page_index, PageId page);

  // Frees a page's memory; its slots are absent from then on.
  void drop_page(int layer, int group, int32_t page_index);

  KeyValueView view(int layer, int group = 0) const;
  PageId page(int layer, int group, int32_t page_index) const { return table(layer, group).ids[page_index]; }
  PageMetadata& metadata(int layer, int group, int32_t page_index);

  // A layer whose pages are still being loaded: `wait` is called before the layer's keys are first read, once if it succeeds.
  void set_pending_load(int layer, std::function<Status()> wait);
  // Waits until the layer is loaded; the loader's error if it failed.
  Status wait_until_loaded(int layer);

  int64_t pages_held() const;
  // Adds one to the count of each page that it holds. references: [pages of the pool].
  void count_references(std::span<int32_t> references) const;

  // Writes all pages to the file and gives them back to the pool; lengths, positions and metadata stay. Until swap_in() nothing but
  // truncate(0) may be done with the cache. Errors: those of SwapFile::write; then nothing has changed.
  Status swap_out(SwapFile& file);
  // Takes pages again and reads them back. Errors: resource_exhausted if the pool has too few, and then nothing has changed; those of
  // SwapFile::read, and then only truncate(0) makes the cache usable.
  Status swap_in();
  bool swapped_out() const { return file_ != nullptr; }

 private:
  // A page that lies in the file.
  struct SwappedPage {
    int32_t table = 0, index = 0;
    int64_t place = 0;
  };
  void forget_swapped();
  struct Table {
    std::vector<PageId> ids;
    std::vector<const std::byte*> pointers;
    std::vector<int32_t> positions;  // empty while every slot's position is its number
    std::vector<PageMetadata> metadata;
    int32_t length = 0;
    int32_t first_kept_page = 0;
  };
  const Table& table(int layer, int group) const { return tables_[layer * layout_->head_groups + group]; }
  Table& table(int layer, int group) { return tables_[layer * layout_->head_groups + group]; }
  void release_page(Table& table, int32_t page_index);
  bool last_page_is_shared(const Table& table) const;
  void own_last_page(Table& table);
  void forget_pages(int layer, int group, int32_t first_new_position);
  void skip_to_alignment(int layer);
  static void append_positions(Table& table, std::span<const int32_t> positions);

  const CacheLayout* layout_;
  PagePool* pool_;
  std::vector<Table> tables_;
  std::vector<std::function<Status()>> pending_;
  int32_t alignment_ = 1;
  int32_t held_ = 0;          // positions below it have slots of the same number in every layer
  SwapFile* file_ = nullptr;  // not null: the pages lie there
  std::vector<SwappedPage> swapped_;
};

}  // namespace onset
