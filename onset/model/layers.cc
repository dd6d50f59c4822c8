#include "onset/model/layers.h"

#include <fmt/format.h>

#include <cmath>

#include "onset/tensor/block_formats.h"

namespace onset {
namespace {

class Builder {
 public:
  Builder(const ModelFile& file, const ModelConfig& config, const Shard& shard) : file_(file), config_(config), shard_(shard) {}

  Result<BuiltLayers> build() {
    if (config_.kv_heads % shard_.count != 0 || config_.feed_forward % shard_.count != 0) {
      return error(Code::invalid_argument, "{}: {} key/value heads and {} feed-forward columns cannot be shared by {} processes evenly",
                   file_.path().string(), config_.kv_heads, config_.feed_forward, shard_.count);
    }
    for (int32_t index = 0; index < config_.layers; ++index) ONSET_TRY(layer(index));
    ONSET_ASSIGN(built_.output_norm, vector("output_norm.weight", config_.hidden));
    const std::string head = file_.find_tensor("output.weight") != nullptr ? "output.weight" : "token_embd.weight";
    ONSET_ASSIGN(built_.head, matrix("head", {{head, config_.vocabulary}}, config_.hidden));
    used_.insert("token_embd.weight");
    used_.insert("rope_freqs.weight");
    for (const StoredTensor& tensor : file_.tensors()) {
      if (!used_.contains(tensor.name)) {
        return error(Code::unsupported, "{}: tensor {} is not part of a {} model as this program knows it", file_.path().string(),
                     tensor.name, config_.architecture);
      }
    }
    return std::move(built_);
  }

 private:
  struct Stacked {
    std::string tensor;
    int64_t rows;
    bool split = false;  // a shard takes its share of the rows
  };

  std::string block(int32_t index, const char* name) const { return fmt::format("blk.{}.{}", index, name); }

  // A gain or bias as float32; with `share`, this shard's part of it.
  Result<const float*> vector(const std::string& name, int64_t size, bool share = false) {
    const std::vector<int64_t> shape = {size};
    ONSET_ASSIGN(const StoredTensor* tensor, file_.tensor(name, shape));
    if (!is_weight_type(tensor->dtype)) {
      return error(Code::unsupported, "{}: tensor {} has type {}, expected a float type", file_.path().string(), name,
                   dtype_name(tensor->dtype));
    }
    ONSET_TRY(check_finite(*tensor).within(file_.path().string()));
    used_.insert(name);
    std::vector<float> whole(size);
    dequantize_row(tensor->dtype, tensor->bytes.data(), whole);
    const int64_t part = share ? size / shard_.count : size;
    const int64_t first = share ? part * shard_.index : 0;
    built_.vectors.push_back(std::make_unique<AlignedVector<float>>(whole.begin() + first, whole.begin() + first + part));
    return built_.vectors.back()->data();
  }

  // Plans one matrix out of stored ones stacked upon each other; returns its index.
  Result<int32_t> matrix(const std::string& name, const std::vector<Stacked>& stack, int64_t columns, bool split_columns = false) {
    WeightPlan plan{.name = name, .parts = {}, .column_begin = 0, .column_end = columns};
    for (const Stacked& entry : stack) {
      const std::vector<int64_t> shape = {entry.rows, columns};
      ONSET_ASSIGN(const StoredTensor* tensor, file_.tensor(entry.tensor, shape));
      if (!is_weight_type(tensor->dtype)) {
        return error(Code::unsupported, "{}: tensor {} has type {}, which is no type of weights", file_.path().string(), entry.tensor,
                     dtype_name(tensor->dtype));
      }
      used_.insert(entry.tensor);
      const int64_t part = entry.split ? entry.rows / shard_.count : entry.rows;
      const int64_t first = entry.split ? part * shard_.index : 0;
      plan.parts.push_back({.tensor = tensor, .row_begin = first, .row_end = first + part});
      plan.name = stack.size() == 1 ? entry.tensor : name;
    }
    if (split_columns) {
      const int64_t part = columns / shard_.count;
      plan.column_begin = part * shard_.index;
      plan.column_end = plan.column_begin + part;
    }
    built_.plans.push_back(std::move(plan));
    return static_cast<int32_t>(built_.plans.size()) - 1;
  }

  void add(const char* name, OperationKind kind) { layer_.operations.push_back({name, std::move(kind)}); }

  Status layer(int32_t index) {
    layer_ = {.window = config_.layer[index].window, .operations = {}};
    ONSET_TRY(attention(index));
    ONSET_TRY(feed_forward(index));
    built_.layers.push_back(std::move(layer_));
    return {};
  }

  Status attention(int32_t index) {
    const int64_t query_rows = int64_t{config_.query_heads} * config_.head_size;
    const int64_t kv_rows = int64_t{config_.kv_heads} * config_.head_size;
    ONSET_ASSIGN(const float* gain, vector(block(index, "attn_norm.weight"), config_.hidden));
    add("attention.norm", NormOperation{Buffer::residual, Buffer::normed, gain});

    ONSET_ASSIGN(const int32_t weight, matrix(block(index, "attn_qkv"),
                                              {{block(index, "attn_q.weight"), query_rows, true},
                                               {block(index, "attn_k.weight"), kv_rows, true},
                                               {block(index, "attn_v.weight"), kv_rows, true}},
                                              config_.hidden));
    ONSET_ASSIGN(const float* bias, attention_bias(index, query_rows, kv_rows));
    add("attention.query_key_value", LinearOperation{Buffer::normed, Buffer::projected, weight, bias, false, false});
    if (config_.query_key_norms) {
      ONSET_ASSIGN(const float* query_gain, vector(block(index, "attn_q_norm.weight"), config_.head_size));
      ONSET_ASSIGN(const float* key_gain, vector(block(index, "attn_k_norm.weight"), config_.head_size));
      add("attention.head_norms", HeadNormOperation{query_gain, key_gain});
    }
    add("attention.rotary", RotaryOperation{config_.layer[index].rope});
    add("attention.store", StoreOperation{});
    add("attention.attend", AttendOperation{});
    return branch_end(block(index, "attn_output.weight"), query_rows, Buffer::attended, "attention.output",
                      block(index, "post_attention_norm.weight"), "attention.post_norm", "attention.add");
  }

  // Queries', keys' and values' biases one after another, or null.
  Result<const float*> attention_bias(int32_t index, int64_t query_rows, int64_t kv_rows) {
    if (!config_.attention_biases) return nullptr;
    ONSET_ASSIGN(const float* query, vector(block(index, "attn_q.bias"), query_rows, true));
    ONSET_ASSIGN(const float* key, vector(block(index, "attn_k.bias"), kv_rows, true));
    ONSET_ASSIGN(const float* value, vector(block(index, "attn_v.bias"), kv_rows, true));
    auto all = std::make_unique<AlignedVector<float>>(query, query + query_rows / shard_.count);
    all->insert(all->end(), key, key + kv_rows / shard_.count);
    all->insert(all->end(), value, value + kv_rows / shard_.count);
    built_.vectors.push_back(std::move(all));
    return built_.vectors.back()->data();
  }

  // How a branch joins the residual stream: its last matrix adds to it directly, unless a norm or a sum over shards comes between.
  Status branch_end(const std::string& tensor, int64_t columns, Buffer input, const char* name, const std::string& post_norm,
                    const char* norm_name, const char* add_name) {
    ONSET_ASSIGN(const int32_t weight, matrix(tensor, {{tensor, config_.hidden}}, columns, true));
    const bool reduce = shard_.count > 1;
    if (!config_.sandwich_norms && !reduce) {
      add(name, LinearOperation{input, Buffer::residual, weight, nullptr, true, false});
      return {};
    }
    add(name, LinearOperation{input, Buffer::branch, weight, nullptr, false, reduce});
    if (config_.sandwich_norms) {
      ONSET_ASSIGN(const float* gain, vector(post_norm, config_.hidden));
      add(norm_name, NormOperation{Buffer::branch, Buffer::branch, gain});
    }
    add(add_name, AddOperation{Buffer::branch, Buffer::residual});
    return {};
  }

  Status feed_forward(int32_t index) {
    if (config_.layer[index].feed_forward == FeedForwardKind::none) return {};
    ONSET_ASSIGN(const float* gain, vector(block(index, "ffn_norm.weight"), config_.hidden));
    add("feed_forward.norm", NormOperation{Buffer::residual, Buffer::normed, gain});
    ONSET_ASSIGN(const int32_t weight, matrix(block(index, "ffn_gate_up"),
                                              {{block(index, "ffn_gate.weight"), config_.feed_forward, true},
                                               {block(index, "ffn_up.weight"), config_.feed_forward, true}},
                                              config_.hidden));
    add("feed_forward.gate_up", LinearOperation{Buffer::normed, Buffer::expanded, weight, nullptr, false, false});
    add("feed_forward.activate", ActivateOperation{config_.activation});
    return branch_end(block(index, "ffn_down.weight"), config_.feed_forward, Buffer::activated, "feed_forward.down",
                      block(index, "post_ffw_norm.weight"), "feed_forward.post_norm", "feed_forward.add");
  }

  const ModelFile& file_;
  const ModelConfig& config_;
  const Shard& shard_;
  BuiltLayers built_;
  Layer layer_;
  std::set<std::string> used_;
};

}  // namespace

Result<BuiltLayers> build_layers(const ModelFile& file, const ModelConfig& config, const Shard& shard) {
  return Builder(file, config, shard).build();
}

}  // namespace onset
