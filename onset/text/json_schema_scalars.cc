// Numbers and strings of JSON schemas.
#include <algorithm>
#include <cmath>

#include "onset/text/grammar_characters.h"
#include "onset/text/grammar_pattern.h"
#include "onset/text/json_schema_compiler.h"

namespace onset {
namespace {

using Json = JsonSchemaCompiler::Json;
using Place = AutomatonDraft::Place;

constexpr uint32_t largest_divisor = 10000;

}  // namespace

// ------------------------------------------------------------------------------------------

namespace {

Place add_automaton(AutomatonDraft& draft, Place from, const Automaton& automaton) {
  std::vector<Place> places;
  for (size_t i = 0; i < automaton.states.size(); ++i) places.push_back(draft.add());
  const Place end = draft.add();
  draft.skip(from, places[0]);
  for (size_t i = 0; i < automaton.states.size(); ++i) {
    for (const AutomatonDraft::Edge& edge : automaton.states[i].edges) draft.edge(places[i], edge.first, edge.last, places[edge.to]);
    if (automaton.states[i].final) draft.skip(places[i], end);
  }
  return end;
}

}  // namespace

Result<Place> JsonSchemaCompiler::number_value(AutomatonDraft& draft, Place from, const Json& schema, bool integers,
                                               const std::string& at) {
  std::optional<DecimalBound> low, high;
  for (const auto& [name, is_low] :
       {std::pair{"minimum", true}, {"exclusiveMinimum", true}, {"maximum", false}, {"exclusiveMaximum", false}}) {
    if (!schema.contains(name)) continue;
    if (!schema[name].is_number()) return fail(Code::invalid_argument, fmt::format("{}/{}", at, name), "expected a number");
    const DecimalBound bound = DecimalBound::of(schema[name], name[0] == 'e');
    std::optional<DecimalBound>& kept = is_low ? low : high;
    const int order = kept ? DecimalBound::compare(bound, *kept) : 0;
    const bool stricter = !kept || (is_low ? order > 0 : order < 0) || (order == 0 && bound.exclusive);
    if (stricter) kept = bound;
  }
  const auto add = [&](AutomatonDraft& into, Place begin) {
    return low || high ? add_decimals(into, begin, low, high, integers) : add_number(into, begin, integers);
  };
  if (!schema.contains("multipleOf")) return add(draft, from);
  const Json& divisor = schema["multipleOf"];
  const bool whole = divisor.is_number() && divisor.get<double>() == std::floor(divisor.get<double>()) && divisor.get<double>() >= 1 &&
                     divisor.get<double>() <= largest_divisor;
  if (!integers || !whole) {
    return fail(Code::unsupported, at + "/multipleOf",
                fmt::format("only integers of type integer, from 1 to {}, are supported", largest_divisor));
  }
  AutomatonDraft range;
  range.set_final(add(range, 0));
  auto numbers = determinise(range, builder_.limit());
  if (numbers.ok()) numbers = intersection(*numbers, multiples(static_cast<uint32_t>(divisor.get<double>())), builder_.limit());
  if (!numbers.ok()) return fail(numbers.status().code(), at, numbers.status().message());
  return add_automaton(draft, from, *numbers);
}

Result<JsonSchemaCompiler::Bounds> JsonSchemaCompiler::bounds_of(const Json& schema, const char* least, const char* most,
                                                                 const std::string& at) const {
  Bounds bounds;
  for (const char* name : {least, most}) {
    if (!schema.contains(name)) continue;
    const Json& value = schema[name];
    const bool whole = value.is_number() && value.get<double>() >= 0 && value.get<double>() == std::floor(value.get<double>());
    if (!whole) return fail(Code::invalid_argument, fmt::format("{}/{}", at, name), "expected an integer, 0 or more");
    const auto number = static_cast<uint32_t>(std::min(value.get<double>(), 4e9));
    (name == least ? bounds.least : bounds.most) = number;
    bounds.given = true;
  }
  if (bounds.least > bounds.most)
    return fail(Code::invalid_argument, at, fmt::format("{} is more than {}: nothing can satisfy it", least, most));
  return bounds;
}

Result<Place> JsonSchemaCompiler::string_value(AutomatonDraft& draft, Place from, const Json& schema, const std::string& at) {
  ONSET_ASSIGN(const Bounds bounds, bounds_of(schema, "minLength", "maxLength", at));
  Automaton characters = any_text();
  for (const char* name : {"pattern", "format"}) {
    if (!schema.contains(name)) continue;
    const std::string place = fmt::format("{}/{}", at, name);
    if (!schema[name].is_string()) return fail(Code::invalid_argument, place, "expected a string");
    const std::string& text = schema[name].get_ref<const std::string&>();
    const bool format = std::string_view(name) == "format";
    const char* known = format ? format_pattern(text) : text.c_str();
    if (known == nullptr) return fail(Code::unsupported, place, fmt::format("the format \"{}\" is not supported", text));
    auto automaton = compile_pattern(format ? std::string_view(known) : std::string_view(text), builder_.limit());
    if (automaton.ok()) automaton = intersection(characters, *automaton, builder_.limit());
    if (!automaton.ok()) return fail(automaton.status().code(), place, automaton.status().message());
    characters = *std::move(automaton);
  }
  if (!bounds.given) return add_json_string(draft, from, characters, false);
  AutomatonDraft counted;
  counted.set_final(add_json_string(counted, 0, characters, true));
  const uint32_t rule = builder_.add_rule(fmt::format("{} at {}", name_, at));
  if (const Status status = builder_.define(rule, counted, bounds.least, bounds.most); !status.ok()) {
    return fail(status.code(), at, status.message());
  }
  const Place to = draft.add();
  draft.call(from, rule, to);
  return to;
}

}  // namespace onset
