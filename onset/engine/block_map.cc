#include "onset/engine/block_map.h"

#include <algorithm>
#include <cmath>

#include "onset/base/aligned.h"
#include "onset/compute/attention.h"

namespace onset {
namespace {

// Adds what another policy visits.
class RecordedAttend : public AttendPolicy {
 public:
  RecordedAttend(AttendPolicy* policy, BlockMap& map) : policy_(policy), map_(&map) {}
  RecordedAttend(std::unique_ptr<AttendPolicy> policy, BlockMap& map) : owned_(std::move(policy)), policy_(owned_.get()), map_(&map) {}
  const AttentionPlan& plan(const AttendContext& context) override {
    const AttentionPlan& plan = policy_->plan(context);
    map_->add(context, plan);
    return plan;
  }

 private:
  std::unique_ptr<AttendPolicy> owned_;
  AttendPolicy* policy_;
  BlockMap* map_;
};

class RecordedAttendSpec : public AttendSpec {
 public:
  RecordedAttendSpec(std::shared_ptr<const AttendSpec> spec, BlockMap& map)
      : AttendSpec(spec->text()), spec_(std::move(spec)), map_(&map) {}
  Status check(const AttendFacts& facts) const override { return spec_->check(facts); }
  std::unique_ptr<AttendPolicy> make(const AttendFacts& facts) const override {
    return std::make_unique<RecordedAttend>(spec_->make(facts), *map_);
  }
  bool stateless() const override { return spec_->stateless(); }
  int32_t block_rows() const override { return spec_->block_rows(); }
  bool allows_dropped_rows() const override { return spec_->allows_dropped_rows(); }

 private:
  std::shared_ptr<const AttendSpec> spec_;
  BlockMap* map_;
};

// A select policy that says itself whom rows see.
class RecordedSelect : public SelectPolicy {
 public:
  RecordedSelect(std::unique_ptr<SelectPolicy> policy, BlockMap& map) : policy_(std::move(policy)), attend_(policy_->attend(), map) {}
  bool asks(int layer) const override { return policy_->asks(layer); }
  Selection select(const SelectContext& context) override { return policy_->select(context); }
  bool waits(int32_t row) const override { return policy_->waits(row); }
  std::span<const int32_t> earlier() override { return policy_->earlier(); }
  bool whole_prompt() const override { return policy_->whole_prompt(); }
  AttendPolicy* attend() override { return &attend_; }
  bool repeats() const override { return policy_->repeats(); }
  std::shared_ptr<const SelectReport> report() const override { return policy_->report(); }

 private:
  std::unique_ptr<SelectPolicy> policy_;
  RecordedAttend attend_;
};

class RecordedSelectSpec : public SelectSpec {
 public:
  RecordedSelectSpec(std::shared_ptr<const SelectSpec> spec, BlockMap& map) : spec_(std::move(spec)), map_(&map) {}
  Result<std::unique_ptr<SelectPolicy>> make(const CacheLayout& layout) const override {
    ONSET_ASSIGN(std::unique_ptr<SelectPolicy> policy, spec_->make(layout));
    if (policy == nullptr || policy->attend() == nullptr) return policy;
    return std::unique_ptr<SelectPolicy>(std::make_unique<RecordedSelect>(std::move(policy), *map_));
  }

 private:
  std::shared_ptr<const SelectSpec> spec_;
  BlockMap* map_;
};

// Whether a query sees a key that its block visits (attention_plan.h).
bool sees(const AttentionPattern& pattern, int32_t query, int32_t key) {
  if (pattern.causal && key > query) return false;
  return pattern.window == 0 || key < pattern.sink || query - key < pattern.window;
}

// The log-sum-exp of each row and head under a plan, [rows, query_heads].
std::vector<float> log_sum_exps(const AttendContext& context, const AttentionPlan& plan) {
  const auto rows = static_cast<int32_t>(context.positions.size());
  const int64_t width = int64_t{context.query_heads} * context.cache->layout().head_size;
  std::vector<float> output(static_cast<size_t>(rows * width)), sums(static_cast<size_t>(rows) * context.query_heads);
  const std::vector<AttentionCall> calls = {{.plan = &plan,
                                             .keys = context.cache->view(context.layer, context.group),
                                             .rows = rows,
                                             .query_heads = context.query_heads,
                                             .positions = context.positions.data(),
                                             .queries = context.queries,
                                             .query_stride = context.query_stride,
                                             .output = output.data(),
                                             .output_stride = width,
                                             .log_sum_exp = sums.data()}};
  AttentionTasks tasks = attention_tasks(calls, context.pool != nullptr ? context.pool->threads() : 1);
  std::vector<AlignedVector<std::byte>> scratch(context.pool != nullptr ? static_cast<size_t>(context.pool->threads()) : 1);
  for (auto& memory : scratch) memory.resize(attention_scratch_bytes(calls));
  const auto run = [&](int64_t task, int worker) {
    run_attention(context.isa, calls, tasks, static_cast<size_t>(task), scratch[worker].data());
  };
  if (context.pool != nullptr) {
    context.pool->for_each(static_cast<int64_t>(tasks.tasks.size()), run);
  } else {
    for (size_t task = 0; task < tasks.tasks.size(); ++task) run(static_cast<int64_t>(task), 0);
  }
  finish_attention(calls, tasks);
  return sums;
}

}  // namespace

BlockMap::BlockMap(int32_t tokens, int32_t layers, int32_t query_heads, std::vector<int32_t> kept, bool recall, int32_t block)
    : tokens_(tokens),
      heads_(query_heads),
      block_(block),
      blocks_((tokens + block - 1) / block),
      kept_(std::move(kept)),
      visited_(kept_.size(), std::vector<int64_t>(static_cast<size_t>(query_heads) * blocks_ * blocks_)),
      recalls_(recall),
      recall_(kept_.size(), std::vector<double>(static_cast<size_t>(query_heads))),
      in_layer_(layers),
      rows_(layers),
      windows_(layers) {}

int32_t BlockMap::place_of(int32_t layer) const {
  const auto found = std::find(kept_.begin(), kept_.end(), layer);
  return found == kept_.end() ? -1 : static_cast<int32_t>(found - kept_.begin());
}

void BlockMap::count(int32_t layer, std::span<const int32_t> heads, int32_t query_block, int32_t key_block, int64_t pairs) {
  in_layer_[layer] += pairs * static_cast<int64_t>(heads.size());
  const int32_t place = place_of(layer);
  if (place < 0) return;
  for (const int32_t head : heads) visited_[place][(int64_t{head} * blocks_ + query_block) * blocks_ + key_block] += pairs;
}

void BlockMap::add_block(const AttendContext& context, const AttentionPattern& pattern, const PlanBlock& block,
                         std::span<const int32_t> heads) {
  const int32_t* positions = context.cache->view(context.layer, context.group).positions;
  std::vector<int64_t> pairs(static_cast<size_t>(blocks_));  // of one row, by the key's block
  const auto see_all = [&](int32_t begin, int32_t end) {
    for (int32_t next = begin; begin < end; begin = next) {
      next = std::min(end, (begin / block_ + 1) * block_);
      pairs[begin / block_] += next - begin;
    }
  };
  for (int32_t row = block.row_begin; row < block.row_end; ++row) {
    const int32_t query = context.positions[row];
    if (query >= tokens_) continue;
    std::fill(pairs.begin(), pairs.end(), 0);
    const auto see = [&](int32_t slot) {
      const int32_t key = positions != nullptr ? positions[slot] : slot;
      if (key < tokens_ && sees(pattern, query, key)) ++pairs[key / block_];
    };
    for (const KeyRange& range : block.ranges) {
      if (positions != nullptr) {
        for (int32_t slot = range.begin; slot < range.end; ++slot) see(slot);
        continue;
      }
      const int32_t end = std::min(range.end, pattern.causal ? query + 1 : tokens_);
      if (pattern.window == 0) {
        see_all(range.begin, end);
      } else {
        see_all(range.begin, std::min(end, pattern.sink));
        see_all(std::max({range.begin, pattern.sink, query - pattern.window + 1}), end);
      }
    }
    for (const int32_t column : block.columns) see(column);
    for (int32_t key_block = 0; key_block < blocks_; ++key_block) {
      if (pairs[key_block] > 0) count(context.layer, heads, query / block_, key_block, pairs[key_block]);
    }
  }
}

void BlockMap::add_pairs(const AttendContext& context, const AttentionPlan& plan) {
  for (size_t i = 0; i < plan.patterns.size(); ++i) {
    std::vector<int32_t> heads;
    for (int32_t head = 0; head < context.query_heads; ++head) {
      if (plan.pattern_of_head[head] == i) heads.push_back(context.group * context.query_heads + head);
    }
    if (heads.empty()) continue;
    for (const PlanBlock& block : plan.patterns[i].blocks) add_block(context, plan.patterns[i], block, heads);
  }
  for (const AttentionPlan& other : plan.beside) add_pairs(context, other);
}

void BlockMap::add_recall(const AttendContext& context, const AttentionPlan& plan) {
  const auto rows = static_cast<int32_t>(context.positions.size());
  const AttentionPlan all =
      dense_plan(rows, context.cache->length(context.layer, context.group), context.query_heads, context.scale, context.window);
  const std::vector<float> visited = log_sum_exps(context, plan), dense = log_sum_exps(context, all);
  std::vector<double>& sums = recall_[place_of(context.layer)];
  for (int32_t row = 0; row < rows; ++row) {
    if (context.positions[row] >= tokens_) continue;
    for (int32_t head = 0; head < context.query_heads; ++head) {
      const size_t i = static_cast<size_t>(row) * context.query_heads + head;
      sums[context.group * context.query_heads + head] += std::exp(std::min(0.0, double{visited[i]} - double{dense[i]}));
    }
  }
}

double BlockMap::recall(int32_t layer, int32_t head) const {
  return recall_[place_of(layer)][head] / std::max(1, rows_[layer]);
}

void BlockMap::add(const AttendContext& context, const AttentionPlan& plan) {
  if (context.group == 0) {
    windows_[context.layer] = context.window;
    for (const int32_t position : context.positions) rows_[context.layer] += position < tokens_;
  }
  add_pairs(context, plan);
  if (recalls_ && place_of(context.layer) >= 0) add_recall(context, plan);
}

int64_t BlockMap::visited(int32_t layer, int32_t head, int32_t query_block, int32_t key_block) const {
  return visited_[place_of(layer)][(int64_t{head} * blocks_ + query_block) * blocks_ + key_block];
}

int64_t BlockMap::visited(int32_t layer, int32_t head) const {
  int64_t sum = 0;
  for (int32_t query_block = 0; query_block < blocks_; ++query_block) {
    for (int32_t key_block = 0; key_block < blocks_; ++key_block) sum += visited(layer, head, query_block, key_block);
  }
  return sum;
}

int64_t BlockMap::dense_between(int32_t layer, int64_t query_begin, int64_t query_end, int64_t key_begin, int64_t key_end) const {
  int64_t pairs = 0;
  for (int64_t query = query_begin; query < std::min<int64_t>(query_end, tokens_); ++query) {
    const int64_t first = windows_[layer] > 0 ? std::max(key_begin, query - windows_[layer] + 1) : key_begin;
    pairs += std::max<int64_t>(0, std::min(key_end, query + 1) - first);
  }
  return pairs;
}

int64_t BlockMap::dense(int32_t layer, int32_t query_block, int32_t key_block) const {
  return dense_between(layer, int64_t{query_block} * block_, int64_t{query_block + 1} * block_, int64_t{key_block} * block_,
                       int64_t{key_block + 1} * block_);
}

int64_t BlockMap::dense(int32_t layer) const {
  return dense_between(layer, 0, tokens_, 0, tokens_);
}

std::shared_ptr<const AttendSpec> recorded(std::shared_ptr<const AttendSpec> spec, BlockMap& map) {
  return std::make_shared<RecordedAttendSpec>(std::move(spec), map);
}

std::shared_ptr<const SelectSpec> recorded(std::shared_ptr<const SelectSpec> spec, BlockMap& map) {
  return std::make_shared<RecordedSelectSpec>(std::move(spec), map);
}

Result<BlockMap> map_blocks(Engine& engine, std::span<const int32_t> tokens, const std::shared_ptr<const AttendSpec>& attend,
                            const std::shared_ptr<const SelectSpec>& select, std::vector<int32_t> kept, bool recall) {
  const int32_t layers = engine.model().config().layers;
  for (const int32_t layer : kept) {
    if (layer < 0 || layer >= layers) {
      return error(Code::invalid_argument, "there is no layer {}, expected 0 to {}", layer, layers - 1);
    }
  }
  BlockMap map(static_cast<int32_t>(tokens.size()), layers, engine.model().query_heads(), std::move(kept), recall);
  Request request{.tokens = {tokens.begin(), tokens.end()}, .most_new_tokens = 1, .prefix_cache = false};
  bool selects = false;
  if (select != nullptr) {
    request.select_spec = recorded(select, map);
    ONSET_ASSIGN(const auto policy, select->make(engine.model().cache_layout(engine.kv_type())));
    selects = policy != nullptr && policy->attend() != nullptr;
  }
  // Whom the rows see, where the select policy does not say so: dense has a plan, too.
  if (attend != nullptr || !selects) {
    ONSET_ASSIGN(const auto dense, parse_attend("dense"));
    request.attend_spec = recorded(attend != nullptr ? attend : dense, map);
  }
  ONSET_TRY(run_to_end(engine, std::move(request), {}));
  return map;
}

}  // namespace onset
