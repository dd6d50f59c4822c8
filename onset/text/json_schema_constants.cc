// Constants of JSON schemas, and whether two schemas can be told apart by them.
#include <algorithm>
#include <cmath>

#include "onset/text/grammar_characters.h"
#include "onset/text/json_schema_compiler.h"

namespace onset {
namespace {

using Json = JsonSchemaCompiler::Json;
using Place = AutomatonDraft::Place;

constexpr int deepest = 100;  // references and lists in each other

}  // namespace

// ----------------------------------------------------------------------------------------------------

namespace {

unsigned kind_of_value(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return 1;
    case Json::value_t::boolean:
      return 2;
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return 4;
    case Json::value_t::number_float:
      return value.get<double>() == std::floor(value.get<double>()) ? 4 : 8;
    case Json::value_t::string:
      return 16;
    case Json::value_t::array:
      return 32;
    default:
      return 64;
  }
}

}  // namespace

Place JsonSchemaCompiler::constant(AutomatonDraft& draft, Place from, const Json& value) {
  if (value.is_string()) return add_json_text(draft, from, value.get_ref<const std::string&>());
  if (!value.is_structured()) return draft.literal(from, value.dump());
  const bool is_object = value.is_object();
  from = space(draft, draft.literal(from, is_object ? "{" : "["));
  bool first = true;
  for (const auto& [name, member] : value.items()) {
    if (!first) from = space(draft, draft.literal(from, ","));
    first = false;
    if (is_object) from = space(draft, draft.literal(add_json_text(draft, from, name), ":"));
    from = constant(draft, from, member);
  }
  return draft.literal(first ? from : space(draft, from), is_object ? "}" : "]");
}

Result<Place> JsonSchemaCompiler::constants(AutomatonDraft& draft, Place from, const Json& schema, const std::string& at) {
  ONSET_ASSIGN(const unsigned kinds, kinds_of(schema, at));
  const bool one = schema.contains("const");
  if (!one && !schema["enum"].is_array()) return fail(Code::invalid_argument, at + "/enum", "expected a list of values");
  const Json values = one ? Json::array({schema["const"]}) : schema["enum"];
  const Place end = draft.add();
  for (const Json& value : values) {
    if (kinds & kind_of_value(value)) draft.skip(constant(draft, from, value), end);
  }
  return end;
}

// --------------------------------------------------------------------------------------------------------

Result<unsigned> JsonSchemaCompiler::possible_kinds(const Json& schema, const std::string& at, int depth) const {
  ONSET_TRY(check_keywords(schema, at));
  if (schema.is_boolean()) return schema.get<bool>() ? unsigned{all} : 0u;
  if (depth > deepest) return unsigned{all};
  if (schema.contains("$ref")) {
    ONSET_ASSIGN(const Json* target, resolve(schema, at));
    return possible_kinds(*target, at, depth + 1);
  }
  ONSET_ASSIGN(unsigned kinds, kinds_of(schema, at));
  if (schema.contains("const")) return kinds & kind_of_value(schema["const"]);
  unsigned possible = 0;
  for (const char* name : {"enum", "anyOf", "oneOf", "allOf"}) {
    if (!schema.contains(name) || !schema[name].is_array()) continue;
    for (const Json& member : schema[name]) {
      if (std::string_view(name) == "enum") {
        possible |= kind_of_value(member);
      } else {
        ONSET_ASSIGN(const unsigned kinds_of_member, possible_kinds(member, at, depth + 1));
        possible |= kinds_of_member;
      }
    }
    kinds &= possible;
  }
  return kinds;
}

namespace {

// The values that a schema of constants allows, or none if it is not one.
std::vector<Json> allowed_constants(const Json& schema) {
  if (!schema.is_object()) return {};
  if (schema.contains("const")) return {schema["const"]};
  if (schema.contains("enum") && schema["enum"].is_array()) return {schema["enum"].begin(), schema["enum"].end()};
  return {};
}

bool share_constants(const std::vector<Json>& a, const std::vector<Json>& b) {
  return std::any_of(a.begin(), a.end(), [&](const Json& value) { return std::find(b.begin(), b.end(), value) != b.end(); });
}

bool requires_member(const Json& schema, const std::string& name) {
  const auto required = schema.find("required");
  return required != schema.end() && required->is_array() && std::find(required->begin(), required->end(), name) != required->end();
}

}  // namespace

Result<bool> JsonSchemaCompiler::disjoint(const Json& a, const Json& b, const std::string& at, int depth) const {
  if (depth > deepest) return false;
  ONSET_ASSIGN(const unsigned kinds_a, possible_kinds(a, at, 0));
  ONSET_ASSIGN(const unsigned kinds_b, possible_kinds(b, at, 0));
  if ((kinds_a & kinds_b) == 0) return true;
  if (a.is_object() && a.contains("$ref")) {
    ONSET_ASSIGN(const Json* target, resolve(a, at));
    return disjoint(*target, b, at, depth + 1);
  }
  if (b.is_object() && b.contains("$ref")) return disjoint(b, a, at, depth + 1);
  const std::vector<Json> constants_a = allowed_constants(a), constants_b = allowed_constants(b);
  if (!constants_a.empty() && !constants_b.empty()) return !share_constants(constants_a, constants_b);
  if ((kinds_a & kinds_b) != object || !a.contains("properties") || !b.contains("properties")) return false;
  const Json& members = a["properties"];
  const Json& others = b["properties"];
  if (!members.is_object() || !others.is_object()) return false;
  for (const auto& [name, member] : members.items()) {
    if (!others.contains(name) || !requires_member(a, name) || !requires_member(b, name)) continue;
    const std::vector<Json> mine = allowed_constants(member), theirs = allowed_constants(others[name]);
    if (!mine.empty() && !theirs.empty() && !share_constants(mine, theirs)) return true;
  }
  return false;
}

}  // namespace onset
