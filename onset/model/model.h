// A loaded model: configuration, packed weights, and layers as lists of operations.
//
//     ModelFile (GGUF or Hugging Face folder) -> read_config -> build_layers -> weights packed, or read from the cache
//
// forward() runs a batch through an Executor. The model knows rows, positions and operations; pages, plans and row sets
// come with the batch.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "onset/base/aligned.h"
#include "onset/base/thread_pool.h"
#include "onset/compute/linear.h"
#include "onset/formats/model_file.h"
#include "onset/model/batch.h"
#include "onset/model/config.h"
#include "onset/model/operations.h"
#include "onset/model/packed_weights.h"

namespace onset {

class Executor;

struct ModelOptions {
  Precision precision = Precision::fast;
  Isa isa = Isa::generic;
  Shard shard = {};
  // Fast precision: what runs to find out what inputs look like (calibration.h); empty: a text of our own.
  std::vector<int32_t> calibration = {};
  // Where packed weights are kept between starts (fast precision only); empty: nowhere.
  std::filesystem::path packed_cache = {};
  // What the model is loaded with in place of its own (load_options.h); empty: nothing.
  std::string rope_scaling = {};
  std::string layers = {};
  // Called while weights are packed, with the share done (0 to 1), from any worker.
  std::function<void(double)> progress = {};
};

class Model {
 public:
  // Loads a model. The file must outlive the model only as far as shared ownership goes: the model keeps it.
  // Errors: those of read_config; not_found and invalid_argument for tensors that are absent, of another shape, or hold values that
  // are not finite; unsupported for a tensor that no layer uses; all name the tensor.
  static Result<Model> load(std::shared_ptr<const ModelFile> file, const ModelOptions& options, ThreadPool& pool);

  const ModelConfig& config() const { return config_; }
  Precision precision() const { return options_.precision; }
  const ModelOptions& options() const { return options_; }
  Isa isa() const { return options_.isa; }
  const ModelFile& file() const { return *file_; }
  const std::vector<Layer>& layers() const { return layers_; }
  const std::vector<LinearWeight>& weights() const { return weights_.linear(); }
  const LinearWeight& head(int index) const { return weights_.linear()[heads_[index]]; }
  const float* output_norm() const { return output_norm_; }
  int32_t query_heads() const { return config_.query_heads / options_.shard.count; }  // of this shard
  int32_t kv_heads() const { return config_.kv_heads / options_.shard.count; }
  size_t packed_bytes() const { return weights_.bytes(); }
  // Why packed weights could not be kept, if they could not (an unwritable cache); empty otherwise.
  const std::string& cache_warning() const { return weights_.warning(); }
  bool packed_from_cache() const { return weights_.from_cache(); }

  // The layout of key/value pages that the model's layers need.
  // head_groups 0: one, or where heads of a layer differ in what they keep, each its own.
  CacheLayout cache_layout(KvType type, int32_t head_groups = 0) const;

  // The input vector of a token, scaled as the model wants it: [hidden].
  void embed(int32_t token, std::span<float> vector) const;

  // Another head over the final hidden state: [out, hidden]. Returns its index for BatchOutput::head.
  Result<int32_t> add_head(int64_t out, const WeightRows& rows, ThreadPool& pool);

  // Runs a batch. Takes pages from the sequences' caches for the rows (all layers they run through).
  // Errors: resource_exhausted (pages), what a layer's loader or a policy's plan says; the batch's sequences are then to be dropped.
  Status forward(const Batch& batch, Executor& executor, OutputSink& sink) const;

 private:
  Model() = default;
  std::shared_ptr<const ModelFile> file_;
  ModelOptions options_;
  ModelConfig config_;
  std::vector<Layer> layers_;
  PackedWeights weights_;
  std::vector<int32_t> heads_;
  std::vector<std::unique_ptr<AlignedVector<float>>> vectors_;    // gains and biases
  std::vector<std::unique_ptr<AlignedVector<std::byte>>> extra_;  // added heads
  const float* output_norm_ = nullptr;
  const StoredTensor* embedding_ = nullptr;
  friend class Calibration;
};

}  // namespace onset
