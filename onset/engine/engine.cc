#include "onset/engine/engine.h"

#include <sched.h>

#include <algorithm>
#include <thread>

#include "onset/cost/machine_file.h"
#include "onset/cost/token_budget.h"
#include "onset/engine/engine_state.h"
#include "onset/engine/step_benchmark.h"
#include "onset/formats/open_model.h"
#include "onset/model/fingerprint.h"
#include "onset/text/tokenizer_gguf.h"
#include "onset/text/tokenizer_json.h"

namespace onset {
namespace {

KvType usual_kv_type(Precision precision) {
  switch (precision) {
    case Precision::reference:
      return KvType::f32;
    case Precision::bf16:
      return KvType::bf16;
    case Precision::fast:
      return KvType::int8;
  }
  return KvType::f32;
}

int32_t available_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
  return std::max(1, static_cast<int32_t>(std::thread::hardware_concurrency()));
}

Status check_options(const EngineOptions& options) {
  const auto check = [](const char* name, int64_t value, int64_t least, int64_t most) -> Status {
    if (value >= least && value <= most) return {};
    return error(Code::invalid_argument, "{} is {}, expected {} to {}", name, value, least, most);
  };
  ONSET_TRY(check("threads", options.threads, 0, 1024));
  ONSET_TRY(check("most_running", options.most_running, 1, 1 << 16));
  if (!(options.tbt_seconds >= 0))
    return error(Code::invalid_argument, "tbt_seconds is {}, expected 0 (no target) or more", options.tbt_seconds);
  if (!(options.chunk_bytes_per_second >= 0)) {
    return error(Code::invalid_argument, "chunk_bytes_per_second is {}, expected 0 (no limit) or more", options.chunk_bytes_per_second);
  }
  ONSET_TRY(check("swap_bytes", options.swap_bytes, 1, int64_t{1} << 45));
  return check("pool_tokens", options.pool_tokens, 0, int64_t{1} << 40);
}

// The tokenizer of a stored model, or nothing if it has none.
Result<std::optional<Tokenizer>> find_tokenizer(const ModelFile& file) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file.path(), ignored)) {
    if (!std::filesystem::exists(file.path() / "tokenizer.json", ignored)) return std::optional<Tokenizer>();
    ONSET_ASSIGN(Tokenizer tokenizer, load_tokenizer(file.path()));
    return std::optional<Tokenizer>(std::move(tokenizer));
  }
  if (!file.has("tokenizer.ggml.model")) return std::optional<Tokenizer>();
  ONSET_ASSIGN(Tokenizer tokenizer, load_tokenizer(file));
  return std::optional<Tokenizer>(std::move(tokenizer));
}

// A model may have more embedding rows than its tokenizer has tokens (rounded up for some machine's sake), never fewer.
Status check_vocabulary(const Model& model, const Tokenizer& tokenizer) {
  const int32_t tokens = tokenizer.vocabulary_size();
  const int32_t rows = model.config().vocabulary;
  if (tokens <= rows) return {};
  return error(Code::invalid_argument, "{}: the tokenizer has {} tokens, but the embedding only {} rows", model.file().path().string(),
               tokens, rows);
}

}  // namespace

const char* finish_name(Finish finish) {
  switch (finish) {
    case Finish::none:
      return "none";
    case Finish::stop:
      return "stop";
    case Finish::length:
      return "length";
    case Finish::cancelled:
      return "cancelled";
    case Finish::failed:
      return "failed";
    case Finish::expired:
      return "expired";
  }
  return "unknown";
}

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::create(EngineOptions options) {
  ONSET_TRY(check_options(options));
  ONSET_ASSIGN(const Isa isa, choose_isa());
  ONSET_ASSIGN(ModelFile opened, open_model(options.model));
  const auto file = std::make_shared<const ModelFile>(std::move(opened));
  auto state = std::make_unique<State>(std::move(options), options.threads > 0 ? options.threads : available_threads());
  EngineOptions& chosen = state->options;

  ModelOptions model_options;
  model_options.precision = chosen.precision;
  model_options.isa = isa;
  model_options.rope_scaling = chosen.rope_scaling;
  model_options.layers = chosen.layers;
  model_options.progress = chosen.progress;
  if (chosen.packed_cache) model_options.packed_cache = cache_folder() / "packed";
  ONSET_ASSIGN(state->model, Model::load(file, model_options, state->workers));
  const ModelConfig& config = state->model->config();
  ONSET_ASSIGN(state->tokenizer, find_tokenizer(*file));
  if (state->tokenizer) ONSET_TRY(check_vocabulary(*state->model, *state->tokenizer));

  state->kv_type = chosen.kv_type.value_or(usual_kv_type(chosen.precision));
  state->layout = state->model->cache_layout(state->kv_type);
  state->context = config.context;
  if (!chosen.attend.empty()) {
    ONSET_ASSIGN(state->attend, parse_attend(chosen.attend, AttendFiles::read));
    ONSET_TRY(state->attend->check(state->attend_facts()));
  }
  ONSET_TRY(state->keep_target());
  ONSET_TRY(state->make_pool());
  if (!chosen.chunk_stores.empty()) {
    state->chunk_identity = chunk_identity(model_fingerprint(*state->model), state->layout);
    state->transfer.emplace(chosen.chunk_stores, chosen.chunk_bytes_per_second);
    // Names are looked for when somebody asks; known texts in prompts must be known before.
    const std::chrono::milliseconds period{chosen.reuse_auto ? 5000 : 0};
    state->stored_texts = std::make_unique<StoredTexts>(chosen.chunk_stores, state->chunk_identity, state->known_texts, period);
    state->stored_texts->want("");
  }
  state->batch.emplace(config.layers, config.hidden, state->tokenizer ? state->tokenizer->vocabulary_size() : config.vocabulary);
  return std::unique_ptr<Engine>(new Engine(std::move(state)));
}

// The budget and the limit that keep the time between tokens, from what was measured on this machine.
Status Engine::State::keep_target() {
  if (options.tbt_seconds == 0) return {};
  const std::filesystem::path path = options.machine_file.empty() ? machine_file_path() : options.machine_file;
  const auto file = MachineFile::load(path);
  if (!file.ok() && file.status().code() != Code::not_found) return file.status();
  const StepModelKey key = step_model_key(*model, workers.threads(), kv_type);
  const StepModel* measured = file.ok() ? file->find(key) : nullptr;
  if (measured == nullptr) {
    return error(Code::not_found,
                 "{} has no step times of {} on {} threads ({}, {} precision, {} keys and values): onset bench steps measures them",
                 path.string(), key.model, key.threads, key.isa, key.precision, key.kv);
  }
  const auto cost = std::make_shared<LinearStepCost>(measured->fit.weights);
  constexpr int32_t usual_context = 1024;
  ONSET_ASSIGN(options.scheduling.token_budget, pick_token_budget(*cost, {.target_seconds = options.tbt_seconds,
                                                                          .ratio_99 = measured->fit.ratio_99,
                                                                          .layers = layout.layers,
                                                                          .context = std::min(usual_context, context / 2),
                                                                          .row_block = measured->row_block}));
  // Contexts that are longer than the usual shorten the prompts' share of their step.
  options.cost = cost;
  options.most_step_seconds = options.tbt_seconds / std::max(1e-3, measured->fit.ratio_99);
  return {};
}

// The policy, the pool that its steps need, and the swap file if there is to be one.
Status Engine::State::make_pool() {
  if (options.schedule == nullptr) {
    ONSET_ASSIGN(options.schedule, make_schedule_policy(options.policy, options.scheduling));
  }
  if (options.pool_tokens > 0) context = static_cast<int32_t>(std::min<int64_t>(context, options.pool_tokens));
  most_rows = options.schedule->most_rows(context);
  int64_t pages = pages_of(layout, context, most_rows);
  if (options.pool_tokens > 0) {
    // Enough for any mixture of requests that fill their pages: no layer's window is counted on. A ring turns by whole pages, so a
    // window near the pool's size can take more.
    pages = std::max(pages, (options.pool_tokens + page_tokens - 1) / page_tokens * layout.layers * layout.head_groups);
  }
  ONSET_ASSIGN(PagePool made_pool, PagePool::create(layout_page_bytes(layout), pages));
  pool.emplace(std::move(made_pool));
  if (options.prefix_cache) prefixes.emplace(layout, *pool);
  if (options.scheduling.preemption != PreemptionKind::swap) return {};
  std::error_code ignored;
  const std::filesystem::path folder = options.swap_folder.empty() ? std::filesystem::temp_directory_path(ignored) : options.swap_folder;
  const auto page_bytes = static_cast<int64_t>(pool->page_bytes());
  ONSET_ASSIGN(SwapFile file, SwapFile::create(folder, pool->page_bytes(), std::max<int64_t>(1, options.swap_bytes / page_bytes)));
  swap.emplace(std::move(file));
  return {};
}

// --- requests -----------------------------------------------------------------------------------------------------

Result<std::vector<int32_t>> Engine::State::prompt_tokens(const Request& request, bool begins) const {
  const int kinds = !request.text.empty() + !request.tokens.empty() + !request.vectors.empty();
  if (kinds > 1) {
    return error(Code::invalid_argument, "a prompt is text, token ids or vectors: expected one of them, got {}", kinds);
  }
  if (kinds == 0) return error(Code::invalid_argument, "the prompt is empty: expected one token or more");
  if (!request.vectors.empty()) return std::vector<int32_t>(request.vectors.size(), -1);
  if (!request.tokens.empty()) return request.tokens;
  if (!tokenizer) {
    return error(Code::invalid_argument, "{} has no tokenizer: expected token ids or vectors as a prompt", model->file().path().string());
  }
  // What continues a conversation does not begin a text.
  return tokenizer->encode(request.text, {.add_special = begins});
}

AttendFacts Engine::State::attend_facts() const {
  const bool windows = std::any_of(layout.windows.begin(), layout.windows.end(), [](int32_t window) { return window > 0; });
  const std::vector<LayerConfig>& layers = model->config().layer;
  const bool streams = std::any_of(layers.begin(), layers.end(), [](const LayerConfig& layer) { return !layer.streams.empty(); });
  return {.layers = layout.layers,
          .query_heads = model->query_heads(),
          .kv_heads = model->kv_heads(),
          .windows = windows,
          .patterns = !layout.patterns.empty(),
          .streams = streams};
}

// Makes the policy that a request names, or the engine's own. Its keys are not those of the dense model, and are shared only among requests
// of the same spec.
Status Engine::State::use_attend_spec(Request& request, int32_t prompt_tokens, const CountedAttend*& counted) const {
  if (request.attend_spec == nullptr && request.attend == nullptr) request.attend_spec = attend;
  const AttendSpec* spec = request.attend_spec.get();
  if (spec == nullptr) return {};
  if (request.attend != nullptr) return error(Code::invalid_argument, "attend {}: the request has a policy already", spec->text());
  if (request.contexts) {
    return error(Code::unsupported, "attend {}: contexts that are read apart go with no attend policy by name", spec->text());
  }
  if (request.session != 0) return error(Code::unsupported, "attend {}: conversations go with no attend policy by name", spec->text());
  if (request.select != nullptr && !spec->allows_dropped_rows()) {
    return error(Code::unsupported, "attend {}: does not go with a select policy that drops rows", spec->text());
  }
  AttendFacts facts = attend_facts();
  facts.prompt_tokens = prompt_tokens;
  ONSET_TRY(spec->check(facts));
  if (spec->block_rows() > most_rows && layout.forgets()) {
    return error(Code::unsupported, "attend {}: {} rows run together, steps have {} and {} has layers that let go of keys", spec->text(),
                 spec->block_rows(), most_rows, model->file().path().string());
  }
  auto policy = std::make_unique<CountedAttend>(spec->make(facts));
  counted = policy.get();
  request.attend = std::move(policy);
  if (!spec->stateless()) request.prefix_cache = false;
  request.space += fmt::format("\nattend {}", spec->text());
  return {};
}

Status Engine::State::check_prompt(const Request& request, std::span<const int32_t> tokens, int64_t earlier) const {
  const ModelConfig& config = model->config();
  if (tokens.empty()) return error(Code::invalid_argument, "the prompt is empty: expected one token or more");
  for (const int32_t token : request.tokens) {
    if (token < 0 || token >= config.vocabulary) {
      return error(Code::invalid_argument, "the prompt has token id {}, expected 0 to {}", token, config.vocabulary - 1);
    }
  }
  for (size_t i = 0; i < request.vectors.size(); ++i) {
    if (static_cast<int64_t>(request.vectors[i].size()) != config.hidden) {
      return error(Code::invalid_argument, "input vector {} has {} values, expected {}", i, request.vectors[i].size(), config.hidden);
    }
  }
  if (earlier + static_cast<int64_t>(tokens.size()) > context) {
    return error(Code::invalid_argument, "the prompt has {} tokens{}, the context has room for {}", tokens.size(),
                 earlier > 0 ? fmt::format(" after {} of its conversation", earlier) : "", context);
  }
  if (request.most_new_tokens.value_or(0) < 0) {
    return error(Code::invalid_argument, "most_new_tokens is {}, expected 0 or more", *request.most_new_tokens);
  }
  return {};
}

// What goes with a policy that leaves rows out for good, or decides whom they see.
Status Engine::State::check_select(const Request& request) const {
  if (!request.select) return {};
  if (!layout.patterns.empty()) {
    return error(Code::unsupported, "select policies need layers that see everything, {} was loaded with a pattern of blocks",
                 model->file().path().string());
  }
  if (request.attend && request.select->attend() != nullptr) {
    return error(Code::invalid_argument, "this select policy decides itself whom rows see: expected no attend policy beside it");
  }
  if (!request.select->whole_prompt()) return {};
  if (request.session != 0) {
    return error(Code::invalid_argument, "a select policy that leaves rows of a prompt out goes with no session: what follows lacks them");
  }
  if (std::any_of(layout.windows.begin(), layout.windows.end(), [](int32_t window) { return window > 0; })) {
    return error(Code::unsupported, "a prompt whose rows run together needs layers that see everything, {} has windows",
                 model->file().path().string());
  }
  return {};
}

Result<std::shared_ptr<Conversation>> Engine::State::conversation_of(const Request& request) {
  if (request.session == 0) return std::make_shared<Conversation>(layout, *pool);
  const auto found = sessions.find(request.session);
  if (found == sessions.end()) return error(Code::invalid_argument, "there is no session {}", request.session);
  if (found->second->busy != 0) {
    return error(Code::invalid_argument, "session {} is busy with request {}", request.session, found->second->busy);
  }
  return found->second;
}

RunningRequest* Engine::State::find(RequestId id) {
  for (const auto& running : requests) {
    if (running->id == id && !running->done) return running.get();
  }
  return nullptr;
}

Result<RequestId> Engine::submit(Request request, EventHandler handler) {
  State& state = *state_;
  const auto began = Clock::now();
  if (!request.select && request.select_spec) {
    ONSET_ASSIGN(request.select, request.select_spec->make(state.layout));
  }
  ONSET_ASSIGN(std::shared_ptr<Conversation> conversation, state.conversation_of(request));
  const bool begins = conversation->tokens.empty() && !request.contexts;
  ONSET_ASSIGN(std::vector<int32_t> tokens, state.prompt_tokens(request, begins));
  if (request.contexts) {
    ONSET_TRY(state.check_places(*request.contexts, tokens));
    ONSET_TRY(state.place_behind_contexts(request, *conversation, tokens));
  }
  const auto earlier = static_cast<int32_t>(conversation->tokens.size());
  const int32_t first_position = conversation->first_position;
  ONSET_TRY(state.check_prompt(request, tokens, first_position + earlier));
  ONSET_TRY(check_sampling(request.sampling, state.model->config().vocabulary));
  ONSET_ASSIGN(StopStrings stops, StopStrings::create(request.stop));
  const auto total = earlier + static_cast<int32_t>(tokens.size());
  // The last token is given out but never read, so one more than the context's rest can be had.
  const int32_t most_new = std::min(request.most_new_tokens.value_or(state.context), state.context - first_position - total + 1);
  const int64_t stored = int64_t{total} + std::max(0, most_new - 1);
  const int64_t pages = pages_of(state.layout, stored, state.most_rows);
  if (pages > state.pool->pages()) {
    return error(Code::resource_exhausted, "the request needs {} pages for {} tokens, the key/value pool has {}", pages, stored,
                 state.pool->pages());
  }

  const CountedAttend* counted = nullptr;
  ONSET_TRY(state.use_attend_spec(request, total, counted));
  if (!(request.deadline_seconds >= 0)) {
    return error(Code::invalid_argument, "deadline_seconds is {}, expected 0 (none) or more", request.deadline_seconds);
  }

  ONSET_TRY(state.check_select(request));
  const auto looked = Clock::now();
  if (auto known = state.find_known_texts(request, tokens, pages)) {
    request.contexts = std::move(*known);
    ONSET_TRY(state.place_behind_contexts(request, *conversation, tokens));
  }
  const double find_seconds = seconds_since(looked);

  Sampler sampler(request.sampling, tokens, state.model->isa());
  const Tokenizer* tokenizer = state.tokenizer ? &*state.tokenizer : nullptr;
  auto running = std::make_unique<RunningRequest>(state.next_id++, std::move(request), std::move(handler), std::move(sampler),
                                                  AnswerText(tokenizer, std::move(stops)));
  running->submitted = began;
  running->first_token = earlier;
  running->prompt_end = total;
  running->most_new_tokens = most_new;
  running->pages = pages;
  const Request& asked = running->request;
  running->counted = counted;
  const bool attends = asked.attend && (asked.attend_spec == nullptr || !asked.attend_spec->stateless());
  running->fixed = asked.session != 0 || attends || asked.select || asked.on_logits || asked.on_hidden || asked.contexts;
  if (asked.attend_spec) {
    running->row_block = asked.attend_spec->block_rows();
    running->answers_apart = asked.attend_spec->answers_apart();
  }
  if (asked.select && asked.select->whole_prompt()) running->row_block = INT32_MAX;
  if (asked.contexts) {
    state.begin_contexts(*running);
    running->contexts->report->find_seconds = asked.contexts->only_known ? find_seconds : 0;
  }
  if (attends || asked.select || !asked.vectors.empty() || !asked.prefix_cache) conversation->plain_tokens = 0;
  // What lies in no whole block depends on where the prompt ends.
  if (running->row_block > 0)
    conversation->plain_tokens = std::min(conversation->plain_tokens, total / running->row_block * running->row_block);
  if (running->answers_apart) conversation->plain_tokens = std::min(conversation->plain_tokens, total);
  const bool whole = asked.session == 0 || earlier == 0;  // all its tokens are this request's
  const bool known = conversation->plain_tokens > 0 || (asked.contexts && asked.contexts->only_known);
  running->looks_up = state.prefixes && known && whole && !asked.on_logits && !asked.on_hidden;
  conversation->tokens.insert(conversation->tokens.end(), tokens.begin(), tokens.end());
  conversation->busy = running->id;
  running->conversation = std::move(conversation);
  state.requests.push_back(std::move(running));
  return state.requests.back()->id;
}

KnownText Engine::known_text(const std::string& space, const std::string& id) const {
  if (KnownText known = state_->known_texts.find(space, id)) return known;
  if (!state_->stored_texts) return nullptr;
  state_->stored_texts->want(space);
  state_->stored_texts->look();
  return state_->known_texts.find(space, id);
}

void Engine::cancel(RequestId id) {
  if (RunningRequest* running = state_->find(id); running != nullptr) state_->end_early(*running, Finish::cancelled, {});
  state_->remove_done();
}

bool Engine::has_work() const {
  return !state_->requests.empty();
}

// --- what it is ---------------------------------------------------------------------------------------------------

const Model& Engine::model() const {
  return *state_->model;
}
const Tokenizer* Engine::tokenizer() const {
  return state_->tokenizer ? &*state_->tokenizer : nullptr;
}
int32_t Engine::context() const {
  return state_->context;
}
KvType Engine::kv_type() const {
  return state_->kv_type;
}
AttendFacts Engine::attend_facts() const {
  return state_->attend_facts();
}
const AttendSpec* Engine::attend_spec() const {
  return state_->attend.get();
}
int32_t Engine::threads() const {
  return state_->workers.threads();
}

const SchedulePolicy& Engine::schedule() const {
  return *state_->options.schedule;
}
const ScheduleOptions& Engine::scheduling() const {
  return state_->options.scheduling;
}

Status Engine::use_schedule(std::unique_ptr<SchedulePolicy> policy) {
  if (has_work()) return error(Code::invalid_argument, "the schedule policy changes only while there is no request");
  state_->options.schedule = std::move(policy);
  state_->most_rows = state_->options.schedule->most_rows(state_->context);
  return {};
}

void Engine::wait_until_kept() {
  if (state_->transfer) state_->transfer->wait_until_kept();
}

void Engine::use_cost(std::shared_ptr<const StepCost> cost) {
  state_->options.cost = std::move(cost);
}

EngineStatistics Engine::statistics() const {
  EngineStatistics statistics = state_->counts;
  statistics.pages = state_->pool->pages();
  statistics.cached_pages = state_->prefixes ? state_->prefixes->idle_pages() : 0;
  statistics.free_pages = state_->pool->free_pages() + statistics.cached_pages;
  statistics.reserved_pages = state_->taken_pages();
  statistics.page_bytes = state_->pool->page_bytes();
  for (const auto& running : state_->requests) {
    if (running->done) continue;
    ++(running->admitted ? statistics.running : statistics.waiting);
    statistics.swapped += running->conversation->cache.swapped_out();
  }
  return statistics;
}

void Engine::set_time_hook(TimeHook hook) {
  state_->executor.set_time_hook(std::move(hook));
}
void Engine::set_step_hook(std::function<void(const StepReport&)> hook) {
  state_->step_hook = std::move(hook);
}

Status run_to_end(Engine& engine, Request request, const Engine::EventHandler& handler) {
  Status status;
  const auto told = [&](const Event& event) {
    if (handler) handler(event);
    if (event.finish != Finish::none) status = event.status;
  };
  ONSET_TRY(engine.submit(std::move(request), told).status());
  while (engine.has_work()) ONSET_TRY(engine.step());
  return status;
}

}  // namespace onset
