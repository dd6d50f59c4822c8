// Where commands keep what contexts were read as: folders and Redis servers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "onset/cli/command.h"
#include "onset/kv/chunk_store.h"

namespace onset::cli {

struct StoreFlags {
  std::vector<std::string> stores;  // folders and redis:// addresses, the nearest first
  std::string capacity = "16G";     // of each folder
  double megabytes_per_second = 0;
};
// --store, --store-capacity, --store-rate.
void add_store_flags(CLI::App& command, StoreFlags& flags);

// Bytes of a size: "16G", "500M", "4096". Errors: invalid_argument naming the option.
Result<int64_t> bytes_of(const std::string& option, const std::string& text);
bool is_redis(const std::string& store);

Result<std::vector<std::shared_ptr<ChunkStore>>> open_chunk_stores(const StoreFlags& flags);
// Opens them for an engine.
Status use_chunk_stores(const StoreFlags& flags, EngineOptions& options);

}  // namespace onset::cli
