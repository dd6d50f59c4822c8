// Texts that were read by themselves, known by their tokens: found again by a name, or wherever they stand in a prompt.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace onset {

using KnownText = std::shared_ptr<const std::vector<int32_t>>;

// The name of a text: "ctx-" and 32 hexadecimal digits of the SHA-256 of its token ids.
std::string text_id(std::span<const int32_t> tokens);

// A part of a prompt that a known text has too.
struct KnownPart {
  KnownText text;
  int32_t begin = 0;  // in the prompt
  int32_t from = 0;   // in the text
  int32_t count = 0;  // tokens
};

// Several threads may use it at once. Who asks with one space learns nothing of the texts of another.
class KnownTexts {
 public:
  // Texts whose first and last tokens are so few are not found inside prompts; longer ones are, down to parts of this length that begin
  // at any token of the prompt (and contain a whole window of the text, which begin every `window` tokens).
  static constexpr int32_t window = 32;

  // The least recently used texts go when there are more tokens than `most_tokens`.
  explicit KnownTexts(int64_t most_tokens = int64_t{1} << 24) : most_tokens_(most_tokens) {}
  KnownTexts(const KnownTexts&) = delete;
  KnownTexts& operator=(const KnownTexts&) = delete;

  // Returns its name. A text that is known already counts as used; one of more than `most_tokens` is not kept.
  std::string add(const std::string& space, std::span<const int32_t> tokens);
  // Null: there is none of this name.
  KnownText find(const std::string& space, const std::string& id);
  // Parts of the prompt that known texts have, each of `least` tokens or more, ascending and apart from each other: a rolling hash finds
  // windows of known texts, which are compared token by token and then extended to both sides (as rsync does with files).
  std::vector<KnownPart> find_in(const std::string& space, std::span<const int32_t> prompt, int32_t least);
  int64_t tokens() const;

 private:
  struct Entry {
    std::string space, id;
    KnownText text;
  };
  using Entries = std::list<Entry>;  // the least recently used first
  struct Place {
    Entries::iterator entry;
    int32_t offset = 0;
  };
  struct Space {
    std::unordered_map<std::string, Entries::iterator> names;
    std::unordered_map<uint64_t, std::vector<Place>> windows;
  };
  void index(Space& space, Entries::iterator entry);
  void forget(Entries::iterator entry);
  KnownPart longest_at(const std::vector<Place>& places, std::span<const int32_t> prompt, int32_t at, int32_t earliest);

  mutable std::mutex mutex_;  // of all below
  const int64_t most_tokens_;
  int64_t tokens_ = 0;
  Entries entries_;
  std::unordered_map<std::string, Space> spaces_;
};

}  // namespace onset
