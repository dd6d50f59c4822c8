// A language over bytes that an answer must stay in: a pushdown automaton whose frames can count.
//
// A grammar is a list of states, each of which belongs to a rule. Within a rule the states form a
// deterministic automaton; an edge consumes one byte, a call runs another rule and comes back. Two calls that
// begin with the same byte make the run nondeterministic: it follows all of them at once. A rule may count
// (commas of an array, characters of a string): marked edges add one, and other marked edges are open only
// within the rule's bounds, so that long limits cost no states. Grammars are built by GrammarBuilder
// (grammar_builder.h) and the compilers on top of it (json_schema.h, tool_calls.h).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace onset {

// What an edge has to do with its rule's counter.
enum class CountMark : uint8_t {
  none,
  adds,    // open while the count is below the most allowed; adds one
  closes,  // open when the count has reached the least allowed
};

struct GrammarEdge {
  uint8_t first = 0, last = 0;  // bytes
  CountMark mark = CountMark::none;
  uint32_t target = 0;  // state
};

struct GrammarCall {
  uint32_t rule = 0;
  uint32_t back = 0;  // the state after it
};

struct GrammarRule {
  static constexpr uint32_t unbounded = UINT32_MAX;
  uint32_t start = 0;  // state
  uint32_t least = 0, most = unbounded;
};

struct GrammarState {
  uint32_t edges = 0,
           calls = 0;  // where they begin in the grammar's lists; the next state's begin is their end
  uint32_t rule = 0;
  bool final = false;  // the rule may end here
  // Every plain byte (0x20 to 0x7e but '"' and '\\', the inside of a JSON string) leads back to this state,
  // with this mark.
  bool loops = false;
  CountMark loop_mark = CountMark::none;
};

// Immutable.
class Grammar {
 public:
  std::span<const GrammarEdge> edges(uint32_t state) const {
    return std::span(edges_).subspan(states_[state].edges, states_[state + 1].edges - states_[state].edges);
  }
  std::span<const GrammarCall> calls(uint32_t state) const {
    return std::span(calls_).subspan(states_[state].calls, states_[state + 1].calls - states_[state].calls);
  }
  const GrammarState& state(uint32_t state) const { return states_[state]; }
  const GrammarRule& rule(uint32_t rule) const { return rules_[rule]; }
  // Whether a run of the rule can begin with this byte.
  bool begins(uint32_t rule, uint8_t byte) const { return first_bytes_[rule][byte / 64] >> (byte % 64) & 1; }
  uint32_t states() const { return static_cast<uint32_t>(states_.size()) - 1; }
  uint32_t root() const { return root_; }  // rule

 private:
  friend class GrammarBuilder;
  std::vector<GrammarState> states_;  // one more than there are
  std::vector<GrammarEdge> edges_;    // of each state by byte
  std::vector<GrammarCall> calls_;
  std::vector<GrammarRule> rules_;
  std::vector<std::array<uint64_t, 4>> first_bytes_;
  uint32_t root_ = 0;
};

// The stacks of a run: frames that share their parents, addressed by index, kept in one vector that is cut
// back where a run is taken back. A run is a set of stacks, named by their top frames.
class GrammarStacks {
 public:
  static constexpr uint32_t none = UINT32_MAX;   // no parent: the whole grammar ends with this frame
  static constexpr uint32_t unknown = none - 1;  // a parent that is not known here

  struct Frame {
    uint32_t state = 0;
    uint32_t count = 0;  // stays at the rule's least once that is reached, if there is no most
    uint32_t parent = none;
  };

  explicit GrammarStacks(const Grammar& grammar) : grammar_(&grammar) {}

  uint32_t push(const Frame& frame) {
    frames_.push_back(frame);
    return static_cast<uint32_t>(frames_.size()) - 1;
  }
  const Frame& frame(uint32_t index) const { return frames_[index]; }
  size_t size() const { return frames_.size(); }
  void cut(size_t size) { frames_.resize(size); }

  // Appends the tops of the stacks that `top` becomes with this byte, without those that are in `tops` from
  // `begin` on already.
  void step(uint32_t top, uint8_t byte, std::vector<uint32_t>& tops, size_t begin);
  // Whether all rules from this frame up to a frame whose parent is `outer` (none or unknown) may end.
  bool may_end(uint32_t top, uint32_t outer) const;
  bool same(uint32_t a, uint32_t b) const;
  // Forgets every frame that is not in these stacks; `tops` become their new names.
  void keep(std::span<uint32_t> tops);

 private:
  const Grammar* grammar_;
  std::vector<Frame> frames_, kept_;
  std::vector<uint32_t> names_;
};

// One text's way through a grammar, byte by byte.
class GrammarRun {
 public:
  explicit GrammarRun(std::shared_ptr<const Grammar> grammar);

  // False if no continuation of the text so far begins with these bytes; the run is dead from there on.
  bool accept(std::string_view bytes);
  // Whether the text so far is complete.
  bool may_end() const;
  bool dead() const { return tops_.empty(); }
  void kill() { tops_.clear(); }
  // Stacks that are followed at once: 1 unless alternatives begin alike.
  std::span<const uint32_t> tops() const { return tops_; }
  GrammarStacks& stacks() { return stacks_; }
  const Grammar& grammar() const { return *grammar_; }

 private:
  std::shared_ptr<const Grammar> grammar_;
  GrammarStacks stacks_;
  std::vector<uint32_t> tops_, next_;
};

}  // namespace onset
