#include "onset/serve/requests.h"

#include <gtest/gtest.h>

namespace onset::serve {
namespace {

template <typename Parse>
ApiError refusal(Parse parse, const std::string& text) {
  const Checked<Json> body = parse_body(text);
  if (!body.ok()) return body.error();
  const auto parsed = parse(*body);
  EXPECT_FALSE(parsed.ok()) << text;
  return parsed.ok() ? ApiError{} : parsed.error();
}

// What a body that is right says.
template <typename Request>
Request accepted(Checked<Request> (*parse)(const Json&), const std::string& text) {
  const Checked<Json> body = parse_body(text);
  EXPECT_TRUE(body.ok()) << body.error().message;
  Checked<Request> parsed = parse(*body);
  EXPECT_TRUE(parsed.ok()) << parsed.error().message;
  return parsed.ok() ? *std::move(parsed) : Request{};
}

CompletionRequest completion(const std::string& text) {
  return accepted(parse_completion, text);
}

ChatRequest chat(const std::string& text) {
  return accepted(parse_chat, text);
}

TEST(Requests, DefaultsAreOpenAis) {
  const CompletionRequest request = completion(R"({"model": "a", "prompt": "x"})");
  EXPECT_EQ(request.model, "a");
  ASSERT_EQ(request.prompts.size(), 1u);
  EXPECT_EQ(std::get<std::string>(request.prompts[0]), "x");
  EXPECT_EQ(request.most_new_tokens, 16);
  EXPECT_EQ(request.sampling.temperature, 1.0f);
  EXPECT_EQ(request.sampling.top_p, 1.0f);
  EXPECT_FALSE(request.stream || request.seeded || request.sampling.logprobs || request.include_usage);
  EXPECT_FALSE(chat(R"({"model": "a", "messages": [{"role": "user", "content": "x"}]})").most_new_tokens.has_value());
}

TEST(Requests, EveryFieldIsRead) {
  const CompletionRequest request = completion(R"({"model": "a", "prompt": ["x", "y"], "max_tokens": 5, "temperature": 0.5, "top_p": 0.9,
      "top_k": 40, "min_p": 0.1, "n": 3, "stop": ["p", "q"], "seed": -1, "logprobs": 2, "logit_bias": {"7": -100, "9": 1.5}, "presence_penalty": 1,
      "frequency_penalty": -1, "repetition_penalty": 1.1, "stream": true, "stream_options": {"include_usage": true}, "ignore_eos": true})");
  EXPECT_EQ(request.prompts.size(), 2u);
  EXPECT_EQ(request.most_new_tokens, 5);
  EXPECT_EQ(request.sampling.temperature, 0.5f);
  EXPECT_EQ(request.sampling.top_p, 0.9f);
  EXPECT_EQ(request.sampling.top_k, 40);
  EXPECT_EQ(request.sampling.min_p, 0.1f);
  EXPECT_EQ(request.choices, 3);
  EXPECT_EQ(request.stop, (std::vector<std::string>{"p", "q"}));
  EXPECT_EQ(request.sampling.seed, ~uint64_t{0});
  EXPECT_TRUE(request.seeded && request.stream && request.include_usage && request.ignore_end && request.sampling.logprobs);
  EXPECT_EQ(request.sampling.top_logprobs, 2);
  EXPECT_EQ(request.sampling.logit_bias, (std::vector<std::pair<int32_t, float>>{{7, -100.0f}, {9, 1.5f}}));
  EXPECT_EQ(request.sampling.presence_penalty, 1.0f);
  EXPECT_EQ(request.sampling.frequency_penalty, -1.0f);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.1f);
}

TEST(Requests, PromptsAreTextsOrTokens) {
  EXPECT_EQ(std::get<std::vector<int32_t>>(completion(R"({"model": "a", "prompt": [1, 2]})").prompts.at(0)), (std::vector<int32_t>{1, 2}));
  const CompletionRequest two = completion(R"({"model": "a", "prompt": [[1], [2, 3]]})");
  EXPECT_EQ(std::get<std::vector<int32_t>>(two.prompts.at(1)), (std::vector<int32_t>{2, 3}));
  for (const char* prompt :
       {"[]", "{}", "7", "[\"x\", 1]", "[[1], \"x\"]", "[1, \"x\"]", "[-1]", "[1.5]", "[9999999999]", "[[[1]]]", "[true]"}) {
    const ApiError error = refusal(parse_completion, fmt::format(R"({{"model": "a", "prompt": {}}})", prompt));
    EXPECT_EQ(error.param, "prompt") << prompt;
    EXPECT_EQ(error.status, 400);
  }
}

TEST(Requests, RefusalsNameTheField) {
  const auto with = [](const std::string& field) { return R"({"model": "a", "prompt": "x", )" + field + "}"; };
  const std::pair<std::string, std::string> cases[] = {
      {R"("temperature": 3)", "temperature"},
      {R"("temperature": "hot")", "temperature"},
      {R"("top_p": -0.1)", "top_p"},
      {R"("top_k": 1.5)", "top_k"},
      {R"("n": 0)", "n"},
      {R"("n": 129)", "n"},
      {R"("max_tokens": 0)", "max_tokens"},
      {R"("seed": 9223372036854775808)", "seed"},
      {R"("stop": 7)", "stop"},
      {R"("stop": [""])", "stop"},
      {R"("logprobs": 6)", "logprobs"},
      {R"("logit_bias": {"x": 1})", "logit_bias"},
      {R"("logit_bias": {"1": 101})", "logit_bias"},
      {R"("stream": 1)", "stream"},
      {R"("stream_options": {})", "stream_options"},
      {R"("presence_penalty": 2.5)", "presence_penalty"},
      {R"("store": true)", "store"},
      {R"("echo": false)", "echo"},
      {R"("frobnicate": null)", "frobnicate"},
      {R"("stream": true, "stream_options": {"x": 1})", "stream_options.x"},
  };
  for (const auto& [field, name] : cases) EXPECT_EQ(refusal(parse_completion, with(field)).param, name) << field;
  EXPECT_EQ(refusal(parse_completion, R"({"prompt": "x"})").param, "model");
  EXPECT_EQ(refusal(parse_completion, R"({"model": "a"})").param, "prompt");
  EXPECT_EQ(refusal(parse_completion, with(R"("frobnicate": 1)")).message, "frobnicate: unknown field");
  EXPECT_EQ(refusal(parse_completion, with(R"("temperature": 3)")).message, "temperature: expected a number from 0 to 2, got 3");
}

TEST(Requests, FieldsWithoutEffectAreAccepted) {
  completion(R"({"model": "a", "prompt": "x", "user": "u", "metadata": {"k": "v"}, "store": false, "service_tier": "auto",
                 "safety_identifier": "s", "prompt_cache_key": "k", "temperature": null, "stop": null})");
}

TEST(Requests, MessagesBecomeWhatTemplatesTake) {
  const ChatRequest request = chat(R"({"model": "a", "messages": [
      {"role": "developer", "content": "be brief"},
      {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}]},
      {"role": "tool", "tool_call_id": "c1", "content": "2"}]})");
  EXPECT_EQ(request.messages[0], Json::parse(R"({"role": "system", "content": "be brief"})"));
  EXPECT_EQ(request.messages[1], Json::parse(R"({"role": "user", "content": "ab"})"));
  EXPECT_EQ(request.messages[2]["tool_calls"][0]["function"]["arguments"], Json::parse(R"({"x": 1})"));
  EXPECT_EQ(request.messages[3]["tool_call_id"], "c1");
}

TEST(Requests, MessagesThatAreNone) {
  const auto with = [](const std::string& messages) { return R"({"model": "a", "messages": )" + messages + "}"; };
  const std::pair<std::string, std::string> cases[] = {
      {"[]", "messages"},
      {"{}", "messages"},
      {"[7]", "messages[0]"},
      {R"([{"role": "king", "content": "x"}])", "messages[0].role"},
      {R"([{"content": "x"}])", "messages[0].role"},
      {R"([{"role": "user"}])", "messages[0].content"},
      {R"([{"role": "user", "content": "x", "colour": 1}])", "messages[0].colour"},
      {R"([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])", "messages[0].content[0].type"},
      {R"([{"role": "tool", "content": "x"}])", "messages[0].tool_call_id"},
      {R"([{"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "nonsense"}}]}])",
       "messages[0].tool_calls[0].function.arguments"},
  };
  for (const auto& [messages, name] : cases) EXPECT_EQ(refusal(parse_chat, with(messages)).param, name) << messages;
  EXPECT_EQ(
      refusal(parse_chat, R"({"model": "a", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "max_completion_tokens": 2})")
          .param,
      "max_tokens");
  EXPECT_EQ(refusal(parse_chat, R"({"model": "a", "messages": [{"role": "user", "content": "x"}], "top_logprobs": 2})").param,
            "top_logprobs");
}

TEST(Requests, ToolsAreChecked) {
  const auto with = [](const std::string& more) {
    return R"({"model": "a", "messages": [{"role": "user", "content": "x"}], )" + more + "}";
  };
  const std::string tools =
      R"("tools": [{"type": "function", "function": {"name": "f", "description": "d", "strict": true, "parameters": {"type": "object"}}}])";
  EXPECT_EQ(chat(with(tools)).functions, std::vector<std::string>{"f"});
  EXPECT_TRUE(chat(with(R"("tools": [])")).tools.is_null());
  for (const char* choice : {"\"none\"", "\"auto\"", "\"required\"", R"({"type": "function", "function": {"name": "f"}})"}) {
    EXPECT_FALSE(chat(with(tools + ", \"tool_choice\": " + choice)).tool_choice.is_null());
  }
  const std::pair<std::string, std::string> cases[] = {
      {R"("tools": 7)", "tools"},
      {R"("tools": [{"type": "retrieval"}])", "tools[0].type"},
      {R"("tools": [{"type": "function", "function": {"parameters": {}}}])", "tools[0].function.name"},
      {R"("tools": [{"type": "function", "function": {"name": "f", "parameters": 7}}])", "tools[0].function.parameters"},
      {R"("tool_choice": "required")", "tool_choice"},
      {tools + R"(, "tool_choice": "sometimes")", "tool_choice"},
      {tools + R"(, "tool_choice": {"type": "function", "function": {"name": "g"}})", "tool_choice"},
  };
  for (const auto& [more, name] : cases) EXPECT_EQ(refusal(parse_chat, with(more)).param, name) << more;
}

TEST(Requests, BodiesThatAreNoObjects) {
  for (const char* body : {"", "{", "[]", "7", "{\"a\": 1, \"a\": 2}", "\xff", "{\"a\": \"\xff\"}", "{} x"}) {
    EXPECT_FALSE(parse_body(body).ok()) << body;
  }
  EXPECT_FALSE(parse_body("{\"a\": " + std::string(100, '[') + std::string(100, ']') + "}").ok());
  EXPECT_FALSE(parse_body("{\"a\": " + std::string(1000000, '[')).ok());
  std::string wide = "{";
  for (int i = 0; i < 600; ++i) wide += fmt::format("\"{}\": 0, ", i);
  EXPECT_FALSE(parse_body(wide + "\"x\": 0}").ok());
}

TEST(Requests, Embeddings) {
  const Checked<EmbeddingRequest> parsed =
      parse_embedding(*parse_body(R"({"model": "a", "input": ["x", "y"], "encoding_format": "base64", "user": "u"})"));
  ASSERT_TRUE(parsed.ok());
  EXPECT_TRUE(parsed->base64);
  EXPECT_EQ(parsed->inputs.size(), 2u);
  EXPECT_EQ(refusal(parse_embedding, R"({"model": "a", "input": "x", "encoding_format": "int8"})").param, "encoding_format");
}

TEST(Requests, ErrorsAreOpenAisObject) {
  const Json body = Json::parse(refusal(parse_completion, R"({"model": "a", "prompt": "x", "frobnicate": 1})").body());
  EXPECT_EQ(body["error"]["type"], "invalid_request_error");
  EXPECT_EQ(body["error"]["param"], "frobnicate");
  EXPECT_EQ(body["error"]["code"], "unknown_parameter");
}

TEST(Requests, ContextsAndWhatBecomesOfThem) {
  const auto onset = [](const std::string& fields) {
    return *completion(R"({"model": "a", "prompt": "x", "onset": {"contexts": [{"text": "one"}, {"text": "two"}])" + fields + "}}").onset;
  };
  const auto contexts = onset("").contexts;
  ASSERT_EQ(contexts.size(), 2u);
  EXPECT_EQ(contexts[0].text + contexts[1].text, "onetwo");
  const auto named = completion(R"({"model": "a", "prompt": "x", "onset": {"contexts": [{"id": "ctx-1"}]}})");
  EXPECT_EQ(named.onset->contexts[0].id, "ctx-1");
  EXPECT_FALSE(onset("").reuse.has_value());
  EXPECT_TRUE(onset(R"(, "reuse": "prefix")").prefix_cache);
  EXPECT_FALSE(onset(R"(, "reuse": "none")").prefix_cache);
  EXPECT_EQ(std::get<CacheBlendOptions>(*onset(R"(, "reuse": "full")").reuse).ratio, 0);
  const ReuseRequest blend = onset(R"(, "reuse": "cacheblend", "ratio": 0.25, "metric": "values", "schedule": "gradual", "carry": 0.5)");
  EXPECT_EQ(std::get<CacheBlendOptions>(*blend.reuse).carry, 0.5f);
  EXPECT_EQ(blend.name, "cacheblend");
  EXPECT_EQ(std::get<CacheBlendOptions>(*blend.reuse).ratio, 0.25f);
  EXPECT_EQ(std::get<CacheBlendOptions>(*blend.reuse).metric, CacheBlendMetric::values);
  EXPECT_EQ(std::get<CacheBlendOptions>(*blend.reuse).schedule, CacheBlendSchedule::gradual);
  const ReuseRequest ape = onset(R"(, "reuse": "ape", "temperature": 0.5, "scale": 0.25, "shift": 2)");
  EXPECT_EQ(std::get<ParallelContextsOptions>(*ape.reuse).temperature, 0.5f);
  EXPECT_EQ(std::get<ParallelContextsOptions>(*ape.reuse).scale, 0.25f);
  EXPECT_EQ(std::get<ParallelContextsOptions>(*ape.reuse).shift, 2);
  EXPECT_FALSE(ape.newlines.has_value());
  EXPECT_EQ(onset(R"(, "newlines": 12)").newlines, 12);
  // The steps on the way to ape, each with what it has of its options.
  const auto step = [&](const std::string& fields) { return std::get<ParallelContextsOptions>(*onset(fields).reuse); };
  EXPECT_FALSE(step(R"(, "reuse": "pcw")").shared_prefix);
  EXPECT_TRUE(step(R"(, "reuse": "pcw+p")").shared_prefix);
  EXPECT_EQ(step(R"(, "reuse": "pcw+p")").temperature, 1);
  EXPECT_EQ(step(R"(, "reuse": "pcw+p+t", "temperature": 0.5)").temperature, 0.5f);
  EXPECT_EQ(step(R"(, "reuse": "pcw+p+t")").scale, 1);

  const auto refused = [](const std::string& object) {
    return refusal(parse_completion, R"({"model": "a", "prompt": "x", "onset": )" + object + "}").message;
  };
  EXPECT_EQ(refused("{}"), "onset.contexts: is missing");
  EXPECT_EQ(refused(R"({"contexts": []})"), "onset.contexts: expected a list of 1 to 1024 objects, got 0 entries");
  EXPECT_EQ(refused(R"({"contexts": [{"text": ""}]})"), "onset.contexts[0].text: expected a text, got an empty string");
  EXPECT_EQ(refused(R"({"contexts": [{"text": "x", "more": 1}]})"), "onset.contexts[0].more: unknown field");
  EXPECT_EQ(refused(R"({"contexts": [{"text": "x", "id": "y"}]})"), "onset.contexts[0].text: unknown field");
  EXPECT_EQ(refused(R"({"contexts": [{}]})"), "onset.contexts[0].text: is missing");
  EXPECT_EQ(refused(R"({"contexts": [{"text": "x"}], "reuse": "x"})"),
            "onset.reuse: expected none, prefix, pcw, pcw+p, pcw+p+t, ape, cacheblend or full, got \"x\"");
  EXPECT_EQ(refused(R"({"contexts": [{"text": "x"}], "ratio": 0.5})"), "onset.ratio: unknown field");
  EXPECT_EQ(refused(R"({"contexts": [{"text": "x"}], "reuse": "pcw+p", "temperature": 0.5})"), "onset.temperature: unknown field");
  EXPECT_EQ(refused(R"({"contexts": [{"text": "x"}], "reuse": "pcw+p+t", "scale": 0.5})"), "onset.scale: unknown field");
  EXPECT_EQ(refused(R"({"contexts": [{"text": "x"}], "reuse": "cacheblend", "ratio": 2})"),
            "onset.ratio: expected a number from 0 to 1, got 2");
  EXPECT_EQ(refused(R"({"contexts": [{"text": "x"}], "reuse": "cacheblend", "metric": "x"})"),
            "onset.metric: the metric of cacheblend is x, expected keys-values, keys, values or random");
}

}  // namespace
}  // namespace onset::serve
