// JSON schemas (draft 2020-12, and what is the same in 7) as grammars: every text of the grammar is JSON that
// the schema accepts.
//
// Supported keywords:
//   all values   type, enum, const, anyOf, oneOf (if no value can fit two alternatives), allOf (of one
//   schema), $ref ("#", "#/..."
//                into this schema), $defs, definitions; true, {} and false as schemas
//   objects      properties, required, additionalProperties
//   arrays       items, prefixItems, minItems, maxItems
//   strings      minLength, maxLength, pattern, format (date-time, date, time, duration, email, hostname,
//   ipv4, ipv6, uuid) numbers      minimum, maximum, exclusiveMinimum, exclusiveMaximum; multipleOf
//   (integers) annotations  title, description, default, examples, deprecated, readOnly, writeOnly, $schema,
//   $id, $comment: no effect
// Every other keyword is an error that names it and its place. Keywords for one type without "type" stand for
// that type. $ref, anyOf, oneOf, allOf, enum and const stand alone (annotations, $defs and, for enum and
// const, type apart).
//
// How the JSON is written: members in the order of `properties`, then required ones that are not among them,
// then additional ones; between tokens at most one space, or one line feed and up to 64 blanks; names and
// enum strings without needless escapes. Numbers have at most 19 digits before and 20 after the point, and
// exponents (where no bound is given) from -999 to 289. Patterns are those of ECMA-262 without look-around,
// back-references and word boundaries; they may match anywhere in the string.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "onset/base/status.h"
#include "onset/text/grammar.h"

namespace onset {

struct JsonSchemaLimits {
  size_t states = size_t{1} << 18;  // of the grammar, and of each automaton on the way to it
};

// Errors: unsupported naming a keyword and its place ("schema at /properties/age: ..."), invalid_argument for
// a schema that is wrong in itself or that nothing can satisfy, resource_exhausted beyond the limits.
Result<Grammar> compile_json_schema(const nlohmann::ordered_json& schema, const JsonSchemaLimits& limits = {});

// The same from a text; `name` stands for it in errors. Errors: also invalid_argument for what is not JSON.
Result<Grammar> compile_json_schema(std::string_view text, const std::string& name, const JsonSchemaLimits& limits = {});

// Any JSON object.
Grammar json_object_grammar();

}  // namespace onset
