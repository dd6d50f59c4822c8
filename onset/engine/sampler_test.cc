#include "onset/engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "onset/compute/elementwise.h"
#include "onset/text/json_schema.h"
#include "onset/text/tokenizer_json.h"

namespace onset {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

std::vector<float> random_logits(size_t size, uint32_t seed, float spread = 4.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// How often each token comes in many draws.
std::map<int32_t, double> frequencies(SamplingOptions options, std::span<const float> logits, int draws = 20000) {
  std::map<int32_t, double> counts;
  Sampler sampler(options, {}, Isa::generic);
  for (int i = 0; i < draws; ++i) counts[sampler.sample(logits).token] += 1.0 / draws;
  return counts;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  Sampler sampler({}, {}, Isa::generic);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 5, 2, 5}).token, 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{not_a_number, not_a_number}).token, -1);
  EXPECT_EQ(sampler.sample(std::vector<float>{0, infinity}).token, -1);
}

TEST(Sampler, DrawsFollowTheDistribution) {
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, -1.0f};
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    double total = 0;
    for (const float logit : logits) total += std::exp(logit / temperature);
    const auto counts = frequencies({.temperature = temperature, .seed = 3}, logits);
    for (const auto& [token, share] : counts) {
      const double p = std::exp(logits[token] / temperature) / total;
      EXPECT_NEAR(share, p, 4 * std::sqrt(p * (1 - p) / 20000)) << token;
    }
  }
}

TEST(Sampler, GivenTokensComeFirstWithTheLogProbabilityThatTheyHad) {
  const std::vector<float> logits = random_logits(50, 11);
  Sampler sampler({.logprobs = true, .given = {7, 3}}, {}, Isa::generic), greedy({.logprobs = true}, {}, Isa::generic);
  const double total = logit_statistics(Isa::generic, logits).log_sum_exp;
  for (const int32_t token : {7, 3}) {
    const SampledToken sampled = sampler.sample(logits);
    EXPECT_EQ(sampled.token, token);
    EXPECT_NEAR(sampled.logprob, logits[token] - total, 1e-5);
  }
  EXPECT_EQ(sampler.sample(logits).token, greedy.sample(logits).token);
  EXPECT_EQ(sampler.sample(std::vector<float>(50, not_a_number)).token, -1);
  EXPECT_EQ(check_sampling({.given = {50}}, 50).code(), Code::invalid_argument);
  EXPECT_TRUE(check_sampling({.given = {49}}, 50).ok());
}

TEST(Sampler, DrawsDependOnSeedAndNumberAlone) {
  const std::vector<float> logits = random_logits(1000, 5, 1.0f);
  const SamplingOptions options{.temperature = 1.0f, .seed = 11};
  Sampler a(options, {}, Isa::generic);
  Sampler b(options, {}, Isa::generic);
  std::vector<int32_t> first, second, other;
  for (int i = 0; i < 20; ++i) first.push_back(a.sample(logits).token);
  for (int i = 0; i < 20; ++i) second.push_back(b.sample(logits).token);
  EXPECT_EQ(first, second);
  Sampler c({.temperature = 1.0f, .seed = 12}, {}, Isa::generic);
  for (int i = 0; i < 20; ++i) other.push_back(c.sample(logits).token);
  EXPECT_NE(first, other);
}

TEST(Sampler, FiltersKeepTheMostLikelyTokens) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.25f), std::log(0.15f), std::log(0.07f), std::log(0.03f)};
  const auto kept = [&](SamplingOptions options) {
    options.temperature = 1.0f;
    std::vector<int32_t> tokens;
    for (const auto& [token, share] : frequencies(options, logits)) tokens.push_back(token);
    return tokens;
  };
  using Tokens = std::vector<int32_t>;
  EXPECT_EQ(kept({}), (Tokens{0, 1, 2, 3, 4}));
  EXPECT_EQ(kept({.top_k = 2}), (Tokens{0, 1}));
  EXPECT_EQ(kept({.top_p = 0.8f}), (Tokens{0, 1, 2}));
  EXPECT_EQ(kept({.top_p = 0.01f}), (Tokens{0}));
  EXPECT_EQ(kept({.min_p = 0.2f}), (Tokens{0, 1, 2}));
  // Top-p works on what top-k leaves (0.5 of 0.75 is two thirds), min-p after both.
  EXPECT_EQ(kept({.top_k = 2, .top_p = 0.6f}), (Tokens{0}));
  EXPECT_EQ(kept({.top_p = 0.95f, .min_p = 0.4f}), (Tokens{0, 1}));
  // Min-p does not change what top-p counts: 0.9 of everything takes the first three.
  EXPECT_EQ(kept({.top_p = 0.8f, .min_p = 0.45f}), (Tokens{0, 1}));
}

TEST(Sampler, TopPSortsNoMoreThanItNeedsAndIsRight) {
  const std::vector<float> logits = random_logits(5000, 9, 1.0f);
  std::vector<std::pair<float, int32_t>> sorted;
  for (int32_t i = 0; i < 5000; ++i) sorted.emplace_back(-logits[i], i);
  std::sort(sorted.begin(), sorted.end());
  const double total = std::exp(logit_statistics(Isa::generic, logits).log_sum_exp);
  double sum = 0;
  std::map<int32_t, bool> allowed;
  for (const auto& [negative, token] : sorted) {
    allowed[token] = true;
    if ((sum += std::exp(-negative)) >= 0.7 * total) break;
  }
  const auto counts = frequencies({.temperature = 1.0f, .top_p = 0.7f}, logits, 3000);
  for (const auto& [token, share] : counts) EXPECT_TRUE(allowed.count(token)) << token;
  EXPECT_GT(counts.size(), 300u);
}

TEST(Sampler, PenaltiesAndBiasChangeLogits) {
  const std::vector<float> logits = {2.0f, 1.9f, -1.0f};
  const std::vector<int32_t> prompt = {-1, 0, 0};
  EXPECT_EQ(Sampler({.repetition_penalty = 1.2f}, prompt, Isa::generic).sample(logits).token, 1);
  EXPECT_EQ(Sampler({.repetition_penalty = 1.2f}, {}, Isa::generic).sample(logits).token, 0);
  EXPECT_EQ(Sampler({.presence_penalty = 1.0f}, prompt, Isa::generic).sample(logits).token, 0);  // the prompt was not generated
  Sampler presence({.presence_penalty = 0.2f}, {}, Isa::generic);
  EXPECT_EQ(presence.sample(logits).token, 0);
  EXPECT_EQ(presence.sample(logits).token, 1);
  EXPECT_EQ(presence.sample(logits).token, 0);
  EXPECT_EQ(presence.sample(logits).token, 0);  // once or twice is the same
  Sampler frequency({.frequency_penalty = 0.2f}, {}, Isa::generic);
  EXPECT_EQ(frequency.sample(logits).token, 0);
  EXPECT_EQ(frequency.sample(logits).token, 1);
  EXPECT_EQ(frequency.sample(logits).token, 0);
  EXPECT_EQ(frequency.sample(logits).token, 1);
  EXPECT_EQ(Sampler({.logit_bias = {{2, 10.0f}}}, {}, Isa::generic).sample(logits).token, 2);
  const auto counts = frequencies({.temperature = 1.0f, .logit_bias = {{0, -infinity}}}, logits);
  EXPECT_EQ(counts.count(0), 0u);
}

TEST(Sampler, LogProbabilitiesAreOfTheUnmodifiedDistribution) {
  const std::vector<float> logits = {2.0f, 1.0f, -1.0f, 2.0f};
  Sampler sampler({.logit_bias = {{2, 10.0f}}, .top_logprobs = 3}, {}, Isa::generic);
  const SampledToken sampled = sampler.sample(logits);
  const double total = std::log(2 * std::exp(2.0) + std::exp(1.0) + std::exp(-1.0));
  EXPECT_EQ(sampled.token, 2);
  EXPECT_NEAR(sampled.logprob, -1.0 - total, 1e-6);
  ASSERT_EQ(sampled.alternatives.size(), 3u);
  EXPECT_EQ(sampled.alternatives[0].first, 0);
  EXPECT_EQ(sampled.alternatives[1].first, 3);
  EXPECT_EQ(sampled.alternatives[2].first, 1);
  EXPECT_NEAR(sampled.alternatives[2].second, 1.0 - total, 1e-6);
}

TEST(Sampler, BadOptionsAreNamed) {
  const auto message = [](SamplingOptions options) { return check_sampling(options, 100).message(); };
  EXPECT_EQ(message({}), "");
  EXPECT_EQ(message({.temperature = -1}), "temperature is -1, expected 0 (greedy) to 100");
  EXPECT_EQ(message({.temperature = not_a_number}), "temperature is nan, expected 0 (greedy) to 100");
  EXPECT_EQ(message({.top_k = -2}), "top_k is -2, expected 0 (off) or more");
  EXPECT_EQ(message({.top_p = 0}), "top_p is 0, expected more than 0, at most 1");
  EXPECT_EQ(message({.min_p = 1.5}), "min_p is 1.5, expected 0 to 1");
  EXPECT_EQ(message({.repetition_penalty = 0}), "repetition_penalty is 0, expected 0.01 to 100 (1 = off)");
  EXPECT_EQ(message({.logit_bias = {{100, 1.0f}}}), "logit_bias names token 100, the vocabulary has 100");
  EXPECT_EQ(message({.top_logprobs = 21}), "top_logprobs is 21, expected 0 to 20");
}

// --- grammars -----------------------------------------------------------------------------------------------------

Tokenizer fixture_tokenizer() {
  auto loaded = load_tokenizer(std::filesystem::path(ONSET_SOURCE_DIR) / "tests/fixtures/text/smollm");
  EXPECT_TRUE(loaded.ok()) << loaded.status().message();
  return *std::move(loaded);
}

std::shared_ptr<const TokenGrammar> fixture_grammar(const Tokenizer& tokenizer) {
  auto grammar = compile_json_schema(R"({"type": "object", "properties": {"name": {"type": "string", "maxLength": 20},
      "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 4}}, "required": ["name", "sizes"],
      "additionalProperties": false})",
                                     "schema");
  EXPECT_TRUE(grammar.ok()) << grammar.status().message();
  return std::make_shared<const TokenGrammar>(*std::move(grammar), TokenTrie::create(tokenizer));
}

TEST(SamplerGrammar, WhateverIsDrawnIsATextOfIt) {
  const Tokenizer tokenizer = fixture_tokenizer();
  const auto grammar = fixture_grammar(tokenizer);
  const auto size = static_cast<size_t>(tokenizer.vocabulary_size());
  const std::vector<SamplingOptions> all = {{},
                                            {.temperature = 1.0f},
                                            {.temperature = 2.0f, .top_k = 50},
                                            {.temperature = 1.0f, .top_p = 0.5f},
                                            {.temperature = 1.0f, .min_p = 0.1f},
                                            {.temperature = 1.0f, .repetition_penalty = 1.5f, .presence_penalty = 1.0f, .logprobs = true},
                                            {.temperature = 1.0f, .logit_bias = {{5, 1000.0f}}, .top_logprobs = 3}};
  for (SamplingOptions options : all) {
    for (uint32_t round = 0; round < 4; ++round) {
      options.grammar = grammar;
      options.seed = round;
      Sampler sampler(options, {}, Isa::generic);
      std::string text;
      bool ended = false;
      for (uint32_t i = 0; i < 400 && !ended; ++i) {
        const std::vector<float> logits = random_logits(size + 10, 1000 * round + i);  // rows beyond the vocabulary are never drawn
        const SampledToken sampled = sampler.sample(logits);
        ASSERT_GE(sampled.token, 0);
        ASSERT_LT(sampled.token, tokenizer.vocabulary_size());
        ended = tokenizer.is_end_of_generation(sampled.token);
        if (!ended) text += tokenizer.piece(sampled.token);
        if (options.top_logprobs == 0) continue;
        // Log-probabilities are those without the grammar.
        EXPECT_EQ(sampled.alternatives.size(), 3u);
        EXPECT_EQ(sampled.alternatives[0].first, argmax(Isa::generic, logits));
      }
      ASSERT_TRUE(ended) << text;
      const auto json = nlohmann::json::parse(text, nullptr, false);
      ASSERT_TRUE(json.is_object()) << text;
      EXPECT_TRUE(json.contains("name") && json.contains("sizes") && json.size() == 2 && json["sizes"].size() <= 4) << text;
    }
  }
}

TEST(SamplerGrammar, NothingIsDrawnWhereNothingIsAllowed) {
  const Tokenizer tokenizer = fixture_tokenizer();
  Sampler sampler({.grammar = fixture_grammar(tokenizer)}, {}, Isa::generic);
  // Only tokens that cannot begin the text have finite logits.
  std::vector<float> logits(static_cast<size_t>(tokenizer.vocabulary_size()), -infinity);
  logits[static_cast<size_t>(*tokenizer.find("a"))] = 1;
  EXPECT_EQ(sampler.sample(logits).token, -1);
}

TEST(SamplerGrammar, OneOfAnotherVocabularyIsRefused) {
  const Tokenizer tokenizer = fixture_tokenizer();
  const Status status = check_sampling({.grammar = fixture_grammar(tokenizer)}, 100);
  EXPECT_EQ(status.message(),
            fmt::format("the grammar was made for a vocabulary of {} tokens, the model has 100", tokenizer.vocabulary_size()));
}

}  // namespace
}  // namespace onset
