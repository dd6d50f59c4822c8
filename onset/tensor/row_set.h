// RowSet: the rows of a batch that run at a layer. The other narrow waist of the design.
//
// Rows are numbered as in the batch. A selector (select/) may let rows leave after a layer and rejoin at a later one;
// what a leaving row's hidden state was is kept, and a rejoining row starts from what was stored for it.
#pragma once

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace onset {

class RowSet {
 public:
  RowSet() = default;
  // Rows 0..count-1.
  static RowSet all(int32_t count) {
    RowSet set;
    set.rows_.resize(count);
    std::iota(set.rows_.begin(), set.rows_.end(), 0);
    return set;
  }
  // Ascending row numbers without repeats.
  static RowSet of(std::vector<int32_t> rows) {
    RowSet set;
    set.rows_ = std::move(rows);
    return set;
  }

  std::span<const int32_t> rows() const { return rows_; }
  int32_t size() const { return static_cast<int32_t>(rows_.size()); }
  bool empty() const { return rows_.empty(); }
  // Whether the set is exactly 0..size()-1, so that kernels need no list.
  bool dense() const { return rows_.empty() || (rows_.front() == 0 && rows_.back() == size() - 1); }
  friend bool operator==(const RowSet&, const RowSet&) = default;

 private:
  std::vector<int32_t> rows_;
};

}  // namespace onset
