// What the engine's tests share.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "onset/engine/engine.h"

namespace onset::testing {

inline std::filesystem::path stories_model() {
  return std::filesystem::path(ONSET_SOURCE_DIR) / "tests/fixtures/models/stories260K.gguf";
}
inline std::filesystem::path fixture_model(const std::string& name) {
  return std::filesystem::path(ONSET_SOURCE_DIR) / "tests/fixtures/models" / name;
}

// Two threads and no packed cache, unless the test says otherwise.
inline EngineOptions test_options(std::filesystem::path model = stories_model()) {
  EngineOptions options;
  options.model = std::move(model);
  options.threads = 2;
  options.packed_cache = false;
  return options;
}

inline std::unique_ptr<Engine> make_engine(EngineOptions options) {
  auto engine = Engine::create(std::move(options));
  EXPECT_TRUE(engine.ok()) << engine.status().message();
  return engine.ok() ? *std::move(engine) : nullptr;
}

// Of the story model's vocabulary, without its special tokens.
inline std::vector<int32_t> random_tokens(int32_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = 3 + static_cast<int32_t>(random() % 500);
  return tokens;
}

// What a request was told.
struct Told {
  std::string text;
  std::vector<int32_t> tokens;
  Event last;
  int events = 0;
  int ends = 0;
};

// Collects a request's events.
inline Engine::EventHandler listen(Told& told) {
  return [&told](const Event& event) {
    told.text += event.text;
    if (event.token) told.tokens.push_back(event.token->token);
    told.last = event;
    ++told.events;
    told.ends += event.finish != Finish::none;
  };
}

inline void run_all(Engine& engine) {
  for (int steps = 0; engine.has_work(); ++steps) {
    const Status status = engine.step();
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_LT(steps, 100000);
  }
}

inline Told answer(Engine& engine, Request request) {
  Told told;
  const Result<RequestId> id = engine.submit(std::move(request), listen(told));
  EXPECT_TRUE(id.ok()) << id.status().message();
  if (id.ok()) run_all(engine);
  EXPECT_EQ(told.ends, id.ok() ? 1 : 0);
  return told;
}

// All pages are free, and none is reserved.
inline void expect_no_pages(const Engine& engine) {
  const EngineStatistics statistics = engine.statistics();
  EXPECT_EQ(statistics.free_pages, statistics.pages);
  EXPECT_EQ(statistics.reserved_pages, 0);
}

}  // namespace onset::testing
