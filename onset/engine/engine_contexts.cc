// Texts that requests refer to: read by requests of the engine's own, kept while they are needed, and found again in the prefix cache.
#include <algorithm>

#include "onset/engine/engine_state.h"

namespace onset {

Status Engine::State::check_contexts(const Request& request) const {
  const ParallelContexts& asked = *request.contexts;
  ONSET_TRY(check_parallel_contexts(asked.options));
  if (request.session != 0 || request.attend || request.select) {
    return error(Code::invalid_argument, "contexts go with no session and with no other attend or select policy");
  }
  if (std::any_of(layout.windows.begin(), layout.windows.end(), [](int32_t window) { return window > 0; })) {
    return error(Code::unsupported, "parallel contexts need layers that see everything, {} has windows", model->file().path().string());
  }
  if (asked.texts.empty()) return error(Code::invalid_argument, "the list of contexts is empty: expected one or more");
  const auto check_ids = [&](const std::string& name, const std::vector<int32_t>& tokens) -> Status {
    for (const int32_t token : tokens) {
      if (token >= 0 && token < model->config().vocabulary) continue;
      return error(Code::invalid_argument, "{} has token id {}, expected 0 to {}", name, token, model->config().vocabulary - 1);
    }
    return {};
  };
  ONSET_TRY(check_ids("the contexts' prefix", asked.prefix));
  int64_t pages = 0;
  for (size_t i = 0; i < asked.texts.size(); ++i) {
    const auto tokens = static_cast<int64_t>(asked.prefix.size() + asked.texts[i].size());
    if (asked.texts[i].empty()) return error(Code::invalid_argument, "context {} is empty: expected one token or more", i + 1);
    ONSET_TRY(check_ids(fmt::format("context {}", i + 1), asked.texts[i]));
    if (tokens >= context) {
      return error(Code::invalid_argument, "context {} has {} tokens with its prefix, the model's context has room for {} before a prompt",
                   i + 1, tokens, context - 1);
    }
    // The prefix's whole pages are there once where the prefix cache has them.
    const int64_t shared =
        prefixes && request.prefix_cache && i > 0 ? static_cast<int64_t>(asked.prefix.size()) / page_tokens * page_tokens : 0;
    pages += pages_of(layout, tokens, most_rows) - pages_of(layout, shared, most_rows);
  }
  if (pages <= pool->pages()) return {};
  return error(Code::resource_exhausted, "the contexts need {} pages, the key/value pool has {}", pages, pool->pages());
}

// The request's own tokens begin behind the longest of its contexts: all of them begin at the same position.
Status Engine::State::place_behind_contexts(const Request& request, Conversation& conversation) const {
  ONSET_TRY(check_contexts(request));
  size_t longest = 0;
  for (const auto& text : request.contexts->texts) longest = std::max(longest, text.size());
  conversation.plain = false;
  conversation.first_position = static_cast<int32_t>(request.contexts->prefix.size() + longest);
  return {};
}

// The first request that waits for contexts gets them read; those behind it have to wait, so that no two of them hold what the other needs.
void Engine::State::prepare_contexts() {
  const auto found =
      std::find_if(requests.begin(), requests.end(), [](const auto& running) { return !running->done && running->unready(); });
  if (found == requests.end()) return;
  RunningRequest& running = **found;
  ReadContexts& contexts = *running.contexts;
  const size_t count = running.request.contexts->texts.size();
  // The first one alone: the others find the prefix in its pages.
  while (contexts.failure.ok() && contexts.begun < count && (contexts.begun == 0 || contexts.ended > 0)) {
    read_context(running, contexts.begun++);
  }
  if (!contexts.failure.ok()) {
    end_early(running, Finish::failed, contexts.failure);
    remove_done();
  } else if (contexts.ended == count) {
    take_contexts(running);
  }
}

void Engine::State::read_context(RunningRequest& running, size_t index) {
  ReadContexts& contexts = *running.contexts;
  const ParallelContexts& asked = *running.request.contexts;
  const auto prefix = static_cast<int32_t>(index == 0 ? 0 : asked.prefix.size());  // counted with the first context
  auto conversation = std::make_shared<Conversation>(layout, *pool);
  std::vector<int32_t>& tokens = conversation->tokens;
  tokens = asked.prefix;
  tokens.insert(tokens.end(), asked.texts[index].begin(), asked.texts[index].end());
  const auto count = static_cast<int32_t>(tokens.size());
  conversation->plain = running.request.prefix_cache;
  contexts.tokens += count - prefix;
  contexts.texts.push_back(conversation);

  const bool looks_up = prefixes && running.request.prefix_cache;
  const std::string& space = running.request.space;
  if (looks_up && prefixes->match(space, tokens).tokens == count) {
    conversation->computed = prefixes->attach(space, tokens, conversation->cache, conversation->prefix);
    reserve(*conversation, conversation->cache.pages_held() - prefix_pages(*conversation));
    if (conversation->computed == count && taken_pages() <= pool->pages()) {
      contexts.cached_tokens += count - prefix;
      counts.looked_up_tokens += count;
      counts.cached_tokens += count;
      ++contexts.ended;
      return;
    }
    // Others have the pool's other pages: it waits its turn.
    conversation->cache.truncate(0);
    conversation->prefix.cut(0);
    conversation->computed = 0;
    reserve(*conversation, 0);
  }

  Request request{.tokens = tokens,
                  .most_new_tokens = 0,
                  .priority = running.request.priority,
                  .space = space,
                  .prefix_cache = running.request.prefix_cache};
  Engine::EventHandler ended = [&contexts, prefix](const Event& event) {
    if (event.finish != Finish::length && contexts.failure.ok()) {
      contexts.failure =
          event.status.ok() ? error(Code::cancelled, "the reading of a context was ended") : event.status.within("a context");
    }
    contexts.cached_tokens += std::max(0, event.cached_tokens - prefix);
    ++contexts.ended;
  };
  auto reader = std::make_unique<RunningRequest>(next_id++, std::move(request), std::move(ended), Sampler({}, {}, model->isa()),
                                                 AnswerText(nullptr, StopStrings()));
  reader->prompt_end = count;
  reader->pages = pages_of(layout, count, most_rows);
  reader->fixed = true;
  reader->keeps = true;
  reader->looks_up = looks_up;
  conversation->busy = reader->id;
  reader->conversation = std::move(conversation);
  contexts.readers.push_back(reader->id);
  requests.push_back(std::move(reader));
}

// All contexts are there: the request's own tokens come behind them.
void Engine::State::take_contexts(RunningRequest& running) {
  ReadContexts& contexts = *running.contexts;
  const ParallelContexts& asked = *running.request.contexts;
  Conversation& own = *running.conversation;
  const auto prefix = static_cast<int32_t>(asked.prefix.size());
  if (prefix > 0) contexts.texts.front()->cache.lend(own.cache, 0, prefix);
  std::vector<KeyRange> ranges;
  for (size_t i = 0; i < contexts.texts.size(); ++i) {
    const auto tokens = static_cast<int32_t>(asked.texts[i].size());
    const int32_t place = contexts.texts[i]->cache.lend(own.cache, prefix, prefix + tokens);
    ranges.push_back({place, place + tokens});
  }
  own.first_slot = own.cache.length(0);
  running.request.attend = std::make_unique<ParallelContextsAttend>(asked.options, KeyRange{0, prefix}, std::move(ranges), own.first_slot);
  running.cached_tokens = static_cast<int32_t>(contexts.cached_tokens);
  contexts.ready = true;
}

// The request has ended: nobody needs its contexts any more, but the prefix cache may keep them.
void Engine::State::leave_contexts(RunningRequest& running) {
  if (!running.contexts) return;
  for (const RequestId id : running.contexts->readers) {
    if (RunningRequest* reader = find(id); reader != nullptr) end_early(*reader, Finish::cancelled, {});
  }
  for (const auto& text : running.contexts->texts) {
    if (prefixes && text->plain && text->computed == static_cast<int32_t>(text->tokens.size())) {
      prefixes->publish_all(running.request.space, text->tokens, text->cache, text->prefix);
    }
    reserve(*text, 0);
  }
  running.contexts->texts.clear();
}

}  // namespace onset
