#include "onset/text/grammar.h"

#include <algorithm>

namespace onset {

void GrammarStacks::step(uint32_t top, uint8_t byte, std::vector<uint32_t>& tops, size_t begin) {
  const Frame frame = frames_[top];
  const GrammarState& state = grammar_->state(frame.state);
  const GrammarRule& rule = grammar_->rule(state.rule);
  const auto edges = grammar_->edges(frame.state);
  const auto edge = std::partition_point(edges.begin(), edges.end(), [byte](const GrammarEdge& each) { return each.last < byte; });
  if (edge != edges.end() && edge->first <= byte) {
    const bool open = edge->mark == CountMark::none || (edge->mark == CountMark::adds && frame.count < rule.most) ||
                      (edge->mark == CountMark::closes && frame.count >= rule.least);
    if (open) {
      const bool adds = edge->mark == CountMark::adds && (rule.most != GrammarRule::unbounded || frame.count < rule.least);
      const uint32_t next = push({edge->target, frame.count + (adds ? 1 : 0), frame.parent});
      const auto known =
          std::find_if(tops.begin() + static_cast<std::ptrdiff_t>(begin), tops.end(), [&](uint32_t other) { return same(other, next); });
      if (known == tops.end()) tops.push_back(next);
    }
  }
  for (const GrammarCall& call : grammar_->calls(frame.state)) {
    if (!grammar_->begins(call.rule, byte)) continue;
    const uint32_t back = push({call.back, frame.count, frame.parent});
    step(push({grammar_->rule(call.rule).start, 0, back}), byte, tops, begin);
  }
  if (state.final && frame.parent < unknown) step(frame.parent, byte, tops, begin);
}

bool GrammarStacks::may_end(uint32_t top, uint32_t outer) const {
  while (grammar_->state(frames_[top].state).final) {
    if (frames_[top].parent == outer) return true;
    if (frames_[top].parent >= unknown) return false;
    top = frames_[top].parent;
  }
  return false;
}

bool GrammarStacks::same(uint32_t a, uint32_t b) const {
  while (a != b) {
    if (a >= unknown || b >= unknown) return false;
    if (frames_[a].state != frames_[b].state || frames_[a].count != frames_[b].count) return false;
    a = frames_[a].parent;
    b = frames_[b].parent;
  }
  return true;
}

void GrammarStacks::keep(std::span<uint32_t> tops) {
  names_.assign(frames_.size(), none);
  for (uint32_t top : tops) {
    for (; top < unknown && names_[top] == none; top = frames_[top].parent) names_[top] = 0;
  }
  kept_.clear();
  // A parent is older than its children, so it has its name before they ask for it.
  for (size_t i = 0; i < frames_.size(); ++i) {
    if (names_[i] == none) continue;
    names_[i] = static_cast<uint32_t>(kept_.size());
    Frame frame = frames_[i];
    if (frame.parent < unknown) frame.parent = names_[frame.parent];
    kept_.push_back(frame);
  }
  frames_.swap(kept_);
  for (uint32_t& top : tops) top = names_[top];
}

GrammarRun::GrammarRun(std::shared_ptr<const Grammar> grammar) : grammar_(std::move(grammar)), stacks_(*grammar_) {
  tops_.push_back(stacks_.push({grammar_->rule(grammar_->root()).start, 0, GrammarStacks::none}));
}

bool GrammarRun::accept(std::string_view bytes) {
  for (const char byte : bytes) {
    next_.clear();
    for (const uint32_t top : tops_) stacks_.step(top, static_cast<uint8_t>(byte), next_, 0);
    tops_.swap(next_);
    if (tops_.empty()) return false;
  }
  stacks_.keep(tops_);
  return !tops_.empty();
}

bool GrammarRun::may_end() const {
  return std::any_of(tops_.begin(), tops_.end(), [this](uint32_t top) { return stacks_.may_end(top, GrammarStacks::none); });
}

}  // namespace onset
