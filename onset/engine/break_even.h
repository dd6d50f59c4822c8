// What a text costs a request: how much later the first token comes because of it, if it is computed, and if it is loaded.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "onset/cost/break_even.h"
#include "onset/engine/engine.h"

namespace onset {

// A place that texts are loaded from.
struct MeasuredTier {
  std::string name;
  ChunkStore* store = nullptr;  // one of the engine's; null: the engine's memory (its prefix cache)
  // Called before each loading of a chunk (the file is dropped from memory, say); false: this tier cannot be measured here.
  std::function<Result<bool>(const std::string& key)> before = {};
  // Called after it: the chunk is not needed any more.
  std::function<Status(const std::string& key)> after = {};
};

struct TierTimes {
  std::vector<double> first_token_seconds;
  std::vector<double> load_seconds;  // of them, loading alone; in memory, turning the keys to their places and copying
  int64_t bytes = 0;                 // that are loaded, whole pages
};

// Of one length, one number for each round. All are times from submit() to the first token of a prompt whose last token is the same.
struct ChunkTimes {
  int32_t tokens = 0;
  std::vector<double> alone_seconds = {};    // the last token by itself
  std::vector<double> compute_seconds = {};  // the text before it is computed in one piece with it
  std::vector<TierTimes> tiers = {};         // the text is a context of its own, and reused as it is
};

struct BreakEvenOptions {
  std::vector<int32_t> tokens;  // lengths of texts
  int32_t repeat = 5;
  uint64_t seed = 1;                                // decides the texts
  std::function<void(double share)> progress = {};  // of all that is to be measured
};

// Measures in turns, so that what disturbs meets all alike. A tier that cannot be measured has no times. Each round puts a chunk of its own
// into each store. Errors: invalid_argument for lengths that make no sense or are beyond the context; failed where a text did not come from
// the tier that has it (a pool that is too small to keep it, a store that failed); those of Engine::submit and of the stores.
Result<std::vector<ChunkTimes>> measure_break_even(Engine& engine, std::span<const MeasuredTier> tiers, const BreakEvenOptions& options);

// How much later the first token comes: the medians' difference, at least a microsecond.
double delay_seconds(const ChunkTimes& times, std::span<const double> first_token_seconds);

// The shape of a loaded model; its name is that of its file.
ModelShape shape_of(const Model& model);

// Bytes of one number of keys and values, with its part of what the numbers of a page share (scales).
double bytes_of_number(KvType type, int32_t head_size);

}  // namespace onset
