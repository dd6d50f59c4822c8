#include "onset/cli/long_report.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "onset/cli/output.h"
#include "onset/load/heat_map.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

// How one way stands beside the dense one in a task.
struct Standing {
  LongSummary own, dense;
  std::optional<double> exact, first;  // what is left of the dense share above chance; none: dense itself is no better than chance
  double likelihood = 1;               // of a right answer's token, over the dense one
  double sooner = 1;                   // the dense time to the first token over this one
};

std::optional<double> kept(double share, double dense, double chance, int64_t items) {
  if (!above_chance(dense, chance, items)) return {};
  return (share - chance) / (dense - chance);
}

Standing standing_of(const LongFindings& found, size_t way) {
  Standing standing{.own = summary_of(found.scores[way]), .dense = summary_of(found.scores[0]), .exact = {}, .first = {}};
  const LongSummary &own = standing.own, &dense = standing.dense;
  if (found.answers) standing.exact = kept(own.exact, dense.exact, 0, dense.items);
  if (found.chance < 1) standing.first = kept(own.first, dense.first, found.chance, dense.items);
  standing.likelihood = std::exp(own.logprob - dense.logprob);
  standing.sooner = dense.first_token_seconds / own.first_token_seconds;
  return standing;
}

std::string percent(double share) {
  return fmt::format("{:.1f} %", 100 * share);
}
std::string percent(const std::optional<double>& share) {
  return share ? percent(*share) : "-";
}

std::string heading(const LongFindings& found) {
  const auto [least, most] = std::minmax_element(found.lengths.begin(), found.lengths.end());
  std::string text = fmt::format("{}: {} prompts of {}", found.task, found.lengths.size(), *least);
  if (*most > *least) text += fmt::format(" to {}", *most);
  text += " tokens";
  const LongSummary dense = summary_of(found.scores[0]);
  const bool exact = found.answers && above_chance(dense.exact, 0, dense.items);
  const bool first = found.chance < 1 && above_chance(dense.first, found.chance, dense.items);
  if (found.chance < 1) text += fmt::format("; the right answer is the likeliest by chance in {}", percent(found.chance));
  if ((found.answers || found.chance < 1) && !exact && !first) text += "; not above chance with this model";
  return text + "\n\n";
}

std::string table_of(const std::vector<std::string>& ways, const LongFindings& found) {
  const bool likeliest = found.chance < 1;
  std::vector<std::vector<std::string>> rows(1 + ways.size());
  const auto add = [&](const std::string& name, const auto& cell) {
    rows[0].push_back(name);
    for (size_t way = 0; way < ways.size(); ++way) rows[way + 1].push_back(cell(standing_of(found, way)));
  };
  rows[0].emplace_back();
  for (size_t way = 0; way < ways.size(); ++way) rows[way + 1].push_back(ways[way]);
  if (found.answers) {
    add("exact", [](const Standing& standing) { return percent(standing.own.exact); });
    add("of dense", [](const Standing& standing) { return percent(standing.exact); });
  }
  if (likeliest) {
    add("likeliest", [](const Standing& standing) { return percent(standing.own.first); });
    add("of dense", [](const Standing& standing) { return percent(standing.first); });
  }
  add("log-probability", [](const Standing& standing) { return fmt::format("{:.3f}", standing.own.logprob); });
  add("of dense", [](const Standing& standing) { return percent(standing.likelihood); });
  add("first token ms", [](const Standing& standing) { return fmt::format("{:.1f}", 1e3 * standing.own.first_token_seconds); });
  add("times as soon", [](const Standing& standing) { return fmt::format("{:.2f}", standing.sooner); });
  add("tokens/s", [](const Standing& standing) { return fmt::format("{:.1f}", standing.own.decode_tokens_per_second); });
  add("memory", [](const Standing& standing) { return bytes_text(static_cast<double>(standing.own.bytes)); });
  add("attention skipped", [](const Standing& standing) { return percent(standing.own.skipped); });
  add("rows", [](const Standing& standing) { return percent(standing.own.rows); });
  return table_text(rows);
}

// A prompt counts as answered where everything is there.
bool is_right(const LongScore& score) {
  return score.exact >= 1;
}

Json interval_json(double share, int64_t items) {
  const Interval interval = wilson_interval(share, items);
  return {interval.low, interval.high};
}

// Prompts that only one of both answers, and how likely that is by chance.
Json discordant_json(const LongFindings& found, size_t way) {
  int64_t only_dense = 0, only_own = 0;
  for (size_t i = 0; i < found.lengths.size(); ++i) {
    const bool dense = is_right(found.scores[0][i]), own = is_right(found.scores[way][i]);
    only_dense += dense && !own;
    only_own += own && !dense;
  }
  return {{"only_dense", only_dense}, {"only_this", only_own}, {"p", mcnemar(only_dense, only_own)}};
}

Json optional_json(const std::optional<double>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json way_json(const std::string& name, const LongFindings& found, size_t way) {
  const Standing standing = standing_of(found, way);
  const LongSummary& own = standing.own;
  Json json{{"way", name}};
  if (found.answers) {
    json["exact"] = own.exact;
    json["exact_interval"] = interval_json(own.exact, own.items);
    json["exact_of_dense"] = optional_json(standing.exact);
    json["discordant"] = discordant_json(found, way);
  }
  if (found.chance < 1) {
    json["likeliest"] = own.first;
    json["likeliest_interval"] = interval_json(own.first, own.items);
    json["likeliest_of_dense"] = optional_json(standing.first);
  }
  json["logprob"] = own.logprob;
  json["likelihood_of_dense"] = standing.likelihood;
  json["first_token_seconds"] = own.first_token_seconds;
  json["times_as_soon"] = standing.sooner;
  json["decode_tokens_per_second"] = own.decode_tokens_per_second;
  json["bytes"] = own.bytes;
  json["attention_skipped"] = own.skipped;
  json["rows"] = own.rows;
  for (size_t i = 0; i < found.lengths.size(); ++i) {
    const LongScore& score = found.scores[way][i];
    Json one{{"length", found.lengths[i]}};
    if (found.depths) one["depth"] = found.depth[i];
    if (found.answers) {
      one["exact"] = score.exact;
      one["answer"] = score.answer;
    }
    if (found.chance < 1) one["likeliest"] = score.first;
    one["logprob"] = score.logprob;
    one["first_token_seconds"] = score.first_token_seconds;
    json["prompts"].push_back(std::move(one));
  }
  return json;
}

enum class Shown : uint8_t { exact, probability };

// The mean of all prompts of a length and a depth.
HeatMap heat_map(const std::string& way, const LongFindings& found, size_t way_index, Shown shown) {
  const std::set<int32_t> lengths(found.lengths.begin(), found.lengths.end());
  const std::set<double> depths(found.depth.begin(), found.depth.end());
  HeatMap map{.title = way, .columns = {}, .rows = {}, .cells = {}};
  for (const int32_t length : lengths) map.columns.push_back(fmt::format("{}", length));
  for (const double depth : depths) {
    map.rows.push_back(fmt::format("{:.0f}", 100 * depth));
    std::vector<std::optional<double>>& row = map.cells.emplace_back();
    for (const int32_t length : lengths) {
      double sum = 0;
      int32_t count = 0;
      for (size_t i = 0; i < found.lengths.size(); ++i) {
        if (found.lengths[i] != length || found.depth[i] != depth) continue;
        const LongScore& score = found.scores[way_index][i];
        sum += shown == Shown::exact ? score.exact : std::exp(score.logprob);
        ++count;
      }
      row.push_back(count > 0 ? std::optional(sum / count) : std::nullopt);
    }
  }
  return map;
}

}  // namespace

std::string long_report_text(const std::vector<std::string>& ways, const std::vector<LongFindings>& found) {
  std::string text;
  for (const LongFindings& task : found) text += (text.empty() ? "" : "\n") + heading(task) + table_of(ways, task);
  return text;
}

nlohmann::ordered_json long_report_json(const std::vector<std::string>& ways, const std::vector<LongFindings>& found) {
  Json tasks = Json::array();
  for (const LongFindings& task : found) {
    Json json{{"task", task.task}, {"prompts", task.lengths.size()}};
    if (task.chance < 1) json["chance"] = task.chance;
    for (size_t way = 0; way < ways.size(); ++way) json["ways"].push_back(way_json(ways[way], task, way));
    tasks.push_back(std::move(json));
  }
  return tasks;
}

std::string long_report_svg(const std::vector<std::string>& ways, const std::vector<LongFindings>& found, const std::string& model) {
  HeatMapPicture picture{.title = "Answers to long prompts: " + model,
                         .x = "prompt, tokens",
                         .y = "depth, %",
                         .lines = {},
                         .legend = "the number in a cell: the mean of its prompts, in percent"};
  for (const LongFindings& task : found) {
    if (!task.depths) continue;
    for (const Shown shown : {Shown::exact, Shown::probability}) {
      const char* measure = shown == Shown::exact ? "exact answers" : "probability of a right answer's token";
      HeatMapLine& line = picture.lines.emplace_back(HeatMapLine{.title = fmt::format("{}: {}", task.task, measure), .maps = {}});
      for (size_t way = 0; way < ways.size(); ++way) line.maps.push_back(heat_map(ways[way], task, way, shown));
    }
  }
  return heat_maps_svg(picture);
}

}  // namespace onset::cli
