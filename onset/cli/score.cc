// onset score: how likely a model finds given tokens.
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/engine/scoring.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ScoreOptions {
  EngineFlags engine;
  TextSource text;
  std::string text_argument, ids;
  int32_t top = 10;
  bool json = false;
  bool logits = false;
  bool no_special = false;
};

void declare(CLI::App& command, ScoreOptions& options) {
  auto* text = command.add_option("--text", options.text_argument, "the text to be scored");
  auto* file = command.add_option("--file", options.text.file, "the same from a file, - for standard input");
  auto* ids = command.add_option("--ids", options.ids, "token ids instead: a file with a JSON list, - for standard input");
  text->excludes(file)->excludes(ids);
  file->excludes(ids);
  command.add_option("--top", options.top, "how many likely tokens to list after the last one")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  command.add_flag("--no-special", options.no_special, "do not begin the text with the model's BOS token");
  command.add_flag("--logits", options.logits, "with --json: also all logits after the last token");
  command.add_flag("--json", options.json, "print one JSON object");
  add_engine_flags(command, options.engine);
  set_examples(
      command,
      "  onset score --text \"The capital of France is Paris.\"\n"
      "  onset score --model model.gguf --precision reference --json --file text.txt\n"
      "  echo '[504, 3575, 282]' | onset score --json --ids -\n\n"
      "The JSON object: {\"ids\": [...], \"logprob\": [null, ...], \"rank\": [null, ...], \"argmax\": [...], \"top\": [[id, logprob], "
      "...]}.\n"
      "Entry i of logprob is ids[i] given its prefix (natural logarithm), its rank among all tokens is 1 if it was the most likely\n"
      "one; entry i of argmax is the most likely token after ids[i]; top follows the last token.");
}

Result<std::vector<int32_t>> read_ids(const std::string& file) {
  ONSET_ASSIGN(const std::string text, read_text({.words = {}, .file = file}, "the list of ids"));
  const Json list = Json::parse(text, nullptr, false);
  const std::string name = file == "-" ? "standard input" : file;
  if (!list.is_array()) return error(Code::invalid_argument, "{} is not a JSON list of token ids", name);
  std::vector<int32_t> ids;
  for (size_t i = 0; i < list.size(); ++i) {
    const bool fits = list[i].is_number_integer() && list[i].get<int64_t>() == static_cast<int32_t>(list[i].get<int64_t>());
    if (!fits) return error(Code::invalid_argument, "{}: entry {} is {}, not a token id", name, i, list[i].dump());
    ids.push_back(list[i].get<int32_t>());
  }
  return ids;
}

Result<std::vector<int32_t>> tokens_of(const Engine& engine, const ScoreOptions& options) {
  if (!options.ids.empty()) return read_ids(options.ids);
  TextSource source = options.text;
  if (!options.text_argument.empty()) source.words = {options.text_argument};
  ONSET_ASSIGN(const std::string text,
               options.text_argument.empty() ? read_text(source, "the text") : Result<std::string>(options.text_argument));
  if (engine.tokenizer() == nullptr) {
    return error(Code::unsupported, "{} has no tokenizer: give token ids with --ids", engine.model().file().path().string());
  }
  return engine.tokenizer()->encode(text, {.add_special = !options.no_special});
}

// nlohmann writes doubles so that they read back equal.
Json to_json(const std::vector<int32_t>& ids, const Scores& scores, bool logits) {
  Json logprob = Json::array(), rank = Json::array(), top = Json::array();
  for (size_t i = 0; i < ids.size(); ++i) {
    logprob.push_back(i == 0 ? Json() : Json(scores.logprob[i]));
    rank.push_back(i == 0 ? Json() : Json(scores.rank[i]));
  }
  for (const auto& [id, value] : scores.top) top.push_back(Json::array({id, value}));
  Json json{{"ids", ids}, {"logprob", logprob}, {"rank", rank}, {"argmax", scores.argmax}, {"top", top}};
  if (logits) json["logits"] = scores.last_logits;
  return json;
}

// A token's text as it can stand in a table.
std::string shown(const Engine& engine, int32_t token) {
  if (engine.tokenizer() == nullptr || !engine.tokenizer()->has(token)) return std::to_string(token);
  const std::string quoted = Json(std::string(engine.tokenizer()->piece(token))).dump(-1, ' ', false, Json::error_handler_t::replace);
  return quoted;
}

Status print_table(const Engine& engine, const std::vector<int32_t>& ids, const Scores& scores) {
  std::vector<std::vector<std::string>> rows = {{"token", "id", "logprob", "rank"}};
  double sum = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    rows.push_back({shown(engine, ids[i]), std::to_string(ids[i]), i == 0 ? "" : fmt::format("{:.4f}", scores.logprob[i]),
                    i == 0 ? "" : std::to_string(scores.rank[i])});
    sum += i == 0 ? 0 : scores.logprob[i];
  }
  std::string text = table_text(rows);
  if (ids.size() > 1) {
    const double mean = sum / static_cast<double>(ids.size() - 1);
    text += fmt::format("\nlog-probability {:.4f}, {:.4f} a token (perplexity {:.3f})\n", sum, mean, std::exp(-mean));
  }
  rows = {{"next", "id", "logprob"}};
  for (const auto& [id, value] : scores.top) rows.push_back({shown(engine, id), std::to_string(id), fmt::format("{:.4f}", value)});
  return write_out(text + (scores.top.empty() ? "" : "\n" + table_text(rows)));
}

Status run(const ScoreOptions& options) {
  ONSET_ASSIGN(const auto engine, load_engine(options.engine));
  ONSET_ASSIGN(const std::vector<int32_t> ids, tokens_of(*engine, options));
  ONSET_ASSIGN(const Scores scores, score_tokens(*engine, ids, options.top));
  if (options.json) return write_json(to_json(ids, scores, options.logits));
  return print_table(*engine, ids, scores);
}

}  // namespace

void add_score(CLI::App& app, Action& action) {
  add_command<ScoreOptions>(app, action, "score", "log-probabilities of given text or tokens", declare, run);
}

}  // namespace onset::cli
