#include "onset/model/executor.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>

#include "onset/compute/attention.h"
#include "onset/compute/elementwise.h"
#include "onset/compute/page_format.h"
#include "onset/model/key_value_shift.h"
#include "onset/model/rotary.h"

namespace onset {
namespace {

// Rows of a block that one worker takes through a run of row-wise operations: many, so that every weight that is read serves
// all of them, and few enough for their activations to stay in the second-level cache.
constexpr int64_t most_block_rows = 96, resident_block_bytes = 640 * 1024;
// Columns of a gate that are computed and activated at a time, and as many of its values: they stay in the first-level cache.
constexpr int64_t strip_columns = 128;
// Up to this many rows for each worker, workers share the rows and split the columns instead, so that each weight is
// read once.
constexpr int32_t column_rows_per_worker = 24;
// Up to this many rows each worker prepares all inputs for itself, which costs less than waiting for the others.
constexpr int32_t own_input_rows = 4;
// Outputs a worker computes at a time when there are many.
constexpr int32_t output_block_rows = 12;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int64_t buffer_width(const Model& model, Buffer buffer) {
  const ModelConfig& config = model.config();
  const int64_t shards = config.query_heads / model.query_heads();
  switch (buffer) {
    case Buffer::projected:
      return int64_t{config.head_size} * (model.query_heads() + 2 * model.kv_heads());
    case Buffer::attended:
      return int64_t{config.head_size} * model.query_heads();
    case Buffer::expanded:
      return 2 * config.feed_forward / shards;
    case Buffer::activated:
      return config.feed_forward / shards;
    default:
      return config.hidden;
  }
}

// Buffers that rows of different blocks or workers share; the others hold only the block at hand.
bool is_shared(Buffer buffer) {
  return buffer == Buffer::residual || buffer == Buffer::projected || buffer == Buffer::attended || buffer == Buffer::branch;
}

template <typename... Visitors>
struct Overloaded : Visitors... {
  using Visitors::operator()...;
};

bool ends_region(const Operation& operation) {
  const auto* linear = std::get_if<LinearOperation>(&operation.kind);
  return std::holds_alternative<AttendOperation>(operation.kind) || (linear != nullptr && linear->reduce);
}

}  // namespace

// Memory that lasts from layer to layer.
struct CpuExecutor::Workspace {
  struct Rope {
    std::vector<float> frequencies;
    AlignedVector<float> table;  // of the positions below
    std::vector<int32_t> positions;
    PageRotary within_page;
  };
  std::array<AlignedVector<float>, buffer_count> shared;            // [rows, width]
  std::vector<std::array<AlignedVector<float>, buffer_count>> own;  // for each worker, [block rows, width]
  AlignedVector<std::byte> shared_input;                            // a linear layer's prepared input
  std::vector<AlignedVector<std::byte>> own_input;
  std::vector<AlignedVector<std::byte>> attention_scratch;
  std::vector<Rope> ropes;
  const Model* model = nullptr;              // whose frequencies these are
  std::vector<AlignedVector<float>> logits;  // for each worker
  AlignedVector<float> shared_logits;
};

namespace {

template <typename T>
T* at_least(AlignedVector<T>& vector, size_t size) {
  if (vector.size() < size) vector.resize(size);
  return vector.data();
}

}  // namespace

// One layer of one step: knows where every buffer is and how to apply an operation to a range of rows.
class LayerRun {
 public:
  using Workspace = CpuExecutor::Workspace;

  LayerRun(ThreadPool& pool, Workspace& workspace, const LayerCall& call, bool full_buffers, const InputHook& input)
      : input_(input), pool_(pool), workspace_(workspace), call_(call), model_(*call.model), isa_(model_.isa()), full_(full_buffers) {
    by_columns_ = call.rows <= column_rows_per_worker * pool.threads();
    if (by_columns_) full_ = true;
    tile_rows_ = linear_tile_rows(isa_);
    const int64_t row_bytes = int64_t{sizeof(float)} * (model_.config().hidden + 2 * buffer_width(model_, Buffer::activated));
    block_rows_ = static_cast<int32_t>(std::clamp(resident_block_bytes / row_bytes, tile_rows_, most_block_rows) / tile_rows_ * tile_rows_);
    for (int i = 0; i < buffer_count; ++i) {
      const auto buffer = static_cast<Buffer>(i);
      if (buffer == Buffer::residual) continue;
      const auto width = static_cast<size_t>(buffer_width(model_, buffer));
      if (full_ || is_shared(buffer)) at_least(workspace_.shared[i], call.rows * width);
      if (is_shared(buffer)) continue;
      const auto rows = static_cast<size_t>(by_columns_ ? std::min(call.rows, own_input_rows) : block_rows_);
      for (auto& own : workspace_.own) at_least(own[i], rows * width);
    }
    for (const RopeConfig& rope : model_.config().ropes) {
      Workspace::Rope& here = workspace_.ropes[&rope - model_.config().ropes.data()];
      if (std::equal(here.positions.begin(), here.positions.end(), call.positions, call.positions + call.rows)) continue;
      here.positions.assign(call.positions, call.positions + call.rows);
      rotary_table(rope, here.frequencies, here.positions, at_least(here.table, size_t(call.rows) * rope.dimensions));
    }
  }

  // Runs consecutive row-wise operations.
  void run(std::span<const Operation> operations) {
    if (operations.empty()) return;
    if (by_columns_) {
      run_by_columns(operations);
    } else {
      run_by_rows(operations);
    }
  }

  Status attend() {
    std::vector<AttentionCall> calls;
    std::deque<BesideAttention> beside;
    const CacheLayout& layout = call_.sequences.front().sequence->cache->layout();
    const int64_t group_width = int64_t{model_.config().head_size} * model_.query_heads() / layout.head_groups;
    for (const LayerRows& part : call_.sequences) {
      for (int group = 0; group < layout.head_groups; ++group) {
        const AttendContext context = attend_context(part, group, group_width);
        const AttentionPlan& plan = part.attend->plan(context);
        const KeyValueView keys = part.sequence->cache->view(call_.layer, group);
        if (std::string wrong = check_plan(plan, part.row_end - part.row_begin, keys.length, context.query_heads); !wrong.empty()) {
          return error(Code::invalid_argument, "attention plan of layer {}: {}", call_.layer, wrong);
        }
        calls.push_back({.plan = &plan,
                         .keys = keys,
                         .rows = part.row_end - part.row_begin,
                         .query_heads = context.query_heads,
                         .positions = call_.positions + part.row_begin,
                         .queries = context.queries,
                         .query_stride = context.query_stride,
                         .output = shared(Buffer::attended, part.row_begin).data + group * group_width,
                         .output_stride = buffer_width(model_, Buffer::attended)});
        // A policy may hand out the same object for its next group: keep what this call needs.
        if (layout.head_groups > 1) {
          kept_plans_.push_back(std::make_unique<AttentionPlan>(plan));
          calls.back().plan = kept_plans_.back().get();
        }
        if (!plan.beside.empty()) add_beside(calls, beside.emplace_back());
      }
    }
    planned_ = now();
    AttentionTasks tasks = attention_tasks(calls, pool_.threads());
    const size_t scratch = attention_scratch_bytes(calls);
    for (auto& memory : workspace_.attention_scratch) at_least(memory, scratch);
    pool_.for_each(static_cast<int64_t>(tasks.tasks.size()), [&](int64_t task, int worker) {
      run_attention(isa_, calls, tasks, static_cast<size_t>(task), workspace_.attention_scratch[worker].data());
    });
    finish_attention(calls, tasks);
    for (BesideAttention& part : beside) {
      pool_.for_each(calls[part.call].rows, [&](int64_t row, int) { merge_beside(calls, part, static_cast<int32_t>(row)); });
    }
    return {};
  }

  // When attend() had all plans.
  double planned() const { return planned_; }

  // What the rows' keys and values are, and what their slots hold.
  void compare(KeyValueRows& fresh, KeyValueRows& stored) {
    const int64_t width = int64_t{model_.config().head_size} * model_.kv_heads();
    for (KeyValueRows* rows : {&fresh, &stored}) {
      rows->width = width;
      rows->keys.resize(static_cast<size_t>(call_.rows * width));
      rows->values.resize(rows->keys.size());
    }
    for (const LayerRows& part : call_.sequences) {
      const SequenceCache& cache = *part.sequence->cache;
      const CacheLayout& layout = cache.layout();
      const int64_t group_width = int64_t{layout.head_size} * layout.heads_per_group;
      pool_.for_each(part.row_end - part.row_begin, [&](int64_t i, int) {
        const int64_t row = part.row_begin + i, slot = call_.slots[row];
        const float* key = shared(Buffer::projected, static_cast<int32_t>(row)).data + int64_t{layout.head_size} * model_.query_heads();
        std::copy_n(key, width, fresh.key(row));
        std::copy_n(key + width, width, fresh.value(row));
        for (int group = 0; group < layout.head_groups; ++group) {
          const KeyValueView view = cache.view(call_.layer, group);
          read_slot(layout.type, layout.heads_per_group, layout.head_size, view.pages[slot / page_tokens],
                    static_cast<int>(slot % page_tokens), stored.key(row) + group * group_width, stored.value(row) + group * group_width);
        }
      });
    }
  }

  Status reduce(const LinearOperation& operation, const ReduceHook& hook) {
    return hook(shared(operation.output, 0).data, call_.rows, buffer_width(model_, operation.output));
  }

 private:
  AttendContext attend_context(const LayerRows& part, int group, int64_t group_width) {
    const Rows queries = shared(Buffer::projected, part.row_begin);
    return {.layer = call_.layer,
            .group = group,
            .query_heads = static_cast<int>(group_width / model_.config().head_size),
            .scale = model_.config().softmax_scale,
            .window = model_.layers()[call_.layer].window,
            .blocks = part.sequence->cache->layout().pattern(call_.layer, group),
            .positions = {call_.positions + part.row_begin, static_cast<size_t>(part.row_end - part.row_begin)},
            .cache = part.sequence->cache,
            .queries = queries.data + group * group_width,
            .query_stride = queries.stride,
            .isa = isa_,
            .pool = &pool_};
  }

  Rows shared(Buffer buffer, int32_t row) {
    const int64_t width = buffer_width(model_, buffer);
    float* data = buffer == Buffer::residual ? call_.residual : workspace_.shared[static_cast<int>(buffer)].data();
    return {data + row * width, width};
  }

  // Rows row.. of a buffer, for a worker whose block begins there.
  Rows rows_of(Buffer buffer, int32_t row, int worker, bool own) {
    // Where workers split columns, the wide output of a linear layer is everybody's; what leads to an input is each one's own.
    if (!own || is_shared(buffer) || (by_columns_ && buffer == Buffer::expanded)) return shared(buffer, row);
    return {workspace_.own[worker][static_cast<int>(buffer)].data(), buffer_width(model_, buffer)};
  }

  // --- many rows: each worker takes blocks of rows through all the operations ---------------------------------------

  void run_by_rows(std::span<const Operation> operations) {
    const std::vector<int32_t> begins = row_blocks();
    pool_.for_each(static_cast<int64_t>(begins.size()) - 1, [&](int64_t block, int worker) {
      const int32_t begin = begins[block], rows = begins[block + 1] - begin;
      for (size_t i = 0; i < operations.size(); ++i) {
        const auto* linear = std::get_if<LinearOperation>(&operations[i].kind);
        if (linear == nullptr) {
          apply(operations[i], begin, rows, worker, !full_);
          continue;
        }
        const LinearWeight& weight = model_.weights()[linear->weight];
        std::byte* input = at_least(workspace_.own_input[worker], linear_input_bytes(weight, rows));
        prepare(*linear, begin, rows, worker, !full_, input);
        if (const ActivateOperation* activate = full_ ? nullptr : activates(operations, i)) {
          multiply_activated(*linear, *activate, begin, rows, worker, input);
          ++i;
        } else {
          multiply(*linear, begin, rows, worker, !full_, input, 0, weight.out);
        }
      }
    });
  }

  // Where each block begins, and the end: whole tiles, smaller towards the end so that all workers finish together.
  std::vector<int32_t> row_blocks() const {
    std::vector<int32_t> begins = {0};
    const auto tile = static_cast<int32_t>(tile_rows_);
    while (begins.back() < call_.rows) {
      const int32_t left = call_.rows - begins.back(), share = left / (2 * pool_.threads());
      begins.push_back(begins.back() + std::min(left, std::clamp((share + tile - 1) / tile * tile, tile, block_rows_)));
    }
    return begins;
  }

  // The gated activation that follows a linear layer, if the layer's columns can be computed a strip at a time.
  const ActivateOperation* activates(std::span<const Operation> operations, size_t at) const {
    if (at + 1 == operations.size() || buffer_width(model_, Buffer::activated) % linear_column_step != 0) return nullptr;
    const auto& linear = std::get<LinearOperation>(operations[at].kind);
    return linear.output == Buffer::expanded ? std::get_if<ActivateOperation>(&operations[at + 1].kind) : nullptr;
  }

  // A strip of the gate's columns, the same strip of what it gates, and their product: what lies between is never written to
  // memory.
  void multiply_activated(const LinearOperation& linear, const ActivateOperation& activate, int32_t begin, int32_t rows, int worker,
                          const std::byte* input) {
    const int64_t width = buffer_width(model_, Buffer::activated);
    float* strip = workspace_.own[worker][static_cast<int>(Buffer::expanded)].data();
    const Rows to = rows_of(Buffer::activated, begin, worker, true);
    for (int64_t column = 0; column < width; column += strip_columns) {
      const int64_t count = std::min(strip_columns, width - column);
      for (const int64_t part : {0, 1}) {
        const int64_t first = part * width + column;
        multiply_linear(
            isa_, model_.weights()[linear.weight], input, rows, first, first + count,
            {.data = strip + part * count, .stride = 2 * count, .bias = linear.bias, .accumulate = false, .first_column = first});
      }
      gated_activation(isa_, activate.activation, {strip, 2 * count}, rows, count, {to.data + column, to.stride});
    }
  }

  // --- few rows: workers split the columns of every linear layer ----------------------------------------------------

  void run_by_columns(std::span<const Operation> operations) {
    const bool own = call_.rows <= own_input_rows;
    for (size_t i = 0; i < operations.size();) {
      // Steps that lead to a linear layer's input are done together with preparing it.
      size_t linear_at = i;
      while (linear_at < operations.size() && feeds_next(operations, linear_at)) ++linear_at;
      const auto* linear = linear_at < operations.size() ? std::get_if<LinearOperation>(&operations[linear_at].kind) : nullptr;
      if (linear == nullptr) {
        size_t end = i + 1;
        while (end < operations.size() && !feeds_next(operations, end) && !std::holds_alternative<LinearOperation>(operations[end].kind))
          ++end;
        split_rows([&](int32_t begin, int32_t rows, int worker) {
          for (size_t j = i; j < end; ++j) apply(operations[j], begin, rows, worker, false);
        });
        i = end;
        continue;
      }
      const LinearWeight& weight = model_.weights()[linear->weight];
      const size_t input_bytes = linear_input_bytes(weight, call_.rows);
      if (!own) {
        std::byte* input = at_least(workspace_.shared_input, input_bytes);
        split_rows([&](int32_t begin, int32_t rows, int worker) {
          for (size_t j = i; j < linear_at; ++j) apply(operations[j], begin, rows, worker, false);
          prepare(*linear, begin, rows, worker, false, input + linear_input_bytes(weight, begin));
        });
      }
      const ColumnShares shares(weight.out, pool_.threads());
      std::atomic<int64_t> taken{0};
      pool_.run([&](int worker) {
        std::byte* input = workspace_.shared_input.data();
        if (own) {
          for (size_t j = i; j < linear_at; ++j) apply(operations[j], 0, call_.rows, worker, true);
          input = at_least(workspace_.own_input[worker], input_bytes);
          prepare(*linear, 0, call_.rows, worker, true, input);
        }
        const auto multiply_steps = [&](int64_t begin, int64_t end) {
          multiply(*linear, 0, call_.rows, worker, false, input, begin * linear_column_step,
                   std::min(weight.out, end * linear_column_step));
        };
        if (shares.own > 0) multiply_steps(worker * shares.own, (worker + 1) * shares.own);
        for (int64_t step; (step = shares.common + taken.fetch_add(1, std::memory_order_relaxed)) < shares.steps;)
          multiply_steps(step, step + 1);
      });
      i = linear_at + 1;
    }
  }

  // Whether the operation writes a buffer of the worker's own, so that it can be repeated by every worker.
  static bool feeds_next(std::span<const Operation> operations, size_t at) {
    const OperationKind& kind = operations[at].kind;
    if (const auto* norm = std::get_if<NormOperation>(&kind)) return !is_shared(norm->output);
    return std::holds_alternative<ActivateOperation>(kind);
  }

  void split_rows(const auto& body) {
    if (call_.rows == 1 || pool_.threads() == 1) return body(0, call_.rows, 0);
    const int32_t share = (call_.rows + pool_.threads() - 1) / pool_.threads();
    pool_.run([&](int worker) {
      const int32_t begin = std::min(call_.rows, share * worker);
      const int32_t end = std::min(call_.rows, begin + share);
      if (begin < end) body(begin, end - begin, worker);
    });
  }

  // How workers share the columns of a matrix, in steps of linear_column_step: most are each one's own, so that it reads them in one
  // go; whoever is done first takes the others one by one, because cores and their shares of the memory are never equally fast.
  struct ColumnShares {
    ColumnShares(int64_t columns, int workers)
        : steps((columns + linear_column_step - 1) / linear_column_step), own(steps * 3 / (4 * workers)), common(own * workers) {}
    int64_t steps, own, common;  // all of them, each worker's, and where the common ones begin
  };

  // --- one operation on one range of rows -----------------------------------------------------------------------------

  void prepare(const LinearOperation& linear, int32_t begin, int32_t rows, int worker, bool own, std::byte* input) {
    const Rows from = rows_of(linear.input, begin, worker, own);
    if (input_) input_(linear.weight, begin, rows, from.data, from.stride);
    prepare_linear_input(isa_, model_.weights()[linear.weight], from.data, from.stride, rows, input);
  }

  void multiply(const LinearOperation& linear, int32_t begin, int32_t rows, int worker, bool own, const std::byte* input,
                int64_t column_begin, int64_t column_end) {
    const Rows to = rows_of(linear.output, begin, worker, own);
    multiply_linear(isa_, model_.weights()[linear.weight], input, rows, column_begin, column_end,
                    {.data = to.data, .stride = to.stride, .bias = linear.bias, .accumulate = linear.accumulate});
  }

  void apply(const Operation& operation, int32_t begin, int32_t rows, int worker, bool own) {
    const ModelConfig& config = model_.config();
    const auto of = [&](Buffer buffer) { return rows_of(buffer, begin, worker, own); };
    std::visit(Overloaded{
                   [&](const NormOperation& norm) {
                     rms_norm(isa_, of(norm.input), rows, buffer_width(model_, norm.input), norm.gain, config.norm_epsilon,
                              of(norm.output));
                   },
                   [&](const HeadNormOperation& norm) {
                     Rows heads = of(Buffer::projected);
                     rms_norm_heads(isa_, heads, rows, model_.query_heads(), config.head_size, norm.query_gain, config.norm_epsilon);
                     heads.data += int64_t{model_.query_heads()} * config.head_size;
                     rms_norm_heads(isa_, heads, rows, model_.kv_heads(), config.head_size, norm.key_gain, config.norm_epsilon);
                   },
                   [&](const RotaryOperation& rotary) {
                     const RopeConfig& rope = config.ropes[rotary.rope];
                     apply_rotary(isa_, rope.interleaved ? RotaryPairs::neighbours : RotaryPairs::halves, of(Buffer::projected), rows,
                                  model_.query_heads() + model_.kv_heads(), config.head_size, rope.dimensions,
                                  workspace_.ropes[rotary.rope].table.data() + int64_t{begin} * rope.dimensions, nullptr);
                   },
                   [&](const StoreOperation&) { store(begin, rows); },
                   [&](const ActivateOperation& activate) {
                     gated_activation(isa_, activate.activation, of(Buffer::expanded), rows, buffer_width(model_, Buffer::activated),
                                      of(Buffer::activated));
                   },
                   [&](const AddOperation& sum) { add(isa_, of(sum.output), of(sum.input), rows, buffer_width(model_, sum.input)); },
                   [&](const LinearOperation& linear) {
                     const LinearWeight& weight = model_.weights()[linear.weight];
                     std::byte* input = at_least(workspace_.own_input[worker], linear_input_bytes(weight, rows));
                     prepare(linear, begin, rows, worker, own, input);
                     multiply(linear, begin, rows, worker, own, input, 0, weight.out);
                   },
                   [](const AttendOperation&) {},
               },
               operation.kind);
  }

  void store(int32_t begin, int32_t rows) {
    const int64_t head_size = model_.config().head_size;
    for (const LayerRows& part : call_.sequences) {
      SequenceCache& cache = *part.sequence->cache;
      const CacheLayout& layout = cache.layout();
      const int64_t group_width = head_size * layout.heads_per_group;
      for (int32_t row = std::max(begin, part.row_begin); row < std::min(begin + rows, part.row_end); ++row) {
        const int32_t slot = call_.slots[row];
        const float* key = shared(Buffer::projected, row).data + head_size * model_.query_heads();
        const float* value = key + head_size * model_.kv_heads();
        for (int group = 0; group < layout.head_groups; ++group) {
          write_slot(isa_, layout.type, layout.heads_per_group, layout.head_size, cache.page_for_write(call_.layer, group, slot),
                     slot % page_tokens, key + group * group_width, value + group * group_width);
        }
      }
    }
  }

  const InputHook& input_;
  ThreadPool& pool_;
  Workspace& workspace_;
  const LayerCall& call_;
  const Model& model_;
  const Isa isa_;
  bool full_;  // every buffer holds all rows, not just a worker's block
  bool by_columns_;
  int64_t tile_rows_ = 1;
  int32_t block_rows_ = 1;
  std::vector<std::unique_ptr<AttentionPlan>> kept_plans_;
  double planned_ = 0;
};

CpuExecutor::CpuExecutor(ThreadPool& pool) : pool_(&pool), workspace_(std::make_unique<Workspace>()) {
  workspace_->own.resize(pool.threads());
  workspace_->own_input.resize(pool.threads());
  workspace_->attention_scratch.resize(pool.threads());
  workspace_->logits.resize(pool.threads());
}

CpuExecutor::~CpuExecutor() = default;

void CpuExecutor::use(const Model& model) {
  if (workspace_->model == &model) return;
  workspace_->model = &model;
  workspace_->ropes.clear();
  for (const RopeConfig& rope : model.config().ropes) {
    workspace_->ropes.push_back({.frequencies = rotary_frequencies(rope), .table = {}, .positions = {}, .within_page = PageRotary(rope)});
  }
}

void CpuExecutor::compare_layer(const Layer& layer, const LayerCall& call, KeyValueRows& fresh, KeyValueRows& stored) {
  use(*call.model);
  const auto stores = std::find_if(layer.operations.begin(), layer.operations.end(),
                                   [](const Operation& operation) { return std::holds_alternative<StoreOperation>(operation.kind); });
  LayerRun run(*pool_, *workspace_, call, false, input_);
  run.run({layer.operations.begin(), stores});
  run.compare(fresh, stored);
}

void CpuExecutor::shift_slots(const Model& model, int32_t layer, SequenceCache& cache, KeyRange slots, const KeyValueShift& shift) {
  use(model);
  const PageRotary& rotary = workspace_->ropes[model.config().layer[layer].rope].within_page;
  const CacheLayout& layout = cache.layout();
  const auto width = static_cast<size_t>(layout.head_size) * static_cast<size_t>(layout.heads_per_group);
  const int32_t first_page = slots.begin / page_tokens;
  pool_->for_each((slots.end + page_tokens - 1) / page_tokens - first_page, [&](int64_t index, int) {
    const int32_t base = (first_page + static_cast<int32_t>(index)) * page_tokens;
    const int32_t begin = std::max(slots.begin, base), end = std::min(slots.end, base + page_tokens);
    std::vector<float> keys(page_tokens * width);
    for (int group = 0; group < layout.head_groups; ++group) {
      const std::span<const float> key(shift.key.data() + static_cast<size_t>(group) * width, width);
      rotary.turn(model.isa(), layout.heads_per_group, layout.head_size, base, key, keys);
      add_to_slots(model.isa(), layout.type, layout.heads_per_group, layout.head_size, cache.page_for_write(layer, group, begin),
                   begin - base, end - begin, keys.data() + static_cast<size_t>(begin - base) * width,
                   shift.value.data() + static_cast<size_t>(group) * width);
    }
  });
}

Status CpuExecutor::run_layer(const Layer& layer, const LayerCall& call) {
  use(*call.model);
  LayerRun run(*pool_, *workspace_, call, static_cast<bool>(time_), input_);
  const std::span<const Operation> operations(layer.operations);
  const auto timed = [&](const Operation& operation, const auto& body) {
    if (!time_) return body();
    const double begin = now();
    body();
    time_(operation.name, call.layer, begin, now());
  };
  size_t begin = 0;
  for (size_t at = 0; at < operations.size(); ++at) {
    const bool last = at + 1 == operations.size();
    const bool attends = std::holds_alternative<AttendOperation>(operations[at].kind);
    if (!time_ && !last && !ends_region(operations[at])) continue;
    Status status;
    if (attends && time_) {
      // Making plans and following them are told apart.
      const double planning = now();
      status = run.attend();
      const double planned = std::max(planning, run.planned());
      time_("attention.plan", call.layer, planning, planned);
      time_(operations[at].name, call.layer, planned, now());
    } else {
      timed(operations[at], [&] {
        run.run(operations.subspan(begin, at - begin + (attends ? 0 : 1)));
        if (attends) status = run.attend();
      });
    }
    ONSET_TRY(status);
    if (const auto* linear = std::get_if<LinearOperation>(&operations[at].kind); linear != nullptr && linear->reduce) {
      if (!reduce_) return error(Code::invalid_argument, "{}: a sharded model needs a reduce hook", operations[at].name);
      ONSET_TRY(run.reduce(*linear, reduce_));
    }
    begin = at + 1;
  }
  return {};
}

// The outputs of one step: the norm on every wanted row, then each head on the rows that want it.
class OutputRun {
 public:
  using Workspace = CpuExecutor::Workspace;

  OutputRun(ThreadPool& pool, Workspace& workspace, const Model& model, std::span<const BatchOutput> outputs, OutputSink& sink)
      : pool_(pool), workspace_(workspace), model_(model), outputs_(outputs), sink_(sink), width_(model.config().hidden) {
    // Outputs of one head lie together; hidden rows first.
    for (int32_t i = 0; i < static_cast<int32_t>(outputs.size()); ++i) order_.push_back(i);
    std::sort(order_.begin(), order_.end(), [this](int32_t a, int32_t b) { return std::pair(head_of(a), a) < std::pair(head_of(b), b); });
  }

  void run(std::span<const float* const> hidden) {
    const auto count = static_cast<int32_t>(order_.size());
    normed_.resize(static_cast<size_t>(count) * width_);
    pool_.for_each(count, [&](int64_t i, int) {
      float* row = normed_.data() + i * width_;
      rms_norm(model_.isa(), {hidden[order_[i]], width_}, 1, width_, model_.output_norm(), model_.config().norm_epsilon, {row, width_});
      if (head_of(order_[i]) < 0) sink_.output(order_[i], {row, static_cast<size_t>(width_)});
    });
    for (int32_t first = 0, last = 0; first < count; first = last) {
      const int32_t head = head_of(order_[first]);
      while (last < count && head_of(order_[last]) == head) ++last;
      if (head < 0) continue;
      if (last - first <= output_block_rows) {
        share_columns(model_.head(head), first, last - first);
      } else {
        share_rows(model_.head(head), first, last - first);
      }
    }
  }

 private:
  int32_t head_of(int32_t output) const { return outputs_[output].kind == OutputKind::hidden ? -1 : outputs_[output].head; }

  void deliver(const LinearWeight& weight, int32_t first, int32_t rows, const float* logits) {
    for (int32_t i = 0; i < rows; ++i) sink_.output(order_[first + i], {logits + i * weight.out, static_cast<size_t>(weight.out)});
  }

  // Few rows: the workers split the head's columns.
  void share_columns(const LinearWeight& weight, int32_t first, int32_t rows) {
    constexpr int64_t columns_at_once = 16 * linear_column_step;
    std::byte* prepared = at_least(workspace_.shared_input, linear_input_bytes(weight, rows));
    prepare_linear_input(model_.isa(), weight, normed_.data() + first * width_, width_, rows, prepared);
    float* logits = at_least(workspace_.shared_logits, static_cast<size_t>(rows) * weight.out);
    pool_.for_each((weight.out + columns_at_once - 1) / columns_at_once, [&](int64_t part, int) {
      const int64_t column = part * columns_at_once;
      multiply_linear(model_.isa(), weight, prepared, rows, column, std::min(weight.out, column + columns_at_once),
                      {.data = logits, .stride = weight.out});
    });
    deliver(weight, first, rows, logits);
  }

  // Many rows: each worker takes blocks of them, whose logits are handed on before the next block's.
  void share_rows(const LinearWeight& weight, int32_t first, int32_t rows) {
    const int32_t blocks = (rows + output_block_rows - 1) / output_block_rows;
    pool_.for_each(blocks, [&](int64_t block, int worker) {
      const int32_t begin = first + static_cast<int32_t>(block) * output_block_rows;
      const int32_t count = std::min(output_block_rows, first + rows - begin);
      std::byte* prepared = at_least(workspace_.own_input[worker], linear_input_bytes(weight, count));
      prepare_linear_input(model_.isa(), weight, normed_.data() + begin * width_, width_, count, prepared);
      float* logits = at_least(workspace_.logits[worker], static_cast<size_t>(count) * weight.out);
      multiply_linear(model_.isa(), weight, prepared, count, 0, weight.out, {.data = logits, .stride = weight.out});
      deliver(weight, begin, count, logits);
    });
  }

  ThreadPool& pool_;
  Workspace& workspace_;
  const Model& model_;
  std::span<const BatchOutput> outputs_;
  OutputSink& sink_;
  const int64_t width_;
  std::vector<int32_t> order_;
  AlignedVector<float> normed_;
};

void CpuExecutor::run_outputs(const Model& model, std::span<const BatchOutput> outputs, std::span<const float* const> hidden,
                              OutputSink& sink) {
  const double begin = now();
  OutputRun(*pool_, *workspace_, model, outputs, sink).run(hidden);
  if (time_) time_("outputs", model.config().layers, begin, now());
}

}  // namespace onset
