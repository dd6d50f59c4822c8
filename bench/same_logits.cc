// Whether a request's logits stay the same bits however its work is cut: 32 requests of one model in fast precision, one of them watched,
// in chunks {1, 7, 64, 333, whole} x threads {1, 2} x alone or among the 31 others x f16, bf16 and int8 pages.
//
// same_logits MODEL    prints one JSON object: how many runs were compared, how many had equal logits and tokens, and which had not.
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "onset/engine/engine.h"

namespace onset {
namespace {

constexpr int companions = 31;
constexpr int32_t prompt_tokens = 350, new_tokens = 8;

struct Outcome {
  std::map<int32_t, std::vector<float>> logits;  // of every prompt row, by position
  std::vector<int32_t> tokens;
  bool operator==(const Outcome& other) const {
    if (tokens != other.tokens || logits.size() != other.logits.size()) return false;
    for (const auto& [position, row] : logits) {
      const auto found = other.logits.find(position);
      if (found == other.logits.end() || found->second.size() != row.size() ||
          std::memcmp(found->second.data(), row.data(), row.size() * sizeof(float)) != 0) {
        return false;
      }
    }
    return true;
  }
};

std::vector<int32_t> random_prompt(const Engine& engine, int32_t tokens, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> prompt(tokens);
  for (int32_t& token : prompt) token = static_cast<int32_t>(random() % static_cast<uint32_t>(engine.model().config().vocabulary));
  return prompt;
}

Result<Outcome> run(const std::string& model, KvType type, int32_t chunk, int32_t threads, int others) {
  EngineOptions options;
  options.model = model;
  options.kv_type = type;
  options.scheduling.token_budget = chunk;
  options.threads = threads;
  options.pool_tokens = (others + 1) * 512;
  ONSET_ASSIGN(const std::unique_ptr<Engine> engine, Engine::create(std::move(options)));
  Outcome outcome;
  std::mutex mutex;
  for (int i = 0; i <= others; ++i) {
    Request request;
    if (i == others / 2) {
      request.tokens = random_prompt(*engine, prompt_tokens, 1);
      request.most_new_tokens = new_tokens;
      request.ignore_end = true;
      request.on_logits = [&](int32_t position, std::span<const float> logits) {
        const std::lock_guard lock(mutex);
        outcome.logits[position].assign(logits.begin(), logits.end());
      };
      ONSET_TRY(engine
                    ->submit(std::move(request),
                             [&](const Event& event) {
                               if (event.token) outcome.tokens.push_back(event.token->token);
                             })
                    .status());
      continue;
    }
    request.tokens = random_prompt(*engine, 3 + 2 * i, 100 + static_cast<uint32_t>(i));
    request.most_new_tokens = 4 + i;
    request.ignore_end = true;
    ONSET_TRY(engine->submit(std::move(request), [](const Event&) {}).status());
  }
  while (engine->has_work()) ONSET_TRY(engine->step());
  return outcome;
}

int compare(const std::string& model) {
  int runs = 0, equal = 0;
  std::string different;
  for (const KvType type : {KvType::f16, KvType::bf16, KvType::int8, KvType::int4}) {
    Result<Outcome> whole = run(model, type, 1 << 20, 1, 0);
    for (const int32_t chunk : {1, 7, 64, 333, 1 << 20}) {
      for (const int threads : {1, 2}) {
        for (const int others : {0, companions}) {
          const auto began = std::chrono::steady_clock::now();
          const Result<Outcome> cut = run(model, type, chunk, threads, others);
          if (!whole.ok() || !cut.ok()) {
            fmt::print(stderr, "same_logits: {}\n", (whole.ok() ? cut : whole).status().message());
            return 1;
          }
          ++runs;
          fmt::print(stderr, "{} chunk {} threads {} companions {}: {:.1f} s\n", kv_type_name(type), chunk, threads, others,
                     std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
          const bool same = whole->logits.size() == prompt_tokens && *whole == *cut;
          equal += same;
          if (!same) {
            different += fmt::format("{}\"{} chunk {} threads {} companions {}\"", different.empty() ? "" : ", ", kv_type_name(type), chunk,
                                     threads, others);
          }
        }
      }
    }
  }
  fmt::print("{{\"runs\": {}, \"equal\": {}, \"prompt_tokens\": {}, \"different\": [{}]}}\n", runs, equal, prompt_tokens, different);
  return 0;
}

}  // namespace
}  // namespace onset

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: same_logits MODEL\n");
    return 2;
  }
  return onset::compare(argv[1]);
}
