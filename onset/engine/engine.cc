#include "onset/engine/engine.h"

#include <sched.h>

#include <algorithm>
#include <map>
#include <thread>

#include "onset/engine/running.h"
#include "onset/engine/step_batch.h"
#include "onset/formats/open_model.h"
#include "onset/text/tokenizer_gguf.h"
#include "onset/text/tokenizer_json.h"

namespace onset {

struct Engine::State {
  State(EngineOptions options_, int threads) : options(std::move(options_)), workers(threads), executor(workers) {}

  // --- requests ---------------------------------------------------------------------------------------------------
  Result<std::vector<int32_t>> prompt_tokens(const Request& request, bool begins) const;
  Status check_prompt(const Request& request, std::span<const int32_t> tokens, int64_t earlier) const;
  Result<std::shared_ptr<Conversation>> conversation_of(const Request& request);
  RunningRequest* find(RequestId id);
  Status make_pool();

  // --- the step ---------------------------------------------------------------------------------------------------
  ScheduleContext schedule_context() const;
  Result<std::vector<Work>> take_up(const Step& step);
  Status check_span(const Span& span, const RunningRequest* running) const;
  void preempt(RunningRequest& running, PreemptionKind kind);
  void forget_computed(RunningRequest& running);
  Status admit(RunningRequest& running, int64_t pages);
  void reserve(Conversation& conversation, int64_t pages);
  void expire();
  StepReport report(Step step, double began, double predicted) const;
  void run(std::span<const Work> work);
  void advance(const Work& work);
  void deliver(RunningRequest& running);
  void end(RunningRequest& running, Event event);
  void end_early(RunningRequest& running, Finish finish, Status status);
  void remove_done();
  void refuse_first_waiting();

  // In this order: later members use earlier ones.
  EngineOptions options;
  ThreadPool workers;
  CpuExecutor executor;
  std::optional<Model> model;
  std::optional<Tokenizer> tokenizer;
  int32_t context = 0;
  KvType kv_type = KvType::int8;
  CacheLayout layout;
  std::optional<PagePool> pool;
  std::optional<SwapFile> swap;
  int32_t most_rows = 0;  // of one request in a step
  std::optional<StepBatch> batch;

  std::vector<std::unique_ptr<RunningRequest>> requests;  // in order of arrival
  std::map<int64_t, std::shared_ptr<Conversation>> sessions;
  int64_t reserved_pages = 0;
  RequestId next_id = 1;
  int64_t next_session = 1;
  int pinned = 0;  // requests that end stay in the list while somebody holds pointers: a step, a handler that is running
  EngineStatistics counts;
  std::function<void(const StepReport&)> step_hook;
  const Clock::time_point made = Clock::now();
};

namespace {

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
  return error(Code::invalid_argument, "{}: the tokenizer has {} tokens, but the embedding only {} rows",
               model.file().path().string(), tokens, rows);
}

int64_t pages_of(const CacheLayout& layout, int64_t tokens, int64_t rows_per_step) {
  return pages_needed(layout, tokens, std::min(tokens, rows_per_step));
}

}  // namespace

const char* finish_name(Finish finish) {
  switch (finish) {
    case Finish::none: return "none";
    case Finish::stop: return "stop";
    case Finish::length: return "length";
    case Finish::cancelled: return "cancelled";
    case Finish::failed: return "failed";
    case Finish::expired: return "expired";
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
  model_options.progress = chosen.progress;
  if (chosen.packed_cache) model_options.packed_cache = cache_folder() / "packed";
  ONSET_ASSIGN(state->model, Model::load(file, model_options, state->workers));
  const ModelConfig& config = state->model->config();
  ONSET_ASSIGN(state->tokenizer, find_tokenizer(*file));
  if (state->tokenizer) ONSET_TRY(check_vocabulary(*state->model, *state->tokenizer));

  state->kv_type = chosen.kv_type.value_or(chosen.precision == Precision::fast ? KvType::int8 : KvType::f32);
  state->layout = state->model->cache_layout(state->kv_type);
  state->context = config.context;
  ONSET_TRY(state->make_pool());
  state->batch.emplace(config.layers, config.hidden, state->tokenizer ? state->tokenizer->vocabulary_size() : config.vocabulary);
  return std::unique_ptr<Engine>(new Engine(std::move(state)));
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
    return error(Code::invalid_argument, "{} has no tokenizer: expected token ids or vectors as a prompt",
                 model->file().path().string());
  }
  // What continues a conversation does not begin a text.
  return tokenizer->encode(request.text, {.add_special = begins});
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
  ONSET_ASSIGN(std::shared_ptr<Conversation> conversation, state.conversation_of(request));
  ONSET_ASSIGN(const std::vector<int32_t> tokens, state.prompt_tokens(request, conversation->tokens.empty()));
  const auto earlier = static_cast<int32_t>(conversation->tokens.size());
  ONSET_TRY(state.check_prompt(request, tokens, earlier));
  ONSET_TRY(check_sampling(request.sampling, state.model->config().vocabulary));
  ONSET_ASSIGN(StopStrings stops, StopStrings::create(request.stop));
  const auto total = earlier + static_cast<int32_t>(tokens.size());
  // The last token is given out but never read, so one more than the context's rest can be had.
  const int32_t most_new = std::min(request.most_new_tokens.value_or(state.context), state.context - total + 1);
  const int64_t stored = int64_t{total} + std::max(0, most_new - 1);
  const int64_t pages = pages_of(state.layout, stored, state.most_rows);
  if (pages > state.pool->pages()) {
    return error(Code::resource_exhausted, "the request needs {} pages for {} tokens, the key/value pool has {}", pages,
                 stored, state.pool->pages());
  }

  if (!(request.deadline_seconds >= 0)) {
    return error(Code::invalid_argument, "deadline_seconds is {}, expected 0 (none) or more", request.deadline_seconds);
  }

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
  running->fixed = asked.session != 0 || asked.attend || asked.select || asked.on_logits || asked.on_hidden;
  conversation->tokens.insert(conversation->tokens.end(), tokens.begin(), tokens.end());
  conversation->busy = running->id;
  running->conversation = std::move(conversation);
  state.requests.push_back(std::move(running));
  return state.requests.back()->id;
}

void Engine::cancel(RequestId id) {
  if (RunningRequest* running = state_->find(id); running != nullptr) state_->end_early(*running, Finish::cancelled, {});
  state_->remove_done();
}

bool Engine::has_work() const { return !state_->requests.empty(); }

// The last event of a request: its pages go back (a session keeps those it has filled), then it is told.
void Engine::State::end(RunningRequest& running, Event event) {
  Conversation& conversation = *running.conversation;
  running.done = true;
  conversation.busy = 0;
  if (conversation.computed < running.prompt_end) {
    // The prompt was not read to its end: what was not read is forgotten.
    conversation.cache.truncate(conversation.computed);
    conversation.tokens.resize(conversation.computed);
  }
  const int64_t kept = running.request.session != 0 ? conversation.cache.pages_held() : 0;
  reserved_pages += kept - conversation.reserved_pages;
  conversation.reserved_pages = kept;
  running.conversation.reset();
  ++pinned;
  if (running.handler) running.handler(event);
  --pinned;
}

void Engine::State::end_early(RunningRequest& running, Finish finish, Status status) {
  Event event{.id = running.id,
              .text = running.answer.finish(),
              .token = {},
              .finish = finish,
              .status = std::move(status),
              .prompt_tokens = running.prompt_end - running.first_token,
              .new_tokens = running.new_tokens,
              .first_token_seconds = running.first_token_seconds};
  end(running, std::move(event));
}

void Engine::State::remove_done() {
  if (pinned > 0) return;
  std::erase_if(requests, [](const auto& running) { return running->done; });
}

// --- the step -----------------------------------------------------------------------------------------------------

ScheduleContext Engine::State::schedule_context() const {
  ScheduleContext seen{.layers = layout.layers,
                       .longest = context,
                       .pages = pool->pages(),
                       .free_pages = pool->pages() - reserved_pages,
                       .pages_of = [this](int64_t tokens) { return pages_of(layout, tokens, most_rows); },
                       .most_running = options.most_running,
                       .cost = options.cost.get(),
                       .most_seconds = options.most_step_seconds};
  seen.requests.reserve(requests.size());
  for (const auto& running : requests) {
    const Conversation& conversation = *running->conversation;
    seen.requests.push_back({.id = running->id,
                             .priority = running->request.priority,
                             .prompt_tokens = running->prompt_end,
                             .most_new_tokens = running->most_new_tokens,
                             .computed = conversation.computed,
                             .known = running->known(),
                             .layer = running->layer,
                             .piece = running->piece,
                             .admitted = running->admitted,
                             .swapped = conversation.cache.swapped_out(),
                             .fixed = running->fixed,
                             .can_swap = swap && swap->free_pages() >= conversation.cache.pages_held(),
                             .pages = conversation.reserved_pages});
  }
  return seen;
}

void Engine::State::reserve(Conversation& conversation, int64_t pages) {
  reserved_pages += pages - conversation.reserved_pages;
  conversation.reserved_pages = pages;
}

// What was computed is forgotten; what is known stays, and is read again as if it were a prompt.
void Engine::State::forget_computed(RunningRequest& running) {
  running.conversation->cache.truncate(0);
  running.conversation->computed = 0;
  running.layer = running.piece = 0;
}

void Engine::State::preempt(RunningRequest& running, PreemptionKind kind) {
  Conversation& conversation = *running.conversation;
  running.admitted = false;
  Status written;
  if (kind == PreemptionKind::swap) written = conversation.cache.swap_out(*swap);
  if (!written.ok()) {
    ++counts.swap_failures;
    counts.swap_failure = written.message() + "; the request's tokens are read again instead";
  }
  if (kind == PreemptionKind::swap && written.ok()) {
    ++counts.preempted_to_file;
  } else {
    ++counts.preempted_to_recompute;
    forget_computed(running);
  }
  reserve(conversation, 0);
}

// Errors: pages that cannot be read back from the swap file; the request has its place then, and is read again.
Status Engine::State::admit(RunningRequest& running, int64_t pages) {
  Conversation& conversation = *running.conversation;
  reserve(conversation, std::max(pages, conversation.reserved_pages));
  running.admitted = true;
  if (!conversation.cache.swapped_out()) return {};
  const Status read = conversation.cache.swap_in();
  if (!read.ok()) forget_computed(running);
  return read;
}

Status Engine::State::check_span(const Span& span, const RunningRequest* running) const {
  if (running == nullptr) return error(Code::failed, "it names request {}, which does not exist", span.id);
  const int32_t computed = running->conversation->computed;
  const bool rows = span.first_token == computed && span.count >= 1 && span.count <= running->known() - computed &&
                    span.count <= most_rows && (running->layer == 0 || span.count == running->piece);
  const bool layers = span.layer_begin == running->layer && span.layer_end > span.layer_begin && span.layer_end <= layout.layers;
  if (running->admitted && rows && layers) return {};
  return error(Code::failed, "it runs tokens {} to {} through layers {} to {} of request {}, which {} at token {}, layer {}",
               span.first_token, span.first_token + span.count, span.layer_begin, span.layer_end, span.id,
               running->admitted ? "is" : "waits", computed, running->layer);
}

// Takes pages, admits and grants as the step says, and looks its spans up. Errors: a policy that breaks the rules.
Result<std::vector<Work>> Engine::State::take_up(const Step& step) {
  for (const Preemption& gone : step.preempt) {
    RunningRequest* running = find(gone.id);
    const bool can = running != nullptr && running->admitted && !running->fixed;
    if (!can || (gone.kind == PreemptionKind::swap && (!swap || running->layer > 0))) {
      return error(Code::failed, "it takes the pages of request {}, which cannot give them up", gone.id);
    }
    preempt(*running, gone.kind);
  }
  std::vector<RunningRequest*> unreadable;
  for (const Admission& admission : step.admit) {
    RunningRequest* running = find(admission.id);
    if (running == nullptr || running->admitted) return error(Code::failed, "it admits request {}, which does not wait", admission.id);
    if (reserved_pages - running->conversation->reserved_pages + admission.pages > pool->pages()) {
      return error(Code::failed, "it admits more than the {} pages of the pool", pool->pages());
    }
    if (const Status status = admit(*running, admission.pages); !status.ok()) {
      ++counts.swap_failures;
      counts.swap_failure = status.message() + "; the request's tokens are read again instead";
      unreadable.push_back(running);
    }
  }
  std::vector<Work> work;
  for (const Span& span : step.spans) {
    RunningRequest* running = find(span.id);
    if (std::find(unreadable.begin(), unreadable.end(), running) != unreadable.end()) continue;  // its turn comes with the next step
    ONSET_TRY(check_span(span, running));
    Conversation& conversation = *running->conversation;
    reserve(conversation, std::max(conversation.reserved_pages, pages_of(layout, span.first_token + span.count, most_rows)));
    work.push_back({span, running});
  }
  if (reserved_pages > pool->pages()) return error(Code::failed, "it runs more than the {} pages of the pool hold", pool->pages());
  return work;
}

// Ends what is past its deadline, and what waits and could not even read its prompt by then.
void Engine::State::expire() {
  ++pinned;
  // Handlers may submit: the list can grow meanwhile.
  for (size_t i = 0; i < requests.size(); ++i) {
    RunningRequest& running = *requests[i];
    const double deadline = running.request.deadline_seconds;
    if (running.done || deadline <= 0) continue;
    const double left = deadline - seconds_since(running.submitted);
    double least = 0;
    if (options.cost && !running.admitted && running.in_prompt()) {
      const int32_t computed = running.conversation->computed;
      least = options.cost->seconds(span_shape({.first_token = computed, .count = running.prompt_end - computed, .layer_end = layout.layers}));
    }
    if (left > least) continue;
    ++counts.expired;
    end_early(running, Finish::expired,
              left <= 0 ? error(Code::cancelled, "the deadline of {} s has passed", deadline)
                        : error(Code::cancelled, "the deadline of {} s cannot be met: the prompt takes {:.2g} s", deadline, least));
  }
  --pinned;
  remove_done();
}

StepReport Engine::State::report(Step step, double began, double predicted) const {
  StepReport report{.number = counts.steps, .begin_seconds = began, .predicted_seconds = predicted};
  for (const Span& span : step.spans) {
    (span.answer ? report.answer_rows : report.prompt_rows) += span.count;
    report.prompts += !span.answer;
  }
  for (const auto& running : requests) ++(running->admitted ? report.running : report.waiting);
  report.free_pages = pool->pages() - reserved_pages;
  report.step = std::move(step);
  return report;
}

Status Engine::step() {
  State& state = *state_;
  state.expire();
  if (state.requests.empty()) return {};
  const double began = seconds_since(state.made);
  Step step = state.options.schedule->next(state.schedule_context());
  if (step.spans.empty() && step.preempt.empty()) {
    state.refuse_first_waiting();
    return {};
  }
  auto work = state.take_up(step);
  if (!work.ok()) return work.status().within(fmt::format("schedule policy {}", state.options.schedule->name()));

  const double predicted = state.options.cost ? state.options.cost->seconds(step_shape(step)) : 0;
  StepReport report = state.report(std::move(step), began, predicted);
  ++state.pinned;
  if (!work->empty()) state.run(*work);
  report.seconds = seconds_since(state.made) - began;
  for (const Work& part : *work) {
    if (!part.running->done) state.advance(part);
  }
  --state.pinned;
  state.remove_done();
  ++state.counts.steps;
  state.counts.last = std::move(report);
  if (state.step_hook) state.step_hook(state.counts.last);
  return {};
}

// Nothing can run: nobody's end will free the pages that the first request waits for.
void Engine::State::refuse_first_waiting() {
  const auto waiting = std::find_if(requests.begin(), requests.end(), [](const auto& running) { return !running->admitted; });
  RunningRequest& running = waiting != requests.end() ? **waiting : *requests.front();
  end_early(running, Finish::failed,
            error(Code::resource_exhausted, "the request needs {} pages of the key/value pool, {} of {} are free and {} are held by "
                  "{} open sessions", running.pages, pool->pages() - reserved_pages, pool->pages(), reserved_pages, sessions.size()));
  remove_done();
}

// A forward pass over the spans. If it fails, each runs again by itself, so that one request's failure is not the others'.
void Engine::State::run(std::span<const Work> work) {
  const Status status = model->forward(batch->build(work), executor, *batch);
  if (status.ok()) return;
  for (const Work& part : work) {
    RunningRequest& running = *part.running;
    // Layers below a later stage have the piece's keys already, and the others cannot be told apart.
    const bool again = work.size() > 1 && part.span.layer_begin == 0;
    if (again) {
      running.conversation->cache.truncate(running.conversation->computed);
      run({&part, 1});
    } else {
      end_early(running, Finish::failed, status);
    }
  }
}

// What a span's rows have come to: a stage further, or tokens further, perhaps with a new token.
void Engine::State::advance(const Work& work) {
  RunningRequest& running = *work.running;
  const Span& span = work.span;
  (span.answer ? counts.decode_rows : counts.prompt_rows) += span.count;
  if (span.layer_end < layout.layers) {
    running.layer = span.layer_end;
    running.piece = span.count;
    std::swap(running.hidden, running.next_hidden);
    return;
  }
  running.layer = running.piece = 0;
  running.conversation->computed += span.count;
  if (running.conversation->computed < running.known()) return;
  if (running.new_tokens == 0) {
    running.first_token_seconds = seconds_since(running.submitted);
    running.hidden = {};
    running.next_hidden = {};
  }
  deliver(running);
}

// All known tokens are computed: hands out the token that follows, or ends a request that wants none.
void Engine::State::deliver(RunningRequest& running) {
  if (running.most_new_tokens == 0) return end_early(running, Finish::length, {});
  if (!running.sampled) {
    return end_early(running, Finish::failed, error(Code::failed, "the last row was dropped by the select policy: no token follows it"));
  }
  SampledToken sampled = *std::exchange(running.sampled, std::nullopt);
  if (sampled.token < 0) {
    const bool grammar = running.request.sampling.grammar != nullptr;
    return end_early(running, Finish::failed,
                     error(Code::failed, "{}", grammar ? "no token of the vocabulary goes on as the answer's grammar demands"
                                                       : "the model's logits are not finite"));
  }

  ++running.new_tokens;
  running.conversation->tokens.push_back(sampled.token);
  Event event{.id = running.id,
              .text = {},
              .token = {},
              .finish = Finish::none,
              .status = {},
              .prompt_tokens = running.prompt_end - running.first_token,
              .new_tokens = running.new_tokens,
              .first_token_seconds = running.first_token_seconds};
  const bool ends = tokenizer && tokenizer->is_end_of_generation(sampled.token) && !running.request.ignore_end;
  if (!ends) event.text = running.answer.push(sampled.token);
  if (ends || running.answer.stopped()) {
    event.finish = Finish::stop;
  } else if (running.new_tokens == running.most_new_tokens) {
    event.finish = Finish::length;
  }
  if (event.finish != Finish::none) event.text += running.answer.finish();
  event.token = std::move(sampled);
  if (event.finish == Finish::none) {
    if (running.handler) running.handler(event);
  } else {
    end(running, std::move(event));
  }
}

// --- sessions -----------------------------------------------------------------------------------------------------

int64_t Engine::open_session() {
  const int64_t session = state_->next_session++;
  state_->sessions[session] = std::make_shared<Conversation>(state_->layout, *state_->pool);
  return session;
}

void Engine::close_session(int64_t session) {
  const auto found = state_->sessions.find(session);
  if (found == state_->sessions.end()) return;
  cancel(found->second->busy);
  state_->reserved_pages -= found->second->reserved_pages;
  state_->sessions.erase(session);
}

std::vector<int32_t> Engine::session_tokens(int64_t session) const {
  const auto found = state_->sessions.find(session);
  return found != state_->sessions.end() ? found->second->tokens : std::vector<int32_t>();
}

namespace {

// Whether every layer still has the keys that tokens from `length` on will look at.
bool window_is_kept(const SequenceCache& cache, int32_t length) {
  const CacheLayout& layout = cache.layout();
  for (int layer = 0; layer < layout.layers; ++layer) {
    if (layout.windows[layer] == 0) continue;
    const int32_t first = std::max(0, length - layout.windows[layer] + 1);
    for (int32_t page = first / page_tokens; page * page_tokens < length; ++page) {
      if (cache.page(layer, 0, page) == no_page) return false;
    }
  }
  return true;
}

}  // namespace

Result<int32_t> Engine::truncate_session(int64_t session, int32_t length) {
  const auto found = state_->sessions.find(session);
  if (found == state_->sessions.end()) return error(Code::invalid_argument, "there is no session {}", session);
  Conversation& conversation = *found->second;
  if (conversation.busy != 0) return error(Code::invalid_argument, "session {} is busy with request {}", session, conversation.busy);
  if (length < 0 || length > static_cast<int32_t>(conversation.tokens.size())) {
    return error(Code::invalid_argument, "session {} has {} tokens, cannot keep {} of them", session, conversation.tokens.size(), length);
  }
  if (length < conversation.computed) {
    if (!window_is_kept(conversation.cache, length)) length = 0;
    conversation.cache.truncate(length);
    conversation.computed = length;
    const int64_t held = conversation.cache.pages_held();
    state_->reserved_pages += held - conversation.reserved_pages;
    conversation.reserved_pages = held;
  }
  conversation.tokens.resize(length);
  return length;
}

// --- what it is ---------------------------------------------------------------------------------------------------

const Model& Engine::model() const { return *state_->model; }
const Tokenizer* Engine::tokenizer() const { return state_->tokenizer ? &*state_->tokenizer : nullptr; }
int32_t Engine::context() const { return state_->context; }
KvType Engine::kv_type() const { return state_->kv_type; }
int32_t Engine::threads() const { return state_->workers.threads(); }

EngineStatistics Engine::statistics() const {
  EngineStatistics statistics = state_->counts;
  statistics.pages = state_->pool->pages();
  statistics.free_pages = state_->pool->free_pages();
  statistics.reserved_pages = state_->reserved_pages;
  statistics.page_bytes = state_->pool->page_bytes();
  for (const auto& running : state_->requests) {
    if (running->done) continue;
    ++(running->admitted ? statistics.running : statistics.waiting);
    statistics.swapped += running->conversation->cache.swapped_out();
  }
  return statistics;
}

void Engine::set_time_hook(TimeHook hook) { state_->executor.set_time_hook(std::move(hook)); }
void Engine::set_step_hook(std::function<void(const StepReport&)> hook) { state_->step_hook = std::move(hook); }

}  // namespace onset
