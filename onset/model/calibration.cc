#include "onset/model/calibration.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "onset/model/executor.h"
#include "onset/text/tokenizer_gguf.h"

namespace onset {
namespace {

constexpr std::string_view calibration_text =
#include "onset/model/calibration_text.inc"
    ;

// Keeps factors of channels that hardly move (in the input or in the weight) within reason.
constexpr double floor_share = 0.003;

// The sum of squares of each of a matrix's columns. Rows are summed in blocks and the blocks in order, whoever computes them.
std::vector<double> column_squares(const WeightPlan& plan, ThreadPool& pool) {
  constexpr int64_t rows_at_once = 256;
  const int64_t blocks = (plan.out() + rows_at_once - 1) / rows_at_once;
  std::vector<std::vector<double>> sums(blocks);
  pool.for_each(blocks, [&](int64_t block, int) {
    std::vector<float> row(plan.in());
    sums[block].assign(plan.in(), 0.0);
    for (int64_t n = block * rows_at_once; n < std::min(plan.out(), (block + 1) * rows_at_once); ++n) {
      read_weight_row(plan, n, row);
      for (int64_t k = 0; k < plan.in(); ++k) sums[block][k] += static_cast<double>(row[k]) * row[k];
    }
  });
  for (int64_t block = 1; block < blocks; ++block) {
    for (int64_t k = 0; k < plan.in(); ++k) sums[0][k] += sums[block][k];
  }
  return sums[0];
}

// How much each row counts. Rows are rounded by scales of their own. Where a norm follows the product, only a row's direction
// matters, and all count alike whatever their size: else a few huge ones (the first token's, say) decide for all (Gemma 3: mean
// divergence 0.0038 instead of 0.0029). Where the product joins the residual stream as it is, sizes count.
std::vector<double> row_shares(std::span<const float> inputs, int64_t width, bool norm_follows) {
  const int64_t rows = static_cast<int64_t>(inputs.size()) / width;
  std::vector<double> shares(rows, 1.0);
  double all = 0;
  for (int64_t row = 0; row < rows; ++row) {
    if (norm_follows) {
      double squares = 0;
      for (int64_t k = 0; k < width; ++k) squares += std::pow(inputs[row * width + k], 2);
      shares[row] = squares > 0 ? 1 / squares : 0;
    }
    all += shares[row];
  }
  for (double& share : shares) share /= std::max(all, 1e-300);
  return shares;
}

Conditioning conditioning_of(const WeightPlan& plan, std::span<const float> inputs, bool norm_follows, ThreadPool& pool) {
  const int64_t width = plan.in();
  const int64_t rows = static_cast<int64_t>(inputs.size()) / width;
  const std::vector<double> shares = row_shares(inputs, width, norm_follows);
  std::vector<double> mean(width, 0.0), variance(width, 0.0);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < width; ++k) mean[k] += inputs[row * width + k] * shares[row];
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < width; ++k) variance[k] += std::pow(inputs[row * width + k] - mean[k], 2) * shares[row];
  }
  const std::vector<double> squares = column_squares(plan, pool);
  double mean_variance = 0, mean_squares = 0;
  for (int64_t k = 0; k < width; ++k) mean_variance += variance[k] / width, mean_squares += squares[k] / width;
  Conditioning conditioning{.shift = std::vector<float>(width), .inverse = std::vector<float>(width, 1.0f)};
  for (int64_t k = 0; k < width; ++k) {
    conditioning.shift[k] = static_cast<float>(mean[k]);
    const double input = variance[k] + floor_share * mean_variance, weight = squares[k] + floor_share * mean_squares;
    // factor = sqrt(rms of the input / rms of the weight); weights scale with it, inputs with its inverse.
    if (input > 0 && weight > 0) conditioning.inverse[k] = static_cast<float>(std::pow(weight / input, 0.25));
  }
  return conditioning;
}

}  // namespace

std::vector<int32_t> calibration_tokens(const ModelFile& file, int32_t vocabulary, int32_t most) {
  if (const Result<Tokenizer> tokenizer = load_tokenizer(file); tokenizer.ok()) {
    if (Result<std::vector<TokenId>> ids = tokenizer->encode(calibration_text); ids.ok()) {
      const bool fits = std::all_of(ids->begin(), ids->end(), [&](int32_t id) { return id >= 0 && id < vocabulary; });
      if (fits && ids->size() > 64) {
        ids->resize(std::min<size_t>(ids->size(), static_cast<size_t>(most)));
        return *std::move(ids);
      }
    }
  }
  std::mt19937 random(2026);
  std::vector<int32_t> tokens(most);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint32_t>(vocabulary));
  return tokens;
}

// A model in reference precision whose matrices come and go layer by layer.
class Calibration {
 public:
  Calibration(const ModelFile& file, const ModelConfig& config, const BuiltLayers& built, Isa isa, ThreadPool& pool)
      : built_(built), pool_(pool) {
    model_.config_ = config;
    model_.options_.precision = Precision::reference;
    model_.options_.isa = isa;
    model_.embedding_ = file.find_tensor("token_embd.weight");
    for (const WeightPlan& plan : built.plans) {
      model_.weights_.add({.precision = Precision::reference, .in = plan.in(), .out = plan.out(), .data = nullptr});
    }
    for (const Layer& layer : built.layers) model_.layers_.push_back(layer);
  }

  Result<std::vector<Conditioning>> run(std::span<const int32_t> tokens, const std::function<void(double)>& progress) {
    const auto rows = static_cast<int32_t>(tokens.size());
    const int64_t hidden = model_.config_.hidden;
    std::vector<int32_t> positions(rows);
    AlignedVector<float> residual(static_cast<size_t>(rows) * hidden);
    for (int32_t row = 0; row < rows; ++row) {
      positions[row] = row;
      model_.embed(tokens[row], {residual.data() + row * hidden, static_cast<size_t>(hidden)});
    }
    const CacheLayout layout = model_.cache_layout(KvType::f32);
    // One layer's keys at a time.
    ONSET_ASSIGN(PagePool pages, PagePool::create(layout_page_bytes(layout), rows / page_tokens + 2));
    SequenceCache cache(layout, pages);
    const BatchSequence sequence{.row_begin = 0, .row_end = rows, .cache = &cache};
    DenseAttend dense;
    CpuExecutor executor(pool_);
    executor.set_input_hook(
        [this](int32_t weight, int32_t row, int32_t count, const float* data, int64_t stride) { keep(weight, row, count, data, stride); });
    conditioning_.resize(built_.plans.size());
    for (int32_t layer = 0; layer < model_.config_.layers; ++layer) {
      ONSET_TRY(cache.append(layer, positions).status());
      const LayerRows part{.sequence = &sequence, .attend = &dense, .row_begin = 0, .row_end = rows};
      hold_weights(layer, rows);
      ONSET_TRY(executor.run_layer(model_.layers_[layer], {.model = &model_,
                                                           .layer = layer,
                                                           .rows = rows,
                                                           .positions = positions.data(),
                                                           .slots = positions.data(),  // the cache was empty
                                                           .sequences = {&part, 1},
                                                           .residual = residual.data()}));
      release_weights(layer);
      cache.truncate(0);
      if (progress) progress(static_cast<double>(layer + 1) / model_.config_.layers);
    }
    AlignedVector<float> normed(residual.size());
    rms_norm(model_.options_.isa, {residual.data(), hidden}, rows, hidden, built_.output_norm, model_.config_.norm_epsilon,
             {normed.data(), hidden});
    conditioning_[built_.head] = conditioning_of(built_.plans[built_.head], normed, false, pool_);
    return std::move(conditioning_);
  }

 private:
  static const LinearOperation* linear(const Operation& operation) { return std::get_if<LinearOperation>(&operation.kind); }

  void hold_weights(int32_t layer, int32_t rows) {
    for (const Operation& operation : built_.layers[layer].operations) {
      const LinearOperation* needed = linear(operation);
      if (needed == nullptr) continue;
      const WeightPlan& plan = built_.plans[needed->weight];
      AlignedVector<std::byte>& bytes = packed_.emplace_back(linear_bytes(Precision::reference, plan.in(), plan.out()));
      pack_linear(
          Precision::reference, plan.in(), plan.out(),
          [&plan](int64_t row, std::span<float> values) { read_weight_row(plan, row, values); }, bytes.data(), pool_);
      model_.weights_.set_data(needed->weight, bytes.data());
      inputs_[needed->weight].resize(static_cast<size_t>(rows) * plan.in());
    }
  }

  // Whether the operation after a linear one is a norm of what that has put out.
  static bool norm_follows(std::span<const Operation> operations, size_t at) {
    if (at + 1 == operations.size()) return false;
    const auto* norm = std::get_if<NormOperation>(&operations[at + 1].kind);
    return norm != nullptr && norm->input == linear(operations[at])->output;
  }

  void release_weights(int32_t layer) {
    const std::span<const Operation> operations(built_.layers[layer].operations);
    for (size_t i = 0; i < operations.size(); ++i) {
      if (const LinearOperation* needed = linear(operations[i]); needed != nullptr) {
        conditioning_[needed->weight] =
            conditioning_of(built_.plans[needed->weight], inputs_[needed->weight], norm_follows(operations, i), pool_);
        inputs_.erase(needed->weight);
      }
    }
    packed_.clear();
  }

  void keep(int32_t weight, int32_t row, int32_t count, const float* data, int64_t stride) {
    const int64_t width = built_.plans[weight].in();
    for (int32_t i = 0; i < count; ++i) {
      std::memcpy(inputs_[weight].data() + (row + i) * width, data + i * stride, width * sizeof(float));
    }
  }

  const BuiltLayers& built_;
  ThreadPool& pool_;
  Model model_;
  std::vector<AlignedVector<std::byte>> packed_;
  std::map<int32_t, AlignedVector<float>> inputs_;  // of the layer at hand, by matrix
  std::vector<Conditioning> conditioning_;
};

Result<std::vector<Conditioning>> calibrate(const ModelFile& file, const ModelConfig& config, const BuiltLayers& built,
                                            std::span<const int32_t> tokens, Isa isa, ThreadPool& pool,
                                            const std::function<void(double)>& progress) {
  return Calibration(file, config, built, isa, pool).run(tokens, progress);
}

}  // namespace onset
