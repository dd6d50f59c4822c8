// A step from its schedule to the tokens it gives.
#include <algorithm>

#include "onset/engine/engine_state.h"

namespace onset {
namespace {

// Requests that are looked up in the prefix cache in one step.
constexpr int most_looks = 64;

}  // namespace

ScheduleContext Engine::State::schedule_context() {
  ScheduleContext seen{.layers = layout.layers,
                       .longest = context,
                       .pages = pool->pages(),
                       .free_pages = pool->pages() - taken_pages(),
                       .pages_of = [this](int64_t tokens) { return pages_of(layout, tokens, most_rows); },
                       .most_running = options.most_running,
                       .cost = options.cost.get(),
                       .most_seconds = options.most_step_seconds};
  seen.requests.reserve(requests.size());
  int looks = most_looks;
  for (const auto& running : requests) {
    if (running->unready() || must_wait_for_loads(*running)) continue;
    const Conversation& conversation = *running->conversation;
    look_up(*running, looks);
    seen.requests.push_back({.id = running->id,
                             .priority = running->request.priority,
                             .prompt_tokens = running->prompt_end,
                             .most_new_tokens = running->most_new_tokens,
                             .computed = conversation.computed + running->known_prefix.tokens,
                             .known = running->known(),
                             .layer = running->layer,
                             .piece = running->piece,
                             .admitted = running->admitted,
                             .swapped = conversation.cache.swapped_out(),
                             .row_block = running->row_block,
                             .fixed = running->fixed,
                             .can_swap = swap && swap->free_pages() >= conversation.cache.pages_held(),
                             .pages = own_pages(conversation),
                             .shared_pages = running->known_prefix.shared_pages + shared_pages(conversation)});
  }
  return seen;
}

// Pages of its own that a conversation may come to hold.
void Engine::State::reserve(Conversation& conversation, int64_t pages) {
  reserved_pages += pages - conversation.reserved_pages;
  conversation.reserved_pages = pages;
}

// Pages that the prefix cache answers for, and those of them that others use too.
int64_t Engine::State::prefix_pages(const Conversation& conversation) const {
  return prefixes ? prefixes->pages(conversation.prefix) : 0;
}
int64_t Engine::State::shared_pages(const Conversation& conversation) const {
  return prefixes ? prefixes->shared_pages(conversation.prefix) : 0;
}
// Pages that nobody else holds: what the pool gets when the conversation gives up its own.
int64_t Engine::State::own_pages(const Conversation& conversation) const {
  return conversation.reserved_pages + prefix_pages(conversation) - shared_pages(conversation);
}

// What the prefix cache has of a request that waits to begin. `looks`: how many requests may still be looked up in this step; those behind
// them will hardly begin in it, and if they do their pages are found then.
void Engine::State::look_up(RunningRequest& running, int& looks) {
  const bool begins =
      running.looks_up && !running.admitted && running.conversation->computed == 0 && !running.conversation->cache.swapped_out();
  if (!begins || --looks < 0) {
    running.known_prefix = {};
    running.known_at = 0;
    return;
  }
  if (running.known_at == prefixes->version()) return;
  running.known_at = prefixes->version();
  running.known_prefix = prefixes->match(running.request.space, tokens_to_find(running));
}

// Tokens whose keys are worth finding: the last one has to run, for what follows it is asked for, and rows that run together do so as a
// whole.
std::span<const int32_t> Engine::State::tokens_to_find(const RunningRequest& running) const {
  const std::span<const int32_t> tokens = running.conversation->tokens;
  size_t most = tokens.size() - 1;
  if (running.answers_apart) most = std::min(most, static_cast<size_t>(running.prompt_end));
  const std::span<const int32_t> all = tokens.first(most);
  if (running.row_block == 0) return all;
  return all.first(static_cast<size_t>(prefixes->match(running.request.space, all).tokens / running.row_block * running.row_block));
}

// Takes what is known of the request's text, as it begins.
void Engine::State::attach_prefix(RunningRequest& running) {
  Conversation& conversation = *running.conversation;
  if (!running.looks_up || conversation.computed > 0) return;
  conversation.computed = prefixes->attach(running.request.space, tokens_to_find(running), conversation.cache, conversation.prefix);
  conversation.plain_tokens = std::max(conversation.plain_tokens, conversation.computed);
  running.known_prefix = {};
  if (running.new_tokens > 0) return;  // it begins again after its pages were taken away
  running.cached_tokens = running.contexts ? cached_tokens(running) : conversation.computed;
  counts.looked_up_tokens += running.prompt_end;
  counts.cached_tokens += conversation.computed;
}

// Gives what has been computed to the prefix cache: others may use it, and it is no longer the conversation's own.
void Engine::State::publish_prefix(RunningRequest& running) {
  Conversation& conversation = *running.conversation;
  if (!prefixes || conversation.plain_tokens == 0) return;
  const int64_t before = prefix_pages(conversation);
  const auto computed = std::span<const int32_t>(conversation.tokens).first(std::min(conversation.computed, conversation.plain_tokens));
  if (running.done && running.request.session == 0 && !running.keeps) {
    prefixes->publish_all(running.request.space, computed, conversation.cache, conversation.prefix);
  } else {
    prefixes->publish(running.request.space, computed, conversation.cache, conversation.prefix);
  }
  reserve(conversation, conversation.reserved_pages - (prefix_pages(conversation) - before));
}

// What was computed is forgotten; what is known stays, and is read again as if it were a prompt.
void Engine::State::forget_computed(RunningRequest& running) {
  running.conversation->truncate_cache(0);
  running.conversation->prefix.cut(0);
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
    conversation.prefix.cut(0);
  } else {
    ++counts.preempted_to_recompute;
    forget_computed(running);
  }
  reserve(conversation, 0);
}

// Errors: pages that cannot be read back from the swap file; the request has its place then, and is read again.
Status Engine::State::admit(RunningRequest& running, int64_t pages) {
  Conversation& conversation = *running.conversation;
  running.admitted = true;
  if (!conversation.cache.swapped_out()) {
    const int64_t shared = running.known_prefix.shared_pages;
    attach_prefix(running);
    // Of the pages that it asked for, those that nobody else used are the prefix cache's now.
    reserve(conversation, std::max(pages + shared - prefix_pages(conversation), conversation.reserved_pages));
    return {};
  }
  reserve(conversation, std::max(pages, conversation.reserved_pages));
  const Status read = conversation.cache.swap_in();
  if (!read.ok()) forget_computed(running);
  return read;
}

// Whether a span has no more rows than a step may have, or whole blocks of those that run together.
bool Engine::State::rows_run_together(const Span& span, const RunningRequest& running) const {
  if (running.row_block == 0 || span.first_token >= running.prompt_end) return span.count <= most_rows;
  const int64_t end = int64_t{span.first_token} + span.count;
  return end == running.prompt_end || (end < running.prompt_end && end % running.row_block == 0);
}

Status Engine::State::check_span(const Span& span, const RunningRequest* running) const {
  if (running == nullptr) return error(Code::failed, "it names request {}, which does not exist", span.id);
  const int32_t computed = running->conversation->computed;
  const int32_t left = running->known() - computed;
  const bool rows = span.first_token == computed && span.count >= 1 && span.count <= left && rows_run_together(span, *running) &&
                    (running->layer == 0 || span.count == running->piece);
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
  std::vector<RunningRequest*> later;  // their turn comes with the next step
  for (const Admission& admission : step.admit) {
    RunningRequest* running = find(admission.id);
    if (running == nullptr || running->admitted) return error(Code::failed, "it admits request {}, which does not wait", admission.id);
    const int64_t held = own_pages(*running->conversation);
    if (taken_pages() - held + admission.pages > pool->pages()) {
      return error(Code::failed, "it admits more than the {} pages of the pool", pool->pages());
    }
    const int32_t expected = running->conversation->computed + running->known_prefix.tokens;
    if (const Status status = admit(*running, admission.pages); !status.ok()) {
      ++counts.swap_failures;
      counts.swap_failure = status.message() + "; the request's tokens are read again instead";
    }
    // Pages could not be read back; or somebody who came first needed pages that the prefix cache had a moment ago.
    if (running->conversation->computed != expected) later.push_back(running);
    if (taken_pages() > pool->pages()) {
      // Those with whom it would have shared pages have just given them up: it waits on.
      running->admitted = false;
      forget_computed(*running);
      reserve(*running->conversation, 0);
      later.push_back(running);
    }
  }
  std::vector<Work> work;
  for (const Span& span : step.spans) {
    RunningRequest* running = find(span.id);
    if (std::find(later.begin(), later.end(), running) != later.end()) continue;
    ONSET_TRY(check_span(span, running));
    Conversation& conversation = *running->conversation;
    const int64_t pages = pages_of(layout, span.first_token + span.count, most_rows) - prefix_pages(conversation);
    reserve(conversation, std::max(conversation.reserved_pages, pages));
    if (const Status blended = blend_contexts(*running, span.first_token + span.count); !blended.ok()) {
      end_early(*running, Finish::failed, blended);
      continue;
    }
    work.push_back({span, running});
  }
  if (taken_pages() > pool->pages()) return error(Code::failed, "it runs more than the {} pages of the pool hold", pool->pages());
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
      least =
          options.cost->seconds(span_shape({.first_token = computed, .count = running.prompt_end - computed, .layer_end = layout.layers}));
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
  report.free_pages = pool->pages() - taken_pages();
  report.step = std::move(step);
  return report;
}

Status Engine::step() {
  State& state = *state_;
  state.expire();
  state.prepare_contexts();
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
  constexpr int32_t enough_rows = 64;
  if (report.answer_rows == 0 && report.prompt_rows >= enough_rows) {
    const double now = report.seconds / report.prompt_rows;
    state.prompt_row_seconds = state.prompt_row_seconds == 0 ? now : (state.prompt_row_seconds + now) / 2;
  }
  for (const Work& part : *work) {
    if (!part.running->done && part.running->admitted) state.advance(part);
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
            error(Code::resource_exhausted,
                  "the request needs {} pages of the key/value pool, {} of {} are free and {} are held by "
                  "{} open sessions",
                  running.pages, pool->pages() - taken_pages(), pool->pages(), taken_pages(), sessions.size()));
  remove_done();
}

// A forward pass over the spans. If it fails, each runs again by itself, so that one request's failure is not the others'.
void Engine::State::run(std::span<const Work> work) {
  const Status status = model->forward(batch->build(work), executor, *batch);
  if (status.ok()) return;
  for (const Work& part : work) {
    RunningRequest& running = *part.running;
    // Layers below a later stage have the piece's keys already, and the others cannot be told apart.
    const bool repeats = !running.request.select || running.request.select->repeats();
    const bool again = work.size() > 1 && part.span.layer_begin == 0 && repeats;
    if (again) {
      running.conversation->truncate_cache(running.conversation->computed);
      run({&part, 1});
    } else if (!read_contexts_again(running, status)) {
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
  // What was blended lies in the request's own pages when all layers have run; a piece whose rows all end at once runs none.
  if (running.contexts && running.contexts->all_placed()) release_contexts(running);
  publish_prefix(running);
  if (running.conversation->computed < running.known()) return;
  if (running.new_tokens == 0) {
    running.first_token_seconds = seconds_since(running.submitted);
    running.hidden = {};
    running.next_hidden = {};
  }
  deliver(running);
}

// What every event says of its request.
Event Engine::State::event_of(const RunningRequest& running) const {
  Event event;
  event.id = running.id;
  event.prompt_tokens = running.prompt_end - running.first_token;
  event.cached_tokens = running.cached_tokens;
  event.context_tokens = running.context_tokens;
  event.new_tokens = running.new_tokens;
  event.first_token_seconds = running.first_token_seconds;
  if (running.request.select) event.select = running.request.select->report();
  if (running.contexts) {
    event.contexts = running.contexts->report;
    event.blend = running.contexts->blend;
  }
  return event;
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
    return end_early(
        running, Finish::failed,
        error(Code::failed, "{}",
              grammar ? "no token of the vocabulary goes on as the answer's grammar demands" : "the model's logits are not finite"));
  }

  ++running.new_tokens;
  running.conversation->tokens.push_back(sampled.token);
  Event event = event_of(running);
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

// --- ends ---------------------------------------------------------------------------------------------------------

// The last event of a request: its pages go back (a session keeps those it has filled), then it is told.
void Engine::State::end(RunningRequest& running, Event event) {
  Conversation& conversation = *running.conversation;
  if (running.counted != nullptr) {
    event.attend = std::make_shared<AttendReport>(AttendReport{running.request.attend_spec->text(), running.counted->counts()});
  }
  running.done = true;
  conversation.busy = 0;
  if (conversation.cache.swapped_out()) {
    conversation.cache.truncate(0);  // what lies in the file is not worth reading back
    conversation.computed = 0;
  }
  if (conversation.computed < running.prompt_end) {
    // The prompt was not read to its end: what was not read is forgotten.
    conversation.truncate_cache(conversation.computed);
    conversation.tokens.resize(conversation.computed);
  }
  publish_prefix(running);
  leave_contexts(running);
  // What ends gives its pages back; a session keeps those that it has filled.
  if (running.request.session == 0 && !running.keeps) {
    conversation.cache.truncate(0);
    conversation.prefix.cut(0);
  }
  reserve(conversation, conversation.cache.pages_held() - prefix_pages(conversation));
  running.conversation.reset();
  ++pinned;
  if (running.handler) running.handler(event);
  --pinned;
}

void Engine::State::end_early(RunningRequest& running, Finish finish, Status status) {
  Event event = event_of(running);
  event.text = running.answer.finish();
  event.finish = finish;
  event.status = std::move(status);
  end(running, std::move(event));
}

void Engine::State::remove_done() {
  if (pinned > 0) return;
  std::erase_if(requests, [](const auto& running) { return running->done; });
}

}  // namespace onset
