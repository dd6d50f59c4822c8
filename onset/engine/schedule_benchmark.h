// Requests that compete, run by a schedule policy in this process: how fast, and how long each waits between two tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/engine/engine.h"
#include "onset/engine/trace.h"

namespace onset {

struct ScheduledLoad {
  int32_t requests = 8;  // all there from the beginning
  int32_t prompt = 256, answer = 128;
  // A prompt of so many tokens that comes when every request (or all places) have had `late_after` tokens; 0: none.
  int32_t late_prompt = 0;
  int32_t late_after = 16;
  uint32_t seed = 1;
  std::function<void(double share)> progress = {};  // of all tokens
};

// The gap between two tokens of an answer, and what the steps in it were predicted to take (0 where the engine has no cost).
struct TokenGap {
  double seconds = 0, predicted_seconds = 0;
};

struct ScheduleRun {
  double seconds = 0;
  int64_t tokens = 0;  // prompts and answers
  double late_first_token_seconds = 0;
  std::vector<TokenGap> gaps;  // of the requests, while the late prompt is there (without one: all)
  std::vector<std::vector<int32_t>> answers;
  StepTrace trace;
};

// Runs the load to its end. Greedy; ends are ignored, so that every policy does the same work. Errors: those of the engine.
Result<ScheduleRun> run_scheduled_load(Engine& engine, const ScheduledLoad& load);

}  // namespace onset
