// onset kv-deviation: how far contexts that are read apart are from what they would be in one text.
#include <algorithm>
#include <fstream>

#include "onset/base/mapped_file.h"
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/engine/chat.h"
#include "onset/engine/kv_deviation.h"
#include "onset/load/chart.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct DeviationOptions {
  EngineFlags engine;
  std::vector<std::string> contexts;
  std::string prompt, metric = "keys-values", svg;
  std::vector<float> ratios = {0, 0.05f, 0.1f, 0.15f, 0.2f, 0.3f, 0.5f, 0.7f, 1};
  bool json = false;
};

void declare(CLI::App& command, DeviationOptions& options) {
  command.add_option("PROMPT", options.prompt, "what is asked about the contexts")->required();
  command.add_option("--context", options.contexts, "a file that the prompt is about; twice or more")->allow_extra_args(false)->required();
  command.add_option("--metric", options.metric, "of what: keys-values, keys or values")
      ->check(CLI::IsMember({"keys-values", "keys", "values"}))
      ->capture_default_str();
  command.add_option("--ratios", options.ratios, "shares of the contexts' tokens that are computed again, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command.add_option("--svg", options.svg, "write a picture of it to this file");
  command.add_flag("--json", options.json, "print one JSON object");
  add_engine_flags(command, options.engine);
  set_examples(command, "  onset kv-deviation --context manual.txt --context notes.txt --svg deviation.svg \"How is it switched on?\"");
}

// The value below which a share of them lies.
float quantile(std::vector<float> values, double share) {
  const auto at = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[at];
}

// Of the sum of all, the part of the largest 15 %.
double share_of_largest(std::vector<float> values) {
  std::sort(values.rbegin(), values.rend());
  double all = 0, largest = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    all += values[i];
    if (static_cast<double>(i) < 0.15 * static_cast<double>(values.size())) largest += values[i];
  }
  return all > 0 ? largest / all : 0;
}

std::string picture(const KvDeviation& found, const std::string& model) {
  Chart attention{.title = "Attention to the contexts",
                  .x = {.name = "share computed again"},
                  .y = {.name = "distance from reading everything"},
                  .lines = {{.name = "most deviating tokens"}, {.name = "random tokens"}},
                  .dots = true,
                  .names_right = true};
  for (const AttentionDeviation& entry : found.attention) {
    attention.lines[entry.metric == CacheBlendMetric::random].points.push_back({entry.ratio, entry.mean()});
  }
  Chart tokens{.title = "Deviation of tokens",
               .x = {.name = "deviation, over the median", .logarithmic = true},
               .y = {.name = "share of tokens above it"},
               .names_right = true};
  const size_t layers = found.tokens.size();
  for (const size_t layer : {size_t{1}, layers / 3, 2 * layers / 3, layers - 1}) {
    std::vector<float> sorted = found.tokens[layer];
    const float median = quantile(sorted, 0.5);
    std::sort(sorted.rbegin(), sorted.rend());
    ChartLine line{.name = fmt::format("layer {}", layer)};
    const size_t step = std::max<size_t>(1, sorted.size() / 200);
    for (size_t i = 0; i < sorted.size() && median > 0; i += step) {
      line.points.push_back({sorted[i] / median, static_cast<double>(i + 1) / static_cast<double>(sorted.size())});
    }
    tokens.lines.push_back(std::move(line));
  }
  Chart ranks{
      .title = "Ranks of neighbouring layers", .x = {.name = "layer"}, .y = {.name = "rank correlation with the next one"}, .dots = true};
  ranks.lines.push_back({.name = ""});
  for (size_t i = 0; i < found.correlation.size(); ++i) ranks.lines[0].points.push_back({static_cast<double>(i + 1), found.correlation[i]});
  ranks.marks = {{.name = "median", .value = found.median_correlation(), .axis = ChartMark::Axis::y}};
  return charts_svg({attention, tokens, ranks}, "Keys and values read apart: " + model);
}

Json to_json(const KvDeviation& found) {
  Json json{{"median_rank_correlation", found.median_correlation()}, {"rank_correlation", found.correlation}};
  for (size_t layer = 0; layer < found.tokens.size(); ++layer) {
    json["layers"].push_back({{"median", quantile(found.tokens[layer], 0.5)},
                              {"percentile_90", quantile(found.tokens[layer], 0.9)},
                              {"percentile_99", quantile(found.tokens[layer], 0.99)},
                              {"share_of_largest_15_percent", share_of_largest(found.tokens[layer])}});
  }
  for (const AttentionDeviation& entry : found.attention) {
    json["attention"].push_back(
        {{"ratio", entry.ratio}, {"metric", cache_blend_metric_name(entry.metric)}, {"mean", entry.mean()}, {"layers", entry.layers}});
  }
  return json;
}

std::string text_of(const KvDeviation& found) {
  std::vector<std::vector<std::string>> layers = {
      {"layer", "median deviation", "90 % below", "99 % below", "largest 15 % have", "ranks as in the next"}};
  for (size_t layer = 0; layer < found.tokens.size(); ++layer) {
    const auto& tokens = found.tokens[layer];
    const bool ranked = layer >= 1 && layer <= found.correlation.size();
    layers.push_back({fmt::format("{}", layer), fmt::format("{:.3g}", quantile(tokens, 0.5)), fmt::format("{:.3g}", quantile(tokens, 0.9)),
                      fmt::format("{:.3g}", quantile(tokens, 0.99)), fmt::format("{:.0f} %", 100 * share_of_largest(tokens)),
                      ranked ? fmt::format("{:.3f}", found.correlation[layer - 1]) : ""});
  }
  std::vector<std::vector<std::string>> ratios = {{"computed again", "attention's distance", "of random tokens"}};
  for (size_t i = 0; i + 1 < found.attention.size(); i += 2) {
    ratios.push_back({fmt::format("{:.0f} %", 100 * found.attention[i].ratio), fmt::format("{:.4f}", found.attention[i].mean()),
                      fmt::format("{:.4f}", found.attention[i + 1].mean())});
  }
  const double median = found.median_correlation();
  const char* advice = median > 0.5
                           ? "tokens that are chosen once, before layer 1, fit the layers above"
                           : "tokens that are chosen once fit the layers above badly: --blend-schedule gradual chooses in every layer";
  return table_text(layers) + "\n" + table_text(ratios) + fmt::format("\nmedian rank correlation {:.3f}: {}\n", median, advice);
}

Status run(const DeviationOptions& options) {
  std::vector<std::string> texts;
  int64_t bytes = 0;
  for (const std::string& file : options.contexts) {
    ONSET_ASSIGN(texts.emplace_back(), read_file(file));
    if (texts.back().empty()) return error(Code::invalid_argument, "--context {}: the file is empty", file);
    bytes += static_cast<int64_t>(texts.back().size()) + page_tokens;
  }
  if (texts.size() < 2)
    return error(Code::invalid_argument, "--context: expected two files or more, a single one is read as it would be in one text");
  ONSET_ASSIGN(const CacheBlendMetric metric, cache_blend_metric(options.metric));
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, 2 * (bytes + static_cast<int64_t>(options.prompt.size()) + 4096)));
  ONSET_ASSIGN(const auto chat_template, load_chat_template(*engine));
  ONSET_ASSIGN(const PromptParts parts, prompt_parts(*engine, chat_template, "", options.prompt, texts));
  ONSET_ASSIGN(const KvDeviation found, measure_kv_deviation(*engine, parts, metric, options.ratios));
  if (!options.svg.empty()) {
    ONSET_ASSIGN(AtomicFile file, AtomicFile::create(options.svg));
    ONSET_TRY(file.write(picture(found, engine->model().file().path().stem().string())));
    ONSET_TRY(file.commit());
  }
  return options.json ? write_json(to_json(found)) : write_out(text_of(found));
}

}  // namespace

void add_kv_deviation(CLI::App& app, Action& action) {
  add_command<DeviationOptions>(app, action, "kv-deviation", "how far contexts that are read apart are from what they would be in one text",
                                declare, run);
}

}  // namespace onset::cli
