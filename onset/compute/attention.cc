#include "onset/compute/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <tuple>

#include "onset/compute/attention_blocks.h"

namespace onset {

using namespace attention_blocks;

namespace {

// ---- partial results ----

// A split's partial results are, for each segment, row and head of the group: maximum, sum, output[padded].
size_t partial_floats(const KeyValueView& keys) {
  return 2 + static_cast<size_t>(head_layout(keys.type, keys.head_size).padded);
}

float* partial_of(AttentionTasks& tasks, const AttentionTasks::Split& split, const AttentionCall& call, int32_t segment, int32_t row,
                  int32_t head) {
  const int32_t group = group_of(call);
  const auto rows = static_cast<size_t>(split.row_end - split.row_begin);
  const size_t line = (static_cast<size_t>(segment) * rows + static_cast<size_t>(row - split.row_begin)) * static_cast<size_t>(group) +
                      static_cast<size_t>(head - split.kv_head * group);
  return tasks.partials.data() + split.partials + line * partial_floats(call.keys);
}

void store_partials(const Worker& worker, AttentionTasks& tasks, const AttentionTasks::Split& split, int32_t segment) {
  const AttentionBlock& block = worker.scratch.block;
  for (int32_t lane = 0; lane < block.used_lanes; ++lane) {
    float* partial = partial_of(tasks, split, worker.call, segment, worker.lanes.row[lane], worker.lanes.head[lane]);
    partial[0] = block.maximum[lane];
    partial[1] = block.sum[lane];
    const int32_t chunk = lane / block.chunk_lanes;
    const float* output = block.output + chunk * block.padded * block.chunk_lanes + lane % block.chunk_lanes;
    for (int32_t d = 0; d < block.padded; ++d) partial[2 + d] = output[d * block.chunk_lanes];
  }
}

// ---- tasks ----

// Computes the block of `used` lanes over the task's segments and writes outputs or partial results.
void run_block(Worker& worker, const AttentionPattern& pattern, const PlanBlock& plan, int32_t used, const AttentionTask& task,
               AttentionTasks& tasks) {
  worker.begin_block(pattern, used, true);
  AttentionBlock& block = worker.scratch.block;
  const AttentionCall& call = worker.call;
  if (task.split >= 0) {
    const AttentionTasks::Split& split = tasks.splits[static_cast<size_t>(task.split)];
    for (int32_t i = task.segment_begin; i < task.segment_end; ++i) {
      if (worker.compute_segment(plan, split.segments[static_cast<size_t>(i)], true)) store_partials(worker, tasks, split, i);
    }
    return;
  }
  bool first = true;
  for (int32_t segment = task.segment_begin; segment < task.segment_end; ++segment) {
    if (!worker.compute_segment(plan, segment, true)) continue;
    worker.merge_segment(first, true);
    first = false;
  }
  if (first) return;  // run_attention has set the outputs to what seeing nothing means
  float* factors = worker.scratch.factors;
  const float one = weight_one(worker.kernels, call.keys.type);
  for (int32_t lane = 0; lane < block.chunks * block.chunk_lanes; ++lane) {
    const float sum = block.total_sum[lane];
    factors[lane] = sum == 0 ? 0.0f : 1.0f / sum;
    if (lane >= used || call.log_sum_exp == nullptr) continue;
    call.log_sum_exp[static_cast<int64_t>(worker.lanes.row[lane]) * call.query_heads + worker.lanes.head[lane]] =
        log_sum_exp_of(block.total_maximum[lane], sum, one);
  }
  worker.kernels.finish(block, factors);
}
// Calls body(pattern, heads, count) for each pattern that query heads of a KV head's group follow.
template <typename Body>
void for_each_pattern(const AttentionCall& call, int32_t kv_head, const Body& body) {
  const int32_t group = group_of(call), first = kv_head * group;
  std::vector<int32_t> heads;
  heads.reserve(static_cast<size_t>(group));
  for (int32_t head = first; head < first + group; ++head) {
    const uint16_t index = call.plan->pattern_of_head[static_cast<size_t>(head)];
    bool done = false;
    for (int32_t before = first; before < head; ++before) {
      done = done || call.plan->pattern_of_head[static_cast<size_t>(before)] == index;
    }
    if (done) continue;
    heads.clear();
    for (int32_t h = head; h < first + group; ++h) {
      if (call.plan->pattern_of_head[static_cast<size_t>(h)] == index) heads.push_back(h);
    }
    body(call.plan->patterns[index], heads);
  }
}
// What rows see that see nothing.
void clear_rows(const AttentionCall& call, const AttentionTask& task) {
  const int32_t group = group_of(call), first = task.kv_head * group;
  for (int32_t row = task.row_begin; row < task.row_end; ++row) {
    float* output = call.output + row * call.output_stride + static_cast<int64_t>(first) * call.keys.head_size;
    std::fill(output, output + static_cast<int64_t>(group) * call.keys.head_size, 0.0f);
    if (call.log_sum_exp == nullptr) continue;
    float* log_sum_exp = call.log_sum_exp + static_cast<int64_t>(row) * call.query_heads + first;
    std::fill(log_sum_exp, log_sum_exp + group, minus_infinity);
  }
}

void clear_partials(const AttentionCall& call, const AttentionTask& task, AttentionTasks& tasks) {
  const AttentionTasks::Split& split = tasks.splits[static_cast<size_t>(task.split)];
  const int32_t group = group_of(call);
  for (int32_t segment = task.segment_begin; segment < task.segment_end; ++segment) {
    float* partial = partial_of(tasks, split, call, segment, task.row_begin, task.kv_head * group);
    const size_t floats = partial_floats(call.keys);
    const size_t lines = static_cast<size_t>(task.row_end - task.row_begin) * static_cast<size_t>(group);
    std::fill(partial, partial + lines * floats, 0.0f);
    for (size_t line = 0; line < lines; ++line) partial[line * floats] = lowest_score;
  }
}

// Slots that row `row` visits by `plan`, roughly: exact where slots are positions.
double visited_slots(const AttentionCall& call, const AttentionPattern& pattern, const PlanBlock& plan, int32_t row, int32_t begin,
                     int32_t end) {
  const int64_t position = call.positions[row];
  int64_t low = begin, high = end, slots = 0;
  if (call.keys.positions == nullptr) {
    if (pattern.causal) high = std::min<int64_t>(high, position + 1);
    if (pattern.window != 0) low = std::max<int64_t>(low, position - pattern.window + 1);
  }
  for (const KeyRange& range : plan.ranges) {
    slots += std::max<int64_t>(0, std::min<int64_t>(range.end, high) - std::max<int64_t>(range.begin, low));
  }
  slots += static_cast<int64_t>(plan.columns.size());
  return static_cast<double>(slots);
}

// The segments that rows of a KV head's group visit, ascending.
std::vector<int32_t> visited_segments(const AttentionCall& call, int32_t kv_head, int32_t row_begin, int32_t row_end) {
  std::vector<bool> visited(static_cast<size_t>(segments_of(call.keys)), false);
  for_each_pattern(call, kv_head, [&](const AttentionPattern& pattern, const std::vector<int32_t>&) {
    for_each_plan_block(pattern, row_begin, row_end, [&](const PlanBlock& plan, int32_t, int32_t) {
      for (const KeyRange& range : plan.ranges) {
        for (int32_t i = range.begin / attention_segment_slots; i * attention_segment_slots < range.end; ++i) visited[i] = true;
      }
      for (const int32_t column : plan.columns) visited[column / attention_segment_slots] = true;
    });
  });
  std::vector<int32_t> segments;
  for (size_t i = 0; i < visited.size(); ++i) {
    if (visited[i]) segments.push_back(static_cast<int32_t>(i));
  }
  return segments;
}

double cost_of(const AttentionCall& call, const AttentionTask& task, int32_t first_slot, int32_t last_slot) {
  double slots = 0;
  for_each_pattern(call, task.kv_head, [&](const AttentionPattern& pattern, const std::vector<int32_t>& heads) {
    for_each_plan_block(pattern, task.row_begin, task.row_end, [&](const PlanBlock& plan, int32_t begin, int32_t end) {
      slots += static_cast<double>(heads.size()) * (end - begin) *
               visited_slots(call, pattern, plan, begin + (end - begin) / 2, first_slot, std::min(last_slot, call.keys.length));
    });
  });
  return 2 * slots * call.keys.head_size;
}

// Rows in a task: whole blocks of lanes if there is work enough for every thread.
constexpr int32_t most_task_rows = 64, fewest_task_rows = 16;
constexpr int tasks_for_each_thread = 4;
// Parts of a row's keys are no smaller: packing its queries again, and merging, should cost little beside.
constexpr double fewest_part_slots = 512;

}  // namespace

AttentionTasks attention_tasks(const std::vector<AttentionCall>& calls, int threads) {
  const int64_t wanted = static_cast<int64_t>(threads) * tasks_for_each_thread;
  const auto count_tasks = [&](int32_t rows) {
    int64_t count = 0;
    for (const AttentionCall& call : calls) count += static_cast<int64_t>(call.keys.heads) * ((call.rows + rows - 1) / rows);
    return count;
  };
  int32_t rows = most_task_rows;
  while (rows > fewest_task_rows && count_tasks(rows) < wanted) rows /= 2;
  const bool split_keys = threads > 1 && count_tasks(rows) < wanted;
  AttentionTasks result;
  for (size_t c = 0; c < calls.size(); ++c) {
    const AttentionCall& call = calls[c];
    const int32_t segments = segments_of(call.keys);
    for (int32_t head = 0; head < call.keys.heads; ++head) {
      for (int32_t row = 0; row < call.rows; row += rows) {
        AttentionTask task{.call = static_cast<int32_t>(c),
                           .kv_head = head,
                           .row_begin = row,
                           .row_end = std::min(row + rows, call.rows),
                           .segment_begin = 0,
                           .segment_end = segments};
        std::vector<int32_t> visited;
        if (split_keys && segments > 1) visited = visited_segments(call, head, row, task.row_end);
        const double all = cost_of(call, task, 0, call.keys.length);
        const double part = std::max(all / static_cast<double>(wanted), 2 * fewest_part_slots * group_of(call) * call.keys.head_size);
        if (visited.size() < 2 || all <= part) {
          task.cost = all;
          result.tasks.push_back(task);
          continue;
        }
        task.split = static_cast<int32_t>(result.splits.size());
        const size_t lines = visited.size() * static_cast<size_t>(task.row_end - row) * static_cast<size_t>(group_of(call));
        task.segment_end = 0;
        for (const int32_t segment : visited) {
          ++task.segment_end;
          task.cost += cost_of(call, task, segment * attention_segment_slots, (segment + 1) * attention_segment_slots);
          if (task.cost < part && static_cast<size_t>(task.segment_end) < visited.size()) continue;
          result.tasks.push_back(task);
          task.segment_begin = task.segment_end;
          task.cost = 0;
        }
        result.splits.push_back({task.call, head, row, task.row_end, result.partials.size(), std::move(visited)});
        result.partials.resize(result.partials.size() + lines * partial_floats(call.keys));
      }
    }
  }
  std::sort(result.tasks.begin(), result.tasks.end(), [](const AttentionTask& a, const AttentionTask& b) {
    if (a.cost != b.cost) return a.cost > b.cost;
    return std::tie(a.call, a.kv_head, a.row_begin, a.segment_begin) < std::tie(b.call, b.kv_head, b.row_begin, b.segment_begin);
  });
  return result;
}

size_t attention_scratch_bytes(const std::vector<AttentionCall>& calls) {
  size_t bytes = 64;
  for (const AttentionCall& call : calls) {
    Pieces pieces(nullptr);
    cut_scratch(call.keys.type, call.keys.head_size, pieces);
    bytes = std::max(bytes, pieces.used());
  }
  return bytes;
}

void run_attention(Isa isa, const std::vector<AttentionCall>& calls, AttentionTasks& tasks, size_t index, std::byte* scratch) {
  std::atomic_ref<Isa>(tasks.isa).store(isa, std::memory_order_relaxed);
  const AttentionTask& task = tasks.tasks[index];
  const AttentionCall& call = calls[static_cast<size_t>(task.call)];
  if (task.split >= 0) {
    clear_partials(call, task, tasks);
  } else {
    clear_rows(call, task);
  }
  Worker worker(kernels_for(isa), call, task.kv_head, Pieces(scratch));
  for_each_pattern(call, task.kv_head, [&](const AttentionPattern& pattern, const std::vector<int32_t>& heads) {
    const auto count = static_cast<int32_t>(heads.size());
    for_each_plan_block(pattern, task.row_begin, task.row_end, [&](const PlanBlock& plan, int32_t begin, int32_t end) {
      const int32_t all_lanes = (end - begin) * count;
      for (int32_t lane = 0; lane < all_lanes; lane += block_lanes) {
        const int32_t used = std::min(block_lanes, all_lanes - lane);
        for (int32_t i = 0; i < used; ++i) {
          worker.lanes.row[i] = begin + (lane + i) / count;
          worker.lanes.head[i] = heads[static_cast<size_t>((lane + i) % count)];
        }
        run_block(worker, pattern, plan, used, task, tasks);
      }
    });
  });
}

void finish_attention(const std::vector<AttentionCall>& calls, AttentionTasks& tasks) {
  for (const AttentionTasks::Split& split : tasks.splits) {
    const AttentionCall& call = calls[static_cast<size_t>(split.call)];
    const int32_t group = group_of(call), segments = static_cast<int32_t>(split.segments.size()), size = call.keys.head_size;
    const float one = weight_one(kernels_for(tasks.isa), call.keys.type);
    for (int32_t row = split.row_begin; row < split.row_end; ++row) {
      for (int32_t head = split.kv_head * group; head < (split.kv_head + 1) * group; ++head) {
        float* total = partial_of(tasks, split, call, 0, row, head);
        for (int32_t s = 1; s < segments; ++s) {
          const float* segment = partial_of(tasks, split, call, s, row, head);
          const MergeFactors factors = merge_factors(total[0], segment[0]);
          total[0] = factors.maximum;
          for (int32_t i = 1; i < 2 + size; ++i) total[i] = total[i] * factors.total + segment[i] * factors.segment;
        }
        // As Worker's blocks and finish_outputs() do it: outputs of split and whole tasks have equal bits.
        float* output = call.output + row * call.output_stride + static_cast<int64_t>(head) * size;
        const float factor = total[1] == 0 ? 0.0f : 1.0f / total[1];
        for (int32_t d = 0; d < size; ++d) output[d] = total[2 + d] * factor + 0.0f;
        if (rotates_values(call.keys.type)) rotate_head(output, size);
        if (call.log_sum_exp != nullptr) {
          call.log_sum_exp[static_cast<int64_t>(row) * call.query_heads + head] = log_sum_exp_of(total[0], total[1], one);
        }
      }
    }
  }
}
void merge_attention(int64_t rows, int heads, int head_size, float* output_a, float* lse_a, const float* output_b, const float* lse_b) {
  for (int64_t i = 0; i < rows * heads; ++i) {
    const float largest = std::max(lse_a[i], lse_b[i]);
    if (!(largest > minus_infinity)) continue;
    const float a = std::exp(lse_a[i] - largest), b = std::exp(lse_b[i] - largest), inverse = 1.0f / (a + b);
    for (int64_t d = i * head_size; d < (i + 1) * head_size; ++d) {
      output_a[d] = (a * output_a[d] + b * output_b[d]) * inverse;
    }
    lse_a[i] = largest + std::log(a + b);
  }
}

void add_beside(std::vector<AttentionCall>& calls, BesideAttention& part) {
  part.call = calls.size() - 1;
  AttentionCall call = calls.back();
  const size_t heads = static_cast<size_t>(call.rows) * static_cast<size_t>(call.query_heads);
  part.output.resize(heads * static_cast<size_t>(call.keys.head_size));
  part.log_sum_exp.resize(heads);
  part.own_log_sum_exp.resize(heads);
  calls.back().log_sum_exp = part.own_log_sum_exp.data();
  call.plan = call.plan->beside.data();
  call.output = part.output.data();
  call.output_stride = int64_t{call.query_heads} * call.keys.head_size;
  call.log_sum_exp = part.log_sum_exp.data();
  calls.push_back(call);
}

void merge_beside(const std::vector<AttentionCall>& calls, BesideAttention& part, int32_t row) {
  const AttentionCall& call = calls[part.call];
  const int64_t heads = call.query_heads, first = row * heads;
  for (int64_t i = first; i < first + heads; ++i) {
    float& value = part.log_sum_exp[static_cast<size_t>(i)];
    if (value > minus_infinity) value = call.plan->beside_factor * value + call.plan->beside_shift;  // who saw nothing there stays so
  }
  merge_attention(1, call.query_heads, call.keys.head_size, call.output + row * call.output_stride, part.own_log_sum_exp.data() + first,
                  part.output.data() + first * call.keys.head_size, part.log_sum_exp.data() + first);
}

}  // namespace onset
