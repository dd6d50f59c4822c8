#include "onset/attend/lserve.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>

#include "onset/attend/block_sparse.h"
#include "onset/compute/key_bounds.h"

namespace onset {
namespace {

// Pages that one task scores.
constexpr int32_t pages_at_once = 128;

int queries_of_one(const AttendContext& context) {
  return context.query_heads / context.cache->layout().heads_per_group;
}

// Rows from the first sink tokens to what is near, as one range or two.
std::vector<KeyRange> sink_and_near(int32_t sink, int32_t near, int32_t end) {
  if (sink >= near) return {{0, end}};
  if (sink == 0) return {{near, end}};
  return {{0, sink}, {near, end}};
}

// Whole pages and what there is of the row's own.
std::vector<KeyRange> page_ranges(std::span<const int32_t> pages, int32_t position) {
  std::vector<KeyRange> ranges;
  const auto add = [&](int32_t begin, int32_t end) {
    if (!ranges.empty() && ranges.back().end == begin) {
      ranges.back().end = end;
    } else {
      ranges.push_back({begin, end});
    }
  };
  for (const int32_t page : pages) add(page * page_tokens, (page + 1) * page_tokens);
  add(position / page_tokens * page_tokens, position + 1);
  return ranges;
}

}  // namespace

int32_t lserve_pages(const LServeOptions& options, int32_t position) {
  constexpr int32_t fewest = 3;
  const int32_t all = position / page_tokens + 1;
  return position <= options.budget ? all : std::min(std::max(fewest, options.budget / page_tokens), all);
}

int32_t lserve_chooser(const LServeOptions& options, int32_t prompt_tokens, int32_t position) {
  // All three lie in the page of the row itself, for `interval` divides it and the budget is whole pages; so its own page is never among
  // those that are chosen, and those are full.
  return std::max({prompt_tokens, position / options.interval * options.interval, options.budget + 1});
}

void PageBounds::extend(const AttendContext& context, int32_t pages, int logical_tokens, std::span<const int> kv_heads) {
  if (pages <= pages_) return;
  const CacheLayout& layout = context.cache->layout();
  const int64_t of_page = page_tokens / logical_tokens;
  heads_.resize(static_cast<size_t>(layout.heads_per_group));
  for (const int head : kv_heads) heads_[static_cast<size_t>(head)].resize(key_bounds_size(layout.head_size, pages * of_page));
  const KeyValueView view = context.cache->view(context.layer, context.group);
  const size_t head_bytes = layout_page_bytes(layout) / heads_.size();
  // Tiles of bounds are written by one worker each.
  const int64_t step = std::max<int64_t>(1, bound_lanes / of_page), first = pages_ / step, last = (pages + step - 1) / step;
  const auto heads = static_cast<int64_t>(kv_heads.size());
  for_each(context, (last - first) * heads, [&](int64_t i, int) {
    const auto head = static_cast<size_t>(kv_heads[static_cast<size_t>(i % heads)]);
    const int64_t begin = std::max<int64_t>(pages_, (first + i / heads) * step);
    for (int64_t page = begin; page < std::min<int64_t>(pages, (first + i / heads + 1) * step); ++page) {
      store_key_bounds(context.isa, layout.type, layout.head_size, view.pages[page] + head * head_bytes, logical_tokens, page * of_page,
                       heads_[head].data());
    }
  });
  pages_ = pages;
}

std::vector<int32_t> best_pages(std::span<const float> scores, int32_t count) {
  // Larger keys are better: the score's bits in an order that integers have, then the smaller number.
  std::vector<uint64_t> keys(scores.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    const auto bits = std::bit_cast<uint32_t>(std::isnan(scores[i]) ? 0.0f : scores[i] + 0.0f);
    const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    keys[i] = uint64_t{ordered} << 32 | (UINT32_MAX - static_cast<uint32_t>(i));
  }
  count = std::min(count, static_cast<int32_t>(scores.size()));
  std::nth_element(keys.begin(), keys.begin() + count, keys.end(), std::greater<>());
  std::vector<int32_t> pages(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) pages[i] = static_cast<int32_t>(UINT32_MAX - static_cast<uint32_t>(keys[i]));
  std::sort(pages.begin(), pages.end());
  return pages;
}

int LServeAttend::selections_of(const AttendContext& context) const {
  return options_.one_selection ? context.cache->layout().heads_per_group : context.query_heads;
}

// Equation 2: the page's score is the largest of its logical pages'.
void LServeAttend::choose(const AttendContext& context, int32_t row, int32_t position, const std::vector<int>& kv_heads,
                          Retrieval& retrieval) const {
  const int32_t pages = position / page_tokens;
  const int of_one = queries_of_one(context), head_size = context.cache->layout().head_size;
  retrieval.bounds.extend(context, pages, options_.logical, kv_heads);
  const int64_t parts = (pages + pages_at_once - 1) / pages_at_once;
  std::vector<float> scores(static_cast<size_t>(context.query_heads) * static_cast<size_t>(pages));
  for_each(context, parts * static_cast<int64_t>(kv_heads.size()), [&](int64_t i, int) {
    const int kv_head = kv_heads[static_cast<size_t>(i / parts)], head = kv_head * of_one;
    const auto first = static_cast<int32_t>(i % parts) * pages_at_once;
    score_pages(context.isa, head_size, options_.logical, retrieval.bounds.head(kv_head),
                context.queries + row * context.query_stride + int64_t{head} * head_size, of_one, first,
                std::min(first + pages_at_once, pages), scores.data() + int64_t{head} * pages + first, pages);
  });
  const int selections = selections_of(context), of_kv_head = options_.one_selection ? 1 : of_one;
  retrieval.chosen.resize(static_cast<size_t>(selections));
  for_each(context, static_cast<int64_t>(kv_heads.size()) * of_kv_head, [&](int64_t i, int) {
    const int kv_head = kv_heads[static_cast<size_t>(i / of_kv_head)];
    const int64_t selection = int64_t{kv_head} * of_kv_head + i % of_kv_head;
    const std::span<float> line(scores.data() + selection * (of_one / of_kv_head) * pages, static_cast<size_t>(pages));
    for (int other = 1; options_.one_selection && other < of_one; ++other) {
      for (int32_t page = 0; page < pages; ++page) line[page] = std::max(line[page], line[int64_t{other} * pages + page]);
    }
    retrieval.chosen[static_cast<size_t>(selection)] = best_pages(line, lserve_pages(options_, position) - 1);
  });
  retrieval.chosen_at = position;
}

std::vector<PlanBlock> LServeAttend::streaming_blocks(const AttendContext& context, int32_t prompt_rows) const {
  std::vector<PlanBlock> blocks;
  const auto rows = static_cast<int32_t>(context.positions.size());
  for (int32_t row = 0, end = 0; row < rows; row = end) {
    const int32_t position = context.positions[row];
    end = row < prompt_rows ? std::min(row + page_tokens, prompt_rows) : row + 1;
    const int32_t band = row < prompt_rows ? options_.prefill : options_.local;
    // The band of each row is the pattern's in a prompt, where whole tiles are visited, and the range's in an answer.
    int32_t near = std::max(0, position - band + 1);
    if (row < prompt_rows) near = near / page_tokens * page_tokens;
    blocks.push_back(
        {.row_begin = row, .row_end = end, .ranges = sink_and_near(options_.sink, near, context.positions[end - 1] + 1), .columns = {}});
  }
  return blocks;
}

const AttentionPlan& LServeAttend::plan(const AttendContext& context) {
  if (context.blocks.any()) return plan_ = block_plan(context.blocks, context);
  if (context.window > 0) return dense_.plan(context);
  const std::vector<bool>& streams = (*heads_)[context.layer];
  const int kv_heads = context.cache->layout().heads_per_group, of_one = queries_of_one(context);
  std::vector<int> retrieving;
  for (int head = 0; head < kv_heads; ++head) {
    if (streams.empty() || !streams[static_cast<size_t>(context.group * kv_heads + head)]) retrieving.push_back(head);
  }
  const std::span<const int32_t> positions = context.positions;
  const auto rows = static_cast<int32_t>(positions.size());
  const auto prompt_rows = static_cast<int32_t>(std::lower_bound(positions.begin(), positions.end(), prompt_tokens_) - positions.begin());
  const bool all_dense = rows == prompt_rows || lserve_pages(options_, positions.back()) == positions.back() / page_tokens + 1;
  Retrieval* retrieval = retrieving.empty() ? nullptr : &retrievals_[{context.layer, context.group}];
  // What an answer will want is made while the prompt is read.
  if (retrieval != nullptr && prompt_tokens_ > options_.budget) {
    retrieval->bounds.extend(context, std::min(prompt_tokens_, positions.back() + 1) / page_tokens, options_.logical, retrieving);
  }
  if (static_cast<int>(retrieving.size()) == kv_heads && all_dense) return dense_.plan(context);

  const int selections = selections_of(context);
  plan_.patterns.assign(static_cast<size_t>(selections) + 1, {.scale = context.scale, .blocks = {}});
  plan_.pattern_of_head.assign(static_cast<size_t>(context.query_heads), 0);
  plan_.patterns[0].window = options_.prefill;
  plan_.patterns[0].sink = options_.sink;
  if (static_cast<int>(retrieving.size()) < kv_heads) plan_.patterns[0].blocks = streaming_blocks(context, prompt_rows);
  for (const int kv_head : retrieving) {
    for (int head = kv_head * of_one; head < (kv_head + 1) * of_one; ++head) {
      plan_.pattern_of_head[static_cast<size_t>(head)] = static_cast<uint16_t>(1 + (options_.one_selection ? kv_head : head));
    }
  }
  const auto for_each_selection = [&](const auto& body) {
    for (int selection = 0; selection < selections; ++selection) {
      const int kv_head = options_.one_selection ? selection : selection / of_one;
      if (std::find(retrieving.begin(), retrieving.end(), kv_head) != retrieving.end()) {
        body(selection, plan_.patterns[static_cast<size_t>(selection) + 1].blocks);
      }
    }
  };
  if (prompt_rows > 0) {
    const int32_t end = positions[static_cast<size_t>(prompt_rows) - 1] + 1;
    for_each_selection([&](int, std::vector<PlanBlock>& blocks) {
      blocks.push_back({.row_begin = 0, .row_end = prompt_rows, .ranges = {{0, end}}, .columns = {}});
    });
  }
  for (int32_t row = prompt_rows; row < rows; ++row) {
    const int32_t position = positions[static_cast<size_t>(row)];
    const bool all = lserve_pages(options_, position) == position / page_tokens + 1;
    if (!all && retrieval != nullptr) {
      const int32_t chooser = lserve_chooser(options_, prompt_tokens_, position);
      assert(retrieval->chosen_at == chooser || row >= position - chooser);
      if (retrieval->chosen_at != chooser) choose(context, row - (position - chooser), chooser, retrieving, *retrieval);
    }
    for_each_selection([&](int selection, std::vector<PlanBlock>& blocks) {
      blocks.push_back({.row_begin = row,
                        .row_end = row + 1,
                        .ranges = all ? std::vector<KeyRange>{{0, position + 1}}
                                      : page_ranges(retrieval->chosen[static_cast<size_t>(selection)], position),
                        .columns = {}});
    });
  }
  return plan_;
}

}  // namespace onset
