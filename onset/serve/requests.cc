#include "onset/serve/requests.h"

#include <algorithm>
#include <charconv>
#include <limits>

namespace onset::serve {
namespace {

constexpr int32_t most_choices = 128;
constexpr size_t most_prompts = 2048, most_stops = 16, longest_stop = 1000, most_biases = 300, most_contexts = 1024;
constexpr int64_t most_tokens = 1 << 30;

// A list of token ids; whether they are in the vocabulary is for those to say who know it.
std::vector<int32_t> token_ids(const Json& list, Fields& fields, std::string_view name) {
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const Json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > std::numeric_limits<int32_t>::max()) {
      fields.fail(name, fmt::format("expected token ids, got {} as entry {}", shown(id), ids.size()), "invalid_value");
      return {};
    }
    ids.push_back(static_cast<int32_t>(id.get<int64_t>()));
  }
  return ids;
}

// A text, a list of texts, a list of token ids, or a list of such lists.
std::vector<Prompt> prompts(Fields& fields, std::string_view name) {
  std::vector<Prompt> found;
  const Json* value = fields.need(name);
  if (value == nullptr) return found;
  const auto refuse = [&](const std::string& sentence) {
    fields.fail(name, sentence, "invalid_value");
    return std::vector<Prompt>();
  };
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array()) return refuse("expected a string, a list of strings, token ids, or lists of token ids, got " + shown(*value));
  if (value->empty()) return refuse("expected one entry or more, got an empty list");
  if (value->front().is_number()) return {token_ids(*value, fields, name)};
  if (value->size() > most_prompts) return refuse(fmt::format("expected at most {} entries, got {}", most_prompts, value->size()));
  const bool texts = value->front().is_string();
  for (const Json& entry : *value) {
    if (texts ? !entry.is_string() : !entry.is_array()) {
      return refuse(fmt::format("expected all entries to be {}, got {} as entry {}", texts ? "strings" : "lists of token ids", shown(entry),
                                found.size()));
    }
    if (texts) {
      found.emplace_back(entry.get<std::string>());
    } else {
      found.emplace_back(token_ids(entry, fields, name));
    }
  }
  return found;
}

void read_stop(Fields& fields, GenerationRequest& request) {
  const Json* value = fields.find("stop");
  if (value == nullptr) return;
  const Json list = value->is_string() ? Json::array({*value}) : *value;
  if (!list.is_array() || list.size() > most_stops) {
    return fields.fail("stop",
                       fmt::format("expected a string or a list of at most {} strings, got {}", most_stops,
                                   list.is_array() ? fmt::format("{} entries", list.size()) : shown(list)),
                       "invalid_value");
  }
  for (const Json& text : list) {
    if (!text.is_string() || text.get_ref<const std::string&>().empty() || text.get_ref<const std::string&>().size() > longest_stop) {
      return fields.fail("stop", fmt::format("expected strings of 1 to {} bytes, got {}", longest_stop, shown(text)), "invalid_value");
    }
    request.stop.push_back(text.get<std::string>());
  }
}

void read_logit_bias(Fields& fields, SamplingOptions& sampling) {
  const Json* value = fields.find("logit_bias");
  if (value == nullptr) return;
  if (!value->is_object())
    return fields.fail("logit_bias", "expected an object of token ids and numbers, got " + shown(*value), "invalid_type");
  if (value->size() > most_biases) {
    return fields.fail("logit_bias", fmt::format("expected at most {} tokens, got {}", most_biases, value->size()), "invalid_value");
  }
  for (const auto& [key, bias] : value->items()) {
    int32_t token = -1;
    const auto [end, problem] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (problem != std::errc() || end != key.data() + key.size() || token < 0) {
      return fields.fail("logit_bias", fmt::format("expected token ids as names, got {}", shown(key)), "invalid_value");
    }
    if (!bias.is_number() || !(bias.get<double>() >= -100 && bias.get<double>() <= 100)) {
      return fields.fail("logit_bias", fmt::format("expected a number from -100 to 100 for token {}, got {}", token, shown(bias)),
                         "invalid_value");
    }
    sampling.logit_bias.emplace_back(token, bias.get<float>());
  }
}

void read_sampling(Fields& fields, GenerationRequest& request) {
  SamplingOptions& sampling = request.sampling;
  const auto real = [&](const char* name, double least, double most, float otherwise) {
    return static_cast<float>(fields.number(name, least, most).value_or(otherwise));
  };
  sampling.temperature = real("temperature", 0, 2, 1);
  sampling.top_p = real("top_p", 0, 1, 1);
  // Nothing but the most likely token is left at 0.
  sampling.top_p = std::max(sampling.top_p, std::numeric_limits<float>::min());
  sampling.top_k = static_cast<int32_t>(fields.integer("top_k", 0, std::numeric_limits<int32_t>::max()).value_or(0));
  sampling.min_p = real("min_p", 0, 1, 0);
  sampling.presence_penalty = real("presence_penalty", -2, 2, 0);
  sampling.frequency_penalty = real("frequency_penalty", -2, 2, 0);
  sampling.repetition_penalty = real("repetition_penalty", 0.01, 100, 1);
  const auto seed = fields.integer("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  request.seeded = seed.has_value();
  sampling.seed = static_cast<uint64_t>(seed.value_or(0));
  read_logit_bias(fields, sampling);
}

std::vector<ReuseRequest::Context> read_contexts(Fields& fields, Errors& errors) {
  std::vector<ReuseRequest::Context> contexts;
  const Json* list = fields.need("contexts");
  if (list == nullptr) return contexts;
  if (!list->is_array() || list->empty() || list->size() > most_contexts) {
    fields.fail("contexts",
                fmt::format("expected a list of 1 to {} objects, got {}", most_contexts,
                            list->is_array() ? fmt::format("{} entries", list->size()) : shown(*list)),
                "invalid_value");
    return contexts;
  }
  for (const Json& entry : *list) {
    Fields each(entry, fmt::format("{}[{}]", fields.path("contexts"), contexts.size()), errors);
    ReuseRequest::Context& context = contexts.emplace_back();
    const char* kind = each.find("id") != nullptr ? "id" : "text";
    std::string& place = each.find("id") != nullptr ? context.id : context.text;
    place = each.need(kind) != nullptr ? each.text(kind).value_or("") : "";
    if (place.empty()) each.fail(kind, "expected a text, got an empty string", "invalid_value");
    each.finish();
  }
  return contexts;
}

CacheBlendOptions read_cache_blend(Fields& fields) {
  CacheBlendOptions options;
  options.ratio = static_cast<float>(fields.number("ratio", 0, 1).value_or(options.ratio));
  options.carry = static_cast<float>(fields.number("carry", 0, 1).value_or(options.carry));
  const auto named = [&](const char* field, auto find, auto& place) {
    const auto name = fields.text(field);
    if (!name) return;
    const auto found = find(*name);
    if (found.ok()) {
      place = *found;
    } else {
      fields.fail(field, found.status().message(), "invalid_value");
    }
  };
  options.hide_loading = fields.boolean("hide_loading").value_or(false);
  named("metric", cache_blend_metric, options.metric);
  named("schedule", cache_blend_schedule, options.schedule);
  return options;
}

// A step on the way to ape takes what it has of ape's options; the others are unknown fields.
ParallelContextsOptions read_parallel_contexts(Fields& fields, const std::string& name) {
  ParallelContextsOptions options = parallel_contexts_step(name);
  const auto real = [&](const char* name, double least, double most, float& place) {
    place = static_cast<float>(fields.number(name, least, most).value_or(place));
  };
  if (name == "ape" || name == "pcw+p+t") real("temperature", 0.001, 1000, options.temperature);
  if (name != "ape") return options;
  real("scale", 0, 1000, options.scale);
  real("shift", -1000, 1000, options.shift);
  return options;
}

// Options of other ways than the one that is asked for are unknown fields.
void read_onset(Fields& fields, Errors& errors, GenerationRequest& request) {
  const Json* value = fields.find("onset");
  if (value == nullptr) return;
  Fields inner(*value, "onset", errors);
  const auto named = [&](const char* field, auto find, auto& place) {
    const auto name = inner.text(field);
    if (!name) return;
    auto spec = find(*name);
    if (!spec.ok()) return inner.fail(field, spec.status().message(), "invalid_value");
    place = *std::move(spec);
  };
  named("select", named_select, request.select);
  named("attend", [](std::string_view text) { return parse_attend(text); }, request.attend);
  // A policy alone: no contexts.
  const bool policy = inner.find("select") != nullptr || inner.find("attend") != nullptr;
  if (policy && inner.find("contexts") == nullptr && inner.find("reuse") == nullptr) return inner.finish();
  ReuseRequest& onset = request.onset.emplace();
  onset.contexts = read_contexts(inner, errors);
  onset.name = inner.text("reuse").value_or(onset.name);
  if (const auto newlines = inner.integer("newlines", 0, 1000)) onset.newlines = static_cast<int32_t>(*newlines);
  if (is_parallel_contexts(onset.name)) {
    onset.reuse = read_parallel_contexts(inner, onset.name);
  } else if (onset.name == "cacheblend") {
    onset.reuse = read_cache_blend(inner);
  } else if (onset.name == "full") {
    onset.reuse = CacheBlendOptions{.ratio = 0};
  } else if (onset.name == "none") {
    onset.prefix_cache = false;
  } else if (onset.name != "prefix") {
    inner.fail("reuse", "expected none, prefix, pcw, pcw+p, pcw+p+t, ape, cacheblend or full, got " + shown(onset.name), "invalid_value");
  }
  inner.finish();
}

void read_generation(Fields& fields, Errors& errors, GenerationRequest& request) {
  if (fields.need("model") != nullptr) request.model = fields.text("model").value_or("");
  request.stream = fields.boolean("stream").value_or(false);
  if (const Json* options = fields.find("stream_options")) {
    if (!request.stream) fields.fail("stream_options", "is only allowed when stream is true", "invalid_value");
    Fields inner(*options, "stream_options", errors);
    request.include_usage = inner.boolean("include_usage").value_or(false);
    inner.finish();
  }
  request.choices = static_cast<int32_t>(fields.integer("n", 1, most_choices).value_or(1));
  request.ignore_end = fields.boolean("ignore_eos").value_or(false);
  read_stop(fields, request);
  read_sampling(fields, request);
  for (const char* name : {"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"}) fields.ignore(name);
  fields.only("store", false);
  read_onset(fields, errors, request);
}

}  // namespace

Checked<CompletionRequest> parse_completion(const Json& body) {
  Errors errors;
  Fields fields(body, "", errors);
  CompletionRequest request;
  read_generation(fields, errors, request);
  request.prompts = prompts(fields, "prompt");
  request.most_new_tokens = static_cast<int32_t>(fields.integer("max_tokens", 1, most_tokens).value_or(16));
  if (const auto logprobs = fields.integer("logprobs", 0, 5)) {
    request.sampling.logprobs = true;
    request.sampling.top_logprobs = static_cast<int32_t>(*logprobs);
  }
  if (!errors.first && request.prompts.size() * static_cast<size_t>(request.choices) > most_prompts) {
    fields.fail("n", fmt::format("expected at most {} answers in all, got {} to each of {} prompts", most_prompts, request.choices,
                                 request.prompts.size()));
  }
  fields.finish();
  if (errors.first) return *errors.first;
  return request;
}

Checked<ChatRequest> parse_chat(const Json& body) {
  Errors errors;
  Fields fields(body, "", errors);
  ChatRequest request;
  read_generation(fields, errors, request);
  if (const Json* messages = fields.need("messages")) request.messages = read_messages(*messages, errors);
  const auto old_name = fields.integer("max_tokens", 1, most_tokens), name = fields.integer("max_completion_tokens", 1, most_tokens);
  if (old_name && name && *old_name != *name) {
    fields.fail("max_tokens", "differs from max_completion_tokens: expected one of them", "invalid_value");
  }
  if (name || old_name) request.most_new_tokens = static_cast<int32_t>(name ? *name : *old_name);
  request.sampling.logprobs = fields.boolean("logprobs").value_or(false);
  if (const auto top = fields.integer("top_logprobs", 0, 20)) {
    if (!request.sampling.logprobs) fields.fail("top_logprobs", "is only allowed when logprobs is true", "invalid_value");
    request.sampling.top_logprobs = static_cast<int32_t>(*top);
  }
  const auto keep = [&](const char* field, Json& place) {
    if (const Json* value = fields.find(field)) place = *value;
  };
  keep("tools", request.tools);
  keep("tool_choice", request.tool_choice);
  keep("response_format", request.response_format);
  read_tools(request, errors);
  request.parallel_tool_calls = fields.boolean("parallel_tool_calls").value_or(true);
  fields.finish();
  if (errors.first) return *errors.first;
  return request;
}

Checked<EmbeddingRequest> parse_embedding(const Json& body) {
  Errors errors;
  Fields fields(body, "", errors);
  EmbeddingRequest request;
  if (fields.need("model") != nullptr) request.model = fields.text("model").value_or("");
  request.inputs = prompts(fields, "input");
  if (const auto format = fields.text("encoding_format")) {
    request.base64 = *format == "base64";
    if (!request.base64 && *format != "float")
      fields.fail("encoding_format", "expected float or base64, got " + shown(*format), "invalid_value");
  }
  request.dimensions = fields.integer("dimensions", 1, most_tokens);
  fields.ignore("user");
  fields.finish();
  if (errors.first) return *errors.first;
  return request;
}

Checked<TokenizeRequest> parse_tokenize(const Json& body) {
  Errors errors;
  Fields fields(body, "", errors);
  TokenizeRequest request;
  request.model = fields.text("model").value_or("");
  if (fields.need("text") != nullptr) request.text = fields.text("text").value_or("");
  request.add_special = fields.boolean("add_special").value_or(true);
  fields.finish();
  if (errors.first) return *errors.first;
  return request;
}

Checked<DetokenizeRequest> parse_detokenize(const Json& body) {
  Errors errors;
  Fields fields(body, "", errors);
  DetokenizeRequest request;
  request.model = fields.text("model").value_or("");
  if (const Json* tokens = fields.need("tokens")) {
    if (tokens->is_array()) {
      request.tokens = token_ids(*tokens, fields, "tokens");
    } else {
      fields.fail("tokens", "expected a list of token ids, got " + shown(*tokens), "invalid_type");
    }
  }
  fields.finish();
  if (errors.first) return *errors.first;
  return request;
}

}  // namespace onset::serve
