#include "onset/cli/served_models.h"

#include "onset/cli/output.h"
#include "onset/store/models.h"

namespace onset::cli {
namespace {

Result<NamedModel> read_model(const std::string& text) {
  const size_t equals = text.find('=');
  const std::string model = equals == std::string::npos ? text : text.substr(equals + 1);
  if (equals != std::string::npos && (equals == 0 || model.empty())) {
    return error(Code::invalid_argument, "--model {}: expected NAME=MODEL or MODEL", text);
  }
  ONSET_ASSIGN(const std::filesystem::path path, find_model(model));
  if (equals != std::string::npos) return NamedModel{text.substr(0, equals), path};
  if (model.empty()) return NamedModel{default_model_name, path};
  std::string name = std::filesystem::path(model).filename().string();
  if (name.empty()) name = path.parent_path().filename().string();  // a folder with a slash at its end
  if (name.ends_with(".gguf")) name.resize(name.size() - 5);
  return NamedModel{name, path};
}

}  // namespace

void add_served_models(CLI::App& command, ServedModels& flags) {
  command.add_option("-m,--model", flags.models, "NAME=MODEL, or MODEL (its name is the file's); may be repeated")->allow_extra_args(false);
  const std::string group = "Engine";
  command.add_option("-t,--threads", flags.engine.threads, "threads of each model (default: one for each core)")
      ->check(CLI::Range(1, 1024))
      ->group(group);
  command.add_option("-p,--precision", flags.engine.precision, "fast, bf16 or reference")
      ->check(CLI::IsMember({"fast", "bf16", "reference"}))
      ->capture_default_str()
      ->group(group);
  command.add_option("--kv", flags.engine.kv, "how keys and values are kept: f32, f16, bf16, int8 or int4")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "int8", "int4"}))
      ->group(group);
  command
      .add_option("--schedule", flags.engine.schedule,
                  "who runs when requests compete: " + fmt::format("{}", fmt::join(schedule_policy_names(), ", ")))
      ->capture_default_str()
      ->group(group);
  CLI::Option* budget = command.add_option("--budget", flags.engine.budget, "tokens of one step: answers first, the rest reads prompts")
                            ->check(CLI::Range(1, 1 << 20))
                            ->capture_default_str();
  budget->group(group);
  command.add_option("--tbt", flags.engine.tbt, "time between tokens to keep, as in 50ms: picks the budget (after onset bench steps)")
      ->excludes(budget)
      ->group(group);
  command.add_flag("--swap", flags.swap, "requests that must wait keep their pages in a file, instead of being read again")->group(group);
  command.add_option("--pool", flags.pool_tokens, "tokens of key/value cache of each model, for all its requests")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str()
      ->group(group);
  command.add_option("--max-running", flags.most_running, "requests in one step")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str()
      ->group(group);
  command
      .add_flag("--no-prefix-cache", flags.no_prefix_cache, "compute every prompt, even where an earlier one began with the same tokens")
      ->group(group);
  CLI::Option* automatic =
      command
          .add_flag("--reuse-auto", flags.reuse_auto,
                    "texts that were contexts, or are in a chunk store, are found inside ordinary prompts and blended (CacheBlend)")
          ->group(group);
  command.add_option("--reuse-ratio", flags.blend.ratio, "with --reuse-auto: share of their tokens that is computed again")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str()
      ->needs(automatic)
      ->group(group);
  command.add_flag("--no-cache", flags.engine.no_cache, "do not keep packed weights for the next start")->group(group);
  add_select_flag(command, flags.select);
  add_long_flags(command, flags.engine);
  add_store_flags(command, flags.stores);
}

Result<std::vector<NamedModel>> find_served_models(const ServedModels& flags) {
  std::vector<NamedModel> models;
  for (const std::string& text : flags.models.empty() ? std::vector<std::string>{""} : flags.models) {
    ONSET_ASSIGN(NamedModel model, read_model(text));
    for (const NamedModel& other : models) {
      if (other.name == model.name)
        return error(Code::invalid_argument, "--model {}: two models are named {}; give one another name with NAME=MODEL", text,
                     model.name);
    }
    models.push_back(std::move(model));
  }
  return models;
}

Result<std::unique_ptr<serve::ModelHost>> load_served_model(const ServedModels& flags, const NamedModel& model, serve::Deliver deliver,
                                                            serve::Metrics& metrics) {
  double tbt_seconds = 0;
  if (!flags.engine.tbt.empty()) {
    ONSET_ASSIGN(tbt_seconds, duration_of("--tbt", flags.engine.tbt));
  }
  ONSET_ASSIGN(auto select, select_of(flags.select));
  ProgressBar bar("packing weights");
  EngineOptions options{
      .model = model.path,
      .precision = precision_of(flags.engine.precision),
      .threads = flags.engine.threads,
      .rope_scaling = flags.engine.rope_scaling,
      .layers = flags.engine.layers,
      .attend = flags.engine.attend,
      .kv_type = kv_type_of(flags.engine.kv),
      .pool_tokens = flags.pool_tokens,
      .policy = flags.engine.schedule,
      .scheduling = {.token_budget = flags.engine.budget, .preemption = flags.swap ? PreemptionKind::swap : PreemptionKind::recompute},
      .most_running = flags.most_running,
      .packed_cache = !flags.engine.no_cache,
      .prefix_cache = !flags.no_prefix_cache,
      .progress = [&bar](double share) { bar.update(share); },
      .tbt_seconds = tbt_seconds};
  if (flags.reuse_auto) options.reuse_auto = flags.blend;
  ONSET_TRY(use_chunk_stores(flags.stores, options));
  ONSET_ASSIGN(auto engine, Engine::create(std::move(options)));
  if (!engine->model().cache_warning().empty()) note(engine->model().cache_warning());
  if (engine->attend_spec() != nullptr && !engine->attend_spec()->warning().empty()) note(engine->attend_spec()->warning());
  ONSET_ASSIGN(auto host, serve::ModelHost::create(model.name, std::move(engine), std::move(deliver), metrics.model(model.name)));
  ONSET_TRY(host->use_select(std::move(select)).within(fmt::format("--select {}", flags.select)));
  return host;
}

}  // namespace onset::cli
