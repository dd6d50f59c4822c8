// Pages of texts that were read before, found again by their token ids: a radix tree whose edges are whole pages.
//
// Each node stands for the page_tokens tokens that follow its parent's, and holds their pages of every layer and group. Sequences share
// whole pages; the tail of a text that ended inside a page is a leaf with fewer tokens, and what continues it takes a copy. Two texts that
// part inside a page share what comes before that page, and the one that comes later copies the common part of it.
//
// The tree holds pages that nobody else needs only as long as nobody else wants them: what is idle goes, the least recently used first,
// when the pool runs out (reclaim). A layer with a window or a pattern of blocks shares the pages that it still reaches.
//
// Pages are found only within a space (the caller's identity: one API key's texts, say); the model, its precision and the kind of pages are
// those of the pool.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "onset/kv/page_pool.h"
#include "onset/kv/sequence_cache.h"

namespace onset {

class PrefixCache;

// The part of a sequence's pages that the tree has too. While a sequence has one, those pages stay.
class PrefixLease {
 public:
  PrefixLease() = default;
  ~PrefixLease();
  PrefixLease(const PrefixLease&) = delete;
  PrefixLease& operator=(const PrefixLease&) = delete;

  // Tokens in the tree, from the sequence's first one on; a multiple of page_tokens.
  int32_t tokens() const { return static_cast<int32_t>(path_.size()) * page_tokens; }
  // Lets go of what lies beyond the first `tokens` tokens.
  void cut(int32_t tokens);

 private:
  friend class PrefixCache;
  struct Node;
  PrefixCache* cache_ = nullptr;
  std::vector<Node*> path_;
};

class PrefixCache {
 public:
  // Reclaims from the tree whenever the pool runs out. Both must outlive it, and it all leases.
  PrefixCache(const CacheLayout& layout, PagePool& pool);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // What is known of a text that begins with `tokens`.
  struct Match {
    int32_t tokens = 0;        // that attach() would find now
    int64_t shared_pages = 0;  // of them, pages that somebody else holds anyway
  };
  Match match(const std::string& space, std::span<const int32_t> tokens) const;
  // Grows with each change that could change a match.
  uint64_t version() const { return version_; }

  // Gives an empty sequence the known pages of the longest known beginning of `tokens`; returns how many tokens that is. At most one page
  // of each table is copied; without room for the copy the tokens of that page are left out.
  int32_t attach(const std::string& space, std::span<const int32_t> tokens, SequenceCache& sequence, PrefixLease& lease);
  // Adds the whole pages of `tokens`, whose keys and values the sequence has in slots 0, 1, ... Where the tree has a page already, the
  // sequence gives up its own for it.
  void publish(const std::string& space, std::span<const int32_t> tokens, SequenceCache& sequence, PrefixLease& lease);
  // The same, and the tokens in the last page too. The sequence ends here: it must not write to that page again.
  void publish_all(const std::string& space, std::span<const int32_t> tokens, SequenceCache& sequence, PrefixLease& lease);

  // Gives back to the pool what nobody uses, until `pages` are free there or nothing is left to give.
  void reclaim(int64_t pages);
  // Forgets all that nobody uses.
  void clear() { reclaim(pool_->pages()); }

  // How pages are accounted for: pages of layers that keep everything that are in the tree and in use by some sequence; and of these, those
  // of one lease, and the ones of them that others use too.
  int64_t pinned_pages() const { return used_nodes_ * node_pages_; }
  int64_t pages(const PrefixLease& lease) const { return node_pages_ * static_cast<int64_t>(lease.path_.size()); }
  int64_t shared_pages(const PrefixLease& lease) const;
  // Pages that only the tree holds and would give back.
  int64_t idle_pages() const { return idle_pages_; }
  // Adds one to the count of each page that the tree holds. references: [pages of the pool].
  void count_references(std::span<int32_t> references) const;

 private:
  using Node = PrefixLease::Node;
  friend class PrefixLease;

  struct Found {
    std::vector<Node*> path;
    Node* tail = nullptr;  // the first `tail_tokens` slots of its pages continue the path
    int32_t tail_tokens = 0;
    int32_t tokens() const { return static_cast<int32_t>(path.size()) * page_tokens + tail_tokens; }
  };
  Found find(const std::string& space, std::span<const int32_t> tokens) const;
  bool windows_are_kept(const Found& found) const;
  Node& end_of(const std::string& space, const PrefixLease& lease);
  Node* extend(Node& parent, std::span<const int32_t> tokens, SequenceCache& sequence, int32_t page);
  void drop_beginnings(Node& parent, std::span<const int32_t> tokens);
  void use(Node& node);
  void leave(Node& node);
  void touch(Node& node);
  void remove(Node& node);
  void erase(Node& node);
  void drop_window_pages(Node& node);
  void list_if_idle_leaf(Node& node);
  int64_t pages_in(const Node& node) const;

  const CacheLayout* layout_;
  PagePool* pool_;
  std::map<std::string, std::unique_ptr<Node>> roots_;  // by space
  std::set<std::pair<uint64_t, Node*>> idle_leaves_;    // by when they were last used
  uint64_t clock_ = 0, version_ = 0;
  int64_t node_pages_ = 0;  // of a whole node, in layers that keep everything
  int64_t used_nodes_ = 0, idle_pages_ = 0;
};

}  // namespace onset
