// onset bench schedule: the same requests under several schedule policies, in this process.
#include <algorithm>
#include <cmath>

#include "onset/base/mapped_file.h"
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/compute/linear.h"
#include "onset/cost/machine_file.h"
#include "onset/engine/benchmark.h"
#include "onset/engine/schedule_benchmark.h"
#include "onset/engine/step_benchmark.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ScheduleFlags {
  EngineFlags engine;
  ScheduledLoad load;
  std::vector<std::string> policies = {"sarathi-serve", "vllm"};
  int32_t places = 256;
  int32_t repeat = 1;
  std::string trace, machine_file;
  bool json = false;
};

void declare(CLI::App& command, ScheduleFlags& options) {
  command.add_option("--policies", options.policies, "which, separated by commas; they take turns")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember(schedule_policy_names()))
      ->capture_default_str();
  command.add_option("--requests", options.load.requests, "requests, all there from the beginning")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command.add_option("--prompt", options.load.prompt, "prompt tokens of each")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  command.add_option("--answer", options.load.answer, "answer tokens of each")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  command.add_option("--late-prompt", options.load.late_prompt, "then a prompt of so many tokens arrives; 0: none")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command.add_option("--late-after", options.load.late_after, "when each request has had so many tokens")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--places", options.places, "requests that run at a time at most")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command.add_option("--repeat", options.repeat, "how often each policy runs")->check(CLI::Range(1, 1000))->capture_default_str();
  command.add_option("--seed", options.load.seed, "decides the prompts' tokens")->capture_default_str();
  command.add_option("-o,--trace", options.trace,
                     "write each policy's last time line to FILE.POLICY.json, for chrome://tracing or Perfetto");
  command.add_option("--machine-file", options.machine_file, "what onset bench steps has kept (default: machine.json in the cache folder)");
  command.add_flag("--json", options.json, "print one JSON object");
  add_engine_flags(command, options.engine);
  set_examples(
      command,
      "  onset bench schedule --policies sarathi-serve,vllm --requests 8 --late-prompt 6000 --budget 128 --trace stall\n"
      "  onset bench schedule --policies sarathi,orca,request-level --requests 16 --prompt 1000 --answer 24 --places 4 --budget 128");
}

struct Measured {
  std::string policy;
  std::vector<double> seconds, late_first_token;
  std::vector<TokenGap> gaps;
  ScheduleRun last;
};

double rank(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(std::ceil(share * static_cast<double>(values.size()))) - 1];
}

std::vector<double> seconds_of(const std::vector<TokenGap>& gaps) {
  std::vector<double> seconds;
  for (const TokenGap& gap : gaps) seconds.push_back(gap.seconds);
  return seconds;
}

// Measured over predicted.
std::vector<double> ratios_of(const std::vector<TokenGap>& gaps) {
  std::vector<double> ratios;
  for (const TokenGap& gap : gaps) {
    if (gap.predicted_seconds > 0) ratios.push_back(gap.seconds / gap.predicted_seconds);
  }
  return ratios;
}

struct StepCounts {
  int64_t steps = 0, answers_alone = 0, prompts_alone = 0, preemptions = 0;
};
StepCounts count_steps(const StepTrace& trace) {
  StepCounts counts;
  for (const StepReport& step : trace.steps()) {
    ++counts.steps;
    counts.answers_alone += step.prompt_rows == 0;
    counts.prompts_alone += step.answer_rows == 0;
    counts.preemptions += static_cast<int64_t>(step.step.preempt.size());
  }
  return counts;
}

Json to_json(const std::vector<Measured>& all, const Engine& engine) {
  Json list = Json::array();
  for (const Measured& one : all) {
    const std::vector<double> gaps = seconds_of(one.gaps), ratios = ratios_of(one.gaps);
    const StepCounts counts = count_steps(one.last.trace);
    Json json{{"policy", one.policy},
              {"seconds", one.seconds},
              {"tokens", one.last.tokens},
              {"tokens_per_second", static_cast<double>(one.last.tokens) / median(one.seconds)},
              {"gaps", gaps.size()},
              {"tbt_50", rank(gaps, 0.5)},
              {"tbt_99", rank(gaps, 0.99)},
              {"tbt_worst", rank(gaps, 1.0)},
              {"steps", counts.steps},
              {"answers_alone", counts.answers_alone},
              {"prompts_alone", counts.prompts_alone},
              {"preemptions", counts.preemptions},
              {"equal", one.last.answers == all.front().last.answers}};
    if (!ratios.empty())
      json["predicted"] = {{"ratio_50", rank(ratios, 0.5)}, {"ratio_99", rank(ratios, 0.99)}, {"ratio_worst", rank(ratios, 1.0)}};
    if (!one.late_first_token.empty()) json["late_first_token_seconds"] = one.late_first_token;
    list.push_back(std::move(json));
  }
  return {{"token_budget", engine.scheduling().token_budget}, {"row_block", linear_tile_rows(engine.model().isa())}, {"policies", list}};
}

Status print_table(const std::vector<Measured>& all, bool late) {
  std::vector<std::vector<std::string>> rows = {
      {"", "tokens/s", "steps", "tbt 50 % ms", "99 %", "worst", late ? "late prompt s" : "same answers"}};
  for (const Measured& one : all) {
    const std::vector<double> gaps = seconds_of(one.gaps);
    rows.push_back({one.policy, fmt::format("{:.0f}", static_cast<double>(one.last.tokens) / median(one.seconds)),
                    std::to_string(one.last.trace.steps().size()), fmt::format("{:.1f}", 1e3 * rank(gaps, 0.5)),
                    fmt::format("{:.1f}", 1e3 * rank(gaps, 0.99)), fmt::format("{:.1f}", 1e3 * rank(gaps, 1)),
                    late ? fmt::format("{:.2f}", median(one.late_first_token))
                         : std::string(one.last.answers == all.front().last.answers ? "yes" : "no")});
  }
  return write_out(
      fmt::format("tbt: time between two tokens of an answer{}\n\n{}", late ? " while the late prompt is there" : "", table_text(rows)));
}

Status write_traces(const ScheduleFlags& options, const std::vector<Measured>& all) {
  if (options.trace.empty()) return {};
  for (const Measured& one : all) {
    ONSET_ASSIGN(AtomicFile file, AtomicFile::create(fmt::format("{}.{}.json", options.trace, one.policy)));
    ONSET_TRY(file.write(std::string_view(one.last.trace.chrome_trace())));
    ONSET_TRY(file.commit());
  }
  return {};
}

// Predictions are for comparison: without measured step times there are none.
void use_predictions(const ScheduleFlags& options, Engine& engine) {
  const auto file = MachineFile::load(options.machine_file.empty() ? machine_file_path() : std::filesystem::path(options.machine_file));
  const StepModel* model = file.ok() ? file->find(step_model_key(engine.model(), engine.threads(), engine.kv_type())) : nullptr;
  if (model != nullptr) engine.use_cost(std::make_shared<LinearStepCost>(model->fit.weights));
}

Status run(const ScheduleFlags& options) {
  EngineFlags flags = options.engine;
  const int64_t each = int64_t{options.load.prompt} + options.load.answer + page_tokens;
  const int64_t tokens = std::min<int64_t>(options.load.requests, options.places) * each + options.load.late_prompt + page_tokens;
  ONSET_ASSIGN(const auto engine, load_engine(flags, tokens, options.places));
  use_predictions(options, *engine);
  std::vector<Measured> all;
  for (const std::string& policy : options.policies)
    all.push_back({.policy = policy, .seconds = {}, .late_first_token = {}, .gaps = {}, .last = {}});
  ProgressBar bar("running");
  double done = 0;
  const double runs = static_cast<double>(all.size()) * options.repeat;
  for (int32_t i = 0; i < options.repeat; ++i) {
    for (Measured& one : all) {
      ScheduleOptions scheduling = engine->scheduling();
      scheduling.row_block = static_cast<int32_t>(linear_tile_rows(engine->model().isa()));
      ONSET_ASSIGN(auto policy, make_schedule_policy(one.policy, scheduling));
      ONSET_TRY(engine->use_schedule(std::move(policy)));
      ScheduledLoad load = options.load;
      load.progress = [&](double share) { bar.update((done + share) / runs, one.policy); };
      ONSET_ASSIGN(one.last, run_scheduled_load(*engine, load));
      one.seconds.push_back(one.last.seconds);
      one.gaps.insert(one.gaps.end(), one.last.gaps.begin(), one.last.gaps.end());
      if (load.late_prompt > 0) one.late_first_token.push_back(one.last.late_first_token_seconds);
      ++done;
    }
  }
  ONSET_TRY(write_traces(options, all));
  if (options.json) return write_json(to_json(all, *engine));
  return print_table(all, options.load.late_prompt > 0);
}

}  // namespace

void add_bench_schedule(CLI::App& bench, Action& action) {
  add_command<ScheduleFlags>(bench, action, "schedule", "the same requests under several schedule policies", declare, run);
}

}  // namespace onset::cli
