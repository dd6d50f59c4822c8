// The models of `onset serve` and `onset batch`: one or several, each by a name.
#pragma once

#include <string>
#include <vector>

#include "onset/cli/chunk_stores.h"
#include "onset/cli/command.h"
#include "onset/serve/model_host.h"

namespace onset::cli {

struct ServedModels {
  EngineFlags engine;
  StoreFlags stores;
  std::vector<std::string> models;  // NAME=MODEL or MODEL
  std::string select = "all";
  bool swap = false;  // preempted requests write their pages to a file
  int64_t pool_tokens = 65536;
  bool no_prefix_cache = false;
  bool reuse_auto = false;
  CacheBlendOptions blend = {};  // how --reuse-auto blends
  int32_t most_running = 256;
};
void add_served_models(CLI::App& command, ServedModels& flags);

struct NamedModel {
  std::string name;
  std::filesystem::path path;
};
// Errors: not_found, invalid_argument for NAME= without a model, for two of one name.
Result<std::vector<NamedModel>> find_served_models(const ServedModels& flags);
Result<std::unique_ptr<serve::ModelHost>> load_served_model(const ServedModels& flags, const NamedModel& model, serve::Deliver deliver,
                                                            serve::Metrics& metrics);

}  // namespace onset::cli
