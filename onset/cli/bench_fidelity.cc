// onset bench fidelity: how near answers to reused contexts are to those of reading everything.
#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "onset/base/mapped_file.h"
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/engine/reuse_fidelity.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct FidelityFlags {
  EngineFlags engine;
  std::string items;
  std::vector<std::string> ways = {"full", "cacheblend:0.15"};
  int32_t answer = 16, limit = 0;
  bool json = false;
};

void declare(CLI::App& command, FidelityFlags& options) {
  command.add_option("ITEMS", options.items, R"(questions, one JSON object on each line: {"contexts": ["...", ...], "question": "..."})")
      ->required();
  command
      .add_option("--ways", options.ways,
                  "separated by commas: full, ape, ape:TEMPERATURE:SCALE, cacheblend:RATIO, cacheblend:RATIO:METRIC, "
                  "cacheblend:RATIO:METRIC:SCHEDULE")
      ->delimiter(',')
      ->capture_default_str();
  command.add_option("--answer", options.answer, "tokens of each answer that are compared")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command.add_option("--limit", options.limit, "use the first so many questions; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command.add_flag("--json", options.json, "print one JSON object, with every question's figures");
  add_engine_flags(command, options.engine);
  set_examples(command, "  onset bench fidelity questions.jsonl --ways full,ape,cacheblend:0.15,cacheblend:0.15:random");
}

struct Item {
  std::string question;
  std::vector<std::string> contexts;
};

Result<std::vector<Item>> read_items(const FidelityFlags& options) {
  ONSET_ASSIGN(const std::string text, read_file(options.items));
  std::vector<Item> items;
  for (size_t begin = 0, number = 1; begin < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line(text.data() + begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \r") == std::string_view::npos) continue;
    const Json json = Json::parse(line, nullptr, false);
    const auto is_text = [](const Json& value) { return value.is_string() && !value.get_ref<const std::string&>().empty(); };
    const bool right = json.is_object() && json.contains("question") && is_text(json["question"]) && json.contains("contexts") &&
                       json["contexts"].is_array() && !json["contexts"].empty() &&
                       std::all_of(json["contexts"].begin(), json["contexts"].end(), is_text);
    if (!right) {
      return error(Code::invalid_argument, R"({}, line {}: expected an object with "contexts", a list of texts, and "question", a text)",
                   options.items, number);
    }
    items.push_back({json["question"].get<std::string>(), json["contexts"].get<std::vector<std::string>>()});
    if (options.limit > 0 && static_cast<int32_t>(items.size()) == options.limit) break;
  }
  if (items.empty()) return error(Code::invalid_argument, "{}: there is no question", options.items);
  return items;
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
  if (parts[0] == "ape" && (parts.size() == 1 || parts.size() == 3)) {
    ParallelContextsOptions ape;
    if (parts.size() == 3) {
      ONSET_ASSIGN(ape.temperature, number_of(name, parts[1]));
      ONSET_ASSIGN(ape.scale, number_of(name, parts[2]));
    }
    ONSET_TRY(check_parallel_contexts(ape));
    return ContextReuse(ape);
  }
  if (parts[0] == "cacheblend" && parts.size() >= 2 && parts.size() <= 4) {
    CacheBlendOptions blend;
    ONSET_ASSIGN(blend.ratio, number_of(name, parts[1]));
    if (parts.size() > 2) {
      ONSET_ASSIGN(blend.metric, cache_blend_metric(parts[2]));
    }
    if (parts.size() > 3) {
      ONSET_ASSIGN(blend.schedule, cache_blend_schedule(parts[3]));
    }
    ONSET_TRY(check_cache_blend(blend));
    return ContextReuse(blend);
  }
  return error(Code::invalid_argument, "--ways {}: expected full, ape, ape:TEMPERATURE:SCALE or cacheblend:RATIO[:METRIC[:SCHEDULE]]",
               name);
}

double mean_of(const std::vector<ReuseFidelity>& list, double ReuseFidelity::* member) {
  double sum = 0;
  for (const ReuseFidelity& one : list) sum += one.*member;
  return sum / static_cast<double>(list.size());
}

Status run(const FidelityFlags& options) {
  std::vector<ContextReuse> ways;
  for (const std::string& name : options.ways) {
    ONSET_ASSIGN(ways.emplace_back(), way_of(name));
  }
  ONSET_ASSIGN(const std::vector<Item> items, read_items(options));
  size_t most_bytes = 0;
  for (const Item& item : items) {
    size_t bytes = item.question.size() + 4096;
    for (const std::string& context : item.contexts) bytes += context.size() + page_tokens;
    most_bytes = std::max(most_bytes, bytes);
  }
  // A token for each byte costs nothing: memory is taken as it is used. Contexts, and a request that has a copy of them.
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, 2 * static_cast<int64_t>(most_bytes)));
  ONSET_ASSIGN(const auto chat_template, load_chat_template(*engine));
  ProgressBar bar("asking");
  std::vector<std::vector<ReuseFidelity>> measured(ways.size());
  for (size_t i = 0; i < items.size(); ++i) {
    ONSET_ASSIGN(const PromptParts parts, prompt_parts(*engine, chat_template, "", items[i].question, items[i].contexts));
    const auto of_item = measure_reuse(*engine, parts, ways, options.answer);
    if (!of_item.ok()) return of_item.status().within(fmt::format("question {}", i + 1));
    for (size_t way = 0; way < ways.size(); ++way) measured[way].push_back((*of_item)[way]);
    bar.update(static_cast<double>(i + 1) / static_cast<double>(items.size()));
  }
  Json list = Json::array();
  std::vector<std::vector<std::string>> rows = {{"", "divergence", "same top token", "log-probability of the answer"}};
  rows.push_back({"reading everything", "0", "100 %", fmt::format("{:.4f}", mean_of(measured[0], &ReuseFidelity::reference_logprob))});
  for (size_t way = 0; way < ways.size(); ++way) {
    const double kl = mean_of(measured[way], &ReuseFidelity::kl), top1 = mean_of(measured[way], &ReuseFidelity::top1);
    const double logprob = mean_of(measured[way], &ReuseFidelity::logprob);
    Json each = Json::array();
    for (const ReuseFidelity& one : measured[way]) each.push_back({{"kl", one.kl}, {"top1", one.top1}, {"logprob", one.logprob}});
    list.push_back({{"way", options.ways[way]}, {"kl", kl}, {"top1", top1}, {"logprob", logprob}, {"questions", each}});
    rows.push_back({options.ways[way], fmt::format("{:.4f}", kl), fmt::format("{:.1f} %", 100 * top1), fmt::format("{:.4f}", logprob)});
  }
  if (options.json) return write_json({{"model", engine->model().file().path().string()}, {"questions", items.size()}, {"ways", list}});
  return write_out(table_text(rows));
}

}  // namespace

void add_bench_fidelity(CLI::App& bench, Action& action) {
  add_command<FidelityFlags>(bench, action, "fidelity", "how near answers to reused contexts are to those of reading everything", declare,
                             run);
}

}  // namespace onset::cli
