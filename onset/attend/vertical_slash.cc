#include "onset/attend/vertical_slash.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "onset/tensor/key_value_view.h"

namespace onset {
namespace {

// As in the kernel: a tile of which fewer slots are visited is gathered (compute/attention_blocks.h).
constexpr int columns_of_a_tile = 16;

// The `count` largest of the values, ascending; the first `forced` come first, and of equals the first.
std::vector<int32_t> largest(std::span<const float> values, int32_t count, int32_t forced) {
  std::vector<float> keys(values.begin(), values.end());
  for (float& key : keys) {
    if (!(key > 0)) key = 0;
  }
  const auto most = static_cast<int32_t>(keys.size());
  std::fill_n(keys.begin(), std::min(forced, most), std::numeric_limits<float>::infinity());
  count = std::min(count, most);
  std::vector<int32_t> order(keys.size());
  std::iota(order.begin(), order.end(), 0);
  if (count < most) {
    std::nth_element(order.begin(), order.begin() + count, order.end(),
                     [&](int32_t a, int32_t b) { return keys[a] != keys[b] ? keys[a] > keys[b] : a < b; });
    order.resize(static_cast<size_t>(count));
    std::sort(order.begin(), order.end());
  }
  return order;
}

// The distances in tiles at which some diagonal crosses a tile, ascending.
std::vector<int32_t> tile_distances(std::span<const int32_t> distances) {
  std::vector<int32_t> tiles;
  const auto add = [&](int32_t tile) {
    if (tiles.empty() || tiles.back() < tile) tiles.push_back(tile);
  };
  for (const int32_t distance : distances) {
    add(distance / page_tokens);
    if (distance % page_tokens != 0) add(distance / page_tokens + 1);
  }
  return tiles;
}

// Chosen columns, tile by tile.
struct ColumnTile {
  int32_t tile = 0;
  size_t begin = 0, end = 0;  // among the columns
};

std::vector<ColumnTile> column_tiles(std::span<const int32_t> columns) {
  std::vector<ColumnTile> tiles;
  for (size_t i = 0; i < columns.size(); ++i) {
    const int32_t tile = columns[i] / page_tokens;
    if (tiles.empty() || tiles.back().tile != tile) tiles.push_back({tile, i, i});
    tiles.back().end = i + 1;
  }
  return tiles;
}

void add_tile(int32_t tile, std::vector<KeyRange>& ranges) {
  const int32_t begin = tile * page_tokens;
  if (!ranges.empty() && ranges.back().end == begin) {
    ranges.back().end += page_tokens;
  } else {
    ranges.push_back({begin, begin + page_tokens});
  }
}

}  // namespace

VerticalSlash choose_vertical_slash(std::span<const float> column, std::span<const float> diagonal, const VerticalSlashBudget& budget) {
  VerticalSlash chosen;
  chosen.columns = largest(column, std::max(0, budget.columns), budget.first_columns);
  // Distance 0 is never missing: each query sees itself at least.
  chosen.distances = largest(diagonal, std::max(1, budget.diagonals), std::max(1, budget.near_diagonals));
  return chosen;
}

void append_vertical_slash(const VerticalSlash& chosen, int32_t row, int32_t begin, int32_t end, std::vector<PlanBlock>& blocks) {
  const std::vector<int32_t> distances = tile_distances(chosen.distances);
  const std::vector<ColumnTile> columns = column_tiles(chosen.columns);
  for (int32_t position = begin; position < end;) {
    const int32_t own = position / page_tokens, next = std::min((own + 1) * page_tokens, end);
    PlanBlock& block = blocks.emplace_back();
    block.row_begin = row + position - begin;
    block.row_end = row + next - begin;
    // Tiles at the distances, from the farthest that there is, and tiles of columns, both ascending.
    auto far = std::upper_bound(distances.begin(), distances.end(), own);
    auto column = columns.begin();
    while (far != distances.begin() || (column != columns.end() && column->tile < own)) {
      const int32_t slash = far == distances.begin() ? own + 1 : own - *(far - 1);
      const int32_t vertical = column != columns.end() && column->tile < own ? column->tile : own + 1;
      const int32_t tile = std::min(slash, vertical);
      const bool whole = slash == tile || column->end - column->begin >= columns_of_a_tile;
      if (whole) add_tile(tile, block.ranges);
      if (!whole) block.columns.insert(block.columns.end(), chosen.columns.begin() + column->begin, chosen.columns.begin() + column->end);
      if (slash == tile) --far;
      if (vertical == tile) ++column;
    }
    // Nothing is stored behind the last row.
    if (!block.ranges.empty()) block.ranges.back().end = std::min(block.ranges.back().end, next);
    position = next;
  }
}

double computed_slots(std::span<const PlanBlock> blocks) {
  double slots = 0, rows = 0;
  for (const PlanBlock& block : blocks) {
    int64_t tiles = (static_cast<int64_t>(block.columns.size()) + page_tokens - 1) / page_tokens;
    for (const KeyRange& range : block.ranges) tiles += (range.end + page_tokens - 1) / page_tokens - range.begin / page_tokens;
    slots += static_cast<double>(tiles * page_tokens) * (block.row_end - block.row_begin);
    rows += block.row_end - block.row_begin;
  }
  return rows > 0 ? slots / rows : 0;
}

}  // namespace onset
