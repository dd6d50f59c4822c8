#include "onset/attend/pattern_search.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "onset/base/thread_pool.h"
#include "onset/compute/attention.h"

namespace onset {
namespace {

using Blocks = std::vector<PlanBlock>;

// What `plan` makes of rows row_begin.. of the context, [rows, heads * head_size].
std::vector<float> outputs_of(const AttendContext& context, int32_t row_begin, const AttentionPlan& plan) {
  const auto rows = static_cast<int32_t>(context.positions.size()) - row_begin;
  const int64_t width = int64_t{context.query_heads} * context.cache->layout().head_size;
  std::vector<float> output(static_cast<size_t>(rows * width));
  const std::vector<AttentionCall> calls = {{.plan = &plan,
                                             .keys = context.cache->view(context.layer, context.group),
                                             .rows = rows,
                                             .query_heads = context.query_heads,
                                             .positions = context.positions.data() + row_begin,
                                             .queries = context.queries + row_begin * context.query_stride,
                                             .query_stride = context.query_stride,
                                             .output = output.data(),
                                             .output_stride = width}};
  const int threads = context.pool != nullptr ? context.pool->threads() : 1;
  AttentionTasks tasks = attention_tasks(calls, threads);
  std::vector<AlignedVector<std::byte>> scratch(static_cast<size_t>(threads));
  for (auto& memory : scratch) memory.resize(attention_scratch_bytes(calls));
  const auto body = [&](int64_t task, int worker) {
    run_attention(context.isa, calls, tasks, static_cast<size_t>(task), scratch[worker].data());
  };
  if (context.pool != nullptr) {
    context.pool->for_each(static_cast<int64_t>(tasks.tasks.size()), body);
  } else {
    for (size_t task = 0; task < tasks.tasks.size(); ++task) body(static_cast<int64_t>(task), 0);
  }
  finish_attention(calls, tasks);
  return output;
}

double mean_distance(const std::vector<float>& a, const std::vector<float>& b, int64_t rows, int64_t width, int64_t first, int64_t size) {
  double sum = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t d = row * width + first; d < row * width + first + size; ++d) sum += std::abs(double{a[d]} - double{b[d]});
  }
  return sum / static_cast<double>(rows * size);
}

// Rows are numbered from the first of those compared.
void shift_rows(Blocks& blocks, int32_t by) {
  for (PlanBlock& block : blocks) {
    block.row_begin -= by;
    block.row_end -= by;
  }
}

// A vertical-slash candidate's numbers are moved, diagonals first and then columns, until its cost is the target's (ChangeSpace, appendix
// C.2); the sums of the softmax rows stay those of the head.
struct Nudge {
  const PatternSearchOptions& options;
  const std::vector<float>&column, &diagonal;
  int32_t begin, end;  // positions
  double target;       // keys for a row

  double cost(const HeadPattern& pattern, Blocks& blocks) const {
    blocks.clear();
    const VerticalSlash chosen = choose_vertical_slash(column, diagonal,
                                                       {.columns = pattern.first,
                                                        .diagonals = pattern.second,
                                                        .first_columns = options.inference.first_columns,
                                                        .near_diagonals = options.inference.near_diagonals});
    append_vertical_slash(chosen, 0, begin, end, blocks);
    return computed_slots(blocks);
  }

  // The value in least..most of one number at which the cost is nearest to the target; cost grows with it.
  void move(HeadPattern& pattern, int32_t& number, int32_t least, int32_t most, Blocks& blocks) const {
    while (least < most) {
      number = least + (most - least) / 2;
      if (cost(pattern, blocks) < target) {
        least = number + 1;
      } else {
        most = number;
      }
    }
    number = least;
  }

  void run(PatternTrial& trial, Blocks& blocks) const {
    HeadPattern& pattern = trial.pattern;
    constexpr int32_t least_columns = 30, least_diagonals = 50;
    double& slots = trial.slots;
    slots = cost(pattern, blocks);
    if (std::abs(slots - target) > options.tolerance * target) {
      move(pattern, pattern.second, least_diagonals, end, blocks);
      slots = cost(pattern, blocks);
    }
    if (std::abs(slots - target) > options.tolerance * target) {
      move(pattern, pattern.first, least_columns, end, blocks);
      slots = cost(pattern, blocks);
    }
  }
};

}  // namespace

std::vector<HeadPattern> pattern_candidates(int32_t length, int32_t target) {
  const int32_t tiles = std::max(1, target / page_tokens);
  const auto slash = [](int32_t columns, int32_t diagonals) {
    return HeadPattern{.shape = HeadShape::vertical_slash, .first = columns, .second = diagonals};
  };
  return {{.shape = HeadShape::a_shape, .first = page_tokens, .second = std::max(1, target - 2 * page_tokens + 1)},
          slash(30, length / 16),
          slash(64, length / 18),
          slash(128, length / 20),
          slash(length / 12, 64),
          {.shape = HeadShape::block_sparse, .first = tiles}};
}

PatternSearch::PatternSearch(const PatternSearchOptions& options, int32_t layers, int32_t query_heads, PatternFindings& findings)
    : options_(options), findings_(findings) {
  findings_.trials.assign(static_cast<size_t>(layers), std::vector<std::vector<PatternTrial>>(static_cast<size_t>(query_heads)));
}

const AttentionPlan& PatternSearch::plan(const AttendContext& context) {
  const bool last = context.positions.back() + 1 == options_.length;
  if (last && context.window == 0) {
    const int32_t begin = std::max(context.positions.front(), (options_.length - 1) / options_.inference.every * options_.inference.every);
    try_all(context, begin - context.positions.front());
  }
  if (last) findings_.layers_done = context.layer + 1;
  return dense_.plan(context);
}

void PatternSearch::try_all(const AttendContext& context, int32_t row_begin) {
  const auto heads = context.query_heads;
  const auto row_end = static_cast<int32_t>(context.positions.size()), rows = row_end - row_begin;
  std::vector<PatternTrial> candidates;
  for (const double share : {1.0, 0.5, 1.5, 2.0}) {
    const auto target = static_cast<int32_t>(share * target_slots(options_.length));
    for (const HeadPattern& pattern : pattern_candidates(options_.length, target)) {
      candidates.push_back({.pattern = pattern, .slots = 0, .target = static_cast<double>(target)});
    }
  }
  const size_t count = candidates.size();
  PooledKeys pooled;
  pooled.extend(context, context.positions.back() + 1);
  HeadEstimator estimator(context);
  std::vector<PatternTrial> tried(count * static_cast<size_t>(heads));
  std::vector<Blocks> blocks(tried.size());
  const auto prepare = [&](int64_t head, int worker) {
    std::vector<float> column, diagonal;
    estimator.estimate(static_cast<int>(head), row_end, std::min(options_.inference.estimating_rows, rows), worker, column, diagonal);
    for (size_t c = 0; c < count; ++c) {
      const size_t at = c * static_cast<size_t>(heads) + static_cast<size_t>(head);
      const HeadPattern& pattern = candidates[c].pattern;
      tried[at] = candidates[c];
      if (pattern.shape == HeadShape::vertical_slash) {
        const Nudge nudge{options_, column, diagonal, context.positions[row_begin], context.positions.back() + 1, candidates[c].target};
        nudge.run(tried[at], blocks[at]);
        continue;
      }
      blocks[at] =
          pattern_blocks(pattern, options_.inference, context, static_cast<int>(head), row_begin, row_end, worker, estimator, pooled);
      shift_rows(blocks[at], row_begin);
      tried[at].slots = computed_slots(blocks[at]);
    }
  };
  if (context.pool != nullptr) {
    context.pool->for_each(heads, prepare);
  } else {
    for (int head = 0; head < heads; ++head) prepare(head, 0);
  }
  const int64_t head_size = context.cache->layout().head_size, width = heads * head_size;
  const std::vector<float> dense = outputs_of(context, row_begin, dense_plan(rows, context.positions.back() + 1, heads, context.scale));
  AttentionPlan plan;
  plan.pattern_of_head.resize(static_cast<size_t>(heads));
  std::iota(plan.pattern_of_head.begin(), plan.pattern_of_head.end(), uint16_t{0});
  for (size_t c = 0; c < count; ++c) {
    plan.patterns.clear();
    for (int head = 0; head < heads; ++head) {
      plan.patterns.push_back(
          {.scale = context.scale, .blocks = std::move(blocks[c * static_cast<size_t>(heads) + static_cast<size_t>(head)])});
    }
    const std::vector<float> sparse = outputs_of(context, row_begin, plan);
    for (int head = 0; head < heads; ++head) {
      PatternTrial& trial = tried[c * static_cast<size_t>(heads) + static_cast<size_t>(head)];
      trial.pattern.score = mean_distance(sparse, dense, rows, width, head * head_size, head_size);
      findings_.trials[context.layer][context.group * heads + head].push_back(trial);
    }
  }
}

void add_findings(PatternFindings& sum, const PatternFindings& more, int32_t prompts) {
  const auto mean = [&](int32_t before, int32_t one) {
    return static_cast<int32_t>((int64_t{before} * prompts + one + prompts / 2) / (prompts + 1));
  };
  for (size_t layer = 0; layer < more.trials.size(); ++layer) {
    for (size_t head = 0; head < more.trials[layer].size(); ++head) {
      for (size_t c = 0; c < more.trials[layer][head].size(); ++c) {
        PatternTrial& all = sum.trials[layer][head][c];
        const PatternTrial& one = more.trials[layer][head][c];
        all.pattern.first = mean(all.pattern.first, one.pattern.first);
        all.pattern.second = mean(all.pattern.second, one.pattern.second);
        all.pattern.score += one.pattern.score;
        all.slots = (all.slots * prompts + one.slots) / (prompts + 1);
      }
    }
  }
}

namespace {

using Trials = std::vector<PatternTrial>;

const PatternTrial& nearest(const Trials& trials, double target) {
  const PatternTrial* best = nullptr;
  for (const PatternTrial& trial : trials) {
    if (trial.target == target && (best == nullptr || trial.pattern.score < best->pattern.score)) best = &trial;
  }
  return best != nullptr ? *best : trials.front();
}

// The trials on the lower convex hull of distance over cost, cheapest first.
Trials hull_of(Trials trials) {
  std::sort(trials.begin(), trials.end(), [](const PatternTrial& a, const PatternTrial& b) {
    return a.slots != b.slots ? a.slots < b.slots : a.pattern.score < b.pattern.score;
  });
  const auto slope = [](const PatternTrial& a, const PatternTrial& b) { return (a.pattern.score - b.pattern.score) / (b.slots - a.slots); };
  Trials hull;
  for (const PatternTrial& trial : trials) {
    if (!hull.empty() && trial.pattern.score >= hull.back().pattern.score) continue;
    if (!hull.empty() && trial.slots <= hull.back().slots) hull.pop_back();
    while (hull.size() > 1 && slope(hull[hull.size() - 2], hull.back()) <= slope(hull.back(), trial)) hull.pop_back();
    hull.push_back(trial);
  }
  return hull;
}

// From the cheapest of each head, step by step what gains most for a key, while the mean cost stays below the target.
std::vector<HeadPattern> shared_out(const std::vector<Trials>& heads, double target) {
  struct Step {
    double gain = 0, slots = 0;
    size_t head = 0, to = 0;
  };
  std::vector<Trials> hulls;
  std::vector<Step> steps;
  double left = target * static_cast<double>(heads.size());
  for (const Trials& trials : heads) {
    const Trials& hull = hulls.emplace_back(hull_of(trials));
    left -= hull.front().slots;
    for (size_t i = 1; i < hull.size(); ++i) {
      const double slots = hull[i].slots - hull[i - 1].slots;
      steps.push_back({(hull[i - 1].pattern.score - hull[i].pattern.score) / slots, slots, hulls.size() - 1, i});
    }
  }
  std::sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) {
    return a.gain != b.gain ? a.gain > b.gain : std::tie(a.head, a.to) < std::tie(b.head, b.to);
  });
  std::vector<size_t> at(heads.size(), 0);
  for (const Step& step : steps) {
    if (step.to != at[step.head] + 1 || step.slots > left) continue;  // what is too dear keeps the head where it is
    left -= step.slots;
    at[step.head] = step.to;
  }
  std::vector<HeadPattern> patterns;
  for (size_t head = 0; head < heads.size(); ++head) patterns.push_back(hulls[head][at[head]].pattern);
  return patterns;
}

}  // namespace

HeadTable best_table(const PatternFindings& findings, const PatternSearchOptions& options, bool even) {
  const double target = target_slots(options.length);
  std::vector<Trials> heads;
  for (const auto& layer : findings.trials) {
    for (const Trials& trials : layer) {
      if (trials.empty()) continue;
      Trials& kept = heads.emplace_back();
      std::copy_if(trials.begin(), trials.end(), std::back_inserter(kept),
                   [&](const PatternTrial& trial) { return !options.slash_alone || trial.pattern.shape == HeadShape::vertical_slash; });
    }
  }
  std::vector<HeadPattern> patterns;
  if (even) {
    for (const Trials& trials : heads) patterns.push_back(nearest(trials, target).pattern);
  } else {
    patterns = shared_out(heads, target);
  }
  HeadTable table;
  table.reference_length = options.length;
  auto next = patterns.begin();
  for (const auto& layer : findings.trials) {
    std::vector<HeadPattern>& own = table.layers.emplace_back();
    for (const Trials& trials : layer) {
      if (!trials.empty()) own.push_back(*next++);
    }
  }
  return table;
}

}  // namespace onset
