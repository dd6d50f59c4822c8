#include "onset/kv/sequence_cache.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <numeric>

#include "onset/compute/page_format.h"

namespace onset {
namespace {

int32_t pages_for(int64_t slots) {
  return static_cast<int32_t>((slots + page_tokens - 1) / page_tokens);
}

}  // namespace

size_t layout_page_bytes(const CacheLayout& layout) {
  return page_bytes(layout.type, layout.heads_per_group, layout.head_size);
}

int64_t pages_needed(const CacheLayout& layout, int64_t tokens, int64_t rows_per_step) {
  int64_t pages = 0;
  for (int layer = 0; layer < layout.layers; ++layer) {
    const int64_t all = pages_for(tokens);
    const int64_t window = layout.windows[layer];
    // The window may begin, and the step's rows end, inside a page.
    const int64_t kept = window == 0 ? all : pages_for(window + rows_per_step) + 1;
    for (int group = 0; group < layout.head_groups; ++group) {
      const BlockPattern blocks = layout.pattern(layer, group);
      pages += std::min({all, kept, blocks.any() ? blocks.kept(all, rows_per_step) : all});
    }
  }
  return pages;
}

SequenceCache::SequenceCache(const CacheLayout& layout, PagePool& pool)
    : layout_(&layout), pool_(&pool), tables_(layout.layers * layout.head_groups), pending_(layout.layers) {}

SequenceCache::~SequenceCache() {
  forget_swapped();
  for (Table& table : tables_) {
    for (const PageId id : table.ids) {
      if (id != no_page) pool_->release(id);
    }
  }
}

void SequenceCache::release_page(Table& table, int32_t page_index) {
  PageId& id = table.ids[page_index];
  if (id == no_page) return;
  pool_->release(id);
  id = no_page;
  table.pointers[page_index] = nullptr;
  if (static_cast<size_t>(page_index) < table.metadata.size()) table.metadata[page_index] = {};
}

// Queries from this position on are all that is still to come.
void SequenceCache::forget_pages(int layer, int group, int32_t first_new_position) {
  if (!layout_->forgets(layer, group)) return;
  Table& here = table(layer, group);
  if (!here.positions.empty()) return;  // moved slots: whoever moved them decides what can go
  const int64_t window = layout_->windows[layer];
  // Every page below is needed for good or gone: of a pattern, those before the near blocks of the queries that have been; of a window
  // those that it has left behind.
  int32_t end = std::max<int32_t>(0, static_cast<int32_t>((int64_t{first_new_position} - window + 1) / page_tokens));
  if (window == 0) end = std::max(0, first_new_position / page_tokens - layout_->pattern(layer, group).local + 1);
  for (; here.first_kept_page < std::min<int32_t>(end, static_cast<int32_t>(here.ids.size())); ++here.first_kept_page) {
    if (!layout_->needs(layer, group, here.first_kept_page, first_new_position)) release_page(here, here.first_kept_page);
  }
}

void SequenceCache::append_positions(Table& table, std::span<const int32_t> positions) {
  bool identity = table.positions.empty();
  for (size_t i = 0; identity && i < positions.size(); ++i) {
    identity = positions[i] == table.length + static_cast<int32_t>(i);
  }
  if (identity) return;
  if (table.positions.empty()) {
    for (int32_t slot = 0; slot < table.length; ++slot) table.positions.push_back(slot);
  }
  table.positions.insert(table.positions.end(), positions.begin(), positions.end());
}

void SequenceCache::skip_to_alignment(int layer) {
  const int32_t begin = (length(layer) + alignment_ - 1) / alignment_ * alignment_;
  if (begin == length(layer)) return;
  // Slots that nobody is to see: after every position.
  const std::vector<int32_t> nowhere(begin - length(layer), INT32_MAX);
  for (int group = 0; group < layout_->head_groups; ++group) {
    Table& here = table(layer, group);
    here.ids.resize(begin / page_tokens, no_page);
    here.pointers.resize(begin / page_tokens, nullptr);
    append_positions(here, nowhere);
    here.length = begin;
  }
}

void SequenceCache::share_with(SequenceCache& other, int32_t first, int32_t count) const {
  assert(first % page_tokens == 0);
  std::vector<int32_t> positions;
  for (int layer = 0; layer < layout_->layers; ++layer) {
    for (int group = 0; group < layout_->head_groups; ++group) {
      for (int32_t slot = 0; slot < count; slot += page_tokens) {
        positions.resize(std::min(page_tokens, count - slot));
        std::iota(positions.begin(), positions.end(), slot);
        const PageId id = page(layer, group, (first + slot) / page_tokens);
        if (id != no_page) pool_->share(id);
        other.attach_page(layer, group, id, positions);
      }
    }
  }
}

int32_t SequenceCache::lend(SequenceCache& other, int32_t first, int32_t last) const {
  const int32_t begin = first / page_tokens * page_tokens, place = other.length(0) + first - begin;
  std::vector<int32_t> positions(page_tokens);
  for (int32_t slot = begin; slot < last; slot += page_tokens) {
    for (int32_t i = 0; i < page_tokens; ++i) positions[i] = slot + i >= first && slot + i < last ? slot + i : INT32_MAX;
    for (int layer = 0; layer < layout_->layers; ++layer) {
      for (int group = 0; group < layout_->head_groups; ++group) {
        const PageId id = page(layer, group, slot / page_tokens);
        if (id != no_page) pool_->share(id);
        other.attach_page(layer, group, id, positions);
      }
    }
  }
  return place;
}

// Whether the next slot lies in a page that somebody else has too.
bool SequenceCache::last_page_is_shared(const Table& table) const {
  return table.length % page_tokens != 0 && table.ids.back() != no_page && pool_->references(table.ids.back()) > 1;
}

// There is room for the copy.
void SequenceCache::own_last_page(Table& table) {
  const PageId shared = table.ids.back();
  const PageId own = pool_->acquire();
  std::memcpy(pool_->data(own), pool_->data(shared), pool_->page_bytes());
  pool_->release(shared);
  table.ids.back() = own;
  table.pointers.back() = pool_->data(own);
}

Result<int32_t> SequenceCache::append(int layer, std::span<const int32_t> positions) {
  if (positions.empty()) return length(layer);
  if (alignment_ > 1) skip_to_alignment(layer);
  const int32_t first = length(layer);
  for (int group = 0; group < layout_->head_groups; ++group) forget_pages(layer, group, positions.front());
  const int32_t wanted = pages_for(int64_t{first} + static_cast<int64_t>(positions.size()));
  int64_t missing = 0;
  for (int group = 0; group < layout_->head_groups; ++group) {
    const Table& here = table(layer, group);
    missing += wanted - static_cast<int32_t>(here.ids.size()) + last_page_is_shared(here);
  }
  if (!pool_->make_room(missing)) {
    return error(Code::resource_exhausted, "the key/value pool has {} free pages, layer {} needs {}", pool_->free_pages(), layer, missing);
  }
  for (int group = 0; group < layout_->head_groups; ++group) {
    Table& here = table(layer, group);
    assert(here.length == first);
    if (last_page_is_shared(here)) own_last_page(here);
    while (static_cast<int32_t>(here.ids.size()) < wanted) {
      const PageId id = pool_->acquire();
      here.ids.push_back(id);
      here.pointers.push_back(pool_->data(id));
    }
    append_positions(here, positions);
    here.length += static_cast<int32_t>(positions.size());
  }
  return first;
}

Status SequenceCache::hold(int32_t tokens) {
  std::vector<int32_t> positions;
  for (int layer = 0; layer < layout_->layers; ++layer) {
    assert(table(layer, 0).positions.empty());
    if (length(layer) >= tokens) continue;
    positions.resize(tokens - length(layer));
    std::iota(positions.begin(), positions.end(), length(layer));
    ONSET_TRY(append(layer, positions).status());
  }
  held_ = std::max(held_, tokens);
  return {};
}

Status SequenceCache::take_slots(int layer, std::span<const int32_t> positions, std::vector<int32_t>& slots) {
  const auto held = std::lower_bound(positions.begin(), positions.end(), held_) - positions.begin();
  slots.insert(slots.end(), positions.begin(), positions.begin() + held);
  ONSET_ASSIGN(const int32_t first, append(layer, positions.subspan(held)));
  for (size_t i = held; i < positions.size(); ++i) slots.push_back(first + static_cast<int32_t>(i - held));
  return {};
}

void SequenceCache::truncate(int32_t length) {
  assert(length == 0 || !swapped_out());
  forget_swapped();
  held_ = std::min(held_, length);
  for (Table& here : tables_) {
    if (here.length <= length) continue;
    for (int32_t page = pages_for(length); page < static_cast<int32_t>(here.ids.size()); ++page) release_page(here, page);
    here.ids.resize(pages_for(length));
    here.pointers.resize(here.ids.size());
    if (!here.positions.empty()) here.positions.resize(length);
    if (here.metadata.size() > here.ids.size()) here.metadata.resize(here.ids.size());
    here.first_kept_page = std::min<int32_t>(here.first_kept_page, static_cast<int32_t>(here.ids.size()));
    here.length = length;
  }
}

std::byte* SequenceCache::page_for_write(int layer, int group, int32_t slot) {
  const PageId id = table(layer, group).ids[slot / page_tokens];
  assert(id != no_page);
  return pool_->data(id);
}

void SequenceCache::attach_page(int layer, int group, PageId page, std::span<const int32_t> positions) {
  Table& here = table(layer, group);
  assert(here.length % page_tokens == 0 && positions.size() <= page_tokens);
  here.ids.push_back(page);
  here.pointers.push_back(page == no_page ? nullptr : pool_->data(page));
  append_positions(here, positions);
  here.length += static_cast<int32_t>(positions.size());
}

void SequenceCache::replace_page(int layer, int group, int32_t page_index, PageId page) {
  Table& here = table(layer, group);
  pool_->share(page);
  pool_->release(here.ids[page_index]);
  here.ids[page_index] = page;
  here.pointers[page_index] = pool_->data(page);
}

void SequenceCache::drop_page(int layer, int group, int32_t page_index) {
  release_page(table(layer, group), page_index);
}

KeyValueView SequenceCache::view(int layer, int group) const {
  const Table& here = table(layer, group);
  return {.type = layout_->type,
          .length = here.length,
          .heads = layout_->heads_per_group,
          .head_size = layout_->head_size,
          .pages = here.pointers,
          .positions = here.positions.empty() ? nullptr : here.positions.data()};
}

PageMetadata& SequenceCache::metadata(int layer, int group, int32_t page_index) {
  Table& here = table(layer, group);
  if (here.metadata.size() <= static_cast<size_t>(page_index)) here.metadata.resize(here.ids.size());
  return here.metadata[page_index];
}

void SequenceCache::set_pending_load(int layer, std::function<Status()> wait) {
  pending_[layer] = std::move(wait);
}

Status SequenceCache::wait_until_loaded(int layer) {
  if (!pending_[layer]) return {};
  auto wait = std::exchange(pending_[layer], nullptr);
  const Status status = wait();
  // Whoever tries again learns the same.
  if (!status.ok()) pending_[layer] = std::move(wait);
  return status;
}

int64_t SequenceCache::pages_held() const {
  int64_t held = 0;
  for (const Table& table : tables_) {
    for (const PageId id : table.ids) held += id != no_page;
  }
  return held;
}

void SequenceCache::count_references(std::span<int32_t> references) const {
  for (const Table& table : tables_) {
    for (const PageId id : table.ids) {
      if (id != no_page) ++references[id];
    }
  }
}

void SequenceCache::forget_swapped() {
  for (const SwappedPage& page : swapped_) file_->free(page.place);
  swapped_.clear();
  file_ = nullptr;
}

Status SequenceCache::swap_out(SwapFile& file) {
  assert(!swapped_out());
  file_ = &file;
  for (size_t t = 0; t < tables_.size(); ++t) {
    for (size_t i = 0; i < tables_[t].ids.size(); ++i) {
      const PageId id = tables_[t].ids[i];
      if (id == no_page) continue;
      const Result<int64_t> place = file.write(pool_->data(id));
      if (!place.ok()) {
        forget_swapped();
        return place.status();
      }
      swapped_.push_back({static_cast<int32_t>(t), static_cast<int32_t>(i), *place});
    }
  }
  for (const SwappedPage& page : swapped_) {
    Table& here = tables_[page.table];
    pool_->release(here.ids[page.index]);
    here.ids[page.index] = no_page;
    here.pointers[page.index] = nullptr;
  }
  return {};
}

Status SequenceCache::swap_in() {
  assert(swapped_out());
  const auto wanted = static_cast<int64_t>(swapped_.size());
  if (!pool_->make_room(wanted)) {
    return error(Code::resource_exhausted, "the key/value pool has {} free pages, {} come back from the swap file", pool_->free_pages(),
                 wanted);
  }
  for (const SwappedPage& page : swapped_) {
    const PageId id = pool_->acquire();
    Table& here = tables_[page.table];
    here.ids[page.index] = id;
    here.pointers[page.index] = pool_->data(id);
    ONSET_TRY(file_->read(page.place, pool_->data(id)));
  }
  forget_swapped();
  return {};
}

}  // namespace onset
