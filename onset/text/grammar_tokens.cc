#include "onset/text/grammar_tokens.h"

#include <algorithm>
#include <string_view>

namespace onset {
namespace {

constexpr size_t most_mask_bytes = size_t{64} << 20;  // kept for one grammar

bool is_plain(uint8_t byte) {
  return byte >= 0x20 && byte <= 0x7e && byte != '"' && byte != '\\';
}

void set_bits(std::span<uint64_t> words, std::span<const TokenId> tokens) {
  for (const TokenId token : tokens) words[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
}

// Walks the part of a trie that a set of stacks can follow, marking tokens.
class TrieWalk {
 public:
  TrieWalk(const Grammar& grammar, const TokenTrie& trie, GrammarStacks& stacks, std::span<uint64_t> allowed)
      : grammar_(grammar), trie_(trie), stacks_(stacks), allowed_(allowed) {}

  // Everything below `node`, with this stack in front of it. `leaves`: receives the nodes with children after
  // which a frame whose parent is unknown may end; may be null.
  void below(uint32_t node, uint32_t top, std::vector<uint32_t>* leaves) {
    const auto nodes = trie_.nodes();
    const uint32_t end = nodes[node].end;
    const uint16_t base = nodes[node].depth;
    const size_t kept = stacks_.size();
    tops_.assign(1, top);
    levels_.assign(1, {0, 1, kept});
    for (uint32_t i = node + 1; i < end;) {
      const TokenTrie::Node& each = nodes[i];
      const size_t depth = static_cast<size_t>(each.depth - base);
      levels_.resize(depth);
      const Level before = levels_.back();
      if (takes_all(before, each)) {
        set_bits(allowed_, trie_.tokens_below(i));
        i = each.end;
        continue;
      }
      tops_.resize(before.end);
      stacks_.cut(before.frames);
      for (size_t k = before.begin; k < before.end; ++k) stacks_.step(tops_[k], each.byte, tops_, before.end);
      if (tops_.size() == before.end) {
        i = each.end;
        continue;
      }
      set_bits(allowed_, trie_.tokens_at(i));
      const bool has_children = each.end > i + 1;
      if (has_children && leaves != nullptr && may_leave(before.end)) leaves->push_back(i);
      levels_.push_back({before.end, tops_.size(), stacks_.size()});
      ++i;
    }
    stacks_.cut(kept);
  }

 private:
  // The stacks in front of the nodes of one depth.
  struct Level {
    size_t begin = 0, end = 0;  // in tops_
    size_t frames = 0;          // of the stacks, up to here
  };

  // Whether the only stack goes on with every token at or below the node.
  bool takes_all(const Level& level, const TokenTrie::Node& node) const {
    if (node.plain_height == 0 || level.end - level.begin != 1) return false;
    const GrammarStacks::Frame& frame = stacks_.frame(tops_[level.begin]);
    const GrammarState& state = grammar_.state(frame.state);
    if (!state.loops || state.final) return false;
    const uint32_t most = grammar_.rule(state.rule).most;
    return state.loop_mark == CountMark::none || most == GrammarRule::unbounded || most - frame.count >= node.plain_height;
  }

  bool may_leave(size_t begin) const {
    return std::any_of(tops_.begin() + static_cast<std::ptrdiff_t>(begin), tops_.end(),
                       [this](uint32_t top) { return stacks_.may_end(top, GrammarStacks::unknown); });
  }

  const Grammar& grammar_;
  const TokenTrie& trie_;
  GrammarStacks& stacks_;
  std::span<uint64_t> allowed_;
  std::vector<uint32_t> tops_;
  std::vector<Level> levels_;
};

}  // namespace

// --- vocabulary
// ---------------------------------------------------------------------------------------------------

std::shared_ptr<const TokenTrie> TokenTrie::create(const Tokenizer& tokenizer) {
  const std::shared_ptr<TokenTrie> trie(new TokenTrie(tokenizer));
  std::vector<std::pair<std::string_view, TokenId>> pieces;
  for (TokenId id = 0; id < tokenizer.vocabulary_size(); ++id) {
    const std::string_view piece = tokenizer.piece(id);
    if (!piece.empty() && piece.size() < UINT16_MAX && !tokenizer.is_special(id)) pieces.emplace_back(piece, id);
  }
  std::sort(pieces.begin(), pieces.end());
  std::vector<Node>& nodes = trie->nodes_;
  nodes.emplace_back();
  std::vector<uint32_t> path{0};  // the nodes of the piece before
  std::string_view before;
  const auto close = [&](size_t depth) {
    for (; path.size() > depth + 1; path.pop_back()) nodes[path.back()].end = static_cast<uint32_t>(nodes.size());
  };
  for (const auto& [piece, id] : pieces) {
    const auto differ = std::mismatch(piece.begin(), piece.end(), before.begin(), before.end()).first;
    const auto shared = static_cast<size_t>(differ - piece.begin());
    close(shared);
    for (size_t depth = shared; depth < piece.size(); ++depth) {
      path.push_back(static_cast<uint32_t>(nodes.size()));
      nodes.push_back({.byte = static_cast<uint8_t>(piece[depth]),
                       .depth = static_cast<uint16_t>(depth + 1),
                       .tokens = static_cast<uint32_t>(trie->tokens_.size())});
    }
    trie->tokens_.push_back(id);
    trie->longest_ = std::max(trie->longest_, static_cast<uint32_t>(piece.size()));
    before = piece;
  }
  close(0);
  nodes[0].end = static_cast<uint32_t>(nodes.size());
  nodes.push_back({.end = nodes[0].end, .tokens = static_cast<uint32_t>(trie->tokens_.size())});
  for (size_t i = nodes.size() - 1; i-- > 1;) {
    unsigned height = is_plain(nodes[i].byte) ? 1 : 0;
    for (uint32_t child = static_cast<uint32_t>(i) + 1; height > 0 && child < nodes[i].end; child = nodes[child].end) {
      const unsigned below = nodes[child].plain_height;
      height = below == 0 || below > 253 ? 0 : std::max(height, below + 1);
    }
    nodes[i].plain_height = static_cast<uint8_t>(height);
  }
  return trie;
}

// --- masks
// --------------------------------------------------------------------------------------------------------

TokenGrammar::TokenGrammar(Grammar grammar, std::shared_ptr<const TokenTrie> vocabulary)
    : grammar_(std::make_shared<const Grammar>(std::move(grammar))), vocabulary_(std::move(vocabulary)) {}

std::shared_ptr<const StateMask> TokenGrammar::mask(uint32_t state, uint32_t count) const {
  // A bound further away than the longest token reaches is as good as none.
  const GrammarRule& rule = grammar_->rule(grammar_->state(state).rule);
  const uint64_t reach = vocabulary_->longest();
  const uint64_t least = std::min<uint64_t>(rule.least - std::min(rule.least, count), reach);
  const uint64_t most = rule.most == GrammarRule::unbounded ? reach : std::min<uint64_t>(rule.most - count, reach);
  const uint64_t key = uint64_t{state} << 32 | least << 16 | most;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = masks_.find(key); found != masks_.end()) return found->second;
  }
  const auto mask = std::make_shared<StateMask>();
  mask->allowed.resize(vocabulary_->mask_words());
  GrammarStacks stacks(*grammar_);
  const uint32_t top = stacks.push({state, count, GrammarStacks::unknown});
  mask->ends = stacks.may_end(top, GrammarStacks::unknown);
  TrieWalk(*grammar_, *vocabulary_, stacks, mask->allowed).below(0, top, &mask->leaves);
  const std::lock_guard lock(mutex_);
  if ((masks_.size() + 1) * mask->allowed.size() * sizeof(uint64_t) > most_mask_bytes) masks_.clear();
  masks_[key] = mask;
  return mask;
}

TokenConstraint::TokenConstraint(std::shared_ptr<const TokenGrammar> grammar)
    : grammar_(std::move(grammar)), run_(grammar_->grammar()), allowed_(grammar_->vocabulary().mask_words()) {}

void TokenConstraint::add_mask(uint32_t top) {
  GrammarStacks& stacks = run_.stacks();
  const GrammarStacks::Frame frame = stacks.frame(top);
  const std::shared_ptr<const StateMask> mask = grammar_->mask(frame.state, frame.count);
  for (size_t i = 0; i < allowed_.size(); ++i) allowed_[i] |= mask->allowed[i];
  if (frame.parent == GrammarStacks::none) return;
  TrieWalk walk(run_.grammar(), grammar_->vocabulary(), stacks, allowed_);
  for (const uint32_t leaf : mask->leaves) walk.below(leaf, frame.parent, nullptr);
  if (mask->ends) add_mask(frame.parent);
}

std::span<const uint64_t> TokenConstraint::allowed() {
  if (known_) return allowed_;
  known_ = true;
  std::fill(allowed_.begin(), allowed_.end(), 0);
  if (!ended_) {
    for (const uint32_t top : run_.tops()) add_mask(top);
  }
  if (may_end()) set_bits(allowed_, grammar_->vocabulary().tokenizer().end_of_generation());
  return allowed_;
}

bool TokenConstraint::accept(TokenId token) {
  const Tokenizer& tokenizer = grammar_->vocabulary().tokenizer();
  known_ = false;
  if (tokenizer.is_end_of_generation(token) && may_end()) {
    ended_ = true;
    return true;
  }
  const bool ordinary = !ended_ && !run_.dead() && !tokenizer.is_special(token) && !tokenizer.piece(token).empty();
  if (ordinary && run_.accept(tokenizer.piece(token))) return true;
  run_.kill();
  ended_ = false;
  return false;
}

}  // namespace onset
