// The inside of the JSON schema compiler: schemas become pieces of drafts. Also used for tool calls, which
// are JSON with fixed text around it.
#pragma once

#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "onset/text/grammar_builder.h"
#include "onset/text/json_schema.h"

namespace onset {

class JsonSchemaCompiler {
 public:
  using Json = nlohmann::ordered_json;
  using Place = AutomatonDraft::Place;

  // References of schemas are into `document`, which `name` stands for in errors; both must outlive
  // compilation.
  JsonSchemaCompiler(GrammarBuilder& builder, const Json& document, std::string name);

  // Adds the values that the schema at this place of the document accepts; returns the place after them.
  Result<Place> value(AutomatonDraft& draft, Place from, const Json& schema, const std::string& at);
  // Any JSON value, any object.
  Place any_value(AutomatonDraft& draft, Place from);
  Place any_object(AutomatonDraft& draft, Place from);
  // White space where JSON is allowed to have some.
  Place space(AutomatonDraft& draft, Place from, CountMark mark = CountMark::none);
  // Compiles what was referred to. Call it last.
  Status finish();

 private:
  struct Pending {
    uint32_t rule;
    const Json* schema;
    std::string at;
  };
  enum Kind : unsigned { null = 1, boolean = 2, integer = 4, fraction = 8, string = 16, array = 32, object = 64, all = 127 };

  Status fail(Code code, const std::string& at, std::string_view what) const;
  Status check_keywords(const Json& schema, const std::string& at) const;
  Result<unsigned> kinds_of(const Json& schema, const std::string& at) const;
  Result<unsigned> possible_kinds(const Json& schema, const std::string& at, int depth) const;
  Result<const Json*> resolve(const Json& schema, const std::string& at) const;
  Result<uint32_t> rule_of(const Json& schema, const std::string& at);

  Result<Place> object_value(AutomatonDraft& draft, Place from, const Json& schema, const std::string& at);
  Result<Place> array_value(AutomatonDraft& draft, Place from, const Json& schema, const std::string& at);
  Result<Place> string_value(AutomatonDraft& draft, Place from, const Json& schema, const std::string& at);
  Result<Place> number_value(AutomatonDraft& draft, Place from, const Json& schema, bool integers, const std::string& at);
  Result<Place> alternatives(AutomatonDraft& draft, Place from, const Json& schemas, const std::string& at);
  Result<Place> constants(AutomatonDraft& draft, Place from, const Json& schema, const std::string& at);
  Place constant(AutomatonDraft& draft, Place from, const Json& value);
  Result<bool> disjoint(const Json& a, const Json& b, const std::string& at, int depth) const;

  struct Member {
    std::string name;
    const Json* schema;
    std::string at;
    bool required;
  };
  Result<std::vector<Member>> members_of(const Json& schema, const std::string& at) const;
  Result<Place> other_member(AutomatonDraft& draft, Place from, const std::vector<Member>& members, const Json& schema,
                             const std::string& at);
  struct Bounds {
    uint32_t least = 0, most = GrammarRule::unbounded;
    bool given = false;
  };
  Result<Bounds> bounds_of(const Json& schema, const char* least, const char* most, const std::string& at) const;
  Result<Place> array_items(AutomatonDraft& draft, Place from, const Json& schema, const Bounds& bounds, const std::string& at);

  GrammarBuilder& builder_;
  const Json& document_;
  std::string name_;
  std::map<const Json*, uint32_t> rules_;
  std::deque<Pending> pending_;
  std::optional<uint32_t> any_rule_, blanks_rule_;
  int depth_ = 0;
};

// A bound of numbers: a decimal, and whether it is excluded itself.
struct DecimalBound {
  bool negative = false;
  std::string whole,
      part;  // digits before the point (without zeros in front) and after it (without zeros at the end)
  bool exclusive = false;

  // Of a JSON number.
  static DecimalBound of(const nlohmann::ordered_json& number, bool exclusive);
  static int compare(const DecimalBound& a, const DecimalBound& b);  // below 0, 0, above 0
};

// Adds the decimals between two bounds, without exponents; `integers`: only those. Returns the place after
// them.
AutomatonDraft::Place add_decimals(AutomatonDraft& draft, AutomatonDraft::Place from, const std::optional<DecimalBound>& low,
                                   const std::optional<DecimalBound>& high, bool integers);
// Adds any number as JSON writes it, with limits on its digits (json_schema.h).
AutomatonDraft::Place add_number(AutomatonDraft& draft, AutomatonDraft::Place from, bool integers);
// Integers that `divisor` divides.
Automaton multiples(uint32_t divisor);

// The pattern for a format of JSON schema, or nothing.
const char* format_pattern(std::string_view format);

}  // namespace onset
