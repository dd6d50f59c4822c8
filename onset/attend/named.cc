#include "onset/attend/named.h"

#include <algorithm>
#include <charconv>
#include <vector>

#include "onset/attend/block_sparse.h"

namespace onset {
namespace {

Status check_patterns(const AttendFacts& facts, const std::string& text) {
  if (!facts.patterns) return {};
  return error(Code::unsupported, "attend {}: the model was loaded with a pattern of blocks in its layers, expected dense", text);
}

class DenseSpec : public AttendSpec {
 public:
  DenseSpec() : AttendSpec("dense") {}
  Status check(const AttendFacts&) const override { return {}; }
  std::unique_ptr<AttendPolicy> make(const AttendFacts&) const override { return std::make_unique<DenseAttend>(); }
  bool stateless() const override { return true; }
  bool allows_dropped_rows() const override { return true; }
};

class WindowSpec : public AttendSpec {
 public:
  WindowSpec(std::string text, int32_t window, int32_t sink) : AttendSpec(std::move(text)), window_(window), sink_(sink) {}
  // A layer with a window of its own may have let go of the sinks.
  Status check(const AttendFacts& facts) const override {
    if (facts.windows && sink_ > 0) {
      return error(Code::unsupported, "attend {}: layers with windows of their own do not keep the first tokens, expected a sink of 0",
                   text());
    }
    return check_patterns(facts, text());
  }
  std::unique_ptr<AttendPolicy> make(const AttendFacts&) const override { return std::make_unique<WindowAttend>(window_, sink_); }
  bool stateless() const override { return true; }
  bool allows_dropped_rows() const override { return true; }

 private:
  int32_t window_, sink_;
};

class LongGenSpec : public AttendSpec {
 public:
  LongGenSpec(std::string text, const LongGenOptions& options) : AttendSpec(std::move(text)), options_(options) {}
  Status check(const AttendFacts& facts) const override {
    if (const Status status = check_long_gen(options_, facts.layers); !status.ok()) return status.within("attend " + text());
    if (facts.windows) return error(Code::unsupported, "attend {}: the model has layers with windows of their own", text());
    return check_patterns(facts, text());
  }
  std::unique_ptr<AttendPolicy> make(const AttendFacts& facts) const override {
    return std::make_unique<LongGenAttend>(options_, facts.layers);
  }
  bool stateless() const override { return true; }
  bool allows_dropped_rows() const override { return false; }

 private:
  LongGenOptions options_;
};

Result<int32_t> tokens_of(std::string_view what, std::string_view text, int32_t least) {
  int32_t value = -1;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  constexpr int32_t most = 1 << 27;
  if (problem == std::errc() && end == text.data() + text.size() && value >= least && value <= most) return value;
  return error(Code::invalid_argument, "{} is {}, expected a number from {} to {}", what, text.empty() ? "empty" : text, least, most);
}

Result<std::shared_ptr<const AttendSpec>> parse_window(std::string text, std::string_view options) {
  const size_t colon = std::min(options.find(':'), options.size());
  ONSET_ASSIGN(const int32_t window, tokens_of("the window", options.substr(0, colon), 1));
  int32_t sink = 4;
  if (colon < options.size()) {
    ONSET_ASSIGN(sink, tokens_of("the sink", options.substr(colon + 1), 0));
  }
  return std::shared_ptr<const AttendSpec>(std::make_shared<WindowSpec>(std::move(text), window, sink));
}

Result<std::shared_ptr<const AttendSpec>> parse_known(std::string_view text) {
  const size_t colon = std::min(text.find(':'), text.size());
  const std::string_view name = text.substr(0, colon), options = text.substr(std::min(colon + 1, text.size()));
  if (text == "dense") return std::shared_ptr<const AttendSpec>(std::make_shared<DenseSpec>());
  if (name == "window") return parse_window(std::string(text), options);
  if (name == "longgen") {
    ONSET_ASSIGN(const LongGenOptions parsed, parse_long_gen(options));
    return std::shared_ptr<const AttendSpec>(std::make_shared<LongGenSpec>(std::string(text), parsed));
  }
  return error(Code::invalid_argument, "is not known: expected dense, window:SIZE[:SINK] or longgen:FULL[:NAME=TOKENS...]");
}

// Keys in begin..end-1 that a query at this position sees.
int64_t seen_in(const AttentionPattern& pattern, KeyRange range, int64_t position) {
  const int64_t begin = range.begin;
  const int64_t end = pattern.causal ? std::min<int64_t>(range.end, position + 1) : range.end;
  if (begin >= end) return 0;
  if (pattern.window == 0) return end - begin;
  const int64_t near = std::max<int64_t>({begin, pattern.sink, position - pattern.window + 1});
  return std::max<int64_t>(0, std::min<int64_t>(end, pattern.sink) - begin) + std::max<int64_t>(0, end - near);
}

int64_t pattern_pairs(const AttentionPattern& pattern, std::span<const int32_t> positions) {
  int64_t pairs = 0;
  for (const PlanBlock& block : pattern.blocks) {
    for (int32_t row = block.row_begin; row < block.row_end; ++row) {
      for (const KeyRange& range : block.ranges) pairs += seen_in(pattern, range, positions[row]);
      for (const int32_t column : block.columns) pairs += seen_in(pattern, {column, column + 1}, positions[row]);
    }
  }
  return pairs;
}

}  // namespace

Result<std::shared_ptr<const AttendSpec>> parse_attend(std::string_view text) {
  constexpr size_t longest = 4096;
  if (text.size() > longest) return error(Code::invalid_argument, "attend has {} characters, expected {} at most", text.size(), longest);
  auto spec = parse_known(text);
  if (!spec.ok()) return spec.status().within(fmt::format("attend {}", text.empty() ? "(empty)" : text));
  return spec;
}

int64_t visited_pairs(const AttentionPlan& plan, std::span<const int32_t> positions) {
  std::vector<int64_t> heads(plan.patterns.size());
  for (const uint16_t pattern : plan.pattern_of_head) ++heads[pattern];
  int64_t pairs = 0;
  for (size_t i = 0; i < plan.patterns.size(); ++i) {
    if (heads[i] > 0) pairs += heads[i] * pattern_pairs(plan.patterns[i], positions);
  }
  for (const AttentionPlan& other : plan.beside) pairs += visited_pairs(other, positions);
  return pairs;
}

const AttentionPlan& CountedAttend::plan(const AttendContext& context) {
  const AttentionPlan& plan = policy_->plan(context);
  counts_.visited += visited_pairs(plan, context.positions);
  for (const int32_t position : context.positions) {
    const int64_t all = int64_t{position} + 1;
    counts_.dense += context.query_heads * (context.window > 0 ? std::min<int64_t>(all, context.window) : all);
  }
  return plan;
}

}  // namespace onset
