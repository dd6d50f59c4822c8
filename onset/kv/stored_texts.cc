#include "onset/kv/stored_texts.h"

namespace onset {
namespace {

constexpr std::chrono::milliseconds moment{500};

}  // namespace

StoredTexts::StoredTexts(std::vector<std::shared_ptr<ChunkStore>> stores, ChunkIdentity identity, KnownTexts& known,
                         std::chrono::milliseconds period)
    : stores_(std::move(stores)), identity_(std::move(identity)), known_(known), period_(period), texts_(stores_.size()) {
  if (period_.count() > 0) thread_ = std::thread([this] { look_in_turn(); });
}

StoredTexts::~StoredTexts() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void StoredTexts::want(const std::string& space) {
  const std::lock_guard lock(mutex_);
  if (!spaces_.insert(space).second) return;
  wanted_ = true;
  changed_.notify_all();
}

void StoredTexts::look_in_turn() {
  std::unique_lock lock(mutex_);
  while (!ends_) {
    changed_.wait_for(lock, period_, [&] { return ends_ || wanted_; });
    if (ends_) return;
    const bool at_once = std::exchange(wanted_, false);
    lock.unlock();
    if (at_once) {
      const std::lock_guard looking(looking_);
      looked_ = {};
    }
    look();
    lock.lock();
  }
}

void StoredTexts::tell(const std::string& key, const ChunkText& text, const std::string& space) {
  const ChunkText theirs{.space = space, .lead = text.lead, .tokens = text.tokens};
  if (chunk_key(identity_, theirs) == key) known_.add(space, text.tokens);
}

void StoredTexts::look() {
  std::set<std::string> spaces;
  {
    const std::lock_guard lock(mutex_);
    spaces = spaces_;
  }
  const std::lock_guard looking(looking_);
  const auto now = std::chrono::steady_clock::now();
  if (looked_ != std::chrono::steady_clock::time_point() && now - looked_ < moment) return;
  looked_ = now;
  for (size_t store = 0; store < stores_.size(); ++store) {
    // A store that cannot be asked now is asked again later; what is known of it stays.
    const auto keys = stores_[store]->keys();
    if (!keys.ok()) continue;
    std::map<std::string, ChunkText> texts;
    for (const std::string& key : *keys) {
      const auto seen = texts_[store].find(key);
      if (seen != texts_[store].end()) {
        texts[key] = std::move(seen->second);
      } else {
        auto text = stores_[store]->text(key, identity_);
        ChunkText& here = texts[key] = text.ok() ? *std::move(text) : ChunkText();
        for (const std::string& space : told_) tell(key, here, space);
      }
    }
    texts_[store] = std::move(texts);
    for (const std::string& space : spaces) {
      if (told_.contains(space)) continue;
      for (const auto& [key, text] : texts_[store]) tell(key, text, space);
    }
  }
  told_ = std::move(spaces);
}

}  // namespace onset
