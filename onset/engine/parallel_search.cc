#include "onset/engine/parallel_search.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <tuple>

namespace onset {
namespace {

constexpr ParallelContextsOptions unscaled = {.temperature = 1, .scale = 1};

struct Candidate {
  std::string stage;
  size_t prefix = 0;
  ParallelContextsOptions options;
};

// Scores candidates and keeps what came of them.
class Search {
 public:
  Search(Engine& engine, std::span<const AnsweredPrompt> prompts, std::span<const std::vector<int32_t>> prefixes,
         const ParallelSearchOptions& options)
      : engine_(engine), prompts_(prompts.begin(), prompts.end()), prefixes_(prefixes), options_(options) {
    // A stage's candidates but the one that the stage before has scored; the defaults, mostly twice.
    const size_t expected = prefixes.size() + options.temperatures.size() - 1 + options.scales.size() - 1 + 2;
    expected_ = static_cast<int64_t>(expected * prompts.size());
    labels_ = std::all_of(prompts.begin(), prompts.end(), [](const AnsweredPrompt& prompt) { return prompt.label.has_value(); });
  }

  // Scores a stage's candidates; returns the best of them.
  Result<size_t> run(const std::vector<Candidate>& candidates) {
    std::vector<size_t> places, unscored;
    for (const Candidate& candidate : candidates) {
      places.push_back(place_of(candidate));
      if (found_.trace[places.back()].logprobs.empty()) unscored.push_back(places.back());
    }
    const auto count = static_cast<double>(prompts_.size());
    for (size_t i = 0; i < prompts_.size(); ++i) {
      for (const size_t place : unscored) {
        ParallelConfiguration& configuration = found_.trace[place];
        prompts_[i].parts.prefix = prefixes_[configuration.prefix];
        const auto score = score_answers(engine_, prompts_[i], configuration.options);
        if (!score.ok()) return score.status().within(fmt::format("prompt {}", i + 1));
        configuration.logprobs.push_back(score->logprob);
        configuration.logprob += score->logprob / count;
        configuration.accuracy += score->right ? 1 / count : 0;
        ++done_;
        if (options_.progress) options_.progress(done_, std::max(done_, expected_));
      }
    }
    return *std::max_element(places.begin(), places.end(), [&](size_t a, size_t b) { return worse(a, b); });
  }

  bool worse(size_t a, size_t b) const {
    // Shares are sums of the same addends: compared as counts of prompts.
    const auto merit = [&](size_t place) {
      const ParallelConfiguration& configuration = found_.trace[place];
      const auto right = std::lround(configuration.accuracy * static_cast<double>(prompts_.size()));
      return std::tuple(labels_ ? right : 0, configuration.logprob);
    };
    return merit(a) < merit(b);
  }

  ParallelSearch& found() { return found_; }

 private:
  // Where the trace has a candidate; it is added if need be.
  size_t place_of(const Candidate& candidate) {
    for (size_t i = 0; i < found_.trace.size(); ++i) {
      const ParallelConfiguration& known = found_.trace[i];
      if (known.prefix == candidate.prefix && known.options.temperature == candidate.options.temperature &&
          known.options.scale == candidate.options.scale) {
        return i;
      }
    }
    found_.trace.push_back(
        {.stage = candidate.stage, .prefix = candidate.prefix, .options = candidate.options, .accuracy = 0, .logprob = 0, .logprobs = {}});
    return found_.trace.size() - 1;
  }

  Engine& engine_;
  std::vector<AnsweredPrompt> prompts_;
  std::span<const std::vector<int32_t>> prefixes_;
  const ParallelSearchOptions& options_;
  bool labels_ = false;
  int64_t done_ = 0, expected_ = 0;
  ParallelSearch found_;
};

Status check_search(std::span<const AnsweredPrompt> prompts, std::span<const std::vector<int32_t>> prefixes,
                    const ParallelSearchOptions& options) {
  for (const auto& [what, count] : {std::pair("prompts", prompts.size()), std::pair("prefixes", prefixes.size()),
                                    std::pair("temperatures", options.temperatures.size()), std::pair("scales", options.scales.size())}) {
    if (count == 0) return error(Code::invalid_argument, "the list of {} is empty: expected one or more", what);
  }
  for (const float temperature : options.temperatures) ONSET_TRY(check_parallel_contexts({.temperature = temperature}));
  for (const float scale : options.scales) ONSET_TRY(check_parallel_contexts({.scale = scale}));
  if (options.usual_prefix < prefixes.size()) return {};
  return error(Code::invalid_argument, "the usual prefix is {}, expected 0 to {}", options.usual_prefix, prefixes.size() - 1);
}

}  // namespace

Result<ParallelSearch> search_parallel_contexts(Engine& engine, std::span<const AnsweredPrompt> prompts,
                                                std::span<const std::vector<int32_t>> prefixes, const ParallelSearchOptions& options) {
  ONSET_TRY(check_search(prompts, prefixes, options));
  Search search(engine, prompts, prefixes, options);
  ParallelSearch& found = search.found();

  std::vector<Candidate> candidates;
  for (size_t prefix = 0; prefix < prefixes.size(); ++prefix) candidates.push_back({"prefix", prefix, unscaled});
  ONSET_ASSIGN(size_t best, search.run(candidates));
  const size_t prefix = found.trace[best].prefix;

  candidates = {{"temperature", prefix, unscaled}};
  for (const float temperature : options.temperatures)
    candidates.push_back({"temperature", prefix, {.temperature = temperature, .scale = 1}});
  ONSET_ASSIGN(best, search.run(candidates));
  const float temperature = found.trace[best].options.temperature;

  candidates = {{"scale", prefix, {.temperature = temperature, .scale = 1}}};
  for (const float scale : options.scales) candidates.push_back({"scale", prefix, {.temperature = temperature, .scale = scale}});
  ONSET_ASSIGN(best, search.run(candidates));

  ONSET_ASSIGN(found.usual, search.run({{"default", options.usual_prefix, {}}}));
  ONSET_ASSIGN(const size_t defaults, search.run({{"default", prefix, {}}}));
  for (const size_t place : {defaults, found.usual}) {
    if (search.worse(best, place)) best = place;
  }
  found.best = best;
  return std::move(found);
}

std::vector<size_t> draw_some(size_t count, size_t drawn, uint64_t seed) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  drawn = std::min(count, drawn);
  std::mt19937_64 random(seed);
  // Not std::shuffle, whose draws differ from library to library.
  for (size_t i = 0; i < drawn; ++i) std::swap(order[i], order[i + random() % (count - i)]);
  order.resize(drawn);
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace onset
