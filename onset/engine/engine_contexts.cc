// Texts that requests refer to: read by requests of the engine's own, kept while they are needed, and found again in the prefix cache.
#include <algorithm>

#include "onset/engine/engine_state.h"
#include "onset/model/reposition.h"

namespace onset {
namespace {

// The way contexts are blended; null where they stay side by side.
const CacheBlendOptions* blending(const Contexts& contexts) {
  return std::get_if<CacheBlendOptions>(&contexts.reuse);
}

}  // namespace

// What each context is read behind.
std::vector<int32_t> Engine::State::context_lead(const Contexts& contexts) const {
  if (!blending(contexts)) return contexts.prefix;
  const std::optional<TokenId> bos = tokenizer ? tokenizer->bos() : std::nullopt;
  return bos ? std::vector<int32_t>{*bos} : std::vector<int32_t>();
}

Status Engine::State::check_contexts(const Request& request) const {
  const Contexts& asked = *request.contexts;
  if (const CacheBlendOptions* blend = blending(asked); blend != nullptr) {
    ONSET_TRY(check_cache_blend(*blend));
    if (options.scheduling.stage_layers > 0) {
      return error(Code::unsupported, "cacheblend needs steps through all layers, this engine's have {}", options.scheduling.stage_layers);
    }
  } else {
    ONSET_TRY(check_parallel_contexts(std::get<ParallelContextsOptions>(asked.reuse)));
  }
  if (request.session != 0 || request.attend || request.select) {
    return error(Code::invalid_argument, "contexts go with no session and with no other attend or select policy");
  }
  if (std::any_of(layout.windows.begin(), layout.windows.end(), [](int32_t window) { return window > 0; })) {
    return error(Code::unsupported, "contexts that are read apart need layers that see everything, {} has windows",
                 model->file().path().string());
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
  const auto lead = static_cast<int64_t>(context_lead(asked).size());
  int64_t pages = 0;
  for (size_t i = 0; i < asked.texts.size(); ++i) {
    const int64_t tokens = lead + static_cast<int64_t>(asked.texts[i].size());
    if (asked.texts[i].empty()) return error(Code::invalid_argument, "context {} is empty: expected one token or more", i + 1);
    ONSET_TRY(check_ids(fmt::format("context {}", i + 1), asked.texts[i]));
    if (tokens >= context) {
      return error(Code::invalid_argument,
                   "context {} has {} tokens with what it is read behind, the context has room for {} before a prompt", i + 1, tokens,
                   context - 1);
    }
    // The lead's whole pages are there once where the prefix cache has them.
    const int64_t shared = prefixes && request.prefix_cache && i > 0 ? lead / page_tokens * page_tokens : 0;
    pages += pages_of(layout, tokens, most_rows) - pages_of(layout, shared, most_rows);
  }
  if (pages <= pool->pages()) return {};
  return error(Code::resource_exhausted, "the contexts need {} pages, the key/value pool has {}", pages, pool->pages());
}

// The request's own tokens begin behind the longest of its contexts, which all begin at the same position; or behind all of them.
Status Engine::State::place_behind_contexts(const Request& request, Conversation& conversation) const {
  ONSET_TRY(check_contexts(request));
  const Contexts& asked = *request.contexts;
  if (const CacheBlendOptions* blend = blending(asked); blend != nullptr) {
    conversation.tokens = asked.prefix;
    for (const auto& text : asked.texts) conversation.tokens.insert(conversation.tokens.end(), text.begin(), text.end());
    if (blend->ratio < 1) conversation.plain_tokens = static_cast<int32_t>(asked.prefix.size());
    return {};
  }
  size_t longest = 0;
  for (const auto& text : asked.texts) longest = std::max(longest, text.size());
  conversation.plain_tokens = 0;
  conversation.first_position = static_cast<int32_t>(asked.prefix.size() + longest);
  return {};
}

void Engine::State::begin_contexts(RunningRequest& running) {
  const Contexts& asked = *running.request.contexts;
  running.context_tokens = static_cast<int32_t>(asked.prefix.size());
  for (const auto& text : asked.texts) running.context_tokens += static_cast<int32_t>(text.size());
  running.contexts = std::make_unique<ReadContexts>();
  running.contexts->lead = context_lead(asked);
  const CacheBlendOptions* blend = blending(asked);
  if (blend == nullptr) return;
  running.contexts->blend = std::make_shared<CacheBlendReport>();
  // Nothing is reused where everything is computed.
  running.contexts->ready = blend->ratio == 1;
}

// The first request that waits with contexts gets them read; those behind it have to wait until it has its place, so that no two of them
// hold what the other needs.
void Engine::State::prepare_contexts() {
  const auto found = std::find_if(requests.begin(), requests.end(),
                                  [](const auto& running) { return !running->done && running->contexts && !running->admitted; });
  if (found == requests.end() || !(*found)->unready()) return;
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
  const Contexts& asked = *running.request.contexts;
  // A prefix counts with the first context; a token that begins a text is none of the request's.
  const auto lead = static_cast<int32_t>(index == 0 && !contexts.blend ? 0 : contexts.lead.size());
  auto conversation = std::make_shared<Conversation>(layout, *pool);
  std::vector<int32_t>& tokens = conversation->tokens;
  tokens = contexts.lead;
  tokens.insert(tokens.end(), asked.texts[index].begin(), asked.texts[index].end());
  const auto count = static_cast<int32_t>(tokens.size());
  if (!running.request.prefix_cache) conversation->plain_tokens = 0;
  contexts.texts.push_back(conversation);

  const bool looks_up = prefixes && running.request.prefix_cache;
  const std::string& space = running.request.space;
  if (looks_up && prefixes->match(space, tokens).tokens == count) {
    conversation->computed = prefixes->attach(space, tokens, conversation->cache, conversation->prefix);
    reserve(*conversation, conversation->cache.pages_held() - prefix_pages(*conversation));
    if (conversation->computed == count && taken_pages() <= pool->pages()) {
      contexts.cached_tokens += count - lead;
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
  Engine::EventHandler ended = [&contexts, lead](const Event& event) {
    if (event.finish != Finish::length && contexts.failure.ok()) {
      contexts.failure =
          event.status.ok() ? error(Code::cancelled, "the reading of a context was ended") : event.status.within("a context");
    }
    contexts.cached_tokens += std::max(0, event.cached_tokens - lead);
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

// All contexts are there. Where they stay side by side, the request's own tokens come behind them; blended ones move when it has its place.
void Engine::State::take_contexts(RunningRequest& running) {
  ReadContexts& contexts = *running.contexts;
  const Contexts& asked = *running.request.contexts;
  contexts.ready = true;
  running.cached_tokens = contexts.cached_tokens;
  if (contexts.blend) return;
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
  running.request.attend = std::make_unique<ParallelContextsAttend>(std::get<ParallelContextsOptions>(asked.reuse), KeyRange{0, prefix},
                                                                    std::move(ranges), own.first_slot);
}

// Puts what was read apart where the request has it, before its first rows run. Errors: a pool without the pages it was promised.
Status Engine::State::blend_contexts(RunningRequest& running) {
  if (!running.contexts || !running.contexts->blend || running.contexts->texts.empty()) return {};
  const auto began = Clock::now();
  ReadContexts& contexts = *running.contexts;
  const Contexts& asked = *running.request.contexts;
  Conversation& own = *running.conversation;
  ONSET_TRY(own.cache.hold(running.prompt_end));
  const auto lead = static_cast<int32_t>(contexts.lead.size());
  std::vector<KeyRange> reused;
  int32_t begin = static_cast<int32_t>(asked.prefix.size());
  for (size_t i = 0; i < contexts.texts.size(); ++i) {
    const int32_t end = begin + static_cast<int32_t>(asked.texts[i].size());
    // What the prefix cache had is exact already.
    const int32_t first = std::max(begin, own.computed);
    if (first < end) {
      reposition(*model, contexts.texts[i]->cache, lead + first - begin, lead + end - begin, own.cache, first, workers);
      reused.push_back({first, end});
      contexts.blend->reused_tokens += end - first;
    }
    begin = end;
  }
  contexts.blend->fresh_tokens = running.prompt_end - own.computed - contexts.blend->reused_tokens;
  running.request.select = std::make_unique<CacheBlendSelect>(*blending(asked), model->config().layers, std::move(reused), contexts.blend);
  release_contexts(running);
  contexts.blend->place_seconds = seconds_since(began);
  return {};
}

// The request has ended: nobody reads its contexts any more.
void Engine::State::leave_contexts(RunningRequest& running) {
  if (!running.contexts) return;
  for (const RequestId id : running.contexts->readers) {
    if (RunningRequest* reader = find(id); reader != nullptr) end_early(*reader, Finish::cancelled, {});
  }
  release_contexts(running);
}

// The request needs the contexts' own pages no more, but the prefix cache may keep them.
void Engine::State::release_contexts(RunningRequest& running) {
  for (const auto& text : running.contexts->texts) {
    if (prefixes && text->plain_tokens > 0 && text->computed == static_cast<int32_t>(text->tokens.size())) {
      prefixes->publish_all(running.request.space, text->tokens, text->cache, text->prefix);
    }
    reserve(*text, 0);
  }
  running.contexts->texts.clear();
}

}  // namespace onset
