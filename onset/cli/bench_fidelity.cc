// onset bench fidelity: how near answers to reused contexts are to those of reading everything.
#include <algorithm>
#include <charconv>

#include "onset/cli/commands.h"
#include "onset/cli/context_questions.h"
#include "onset/cli/output.h"
#include "onset/engine/reuse_fidelity.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct FidelityFlags {
  EngineFlags engine;
  PromptFlags prompt;
  std::string questions;
  std::vector<std::string> ways = {"full", "cacheblend:0.15"};
  int32_t answer = 16, limit = 0;
  bool json = false;
};

void declare(CLI::App& command, FidelityFlags& options) {
  command.add_option("ITEMS", options.questions, context_questions_help)->required();
  command
      .add_option("--ways", options.ways,
                  "separated by commas: full, pcw, pcw+p, pcw+p+t, pcw+p+t:TEMPERATURE, ape, ape:TEMPERATURE:SCALE, cacheblend:RATIO, "
                  "cacheblend:RATIO:METRIC, cacheblend:RATIO:METRIC:SCHEDULE, cacheblend:RATIO:METRIC:SCHEDULE:CARRY")
      ->delimiter(',')
      ->capture_default_str();
  command.add_option("--answer", options.answer, "tokens of each answer that are compared")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command.add_option("--limit", options.limit, "use the first so many questions; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command.add_flag("--json", options.json, "print one JSON object, with every question's figures");
  add_prompt_flags(command, options.prompt);
  add_engine_flags(command, options.engine);
  set_examples(command,
               "  onset bench fidelity questions.jsonl --ways full,ape,cacheblend:0.15,cacheblend:0.15:random\n"
               "  onset bench fidelity questions.jsonl --raw --ways pcw,pcw+p,pcw+p+t:0.8,ape:0.8:0.7\n\n"
               "Where questions have answers, their log-probabilities are compared, too; where they have labels, the right one counts as\n"
               "found when no other is likelier.");
}

Result<float> number_of(const std::string& way, const std::string& text) {
  float number = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failed == std::errc() && end == text.data() + text.size()) return number;
  return error(Code::invalid_argument, "--ways {}: {} is no number", way, text);
}

Result<ContextReuse> way_of(const std::string& name) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find(':', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  if (name == "full") return ContextReuse(CacheBlendOptions{.ratio = 0});
  const size_t numbers = parts[0] == "ape" ? 2 : parts[0] == "pcw+p+t" ? 1 : 0;
  if (is_parallel_contexts(parts[0]) && (parts.size() == 1 || parts.size() == 1 + numbers)) {
    ParallelContextsOptions options;
    if (parts.size() > 1) {
      ONSET_ASSIGN(options.temperature, number_of(name, parts[1]));
    }
    if (parts.size() > 2) {
      ONSET_ASSIGN(options.scale, number_of(name, parts[2]));
    }
    ONSET_TRY(check_parallel_contexts(options));
    return ContextReuse(parallel_contexts_step(parts[0], options));
  }
  if (parts[0] == "cacheblend" && parts.size() >= 2 && parts.size() <= 5) {
    CacheBlendOptions blend;
    ONSET_ASSIGN(blend.ratio, number_of(name, parts[1]));
    if (parts.size() > 2) {
      ONSET_ASSIGN(blend.metric, cache_blend_metric(parts[2]));
    }
    if (parts.size() > 3) {
      ONSET_ASSIGN(blend.schedule, cache_blend_schedule(parts[3]));
    }
    if (parts.size() > 4) {
      ONSET_ASSIGN(blend.carry, number_of(name, parts[4]));
    }
    ONSET_TRY(check_cache_blend(blend));
    return ContextReuse(blend);
  }
  return error(Code::invalid_argument,
               "--ways {}: expected full, pcw, pcw+p, pcw+p+t[:TEMPERATURE], ape[:TEMPERATURE:SCALE] or "
               "cacheblend:RATIO[:METRIC[:SCHEDULE[:CARRY]]]",
               name);
}

// What was measured of one way: of each question, in order. The last way is reading everything.
struct Measured {
  std::string name;
  ReadingWay way;
  std::vector<ReuseFidelity> fidelity = {};
  std::vector<AnswerScore> answers = {};  // of questions that have some
  size_t labelled = 0;                    // of these, with labels
};

double mean_of(const std::vector<ReuseFidelity>& list, double ReuseFidelity::* member) {
  double sum = 0;
  for (const ReuseFidelity& one : list) sum += one.*member;
  return sum / static_cast<double>(list.size());
}

// Mean log-probability of the right answers, and the share of right labels.
std::pair<double, double> mean_of(const std::vector<AnswerScore>& answers, size_t labelled) {
  double logprob = 0, right = 0;
  for (const AnswerScore& one : answers) {
    logprob += one.logprob;
    right += one.right ? 1 : 0;
  }
  return {logprob / static_cast<double>(answers.size()), right / static_cast<double>(std::max<size_t>(1, labelled))};
}

Json to_json(const Measured& measured) {
  Json json{{"way", measured.name},
            {"kl", mean_of(measured.fidelity, &ReuseFidelity::kl)},
            {"top1", mean_of(measured.fidelity, &ReuseFidelity::top1)},
            {"logprob", mean_of(measured.fidelity, &ReuseFidelity::logprob)}};
  if (!measured.answers.empty()) {
    const auto [logprob, right] = mean_of(measured.answers, measured.labelled);
    json["answer_logprob"] = logprob;
    if (measured.labelled > 0) json["accuracy"] = right;
  }
  for (const ReuseFidelity& one : measured.fidelity) {
    json["questions"].push_back({{"kl", one.kl}, {"top1", one.top1}, {"logprob", one.logprob}});
  }
  for (const AnswerScore& one : measured.answers) {
    json["answers"].push_back({{"logprob", one.logprob}, {"right", one.right}, {"each", one.answers}});
  }
  return json;
}

std::string text_of(const std::vector<Measured>& all) {
  std::vector<std::vector<std::string>> rows = {{"", "divergence", "same top token", "log-probability of the answer"}};
  const bool known = !all.back().answers.empty(), labels = all.back().labelled > 0;
  if (known) rows[0].emplace_back("of the right answer");
  if (labels) rows[0].emplace_back("right labels");
  for (size_t i = 0; i < all.size(); ++i) {
    const Measured& measured = all[(i + all.size() - 1) % all.size()];
    const bool reference = !measured.way;
    const double kl = mean_of(measured.fidelity, &ReuseFidelity::kl), top1 = mean_of(measured.fidelity, &ReuseFidelity::top1);
    rows.push_back({measured.name, reference ? "0" : fmt::format("{:.4f}", kl), reference ? "100 %" : fmt::format("{:.1f} %", 100 * top1),
                    fmt::format("{:.4f}", mean_of(measured.fidelity, &ReuseFidelity::logprob))});
    const auto [logprob, right] = mean_of(measured.answers, measured.labelled);
    if (known) rows.back().push_back(fmt::format("{:.4f}", logprob));
    if (labels) rows.back().push_back(fmt::format("{:.1f} %", 100 * right));
  }
  return table_text(rows);
}

Status measure(Engine& engine, const AnsweredPrompt& prompt, std::span<const ContextReuse> ways, int32_t answer,
               std::vector<Measured>& all) {
  ONSET_ASSIGN(const auto fidelity, measure_reuse(engine, prompt.parts, ways, answer));
  for (size_t way = 0; way < ways.size(); ++way) all[way].fidelity.push_back(fidelity[way]);
  all.back().fidelity.push_back({.top1 = 1, .logprob = fidelity[0].reference_logprob, .reference_logprob = fidelity[0].reference_logprob});
  if (prompt.answers.empty()) return {};
  for (Measured& measured : all) {
    ONSET_ASSIGN(measured.answers.emplace_back(), score_answers(engine, prompt, measured.way));
    measured.labelled += prompt.label ? 1 : 0;
  }
  return {};
}

Status run(const FidelityFlags& options) {
  std::vector<ContextReuse> ways;
  std::vector<Measured> all;
  for (const std::string& name : options.ways) {
    ONSET_ASSIGN(ways.emplace_back(), way_of(name));
    all.push_back({.name = name, .way = ways.back()});
  }
  all.push_back({.name = "reading everything", .way = {}});
  ONSET_ASSIGN(const std::vector<ContextQuestion> questions, read_context_questions(options.questions, options.limit));
  // Contexts, a request that has a copy of them, and those of reading everything.
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, pool_for(questions, 4, false)));
  ONSET_ASSIGN(const PromptMaker maker, PromptMaker::create(*engine, options.prompt));
  ProgressBar bar("asking");
  for (size_t i = 0; i < questions.size(); ++i) {
    ONSET_ASSIGN(const AnsweredPrompt prompt, maker.make(questions[i], options.prompt.newlines));
    const Status measured = measure(*engine, prompt, ways, options.answer, all);
    if (!measured.ok()) return measured.within(fmt::format("question {}", i + 1));
    bar.update(static_cast<double>(i + 1) / static_cast<double>(questions.size()));
  }
  if (!options.json) return write_out(text_of(all));
  Json list = Json::array();
  const Json everything = to_json(all.back());
  all.pop_back();
  for (const Measured& measured : all) list.push_back(to_json(measured));
  return write_json({{"model", engine->model().file().path().string()},
                     {"questions", questions.size()},
                     {"ways", list},
                     {"reading_everything", everything}});
}

}  // namespace

void add_bench_fidelity(CLI::App& bench, Action& action) {
  add_command<FidelityFlags>(bench, action, "fidelity", "how near answers to reused contexts are to those of reading everything", declare,
                             run);
}

}  // namespace onset::cli
