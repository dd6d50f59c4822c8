#include "onset/engine/profile.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "onset/engine/benchmark.h"
#include "onset/engine/trace.h"

namespace onset {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Status read_prompt(Engine& engine, std::span<const int32_t> tokens) {
  Status status;
  Request request{.tokens = {tokens.begin(), tokens.end()}, .most_new_tokens = 1, .prefix_cache = false};
  ONSET_TRY(engine.submit(std::move(request), [&](const Event& event) { status = event.status; }).status());
  while (engine.has_work()) ONSET_TRY(engine.step());
  return status;
}

}  // namespace

Result<Profile> profile_prefill(Engine& engine, std::span<const int32_t> tokens) {
  ONSET_TRY(read_prompt(engine, tokens));
  Profile profile;
  profile.tokens = static_cast<int32_t>(tokens.size());
  double began = 0;
  engine.set_time_hook([&](const std::string& name, int32_t layer, double begin, double end) {
    profile.operations.push_back({name, layer, begin - began, end - began});
  });
  engine.set_step_hook([&](const StepReport&) { ++profile.steps; });
  began = now();
  const Status status = read_prompt(engine, tokens);
  profile.seconds = now() - began;
  engine.set_time_hook({});
  engine.set_step_hook({});
  ONSET_TRY(status);
  return profile;
}

Result<Profile> profile_decode(Engine& engine, int32_t context, int32_t generate) {
  Profile profile;
  profile.tokens = generate;
  double began = 0;
  Status status;
  ONSET_ASSIGN(Request request, behind_context(engine, context, generate + 2, /*seed=*/1));
  // Tokens come at the ends of steps: hooks that the second one sets are for the steps behind it.
  const auto handler = [&](const Event& event) {
    if (event.finish == Finish::failed) status = event.status;
    if (event.new_tokens != 2 || began > 0) return;
    engine.set_time_hook([&](const std::string& name, int32_t layer, double begin, double end) {
      profile.operations.push_back({name, layer, begin - began, end - began});
    });
    began = now();
  };
  ONSET_TRY(engine.submit(std::move(request), handler).status());
  Status step;
  for (; step.ok() && engine.has_work(); step = engine.step()) profile.steps += began > 0;
  if (began > 0) profile.seconds = now() - began;
  engine.set_time_hook({});
  ONSET_TRY(step);
  ONSET_TRY(status);
  return profile;
}

std::vector<OperationTotal> operation_totals(const Profile& profile) {
  std::map<std::string, OperationTotal> by_name;
  for (const TimedOperation& operation : profile.operations) {
    OperationTotal& total = by_name[operation.name];
    total.name = operation.name;
    ++total.calls;
    total.seconds += operation.end - operation.begin;
  }
  std::vector<OperationTotal> totals;
  for (auto& [name, total] : by_name) totals.push_back(std::move(total));
  std::sort(totals.begin(), totals.end(), [](const auto& a, const auto& b) { return a.seconds > b.seconds; });
  return totals;
}

std::string chrome_trace(const Profile& profile) {
  std::vector<TraceEvent> events;
  for (const TimedOperation& operation : profile.operations) {
    events.push_back({operation.name, "layer", 1, operation.begin, operation.end - operation.begin, {{"layer", operation.layer}}});
  }
  return chrome_trace(events);
}

}  // namespace onset
