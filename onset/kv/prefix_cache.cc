#include "onset/kv/prefix_cache.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <numeric>

namespace onset {
namespace {

// Token lists in dictionary order: the list with the longest common beginning stands beside the place of any other.
struct DictionaryOrder {
  using is_transparent = void;
  bool operator()(std::span<const int32_t> a, std::span<const int32_t> b) const {
    return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
  }
};

int32_t common_beginning(std::span<const int32_t> a, std::span<const int32_t> b) {
  const auto [end, ignored] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<int32_t>(end - a.begin());
}

}  // namespace

struct PrefixLease::Node {
  using Children = std::map<std::vector<int32_t>, std::unique_ptr<Node>, DictionaryOrder>;

  Node* parent = nullptr;  // null: the root of a space
  std::string space;       // of a root
  Children children;
  Children::iterator place;   // among the parent's children
  std::vector<PageId> pages;  // by layer, then group; no_page where a window has left it
  int32_t users = 0;          // leases
  uint64_t used_at = 0;

  std::span<const int32_t> tokens() const { return place->first; }
  bool whole() const { return place->first.size() == page_tokens; }
};

PrefixLease::~PrefixLease() {
  cut(0);
}

void PrefixLease::cut(int32_t tokens) {
  // From the end: a parent is used more recently than its children, and goes after them.
  for (; this->tokens() > tokens; path_.pop_back()) cache_->leave(*path_.back());
}

PrefixCache::PrefixCache(const CacheLayout& layout, PagePool& pool) : layout_(&layout), pool_(&pool) {
  for (int layer = 0; layer < layout.layers; ++layer) {
    for (int group = 0; group < layout.head_groups; ++group) node_pages_ += !layout.forgets(layer, group);
  }
  pool.set_reclaimer([this](int64_t pages) { reclaim(pages); });
}

PrefixCache::~PrefixCache() {
  clear();
  assert(roots_.empty());
  pool_->set_reclaimer(nullptr);
}

// --- looking up ---------------------------------------------------------------------------------------------------

// Whether a layer whose rows see `window` positions (0 = all) needs page number `page` to go on after `tokens` tokens.
bool PrefixCache::windows_are_kept(const Found& found) const {
  const auto nodes = static_cast<int32_t>(found.path.size());
  for (int32_t table = 0; table < layout_->layers * layout_->head_groups; ++table) {
    const int32_t layer = table / layout_->head_groups, group = table % layout_->head_groups;
    if (!layout_->forgets(layer, group)) continue;
    for (int32_t page = nodes; page >= 0; --page) {
      if (!layout_->needs(layer, group, page, found.tokens())) {
        if (!layout_->pattern(layer, group).any()) break;  // a window: nothing before it either
        continue;
      }
      const Node* node = page == nodes ? found.tail : found.path[page];
      if (node != nullptr && node->pages[table] == no_page) return false;
    }
  }
  return true;
}

PrefixCache::Found PrefixCache::find(const std::string& space, std::span<const int32_t> tokens) const {
  Found found;
  const auto root = roots_.find(space);
  if (root == roots_.end()) return found;
  Node* node = root->second.get();
  while (node != nullptr) {
    const std::span<const int32_t> rest = tokens.subspan(found.path.size() * page_tokens);
    const std::span<const int32_t> next = rest.first(std::min<size_t>(rest.size(), page_tokens));
    if (next.empty()) break;
    const auto after = node->children.lower_bound(next);
    // Of all children, one of the two neighbours has the most in common.
    for (auto child : {after, after == node->children.begin() ? node->children.end() : std::prev(after)}) {
      if (child == node->children.end()) continue;
      const int32_t common = common_beginning(child->first, next);
      if (common <= found.tail_tokens) continue;
      found.tail = child->second.get();
      found.tail_tokens = common;
    }
    node = nullptr;
    if (found.tail_tokens == page_tokens) {
      node = found.tail;
      found.path.push_back(node);
      found.tail = nullptr;
      found.tail_tokens = 0;
    }
  }
  // Where a window's pages are gone, an earlier end may still have them.
  while (found.tokens() > 0 && !windows_are_kept(found)) {
    if (found.tail == nullptr) found.path.pop_back();
    found.tail = nullptr;
    found.tail_tokens = 0;
  }
  return found;
}

PrefixCache::Match PrefixCache::match(const std::string& space, std::span<const int32_t> tokens) const {
  const Found found = find(space, tokens);
  const auto used = std::count_if(found.path.begin(), found.path.end(), [](const Node* node) { return node->users > 0; });
  return {.tokens = found.tokens(), .shared_pages = used * node_pages_};
}

int64_t PrefixCache::shared_pages(const PrefixLease& lease) const {
  return node_pages_ * std::count_if(lease.path_.begin(), lease.path_.end(), [](const Node* node) { return node->users > 1; });
}

void PrefixCache::count_references(std::span<int32_t> references) const {
  std::vector<const Node*> rest;
  for (const auto& [space, root] : roots_) rest.push_back(root.get());
  while (!rest.empty()) {
    const Node& node = *rest.back();
    rest.pop_back();
    for (const PageId page : node.pages) {
      if (page != no_page) ++references[page];
    }
    for (const auto& [tokens, child] : node.children) rest.push_back(child.get());
  }
}

// --- who uses what ------------------------------------------------------------------------------------------------

int64_t PrefixCache::pages_in(const Node& node) const {
  return std::count_if(node.pages.begin(), node.pages.end(), [](PageId page) { return page != no_page; });
}

void PrefixCache::list_if_idle_leaf(Node& node) {
  if (node.parent != nullptr && node.users == 0 && node.children.empty()) idle_leaves_.insert({node.used_at, &node});
}

void PrefixCache::use(Node& node) {
  if (node.users++ > 0) return;
  idle_leaves_.erase({node.used_at, &node});
  ++version_;
  ++used_nodes_;
  idle_pages_ -= pages_in(node);
}

void PrefixCache::leave(Node& node) {
  node.used_at = ++clock_;
  if (--node.users > 0) return;
  ++version_;
  --used_nodes_;
  idle_pages_ += pages_in(node);
  list_if_idle_leaf(node);
}

void PrefixCache::touch(Node& node) {
  const bool listed = idle_leaves_.erase({node.used_at, &node}) > 0;
  node.used_at = ++clock_;
  if (listed) idle_leaves_.insert({node.used_at, &node});
}

// --- sharing ------------------------------------------------------------------------------------------------------

int32_t PrefixCache::attach(const std::string& space, std::span<const int32_t> tokens, SequenceCache& sequence, PrefixLease& lease) {
  assert(lease.path_.empty());
  Found found = find(space, tokens);
  lease.cache_ = this;
  for (Node* node : found.path) use(*node);
  lease.path_ = found.path;
  if (found.tail != nullptr) {
    touch(*found.tail);
    use(*found.tail);
    const int64_t copies = pages_in(*found.tail);
    const bool room = pool_->make_room(copies);
    leave(*found.tail);
    if (!room) {
      found.tail = nullptr;
      found.tail_tokens = 0;
      // The end is another one now: windows may reach pages that were not looked at.
      if (!windows_are_kept(found)) {
        lease.cut(0);
        return 0;
      }
    }
  }
  const auto nodes = static_cast<int32_t>(found.path.size());
  std::vector<int32_t> positions(page_tokens);
  for (int32_t page = 0; page <= nodes; ++page) {
    const Node* node = page < nodes ? found.path[page] : found.tail;
    if (node == nullptr) continue;
    positions.resize(page < nodes ? page_tokens : found.tail_tokens);
    std::iota(positions.begin(), positions.end(), page * page_tokens);
    for (int32_t layer = 0; layer < layout_->layers; ++layer) {
      for (int32_t group = 0; group < layout_->head_groups; ++group) {
        const bool wanted = layout_->needs(layer, group, page, found.tokens());
        PageId id = wanted ? node->pages[layer * layout_->head_groups + group] : no_page;
        if (id != no_page && page < nodes) pool_->share(id);
        if (id != no_page && page == nodes) {
          const PageId copy = pool_->acquire();
          std::memcpy(pool_->data(copy), pool_->data(id), pool_->page_bytes());
          id = copy;
        }
        sequence.attach_page(layer, group, id, positions);
      }
    }
  }
  return found.tokens();
}

// Leaves that are nothing but a beginning of `tokens`: whoever looks for them finds the longer one.
void PrefixCache::drop_beginnings(Node& parent, std::span<const int32_t> tokens) {
  auto child = parent.children.lower_bound(tokens);
  while (child != parent.children.begin()) {
    Node& before = *std::prev(child)->second;
    if (before.users > 0 || before.whole() || common_beginning(before.tokens(), tokens) < static_cast<int32_t>(before.tokens().size()))
      return;
    erase(before);  // the parent stays: something is about to be added to it
    child = parent.children.lower_bound(tokens);
  }
}

// Where the lease's sequence goes on: its last node, or the root of the space, made if it is missing.
PrefixCache::Node& PrefixCache::end_of(const std::string& space, const PrefixLease& lease) {
  if (!lease.path_.empty()) return *lease.path_.back();
  std::unique_ptr<Node>& root = roots_[space];
  if (root == nullptr) {
    root = std::make_unique<Node>();
    root->space = space;
  }
  return *root;
}

// The child of `parent` for these tokens, which are page number `page` of the sequence; made if it is missing.
PrefixCache::Node* PrefixCache::extend(Node& parent, std::span<const int32_t> tokens, SequenceCache& sequence, int32_t page) {
  ++version_;
  auto child = parent.children.find(tokens);
  if (child == parent.children.end()) {
    idle_leaves_.erase({parent.used_at, &parent});
    drop_beginnings(parent, tokens);
    child = parent.children.emplace(std::vector<int32_t>(tokens.begin(), tokens.end()), std::make_unique<Node>()).first;
    Node& made = *child->second;
    made.parent = &parent;
    made.place = child;
    made.used_at = ++clock_;
    made.pages.assign(static_cast<size_t>(layout_->layers) * layout_->head_groups, no_page);
    list_if_idle_leaf(made);
  }
  Node& node = *child->second;
  for (int32_t layer = 0; layer < layout_->layers; ++layer) {
    for (int32_t group = 0; group < layout_->head_groups; ++group) {
      PageId& known = node.pages[layer * layout_->head_groups + group];
      const PageId own = sequence.page(layer, group, page);
      if (own == no_page || own == known) continue;
      if (known == no_page) {
        pool_->share(own);
        known = own;
        idle_pages_ += node.users == 0;
      } else {
        sequence.replace_page(layer, group, page, known);
      }
    }
  }
  return &node;
}

void PrefixCache::publish(const std::string& space, std::span<const int32_t> tokens, SequenceCache& sequence, PrefixLease& lease) {
  const auto whole = static_cast<int32_t>(tokens.size()) / page_tokens * page_tokens;
  lease.cache_ = this;
  while (lease.tokens() < whole) {
    const auto page = static_cast<int32_t>(lease.path_.size());
    Node* node = extend(end_of(space, lease), tokens.subspan(lease.tokens(), page_tokens), sequence, page);
    use(*node);
    lease.path_.push_back(node);
  }
}

void PrefixCache::publish_all(const std::string& space, std::span<const int32_t> tokens, SequenceCache& sequence, PrefixLease& lease) {
  publish(space, tokens, sequence, lease);
  const std::span<const int32_t> tail = tokens.subspan(lease.tokens());
  if (tail.empty()) return;
  Node& parent = end_of(space, lease);
  // A longer one that begins so serves as well.
  const auto after = parent.children.lower_bound(tail);
  if (after != parent.children.end() && common_beginning(after->first, tail) == static_cast<int32_t>(tail.size())) return;
  extend(parent, tail, sequence, static_cast<int32_t>(lease.path_.size()));
}

// --- giving back --------------------------------------------------------------------------------------------------

void PrefixCache::erase(Node& node) {
  idle_leaves_.erase({node.used_at, &node});
  idle_pages_ -= pages_in(node);
  for (const PageId page : node.pages) {
    if (page != no_page) pool_->release(page);
  }
  node.parent->children.erase(node.place);
}

void PrefixCache::remove(Node& node) {
  Node& parent = *node.parent;
  erase(node);
  if (parent.parent != nullptr) {
    list_if_idle_leaf(parent);
  } else if (parent.children.empty()) {
    const std::string space = parent.space;
    roots_.erase(space);
  }
}

// Pages that only windows of texts yet to come might look at.
void PrefixCache::drop_window_pages(Node& node) {
  for (const auto& [tokens, child] : node.children) drop_window_pages(*child);
  if (node.parent == nullptr || node.users == 0) return;
  for (int32_t layer = 0; layer < layout_->layers; ++layer) {
    for (int32_t group = 0; group < layout_->head_groups; ++group) {
      if (!layout_->forgets(layer, group)) continue;
      PageId& page = node.pages[layer * layout_->head_groups + group];
      if (page == no_page || pool_->references(page) > 1) continue;
      pool_->release(page);
      page = no_page;
    }
  }
}

void PrefixCache::reclaim(int64_t pages) {
  if (pool_->free_pages() >= pages) return;
  ++version_;
  while (pool_->free_pages() < pages && !idle_leaves_.empty()) remove(*idle_leaves_.begin()->second);
  if (pool_->free_pages() >= pages || node_pages_ == int64_t{layout_->layers} * layout_->head_groups) return;
  for (const auto& [space, root] : roots_) drop_window_pages(*root);
}

}  // namespace onset
