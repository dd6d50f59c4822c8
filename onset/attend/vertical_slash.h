// Vertical-slash heads (MInference, arXiv:2407.02490, section 3.2 and algorithm 4): a few key columns that all queries see, and a few
// diagonals, at fixed distances from the query.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "onset/tensor/attention_plan.h"

namespace onset {

// What a head was found to look at.
struct VerticalSlash {
  std::vector<int32_t> columns;    // key positions, ascending
  std::vector<int32_t> distances;  // query position - key position, ascending; 0 is among them
};

struct VerticalSlashBudget {
  int32_t columns = 0, diagonals = 1;
  int32_t first_columns = 30;   // always chosen, as far as the budget goes
  int32_t near_diagonals = 64;  // the same; 100 in the paper
};

// The columns and diagonals with the largest sums of softmax rows (SoftmaxSums of one head, each as long as there are keys); of equals the
// first. Sums that are not numbers count as 0.
VerticalSlash choose_vertical_slash(std::span<const float> column, std::span<const float> diagonal, const VerticalSlashBudget& budget);

// What the rows at positions begin..end-1 visit, in blocks of one tile of queries (page_tokens positions, at multiples of it); their row
// numbers begin at `row`. A diagonal takes every key tile that it crosses as a whole: the kernel computes whole tiles anyway. So does a
// tile of which many columns were chosen; other columns stay single. Nothing behind a tile's last query is visited.
void append_vertical_slash(const VerticalSlash& chosen, int32_t row, int32_t begin, int32_t end, std::vector<PlanBlock>& blocks);

// Key slots that the kernel computes for a row of these blocks, on average: tiles of ranges, and columns in tiles of their own.
double computed_slots(std::span<const PlanBlock> blocks);

}  // namespace onset
