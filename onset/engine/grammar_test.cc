// Answers that keep to a grammar, whatever the model would rather say.
#include <nlohmann/json.hpp>

#include "onset/engine/testing.h"
#include "onset/text/json_schema.h"

namespace onset {
namespace {

using namespace onset::testing;

std::shared_ptr<const TokenGrammar> grammar_for(const Engine& engine, std::string_view schema) {
  auto grammar = compile_json_schema(schema, "schema");
  EXPECT_TRUE(grammar.ok()) << grammar.status().message();
  return std::make_shared<const TokenGrammar>(*std::move(grammar), TokenTrie::create(*engine.tokenizer()));
}

constexpr const char* schema = R"({"type": "object", "properties": {"name": {"type": "string", "minLength": 3, "maxLength": 30},
    "age": {"type": "integer", "minimum": 1, "maximum": 9}, "friends": {"type": "array", "items": {"enum": ["Tim", "Lily"]}, "maxItems": 2}},
    "required": ["name", "age", "friends"], "additionalProperties": false})";

void expect_person(const Told& told) {
  EXPECT_EQ(told.last.finish, Finish::stop) << told.text << told.last.status.message();
  const auto json = nlohmann::json::parse(told.text, nullptr, false);
  ASSERT_TRUE(json.is_object()) << told.text;
  EXPECT_TRUE(json["name"].is_string() && json["age"].is_number_integer() && json["friends"].is_array()) << told.text;
}

// A teller of stories has never seen JSON.
TEST(EngineGrammar, AnswersAreTextsOfTheGrammar) {
  const auto engine = make_engine(test_options());
  const auto grammar = grammar_for(*engine, schema);
  std::vector<Told> told(8);
  for (size_t i = 0; i < told.size(); ++i) {  // together in one batch, with one grammar
    SamplingOptions sampling{.temperature = i == 0 ? 0.0f : 1.0f, .seed = i, .logprobs = true, .grammar = grammar};
    if (i % 2 == 1) sampling.repetition_penalty = 1.3f;
    ASSERT_TRUE(engine->submit({.text = "Once upon a time", .most_new_tokens = 200, .sampling = sampling}, listen(told[i])).ok());
  }
  Told free;
  ASSERT_TRUE(engine->submit({.text = "Once upon a time", .most_new_tokens = 10}, listen(free)).ok());
  run_all(*engine);
  for (const Told& each : told) expect_person(each);
  EXPECT_EQ(free.text.substr(0, 11), ", there was");
  EXPECT_NE(told[1].text, told[3].text);
  expect_no_pages(*engine);
}

TEST(EngineGrammar, TheSameAloneAndAmongOthers) {
  const auto engine = make_engine(test_options());
  const auto grammar = grammar_for(*engine, schema);
  const SamplingOptions sampling{.temperature = 1.0f, .seed = 4, .grammar = grammar};
  const Told alone = answer(*engine, {.text = "Once", .most_new_tokens = 200, .sampling = sampling});
  Told first, second;
  ASSERT_TRUE(
      engine->submit({.text = "A day", .most_new_tokens = 60, .sampling = {.temperature = 1.0f, .grammar = grammar}}, listen(first)).ok());
  ASSERT_TRUE(engine->submit({.text = "Once", .most_new_tokens = 200, .sampling = sampling}, listen(second)).ok());
  run_all(*engine);
  EXPECT_EQ(alone.tokens, second.tokens);
}

TEST(EngineGrammar, ALimitOfTokensMayCutTheText) {
  const auto engine = make_engine(test_options());
  const Told told = answer(*engine, {.text = "Once", .most_new_tokens = 5, .sampling = {.grammar = grammar_for(*engine, schema)}});
  EXPECT_EQ(told.last.finish, Finish::length);
  EXPECT_EQ(told.text[0], '{');
}

}  // namespace
}  // namespace onset
