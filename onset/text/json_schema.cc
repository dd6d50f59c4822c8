#include "onset/text/json_schema.h"

#include <algorithm>
#include <array>

#include "onset/text/grammar_characters.h"
#include "onset/text/json_schema_compiler.h"
#include "onset/text/unicode.h"

namespace onset {
namespace {

using Json = JsonSchemaCompiler::Json;
using Place = AutomatonDraft::Place;

constexpr int deepest = 100;
constexpr uint32_t most_blanks = 64;

constexpr std::array<std::string_view, 10> annotations{"title",    "description", "default", "examples", "deprecated",
                                                       "readOnly", "writeOnly",   "$schema", "$id",      "$comment"};
constexpr std::array<std::string_view, 2> definitions{"$defs", "definitions"};
// Keywords that say everything about a value.
constexpr std::array<std::string_view, 6> alone{"$ref", "anyOf", "oneOf", "allOf", "enum", "const"};
constexpr std::array<std::string_view, 3> of_objects{"properties", "required", "additionalProperties"};
constexpr std::array<std::string_view, 4> of_arrays{"items", "prefixItems", "minItems", "maxItems"};
constexpr std::array<std::string_view, 4> of_strings{"minLength", "maxLength", "pattern", "format"};
constexpr std::array<std::string_view, 5> of_numbers{"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"};

template <typename Names>
bool is_one_of(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

template <typename Names>
bool has_any(const Json& schema, const Names& names) {
  return std::any_of(names.begin(), names.end(), [&](std::string_view name) { return schema.contains(name); });
}

}  // namespace

JsonSchemaCompiler::JsonSchemaCompiler(GrammarBuilder& builder, const Json& document, std::string name)
    : builder_(builder), document_(document), name_(std::move(name)) {}

Status JsonSchemaCompiler::fail(Code code, const std::string& at, std::string_view what) const {
  return error(code, "{}{}: {}", name_, at.empty() ? "" : " at " + at, what);
}

// --- what a schema says
// -------------------------------------------------------------------------------------------

Status JsonSchemaCompiler::check_keywords(const Json& schema, const std::string& at) const {
  if (schema.is_boolean()) return {};
  if (!schema.is_object()) {
    return fail(Code::invalid_argument, at, fmt::format("expected a schema (an object, true or false), found {}", schema.type_name()));
  }
  std::string_view whole;
  for (const auto& [name, value] : schema.items()) {
    if (is_one_of(alone, name)) whole = name;
  }
  for (const auto& [name, value] : schema.items()) {
    if (is_one_of(annotations, name) || is_one_of(definitions, name) || name == whole) continue;
    const bool of_a_type =
        is_one_of(of_objects, name) || is_one_of(of_arrays, name) || is_one_of(of_strings, name) || is_one_of(of_numbers, name);
    const bool known = name == "type" || is_one_of(alone, name) || of_a_type;
    if (!known) return fail(Code::unsupported, at, fmt::format("the keyword \"{}\" is not supported", name));
    if (!whole.empty() && !(name == "type" && (whole == "enum" || whole == "const"))) {
      return fail(Code::unsupported, at, fmt::format("the keyword \"{}\" beside \"{}\" is not supported", name, whole));
    }
  }
  return {};
}

// The types that "type", or keywords for some types, leave.
Result<unsigned> JsonSchemaCompiler::kinds_of(const Json& schema, const std::string& at) const {
  static const std::map<std::string, unsigned> names{
      {"null", null},     {"boolean", boolean}, {"integer", integer}, {"number", integer | fraction},
      {"string", string}, {"array", array},     {"object", object}};
  const auto kind = [&](const Json& name) -> Result<unsigned> {
    const auto found = name.is_string() ? names.find(name.get<std::string>()) : names.end();
    if (found != names.end()) return found->second;
    return fail(Code::invalid_argument, at + "/type",
                "expected null, boolean, integer, number, string, array or object, or a list of them");
  };
  if (const auto type = schema.find("type"); type != schema.end()) {
    if (!type->is_array()) return kind(*type);
    unsigned kinds = 0;
    for (const Json& name : *type) {
      ONSET_ASSIGN(const unsigned one, kind(name));
      kinds |= one;
    }
    return kinds;
  }
  unsigned kinds = 0;
  if (has_any(schema, of_objects)) kinds |= object;
  if (has_any(schema, of_arrays)) kinds |= array;
  if (has_any(schema, of_strings)) kinds |= string;
  if (has_any(schema, of_numbers)) kinds |= integer | fraction;
  return kinds != 0 ? kinds : unsigned{all};
}

Result<const Json*> JsonSchemaCompiler::resolve(const Json& schema, const std::string& at) const {
  const Json& reference = schema["$ref"];
  const std::string text = reference.is_string() ? reference.get<std::string>() : std::string();
  if (!text.starts_with('#') || (text.size() > 1 && text[1] != '/')) {
    return fail(Code::unsupported, at + "/$ref", "expected \"#\" or \"#/...\", a place in the same schema");
  }
  const Json* found = &document_;
  std::string_view rest = std::string_view(text).substr(1);
  while (!rest.empty()) {
    rest.remove_prefix(1);
    const size_t end = std::min(rest.find('/'), rest.size());
    std::string part;
    for (size_t i = 0; i < end; ++i) {
      const bool escape = rest[i] == '~' && i + 1 < end && (rest[i + 1] == '0' || rest[i + 1] == '1');
      part += escape ? (rest[++i] == '0' ? '~' : '/') : rest[i];
    }
    rest.remove_prefix(end);
    const bool index = found->is_array() && !part.empty() && part.size() < 9 && part.find_first_not_of("0123456789") == std::string::npos &&
                       std::stoul(part) < found->size();
    if (index) {
      found = &(*found)[std::stoul(part)];
    } else if (found->is_object() && found->contains(part)) {
      found = &(*found)[part];
    } else {
      return fail(Code::invalid_argument, at + "/$ref", fmt::format("there is no \"{}\" in the schema", text));
    }
  }
  return found;
}

Result<uint32_t> JsonSchemaCompiler::rule_of(const Json& schema, const std::string& at) {
  ONSET_ASSIGN(const Json* target, resolve(schema, at));
  const auto [found, added] = rules_.try_emplace(target, 0);
  if (added) {
    const std::string place = schema["$ref"].get<std::string>().substr(1);
    found->second = builder_.add_rule(fmt::format("{}{}", name_, place.empty() ? "" : " at " + place));
    pending_.push_back({found->second, target, place});
  }
  return found->second;
}

Status JsonSchemaCompiler::finish() {
  while (!pending_.empty()) {
    const Pending next = pending_.front();
    pending_.pop_front();
    AutomatonDraft draft;
    ONSET_ASSIGN(const Place end, value(draft, 0, *next.schema, next.at));
    draft.set_final(end);
    if (const Status status = builder_.define(next.rule, draft); !status.ok()) return fail(status.code(), next.at, status.message());
  }
  return {};
}

// --- values
// -------------------------------------------------------------------------------------------------------

Place JsonSchemaCompiler::space(AutomatonDraft& draft, Place from, CountMark mark) {
  if (!blanks_rule_) {
    blanks_rule_ = builder_.add_rule("white space");
    AutomatonDraft blanks;
    const Place some = blanks.add();
    for (const Place place : {Place{0}, some}) {
      for (const char blank : {' ', '\t'}) {
        blanks.edge(place, static_cast<uint8_t>(blank), static_cast<uint8_t>(blank), some, CountMark::adds);
      }
    }
    blanks.set_final(some);
    // So few states are within every limit that allows anything; a grammar beyond its limit fails elsewhere.
    const Status ignored = builder_.define(*blanks_rule_, blanks, 0, most_blanks);
    static_cast<void>(ignored);
  }
  const Place to = draft.add(), line = draft.add();
  draft.skip(from, to);
  draft.edge(from, ' ', ' ', to, mark);
  draft.edge(from, '\n', '\n', line, mark);
  draft.skip(line, to);
  draft.call(line, *blanks_rule_, to);
  return to;
}

Place JsonSchemaCompiler::any_value(AutomatonDraft& draft, Place from) {
  if (!any_rule_) {
    any_rule_ = builder_.add_rule("any value");
    AutomatonDraft any;
    const Place end = any.add();
    any.skip(add_json_string(any, 0, any_text(), false), end);
    any.skip(add_number(any, 0, false), end);
    for (const char* word : {"true", "false", "null"}) any.skip(any.literal(0, word), end);
    any.skip(any_object(any, 0), end);
    const Place first = space(any, any.literal(0, "[")), item = any.add(), after = any.add();
    any.skip(first, item);
    any.skip(any_value(any, item), after);
    any.skip(space(any, any.literal(after, ",")), item);
    any.skip(any.literal(space(any, after), "]"), end);
    any.skip(any.literal(first, "]"), end);
    any.set_final(end);
    const Status ignored = builder_.define(*any_rule_, any);  // as above
    static_cast<void>(ignored);
  }
  const Place to = draft.add();
  draft.call(from, *any_rule_, to);
  return to;
}

Place JsonSchemaCompiler::any_object(AutomatonDraft& draft, Place from) {
  const Place first = space(draft, draft.literal(from, "{")), member = draft.add(), after = draft.add();
  draft.skip(first, member);
  const Place name = draft.literal(add_json_string(draft, member, any_text(), false), ":");
  draft.skip(any_value(draft, space(draft, name)), after);
  draft.skip(space(draft, draft.literal(after, ",")), member);
  const Place end = draft.literal(space(draft, after), "}");
  draft.skip(draft.literal(first, "}"), end);
  return end;
}

Result<Place> JsonSchemaCompiler::value(AutomatonDraft& draft, Place from, const Json& schema, const std::string& at) {
  ONSET_TRY(check_keywords(schema, at));
  if (draft.size() > 8 * builder_.limit()) return fail(Code::resource_exhausted, at, "the schema is too large");
  if (schema.is_boolean()) return schema.get<bool>() ? any_value(draft, from) : draft.add();
  if (schema.contains("$ref")) {
    ONSET_ASSIGN(const uint32_t rule, rule_of(schema, at));
    const Place to = draft.add();
    draft.call(from, rule, to);
    return to;
  }
  if (depth_ >= deepest) return fail(Code::resource_exhausted, at, fmt::format("schemas are nested more than {} deep", deepest));
  struct Deeper {
    explicit Deeper(int& counter) : depth(counter) { ++depth; }
    ~Deeper() { --depth; }
    int& depth;
  } deeper(depth_);
  if (schema.contains("enum") || schema.contains("const")) return constants(draft, from, schema, at);
  for (const char* name : {"anyOf", "oneOf", "allOf"}) {
    if (!schema.contains(name)) continue;
    const std::string place = fmt::format("{}/{}", at, name);
    const Json& schemas = schema[name];
    if (!schemas.is_array() || schemas.empty()) return fail(Code::invalid_argument, place, "expected a list of schemas");
    if (std::string_view(name) == "allOf") {
      if (schemas.size() > 1) return fail(Code::unsupported, place, "more than one schema is not supported");
      return value(draft, from, schemas[0], place + "/0");
    }
    for (size_t i = 0; std::string_view(name) == "oneOf" && i < schemas.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        ONSET_ASSIGN(const bool apart, disjoint(schemas[j], schemas[i], place, 0));
        if (apart) continue;
        return fail(Code::unsupported, place,
                    fmt::format("a value may fit both {} and {}: only alternatives that differ by type or by a "
                                "required constant are supported (or anyOf)",
                                j, i));
      }
    }
    return alternatives(draft, from, schemas, place);
  }
  ONSET_ASSIGN(const unsigned kinds, kinds_of(schema, at));
  const bool plain =
      !has_any(schema, of_objects) && !has_any(schema, of_arrays) && !has_any(schema, of_strings) && !has_any(schema, of_numbers);
  if (kinds == all && plain) return any_value(draft, from);
  const Place end = draft.add();
  if (kinds & null) draft.skip(draft.literal(from, "null"), end);
  if (kinds & boolean) draft.skip(draft.literal(from, "true"), end), draft.skip(draft.literal(from, "false"), end);
  const auto add = [&](Result<Place> last) -> Status {
    if (last.ok()) draft.skip(*last, end);
    return last.ok() ? Status() : last.status();
  };
  if (kinds & (integer | fraction)) ONSET_TRY(add(number_value(draft, from, schema, (kinds & fraction) == 0, at)));
  if (kinds & string) ONSET_TRY(add(string_value(draft, from, schema, at)));
  if (kinds & array) ONSET_TRY(add(array_value(draft, from, schema, at)));
  if (kinds & object) ONSET_TRY(add(object_value(draft, from, schema, at)));
  return end;
}

Result<Place> JsonSchemaCompiler::alternatives(AutomatonDraft& draft, Place from, const Json& schemas, const std::string& at) {
  const Place end = draft.add();
  for (size_t i = 0; i < schemas.size(); ++i) {
    const Place begin = draft.add();
    draft.skip(from, begin);
    ONSET_ASSIGN(const Place last, value(draft, begin, schemas[i], fmt::format("{}/{}", at, i)));
    draft.skip(last, end);
  }
  return end;
}

// --- whole schemas
// ------------------------------------------------------------------------------------------------

namespace {

// Strings of a JSON value that was made by hand may be anything; everything below relies on UTF-8.
bool all_utf8(const Json& value, int depth) {
  if (value.is_string()) return well_formed_prefix(value.get_ref<const std::string&>()) == value.get_ref<const std::string&>().size();
  if (!value.is_structured()) return true;
  if (depth > 4 * deepest) return false;
  for (const auto& [name, member] : value.items()) {
    if (value.is_object() && well_formed_prefix(name) != name.size()) return false;
    if (!all_utf8(member, depth + 1)) return false;
  }
  return true;
}

Result<Grammar> compile(const Json& schema, const std::string& name, const JsonSchemaLimits& limits) {
  if (!all_utf8(schema, 0)) {
    return error(Code::invalid_argument, "{}: expected UTF-8 text, nested at most {} deep", name, 4 * deepest);
  }
  GrammarBuilder builder(limits.states);
  const uint32_t root = builder.add_rule(name);
  JsonSchemaCompiler compiler(builder, schema, name);
  AutomatonDraft draft;
  ONSET_ASSIGN(const Place end, compiler.value(draft, 0, schema, ""));
  draft.set_final(end);
  ONSET_TRY(compiler.finish());
  ONSET_TRY(builder.define(root, draft).within(name));
  auto grammar = builder.finish(root);
  if (!grammar.ok() && !grammar.status().message().starts_with(name)) return grammar.status().within(name);
  return grammar;
}

}  // namespace

Result<Grammar> compile_json_schema(const Json& schema, const JsonSchemaLimits& limits) {
  return compile(schema, "schema", limits);
}

Result<Grammar> compile_json_schema(std::string_view text, const std::string& name, const JsonSchemaLimits& limits) {
  try {
    // The parser reports through exceptions or not at all; they end here.
    const Json schema = Json::parse(text.begin(), text.end());
    return compile(schema, name, limits);
  } catch (const Json::parse_error& problem) {
    return error(Code::invalid_argument, "{}: not valid JSON near byte {}", name, problem.byte);
  } catch (const Json::exception& problem) {
    return error(Code::invalid_argument, "{}: not valid JSON: {}", name, problem.what());
  }
}

Grammar json_object_grammar() {
  static const Grammar grammar = [] {
    GrammarBuilder builder(JsonSchemaLimits().states);
    const uint32_t root = builder.add_rule("object");
    const Json none;
    JsonSchemaCompiler compiler(builder, none, "object");
    AutomatonDraft draft;
    draft.set_final(compiler.any_object(draft, 0));
    const Status ignored = builder.define(root, draft);  // far below the limit
    static_cast<void>(ignored);
    return builder.finish(root).value();
  }();
  return grammar;
}

}  // namespace onset
