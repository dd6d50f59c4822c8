#include "onset/kv/known_texts.h"

#include <openssl/sha.h>

#include <algorithm>
#include <iterator>

namespace onset {
namespace {

// Windows that many texts share (an empty table's, say) are followed in so many of them.
constexpr size_t most_places = 8;

// A window's hash: the sum of (token + 1) * multiplier^(window - 1 - i), modulo 2^64.
constexpr uint64_t multiplier = 0x9e3779b97f4a7c15u;

constexpr uint64_t power(int32_t exponent) {
  uint64_t result = 1;
  for (int32_t i = 0; i < exponent; ++i) result *= multiplier;
  return result;
}

class RollingHash {
 public:
  void push(int32_t token) { hash_ = hash_ * multiplier + value(token); }
  void drop(int32_t token) { hash_ -= value(token) * first_; }
  uint64_t hash() const { return hash_; }

 private:
  static uint64_t value(int32_t token) { return static_cast<uint64_t>(token) + 1; }
  static constexpr uint64_t first_ = power(KnownTexts::window);  // what a token counts once a whole window has come behind it
  uint64_t hash_ = 0;
};

uint64_t hash_of(std::span<const int32_t> tokens) {
  RollingHash hash;
  for (const int32_t token : tokens) hash.push(token);
  return hash.hash();
}

// Where the windows of a text begin: every `window` tokens, and at its end.
std::vector<int32_t> window_offsets(int32_t size) {
  std::vector<int32_t> offsets;
  for (int32_t offset = 0; offset + KnownTexts::window <= size; offset += KnownTexts::window) offsets.push_back(offset);
  if (!offsets.empty() && offsets.back() + KnownTexts::window < size) offsets.push_back(size - KnownTexts::window);
  return offsets;
}

}  // namespace

std::string text_id(std::span<const int32_t> tokens) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(tokens.data()), tokens.size_bytes(), digest);
  constexpr const char* digits = "0123456789abcdef";
  std::string id = "ctx-";
  for (int i = 0; i < 16; ++i) {
    id += digits[digest[i] >> 4];
    id += digits[digest[i] & 15];
  }
  return id;
}

std::string KnownTexts::add(const std::string& space, std::span<const int32_t> tokens) {
  const std::string id = text_id(tokens);
  const std::lock_guard lock(mutex_);
  Space& place = spaces_[space];
  if (const auto known = place.names.find(id); known != place.names.end()) {
    entries_.splice(entries_.end(), entries_, known->second);
    return id;
  }
  if (static_cast<int64_t>(tokens.size()) > most_tokens_) return id;
  entries_.push_back({space, id, std::make_shared<const std::vector<int32_t>>(tokens.begin(), tokens.end())});
  const auto entry = std::prev(entries_.end());
  place.names[id] = entry;
  index(place, entry);
  tokens_ += static_cast<int64_t>(tokens.size());
  while (tokens_ > most_tokens_) forget(entries_.begin());
  return id;
}

void KnownTexts::index(Space& space, Entries::iterator entry) {
  const std::span<const int32_t> text = *entry->text;
  for (const int32_t offset : window_offsets(static_cast<int32_t>(text.size()))) {
    std::vector<Place>& places = space.windows[hash_of(text.subspan(offset, window))];
    if (places.size() < most_places) places.push_back({entry, offset});
  }
}

void KnownTexts::forget(Entries::iterator entry) {
  Space& space = spaces_[entry->space];
  const std::span<const int32_t> text = *entry->text;
  for (const int32_t offset : window_offsets(static_cast<int32_t>(text.size()))) {
    const auto found = space.windows.find(hash_of(text.subspan(offset, window)));
    if (found == space.windows.end()) continue;
    std::erase_if(found->second, [&](const Place& place) { return place.entry == entry; });
    if (found->second.empty()) space.windows.erase(found);
  }
  space.names.erase(entry->id);
  if (space.names.empty()) spaces_.erase(entry->space);
  tokens_ -= static_cast<int64_t>(text.size());
  entries_.erase(entry);
}

KnownText KnownTexts::find(const std::string& space, const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto place = spaces_.find(space);
  if (place == spaces_.end()) return nullptr;
  const auto known = place->second.names.find(id);
  if (known == place->second.names.end()) return nullptr;
  entries_.splice(entries_.end(), entries_, known->second);
  return known->second->text;
}

// The longest part around the window at `at` that begins at `earliest` or later; none where no text has the window.
KnownPart KnownTexts::longest_at(const std::vector<Place>& places, std::span<const int32_t> prompt, int32_t at, int32_t earliest) {
  KnownPart longest;
  Entries::iterator owner;
  for (const Place& place : places) {
    const std::vector<int32_t>& text = *place.entry->text;
    int32_t count = 0;
    const auto most = static_cast<int32_t>(std::min(prompt.size() - at, text.size() - place.offset));
    while (count < most && prompt[at + count] == text[place.offset + count]) ++count;
    if (count < window) continue;  // another window of the same hash
    int32_t before = 0;
    const int32_t most_before = std::min(at - earliest, place.offset);
    while (before < most_before && prompt[at - before - 1] == text[place.offset - before - 1]) ++before;
    if (before + count <= longest.count) continue;
    longest = {place.entry->text, at - before, place.offset - before, before + count};
    owner = place.entry;
  }
  if (longest.count > 0) entries_.splice(entries_.end(), entries_, owner);
  return longest;
}

std::vector<KnownPart> KnownTexts::find_in(const std::string& space, std::span<const int32_t> prompt, int32_t least) {
  std::vector<KnownPart> parts;
  const auto size = static_cast<int32_t>(prompt.size());
  const std::lock_guard lock(mutex_);
  const auto known = spaces_.find(space);
  if (known == spaces_.end() || size < window) return parts;
  const auto& windows = known->second.windows;
  RollingHash hash;
  int32_t hashed = 0, earliest = 0;  // tokens in the hash; where the next part may begin
  for (int32_t end = 1; end <= size; ++end) {
    hash.push(prompt[end - 1]);
    if (++hashed > window) {
      hash.drop(prompt[end - 1 - window]);
      hashed = window;
    }
    if (hashed < window) continue;
    const auto found = windows.find(hash.hash());
    if (found == windows.end()) continue;
    KnownPart part = longest_at(found->second, prompt, end - window, earliest);
    if (part.count < std::max(least, window)) continue;
    earliest = end = part.begin + part.count;
    hash = {};
    hashed = 0;
    parts.push_back(std::move(part));
  }
  return parts;
}

int64_t KnownTexts::tokens() const {
  const std::lock_guard lock(mutex_);
  return tokens_;
}

}  // namespace onset
