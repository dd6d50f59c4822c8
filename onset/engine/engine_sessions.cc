// Conversations that are kept between requests.
#include <algorithm>

#include "onset/engine/engine_state.h"

namespace onset {

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
    for (int group = 0; group < layout.head_groups; ++group) {
      if (!layout.forgets(layer, group)) continue;
      for (int32_t page = 0; page * page_tokens < length; ++page) {
        if (layout.needs(layer, group, page, length) && cache.page(layer, group, page) == no_page) return false;
      }
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
    conversation.prefix.cut(length / page_tokens * page_tokens);
    conversation.computed = length;
    state_->reserve(conversation, conversation.cache.pages_held() - state_->prefix_pages(conversation));
  }
  conversation.tokens.resize(length);
  return length;
}

}  // namespace onset
