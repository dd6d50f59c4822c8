// onset tune-ape: the prefix, temperature and scale with which parallel contexts answer a few questions best.
#include <algorithm>
#include <cmath>

#include "onset/base/mapped_file.h"
#include "onset/cli/commands.h"
#include "onset/cli/context_questions.h"
#include "onset/cli/output.h"
#include "onset/engine/parallel_search.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct TuneOptions {
  EngineFlags engine;
  PromptFlags prompt;
  std::string questions, trace;
  int32_t items = 32;
  uint64_t seed = 1;
  std::vector<int32_t> newlines;
  std::vector<float> temperatures = ParallelSearchOptions().temperatures, scales = ParallelSearchOptions().scales;
  bool json = false;
};

void declare(CLI::App& command, TuneOptions& options) {
  command.add_option("ITEMS", options.questions, context_questions_help)->required();
  command.add_option("--items", options.items, "so many questions are drawn and used")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--seed", options.seed, "decides which ones")->capture_default_str();
  command
      .add_option(
          "--newlines", options.newlines,
          "line ends before the contexts to be tried, separated by commas (default: 0,2,12,22,42; where a chat template's beginning "
          "comes before them, that alone)")
      ->delimiter(',')
      ->check(CLI::Range(0, 1000));
  command.add_option("--temperatures", options.temperatures, "temperatures to be tried")->delimiter(',')->capture_default_str();
  command.add_option("--scales", options.scales, "scales to be tried")->delimiter(',')->capture_default_str();
  command.add_option("--trace", options.trace, "write all that was scored to this file, a JSON object on each line");
  command.add_option("-s,--system", options.prompt.system, "a system message before the contexts");
  command.add_flag("--raw", options.prompt.raw, "contexts and questions as they are, even if the model has a chat template");
  command.add_flag("--json", options.json, "print one JSON object");
  add_engine_flags(command, options.engine);
  set_examples(command,
               "  onset tune-ape questions.jsonl\n"
               "  onset tune-ape examples.jsonl --raw --items 64 --trace trace.jsonl\n\n"
               "Answers are texts as they follow the question, in --raw mostly with a space in front. The best is what finds most right\n"
               "labels, or gives right answers the highest log-probability (of a token, the mean).");
}

// The line ends that are tried. Those that prompts have anyway come first: of equals the first wins.
std::vector<int32_t> newlines_of(const TuneOptions& options, bool has_beginning) {
  const int32_t usual = has_beginning ? 0 : 2;
  std::vector<int32_t> candidates = {usual};
  const std::vector<int32_t> paper = {0, 2, 12, 22, 42};
  const std::vector<int32_t>& asked = options.newlines.empty() && !has_beginning ? paper : options.newlines;
  if (!asked.empty() && std::find(asked.begin(), asked.end(), usual) == asked.end()) candidates.clear();
  for (const int32_t count : asked) {
    if (std::find(candidates.begin(), candidates.end(), count) == candidates.end()) candidates.push_back(count);
  }
  return candidates;
}

std::string options_of(const ParallelConfiguration& configuration, int32_t newlines) {
  return fmt::format("--reuse ape --context-newlines {} --ape-temperature {:.4g} --ape-scale {:.4g}", newlines,
                     configuration.options.temperature, configuration.options.scale);
}

// Numbers of a grid as they were written, not as floats: 0.9, not 0.8999999762.
double written(float value) {
  return std::round(double{value} * 1e6) / 1e6;
}

Json to_json(const ParallelConfiguration& configuration, int32_t newlines, bool labels) {
  Json json{{"stage", configuration.stage},
            {"newlines", newlines},
            {"temperature", written(configuration.options.temperature)},
            {"scale", written(configuration.options.scale)}};
  if (labels) json["accuracy"] = configuration.accuracy;
  json["logprob"] = configuration.logprob;
  return json;
}

Status write_trace(const std::string& path, const ParallelSearch& found, const std::vector<int32_t>& newlines, bool labels) {
  ONSET_ASSIGN(AtomicFile file, AtomicFile::create(path));
  for (const ParallelConfiguration& configuration : found.trace) {
    Json json = to_json(configuration, newlines[configuration.prefix], labels);
    json["logprobs"] = configuration.logprobs;
    ONSET_TRY(file.write(json.dump() + "\n"));
  }
  return file.commit();
}

std::string text_of(const ParallelSearch& found, const std::vector<int32_t>& newlines, bool labels) {
  std::vector<std::vector<std::string>> rows = {{"tried for its", "line ends", "temperature", "scale", "log-probability"}};
  if (labels) rows[0].emplace_back("right labels");
  for (size_t i = 0; i < found.trace.size(); ++i) {
    const ParallelConfiguration& each = found.trace[i];
    rows.push_back({each.stage, fmt::format("{}", newlines[each.prefix]), fmt::format("{:.4g}", each.options.temperature),
                    fmt::format("{:.4g}", each.options.scale), fmt::format("{:.4f}", each.logprob)});
    if (labels) rows.back().push_back(fmt::format("{:.1f} %", 100 * each.accuracy));
  }
  const ParallelConfiguration& best = found.trace[found.best];
  return table_text(rows) + "\nbest: " + options_of(best, newlines[best.prefix]) + "\n";
}

Status run(const TuneOptions& options) {
  ONSET_ASSIGN(const std::vector<ContextQuestion> all, read_context_questions(options.questions, 0));
  std::vector<ContextQuestion> drawn;
  for (const size_t i : draw_some(all.size(), static_cast<size_t>(options.items), options.seed)) drawn.push_back(all[i]);
  bool labels = true;
  for (const ContextQuestion& question : drawn) {
    if (question.answers.empty()) {
      return error(Code::invalid_argument, R"({}: the question "{}" has neither "answers" nor "labels")", options.questions,
                   question.question);
    }
    labels = labels && question.label;
  }
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, pool_for(drawn, 2, true)));
  ONSET_ASSIGN(const PromptMaker maker, PromptMaker::create(*engine, options.prompt));
  const std::vector<int32_t> newlines = newlines_of(options, maker.has_beginning());
  std::vector<std::vector<int32_t>> prefixes;
  for (const int32_t count : newlines) {
    ONSET_ASSIGN(const AnsweredPrompt prompt, maker.make(drawn.front(), count));
    prefixes.push_back(prompt.parts.prefix);
  }
  std::vector<AnsweredPrompt> prompts;
  for (const ContextQuestion& question : drawn) {
    ONSET_ASSIGN(prompts.emplace_back(), maker.make(question, {}));
  }
  ProgressBar bar("searching");
  ParallelSearchOptions search{.temperatures = options.temperatures, .scales = options.scales, .usual_prefix = 0};
  search.progress = [&](int64_t done, int64_t total) { bar.update(static_cast<double>(done) / static_cast<double>(total)); };
  ONSET_ASSIGN(const ParallelSearch found, search_parallel_contexts(*engine, prompts, prefixes, search));
  if (!options.trace.empty()) ONSET_TRY(write_trace(options.trace, found, newlines, labels));
  if (!options.json) return write_out(text_of(found, newlines, labels));
  Json trace = Json::array();
  for (const ParallelConfiguration& each : found.trace) trace.push_back(to_json(each, newlines[each.prefix], labels));
  const ParallelConfiguration& best = found.trace[found.best];
  return write_json({{"model", engine->model().file().path().string()},
                     {"items", prompts.size()},
                     {"seed", options.seed},
                     {"best", trace[found.best]},
                     {"default", trace[found.usual]},
                     {"options", options_of(best, newlines[best.prefix])},
                     {"trace", trace}});
}

}  // namespace

void add_tune_ape(CLI::App& app, Action& action) {
  add_command<TuneOptions>(app, action, "tune-ape", "the prefix, temperature and scale with which contexts that are read apart answer best",
                           declare, run);
}

}  // namespace onset::cli
