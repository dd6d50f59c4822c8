#include "onset/model/model.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "onset/compute/page_format.h"
#include "onset/model/calibration.h"
#include "onset/model/executor.h"
#include "onset/model/key_value_shift.h"
#include "onset/model/layers.h"
#include "onset/model/load_options.h"
#include "onset/tensor/block_formats.h"

namespace onset {
namespace {

// Tokens of the calibration run: enough for stable means, few enough for the first start.
constexpr int32_t calibration_length = 1024;

// FNV-1a over the tokens' bytes.
uint64_t hash_of(std::span<const int32_t> tokens) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const std::byte byte : std::as_bytes(tokens)) hash = (hash ^ static_cast<uint64_t>(byte)) * 0x100000001b3u;
  return hash;
}

}  // namespace

Result<Model> Model::load(std::shared_ptr<const ModelFile> file, const ModelOptions& options, ThreadPool& pool) {
  Model model;
  model.file_ = std::move(file);
  model.options_ = options;
  ONSET_ASSIGN(model.config_, read_config(*model.file_));
  // Weights are packed for what the file says: they are the same, and kept once, whatever the model is loaded with.
  const ModelConfig plain = model.config_;
  if (const Status status = apply_load_options(options.rope_scaling, options.layers, model.config_); !status.ok()) {
    return status.within(model.file_->path().string());
  }
  ONSET_ASSIGN(BuiltLayers built, build_layers(*model.file_, model.config_, options.shard));
  const std::string identity = packed_identity(*model.file_, options.precision, options.shard.index, options.shard.count) +
                               fmt::format("calibration {} {:016x}\n", calibration_version, hash_of(options.calibration));
  const bool cached = !options.packed_cache.empty() && options.precision != Precision::reference;
  const std::filesystem::path cache_file =
      cached
          ? options.packed_cache / fmt::format("{}-{:016x}.packed", model.file_->path().stem().string(), std::hash<std::string>{}(identity))
          : std::filesystem::path();
  // Finding out what inputs look like takes about half of the time, packing the other half.
  const auto part_of_progress = [&](double begin) {
    return [&, begin](double share) {
      if (options.progress) options.progress(begin + share / 2);
    };
  };
  PackedWeights::ConditioningSource conditioning;
  if (options.precision == Precision::fast) {
    conditioning = [&]() -> Result<std::vector<Conditioning>> {
      // A shard looks at the whole model's inputs and keeps its columns.
      BuiltLayers whole;
      if (options.shard.count > 1) {
        ONSET_ASSIGN(whole, build_layers(*model.file_, model.config_, {}));
      }
      const std::vector<int32_t> tokens =
          options.calibration.empty() ? calibration_tokens(*model.file_, plain.vocabulary, std::min(calibration_length, plain.context))
                                      : options.calibration;
      const BuiltLayers& layers = options.shard.count > 1 ? whole : built;
      ONSET_ASSIGN(std::vector<Conditioning> all, calibrate(*model.file_, plain, layers, tokens, options.isa, pool, part_of_progress(0.0)));
      for (size_t i = 0; i < all.size(); ++i) {
        for (std::vector<float>* values : {&all[i].shift, &all[i].inverse}) {
          *values = {values->begin() + built.plans[i].column_begin, values->begin() + built.plans[i].column_end};
        }
      }
      return all;
    };
  }
  auto weights = PackedWeights::make(built.plans, options.precision, cache_file, identity, conditioning, pool, part_of_progress(0.5));
  if (!weights.ok()) return weights.status().within(model.file_->path().string());
  model.weights_ = *std::move(weights);
  model.layers_ = std::move(built.layers);
  model.vectors_ = std::move(built.vectors);
  model.heads_ = {built.head};
  model.output_norm_ = built.output_norm;
  model.embedding_ = model.file_->find_tensor("token_embd.weight");
  return model;
}

CacheLayout Model::cache_layout(KvType type, int32_t head_groups) const {
  const bool streams =
      std::any_of(config_.layer.begin(), config_.layer.end(), [](const LayerConfig& layer) { return !layer.streams.empty(); });
  if (head_groups == 0) head_groups = streams ? kv_heads() : 1;
  CacheLayout layout{.type = type,
                     .layers = config_.layers,
                     .head_groups = head_groups,
                     .heads_per_group = kv_heads() / head_groups,
                     .head_size = config_.head_size,
                     .windows = {}};
  for (const LayerConfig& layer : config_.layer) {
    layout.windows.push_back(layer.window);
    if (layer.blocks.any()) layout.patterns.resize(static_cast<size_t>(config_.layers * head_groups));
  }
  for (size_t i = 0; i < layout.patterns.size(); ++i) {
    const LayerConfig& layer = config_.layer[i / static_cast<size_t>(head_groups)];
    if (layer.streams.empty() || layer.streams[i % static_cast<size_t>(head_groups)]) layout.patterns[i] = layer.blocks;
  }
  return layout;
}

void Model::embed(int32_t token, std::span<float> vector) const {
  dequantize_row(embedding_->dtype, embedding_->row(token).data(), vector);
  if (config_.embedding_scale == 1.0f) return;
  for (float& value : vector) value *= config_.embedding_scale;
}

Result<int32_t> Model::add_head(int64_t out, const WeightRows& rows, ThreadPool& pool) {
  if (out < 1) return error(Code::invalid_argument, "a head of {} outputs: expected 1 or more", out);
  auto bytes = std::make_unique<AlignedVector<std::byte>>(linear_bytes(precision(), config_.hidden, out));
  pack_linear(precision(), config_.hidden, out, rows, bytes->data(), pool);
  heads_.push_back(weights_.add({.precision = precision(), .in = config_.hidden, .out = out, .data = bytes->data()}));
  extra_.push_back(std::move(bytes));
  return static_cast<int32_t>(heads_.size()) - 1;
}

namespace {

// The rows that run, layer by layer, and their hidden states packed one after another.
class RunningRows {
 public:
  RunningRows(const Model& model, const Batch& batch, Executor& executor)
      : model_(model),
        batch_(batch),
        executor_(executor),
        hidden_size_(model.config().hidden),
        running_(batch.sequences.size()),
        dense_(batch.sequences.size()) {}

  // Brings the row set to what runs at `layer`: rows begin, end, leave and rejoin. layer == number of layers ends everything.
  // Errors: those of loaders of the layer's keys and values, which selectors may want to see.
  Status enter(int32_t layer) {
    bool changed = false;
    for (size_t s = 0; s < running_.size(); ++s) {
      const BatchSequence& sequence = batch_.sequences[s];
      const bool runs = layer == sequence.layer_begin || !running_[s].empty();
      if (runs && layer < std::min(sequence.layer_end, model_.config().layers)) ONSET_TRY(sequence.cache->wait_until_loaded(layer));
    }
    std::vector<std::vector<int32_t>> next(running_.size());
    rejoining_.clear();
    for (size_t s = 0; s < running_.size(); ++s) changed |= next_rows(s, layer, next[s]);
    if (changed) rebuild(layer, next);
    return {};
  }

  // Slots for the running rows' keys in every sequence's cache.
  Status take_slots(int32_t layer) {
    parts_.clear();
    slots_.clear();
    int32_t begin = 0;
    for (size_t s = 0; s < running_.size(); ++s) {
      const auto count = static_cast<int32_t>(running_[s].size());
      if (count == 0) continue;
      const BatchSequence& sequence = batch_.sequences[s];
      ONSET_TRY(sequence.cache->take_slots(layer, {positions_.data() + begin, static_cast<size_t>(count)}, slots_));
      parts_.push_back({.sequence = &sequence,
                        .attend = sequence.attend != nullptr ? sequence.attend : &dense_[s],
                        .row_begin = begin,
                        .row_end = begin + count});
      begin += count;
    }
    return {};
  }

  LayerCall call(int32_t layer) {
    return {.model = &model_,
            .layer = layer,
            .rows = static_cast<int32_t>(rows_.size()),
            .positions = positions_.data(),
            .slots = slots_.data(),
            .sequences = parts_,
            .residual = residual_.data()};
  }

  bool empty() const { return rows_.empty(); }

  // The final hidden state of a batch row, or null if it did not run to the end.
  const float* hidden(int32_t row) const {
    const auto found = std::lower_bound(rows_.begin(), rows_.end(), row);
    if (found == rows_.end() || *found != row) return nullptr;
    return residual_.data() + (found - rows_.begin()) * hidden_size_;
  }

 private:
  // What of sequence s runs at `layer`; returns whether that differs from the layer before.
  bool next_rows(size_t s, int32_t layer, std::vector<int32_t>& next) {
    const BatchSequence& sequence = batch_.sequences[s];
    const int32_t last = std::min(sequence.layer_end, model_.config().layers);
    if (layer == sequence.layer_begin) {
      for (int32_t row = sequence.row_begin; row < sequence.row_end; ++row) {
        if (sequence.select == nullptr || !sequence.select->waits(row - sequence.row_begin)) next.push_back(row);
      }
      // A selector may also want a say at the very first layer.
      if (sequence.select != nullptr && layer < last && sequence.select->asks(layer)) ask(s, layer, next);
      return true;
    }
    if (layer < sequence.layer_begin || (layer >= last && last < model_.config().layers)) return layer == last;
    next = running_[s];
    if (layer >= last || sequence.select == nullptr || !sequence.select->asks(layer)) return false;
    ask(s, layer, next);
    return true;
  }

  void ask(size_t s, int32_t layer, std::vector<int32_t>& next) {
    const BatchSequence& sequence = batch_.sequences[s];
    std::vector<int32_t> running;
    std::vector<const float*> hidden;
    std::vector<float> first(0);
    for (const int32_t row : next) running.push_back(row - sequence.row_begin);
    if (layer == sequence.layer_begin) {
      first.resize(next.size() * hidden_size_);
      for (size_t i = 0; i < next.size(); ++i) initial(next[i], sequence, first.data() + i * hidden_size_);
    }
    for (size_t i = 0; i < next.size(); ++i) {
      hidden.push_back(first.empty() ? this->hidden(next[i]) : first.data() + i * hidden_size_);
    }
    const std::span<const int32_t> positions(batch_.positions.data() + sequence.row_begin, sequence.row_end - sequence.row_begin);
    Probe probe(*this, sequence, layer, next, hidden);
    Selection selection = sequence.select->select({.layer = layer,
                                                   .running = running,
                                                   .positions = positions,
                                                   .hidden = hidden,
                                                   .hidden_size = hidden_size_,
                                                   .probe = layer < model_.config().layers ? &probe : nullptr});
    next.clear();
    for (const int32_t row : selection.keep) next.push_back(row + sequence.row_begin);
    for (RejoiningRow& row : selection.rejoin) {
      next.push_back(row.row + sequence.row_begin);
      rejoining_.emplace_back(row.row + sequence.row_begin, std::move(row.hidden));
    }
    std::sort(next.begin(), next.end());
  }

  // What a selector may ask about the keys and values of one sequence's rows.
  class Probe : public KeyValueProbe {
   public:
    Probe(const RunningRows& rows, const BatchSequence& sequence, int32_t layer, std::span<const int32_t> running,
          std::span<const float* const> hidden)
        : rows_(rows), sequence_(sequence), layer_(layer), hidden_(hidden) {
      for (const int32_t row : running) positions_.push_back(rows.batch_.positions[row]);
    }

    void compare(KeyValueRows& fresh, KeyValueRows& stored) override {
      const auto count = static_cast<int32_t>(positions_.size());
      const auto size = static_cast<size_t>(rows_.hidden_size_);
      AlignedVector<float> residual(hidden_.size() * size);
      for (size_t i = 0; i < hidden_.size(); ++i) std::copy_n(hidden_[i], size, residual.data() + i * size);
      const LayerRows part{.sequence = &sequence_, .row_begin = 0, .row_end = count};
      rows_.executor_.compare_layer(rows_.model_.layers()[layer_],
                                    {.model = &rows_.model_,
                                     .layer = layer_,
                                     .rows = count,
                                     .positions = positions_.data(),
                                     .slots = positions_.data(),
                                     .sequences = {&part, 1},
                                     .residual = residual.data()},
                                    fresh, stored);
    }

    void store(std::span<const int32_t> indices, KeyValueRows& fresh) override {
      SequenceCache& cache = *sequence_.cache;
      const CacheLayout& layout = cache.layout();
      const int64_t group_width = int64_t{layout.head_size} * layout.heads_per_group;
      for (const int32_t index : indices) {
        const int32_t slot = positions_[index];
        for (int group = 0; group < layout.head_groups; ++group) {
          write_slot(rows_.model_.isa(), layout.type, layout.heads_per_group, layout.head_size, cache.page_for_write(layer_, group, slot),
                     slot % page_tokens, fresh.key(index) + group * group_width, fresh.value(index) + group * group_width);
        }
      }
    }

    KeyValueShift mean_shift(std::span<const int32_t> indices, KeyValueRows& fresh, KeyValueRows& stored) override {
      return onset::mean_shift(rows_.model_, layer_, positions_, indices, fresh, stored);
    }

    void shift(KeyRange positions, const KeyValueShift& shift) override {
      rows_.executor_.shift_slots(rows_.model_, layer_, *sequence_.cache, positions, shift);
    }

   private:
    const RunningRows& rows_;
    const BatchSequence& sequence_;
    int32_t layer_;
    std::span<const float* const> hidden_;
    std::vector<int32_t> positions_;  // which are the slots
  };

  // The state a row begins with: its token's embedding, its input vector, or what an earlier stage left.
  void initial(int32_t row, const BatchSequence& sequence, float* state) const {
    if (sequence.hidden_in != nullptr) {
      std::memcpy(state, sequence.hidden_in + (row - sequence.row_begin) * hidden_size_, hidden_size_ * sizeof(float));
    } else if (batch_.tokens[row] >= 0) {
      model_.embed(batch_.tokens[row], {state, static_cast<size_t>(hidden_size_)});
    } else {
      std::memcpy(state, batch_.vectors[row], hidden_size_ * sizeof(float));
    }
  }

  void rebuild(int32_t layer, std::vector<std::vector<int32_t>>& next) {
    leave_stage(layer);
    std::vector<int32_t> rows;
    for (const std::vector<int32_t>& part : next) rows.insert(rows.end(), part.begin(), part.end());
    AlignedVector<float> residual(rows.size() * hidden_size_);
    for (size_t s = 0, i = 0; s < next.size(); ++s) {
      for (const int32_t row : next[s]) {
        float* state = residual.data() + i++ * hidden_size_;
        const auto joined = std::find_if(rejoining_.begin(), rejoining_.end(), [row](const auto& entry) { return entry.first == row; });
        if (joined != rejoining_.end()) {
          std::memcpy(state, joined->second.data(), hidden_size_ * sizeof(float));
        } else if (layer == batch_.sequences[s].layer_begin) {
          initial(row, batch_.sequences[s], state);
        } else {
          std::memcpy(state, hidden(row), hidden_size_ * sizeof(float));
        }
      }
    }
    residual_ = std::move(residual);
    rows_ = std::move(rows);
    running_ = std::move(next);
    positions_.clear();
    for (const int32_t row : rows_) positions_.push_back(batch_.positions[row]);
  }

  // Hands out the hidden states of sequences whose stage ends before `layer`.
  void leave_stage(int32_t layer) {
    for (size_t s = 0; s < running_.size(); ++s) {
      const BatchSequence& sequence = batch_.sequences[s];
      if (sequence.layer_end != layer || sequence.hidden_out == nullptr) continue;
      for (const int32_t row : running_[s]) {
        std::memcpy(sequence.hidden_out + (row - sequence.row_begin) * hidden_size_, hidden(row), hidden_size_ * sizeof(float));
      }
    }
  }

  const Model& model_;
  const Batch& batch_;
  Executor& executor_;
  const int64_t hidden_size_;
  std::vector<std::vector<int32_t>> running_;  // for each sequence, batch rows ascending
  std::vector<DenseAttend> dense_;
  std::vector<int32_t> rows_, positions_, slots_;  // all running rows, their positions, and where this layer stores them
  AlignedVector<float> residual_;
  std::vector<LayerRows> parts_;
  std::vector<std::pair<int32_t, std::vector<float>>> rejoining_;
};

}  // namespace

Status Model::forward(const Batch& batch, Executor& executor, OutputSink& sink) const {
  RunningRows rows(*this, batch, executor);
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    ONSET_TRY(rows.enter(layer));
    if (rows.empty()) continue;
    ONSET_TRY(rows.take_slots(layer));
    ONSET_TRY(executor.run_layer(layers_[layer], rows.call(layer)));
  }
  ONSET_TRY(rows.enter(config_.layers));
  // Outputs of one call keep their numbers: a dropped row's place is simply not called.
  std::vector<BatchOutput> outputs;
  std::vector<const float*> hidden;
  std::vector<int32_t> numbers;
  for (size_t i = 0; i < batch.outputs.size(); ++i) {
    const float* state = rows.hidden(batch.outputs[i].row);
    if (state == nullptr) continue;
    outputs.push_back(batch.outputs[i]);
    hidden.push_back(state);
    numbers.push_back(static_cast<int32_t>(i));
  }
  struct Renumbered : OutputSink {
    OutputSink* sink;
    const std::vector<int32_t>* numbers;
    void output(int32_t index, std::span<const float> values) override { sink->output((*numbers)[index], values); }
  } renumbered;
  renumbered.sink = &sink;
  renumbered.numbers = &numbers;
  if (!outputs.empty()) executor.run_outputs(*this, outputs, hidden, renumbered);
  return {};
}

}  // namespace onset
