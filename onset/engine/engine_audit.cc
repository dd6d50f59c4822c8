// The engine's books: who holds which page, counted from the holders instead of kept up to date.
#include <algorithm>
#include <set>

#include "onset/engine/engine_state.h"

namespace onset {

Status Engine::audit() const {
  const State& state = *state_;
  const PagePool& pool = *state.pool;
  // Of requests, of the contexts they read, of sessions; a request may work on a session's.
  std::set<const Conversation*> conversations;
  for (const auto& running : state.requests) {
    conversations.insert(running->conversation.get());
    if (!running->contexts) continue;
    for (const auto& text : running->contexts->texts) conversations.insert(text.get());
  }
  for (const auto& [number, conversation] : state.sessions) conversations.insert(conversation.get());

  const int64_t pages = pool.pages(), taken = state.taken_pages();
  std::vector<int32_t> by_conversations(static_cast<size_t>(pages));
  int64_t reserved = 0;
  for (const Conversation* conversation : conversations) {
    reserved += conversation->reserved_pages;
    conversation->cache.count_references(by_conversations);
  }
  std::vector<int32_t> by_all = by_conversations;
  if (state.prefixes) state.prefixes->count_references(by_all);
  int64_t used = 0, idle = 0, free = 0;
  for (PageId page = 0; page < pages; ++page) {
    if (by_all[page] != pool.references(page)) {
      return error(Code::failed, "page {} has {} references, it is held {} times", page, pool.references(page), by_all[page]);
    }
    ++(by_conversations[page] > 0 ? used : by_all[page] > 0 ? idle : free);
  }
  if (free != pool.free_pages()) return error(Code::failed, "{} pages are held by nobody, the pool has {} free", free, pool.free_pages());
  // What a window has left behind is nobody's but the tree's, and is given back only with the rest of its text.
  if (state.prefixes && !state.layout.forgets() && idle != state.prefixes->idle_pages()) {
    return error(Code::failed, "{} pages are idle, the prefix cache counts {}", idle, state.prefixes->idle_pages());
  }
  if (reserved != state.reserved_pages) {
    return error(Code::failed, "conversations have reserved {} pages, the engine counts {}", reserved, state.reserved_pages);
  }
  if (used > taken || taken > pages) {
    return error(Code::failed, "{} pages are in use, {} are reserved, the pool has {}", used, taken, pages);
  }
  return {};
}

}  // namespace onset
