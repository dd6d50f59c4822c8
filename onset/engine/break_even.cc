#include "onset/engine/break_even.h"

#include <algorithm>
#include <numeric>
#include <random>

#include "onset/compute/page_format.h"
#include "onset/engine/benchmark.h"
#include "onset/model/fingerprint.h"

namespace onset {
namespace {

class Measurement {
 public:
  Measurement(Engine& engine, std::span<const MeasuredTier> tiers, const BreakEvenOptions& options)
      : engine_(engine), tiers_(tiers), random_(options.seed), options_(options) {
    identity_ = chunk_identity(model_fingerprint(engine.model()), engine.model().cache_layout(engine.kv_type()));
    space_ = fmt::format("break-even {}", options.seed);
    if (const auto bos = engine.tokenizer() != nullptr ? engine.tokenizer()->bos() : std::nullopt; bos) lead_ = {*bos};
  }

  Result<ChunkTimes> times_of(int32_t tokens) {
    text_ = random_tokens(tokens);
    query_ = random_tokens(1);
    // Before it stands another token than it was read behind: what is exact in its place would only be shared.
    prefix_ = lead_;
    prefix_.push_back(random_tokens(1).front());
    ChunkTimes times{.tokens = tokens, .tiers = std::vector<TierTimes>(tiers_.size())};
    // It is read once, which leaves it in memory and in all stores; its bytes are what each round's chunks are made of.
    ONSET_TRY(ask(with_context(space_)).status());
    engine_.wait_until_kept();
    ONSET_TRY(take_pages());
    possible_.assign(tiers_.size(), true);
    ONSET_TRY(round(nullptr));  // warms up
    for (int32_t i = 0; i < options_.repeat; ++i) ONSET_TRY(round(&times));
    ONSET_TRY(forget(space_));
    for (size_t i = 0; i < tiers_.size(); ++i) {
      if (!possible_[i]) times.tiers[i] = {};
    }
    return times;
  }

 private:
  std::vector<int32_t> random_tokens(int32_t count) {
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random_() % static_cast<uint64_t>(engine_.model().config().vocabulary));
    return tokens;
  }

  ChunkText chunk_text(const std::string& space) const { return {.space = space, .lead = lead_, .tokens = text_}; }
  std::string key(const std::string& space) const { return chunk_key(identity_, chunk_text(space)); }

  Request with_context(const std::string& space) const {
    return {.tokens = query_, .contexts = {{prefix_, {text_}, CacheBlendOptions{.ratio = 0}}}, .space = space};
  }

  Result<Event> ask(Request request) {
    Event last;
    request.most_new_tokens = 1;
    request.ignore_end = true;
    ONSET_TRY(run_to_end(engine_, std::move(request), [&](const Event& event) { last = event; }));
    return last;
  }

  // The bytes of the text's keys and values, from whichever store has them.
  Status take_pages() {
    for (const MeasuredTier& tier : tiers_) {
      if (tier.store == nullptr) continue;
      const auto found = tier.store->find(key(space_), identity_);
      if (!found) {
        const ChunkStoreStatistics counts = tier.store->statistics();
        return error(Code::failed, "{} does not keep a chunk of {} tokens{}", tier.name, text_.size(),
                     counts.failure.empty() ? "" : ": " + counts.failure);
      }
      pages_.resize(static_cast<size_t>(found->bytes()));
      const size_t page = identity_.page_bytes(), layer_bytes = pages_.size() / identity_.layers;
      for (int32_t layer = 0; layer < identity_.layers; ++layer) {
        std::vector<std::byte*> places;
        for (size_t at = 0; at < layer_bytes; at += page) places.push_back(pages_.data() + layer * layer_bytes + at);
        ONSET_TRY(found->read_layer(layer, places));
      }
    }
    return {};
  }

  Status forget(const std::string& space) {
    for (const MeasuredTier& tier : tiers_) {
      if (tier.after) ONSET_TRY(tier.after(key(space)));
    }
    return {};
  }

  // times: null where nothing is noted.
  Status round(ChunkTimes* times) {
    const auto plain = [&](std::vector<int32_t> tokens) -> Result<double> {
      tokens.insert(tokens.end(), query_.begin(), query_.end());
      ONSET_ASSIGN(const Event event, ask({.tokens = std::move(tokens), .prefix_cache = false}));
      return event.first_token_seconds;
    };
    std::vector<int32_t> all = prefix_;
    ONSET_ASSIGN(const double alone, plain(all));
    all.insert(all.end(), text_.begin(), text_.end());
    ONSET_ASSIGN(const double compute, plain(all));
    if (times != nullptr) {
      times->alone_seconds.push_back(alone);
      times->compute_seconds.push_back(compute);
    }
    for (size_t i = 0; i < tiers_.size(); ++i) {
      if (possible_[i]) ONSET_TRY(load(i, times));
    }
    return {};
  }

  // Stores get a chunk of their own each time, which memory does not have.
  Status load(size_t index, ChunkTimes* times) {
    const MeasuredTier& tier = tiers_[index];
    const std::string space = tier.store == nullptr ? space_ : fmt::format("{} {}", space_, ++chunks_);
    if (tier.store != nullptr) ONSET_TRY(tier.store->put({.identity = identity_, .text = chunk_text(space), .pages = pages_}));
    if (tier.before) {
      ONSET_ASSIGN(const bool possible, tier.before(key(space)));
      possible_[index] = possible;
    }
    if (possible_[index]) {
      ONSET_ASSIGN(const Event event, ask(with_context(space)));
      const std::map<std::string, int32_t> expected = {
          {tier.store == nullptr ? "memory" : tier.store->tier(), static_cast<int32_t>(text_.size())}};
      if (event.contexts->tokens != expected) {
        return error(Code::failed,
                     "{}: a chunk of {} tokens came from elsewhere: the pool is too small to keep it, or the store has failed", tier.name,
                     text_.size());
      }
      if (times != nullptr) {
        TierTimes& here = times->tiers[index];
        here.first_token_seconds.push_back(event.first_token_seconds);
        here.load_seconds.push_back(tier.store == nullptr ? event.blend->place_seconds : event.contexts->load_seconds);
        here.bytes = tier.store == nullptr ? chunk_bytes() : event.contexts->loaded_bytes;
      }
    }
    return tier.after ? tier.after(key(space)) : Status();
  }

  int64_t chunk_bytes() const {
    const auto pages = static_cast<int64_t>(chunk_pages(chunk_text(space_).slots()));
    return pages * identity_.layers * identity_.head_groups * static_cast<int64_t>(identity_.page_bytes());
  }

  Engine& engine_;
  const std::span<const MeasuredTier> tiers_;
  std::mt19937_64 random_;
  const BreakEvenOptions& options_;
  ChunkIdentity identity_;
  std::string space_;
  std::vector<int32_t> lead_, prefix_, text_, query_;
  std::vector<std::byte> pages_;
  std::vector<bool> possible_;
  int64_t chunks_ = 0;
};

}  // namespace

Result<std::vector<ChunkTimes>> measure_break_even(Engine& engine, std::span<const MeasuredTier> tiers, const BreakEvenOptions& options) {
  // Before the text stand two tokens, behind it the one that is asked and its answer.
  const int32_t most = engine.context() - 4;
  for (const int32_t tokens : options.tokens) {
    if (tokens >= 1 && tokens <= most) continue;
    return error(Code::invalid_argument, "a chunk of {} tokens cannot be measured: expected 1 to {}", tokens, most);
  }
  if (options.repeat < 1) return error(Code::invalid_argument, "repeat is {}, expected 1 or more", options.repeat);
  Measurement measurement(engine, tiers, options);
  // The longest first: it touches most of the pool, and whoever comes later does not pay for that.
  std::vector<size_t> order(options.tokens.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return options.tokens[a] > options.tokens[b]; });
  std::vector<ChunkTimes> all(order.size());
  double done = 0;
  for (const size_t i : order) {
    if (options.progress) options.progress(done++ / static_cast<double>(order.size()));
    ONSET_ASSIGN(all[i], measurement.times_of(options.tokens[i]));
  }
  return all;
}

double delay_seconds(const ChunkTimes& times, std::span<const double> first_token_seconds) {
  return std::max(1e-6, median({first_token_seconds.begin(), first_token_seconds.end()}) - median(times.alone_seconds));
}

ModelShape shape_of(const Model& model) {
  const ModelConfig& config = model.config();
  return {.name = model.file().path().stem().string(),
          .layers = config.layers,
          .hidden = config.hidden,
          .query_heads = config.query_heads,
          .kv_heads = config.kv_heads,
          .head_size = config.head_size,
          .feed_forward = config.feed_forward};
}

double bytes_of_number(KvType type, int32_t head_size) {
  return static_cast<double>(page_bytes(type, 1, head_size)) / (2.0 * page_tokens * head_size);
}

}  // namespace onset
