// Turning a model into a GGUF file of another element type: from a Hugging Face folder, or from GGUF
// (requantising).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/base/thread_pool.h"
#include "onset/formats/gguf.h"
#include "onset/formats/model_file.h"

namespace onset {

struct ConvertProgress {
  std::string tensor;       // the one at hand
  uint64_t bytes_done = 0;  // of the result's tensors
  uint64_t bytes_total = 0;
};

struct ConvertOptions {
  DType dtype = DType::q8_0;  // F32, F16, BF16 or a block format
  // Every matrix gets `dtype` (as far as its rows allow). Otherwise some get more bits, chosen as
  // llama-quantize does: the output matrix (or the embedding where it serves as such) gets Q6_K unless dtype
  // is Q8_0; for Q4_K and Q5_K also the value and down projections of the first and last eighth and of every
  // third layer between (its "_M" mixes).
  bool pure = false;
  GgufSplit split = {};
  std::function<void(const ConvertProgress&)> progress = {};  // called on the calling thread
};

// A matrix whose rows are no multiple of the block size of the type that was meant for it.
struct ConvertFallback {
  std::string tensor;
  DType meant = DType::f32, used = DType::f32;
  int64_t columns = 0;
};

struct ConvertReport {
  std::vector<std::filesystem::path> files;
  uint64_t source_bytes = 0, bytes = 0;  // of tensors
  int64_t tensors = 0;
  int64_t requantised = 0;  // matrices that were in another block format before, so that errors add up
  std::vector<ConvertFallback> fallbacks;
};

// The type that `tensor` of a model gets under these options, before and after looking at the length of its
// rows. Vectors become F32; norms, biases and integers are not matrices to quantise. Rows that are no
// multiple of 256 take Q5_0, Q5_1 or Q8_0 instead of Q4_K, Q5_K or Q6_K; rows that are no multiple of 32 take
// F16.
struct ChosenType {
  DType meant, used;
};
ChosenType choose_type(const ModelFile& model, const StoredTensor& tensor, const ConvertOptions& options);

// Writes the model to `destination` (GGUF), which appears whole or not at all.
// Errors: invalid_argument for values that are infinite, not a number or too large for F16 (naming the
// tensor), resource_exhausted when the disk is full, and what AtomicFile says.
Result<ConvertReport> convert(const ModelFile& model, const std::filesystem::path& destination, const ConvertOptions& options,
                              ThreadPool& pool);

}  // namespace onset
