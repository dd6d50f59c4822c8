// onset map: which blocks of keys each head of a layer visited for a prompt, and how many rows ran in each layer.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "onset/base/mapped_file.h"
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/engine/block_map.h"
#include "onset/load/block_picture.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct MapOptions {
  EngineFlags engine;
  TextSource prompt;
  int32_t most = 0;
  std::vector<int32_t> layers;
  std::string select = "all", svg;
  bool all_layers = false, recall = false, json = false;
};

void declare(CLI::App& command, MapOptions& options) {
  command.add_option("PROMPT", options.prompt.words, "the prompt as it is, or - for standard input");
  command.add_option("-f,--file", options.prompt.file, "read the prompt from a file");
  command.add_option("--tokens", options.most, "use the first so many tokens of it (default: all)")->check(CLI::Range(1, 1 << 27));
  auto* layer = command.add_option("--layer", options.layers, "layers that are shown, separated by commas (default: the middle one)")
                    ->delimiter(',')
                    ->allow_extra_args(false);
  command.add_flag("--all-layers", options.all_layers, "show all layers")->excludes(layer);
  command.add_flag("--recall", options.recall, "also how much of the shown layers' softmax lies on what was visited (takes longer)");
  command.add_option("-o,--svg", options.svg, "write the picture to this file");
  command.add_flag("--json", options.json, "print one JSON object, with the share of each block that was visited");
  add_select_flag(command, options.select);
  add_engine_flags(command, options.engine);
  set_examples(command,
               "  onset map --attend minference --file report.txt --svg map.svg\n"
               "  onset map --select lazyllm:9,18,27:0.7 --file report.txt --layer 4,12,24 --svg map.svg\n"
               "  onset map --attend longgen:10:sink=64:window=448 --file report.txt --all-layers --json");
}

Result<std::vector<int32_t>> tokens_of(const Engine& engine, const MapOptions& options) {
  ONSET_ASSIGN(const std::string text, read_text(options.prompt, "the prompt"));
  if (engine.tokenizer() == nullptr) return error(Code::unsupported, "{} has no tokenizer", engine.model().file().path().string());
  ONSET_ASSIGN(std::vector<int32_t> tokens, engine.tokenizer()->encode(text));
  if (options.most > 0 && static_cast<int64_t>(tokens.size()) > options.most) tokens.resize(options.most);
  return tokens;
}

Result<std::vector<int32_t>> layers_of(const Engine& engine, const MapOptions& options) {
  const int32_t layers = engine.model().config().layers;
  for (const int32_t layer : options.layers) {
    if (layer >= 0 && layer < layers) continue;
    return error(Code::invalid_argument, "--layer {}: the model has layers 0 to {}", layer, layers - 1);
  }
  if (options.all_layers) {
    std::vector<int32_t> all(static_cast<size_t>(layers));
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  std::vector<int32_t> chosen = options.layers;
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  return chosen.empty() ? std::vector<int32_t>{layers / 2} : chosen;
}

// [query block][key block up to it], 0 to 1: of what the model itself would visit.
std::vector<std::vector<double>> shares_of(const BlockMap& map, int32_t layer, int32_t head) {
  std::vector<std::vector<double>> shares;
  for (int32_t query = 0; query < map.blocks(); ++query) {
    std::vector<double>& row = shares.emplace_back();
    for (int32_t key = 0; key <= query; ++key) {
      const int64_t dense = map.dense(layer, query, key);
      row.push_back(dense > 0 ? static_cast<double>(map.visited(layer, head, query, key)) / static_cast<double>(dense) : -1);
    }
  }
  return shares;
}

double skipped_by(const BlockMap& map, int32_t layer, int32_t head) {
  return 1 - static_cast<double>(map.visited(layer, head)) / static_cast<double>(map.dense(layer));
}

// Of all heads together, by layer.
std::vector<double> visited_by_layer(const BlockMap& map, int32_t layers) {
  std::vector<double> shares;
  for (int32_t layer = 0; layer < layers; ++layer) {
    shares.push_back(static_cast<double>(map.visited_in_layer(layer)) / (static_cast<double>(map.dense(layer)) * map.heads()));
  }
  return shares;
}

BlockPanel panel_of(const BlockMap& map, int32_t layer, int32_t head) {
  BlockPanel panel{.title = fmt::format("layer {} head {}: {:.0f} %", layer, head, 100 * skipped_by(map, layer, head)), .shares = {}};
  for (const std::vector<double>& row : shares_of(map, layer, head)) {
    std::vector<float>& shares = panel.shares.emplace_back(static_cast<size_t>(map.blocks()), -1.0f);
    std::copy(row.begin(), row.end(), shares.begin());
  }
  return panel;
}

std::string picture(const BlockMap& map, const MapOptions& options, const Engine& engine) {
  const int32_t layers = engine.model().config().layers;
  BlockPicture picture{
      .title = "What attention visited: " + engine.model().file().path().stem().string(), .note = {}, .lines = {}, .bars = {}};
  picture.note =
      fmt::format("{} tokens, --attend {}, --select {}; above each head the share of pairs left out; a dot is a block of {} x {} tokens",
                  map.tokens(), options.engine.attend.empty() ? "dense" : options.engine.attend, options.select, map.block(), map.block());
  for (const int32_t layer : map.kept()) {
    std::vector<BlockPanel>& line = picture.lines.emplace_back();
    for (int32_t head = 0; head < map.heads(); ++head) line.push_back(panel_of(map, layer, head));
  }
  LayerBars rows{.name = "rows of the prompt that ran, by layer", .values = {}};
  for (int32_t layer = 0; layer < layers; ++layer) rows.values.push_back(static_cast<double>(map.rows(layer)) / map.tokens());
  picture.bars = {std::move(rows),
                  {.name = "pairs of a query and a key that were visited, by layer", .values = visited_by_layer(map, layers)}};
  return block_picture_svg(picture);
}

// What a share says beyond four digits is noise to its reader.
double rounded(double share) {
  return std::round(share * 1e4) / 1e4;
}

Json to_json(const BlockMap& map, const MapOptions& options, const Engine& engine) {
  const int32_t layers = engine.model().config().layers;
  Json json{{"model", engine.model().file().path().string()},
            {"tokens", map.tokens()},
            {"block", map.block()},
            {"attend", options.engine.attend.empty() ? "dense" : options.engine.attend},
            {"select", options.select}};
  for (int32_t layer = 0; layer < layers; ++layer) json["rows"].push_back(map.rows(layer));
  for (const double share : visited_by_layer(map, layers)) json["visited"].push_back(rounded(share));
  for (const int32_t layer : map.kept()) {
    Json heads = Json::array();
    for (int32_t head = 0; head < map.heads(); ++head) {
      Json blocks = Json::array();
      for (const std::vector<double>& row : shares_of(map, layer, head)) {
        Json shares = Json::array();
        for (const double share : row) shares.push_back(rounded(std::max(0.0, share)));
        blocks.push_back(std::move(shares));
      }
      heads.push_back({{"skipped", rounded(skipped_by(map, layer, head))}, {"blocks", std::move(blocks)}});
      if (options.recall) heads.back()["recall"] = map.recall(layer, head);
    }
    json["layers"].push_back({{"layer", layer}, {"window", map.window(layer)}, {"heads", std::move(heads)}});
  }
  return json;
}

std::string recall_text(const BlockMap& map, int32_t layer) {
  double sum = 0;
  for (int32_t head = 0; head < map.heads(); ++head) sum += map.recall(layer, head);
  return fmt::format("{:.2f} %", 100 * sum / map.heads());
}

std::string text_of(const BlockMap& map, const MapOptions& options, const Engine& engine) {
  const int32_t layers = engine.model().config().layers;
  const std::vector<double> visited = visited_by_layer(map, layers);
  std::vector<std::vector<std::string>> rows = {{"layer", "rows", "pairs visited"}};
  if (options.recall) rows[0].emplace_back("of the softmax");
  for (int32_t layer = 0; layer < layers; ++layer) {
    rows.push_back({fmt::format("{}", layer), fmt::format("{}", map.rows(layer)), fmt::format("{:.1f} %", 100 * visited[layer])});
    const bool kept = std::find(map.kept().begin(), map.kept().end(), layer) != map.kept().end();
    if (options.recall && kept) rows.back().push_back(recall_text(map, layer));
  }
  return fmt::format("{} tokens\n\n{}", map.tokens(), table_text(rows));
}

Status run(const MapOptions& options) {
  ONSET_ASSIGN(const auto select, select_of(options.select));
  std::shared_ptr<const AttendSpec> attend;
  if (!options.engine.attend.empty()) {
    ONSET_ASSIGN(attend, parse_attend(options.engine.attend, AttendFiles::read));
  }
  EngineFlags flags = options.engine;
  flags.attend.clear();  // the request's own
  ONSET_ASSIGN(const auto engine, load_engine(flags));
  ONSET_ASSIGN(const std::vector<int32_t> tokens, tokens_of(*engine, options));
  ONSET_ASSIGN(const std::vector<int32_t> layers, layers_of(*engine, options));
  ONSET_ASSIGN(const BlockMap map, map_blocks(*engine, tokens, attend, select, layers, options.recall));
  if (!options.svg.empty()) {
    ONSET_ASSIGN(AtomicFile file, AtomicFile::create(options.svg));
    ONSET_TRY(file.write(picture(map, options, *engine)));
    ONSET_TRY(file.commit());
  }
  return options.json ? write_json(to_json(map, options, *engine)) : write_out(text_of(map, options, *engine));
}

}  // namespace

void add_map(CLI::App& app, Action& action) {
  add_command<MapOptions>(app, action, "map", "which blocks of keys attention visited, and how many rows ran", declare, run);
}

}  // namespace onset::cli
