// onset run: one prompt, one answer.
#include "onset/base/mapped_file.h"
#include "onset/cli/chunk_stores.h"
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/engine/chat.h"
#include "onset/text/json_schema.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct RunOptions {
  EngineFlags engine;
  SamplingFlags sampling;
  TextSource prompt;
  std::string system;
  bool raw = false;
  bool ignore_end = false;
  bool json = false;
  bool quiet = false;
  int32_t top_logprobs = 0;
  bool json_object = false;
  std::string json_schema;
  std::string select = "all";
  std::vector<std::string> contexts;
  StoreFlags stores;
  std::string reuse = "prefix";
  std::optional<int32_t> newlines;
  ParallelContextsOptions parallel;
  CacheBlendOptions blend;
  std::string blend_metric = cache_blend_metric_name(CacheBlendMetric::keys_values);
  std::string blend_schedule = cache_blend_schedule_name(CacheBlendSchedule::single);
};

void declare(CLI::App& command, RunOptions& options) {
  command.add_option("PROMPT", options.prompt.words, "the prompt, or - for standard input");
  command.add_option("-f,--file", options.prompt.file, "read the prompt from a file");
  command.add_option("-s,--system", options.system, "a system message before the prompt");
  command.add_flag("--raw", options.raw, "continue the prompt as it is, even if the model has a chat template");
  command.add_flag("--ignore-end", options.ignore_end, "go on after end-of-answer tokens");
  command.add_flag("-q,--quiet", options.quiet, "no line of figures at the end");
  command.add_flag("--json", options.json, "print one JSON object at the end instead of the text as it comes");
  command.add_option("--top-logprobs", options.top_logprobs, "with --json: log-probabilities of each token and so many alternatives")
      ->check(CLI::Range(0, 20));
  add_select_flag(command, options.select);
  const std::string group = "Contexts";
  command.add_option("--context", options.contexts, "a file that the prompt is about; may be repeated")
      ->allow_extra_args(false)
      ->group(group);
  command
      .add_option(
          "--reuse", options.reuse,
          "prefix: the contexts one after the other; ape: each read by itself, behind the same beginning (arXiv:2502.05431); "
          "pcw+p+t: ape with scale 1; pcw+p: with temperature 1, too; pcw: each also behind nothing but the token that begins a "
          "text; cacheblend: each read by itself, and a part of it computed again in its place (arXiv:2405.16444); full: cacheblend "
          "without computing anything again")
      ->check(CLI::IsMember({"prefix", "pcw", "pcw+p", "pcw+p+t", "ape", "cacheblend", "full"}))
      ->capture_default_str()
      ->group(group);
  add_newlines_flag(command, options.newlines)->group(group);
  command.add_option("--ape-temperature", options.parallel.temperature, "ape: scores of the contexts' keys are divided by it")
      ->capture_default_str()
      ->group(group);
  command.add_option("--ape-scale", options.parallel.scale, "ape: how much the contexts' log-sum-exp counts, times the temperature")
      ->capture_default_str()
      ->group(group);
  command.add_option("--ape-shift", options.parallel.shift, "ape: added to it")->capture_default_str()->group(group);
  command.add_option("--ratio", options.blend.ratio, "cacheblend: the share of the contexts' tokens that is computed again")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--carry", options.blend.carry,
                  "cacheblend: tokens that are not computed again move by this share of what those of their text that are were off by, on "
                  "average; 0: they stay, as in the paper")
      ->capture_default_str()
      ->group(group);
  command
      .add_flag("--hide-loading", options.blend.hide_loading,
                "cacheblend: more is computed again while contexts are loaded, so much as hides the loading; all where that is quicker")
      ->group(group);
  command.add_option("--blend-metric", options.blend_metric, "cacheblend: what decides which: keys-values, keys, values or random")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--blend-schedule", options.blend_schedule,
                  "cacheblend: single: the same ones in all layers; gradual: fewer from layer to layer")
      ->capture_default_str()
      ->group(group);
  add_store_flags(command, options.stores);
  add_engine_flags(command, options.engine);
  add_sampling_flags(command, options.sampling);
  auto* object = command.add_flag("--json-object", options.json_object, "the answer is a JSON object")->group("Sampling");
  command
      .add_option("--json-schema", options.json_schema,
                  "the answer is JSON of the schema in this file (docs/json_schema.md lists its keywords)")
      ->excludes(object)
      ->group("Sampling");
  set_examples(command,
               "  onset run \"The capital of France is\"\n"
               "  onset run --system \"Answer in one sentence.\" --temperature 0.7 --seed 1 \"Why is the sky blue?\"\n"
               "  git diff | onset run --system \"Write a commit message.\" -\n"
               "  onset run --json-schema person.schema.json \"Invent a person.\"\n"
               "  onset run --context manual.txt --context notes.txt --reuse ape \"How is it switched on?\"\n"
               "  onset run --context manual.txt --context notes.txt --reuse cacheblend --ratio 0.2 \"How is it switched on?\"\n"
               "  onset run --store ~/.cache/onset/chunks --context manual.txt --reuse cacheblend \"How is it switched on?\"\n"
               "  onset run --select lazyllm:9,18,27:0.7 --file report.txt\n"
               "  onset run --attend window:1024:4 --file report.txt\n"
               "  onset run --raw --max-tokens 100 --model model.gguf --file story.txt");
}

struct Answer {
  std::string text;
  std::vector<SampledToken> tokens;
  Event last;
  double seconds = 0;  // from submit to the last token
};

struct Figures {
  double prefill = 0, decode = 0;  // tokens per second
};

Figures figures_of(const Answer& answer) {
  const Event& last = answer.last;
  Figures figures;
  if (last.first_token_seconds > 0) figures.prefill = (last.context_tokens + last.prompt_tokens) / last.first_token_seconds;
  if (last.new_tokens > 1) figures.decode = (last.new_tokens - 1) / (answer.seconds - last.first_token_seconds);
  return figures;
}

// Through the chat template if the model has one and the text is not to be taken as it is.
Result<PromptParts> parts_of(const Engine& engine, const RunOptions& options, const std::string& text,
                             const std::vector<std::string>& contexts) {
  std::optional<ChatTemplate> chat_template;
  if (!options.raw) {
    ONSET_ASSIGN(chat_template, load_chat_template(engine));
  }
  if (!chat_template && !options.system.empty()) {
    return error(Code::invalid_argument, "--system needs a chat template, and {}",
                 options.raw ? "--raw leaves it out" : engine.model().file().path().string() + " has none");
  }
  return prompt_parts(engine, chat_template, options.system, text, contexts, options.newlines);
}

// The parts as a request: in order, or with contexts that are read apart.
Result<Request> request_of(PromptParts parts, const RunOptions& options) {
  CacheBlendOptions blend = options.blend;
  ONSET_ASSIGN(blend.metric, cache_blend_metric(options.blend_metric));
  ONSET_ASSIGN(blend.schedule, cache_blend_schedule(options.blend_schedule));
  if (options.reuse == "full") blend.ratio = 0;
  if (options.reuse != "prefix" && !parts.contexts.empty()) {
    Contexts contexts{std::move(parts.prefix), std::move(parts.contexts)};
    if (is_parallel_contexts(options.reuse)) {
      contexts.reuse = parallel_contexts_step(options.reuse, options.parallel);
    } else {
      contexts.reuse = blend;
    }
    return Request{.tokens = std::move(parts.prompt), .contexts = std::move(contexts)};
  }
  std::vector<int32_t> tokens = std::move(parts.prefix);
  for (const auto& context : parts.contexts) tokens.insert(tokens.end(), context.begin(), context.end());
  tokens.insert(tokens.end(), parts.prompt.begin(), parts.prompt.end());
  return Request{.tokens = std::move(tokens)};
}

// Pool for texts that need not fit the model's context together: memory is taken as it is used, so that a token for each byte costs
// nothing.
int64_t pool_for(const std::vector<std::string>& contexts) {
  if (contexts.empty()) return 0;
  int64_t bytes = int64_t{1} << 17;
  for (const std::string& context : contexts) bytes += static_cast<int64_t>(context.size()) + 2 * page_tokens;
  return bytes;
}

Json token_json(const Engine& engine, const SampledToken& token) {
  Json alternatives = Json::array();
  for (const auto& [id, logprob] : token.alternatives) {
    alternatives.push_back({{"id", id}, {"text", engine.tokenizer()->piece(id)}, {"logprob", logprob}});
  }
  return {{"id", token.token}, {"text", engine.tokenizer()->piece(token.token)}, {"logprob", token.logprob}, {"top", alternatives}};
}

Json to_json(const Engine& engine, const Answer& answer, double load_seconds, bool logprobs) {
  const Event& last = answer.last;
  const Figures figures = figures_of(answer);
  Json ids = Json::array();
  for (const SampledToken& token : answer.tokens) ids.push_back(token.token);
  Json json{{"text", answer.text},
            {"ids", ids},
            {"finish", finish_name(last.finish)},
            {"prompt_tokens", last.prompt_tokens},
            {"context_tokens", last.context_tokens},
            {"new_tokens", last.new_tokens},
            {"load_seconds", load_seconds},
            {"first_token_seconds", last.first_token_seconds},
            {"prefill_tokens_per_second", figures.prefill},
            {"decode_tokens_per_second", figures.decode},
            {"peak_rss_bytes", peak_memory_bytes()}};
  if (last.contexts) {
    json["contexts"] = {{"tokens", last.contexts->tokens},
                        {"loaded_bytes", last.contexts->loaded_bytes},
                        {"load_seconds", last.contexts->load_seconds},
                        {"wait_seconds", last.contexts->wait_seconds}};
  }
  if (last.blend) {
    json["blend"] = {{"ratio", last.blend->ratio},
                     {"reused_tokens", last.blend->reused_tokens},
                     {"fresh_tokens", last.blend->fresh_tokens},
                     {"recomputed_tokens", last.blend->recomputed},
                     {"place_seconds", last.blend->place_seconds}};
  }
  if (last.select) {
    json["select"] = {{"policy", last.select->policy},
                      {"prompt_rows", last.select->prompt_rows},
                      {"rows_by_now", last.select->rows_by_now},
                      {"revived", last.select->rejoined},
                      {"stored_bytes", last.select->stored_bytes}};
  }
  if (last.attend) {
    json["attend"] = {{"name", last.attend->name},
                      {"pairs", last.attend->counts.visited},
                      {"dense_pairs", last.attend->counts.dense},
                      {"skipped", skipped_share(last.attend->counts)}};
  }
  if (logprobs) {
    for (const SampledToken& token : answer.tokens) json["tokens"].push_back(token_json(engine, token));
  }
  return json;
}

std::string statistics_line(const Answer& answer, double load_seconds) {
  const Event& last = answer.last;
  const Figures figures = figures_of(answer);
  return fmt::format(
      "[{} prompt tokens at {:.0f} tokens/s, first token after {:.0f} ms ({:.0f} ms to load), {} new tokens{}, {} of memory{}{}]\n",
      last.context_tokens + last.prompt_tokens, figures.prefill, last.first_token_seconds * 1e3, load_seconds * 1e3, last.new_tokens,
      last.new_tokens > 1 ? fmt::format(" at {:.0f} tokens/s", figures.decode) : "", bytes_text(static_cast<double>(peak_memory_bytes())),
      last.attend ? fmt::format("; {} skipped {:.1f} % of attention", last.attend->name, 100 * skipped_share(last.attend->counts)) : "",
      last.finish == Finish::length      ? "; stopped at the most tokens allowed"
      : last.finish == Finish::cancelled ? "; interrupted"
                                         : "");
}

// The grammar of the answer that the options ask for, if any.
Result<std::shared_ptr<const TokenGrammar>> grammar_of(const Engine& engine, const RunOptions& options) {
  if (!options.json_object && options.json_schema.empty()) return std::shared_ptr<const TokenGrammar>();
  Grammar grammar = json_object_grammar();
  if (!options.json_object) {
    ONSET_ASSIGN(const std::string schema, read_file(options.json_schema));
    ONSET_ASSIGN(grammar, compile_json_schema(schema, options.json_schema));
  }
  return std::make_shared<const TokenGrammar>(std::move(grammar), TokenTrie::create(*engine.tokenizer()));
}

// Runs the prompt; text goes out as it comes unless `silent`. Ctrl-C ends the answer.
Result<Answer> answer_prompt(Engine& engine, Request request, bool silent) {
  Answer answer;
  Status output;
  const auto began = std::chrono::steady_clock::now();
  const auto handler = [&](const Event& event) {
    answer.text += event.text;
    if (event.token) answer.tokens.push_back(*event.token);
    answer.last = event;
    answer.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    if (!silent && output.ok() && !event.text.empty()) output = write_out(event.text);
  };
  ONSET_ASSIGN(const RequestId id, engine.submit(std::move(request), handler));
  while (engine.has_work()) {
    ONSET_TRY(engine.step());
    if (interrupted || !output.ok()) engine.cancel(id);
  }
  ONSET_TRY(output);
  ONSET_TRY(answer.last.status);
  if (!silent && !answer.text.ends_with('\n')) ONSET_TRY(write_out("\n"));
  return answer;
}

Status run(const RunOptions& options) {
  const auto began = std::chrono::steady_clock::now();
  ONSET_ASSIGN(const std::string text, read_text(options.prompt, "the prompt"));
  ONSET_ASSIGN(SamplingOptions sampling, sampling_of(options.sampling));
  ONSET_ASSIGN(auto select, select_of(options.select));
  sampling.top_logprobs = options.top_logprobs;
  std::vector<std::string> contexts;
  for (const std::string& file : options.contexts) {
    ONSET_ASSIGN(std::string context, read_file(file));
    if (context.empty()) return error(Code::invalid_argument, "--context {}: the file is empty", file);
    contexts.push_back(std::move(context));
  }
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, pool_for(contexts), 0,
                                              [&](EngineOptions& engine) { return use_chunk_stores(options.stores, engine); }));
  ONSET_ASSIGN(PromptParts parts, parts_of(*engine, options, text, contexts));
  ONSET_ASSIGN(sampling.grammar, grammar_of(*engine, options));
  const double load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  catch_interrupts();
  ONSET_ASSIGN(Request request, request_of(std::move(parts), options));
  request.select_spec = std::move(select);
  request.sampling = sampling;
  request.stop = options.sampling.stop;
  request.ignore_end = options.ignore_end;
  if (options.sampling.most_new_tokens >= 0) request.most_new_tokens = options.sampling.most_new_tokens;
  ONSET_ASSIGN(const Answer answer, answer_prompt(*engine, std::move(request), options.json));
  if (options.json) return write_json(to_json(*engine, answer, load_seconds, options.top_logprobs > 0));
  if (!options.quiet) std::fputs(statistics_line(answer, load_seconds).c_str(), stderr);
  return {};
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  add_command<RunOptions>(app, action, "run", "answer a prompt", declare, run);
}

}  // namespace onset::cli
