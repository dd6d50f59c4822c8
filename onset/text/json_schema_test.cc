#include "onset/text/json_schema.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

namespace onset {
namespace {

// Whether the whole text belongs to the grammar.
bool accepts(const Grammar& grammar, std::string_view text) {
  GrammarRun run(std::make_shared<const Grammar>(grammar));
  return run.accept(text) && run.may_end();
}

Grammar compiled(std::string_view schema) {
  auto grammar = compile_json_schema(schema, "schema");
  EXPECT_TRUE(grammar.ok()) << schema << ": " << grammar.status().message();
  return grammar.ok() ? *grammar : json_object_grammar();
}

void expect(std::string_view schema, const std::vector<std::string>& accepted, const std::vector<std::string>& refused) {
  const Grammar grammar = compiled(schema);
  for (const std::string& text : accepted) EXPECT_TRUE(accepts(grammar, text)) << schema << " should accept " << text;
  for (const std::string& text : refused) EXPECT_FALSE(accepts(grammar, text)) << schema << " should refuse " << text;
}

TEST(JsonSchema, AnyObjectIsJsonAndNothingElse) {
  const Grammar grammar = json_object_grammar();
  for (const char* text : {"{}", "{ }", "{\"a\":1}", "{\"a\": [1, 2.5e3, -0.1, true, false, null, {\"b\": \"c\"}, []]}",
                           "{\n  \"a\": [\n    1\n  ]\n}", R"({"\u00e9\n\"\\": "\ud83d\ude00"})", "{\"é\": \"😀\"}"}) {
    EXPECT_TRUE(accepts(grammar, text)) << text;
  }
  for (const char* text : {"",
                           "[]",
                           "1",
                           "{",
                           "{]",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{a:1}",
                           "{\"a\":01}",
                           "{\"a\":1.}",
                           "{\"a\":+1}",
                           "{\"a\":\"\n\"}",
                           "{\"a\":\"\\x\"}",
                           "{\"a\":\"\\ud83d\"}",
                           "{\"a\":tru}",
                           "{}{}",
                           "{\"a\":\"\xc3\"}",
                           "{\"a\":\"\xed\xa0\x80\"}",
                           "{\"a\":\"\xf4\x90\x80\x80\"}",
                           "{\"a\":1e999}"}) {
    EXPECT_FALSE(accepts(grammar, text)) << text;
  }
}

TEST(JsonSchema, TypesAndLists) {
  expect(R"({"type": "null"})", {"null"}, {"0", "nul", "nulll"});
  expect(R"({"type": ["boolean", "string"]})", {"true", "false", "\"x\"", "\"\""}, {"null", "1"});
  expect(R"({"type": "integer"})", {"0", "-0", "12", "-9999999999999999999"}, {"1.0", "1e3", "01", "-", "99999999999999999999"});
  expect(R"({"type": "number"})", {"0.5", "-1e-300", "1E+289", "12.25e7"}, {".5", "1e290", "1e", "1.e5"});
  expect("true", {"1", "[]", "{\"a\": null}"}, {""});
  expect("{}", {"1", "[]", "\"s\""}, {"]"});
  expect(R"({"type": "array"})", {"[]", "[1, \"a\"]"}, {"{}"});
}

TEST(JsonSchema, ObjectsKeepTheirOrder) {
  const char* closed =
      R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "null"}},
                           "required": ["b"], "additionalProperties": false})";
  expect(closed, {R"({"a":1,"b":"x","c":null})", R"({"b": "x"})", R"({"a": 1, "b": "x"})", "{\n  \"b\": \"\",\n  \"c\": null\n}"},
         {"{}", R"({"a":1})", R"({"b":"x","a":1})", R"({"b":"x","d":1})", R"({"b":"x","b":"y"})", R"({"b":1})", R"({"b":"x",})"});
  const char* open = R"({"properties": {"a": {"type": "integer"}}, "required": ["z"]})";
  expect(open, {R"({"z":1})", R"({"a":1,"z":{}})", R"({"a":1,"z":1,"q":[],"aa":1,"":0})", R"({"z":1,"\u0062":2})"},
         {"{}", R"({"a":1})", R"({"z":1,"a":"x"})", R"({"z":1,"\u0061":"x"})", R"({"z":1,"z":2})"});
  expect(R"({"properties": {"a": true}, "additionalProperties": {"type": "integer"}})", {R"({"b":1,"c":2})", R"({"a":"x","b":3})", "{}"},
         {R"({"b":"x"})"});
  expect(R"({"type": "object", "properties": {"a\"é/~": {"type": "null"}}, "additionalProperties": false})",
         {R"({"a\"é/~":null})", R"({"a\"\u00e9/~":null})", R"({"a\"\u00E9/~":null})", "{}"}, {R"({"a"é/~":null})"});
  expect(R"({"properties": {"a": false, "b": {"type": "null"}}, "additionalProperties": false})", {"{}", R"({"b":null})"}, {R"({"a":1})"});
}

TEST(JsonSchema, ArraysAndTheirCounts) {
  expect(R"({"items": {"type": "integer"}})", {"[]", "[ ]", "[1]", "[1, 2,3]"}, {"[1,]", "[\"a\"]", "[,1]"});
  expect(R"({"items": {"type": "integer"}, "minItems": 2, "maxItems": 3})", {"[1,2]", "[1,2,3]"}, {"[]", "[1]", "[1,2,3,4]"});
  expect(R"({"items": {"type": "null"}, "maxItems": 1})", {"[]", "[null]"}, {"[null,null]"});
  expect(R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"});
  expect(R"({"prefixItems": [{"type": "integer"}, {"type": "string"}], "items": false})", {"[]", "[1]", "[1,\"a\"]"},
         {"[1,\"a\",2]", "[\"a\"]"});
  expect(R"({"prefixItems": [{"type": "integer"}], "items": {"type": "null"}, "minItems": 2, "maxItems": 3})",
         {"[1,null]", "[1,null,null]"}, {"[]", "[1]", "[1,null,null,null]", "[null,null]"});
  // Counts of arrays in each other do not mix.
  expect(R"({"items": {"items": {"type": "integer"}, "maxItems": 2}, "minItems": 3})", {"[[1,2],[],[3]]"},
         {"[[1,2],[3,4]]", "[[],[],[1,2,3]]"});
  const Grammar many = compiled(R"({"items": {"type": "null"}, "minItems": 5000, "maxItems": 100000})");
  EXPECT_LT(many.states(), 100u);
  std::string text = "[null";
  for (int i = 1; i < 4999; ++i) text += ",null";
  EXPECT_FALSE(accepts(many, text + "]"));
  EXPECT_TRUE(accepts(many, text + ",null]"));
}

TEST(JsonSchema, StringsPatternsAndFormats) {
  expect(R"({"minLength": 2, "maxLength": 3})", {"\"ab\"", "\"abc\"", "\"é😀\"", R"("\n\u00e9")", R"("\ud83d\ude00\\")"},
         {"\"a\"", "\"abcd\"", R"("\ud83d\ude00")", R"("\n")"});
  expect(R"({"pattern": "^[a-c]+$"})", {"\"abc\"", R"("\u0061")"}, {"\"\"", "\"abd\"", "\"Abc\""});
  expect(R"({"pattern": "b"})", {"\"abc\"", "\"b\"", R"("é\u0062")"}, {"\"\"", "\"ac\""});
  expect(R"({"pattern": "^(foo|ba{2,3}r)?x*$", "minLength": 1, "maxLength": 6})", {"\"foo\"", "\"baarx\"", "\"xxxxxx\"", "\"baaarx\""},
         {"\"\"", "\"bar\"", "\"baaarxx\"", "\"fo\""});
  expect(R"({"pattern": "^\\d{3}-\\w\\s[^a-z\\d]$"})", {"\"012-_ A\"", "\"012-a\\tÉ\""},
         {"\"012-_ a\"", "\"012-_ ٣\"", "\"0123-_ A\"", "\"012-_ 5\""});
  expect(R"({"pattern": "^\\u00e9\\x41\\.\\/$"})", {"\"éA./\"", R"("\u00E9A.\/")"}, {"\"eA./\"", "\"éAx/\""});
  expect(R"({"format": "date"})", {"\"2024-02-28\"", "\"1999-12-31\""}, {"\"2024-02-30\"", "\"2024-13-01\"", "\"24-01-01\""});
  expect(R"({"format": "date-time"})", {"\"2024-02-28T12:00:00Z\"", "\"2024-02-28T12:00:00.5+01:30\""},
         {"\"2024-02-28\"", "\"2024-02-28T24:00:00Z\""});
  expect(R"({"format": "uuid"})", {"\"123e4567-e89b-12d3-a456-426614174000\""}, {"\"123e4567e89b12d3a456426614174000\""});
  expect(R"({"format": "ipv4"})", {"\"127.0.0.1\"", "\"255.255.255.255\""}, {"\"256.0.0.1\"", "\"1.2.3\""});
  expect(R"({"format": "ipv6"})", {"\"::1\"", "\"fe80::1:2\"", "\"1:2:3:4:5:6:7:8\""}, {"\"1:2:3\"", "\"1::2::3\""});
  expect(R"({"format": "email"})", {"\"a.b@example.org\""}, {"\"a@b\"", "\"@example.org\""});
  expect(R"({"format": "duration"})", {"\"P1DT2H\"", "\"PT5M\"", "\"P3W\""}, {"\"P\"", "\"PT\"", "\"1D\""});
}

TEST(JsonSchema, NumbersBetweenBounds) {
  const Grammar grammar = compiled(R"({"type": "integer", "minimum": -37, "exclusiveMaximum": 1204})");
  for (int value = -2000; value < 3000; ++value) {
    EXPECT_EQ(accepts(grammar, std::to_string(value)), value >= -37 && value < 1204) << value;
  }
  const Grammar decimal = compiled(R"({"type": "number", "exclusiveMinimum": -0.75, "maximum": 12.5})");
  for (int value = -2000; value < 2000; ++value) {
    EXPECT_EQ(accepts(decimal, fmt::format("{:.2f}", value / 100.0)), value > -75 && value <= 1250) << value;
  }
  expect(R"({"type": "number", "exclusiveMinimum": 0})", {"0.01", "5", "0.00000000000000000001"}, {"0", "0.0", "-1", "-0", "-0.0"});
  expect(R"({"type": "number", "exclusiveMaximum": 0})", {"-0.01", "-5"}, {"0", "-0", "-0.00", "1"});
  expect(R"({"minimum": 3.5, "maximum": 3.5})", {"3.5", "3.50"}, {"3", "3.51", "3.49"});
  expect(R"({"type": "integer", "minimum": 2.5, "maximum": 3.5})", {"3"}, {"2", "4", "3.0"});
  expect(R"({"type": "integer", "minimum": 1e3})", {"1000", "99999"}, {"999", "-1000"});
  const Grammar sevens = compiled(R"({"type": "integer", "multipleOf": 7, "minimum": -50, "maximum": 500})");
  for (int value = -600; value < 600; ++value) {
    EXPECT_EQ(accepts(sevens, std::to_string(value)), value % 7 == 0 && value >= -50 && value <= 500) << value;
  }
}

TEST(JsonSchema, ConstantsAndAlternatives) {
  expect(R"({"enum": ["red", "re", 1, 2.5, null, [1, {"a": "b"}]]})",
         {"\"red\"", "\"re\"", "1", "2.5", "null", "[1, {\"a\": \"b\"}]", "[1,{\"a\":\"b\"}]"}, {"\"r\"", "2", "[1]", "\"redd\""});
  expect(R"({"type": "string", "enum": ["a", 1]})", {"\"a\""}, {"1"});
  expect(R"({"const": {"k": []}})", {R"({"k": []})"}, {"{}"});
  expect(R"({"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "null"}}, {"minLength": 2}]})", {"1", "[null]", "\"ab\""},
         {"\"a\"", "[1]"});
  const char* tagged = R"({"oneOf": [
      {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}}, "required": ["kind", "lives"], "additionalProperties": false},
      {"type": "object", "properties": {"kind": {"enum": ["dog", "cow"]}, "name": {"type": "string"}}, "required": ["kind"], "additionalProperties": false}]})";
  expect(tagged, {R"({"kind":"cat","lives":9})", R"({"kind":"cow"})", R"({"kind": "dog", "name": "x"})"},
         {R"({"kind":"cat"})", R"({"kind":"dog","lives":9})"});
  expect(R"({"allOf": [{"type": "null"}]})", {"null"}, {"1"});
}

// Whatever an answer begins with, as long as each byte was allowed, it can go on or end.
TEST(JsonSchema, NoBeginningIsADeadEnd) {
  std::mt19937 random(3);
  for (
      const char* schema :
      {R"({"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 3, "maxItems": 3})",
       R"({"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}], "items": false, "minItems": 2})",
       R"({"type": "array", "items": {"type": "array", "items": {"type": "boolean"}, "minItems": 2}, "minItems": 2, "maxItems": 4})",
       R"({"type": "object", "properties": {"a": {"type": "string", "minLength": 3, "maxLength": 5}, "b": {"type": "integer", "minimum": 7,
            "maximum": 131}, "c": {"enum": [1, 10, "x"]}}, "required": ["b"], "additionalProperties": false})",
       R"({"type": "object", "properties": {"when": {"type": "string", "format": "date-time"}, "who": {"type": "string", "format": "email"},
            "id": {"type": "string", "format": "uuid"}}, "required": ["when", "who", "id"]})",
       R"({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"})",
       R"({"type": "number", "minimum": -2.5, "exclusiveMaximum": 0.75})",
       R"({"type": "integer", "multipleOf": 5, "minimum": 5, "maximum": 500})",
       R"({"anyOf": [{"type": "array", "items": {"type": "null"}, "minItems": 1}, {"type": "object"}, {"const": [1, 2]}]})"}) {
    const auto grammar = std::make_shared<const Grammar>(compiled(schema));
    for (int walk = 0; walk < 60; ++walk) {
      GrammarRun run(grammar);
      std::string text;
      for (int step = 0; step < 150; ++step) {
        std::string open, blank;
        for (int byte = 0; byte < 256; ++byte) {
          const char next = static_cast<char>(byte);
          GrammarRun tried = run;
          if (!tried.accept({&next, 1})) continue;
          (next == ' ' || next == '\n' || next == '\t' ? blank : open) += next;
        }
        ASSERT_TRUE(run.may_end() || !open.empty() || !blank.empty()) << schema << " cannot go on after " << text;
        // Blanks most of the time: where they are allowed they say least about what comes.
        const std::string& from = open.empty() || (!blank.empty() && random() % 4 != 0) ? blank : open;
        if (from.empty()) break;
        const char next = from[random() % from.size()];
        text += next;
        ASSERT_TRUE(run.accept({&next, 1}));
      }
    }
  }
}

TEST(JsonSchema, References) {
  const char* tree =
      R"({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"value": {"type": "integer"},
      "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}, "required": ["value"], "additionalProperties": false}}})";
  expect(tree, {R"({"value":1})", R"({"value":1,"children":[{"value":2,"children":[]},{"value":3}]})"}, {R"({"value":1,"children":[{}]})"});
  expect(
      R"({"type": "object", "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}, "required": ["next"], "additionalProperties": false})",
      {R"({"next":null})", R"({"next": {"next": {"next": null}}})"}, {"{}", R"({"next":{}})"});
  expect(R"({"properties": {"a~b/c": {"type": "null"}, "d": {"$ref": "#/properties/a~0b~1c"}}, "additionalProperties": false})",
         {R"({"d":null})"}, {R"({"d":1})"});
}

TEST(JsonSchema, WhatIsWrongNamesItsPlace) {
  const auto message = [](std::string_view schema) {
    const auto grammar = compile_json_schema(schema, "schema");
    EXPECT_FALSE(grammar.ok()) << schema;
    return grammar.ok() ? std::string() : grammar.status().message();
  };
  EXPECT_EQ(message(R"({"properties": {"a": {"items": {"uniqueItems": true}}}})"),
            "schema at /properties/a/items: the keyword \"uniqueItems\" is not supported");
  EXPECT_EQ(message(R"({"type": "strin"})"),
            "schema at /type: expected null, boolean, integer, number, string, array or object, or a list of them");
  EXPECT_EQ(message(R"({"anyOf": [{"type": "null"}], "minLength": 1})"),
            "schema: the keyword \"minLength\" beside \"anyOf\" is not supported");
  EXPECT_EQ(message(R"({"$ref": "#/$defs/x"})"), "schema at /$ref: there is no \"#/$defs/x\" in the schema");
  EXPECT_EQ(message(R"({"$ref": "other.json"})"), "schema at /$ref: expected \"#\" or \"#/...\", a place in the same schema");
  EXPECT_EQ(message(R"({"$ref": "#"})"), "schema refers to itself without end");
  EXPECT_EQ(message(R"({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}, "$ref": "#/$defs/a"})"),
            "schema at /$defs/a refers to itself without end");
  EXPECT_EQ(message("{\"pattern\": \"a(?=b)\"}"), "schema at /pattern: the pattern looks ahead or has flags");
  EXPECT_EQ(message("{\"pattern\": \"a(\"}"), "schema at /pattern: the pattern has a \"(\" without \")\"");
  EXPECT_EQ(message(R"({"format": "iri"})"), "schema at /format: the format \"iri\" is not supported");
  EXPECT_EQ(message(R"({"minLength": -1})"), "schema at /minLength: expected an integer, 0 or more");
  EXPECT_EQ(message(R"({"minItems": 3, "maxItems": 2})"), "schema: minItems is more than maxItems: nothing can satisfy it");
  EXPECT_EQ(message(R"({"type": "integer", "minimum": 3, "maximum": 2})"), "schema: nothing can satisfy it");
  EXPECT_EQ(message("false"), "schema: nothing can satisfy it");
  EXPECT_EQ(message("3"), "schema: expected a schema (an object, true or false), found number");
  EXPECT_EQ(message("{"), "schema: not valid JSON near byte 2");
  EXPECT_EQ(message(R"({"required": ["a"], "additionalProperties": false})"),
            "schema at /required: \"a\" is not among the properties, and others are not allowed");
  EXPECT_EQ(message(R"({"oneOf": [{"type": "integer"}, {"type": "number"}]})"),
            "schema at /oneOf: a value may fit both 0 and 1: only alternatives that differ by type or by a "
            "required constant are supported (or anyOf)");
  const auto small = compile_json_schema(R"({"pattern": "^(a|b){500}$"})", "schema", {.states = 100});
  ASSERT_FALSE(small.ok());
  EXPECT_EQ(small.status().code(), Code::resource_exhausted);
  std::string deep = "true";
  for (int i = 0; i < 300; ++i) deep = "{\"items\": " + deep + "}";
  EXPECT_NE(message(deep).find("nested more than 100 deep"), std::string::npos);
}

}  // namespace
}  // namespace onset
