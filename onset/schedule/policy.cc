#include "onset/schedule/policy.h"

#include <fmt/ranges.h>

#include "onset/schedule/policies.h"

namespace onset {
namespace {

struct Maker {
  const char* name;
  std::unique_ptr<SchedulePolicy> (*make)(const ScheduleOptions& options);
};

template <typename Policy, auto... arguments>
std::unique_ptr<SchedulePolicy> make(const ScheduleOptions& options) {
  return std::make_unique<Policy>(options, arguments...);
}

constexpr Maker makers[] = {
    {"sarathi-serve", make<SarathiServe>}, {"sarathi", make<Sarathi>},
    {"vllm", make<PromptsFirst>},          {"orca", make<IterationLevel, true>},
    {"request-level", make<RequestLevel>}, {"hybrid-only", make<IterationLevel, false>},
    {"chunked-only", make<ChunkedOnly>},
};

Status check_options(const ScheduleOptions& options) {
  const auto check = [](const char* name, int64_t value, int64_t least) -> Status {
    constexpr int64_t most = 1 << 24;
    if (value >= least && value <= most) return {};
    return error(Code::invalid_argument, "{} is {}, expected {} to {}", name, value, least, most);
  };
  ONSET_TRY(check("token_budget", options.token_budget, 1));
  ONSET_TRY(check("idle_budget", options.idle_budget, 0));
  ONSET_TRY(check("prompts_per_step", options.prompts_per_step, 0));
  ONSET_TRY(check("row_block", options.row_block, 1));
  ONSET_TRY(check("stage_layers", options.stage_layers, 0));
  ONSET_TRY(check("most_prompt_tokens", options.most_prompt_tokens, 0));
  if (options.watermark >= 0 && options.watermark < 1) return {};
  return error(Code::invalid_argument, "watermark is {}, expected a share of the pool from 0 to below 1", options.watermark);
}

}  // namespace

Result<std::unique_ptr<SchedulePolicy>> make_schedule_policy(const std::string& name, const ScheduleOptions& options) {
  ONSET_TRY(check_options(options));
  for (const Maker& maker : makers) {
    if (name == maker.name) return maker.make(options);
  }
  return error(Code::invalid_argument, "there is no schedule policy {}, expected one of {}", name,
               fmt::join(schedule_policy_names(), ", "));
}

std::vector<std::string> schedule_policy_names() {
  std::vector<std::string> names;
  for (const Maker& maker : makers) names.emplace_back(maker.name);
  return names;
}

}  // namespace onset
