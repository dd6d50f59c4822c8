// A grammar in terms of a tokenizer's vocabulary: which tokens may come next.
//
// A token may come next if its bytes, all of them, continue some text of the grammar: it may end one part and
// begin others, and it may cut a UTF-8 character. End-of-answer tokens may come exactly when the text is
// complete; other special tokens never. Masks are computed by walking the vocabulary as a trie of bytes, once
// for each state of the grammar and shared by all sequences; only tokens that leave the innermost open part
// are looked at again for each sequence.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "onset/text/grammar.h"
#include "onset/text/tokenizer.h"

namespace onset {

// A vocabulary as a trie of bytes in depth-first order. Immutable; one for each tokenizer serves all
// grammars.
class TokenTrie {
 public:
  static std::shared_ptr<const TokenTrie> create(const Tokenizer& tokenizer);

  struct Node {
    uint8_t byte = 0;
    uint8_t plain_height = 0;  // bytes from here to the deepest node below, this one included, if all are
                               // plain bytes (see GrammarState::loops) and no more than 254; 0 otherwise
    uint16_t depth = 0;        // bytes from the root, this one included
    uint32_t end = 0;          // the node after all below this one
    uint32_t tokens = 0;       // where the tokens that end here begin; all below follow
  };
  std::span<const Node> nodes() const { return {nodes_.data(), nodes_.size() - 1}; }
  // Tokens that end at the node; at it or below it.
  std::span<const TokenId> tokens_at(uint32_t node) const {
    return std::span(tokens_).subspan(nodes_[node].tokens, nodes_[node + 1].tokens - nodes_[node].tokens);
  }
  std::span<const TokenId> tokens_below(uint32_t node) const {
    return std::span(tokens_).subspan(nodes_[node].tokens, nodes_[nodes_[node].end].tokens - nodes_[node].tokens);
  }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  size_t mask_words() const { return (static_cast<size_t>(tokenizer_.vocabulary_size()) + 63) / 64; }
  uint32_t longest() const { return longest_; }  // token, bytes

 private:
  explicit TokenTrie(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  Tokenizer tokenizer_;
  std::vector<Node> nodes_;      // and one more, the end
  std::vector<TokenId> tokens_;  // as their nodes stand
  uint32_t longest_ = 0;
};

// What a state's frame alone says about every token; made at first need.
struct StateMask {
  std::vector<uint64_t> allowed;  // tokens that stay inside the frame, or end with it
  std::vector<uint32_t> leaves;   // trie nodes with children, after which the frame may end: what follows is up to its parent
  bool ends = false;              // the frame may end before any byte
};

// A grammar with a vocabulary. Shared by requests; every function may be called from any number of threads.
class TokenGrammar {
 public:
  TokenGrammar(Grammar grammar, std::shared_ptr<const TokenTrie> vocabulary);

  const std::shared_ptr<const Grammar>& grammar() const { return grammar_; }
  const TokenTrie& vocabulary() const { return *vocabulary_; }
  // The mask of a frame in this state. Kept up to a limit of memory.
  std::shared_ptr<const StateMask> mask(uint32_t state, uint32_t count) const;

 private:
  std::shared_ptr<const Grammar> grammar_;
  std::shared_ptr<const TokenTrie> vocabulary_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<uint64_t, std::shared_ptr<const StateMask>> masks_;
};

// One answer's place in a grammar.
class TokenConstraint {
 public:
  explicit TokenConstraint(std::shared_ptr<const TokenGrammar> grammar);

  // One bit for each token of the vocabulary (bit t % 64 of word t / 64): whether it may come next. Valid
  // until accept().
  std::span<const uint64_t> allowed();
  // The token that came. False if it was not allowed; nothing is allowed any more then. After an
  // end-of-answer token nothing is allowed but these.
  bool accept(TokenId token);
  bool may_end() const { return ended_ || run_.may_end(); }

 private:
  void add_mask(uint32_t top);

  std::shared_ptr<const TokenGrammar> grammar_;
  GrammarRun run_;
  std::vector<uint64_t> allowed_;
  bool known_ = false;  // allowed_ is that of the run's place
  bool ended_ = false;
};

}  // namespace onset
