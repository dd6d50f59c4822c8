#include "onset/serve/prepare.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <random>

#include "onset/engine/chat.h"
#include "onset/text/json_schema.h"
#include "onset/text/unicode.h"

namespace onset::serve {
namespace {

std::mt19937_64& generator() {
  thread_local std::mt19937_64 generator = [] {
    std::random_device device;
    std::seed_seq seeds{device(), device(), device(), device()};
    return std::mt19937_64(seeds);
  }();
  return generator;
}

// Choice 0 draws as the seed says; others get seeds that have nothing to do with it (the finaliser of MurmurHash3).
uint64_t seed_of_choice(uint64_t seed, uint64_t choice) {
  if (choice == 0) return seed;
  uint64_t mixed = seed + choice * 0xd6e8feb86659fd93u;
  mixed = (mixed ^ (mixed >> 33)) * 0xff51afd7ed558ccdu;
  mixed = (mixed ^ (mixed >> 33)) * 0xc4ceb9fe1a85ec53u;
  return mixed ^ (mixed >> 33);
}

ApiError no_tokenizer(const ModelHost& host) {
  return {.message = fmt::format("model {} has no tokenizer: expected token ids", host.name()), .param = "model"};
}

Checked<std::vector<int32_t>> tokens_of(const ModelHost& host, const Prompt& prompt, const char* field) {
  std::vector<int32_t> tokens;
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
    tokens = *ids;
    for (const int32_t token : tokens) {
      if (token >= host.vocabulary()) {
        return ApiError{.message = fmt::format("{}: token id {} is not in the vocabulary of {}", field, token, host.vocabulary()),
                        .param = field,
                        .code = "invalid_value"};
      }
    }
  } else {
    if (host.tokenizer() == nullptr) return no_tokenizer(host);
    Result<std::vector<int32_t>> encoded = host.tokenizer()->encode(std::get<std::string>(prompt));
    if (!encoded.ok()) return error_of(encoded.status());
    tokens = *std::move(encoded);
  }
  if (tokens.empty())
    return ApiError{.message = fmt::format("{}: is empty, expected one token or more", field), .param = field, .code = "invalid_value"};
  if (static_cast<int64_t>(tokens.size()) > host.context()) {
    return ApiError{.message = fmt::format("{}: has {} tokens, the context of model {} has room for {}", field, tokens.size(), host.name(),
                                           host.context()),
                    .param = field,
                    .code = "context_length_exceeded"};
  }
  return tokens;
}

// What the model alone can say about the options.
std::optional<ApiError> check_options(const ModelHost& host, const GenerationRequest& request) {
  for (const auto& [token, bias] : request.sampling.logit_bias) {
    if (token >= host.vocabulary()) {
      return ApiError{.message = fmt::format("logit_bias: token {} is not in the vocabulary of {}", token, host.vocabulary()),
                      .param = "logit_bias",
                      .code = "invalid_value"};
    }
  }
  if (const Status status = check_sampling(request.sampling, host.vocabulary()); !status.ok()) return error_of(status);
  if (request.sampling.logprobs && host.tokenizer() == nullptr) return no_tokenizer(host);
  if (request.select == nullptr) return {};
  if (const Status status = host.check_select(*request.select); !status.ok()) {
    return ApiError{.message = "onset.select: " + status.message(), .param = "onset.select", .code = "unsupported_value"};
  }
  if (request.onset && request.onset->reuse) {
    return ApiError{
        .message = fmt::format("onset.select: goes with contexts that are read in order, not with reuse {}", request.onset->name),
        .param = "onset.select",
        .code = "unsupported_value"};
  }
  return {};
}

// The grammar that response_format asks for; null for plain text.
Checked<std::shared_ptr<const TokenGrammar>> grammar_of(const ModelHost& host, const Json& format) {
  if (format.is_null()) return std::shared_ptr<const TokenGrammar>();
  Errors errors;
  Fields fields(format, "response_format", errors);
  const std::string type = fields.need("type") != nullptr ? fields.text("type").value_or("") : "";
  Json schema;
  if (type == "json_schema") {
    if (const Json* named = fields.need("json_schema")) {
      Fields inner(*named, "response_format.json_schema", errors);
      for (const char* name : {"name", "description", "strict"}) inner.ignore(name);  // every schema is kept to strictly
      if (const Json* given = inner.need("schema")) schema = *given;
      inner.finish();
    }
  } else if (!errors.first && type != "text" && type != "json_object") {
    fields.fail("type", "expected text, json_object or json_schema, got " + shown(type), "invalid_value");
  }
  fields.finish();
  if (errors.first) return *errors.first;
  if (type == "text") return std::shared_ptr<const TokenGrammar>();
  auto grammar = host.grammar(type + schema.dump(), [&]() -> Result<Grammar> {
    if (type == "json_object") return json_object_grammar();
    return compile_json_schema(schema);
  });
  if (!grammar.ok()) {
    return ApiError{.message = "response_format: " + grammar.status().message(), .param = "response_format", .code = "invalid_json_schema"};
  }
  return *std::move(grammar);
}

// The grammar of answers that are calls, which tool_choice demands.
Checked<std::shared_ptr<const TokenGrammar>> demanded_calls(const ModelHost& host, const ChatRequest& request) {
  ToolCallDemand demand{.function = {}, .parallel = request.parallel_tool_calls};
  if (request.tool_choice.is_object()) demand.function = request.tool_choice["function"]["name"].get<std::string>();
  const std::string key = fmt::format("tools {} {} {}", request.tools.dump(), demand.function.value_or(""), demand.parallel);
  auto grammar = host.grammar(key, [&] { return tool_call_grammar(host.tool_form(), request.tools, demand); });
  if (!grammar.ok()) return ApiError{.message = "tools: " + grammar.status().message(), .param = "tools", .code = "invalid_json_schema"};
  return *std::move(grammar);
}

// What one prompt's requests read.
struct Reading {
  std::vector<int32_t> tokens;
  std::optional<Contexts> contexts = {};
};

int64_t tokens_of_contexts(const PromptParts& parts) {
  int64_t count = 0;
  for (const auto& context : parts.contexts) count += static_cast<int64_t>(context.size());
  return count;
}

// A prompt with contexts: one text, or contexts that are read apart.
Checked<Reading> reading_of(const ModelHost& host, const ReuseRequest& asked, PromptParts parts) {
  const bool side_by_side = asked.reuse && std::holds_alternative<ParallelContextsOptions>(*asked.reuse);
  const auto all = static_cast<int64_t>(parts.prefix.size() + parts.prompt.size()) + tokens_of_contexts(parts);
  // Those that stand side by side need not fit together: the engine knows.
  if (!side_by_side && all > host.context()) {
    return ApiError{.message = fmt::format("onset.contexts: has {} tokens with the prompt, the context of model {} has room for {}", all,
                                           host.name(), host.context()),
                    .param = "onset.contexts",
                    .code = "context_length_exceeded"};
  }
  if (asked.reuse) return Reading{std::move(parts.prompt), Contexts{std::move(parts.prefix), std::move(parts.contexts), *asked.reuse}};
  std::vector<int32_t> tokens = std::move(parts.prefix);
  for (const auto& context : parts.contexts) tokens.insert(tokens.end(), context.begin(), context.end());
  tokens.insert(tokens.end(), parts.prompt.begin(), parts.prompt.end());
  return Reading{std::move(tokens)};
}

// Tokens that a reading computes or finds, and how far into the model's context they reach.
struct Extent {
  int64_t tokens = 0, positions = 0;
};
Extent extent_of(const Reading& reading) {
  const auto own = static_cast<int64_t>(reading.tokens.size());
  if (!reading.contexts) return {own, own};
  int64_t all = own + static_cast<int64_t>(reading.contexts->prefix.size()), longest = 0;
  const int64_t without = all;
  for (const auto& text : reading.contexts->texts) {
    all += static_cast<int64_t>(text.size());
    longest = std::max(longest, static_cast<int64_t>(text.size()));
  }
  return {all, std::holds_alternative<ParallelContextsOptions>(reading.contexts->reuse) ? without + longest : all};
}

// One request for each prompt and choice.
Prepared build(const ModelHost& host, const GenerationRequest& asked, const std::vector<Reading>& prompts, bool chat) {
  Prepared prepared;
  prepared.stream = asked.stream;
  prepared.form = {.chat = chat,
                   .id = new_id(chat ? "chatcmpl-" : "cmpl-"),
                   .model = host.name(),
                   .created = std::time(nullptr),
                   .choices = static_cast<int32_t>(prompts.size()) * asked.choices,
                   .choices_of_prompt = asked.choices,
                   .logprobs = asked.sampling.logprobs,
                   .include_usage = asked.include_usage,
                   .tokenizer = host.tokenizer()};
  const uint64_t seed = asked.seeded ? asked.sampling.seed : generator()();
  for (const Reading& reading : prompts) {
    const Extent extent = extent_of(reading);
    const int64_t most_new =
        std::min<int64_t>(asked.most_new_tokens.value_or(host.context()), std::max<int64_t>(0, host.context() - extent.positions + 1));
    prepared.form.prompt_tokens += extent.tokens;
    prepared.tokens += (extent.tokens + most_new) * asked.choices;
    for (int32_t choice = 0; choice < asked.choices; ++choice) {
      Request request{.tokens = reading.tokens,
                      .most_new_tokens = asked.most_new_tokens,
                      .sampling = asked.sampling,
                      .stop = asked.stop,
                      .ignore_end = asked.ignore_end,
                      .attend_spec = asked.attend,
                      .contexts = reading.contexts,
                      .prefix_cache = !asked.onset || asked.onset->prefix_cache};
      request.select_spec = asked.select;
      if (!asked.select && !reading.contexts) request.select_spec = host.select();
      request.sampling.seed = seed_of_choice(seed, prepared.requests.size());
      prepared.requests.push_back(std::move(request));
    }
  }
  return prepared;
}

// The contexts' tokens: of the texts, and of those that are named.
Checked<std::vector<std::vector<int32_t>>> read_contexts(const ModelHost& host, const ReuseRequest& asked, const std::string& space) {
  std::vector<std::vector<int32_t>> contexts;
  for (size_t i = 0; i < asked.contexts.size(); ++i) {
    const auto& [text, id] = asked.contexts[i];
    if (!id.empty()) {
      const KnownText known = host.known_text(space, id);
      if (known == nullptr) {
        const std::string field = fmt::format("onset.contexts[{}].id", i);
        return ApiError{.status = 404,
                        .message = fmt::format("{}: there is no context {}; send its text", field, shown(id)),
                        .param = field,
                        .code = "context_not_found"};
      }
      contexts.push_back(*known);
      continue;
    }
    Result<std::vector<int32_t>> encoded = context_tokens(*host.tokenizer(), text);
    if (!encoded.ok()) return error_of(encoded.status());
    contexts.push_back(*std::move(encoded));
  }
  return contexts;
}

Checked<Prepared> build_with_contexts(const ModelHost& host, const GenerationRequest& asked, PromptParts parts, bool chat) {
  std::vector<AnswerForm::Context> contexts;
  for (const auto& tokens : parts.contexts) contexts.push_back({text_id(tokens), static_cast<int64_t>(tokens.size())});
  Checked<Reading> reading = reading_of(host, *asked.onset, std::move(parts));
  if (!reading.ok()) return reading.error();
  Prepared prepared = build(host, asked, {*std::move(reading)}, chat);
  prepared.form.reuse = asked.onset->name;
  prepared.form.contexts = std::move(contexts);
  return prepared;
}

Checked<Prepared> chat_with_contexts(const ModelHost& host, const ChatRequest& request, const std::string& text, const std::string& space) {
  auto contexts = read_contexts(host, *request.onset, space);
  if (!contexts.ok()) return contexts.error();
  Result<PromptParts> parts = split_prompt(*host.tokenizer(), text, *std::move(contexts), request.onset->newlines);
  if (!parts.ok()) return error_of(parts.status().within("messages"));
  return build_with_contexts(host, request, *std::move(parts), true);
}

Checked<Prepared> chat_without_contexts(const ModelHost& host, const ChatRequest& request, const std::string& text) {
  Result<std::vector<int32_t>> encoded = host.tokenizer()->encode(text, {.add_special = false, .parse_special = true});
  if (!encoded.ok()) return error_of(encoded.status());
  Checked<std::vector<int32_t>> tokens = tokens_of(host, *std::move(encoded), "messages");
  if (!tokens.ok()) return tokens.error();
  return build(host, request, {{*std::move(tokens)}}, true);
}

template <typename P, typename Parse, typename... More>
Checked<Ready<P>> make_ready(const Hosts& hosts, const Checked<Json>& body, Parse parse, const More&... more) {
  if (!body.ok()) return body.error();
  auto request = parse(*body);
  if (!request.ok()) return request.error();
  const auto found = hosts.find(request->model);
  if (found == hosts.end()) return unknown_model(request->model);
  auto prepared = prepare(*found->second, *std::move(request), more...);
  if (!prepared.ok()) return prepared.error();
  return Ready<P>{found->second.get(), *std::move(prepared)};
}

std::string base64(std::span<const unsigned char> bytes) {
  constexpr std::string_view letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t count = std::min<size_t>(3, bytes.size() - i);
    uint32_t word = bytes[i] << 16;
    if (count > 1) word |= bytes[i + 1] << 8;
    if (count > 2) word |= bytes[i + 2];
    for (size_t j = 0; j < 4; ++j) out += j <= count ? letters[word >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

}  // namespace

std::string new_id(std::string_view prefix) {
  constexpr std::string_view letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  std::string id(prefix);
  std::uniform_int_distribution<size_t> any(0, letters.size() - 1);
  for (int i = 0; i < 24; ++i) id += letters[any(generator())];
  return id;
}

Checked<Prepared> prepare(const ModelHost& host, CompletionRequest request, const std::string& space) {
  if (const auto problem = check_options(host, request)) return *problem;
  if (request.onset) {
    if (host.tokenizer() == nullptr) return no_tokenizer(host);
    if (request.prompts.size() != 1 || !std::holds_alternative<std::string>(request.prompts[0])) {
      return ApiError{.message = "prompt: contexts need one text as a prompt", .param = "prompt", .code = "invalid_value"};
    }
    const auto& text = std::get<std::string>(request.prompts[0]);
    if (text.empty()) {
      return ApiError{.message = "prompt: is empty, expected one token or more", .param = "prompt", .code = "invalid_value"};
    }
    auto contexts = read_contexts(host, *request.onset, space);
    if (!contexts.ok()) return contexts.error();
    Result<PromptParts> parts = plain_parts(*host.tokenizer(), text, *std::move(contexts), request.onset->newlines);
    if (!parts.ok()) return error_of(parts.status());
    return build_with_contexts(host, request, *std::move(parts), false);
  }
  std::vector<Reading> prompts;
  for (const Prompt& prompt : request.prompts) {
    Checked<std::vector<int32_t>> tokens = tokens_of(host, prompt, "prompt");
    if (!tokens.ok()) return tokens.error();
    prompts.push_back({*std::move(tokens)});
  }
  return build(host, request, prompts, false);
}

Checked<Prepared> prepare(const ModelHost& host, ChatRequest request, const std::string& space) {
  if (const auto problem = check_options(host, request)) return *problem;
  if (host.tokenizer() == nullptr) return no_tokenizer(host);
  if (!host.chat_template()) {
    return ApiError{
        .message = fmt::format("model {} has no chat template: it was not trained to chat (/v1/completions continues a text)", host.name()),
        .param = "model",
        .code = "unsupported_value"};
  }
  if (request.tool_choice == "none") request.tools = nullptr;
  if (!request.tools.is_null() && host.tool_form() == ToolCallForm::none) {
    return ApiError{
        .message = fmt::format("tools: the chat template of model {} shows no form of calls that is known (Hermes, Llama 3)", host.name()),
        .param = "tools",
        .code = "unsupported_value"};
  }
  Checked<std::shared_ptr<const TokenGrammar>> grammar = grammar_of(host, request.response_format);
  if (!grammar.ok()) return grammar.error();
  request.sampling.grammar = *std::move(grammar);
  if (request.tool_choice == "required" || request.tool_choice.is_object()) {
    if (request.sampling.grammar != nullptr) {
      return ApiError{.message = "tool_choice: a call that is demanded and a response_format exclude each other",
                      .param = "tool_choice",
                      .code = "invalid_value"};
    }
    auto calls = demanded_calls(host, request);
    if (!calls.ok()) return calls.error();
    request.sampling.grammar = *std::move(calls);
  }
  if (request.onset) {
    const auto user =
        std::find_if(request.messages.rbegin(), request.messages.rend(), [](const Json& message) { return message["role"] == "user"; });
    if (user == request.messages.rend() || !(*user)["content"].is_string()) {
      return ApiError{.message = "messages: contexts need a message of the user with a text", .param = "messages", .code = "invalid_value"};
    }
    (*user)["content"] = contexts_place + (*user)["content"].get<std::string>();
  }
  const Result<std::string> text = host.chat_template()->render(request.messages, request.tools, {});
  if (!text.ok()) return error_of(text.status().within("messages: the model's chat template refuses"));
  Checked<Prepared> made = request.onset ? chat_with_contexts(host, request, *text, space) : chat_without_contexts(host, request, *text);
  if (!made.ok()) return made.error();
  Prepared prepared = *std::move(made);
  if (!request.tools.is_null()) {
    prepared.form.tool_form = host.tool_form();
    prepared.form.functions = request.functions;
  }
  return prepared;
}

// --- embeddings ---------------------------------------------------------------------------------------------------

void MeanPool::add(std::span<const float> row) {
  constexpr float scale = 1 << 24, largest = 1 << 20;  // sums of 2^19 rows fit 64 bits
  const std::lock_guard lock(mutex_);
  for (size_t i = 0; i < row.size() && i < sums_.size(); ++i) {
    if (!(std::abs(row[i]) <= largest)) {
      finite_ = false;
      return;
    }
    sums_[i] += std::llrint(static_cast<double>(row[i]) * scale);
  }
}

std::optional<std::vector<float>> MeanPool::normalised() const {
  const std::lock_guard lock(mutex_);
  double squares = 0;
  for (const int64_t sum : sums_) squares += static_cast<double>(sum) * static_cast<double>(sum);
  if (!finite_ || squares == 0) return {};
  std::vector<float> mean;
  mean.reserve(sums_.size());
  for (const int64_t sum : sums_) mean.push_back(static_cast<float>(static_cast<double>(sum) / std::sqrt(squares)));
  return mean;
}

Checked<PreparedEmbedding> prepare(const ModelHost& host, EmbeddingRequest request) {
  if (request.dimensions && *request.dimensions != host.hidden()) {
    return ApiError{.message = fmt::format("dimensions: model {} gives {}, got {}", host.name(), host.hidden(), *request.dimensions),
                    .param = "dimensions",
                    .code = "invalid_value"};
  }
  PreparedEmbedding prepared{.requests = {}, .pools = {}, .model = host.name(), .base64 = request.base64};
  for (const Prompt& input : request.inputs) {
    Checked<std::vector<int32_t>> tokens = tokens_of(host, input, "input");
    if (!tokens.ok()) return tokens.error();
    prepared.tokens += static_cast<int64_t>(tokens->size());
    const auto pool = std::make_shared<MeanPool>(static_cast<size_t>(host.hidden()));
    Request reads{.tokens = *std::move(tokens), .most_new_tokens = 0};
    reads.on_hidden = [pool](int32_t, std::span<const float> row) { pool->add(row); };
    prepared.requests.push_back(std::move(reads));
    prepared.pools.push_back(pool);
  }
  return prepared;
}

Checked<std::string> embedding_body(const PreparedEmbedding& prepared) {
  std::string out = "{\"object\":\"list\",\"data\":[";
  for (size_t i = 0; i < prepared.pools.size(); ++i) {
    const auto vector = prepared.pools[i]->normalised();
    if (!vector) return server_error(fmt::format("the hidden states of input {} are not finite", i));
    out += fmt::format("{}{{\"object\":\"embedding\",\"index\":{},\"embedding\":", i == 0 ? "" : ",", i);
    if (prepared.base64) {  // float32 in the machine's order, which is little-endian on all CPUs that we build for
      out += '"' + base64({reinterpret_cast<const unsigned char*>(vector->data()), vector->size() * sizeof(float)}) + "\"}";
    } else {
      out += fmt::format("[{}]}}", fmt::join(*vector, ","));
    }
  }
  std::string model;
  append_json_string(model, prepared.model);
  return out +
         fmt::format("],\"model\":{},\"usage\":{{\"prompt_tokens\":{},\"total_tokens\":{}}}}}", model, prepared.tokens, prepared.tokens);
}

Checked<Ready<Prepared>> ready_generation(const Hosts& hosts, const Checked<Json>& body, bool chat, const std::string& space) {
  return chat ? make_ready<Prepared>(hosts, body, parse_chat, space) : make_ready<Prepared>(hosts, body, parse_completion, space);
}

Checked<Ready<PreparedEmbedding>> ready_embedding(const Hosts& hosts, const Checked<Json>& body) {
  return make_ready<PreparedEmbedding>(hosts, body, parse_embedding);
}

ApiError unknown_model(const std::string& name) {
  return {.status = 404, .message = fmt::format("model: there is no model {}", shown(name)), .param = "model", .code = "model_not_found"};
}

// --- tokens -------------------------------------------------------------------------------------------------------

Checked<std::string> tokenize_body(const ModelHost& host, const TokenizeRequest& request) {
  if (host.tokenizer() == nullptr) return no_tokenizer(host);
  const Result<std::vector<int32_t>> tokens = host.tokenizer()->encode(request.text, {.add_special = request.add_special});
  if (!tokens.ok()) return error_of(tokens.status());
  return fmt::format("{{\"tokens\":[{}],\"count\":{},\"context\":{}}}", fmt::join(*tokens, ","), tokens->size(), host.context());
}

Checked<std::string> detokenize_body(const ModelHost& host, const DetokenizeRequest& request) {
  if (host.tokenizer() == nullptr) return no_tokenizer(host);
  for (const int32_t token : request.tokens) {
    if (!host.tokenizer()->has(token)) {
      return ApiError{
          .message = fmt::format("tokens: token id {} is not in the vocabulary of {}", token, host.tokenizer()->vocabulary_size()),
          .param = "tokens",
          .code = "invalid_value"};
    }
  }
  const Result<std::string> text = host.tokenizer()->decode(request.tokens);
  if (!text.ok()) return error_of(text.status());
  std::string quoted;
  append_json_string(quoted, replace_ill_formed(*text));
  return "{\"text\":" + quoted + "}";
}

}  // namespace onset::serve
