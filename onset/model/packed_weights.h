// All packed matrices of a model in one stretch of memory: packed at the first start, read from a file afterwards.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "onset/base/mapped_file.h"
#include "onset/base/thread_pool.h"
#include "onset/compute/linear.h"
#include "onset/formats/model_file.h"

namespace onset {

// A matrix to be packed: its rows come from stored tensors stacked one upon the other (queries, keys and values, or
// gate and up, become one matrix); of each tensor a range of rows and of columns (a shard's share).
struct WeightPart {
  const StoredTensor* tensor = nullptr;
  int64_t row_begin = 0, row_end = 0;
};
struct WeightPlan {
  std::string name;
  std::vector<WeightPart> parts;
  int64_t column_begin = 0, column_end = 0;

  int64_t in() const { return column_end - column_begin; }
  int64_t out() const {
    int64_t rows = 0;
    for (const WeightPart& part : parts) rows += part.row_end - part.row_begin;
    return rows;
  }
};

// For one matrix: input' = (input - shift) * inverse, both [in] (calibration.h).
struct Conditioning {
  std::vector<float> shift, inverse;
};

// Row `row` of a stacked matrix, dequantised: plan.in() values.
void read_weight_row(const WeightPlan& plan, int64_t row, std::span<float> values);

class PackedWeights {
 public:
  PackedWeights() = default;
  PackedWeights(PackedWeights&&) noexcept = default;
  PackedWeights& operator=(PackedWeights&&) noexcept = default;

  // Packs the matrices of `plans`, or reads them from `cache_file` if that holds exactly these (same model file by path, size
  // and time, same layout version, same sizes). An empty path: no file. A file that cannot be written is no error but a
  // warning(). `conditioning` is asked for each matrix's input conditioning when packing is needed; null: none.
  // Errors: invalid_argument for values that are not finite, naming the tensor; resource_exhausted for memory; conditioning's.
  using ConditioningSource = std::function<Result<std::vector<Conditioning>>()>;
  static Result<PackedWeights> make(const std::vector<WeightPlan>& plans, Precision precision, const std::filesystem::path& cache_file,
                                    const std::string& identity, const ConditioningSource& conditioning, ThreadPool& pool,
                                    const std::function<void(double)>& progress);

  const std::vector<LinearWeight>& linear() const { return linear_; }
  // Adds a matrix whose bytes somebody else owns; returns its index.
  int32_t add(const LinearWeight& weight) {
    linear_.push_back(weight);
    return static_cast<int32_t>(linear_.size()) - 1;
  }
  // Where a matrix lies that was added without its bytes.
  void set_data(int32_t index, const std::byte* data) { linear_[index].data = data; }
  size_t bytes() const { return bytes_; }
  bool from_cache() const { return from_cache_; }
  const std::string& warning() const { return warning_; }

 private:
  std::vector<LinearWeight> linear_;
  std::shared_ptr<const void> memory_;
  size_t bytes_ = 0;
  bool from_cache_ = false;
  std::string warning_;
};

// Names one model file and one way of packing it: goes into the cache file's name and header.
std::string packed_identity(const ModelFile& file, Precision precision, int32_t shard_index, int32_t shard_count);

}  // namespace onset
