#include "onset/cli/chunk_stores.h"

#include <cmath>
#include <cstdio>

#include "onset/kv/chunk_folder.h"
#include "onset/kv/chunk_redis.h"

namespace onset::cli {

void add_store_flags(CLI::App& command, StoreFlags& flags) {
  const std::string group = "Chunk stores";
  command
      .add_option("--store", flags.stores,
                  "a folder, or redis://[:PASSWORD@]HOST[:PORT][/DATABASE]: contexts that were read are kept there and found again; may be "
                  "repeated, the nearest first")
      ->allow_extra_args(false)
      ->group(group);
  command.add_option("--store-capacity", flags.capacity, "bytes of each folder at most, as in 500M or 16G")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--store-rate", flags.megabytes_per_second, "loads no faster than so many MB/s, as if from a slower device; 0: no limit")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str()
      ->group(group);
}

Result<int64_t> bytes_of(const std::string& option, const std::string& text) {
  double value = 0;
  int end = 0;
  if (std::sscanf(text.c_str(), "%lf%n", &value, &end) == 1 && std::isfinite(value)) {
    const std::string unit = text.substr(end);
    for (const auto& [name, bytes] :
         {std::pair("", 1.0), std::pair("K", 0x1p10), std::pair("M", 0x1p20), std::pair("G", 0x1p30), std::pair("T", 0x1p40)}) {
      if (unit == name && value * bytes >= 1 && value * bytes < 0x1p62) return static_cast<int64_t>(value * bytes);
    }
  }
  return error(Code::invalid_argument, "{}: {} is not a number of bytes above 0, as in 500M or 16G", option, text);
}

bool is_redis(const std::string& store) {
  return store.find("://") != std::string::npos;
}

Result<std::vector<std::shared_ptr<ChunkStore>>> open_chunk_stores(const StoreFlags& flags) {
  std::vector<std::shared_ptr<ChunkStore>> stores;
  ONSET_ASSIGN(const int64_t capacity, bytes_of("--store-capacity", flags.capacity));
  for (const std::string& store : flags.stores) {
    if (is_redis(store)) {
      ONSET_ASSIGN(stores.emplace_back(), ChunkRedis::open(store));
    } else {
      ONSET_ASSIGN(stores.emplace_back(), ChunkFolder::open(store, capacity));
    }
  }
  return stores;
}

Status use_chunk_stores(const StoreFlags& flags, EngineOptions& options) {
  ONSET_ASSIGN(options.chunk_stores, open_chunk_stores(flags));
  options.chunk_bytes_per_second = flags.megabytes_per_second * 1e6;
  return {};
}

}  // namespace onset::cli
