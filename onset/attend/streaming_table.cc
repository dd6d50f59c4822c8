#include "onset/attend/streaming_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <random>
#include <tuple>

#include "onset/attend/shipped_tables.h"
#include "onset/formats/json.h"

namespace onset {
namespace {

using Json = nlohmann::json;

Result<std::vector<std::vector<double>>> json_layers(std::string_view text, const std::string& name, std::string& model) {
  ONSET_ASSIGN(const Json parsed, parse_json(text, name));
  ONSET_ASSIGN(const JsonObject object, JsonObject::of(parsed, name));
  ONSET_ASSIGN(model, object.text_or("model", ""));
  const Json* layers = object.find("streaming");
  if (layers == nullptr || !layers->is_array() || layers->empty()) {
    return error(Code::invalid_argument, "{}: expected \"streaming\", a list with a list of numbers for each layer", name);
  }
  std::vector<std::vector<double>> result;
  for (const Json& layer : *layers) {
    if (!layer.is_array()) return error(Code::invalid_argument, "{}: layer {}: expected a list of numbers", name, result.size());
    std::vector<double>& heads = result.emplace_back();
    for (const Json& head : layer) {
      if (!head.is_number()) {
        return error(Code::invalid_argument, "{}: layer {}: head {}: {} is no number", name, result.size() - 1, heads.size(),
                     head.dump().substr(0, 100));
      }
      heads.push_back(head.get<double>());
    }
  }
  return result;
}

// A line for each layer, numbers between tabs or spaces.
Result<std::vector<std::vector<double>>> tsv_layers(std::string_view text, const std::string& name) {
  std::vector<std::vector<double>> result;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    constexpr std::string_view between = " \t\r";
    std::vector<double> heads;
    for (size_t at = line.find_first_not_of(between); at < line.size(); at = line.find_first_not_of(between, at)) {
      const std::string_view word = line.substr(at, std::min(line.find_first_of(between, at), line.size()) - at);
      double value = 0;
      const auto [stop, problem] = std::from_chars(word.data(), word.data() + word.size(), value);
      if (problem != std::errc() || stop != word.data() + word.size()) {
        return error(Code::invalid_argument, "{}: layer {}: head {}: {} is no number", name, result.size(), heads.size(),
                     word.substr(0, 100));
      }
      heads.push_back(value);
      at += word.size();
    }
    if (!heads.empty()) result.push_back(std::move(heads));
  }
  if (result.empty()) return error(Code::invalid_argument, "{}: expected a line of numbers for each layer", name);
  return result;
}

struct NamedTable {
  std::string name;
  StreamingTable table;
};

// What is built in was made by the program itself and is read by the tests.
const std::vector<NamedTable>& shipped() {
  static const std::vector<NamedTable> tables = [] {
    std::vector<NamedTable> all;
    for (const ShippedTable& each : shipped_streaming_tables) {
      auto parsed = parse_streaming_table(each.json, each.name);
      if (parsed.ok()) all.push_back({each.name, std::move(*parsed)});
    }
    return all;
  }();
  return tables;
}

}  // namespace

Result<StreamingTable> parse_streaming_table(std::string_view text, const std::string& name) {
  StreamingTable table;
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string_view::npos && text[first] == '{') {
    ONSET_ASSIGN(table.layers, json_layers(text, name, table.model));
  } else {
    ONSET_ASSIGN(table.layers, tsv_layers(text, name));
  }
  for (size_t layer = 0; layer < table.layers.size(); ++layer) {
    for (size_t head = 0; head < table.layers[layer].size(); ++head) {
      double& value = table.layers[layer][head];
      if (!std::isfinite(value)) {
        return error(Code::invalid_argument, "{}: layer {}: head {}: {} is no number from 0 to 1", name, layer, head, value);
      }
      table.clamped += value < 0 || value > 1;
      value = std::clamp(value, 0.0, 1.0);
    }
  }
  return table;
}

std::string streaming_table_json(const StreamingTable& table) {
  std::string layers = "[";
  for (size_t layer = 0; layer < table.layers.size(); ++layer) {
    layers += layer > 0 ? ",\n[" : "\n[";
    for (size_t head = 0; head < table.layers[layer].size(); ++head) {
      layers += fmt::format("{}{:.4g}", head > 0 ? "," : "", table.layers[layer][head]);
    }
    layers += "]";
  }
  return fmt::format("{{\"model\":{},\"streaming\":{}\n]}}\n", Json(table.model).dump(), layers);
}

Status check_streaming_table(const StreamingTable& table, int32_t layers, int32_t kv_heads) {
  if (table.layers.size() != static_cast<size_t>(layers)) {
    return error(Code::invalid_argument, "the table has {} layers, the model {}", table.layers.size(), layers);
  }
  for (size_t layer = 0; layer < table.layers.size(); ++layer) {
    const size_t heads = table.layers[layer].size();
    if (heads != 0 && heads != static_cast<size_t>(kv_heads)) {
      return error(Code::invalid_argument, "layer {} of the table has {} KV heads, the model {}", layer, heads, kv_heads);
    }
  }
  return {};
}

StreamingHeads streaming_heads(const StreamingTable& table, double sparsity, uint64_t seed) {
  struct Head {
    double score;
    size_t layer, head;
  };
  std::vector<Head> order;
  StreamingHeads streams;
  std::mt19937_64 random(seed);
  for (size_t layer = 0; layer < table.layers.size(); ++layer) {
    streams.emplace_back(table.layers[layer].size(), false);
    for (size_t head = 0; head < table.layers[layer].size(); ++head) {
      const double noise = 1e-6 * static_cast<double>(random() >> 11) * 0x1p-53;
      order.push_back({table.layers[layer][head] + noise, layer, head});
    }
  }
  std::sort(order.begin(), order.end(),
            [](const Head& a, const Head& b) { return std::tie(a.score, a.layer, a.head) < std::tie(b.score, b.layer, b.head); });
  const auto count = static_cast<size_t>(std::llround(sparsity * static_cast<double>(order.size())));
  for (size_t i = 0; i < count; ++i) streams[order[i].layer][order[i].head] = true;
  return streams;
}

const StreamingTable* shipped_streaming_table(std::string_view name) {
  for (const NamedTable& each : shipped()) {
    if (each.name == name) return &each.table;
  }
  return nullptr;
}

const StreamingTable* shipped_streaming_table(int32_t layers, int32_t kv_heads) {
  for (const NamedTable& each : shipped()) {
    if (check_streaming_table(each.table, layers, kv_heads).ok()) return &each.table;
  }
  return nullptr;
}

std::vector<std::string> shipped_streaming_table_names() {
  std::vector<std::string> names;
  for (const NamedTable& each : shipped()) names.push_back(each.name);
  return names;
}

}  // namespace onset
