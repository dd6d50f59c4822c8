// Makes known what chunk stores hold: by a thread of its own, again and again, since other processes put chunks there too.
#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "onset/kv/chunk_store.h"
#include "onset/kv/known_texts.h"

namespace onset {

class StoredTexts {
 public:
  // Looks every `period`; zero: only when it is told to. `known` must outlive it.
  StoredTexts(std::vector<std::shared_ptr<ChunkStore>> stores, ChunkIdentity identity, KnownTexts& known, std::chrono::milliseconds period);
  ~StoredTexts();
  StoredTexts(const StoredTexts&) = delete;
  StoredTexts& operator=(const StoredTexts&) = delete;

  // Texts of this space are wanted from now on. A chunk does not say whose it is: who has its space can tell by its key.
  void want(const std::string& space);
  // Looks now, unless somebody did a moment ago. Any thread.
  void look();

 private:
  void look_in_turn();
  void tell(const std::string& key, const ChunkText& text, const std::string& space);

  const std::vector<std::shared_ptr<ChunkStore>> stores_;
  const ChunkIdentity identity_;
  KnownTexts& known_;
  const std::chrono::milliseconds period_;

  std::mutex looking_;                                   // of the next three
  std::vector<std::map<std::string, ChunkText>> texts_;  // of each store, by key; chunks of other models have none
  std::set<std::string> told_;                           // spaces that know all of these
  std::chrono::steady_clock::time_point looked_{};

  std::mutex mutex_;  // of all below
  std::condition_variable changed_;
  std::set<std::string> spaces_;
  bool wanted_ = false, ends_ = false;
  std::thread thread_;
};

}  // namespace onset
