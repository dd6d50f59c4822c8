#include "onset/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "onset/compute/elementwise.h"

namespace onset {
namespace {

using Candidate = Sampler::Candidate;

// A number in [0, 1) that depends on seed and n alone: SplitMix64 (Steele, Lea, Flood 2014) at counter n.
double uniform(uint64_t seed, uint64_t n) {
  uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

bool more_likely(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

// Large buffers of one thread, kept between draws: a vocabulary can have 262,144 tokens.
struct Scratch {
  std::vector<float> logits, weights;
  std::vector<Candidate> candidates;
};
Scratch& scratch() {
  thread_local Scratch scratch;
  return scratch;
}

// The candidates that weigh `least` or more, and the sum of their weights.
double gather(std::span<const float> weights, float least, std::vector<Candidate>& candidates) {
  constexpr size_t block = 32;  // most hold nothing: one vectorised look each
  candidates.clear();
  double sum = 0;
  for (size_t begin = 0; begin < weights.size(); begin += block) {
    const std::span<const float> part = weights.subspan(begin, std::min(block, weights.size() - begin));
    int many = 0;
    for (const float weight : part) many += weight >= least;
    if (many == 0) continue;
    for (size_t i = 0; i < part.size(); ++i) {
      if (part[i] < least) continue;
      candidates.push_back({static_cast<int32_t>(begin + i), part[i]});
      sum += part[i];
    }
  }
  return sum;
}

// Leaves the most likely candidates that together have the probability `enough`. Sorts only as many as it needs.
void keep_top_p(std::vector<Candidate>& candidates, double enough) {
  double sum = 0;
  size_t sorted = 0;
  for (size_t next = 64; sorted < candidates.size(); next *= 4) {
    const size_t end = std::min(next, candidates.size());
    const auto from = candidates.begin() + static_cast<std::ptrdiff_t>(sorted);
    const auto to = candidates.begin() + static_cast<std::ptrdiff_t>(end);
    if (to != candidates.end()) std::nth_element(from, to, candidates.end(), more_likely);
    std::sort(from, to, more_likely);
    for (; sorted < end; ++sorted) {
      sum += candidates[sorted].weight;
      if (sum >= enough) {
        candidates.resize(sorted + 1);
        return;
      }
    }
  }
}

// The index at which the running sum of weight_of(0), weight_of(1), ... passes `point`.
template <typename WeightOf>
size_t pick(size_t count, double point, const WeightOf& weight_of) {
  size_t last = 0;
  for (size_t i = 0; i < count; ++i) {
    if (weight_of(i) <= 0) continue;
    last = i;
    point -= weight_of(i);
    if (point < 0) break;
  }
  return last;  // by rounding the point may lie at the very end
}

}  // namespace

Status check_sampling(const SamplingOptions& options, int32_t vocabulary) {
  const auto fail = [](const char* name, double value, const char* expected) {
    return error(Code::invalid_argument, "{} is {}, expected {}", name, value, expected);
  };
  const auto within = [](float value, float low, float high) { return value >= low && value <= high; };  // NaN is not
  if (!within(options.temperature, 0, 100)) return fail("temperature", options.temperature, "0 (greedy) to 100");
  if (options.top_k < 0) return fail("top_k", options.top_k, "0 (off) or more");
  if (!within(options.top_p, 0, 1) || options.top_p == 0) return fail("top_p", options.top_p, "more than 0, at most 1");
  if (!within(options.min_p, 0, 1)) return fail("min_p", options.min_p, "0 to 1");
  if (!within(options.repetition_penalty, 0.01f, 100)) {
    return fail("repetition_penalty", options.repetition_penalty, "0.01 to 100 (1 = off)");
  }
  if (!within(options.presence_penalty, -100, 100)) return fail("presence_penalty", options.presence_penalty, "-100 to 100");
  if (!within(options.frequency_penalty, -100, 100)) return fail("frequency_penalty", options.frequency_penalty, "-100 to 100");
  if (options.top_logprobs < 0 || options.top_logprobs > 20) return fail("top_logprobs", options.top_logprobs, "0 to 20");
  if (options.grammar != nullptr && options.grammar->vocabulary().tokenizer().vocabulary_size() > vocabulary) {
    return error(Code::invalid_argument, "the grammar was made for a vocabulary of {} tokens, the model has {}",
                 options.grammar->vocabulary().tokenizer().vocabulary_size(), vocabulary);
  }
  if (!options.given.empty() && options.grammar != nullptr) {
    return error(Code::invalid_argument, "given tokens and a grammar: expected one of them");
  }
  for (const int32_t token : options.given) {
    if (token < 0 || token >= vocabulary) {
      return error(Code::invalid_argument, "the given answer has token id {}, expected 0 to {}", token, vocabulary - 1);
    }
  }
  for (const auto& [token, bias] : options.logit_bias) {
    if (token < 0 || token >= vocabulary) {
      return error(Code::invalid_argument, "logit_bias names token {}, the vocabulary has {}", token, vocabulary);
    }
    if (std::isnan(bias)) return error(Code::invalid_argument, "logit_bias of token {} is not a number", token);
  }
  return {};
}

Sampler::Sampler(const SamplingOptions& options, std::span<const int32_t> prompt, Isa isa) : options_(options), isa_(isa) {
  if (options_.grammar != nullptr) constraint_.emplace(options_.grammar);
  if (options_.repetition_penalty == 1.0f) return;
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  for (const int32_t token : tokens) {
    if (token >= 0) seen_.push_back({token, 0});
  }
}

bool Sampler::changes_logits() const {
  return !options_.logit_bias.empty() || !seen_.empty() || constraint_;
}

void Sampler::change_logits(std::span<float> logits) const {
  for (const Seen& seen : seen_) {
    float& logit = logits[seen.token];
    logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    if (seen.generated > 0) {
      logit -= options_.presence_penalty + options_.frequency_penalty * static_cast<float>(seen.generated);
    }
  }
  for (const auto& [token, bias] : options_.logit_bias) logits[token] += bias;
}

void Sampler::leave_only_allowed(std::span<float> logits) {
  constexpr float never = -std::numeric_limits<float>::infinity();
  const std::span<const uint64_t> allowed = constraint_->allowed();
  for (size_t begin = 0; begin < logits.size(); begin += 64) {
    const uint64_t word = begin / 64 < allowed.size() ? allowed[begin / 64] : 0;
    if (word == ~uint64_t{0}) continue;
    const std::span<float> part = logits.subspan(begin, std::min<size_t>(64, logits.size() - begin));
    for (size_t i = 0; i < part.size(); ++i) part[i] = (word >> i & 1) != 0 ? part[i] : never;
  }
}

void Sampler::remember(int32_t token, int32_t generated) {
  if (options_.repetition_penalty == 1.0f && options_.presence_penalty == 0 && options_.frequency_penalty == 0) return;
  const auto place =
      std::lower_bound(seen_.begin(), seen_.end(), token, [](const Seen& seen, int32_t wanted) { return seen.token < wanted; });
  if (place != seen_.end() && place->token == token) {
    place->generated += generated;
  } else {
    seen_.insert(place, {token, generated});
  }
}

int32_t Sampler::draw(std::span<const float> logits) {
  const int32_t largest = argmax(isa_, logits);
  if (!std::isfinite(logits[largest])) return -1;
  if (options_.temperature == 0) return largest;

  std::vector<float>& weights = scratch().weights;
  weights.assign(logits.begin(), logits.end());
  scale(isa_, {weights.data(), 0}, 1, static_cast<int64_t>(weights.size()), 1.0f / options_.temperature);
  softmax(isa_, weights);
  if (!std::isfinite(weights[largest])) return -1;
  const double point = uniform(options_.seed, draws_++);
  if (options_.top_k == 0 && options_.top_p >= 1.0f && options_.min_p == 0) {
    return static_cast<int32_t>(pick(weights.size(), point, [&](size_t i) { return weights[i]; }));
  }
  const std::vector<Candidate>& candidates = filter(weights, weights[largest]);
  double kept = 0;
  for (const Candidate& candidate : candidates) kept += candidate.weight;
  return candidates[pick(candidates.size(), point * kept, [&](size_t i) { return candidates[i].weight; })].token;
}

// What top-k, top-p and min-p leave of the tokens with these probabilities, `largest` being the largest; by ascending id.
const std::vector<Candidate>& Sampler::filter(std::span<const float> weights, float largest) const {
  std::vector<Candidate>& candidates = scratch().candidates;
  const auto k = static_cast<size_t>(options_.top_k);
  const bool limited = k > 0 && k < weights.size();
  const float min_weight = options_.min_p * largest;
  // The filters keep the most likely tokens, mostly few: gather those above a bound, and lower it until they are certainly
  // among them.
  double total = 1;
  for (float bound = 0x1p-6f * largest;; bound = bound > 0x1p-24f * largest ? bound * 0x1p-6f : 0.0f) {
    const double gathered = gather(weights, options_.top_p < 1.0f ? bound : std::max(bound, min_weight), candidates);
    if (limited && bound == 0.0f) total = gathered;
    if (bound == 0.0f || (bound <= min_weight && options_.top_p >= 1.0f)) break;
    if (limited ? candidates.size() >= k : options_.top_p < 1.0f && gathered >= options_.top_p) break;
  }
  if (limited && k < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(k), candidates.end(), more_likely);
    candidates.resize(k);
    total = 0;
    for (const Candidate& candidate : candidates) total += candidate.weight;
  }
  if (options_.top_p < 1.0f) keep_top_p(candidates, options_.top_p * total);
  std::erase_if(candidates, [&](const Candidate& candidate) { return candidate.weight < min_weight; });
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  return candidates;
}

SampledToken Sampler::sample(std::span<const float> logits) {
  SampledToken sampled;
  if (changes_logits()) {
    std::vector<float>& changed = scratch().logits;
    changed.assign(logits.begin(), logits.end());
    change_logits(changed);
    if (constraint_) leave_only_allowed(changed);
    sampled.token = draw(changed);
  } else {
    sampled.token = draw(logits);
  }
  if (sampled.token < 0) return sampled;
  if (constraint_ && !constraint_->accept(sampled.token)) sampled.token = -1;
  if (sampled.token < 0) return sampled;
  // Drawn all the same: logits that are not finite end the answer, and later draws keep their numbers.
  if (given_ < options_.given.size()) sampled.token = options_.given[given_++];
  remember(sampled.token, 1);
  if (options_.logprobs || options_.top_logprobs > 0) {
    const double total = logit_statistics(isa_, logits).log_sum_exp;
    sampled.logprob = static_cast<float>(logits[sampled.token] - total);
    std::vector<Candidate>& candidates = scratch().candidates;
    candidates.clear();
    for (size_t i = 0; i < logits.size(); ++i) candidates.push_back({static_cast<int32_t>(i), logits[i]});
    const size_t count = std::min<size_t>(options_.top_logprobs, candidates.size());
    std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(count), candidates.end(), more_likely);
    for (size_t i = 0; i < count; ++i) {
      sampled.alternatives.emplace_back(candidates[i].token, static_cast<float>(candidates[i].weight - total));
    }
  }
  return sampled;
}

}  // namespace onset
