// The machine file: what steps cost on this machine, for each model and way to run it that was measured. JSON:
//
//   {"format": "onset machine file", "version": 1,
//    "step_models": [
//      {"model": "SmolLM2-135M-Instruct.Q4_1.gguf",     the model file's name ...
//       "weight_bytes": 80740352,                        ... and the bytes of its packed weights: another model of this name is another
//       "threads": 2, "isa": "avx512", "precision": "fast", "kv": "int8",
//       "layers": 30, "row_block": 12,
//       "samples": 312, "ratio_50": 1.0, "ratio_99": 1.12, "mean_error": 0.031,
//       "weights": {"per_step": ..., "per_prefill_row_layer": ..., "per_decode_row_layer": ..., "per_prefill_slot": ...,
//                   "per_decode_slot": ..., "per_output_row": ..., "bends": [[row_layers, seconds], ...]}}]}
//
// Times are in seconds. It lies in the cache folder (machine_file_path()) and is written by `onset bench steps`.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"
#include "onset/cost/step_fit.h"

namespace onset {

// The object that stands under "weights".
std::string to_json(const StepWeights& weights);

// What a step model holds for: other figures, another model.
struct StepModelKey {
  std::string model;
  int64_t weight_bytes = 0;
  int32_t threads = 0;
  std::string isa, precision, kv;
  friend bool operator==(const StepModelKey&, const StepModelKey&) = default;
};

struct StepModel {
  StepModelKey key;
  int32_t layers = 0;
  int32_t row_block = 1;  // rows that the linear kernels compute together
  StepFit fit;
};

class MachineFile {
 public:
  // Errors: those of read_file; invalid_argument naming the file and the field that is absent, of another type, or makes no sense.
  static Result<MachineFile> load(const std::filesystem::path& path);
  static Result<MachineFile> parse(std::string_view json, const std::string& name);
  // Errors: those of AtomicFile. Makes the folder.
  Status save(const std::filesystem::path& path) const;
  std::string to_json() const;

  const std::vector<StepModel>& step_models() const { return step_models_; }
  const StepModel* find(const StepModelKey& key) const;
  // In place of the one with this key, or beside the others.
  void put(StepModel model);

 private:
  std::vector<StepModel> step_models_;
};

// `${XDG_CACHE_HOME:-~/.cache}/onset/machine.json`.
std::filesystem::path machine_file_path();

}  // namespace onset
