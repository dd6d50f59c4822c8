// How grammars are made: nondeterministic drafts, put together piece by piece, become deterministic automata,
// and these the rules of a grammar.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"
#include "onset/text/grammar.h"

namespace onset {

// A nondeterministic automaton over numbers: bytes, or code points on the way to bytes. Place 0 is its start.
class AutomatonDraft {
 public:
  using Place = uint32_t;
  struct Edge {
    uint32_t first = 0, last = 0;
    CountMark mark = CountMark::none;
    Place to = 0;
  };
  struct Node {
    std::vector<Edge> edges = {};
    std::vector<Place> skips = {};        // to places that are reached without a symbol
    std::vector<GrammarCall> calls = {};  // `back` is a place
    bool final = false;
  };

  AutomatonDraft() { add(); }
  Place add();
  void edge(Place from, uint32_t first, uint32_t last, Place to, CountMark mark = CountMark::none);
  void skip(Place from, Place to) { nodes_[from].skips.push_back(to); }
  void call(Place from, uint32_t rule, Place to) { nodes_[from].calls.push_back({rule, to}); }
  void set_final(Place place) { nodes_[place].final = true; }
  // The place after this text, byte by byte.
  Place literal(Place from, std::string_view bytes);

  const std::vector<Node>& nodes() const { return nodes_; }
  size_t size() const { return nodes_.size(); }

 private:
  std::vector<Node> nodes_;
};

// A deterministic automaton; state 0 is its start.
struct Automaton {
  struct State {
    std::vector<AutomatonDraft::Edge> edges = {};  // by symbol, disjoint
    std::vector<GrammarCall> calls = {};           // `back` is a state
    bool final = false;
  };
  std::vector<State> states;
};

// The subset construction. Errors: resource_exhausted beyond `limit` states.
Result<Automaton> determinise(const AutomatonDraft& draft, size_t limit);
// What both accept; neither has calls or marks. Errors: resource_exhausted beyond `limit` states.
Result<Automaton> intersection(const Automaton& a, const Automaton& b, size_t limit);
// The texts over `alphabet` (ranges in order) that an automaton without calls and marks does not accept.
Automaton complement(Automaton automaton, const std::vector<std::pair<char32_t, char32_t>>& alphabet);

class GrammarBuilder {
 public:
  // `limit`: states of the grammar.
  explicit GrammarBuilder(size_t limit) : limit_(limit) {}

  // A rule to be called before it is defined; `name` stands for it in errors.
  uint32_t add_rule(std::string name);
  // A rule must not accept the empty text, unless it is the root. Errors: resource_exhausted beyond the
  // limit.
  Status define(uint32_t rule, const AutomatonDraft& draft, uint32_t least = 0, uint32_t most = GrammarRule::unbounded);
  // The grammar with this root. Leaves out what no text can come through. Errors: invalid_argument for a rule
  // that calls itself before any byte, or if there is no text at all.
  Result<Grammar> finish(uint32_t root);

  size_t limit() const { return limit_; }

 private:
  struct Rule {
    std::string name;
    GrammarRule rule;
    bool nullable = false;
  };
  std::vector<bool> live_states() const;
  Status check_recursion(const std::vector<bool>& live) const;
  void fill_first_bytes(Grammar& grammar) const;

  size_t limit_;
  std::vector<Rule> rules_;
  std::vector<Automaton::State> states_;  // of all rules
  std::vector<uint32_t> rule_of_;
};

}  // namespace onset
