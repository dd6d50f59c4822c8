// onset bench steps: what steps cost on this machine, for --tbt and for whoever predicts.
#include <algorithm>

#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/compute/linear.h"
#include "onset/cost/token_budget.h"
#include "onset/engine/benchmark.h"
#include "onset/engine/step_benchmark.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct StepsOptions {
  EngineFlags engine;
  StepBenchmarkOptions benchmark;
  std::vector<std::string> points;
  int32_t repeat = 5;
  std::string machine_file;
  bool dry = false;
  bool json = false;
};

void declare(CLI::App& command, StepsOptions& options) {
  command.add_option("--samples", options.benchmark.samples, "steps that are measured")
      ->check(CLI::Range(40, 1 << 20))
      ->capture_default_str();
  command.add_option("--rows", options.benchmark.most_rows, "prompt tokens of a step at most")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--answers", options.benchmark.most_answers, "answers beside them at most")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command.add_option("--most-context", options.benchmark.most_context, "tokens behind each at most")
      ->check(CLI::Range(16, 1 << 24))
      ->capture_default_str();
  command.add_option("--seed", options.benchmark.seed, "decides which steps are measured")->capture_default_str();
  command.add_option("--points", options.points, "measure these steps instead of fitting: ROWS+ANSWERS@CONTEXT, separated by commas")
      ->delimiter(',')
      ->allow_extra_args(false);
  command.add_option("--repeat", options.repeat, "with --points: how often each is measured")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  command.add_option("--machine-file", options.machine_file, "where the fitted times are kept (default: machine.json in the cache folder)");
  command.add_flag("--dry", options.dry, "do not keep the fitted times");
  command.add_flag("--json", options.json, "print one JSON object");
  add_engine_flags(command, options.engine);
  set_examples(command,
               "  onset bench steps\n"
               "  onset bench steps --samples 1000 --threads 2 --json\n"
               "  onset bench steps --points 256+0@1024,0+4@1024,252+4@1024");
}

std::filesystem::path file_of(const StepsOptions& options) {
  return options.machine_file.empty() ? machine_file_path() : std::filesystem::path(options.machine_file);
}

// Budgets for some targets, 0 where even the answers take longer.
std::vector<std::pair<double, int32_t>> budgets_of(const StepModel& model) {
  std::vector<std::pair<double, int32_t>> budgets;
  const LinearStepCost cost(model.fit.weights);
  for (const double target : {0.010, 0.025, 0.050, 0.100, 0.150}) {
    const auto budget = pick_token_budget(
        cost, {.target_seconds = target, .ratio_99 = model.fit.ratio_99, .layers = model.layers, .row_block = model.row_block});
    budgets.emplace_back(target, budget.ok() ? *budget : 0);
  }
  return budgets;
}

Status keep(const StepsOptions& options, const StepModel& model) {
  if (options.dry) return {};
  const std::filesystem::path path = file_of(options);
  MachineFile file;
  if (auto read = MachineFile::load(path); read.ok()) {
    file = *std::move(read);
  } else if (read.status().code() != Code::not_found) {
    return read.status();  // somebody's file that we do not understand is not written over
  }
  file.put(model);
  return file.save(path);
}

Status print_fit(const StepsOptions& options, const StepBenchmark& benchmark) {
  const StepModel& model = benchmark.model;
  const StepWeights& weights = model.fit.weights;
  const double layers = model.layers;
  std::vector<std::vector<std::string>> rows = {{"a step", "us"}};
  const auto add = [&](const std::string& what, double seconds) { rows.push_back({what, fmt::format("{:.3f}", 1e6 * seconds)}); };
  add("by itself", weights.per_step);
  add("each prompt token", layers * weights.per_prefill_row_layer);
  add("each answer", layers * weights.per_decode_row_layer);
  for (const StepWeights::Bend& bend : weights.bends)
    add(fmt::format("each token beyond {:.0f}, more", bend.row_layers / layers), layers * bend.seconds);
  add("1,000 tokens behind a prompt's token", 1000 * layers * weights.per_prefill_slot);
  add("1,000 tokens behind a piece of a prompt", 1000 * layers * weights.per_prefill_key);
  add("1,000 tokens behind an answer", 1000 * layers * weights.per_decode_slot);
  add("each token that is drawn", weights.per_output_row);
  std::string budgets;
  for (const auto& [target, budget] : budgets_of(model)) {
    budgets += fmt::format("{}{:.0f} ms: {}", budgets.empty() ? "" : ", ", 1e3 * target,
                           budget > 0 ? std::to_string(budget) + " tokens" : "not possible");
  }
  return write_out(fmt::format(
      "{} on {} threads, {}, {} precision, {} keys and values; {} steps\n\n{}\n"
      "Predictions of steps that were not fitted are {:.1f} % off on average; one in a hundred takes {:.2f} times as long or more.\n"
      "Budgets for a time between tokens (8 answers, 1,024 tokens behind each): {}\n{}",
      model.key.model, model.key.threads, model.key.isa, model.key.precision, model.key.kv, model.fit.samples, table_text(rows),
      100 * benchmark.held_out.mean_error, model.fit.ratio_99, budgets,
      options.dry ? "" : fmt::format("Kept in {}\n", file_of(options).string())));
}

Status run_points(const StepsOptions& options) {
  std::vector<StepPoint> points;
  int32_t answers = 1, context = 1;
  for (const std::string& text : options.points) {
    StepPoint point;
    int end = 0;
    if (std::sscanf(text.c_str(), "%d+%d@%d%n", &point.rows, &point.answers, &point.context, &end) != 3 ||
        static_cast<size_t>(end) != text.size()) {
      return error(Code::invalid_argument, "--points: {} is not ROWS+ANSWERS@CONTEXT", text);
    }
    answers = std::max(answers, point.answers);
    context = std::max(context, point.context + std::max(0, point.rows));
    points.push_back(point);
  }
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, int64_t{answers + 1} * (context + 2 * page_tokens)));
  std::vector<std::vector<double>> seconds;
  {
    ProgressBar bar("measuring");
    ONSET_ASSIGN(seconds, measure_points(*engine, points, options.repeat, [&](double share) { bar.update(share); }));
  }
  Json list = Json::array();
  std::vector<std::vector<std::string>> rows = {{"prompt tokens", "answers", "behind each", "ms", "least"}};
  for (size_t i = 0; i < points.size(); ++i) {
    list.push_back({{"rows", points[i].rows}, {"answers", points[i].answers}, {"context", points[i].context}, {"seconds", seconds[i]}});
    rows.push_back({std::to_string(points[i].rows), std::to_string(points[i].answers), std::to_string(points[i].context),
                    fmt::format("{:.2f}", 1e3 * median(seconds[i])),
                    fmt::format("{:.2f}", 1e3 * *std::min_element(seconds[i].begin(), seconds[i].end()))});
  }
  if (options.json) return write_json({{"row_block", linear_tile_rows(engine->model().isa())}, {"points", list}});
  return write_out(table_text(rows));
}

Status run(const StepsOptions& options) {
  if (!options.points.empty()) return run_points(options);
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, step_benchmark_tokens(options.benchmark)));
  StepBenchmark benchmark;
  {
    ProgressBar bar("measuring");
    StepBenchmarkOptions chosen = options.benchmark;
    chosen.progress = [&](const std::string& what, double share) { bar.update(share, what); };
    ONSET_ASSIGN(benchmark, benchmark_steps(*engine, chosen));
  }
  ONSET_TRY(keep(options, benchmark.model));
  if (!options.json) return print_fit(options, benchmark);
  const StepModel& model = benchmark.model;
  Json budgets = Json::object();
  for (const auto& [target, budget] : budgets_of(model)) budgets[fmt::format("{:g}", target)] = budget;
  return write_json({{"model", model.key.model},
                     {"threads", model.key.threads},
                     {"isa", model.key.isa},
                     {"layers", model.layers},
                     {"row_block", model.row_block},
                     {"samples", model.fit.samples},
                     {"mean_error", model.fit.mean_error},
                     {"ratio_50", model.fit.ratio_50},
                     {"ratio_99", model.fit.ratio_99},
                     {"held_out_mean_error", benchmark.held_out.mean_error},
                     {"held_out_ratio_99", benchmark.held_out.ratio_99},
                     {"weights", Json::parse(to_json(model.fit.weights))},
                     {"budgets", budgets}});
}

}  // namespace

void add_bench_steps(CLI::App& bench, Action& action) {
  add_command<StepsOptions>(bench, action, "steps", "what steps cost on this machine: for --tbt", declare, run);
}

}  // namespace onset::cli
