#include "onset/cli/command.h"

#include <fmt/ranges.h>

#include <unistd.h>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <iterator>

#include "onset/base/mapped_file.h"
#include "onset/cli/output.h"
#include "onset/store/models.h"

namespace onset::cli {

void set_examples(CLI::App& command, const std::string& examples) {
  command.footer("\nExamples:\n" + examples);
}

void add_model_flag(CLI::App& command, EngineFlags& flags) {
  command.add_option("-m,--model", flags.model,
                     "GGUF file, Hugging Face folder, or name of a pulled model (default: the default model, if it was fetched)");
}

void add_threads_flag(CLI::App& command, EngineFlags& flags) {
  command.add_option("-t,--threads", flags.threads, "threads (default: one for each core)")->check(CLI::Range(1, 1024));
}

void add_select_flag(CLI::App& command, std::string& select) {
  command
      .add_option(
          "--select", select,
          "which prompt tokens go on through the layers: all, or lazyllm:LAYERS:KEEP, as in lazyllm:9,18,27:0.7 (arXiv:2407.14057); "
          "lazyllm:mild, medium or fast for layers in the model's proportions")
      ->capture_default_str();
}

Result<std::shared_ptr<const SelectSpec>> select_of(const std::string& select) {
  auto found = named_select(select);
  if (!found.ok()) return found.status().within("--select");
  return found;
}

void add_long_flags(CLI::App& command, EngineFlags& flags) {
  const std::string group = "Long texts";
  command
      .add_option("--attend", flags.attend,
                  "whom queries see: dense, window:SIZE[:SINK], minference[:TABLE][:NAME=NUMBER]..., "
                  "lserve[:TABLE][:NAME=NUMBER]..., or longgen:FULL[:sink=TOKENS][:window=TOKENS][:stride=TOKENS]... "
                  "(docs/methods.md)")
      ->group(group);
  command
      .add_option("--layers", flags.layers,
                  "longgen:FULL... or lserve[:TABLE][:sparsity=SHARE][:sink=TOKENS][:local=TOKENS]: as --attend, and layers or KV heads "
                  "that see less keep only the keys that they see")
      ->group(group);
  command
      .add_option("--rope-scaling", flags.rope_scaling,
                  "texts FACTOR times as long as the model's context: linear:FACTOR, ntk:FACTOR, yarn:FACTOR or llama3:FACTOR")
      ->group(group);
}

void add_engine_flags(CLI::App& command, EngineFlags& flags) {
  add_model_flag(command, flags);
  add_threads_flag(command, flags);
  command.add_option("-p,--precision", flags.precision, "fast (int8), bf16, or reference (float32, slow, for truth)")
      ->check(CLI::IsMember({"fast", "bf16", "reference"}))
      ->capture_default_str();
  command
      .add_option(
          "--kv", flags.kv,
          "how keys and values are kept: f32, f16, bf16, int8 or int4 (default: int8 in fast, bf16 in bf16, f32 in reference precision)")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "int8", "int4"}));
  command
      .add_option("--schedule", flags.schedule,
                  "who runs when requests compete: " + fmt::format("{}", fmt::join(schedule_policy_names(), ", ")))
      ->check(CLI::IsMember(schedule_policy_names()))
      ->capture_default_str();
  auto* budget = command.add_option("--budget", flags.budget, "tokens that are computed together in a step; changes no result")
                     ->check(CLI::Range(1, 1 << 20))
                     ->capture_default_str();
  command.add_option("--tbt", flags.tbt, "time between tokens to keep, as in 50ms: picks the budget (after onset bench steps)")
      ->excludes(budget);
  command
      .add_option("--pool", flags.pool_tokens,
                  "tokens of key/value cache to reserve (default: as many as are needed, up to the model's context)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  command.add_flag("--no-cache", flags.no_cache, "do not keep packed weights for the next start");
  add_long_flags(command, flags);
}

CLI::Option* add_newlines_flag(CLI::App& command, std::optional<int32_t>& newlines) {
  return command
      .add_option("--context-newlines", newlines, "line ends before the first context (default: 2 where nothing else comes before it)")
      ->check(CLI::Range(0, 1000));
}

Result<double> duration_of(const std::string& option, const std::string& text) {
  double value = 0;
  int end = 0;
  if (std::sscanf(text.c_str(), "%lf%n", &value, &end) == 1 && std::isfinite(value) && value > 0) {
    const std::string unit = text.substr(end);
    for (const auto& [name, seconds] :
         {std::pair("", 1.0), std::pair("s", 1.0), std::pair("ms", 1e-3), std::pair("us", 1e-6), std::pair("m", 60.0)}) {
      if (unit == name) return value * seconds;
    }
  }
  return error(Code::invalid_argument, "{}: {} is not a duration above 0, as in 50ms or 0.05s", option, text);
}

Precision precision_of(const std::string& name) {
  for (const Precision precision : {Precision::reference, Precision::bf16}) {
    if (name == precision_name(precision)) return precision;
  }
  return Precision::fast;
}

std::optional<KvType> kv_type_of(const std::string& name) {
  for (const KvType type : all_kv_types) {
    if (name == kv_type_name(type)) return type;
  }
  return {};
}

Result<std::unique_ptr<Engine>> load_engine(const EngineFlags& flags, int64_t pool_tokens, int32_t most_running,
                                            const std::function<Status(EngineOptions&)>& also) {
  ONSET_ASSIGN(const std::filesystem::path path, find_model(flags.model));
  double tbt_seconds = 0;
  if (!flags.tbt.empty()) {
    ONSET_ASSIGN(tbt_seconds, duration_of("--tbt", flags.tbt));
  }
  ProgressBar bar("packing weights");
  EngineOptions options{.model = path,
                        .precision = precision_of(flags.precision),
                        .threads = flags.threads,
                        .rope_scaling = flags.rope_scaling,
                        .layers = flags.layers,
                        .attend = flags.attend,
                        .kv_type = kv_type_of(flags.kv),
                        .pool_tokens = flags.pool_tokens > 0 ? flags.pool_tokens : pool_tokens,
                        .policy = flags.schedule,
                        .scheduling = {.token_budget = flags.budget},
                        .packed_cache = !flags.no_cache,
                        .progress = [&bar](double share) { bar.update(share); },
                        .tbt_seconds = tbt_seconds};
  if (most_running > 0) options.most_running = most_running;
  if (also) ONSET_TRY(also(options));
  ONSET_ASSIGN(auto engine, Engine::create(std::move(options)));
  if (!engine->model().cache_warning().empty()) note(engine->model().cache_warning());
  if (engine->attend_spec() != nullptr && !engine->attend_spec()->warning().empty()) note(engine->attend_spec()->warning());
  return engine;
}

void add_sampling_flags(CLI::App& command, SamplingFlags& flags) {
  SamplingOptions& options = flags.options;
  const std::string group = "Sampling";
  command.add_option("-n,--max-tokens", flags.most_new_tokens, "tokens of the answer at most (default: up to the context's end)")
      ->check(CLI::Range(0, 1 << 30))
      ->group(group);
  command.add_option("--temperature", options.temperature, "0: always the most likely token")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0))
      ->group(group);
  command.add_option("--top-k", options.top_k, "only the K most likely tokens; 0: all")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber)
      ->group(group);
  command.add_option("--top-p", options.top_p, "only the most likely tokens that together have this probability")
      ->capture_default_str()
      ->check(CLI::Range(0.000001, 1.0))
      ->group(group);
  command.add_option("--min-p", options.min_p, "only tokens at least this likely, relative to the most likely one")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0))
      ->group(group);
  command.add_option("--repetition-penalty", options.repetition_penalty, "divides the logits of tokens that were seen; 1: off")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 100.0))
      ->group(group);
  command.add_option("--presence-penalty", options.presence_penalty, "taken from the logits of tokens that were generated")
      ->capture_default_str()
      ->check(CLI::Range(-100.0, 100.0))
      ->group(group);
  command.add_option("--frequency-penalty", options.frequency_penalty, "the same, for each time")
      ->capture_default_str()
      ->check(CLI::Range(-100.0, 100.0))
      ->group(group);
  command.add_option("--logit-bias", flags.bias, "ID:BIAS, added to a token's logit; may be repeated")
      ->allow_extra_args(false)
      ->group(group);
  command.add_option("--seed", options.seed, "equal seeds draw equal answers")->capture_default_str()->group(group);
  command.add_option("--stop", flags.stop, "the answer ends before this text; may be repeated")->allow_extra_args(false)->group(group);
}

Result<SamplingOptions> sampling_of(const SamplingFlags& flags) {
  SamplingOptions options = flags.options;
  for (const std::string& text : flags.bias) {
    int id = 0;
    float bias = 0;
    int end = 0;
    if (std::sscanf(text.c_str(), "%d:%f%n", &id, &bias, &end) != 2 || static_cast<size_t>(end) != text.size()) {
      return error(Code::invalid_argument, "--logit-bias: {} is not ID:BIAS, a token id and a number", text);
    }
    options.logit_bias.emplace_back(id, bias);
  }
  return options;
}

Result<std::string> read_text(const TextSource& source, const char* what) {
  const bool words = !source.words.empty();
  if (words && !source.file.empty()) {
    return error(Code::invalid_argument, "{} was given both as an argument and with --file: expected one of them", what);
  }
  if (words && !(source.words.size() == 1 && source.words[0] == "-")) {
    std::string text = source.words[0];
    for (size_t i = 1; i < source.words.size(); ++i) text += " " + source.words[i];
    return text;
  }
  if (!source.file.empty() && source.file != "-") return read_file(source.file);
  if (!words && source.file.empty() && isatty(STDIN_FILENO) == 1) {
    return error(Code::invalid_argument, "{} is missing: give it as an argument, with --file, or on standard input", what);
  }
  std::string text(std::istreambuf_iterator<char>(std::cin), {});
  return text;
}

std::atomic<bool> interrupted = false;

void catch_interrupts() {
  struct sigaction action{};
  action.sa_handler = [](int) { interrupted = true; };
  action.sa_flags = 0;  // a read that waits for input returns
  sigaction(SIGINT, &action, nullptr);
}

}  // namespace onset::cli
