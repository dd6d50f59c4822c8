#include "onset/text/grammar_tokens.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "onset/text/json_schema.h"
#include "onset/text/tokenizer_json.h"
#include "onset/text/unicode.h"

namespace onset {
namespace {

using Json = nlohmann::ordered_json;

Tokenizer tokenizer(const char* name) {
  auto loaded = load_tokenizer(std::filesystem::path(ONSET_SOURCE_DIR) / "tests/fixtures/text" / name);
  EXPECT_TRUE(loaded.ok()) << loaded.status().message();
  return *std::move(loaded);
}

std::shared_ptr<const TokenGrammar> over(const Tokenizer& words, std::string_view schema) {
  auto grammar = compile_json_schema(schema, "schema");
  EXPECT_TRUE(grammar.ok()) << grammar.status().message();
  return std::make_shared<TokenGrammar>(*std::move(grammar), TokenTrie::create(words));
}

bool is_set(std::span<const uint64_t> words, TokenId token) {
  return words[static_cast<size_t>(token) / 64] >> (token % 64) & 1;
}

// The specification: each token alone, byte by byte.
void expect_mask(TokenConstraint& constraint, const GrammarRun& run, const Tokenizer& words) {
  const auto allowed = constraint.allowed();
  for (TokenId token = 0; token < words.vocabulary_size(); ++token) {
    bool expected = false;
    if (words.is_end_of_generation(token)) {
      expected = run.may_end();
    } else if (!words.is_special(token) && !words.piece(token).empty()) {
      GrammarRun ahead = run;
      expected = ahead.accept(words.piece(token));
    }
    ASSERT_EQ(is_set(allowed, token), expected) << token << " \"" << words.piece(token) << "\"";
  }
}

const char* person =
    R"({"type": "object", "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 12},
    "age": {"type": "integer", "minimum": 0, "maximum": 150}, "tags": {"type": "array", "items": {"enum": ["new", "née", "old"]}, "maxItems": 3},
    "more": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}, "required": ["name", "age"], "additionalProperties": false})";

TEST(GrammarTokens, MasksEqualEachTokenAlone) {
  for (const char* name : {"smollm", "llama2", "gemma", "gpt2"}) {
    const Tokenizer words = tokenizer(name);
    for (const char* schema :
         {person, "true", R"({"type": "object"})", R"({"maxLength": 5})", R"({"pattern": "^[é-ü]{2,30}$"})", R"({"type": "number"})"}) {
      const auto grammar = over(words, schema);
      std::mt19937 random(3);
      for (int round = 0; round < 3; ++round) {
        TokenConstraint constraint(grammar);
        GrammarRun run(grammar->grammar());
        for (int i = 0; i < 25; ++i) {
          ASSERT_NO_FATAL_FAILURE(expect_mask(constraint, run, words)) << name << " " << schema;
          // Any allowed token goes on; longer ones are more fun.
          std::vector<TokenId> next;
          for (TokenId token = 0; token < words.vocabulary_size(); ++token) {
            if (is_set(constraint.allowed(), token) && !words.is_end_of_generation(token)) next.push_back(token);
          }
          if (next.empty()) break;
          TokenId token = next[random() % next.size()];
          for (int k = 0; k < 3; ++k) {
            const TokenId other = next[random() % next.size()];
            if (words.piece(other).size() > words.piece(token).size()) token = other;
          }
          ASSERT_TRUE(run.accept(words.piece(token)));
          ASSERT_TRUE(constraint.accept(token));
        }
      }
    }
  }
}

TEST(GrammarTokens, TheEndIsAllowedWhenTheTextIsComplete) {
  const Tokenizer words = tokenizer("smollm");
  TokenConstraint constraint(over(words, R"({"type": "integer", "maximum": 99})"));
  const TokenId end = words.end_of_generation()[0];
  const TokenId digit = *words.find("7");
  EXPECT_FALSE(is_set(constraint.allowed(), end));
  EXPECT_TRUE(constraint.accept(digit));
  EXPECT_TRUE(is_set(constraint.allowed(), end));
  EXPECT_TRUE(is_set(constraint.allowed(), digit));
  EXPECT_TRUE(constraint.accept(digit));
  EXPECT_FALSE(is_set(constraint.allowed(), digit));
  EXPECT_TRUE(constraint.accept(end));
  EXPECT_TRUE(is_set(constraint.allowed(), end));  // for requests that go on after it
  EXPECT_FALSE(constraint.accept(digit));
  EXPECT_FALSE(is_set(constraint.allowed(), end));
}

TEST(GrammarTokens, ATokenThatWasNotAllowedEndsIt) {
  const Tokenizer words = tokenizer("smollm");
  TokenConstraint constraint(over(words, R"({"type": "boolean"})"));
  EXPECT_FALSE(constraint.accept(*words.find("7")));
  for (const uint64_t word : constraint.allowed()) EXPECT_EQ(word, 0u);
}

// --- random schemas and documents
// ---------------------------------------------------------------------------------

// A schema and a document of it, grown together; and what was broken in another one.
struct Grown {
  Json schema, good, bad;
};

Grown grow(int depth) {
  const int kind = *rc::gen::resize(100, rc::gen::inRange(0, depth > 0 ? 8 : 5));  // small sizes favour low numbers
  const auto text = [] {
    return *rc::gen::map(rc::gen::container<std::string>(rc::gen::elementOf(std::string("aé\"\\\n z"))),
                         [](std::string bytes) { return replace_ill_formed(bytes); });
  };
  switch (kind) {
    case 0:
      return {{{"type", "null"}}, nullptr, 0};
    case 1:
      return {{{"type", "boolean"}}, *rc::gen::arbitrary<bool>(), "true"};
    case 2: {
      const int low = *rc::gen::inRange(-5000, 5000), high = low + *rc::gen::inRange(0, 3000);
      return {{{"type", "integer"}, {"minimum", low}, {"maximum", high}}, *rc::gen::inRange(low, high + 1), high + 1};
    }
    case 3: {
      const std::string value = text();
      const auto length = static_cast<int>(std::count_if(value.begin(), value.end(), [](char byte) { return (byte & 0xc0) != 0x80; }));
      return {{{"type", "string"}, {"minLength", std::max(0, length - 2)}, {"maxLength", length}}, value, value + "xé"};
    }
    case 4: {
      const std::string value = text();
      return {{{"enum", Json::array({1, value, nullptr})}}, value, value + "!"};
    }
    case 5: {
      const Grown item = grow(depth - 1);
      const int count = *rc::gen::inRange(0, 4);
      Json list = Json::array();
      for (int i = 0; i < count; ++i) list.push_back(item.good);
      Json bad = list;
      bad.push_back(item.bad);
      return {{{"type", "array"}, {"items", item.schema}, {"minItems", count}}, list, bad};
    }
    case 6: {
      const Grown one = grow(depth - 1), two = grow(depth - 1);
      Json bad = {{"neither", Json::array({one.bad, two.bad})}};
      return {{{"anyOf", Json::array({{{"type", "array"}, {"items", one.schema}}, two.schema})}}, two.good, bad};
    }
    default: {
      Json schema{{"type", "object"}, {"properties", Json::object()}, {"required", Json::array()}, {"additionalProperties", false}};
      Json good = Json::object(), bad;
      const int count = *rc::gen::inRange(1, 5);
      for (int i = 0; i < count; ++i) {
        const Grown member = grow(depth - 1);
        const std::string name = text() + std::to_string(i);
        schema["properties"][name] = member.schema;
        const bool required = *rc::gen::arbitrary<bool>();
        if (required) schema["required"].push_back(name);
        if (required || *rc::gen::arbitrary<bool>()) good[name] = member.good;
        if (i + 1 < count) continue;
        bad = good;
        bad[name] = member.bad;
      }
      return {schema, good, bad};
    }
  }
}

bool accepts(const Grammar& grammar, std::string_view text) {
  GrammarRun run(std::make_shared<const Grammar>(grammar));
  return run.accept(text) && run.may_end();
}

RC_GTEST_PROP(JsonSchemaProperty, DocumentsOfASchemaAreAcceptedAndBrokenOnesRefused, ()) {
  const Grown grown = grow(3);
  RC_TAG(grown.schema.value("type", std::string("mixed")));
  const auto grammar = compile_json_schema(grown.schema);
  RC_ASSERT(grammar.ok());
  for (const int indent : {-1, 0, 2}) {
    for (const bool ascii : {false, true}) {
      RC_ASSERT(accepts(*grammar, grown.good.dump(indent, ' ', ascii)));
      // A broken part may happen to fit an alternative beside it; it never fits an anyOf-free schema.
      if (grown.schema.dump().find("anyOf") == std::string::npos) {
        RC_ASSERT(!accepts(*grammar, grown.bad.dump(indent, ' ', ascii)));
      }
    }
  }
}

// Texts that are no JSON any more are never accepted, and neither is half a text.
RC_GTEST_PROP(JsonSchemaProperty, DamagedTextsAreRefused, ()) {
  const Grown grown = grow(2);
  const auto grammar = compile_json_schema(grown.schema);
  RC_ASSERT(grammar.ok());
  std::string text = grown.good.dump();
  RC_PRE(text.size() > 1);
  const size_t at = *rc::gen::inRange<size_t>(0, text.size());
  const char byte = *rc::gen::elementOf(std::string("{}[],:\"\\x\x01\xff"));
  if (*rc::gen::arbitrary<bool>())
    text[at] = byte;
  else
    text.insert(at, 1, byte);
  if (!Json::accept(text)) RC_ASSERT(!accepts(*grammar, text));
}

}  // namespace
}  // namespace onset
