// Arrays and objects of JSON schemas.
#include <algorithm>
#include <set>

#include "onset/text/grammar_characters.h"
#include "onset/text/json_schema_compiler.h"
#include "onset/text/unicode.h"

namespace onset {
namespace {

using Json = JsonSchemaCompiler::Json;
using Place = AutomatonDraft::Place;

const Json& any_schema() {
  static const Json schema = true;
  return schema;
}

// A name as part of a JSON pointer.
std::string pointer_part(std::string_view name) {
  std::string part = "/";
  for (const char byte : name) {
    if (byte == '~') {
      part += "~0";
    } else if (byte == '/') {
      part += "~1";
    } else {
      part += byte;
    }
  }
  return part;
}

}  // namespace

// -------------------------------------------------------------------------------------------

Result<Place> JsonSchemaCompiler::array_value(AutomatonDraft& draft, Place from, const Json& schema, const std::string& at) {
  ONSET_ASSIGN(const Bounds bounds, bounds_of(schema, "minItems", "maxItems", at));
  if (schema.contains("prefixItems") && !schema["prefixItems"].is_array()) {
    return fail(Code::invalid_argument, at + "/prefixItems", "expected a list of schemas");
  }
  if (!bounds.given) return array_items(draft, from, schema, bounds, at);
  AutomatonDraft counted;
  ONSET_ASSIGN(const Place end, array_items(counted, 0, schema, bounds, at));
  counted.set_final(end);
  // Commas are counted: one less than there are items.
  const uint32_t rule = builder_.add_rule(fmt::format("{} at {}", name_, at));
  const auto commas = [](uint32_t items) { return items == GrammarRule::unbounded ? items : items - std::min(items, 1u); };
  if (const Status status = builder_.define(rule, counted, commas(bounds.least), commas(bounds.most)); !status.ok()) {
    return fail(status.code(), at, status.message());
  }
  const Place to = draft.add();
  draft.call(from, rule, to);
  return to;
}

Result<Place> JsonSchemaCompiler::array_items(AutomatonDraft& draft, Place from, const Json& schema, const Bounds& bounds,
                                              const std::string& at) {
  const CountMark adds = bounds.given ? CountMark::adds : CountMark::none;
  const CountMark closes = bounds.given ? CountMark::closes : CountMark::none;
  const Place begin = space(draft, draft.literal(from, "[")), end = draft.add();
  if (bounds.least == 0) draft.edge(begin, ']', ']', end);
  if (bounds.most == 0) return end;
  // Space before the bracket only where the bracket may come: behind it there is nothing else.
  const auto close = [&](Place after) { draft.edge(space(draft, after, closes), ']', ']', end, closes); };
  const auto comma = [&](Place after) {
    const Place behind = draft.add();
    draft.edge(after, ',', ',', behind, adds);
    return space(draft, behind);
  };
  Place next = begin;  // where an item may begin
  const size_t prefix = schema.contains("prefixItems") ? schema["prefixItems"].size() : 0;
  for (size_t i = 0; i < prefix; ++i) {
    ONSET_ASSIGN(const Place after, value(draft, next, schema["prefixItems"][i], fmt::format("{}/prefixItems/{}", at, i)));
    close(after);
    next = comma(after);
  }
  const Place item = draft.add();
  draft.skip(next, item);
  ONSET_ASSIGN(const Place after, value(draft, item, schema.contains("items") ? schema["items"] : any_schema(), at + "/items"));
  close(after);
  draft.skip(comma(after), item);
  return end;
}

Result<std::vector<JsonSchemaCompiler::Member>> JsonSchemaCompiler::members_of(const Json& schema, const std::string& at) const {
  std::vector<Member> members;
  std::set<std::string> required, known;
  if (schema.contains("required")) {
    const bool names = schema["required"].is_array() &&
                       std::all_of(schema["required"].begin(), schema["required"].end(), [](const Json& name) { return name.is_string(); });
    if (!names) return fail(Code::invalid_argument, at + "/required", "expected a list of names");
    for (const Json& name : schema["required"]) required.insert(name.get<std::string>());
  }
  if (schema.contains("properties")) {
    if (!schema["properties"].is_object()) return fail(Code::invalid_argument, at + "/properties", "expected an object of schemas");
    for (const auto& [name, member] : schema["properties"].items()) {
      members.push_back({name, &member, at + "/properties" + pointer_part(name), required.contains(name)});
      known.insert(name);
    }
  }
  const Json& others = schema.contains("additionalProperties") ? schema["additionalProperties"] : any_schema();
  if (!schema.contains("required")) return members;
  for (const Json& name : schema["required"]) {
    if (!known.insert(name.get<std::string>()).second) continue;
    if (others == Json(false)) {
      return fail(Code::invalid_argument, at + "/required",
                  fmt::format("\"{}\" is not among the properties, and others are not allowed", name.get<std::string>()));
    }
    members.push_back({name.get<std::string>(), &others, at + "/additionalProperties", true});
  }
  return members;
}

Result<Place> JsonSchemaCompiler::object_value(AutomatonDraft& draft, Place from, const Json& schema, const std::string& at) {
  ONSET_ASSIGN(const std::vector<Member> members, members_of(schema, at));
  // In front of each member: with nothing before it, and behind another one.
  Place none = space(draft, draft.literal(from, "{")), some = draft.add();
  const auto next_member = [&](Place first, Place behind) {
    const Place begin = draft.add();
    draft.skip(first, begin);
    draft.skip(space(draft, draft.literal(behind, ",")), begin);
    return begin;
  };
  for (const Member& member : members) {
    const Place begin = next_member(none, some);
    const Place name = space(draft, draft.literal(add_json_text(draft, begin, member.name), ":"));
    ONSET_ASSIGN(const Place after, value(draft, name, *member.schema, member.at));
    const Place none_left = draft.add(), some_left = draft.add();
    draft.skip(after, some_left);
    if (!member.required) draft.skip(none, none_left), draft.skip(some, some_left);
    none = none_left;
    some = some_left;
  }
  const Json& others = schema.contains("additionalProperties") ? schema["additionalProperties"] : any_schema();
  if (others != Json(false)) {
    const Place loop = draft.add();
    draft.skip(some, loop);
    ONSET_ASSIGN(const Place after, other_member(draft, next_member(none, loop), members, others, at + "/additionalProperties"));
    draft.skip(after, loop);
    some = loop;
  }
  const Place end = draft.literal(none, "}");
  draft.skip(draft.literal(space(draft, some), "}"), end);
  return end;
}

// A member that is not among `members`.
Result<Place> JsonSchemaCompiler::other_member(AutomatonDraft& draft, Place from, const std::vector<Member>& members, const Json& schema,
                                               const std::string& at) {
  Automaton names = any_text();
  if (!members.empty()) {
    AutomatonDraft taken;
    for (const Member& member : members) {
      Place place = 0;
      for (std::string_view rest = member.name; !rest.empty(); rest.remove_prefix(next_utf8_unit(rest).length)) {
        const Place to = taken.add();
        taken.edge(place, decode_utf8(rest), decode_utf8(rest), to);
        place = to;
      }
      taken.set_final(place);
    }
    auto automaton = determinise(taken, builder_.limit());
    if (!automaton.ok()) return fail(automaton.status().code(), at, automaton.status().message());
    names = complement(*std::move(automaton), all_characters());
  }
  const Place name = draft.literal(add_json_string(draft, from, names, false), ":");
  return value(draft, space(draft, name), schema, at);
}

}  // namespace onset
