#include "onset/text/grammar_builder.h"

#include <algorithm>
#include <map>
#include <unordered_map>

namespace onset {
namespace {

using Edge = AutomatonDraft::Edge;
using Place = AutomatonDraft::Place;

Status too_large(size_t limit) {
  return error(Code::resource_exhausted, "it takes more than {} states", limit);
}

// Sets of places, each with a number in order of appearance.
class PlaceSets {
 public:
  PlaceSets(const AutomatonDraft& draft, size_t limit) : draft_(draft), seen_(draft.size(), 0), limit_(limit) {}

  // The number of the set of these places and all that are reached from them without a symbol.
  uint32_t number(std::vector<Place> places) {
    ++round_;
    for (size_t i = 0; i < places.size();) {
      if (seen_[places[i]] == round_) {
        places[i] = places.back();
        places.pop_back();
        continue;
      }
      seen_[places[i]] = round_;
      const auto& skips = draft_.nodes()[places[i]].skips;
      places.insert(places.end(), skips.begin(), skips.end());
      ++i;
    }
    std::sort(places.begin(), places.end());
    const auto [found, added] = numbers_.try_emplace(places, static_cast<uint32_t>(sets_.size()));
    if (added) sets_.push_back(std::move(places));
    return found->second;
  }
  size_t size() const { return sets_.size(); }
  bool too_many() const { return sets_.size() > limit_; }
  const std::vector<Place>& set(size_t number) const { return sets_[number]; }

 private:
  const AutomatonDraft& draft_;
  std::map<std::vector<Place>, uint32_t> numbers_;
  std::vector<std::vector<Place>> sets_;
  std::vector<uint32_t> seen_;
  uint32_t round_ = 0;
  size_t limit_;
};

// The edges of a set of places, cut where any of them begins or ends.
std::vector<Edge> merged_edges(std::vector<Edge> edges, PlaceSets& sets) {
  std::vector<uint64_t> cuts;
  for (const Edge& edge : edges) {
    cuts.push_back(edge.first);
    cuts.push_back(uint64_t{edge.last} + 1);
  }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) { return a.first < b.first; });
  std::vector<Edge> merged;
  std::vector<Edge> open;
  size_t next = 0;
  for (size_t i = 0; i + 1 < cuts.size() && !sets.too_many(); ++i) {
    std::erase_if(open, [&](const Edge& edge) { return edge.last < cuts[i]; });
    for (; next < edges.size() && edges[next].first == cuts[i]; ++next) open.push_back(edges[next]);
    if (open.empty()) continue;
    std::vector<Place> targets;
    for (const Edge& edge : open) targets.push_back(edge.to);
    const Edge edge{static_cast<uint32_t>(cuts[i]), static_cast<uint32_t>(cuts[i + 1] - 1), open.front().mark,
                    sets.number(std::move(targets))};
    const bool joins =
        !merged.empty() && merged.back().last + 1 == edge.first && merged.back().to == edge.to && merged.back().mark == edge.mark;
    if (joins) {
      merged.back().last = edge.last;
    } else {
      merged.push_back(edge);
    }
  }
  return merged;
}

}  // namespace

// --- drafts and automata
// ------------------------------------------------------------------------------------------

Place AutomatonDraft::add() {
  nodes_.emplace_back();
  return static_cast<Place>(nodes_.size()) - 1;
}

void AutomatonDraft::edge(Place from, uint32_t first, uint32_t last, Place to, CountMark mark) {
  nodes_[from].edges.push_back({first, last, mark, to});
}

Place AutomatonDraft::literal(Place from, std::string_view bytes) {
  for (const char byte : bytes) {
    const Place to = add();
    edge(from, static_cast<uint8_t>(byte), static_cast<uint8_t>(byte), to);
    from = to;
  }
  return from;
}

Result<Automaton> determinise(const AutomatonDraft& draft, size_t limit) {
  PlaceSets sets(draft, limit);
  sets.number({0});
  Automaton automaton;
  for (size_t i = 0; i < sets.size(); ++i) {
    if (sets.too_many()) return too_large(limit);
    Automaton::State state;
    std::vector<Edge> edges;
    std::map<uint32_t, std::vector<Place>> calls;
    for (const Place place : sets.set(i)) {
      const AutomatonDraft::Node& node = draft.nodes()[place];
      edges.insert(edges.end(), node.edges.begin(), node.edges.end());
      for (const GrammarCall& call : node.calls) calls[call.rule].push_back(call.back);
      state.final = state.final || node.final;
    }
    state.edges = merged_edges(std::move(edges), sets);
    for (auto& [rule, backs] : calls) state.calls.push_back({rule, sets.number(std::move(backs))});
    automaton.states.push_back(std::move(state));
  }
  return automaton;
}

Result<Automaton> intersection(const Automaton& a, const Automaton& b, size_t limit) {
  std::map<std::pair<uint32_t, uint32_t>, uint32_t> numbers{{{0, 0}, 0}};
  std::vector<std::pair<uint32_t, uint32_t>> pairs{{0, 0}};
  Automaton both;
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (pairs.size() > limit) return too_large(limit);
    const Automaton::State& left = a.states[pairs[i].first];
    const Automaton::State& right = b.states[pairs[i].second];
    Automaton::State state;
    state.final = left.final && right.final;
    for (size_t l = 0, r = 0; l < left.edges.size() && r < right.edges.size();) {
      const Edge& x = left.edges[l];
      const Edge& y = right.edges[r];
      const uint32_t first = std::max(x.first, y.first), last = std::min(x.last, y.last);
      if (first <= last) {
        const auto [found, added] = numbers.try_emplace({x.to, y.to}, static_cast<uint32_t>(pairs.size()));
        if (added) pairs.emplace_back(x.to, y.to);
        state.edges.push_back({first, last, CountMark::none, found->second});
      }
      x.last < y.last ? ++l : ++r;
    }
    both.states.push_back(std::move(state));
  }
  return both;
}

Automaton complement(Automaton automaton, const std::vector<std::pair<char32_t, char32_t>>& alphabet) {
  const auto rest = static_cast<uint32_t>(automaton.states.size());
  automaton.states.emplace_back();
  for (Automaton::State& state : automaton.states) {
    state.final = !state.final;
    std::vector<Edge> edges;
    size_t next = 0;
    for (const auto& [first, last] : alphabet) {
      uint32_t from = first;
      for (; next < state.edges.size() && state.edges[next].first <= last; ++next) {
        const Edge& edge = state.edges[next];
        if (from < edge.first) edges.push_back({from, edge.first - 1, CountMark::none, rest});
        edges.push_back(edge);
        from = edge.last + 1;
      }
      if (from <= last) edges.push_back({from, last, CountMark::none, rest});
    }
    state.edges = std::move(edges);
  }
  return automaton;
}

// --- grammars
// -----------------------------------------------------------------------------------------------------

uint32_t GrammarBuilder::add_rule(std::string name) {
  rules_.push_back({std::move(name), {}, false});
  return static_cast<uint32_t>(rules_.size()) - 1;
}

Status GrammarBuilder::define(uint32_t rule, const AutomatonDraft& draft, uint32_t least, uint32_t most) {
  ONSET_ASSIGN(Automaton automaton, determinise(draft, limit_));
  if (states_.size() + automaton.states.size() > limit_) return too_large(limit_);
  const auto begin = static_cast<uint32_t>(states_.size());
  for (Automaton::State& state : automaton.states) {
    for (Edge& edge : state.edges) edge.to += begin;
    for (GrammarCall& call : state.calls) call.back += begin;
    states_.push_back(std::move(state));
    rule_of_.push_back(rule);
  }
  rules_[rule].rule = {begin, least, most};
  rules_[rule].nullable = states_[begin].final;
  return {};
}

// States from which the end of their rule can be reached, calls included.
std::vector<bool> GrammarBuilder::live_states() const {
  std::vector<std::vector<uint32_t>> before(states_.size());
  for (uint32_t i = 0; i < states_.size(); ++i) {
    for (const Edge& edge : states_[i].edges) before[edge.to].push_back(i);
    for (const GrammarCall& call : states_[i].calls) {
      before[call.back].push_back(i);
      before[rules_[call.rule].rule.start].push_back(i);
    }
  }
  std::vector<bool> live(states_.size(), false);
  const auto lives = [&](uint32_t i) {
    const Automaton::State& state = states_[i];
    return state.final || std::any_of(state.edges.begin(), state.edges.end(), [&](const Edge& edge) { return live[edge.to]; }) ||
           std::any_of(state.calls.begin(), state.calls.end(),
                       [&](const GrammarCall& call) { return live[call.back] && live[rules_[call.rule].rule.start]; });
  };
  std::vector<uint32_t> found;
  for (uint32_t i = 0; i < states_.size(); ++i) {
    if (states_[i].final) found.push_back(i);
    live[i] = states_[i].final;
  }
  while (!found.empty()) {
    const uint32_t at = found.back();
    found.pop_back();
    for (const uint32_t i : before[at]) {
      if (live[i] || !lives(i)) continue;
      live[i] = true;
      found.push_back(i);
    }
  }
  return live;
}

Status GrammarBuilder::check_recursion(const std::vector<bool>& live) const {
  enum class Mark : uint8_t { fresh, open, done };
  std::vector<Mark> marks(rules_.size(), Mark::fresh);
  std::vector<std::pair<uint32_t, size_t>> path;
  for (uint32_t first = 0; first < rules_.size(); ++first) {
    if (marks[first] == Mark::fresh) path.emplace_back(first, 0);
    while (!path.empty()) {
      const uint32_t rule = path.back().first;
      marks[rule] = Mark::open;
      const auto& calls = states_[rules_[rule].rule.start].calls;
      if (path.back().second == calls.size()) {
        marks[rule] = Mark::done;
        path.pop_back();
        continue;
      }
      const GrammarCall& call = calls[path.back().second++];
      if (!live[call.back]) continue;
      if (marks[call.rule] == Mark::open) {
        return error(Code::invalid_argument, "{} refers to itself without end", rules_[call.rule].name);
      }
      if (marks[call.rule] == Mark::fresh) path.emplace_back(call.rule, 0);
    }
  }
  return {};
}

void GrammarBuilder::fill_first_bytes(Grammar& grammar) const {
  grammar.first_bytes_.resize(rules_.size());
  bool grows = true;
  while (grows) {  // at most as often as rules begin with each other
    grows = false;
    for (size_t i = 0; i < rules_.size(); ++i) {
      std::array<uint64_t, 4> bytes = grammar.first_bytes_[i];
      for (const GrammarEdge& edge : grammar.edges(grammar.rules_[i].start)) {
        for (unsigned byte = edge.first; byte <= edge.last; ++byte) bytes[byte / 64] |= uint64_t{1} << (byte % 64);
      }
      for (const GrammarCall& call : grammar.calls(grammar.rules_[i].start)) {
        for (size_t word = 0; word < 4; ++word) bytes[word] |= grammar.first_bytes_[call.rule][word];
      }
      grows = grows || bytes != grammar.first_bytes_[i];
      grammar.first_bytes_[i] = bytes;
    }
  }
}

namespace {

bool is_plain(unsigned byte) {
  return byte >= 0x20 && byte <= 0x7e && byte != '"' && byte != '\\';
}

// Sets `loops` where every plain byte leads back, always with the same mark.
void find_loop(const Grammar& grammar, uint32_t number, GrammarState& state) {
  unsigned plain = 0, looping = 0;
  bool alike = true, first = true;
  for (unsigned byte = 0; byte < 128; ++byte) plain += is_plain(byte);
  for (const GrammarEdge& edge : grammar.edges(number)) {
    if (edge.target != number) continue;
    for (unsigned byte = edge.first; byte <= edge.last; ++byte) {
      if (!is_plain(byte)) continue;
      ++looping;
      alike = alike && (first || state.loop_mark == edge.mark);
      state.loop_mark = edge.mark;
      first = false;
    }
  }
  state.loops = plain == looping && alike && state.loop_mark != CountMark::closes;
}

}  // namespace

Result<Grammar> GrammarBuilder::finish(uint32_t root) {
  for (uint32_t i = 0; i < rules_.size(); ++i) {
    if (rules_[i].nullable && i != root) {
      return error(Code::invalid_argument, "{} may be empty, which only a whole grammar can be", rules_[i].name);
    }
  }
  const std::vector<bool> live = live_states();
  ONSET_TRY(check_recursion(live));
  if (!live[rules_[root].rule.start]) return error(Code::invalid_argument, "nothing can satisfy it");
  Grammar grammar;
  for (const Rule& rule : rules_) grammar.rules_.push_back(rule.rule);
  for (uint32_t i = 0; i < states_.size(); ++i) {
    GrammarState state{.edges = static_cast<uint32_t>(grammar.edges_.size()),
                       .calls = static_cast<uint32_t>(grammar.calls_.size()),
                       .rule = rule_of_[i],
                       .final = states_[i].final};
    grammar.states_.push_back(state);
    for (const Edge& edge : states_[i].edges) {
      if (!live[edge.to]) continue;
      grammar.edges_.push_back({static_cast<uint8_t>(edge.first), static_cast<uint8_t>(edge.last), edge.mark, edge.to});
    }
    for (const GrammarCall& call : states_[i].calls) {
      if (live[call.back] && live[rules_[call.rule].rule.start]) grammar.calls_.push_back(call);
    }
  }
  grammar.states_.push_back({.edges = static_cast<uint32_t>(grammar.edges_.size()), .calls = static_cast<uint32_t>(grammar.calls_.size())});
  for (uint32_t i = 0; i < grammar.states(); ++i) find_loop(grammar, i, grammar.states_[i]);
  grammar.root_ = root;
  fill_first_bytes(grammar);
  return grammar;
}

}  // namespace onset
