#include "onset/attend/head_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "onset/attend/shipped_tables.h"
#include "onset/formats/json.h"

namespace onset {
namespace {

using Json = nlohmann::json;

struct ShapeName {
  HeadShape shape;
  const char* name;
};
constexpr ShapeName shape_names[] = {{HeadShape::dense, "dense"},
                                     {HeadShape::a_shape, "stream_llm"},
                                     {HeadShape::vertical_slash, "vertical_and_slash"},
                                     {HeadShape::block_sparse, "block_sparse"}};
constexpr int32_t most_budget = 1 << 27;

const char* name_of(HeadShape shape) {
  return std::find_if(std::begin(shape_names), std::end(shape_names), [&](const ShapeName& each) { return each.shape == shape; })->name;
}

Result<int32_t> budget_of(const Json& value, int32_t least, const char* what) {
  if (value.is_number_integer() && value >= least && value <= most_budget) return value.get<int32_t>();
  return error(Code::invalid_argument, "{} is {}, expected a whole number from {} to {}", what, value.dump(), least, most_budget);
}

Result<HeadPattern> pattern_of(const Json& value) {
  if (!value.is_array() || value.size() != 4 || !value[0].is_string() || !value[3].is_number()) {
    return error(Code::invalid_argument, "{} is no pattern: expected [type, number, number, score]", value.dump().substr(0, 100));
  }
  const auto& type = value[0].get_ref<const std::string&>();
  const auto* const known =
      std::find_if(std::begin(shape_names), std::end(shape_names), [&](const ShapeName& each) { return type == each.name; });
  if (known == std::end(shape_names)) {
    return error(Code::invalid_argument, "the type is {}, expected stream_llm, vertical_and_slash, block_sparse or dense", value[0].dump());
  }
  HeadPattern pattern{.shape = known->shape, .score = value[3].get<double>()};
  const bool slash = pattern.shape == HeadShape::vertical_slash;
  ONSET_ASSIGN(pattern.first, budget_of(value[1], pattern.shape == HeadShape::block_sparse ? 1 : 0,
                                        slash                                      ? "the number of columns"
                                        : pattern.shape == HeadShape::block_sparse ? "the number of tiles"
                                                                                   : "the number of first tokens"));
  ONSET_ASSIGN(pattern.second, budget_of(value[2], slash || pattern.shape == HeadShape::a_shape ? 1 : 0,
                                         slash ? "the number of diagonals" : "the number of last tokens"));
  return pattern;
}

Result<std::vector<HeadPattern>> layer_of(const Json& layer) {
  if (!layer.is_object()) return error(Code::invalid_argument, "expected an object with a pattern for each head");
  std::vector<HeadPattern> heads(layer.size());
  for (size_t head = 0; head < layer.size(); ++head) {
    const auto found = layer.find(std::to_string(head));
    if (found == layer.end()) return error(Code::invalid_argument, "head {} of {} is missing", head, layer.size());
    auto pattern = pattern_of(*found);
    if (!pattern.ok()) return pattern.status().within(fmt::format("head {}", head));
    heads[head] = *pattern;
  }
  return heads;
}

struct NamedTable {
  std::string name;
  HeadTable table;
};

// What is built in was made by the program itself and is read by the tests.
const std::vector<NamedTable>& shipped() {
  static const std::vector<NamedTable> tables = [] {
    std::vector<NamedTable> all;
    for (const ShippedTable& each : shipped_tables) {
      auto parsed = parse_head_table(each.json, each.name);
      if (parsed.ok()) all.push_back({each.name, std::move(*parsed)});
    }
    return all;
  }();
  return tables;
}

}  // namespace

Result<HeadTable> parse_head_table(std::string_view json, const std::string& name) {
  ONSET_ASSIGN(const Json parsed, parse_json(json, name));
  HeadTable table;
  const Json* layers = &parsed;
  if (parsed.is_object()) {
    ONSET_ASSIGN(const JsonObject object, JsonObject::of(parsed, name));
    ONSET_ASSIGN(table.model, object.text_or("model", ""));
    ONSET_ASSIGN(const int64_t length, object.integer_within("reference_length", 1, most_budget));
    table.reference_length = static_cast<int32_t>(length);
    layers = object.find("layers");
  }
  if (layers == nullptr || !layers->is_array() || layers->empty()) {
    return error(Code::invalid_argument, "{}: expected a list with an object for each layer", name);
  }
  for (const Json& layer : *layers) {
    auto heads = layer_of(layer);
    if (!heads.ok()) return heads.status().within(fmt::format("{}: layer {}", name, table.layers.size()));
    table.layers.push_back(std::move(*heads));
  }
  return table;
}

std::string head_table_json(const HeadTable& table) {
  std::string layers = "[";
  for (size_t layer = 0; layer < table.layers.size(); ++layer) {
    layers += layer > 0 ? ",\n{" : "\n{";
    for (size_t head = 0; head < table.layers[layer].size(); ++head) {
      const HeadPattern& pattern = table.layers[layer][head];
      layers += fmt::format("{}\"{}\":[\"{}\",{},{},{:.3g}]", head > 0 ? "," : "", head, name_of(pattern.shape), pattern.first,
                            pattern.second, pattern.score);
    }
    layers += "}";
  }
  layers += "\n]";
  if (table.reference_length == 0) return layers + "\n";
  return fmt::format("{{\"model\":{},\"reference_length\":{},\"layers\":{}}}\n", Json(table.model).dump(), table.reference_length, layers);
}

Status check_head_table(const HeadTable& table, int32_t layers, int32_t query_heads) {
  if (table.layers.size() != static_cast<size_t>(layers)) {
    return error(Code::invalid_argument, "the table has {} layers, the model {}", table.layers.size(), layers);
  }
  for (size_t layer = 0; layer < table.layers.size(); ++layer) {
    const size_t heads = table.layers[layer].size();
    if (heads != 0 && heads != static_cast<size_t>(query_heads)) {
      return error(Code::invalid_argument, "layer {} of the table has {} heads, the model {}", layer, heads, query_heads);
    }
  }
  return {};
}

const HeadTable* shipped_head_table(std::string_view name) {
  for (const NamedTable& each : shipped()) {
    if (each.name == name) return &each.table;
  }
  return nullptr;
}

const HeadTable* shipped_head_table(int32_t layers, int32_t query_heads) {
  for (const NamedTable& each : shipped()) {
    if (check_head_table(each.table, layers, query_heads).ok()) return &each.table;
  }
  return nullptr;
}

std::vector<std::string> shipped_head_table_names() {
  std::vector<std::string> names;
  for (const NamedTable& each : shipped()) names.push_back(each.name);
  return names;
}

}  // namespace onset
