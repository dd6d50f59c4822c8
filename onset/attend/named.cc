#include "onset/attend/named.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <vector>

#include "onset/attend/block_sparse.h"
#include "onset/attend/lserve.h"
#include "onset/attend/minference.h"
#include "onset/base/mapped_file.h"

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

class MInferenceSpec : public AttendSpec {
 public:
  // table: null: the built-in one of the model.
  MInferenceSpec(std::string text, std::shared_ptr<const HeadTable> table, const MInferenceOptions& options, HeadPattern uniform)
      : AttendSpec(std::move(text)), table_(std::move(table)), options_(options), uniform_(uniform) {}
  Status check(const AttendFacts& facts) const override {
    ONSET_TRY(check_patterns(facts, text()));
    if (uniform_.shape != HeadShape::dense) return {};
    if (table_ != nullptr) return check_head_table(*table_, facts.layers, facts.query_heads).within("attend " + text());
    if (shipped_head_table(facts.layers, facts.query_heads) != nullptr) return {};
    return error(
        Code::invalid_argument,
        "attend {}: no built-in table has the model's {} layers and {} heads, expected minference:TABLE (onset search-heads makes one)",
        text(), facts.layers, facts.query_heads);
  }
  std::unique_ptr<AttendPolicy> make(const AttendFacts& facts) const override {
    std::shared_ptr<const HeadTable> table = table_;
    if (uniform_.shape != HeadShape::dense) {
      HeadTable made;
      made.layers.assign(static_cast<size_t>(facts.layers), std::vector<HeadPattern>(static_cast<size_t>(facts.query_heads), uniform_));
      table = std::make_shared<HeadTable>(std::move(made));
    } else if (table == nullptr) {
      table = std::shared_ptr<const HeadTable>(shipped_head_table(facts.layers, facts.query_heads), [](const HeadTable*) {});
    }
    return std::make_unique<MInferenceAttend>(std::move(table), options_, facts.prompt_tokens);
  }
  bool stateless() const override { return true; }
  int32_t block_rows() const override { return options_.every; }
  bool allows_dropped_rows() const override { return false; }

 private:
  std::shared_ptr<const HeadTable> table_;
  MInferenceOptions options_;
  HeadPattern uniform_;
};

class LServeSpec : public AttendSpec {
 public:
  LServeSpec(std::string text, LServeRequest request) : AttendSpec(std::move(text)), request_(std::move(request)) {}
  Status check(const AttendFacts& facts) const override {
    if (facts.streams) return {};
    ONSET_TRY(check_patterns(facts, text()));
    return lserve_heads(request_, facts.layers, facts.kv_heads).status().within("attend " + text());
  }
  std::unique_ptr<AttendPolicy> make(const AttendFacts& facts) const override {
    // Where the model was loaded with streaming heads these are what streams.
    StreamingHeads heads(static_cast<size_t>(facts.layers));
    if (!facts.streams) heads = *lserve_heads(request_, facts.layers, facts.kv_heads);
    return std::make_unique<LServeAttend>(std::make_shared<StreamingHeads>(std::move(heads)), request_.options, facts.prompt_tokens);
  }
  bool stateless() const override { return true; }
  bool answers_apart() const override { return true; }
  bool allows_dropped_rows() const override { return false; }
  std::string warning() const override {
    if (request_.table == nullptr || request_.table->clamped == 0) return "";
    return fmt::format("attend {}: {} numbers of the table lay outside of 0 to 1, and count as the nearer of these", text(),
                       request_.table->clamped);
  }

 private:
  LServeRequest request_;
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

Result<std::shared_ptr<const HeadTable>> head_table_of(std::string_view name, AttendFiles files) {
  if (const HeadTable* table = shipped_head_table(name)) return std::shared_ptr<const HeadTable>(table, [](const HeadTable*) {});
  if (files == AttendFiles::refused) {
    return error(Code::invalid_argument, "there is no built-in table {}: expected {}", name, fmt::join(shipped_head_table_names(), " or "));
  }
  ONSET_ASSIGN(const std::string json, read_file(std::string(name)));
  ONSET_ASSIGN(HeadTable table, parse_head_table(json, std::string(name)));
  return std::shared_ptr<const HeadTable>(std::make_shared<HeadTable>(std::move(table)));
}

Status set_minference(std::string_view name, std::string_view value, MInferenceOptions& options, HeadPattern& uniform) {
  if (name == "ratio") {
    const auto [end, problem] = std::from_chars(value.data(), value.data() + value.size(), options.ratio);
    if (problem == std::errc() && end == value.data() + value.size() && options.ratio > 0 && options.ratio <= 64) return {};
    return error(Code::invalid_argument, "ratio is {}, expected a number above 0, 64 at most", value.empty() ? "empty" : value);
  }
  int32_t* const place = name == "every"      ? &options.every
                         : name == "from"     ? &options.from
                         : name == "vertical" ? &uniform.first
                         : name == "slash"    ? &uniform.second
                                              : nullptr;
  if (place == nullptr) {
    return error(Code::invalid_argument, "{} is not known: expected every=, from=, ratio=, vertical= or slash=", name);
  }
  ONSET_ASSIGN(*place, tokens_of(name, value, name == "every" || name == "slash" ? 1 : 0));
  if (name == "vertical" || name == "slash") uniform.shape = HeadShape::vertical_slash;
  return {};
}

// [TABLE][:NAME=NUMBER...]
Result<std::shared_ptr<const AttendSpec>> parse_minference(std::string text, std::string_view rest, AttendFiles files) {
  MInferenceOptions options;
  HeadPattern uniform;
  std::shared_ptr<const HeadTable> table;
  for (bool first = true; !rest.empty(); first = false) {
    const size_t colon = std::min(rest.find(':'), rest.size());
    const std::string_view part = rest.substr(0, colon);
    rest.remove_prefix(std::min(colon + 1, rest.size()));
    const size_t equals = part.find('=');
    if (equals == std::string_view::npos) {
      if (!first) return error(Code::invalid_argument, "{} is no option: expected NAME=NUMBER", part.empty() ? "an empty part" : part);
      ONSET_ASSIGN(table, head_table_of(part, files));
      continue;
    }
    ONSET_TRY(set_minference(part.substr(0, equals), part.substr(equals + 1), options, uniform));
  }
  if (options.every % page_tokens != 0) {
    return error(Code::invalid_argument, "every is {}, expected a multiple of {}", options.every, page_tokens);
  }
  if (uniform.shape != HeadShape::dense && (table != nullptr || uniform.second == 0)) {
    return error(Code::invalid_argument, "expected vertical= and slash=, or a table");
  }
  return std::shared_ptr<const AttendSpec>(std::make_shared<MInferenceSpec>(std::move(text), std::move(table), options, uniform));
}

Result<std::shared_ptr<const AttendSpec>> parse_known(std::string_view text, AttendFiles files) {
  const size_t colon = std::min(text.find(':'), text.size());
  const std::string_view name = text.substr(0, colon), options = text.substr(std::min(colon + 1, text.size()));
  if (text == "dense") return std::shared_ptr<const AttendSpec>(std::make_shared<DenseSpec>());
  if (name == "window") return parse_window(std::string(text), options);
  if (name == "longgen") {
    ONSET_ASSIGN(const LongGenOptions parsed, parse_long_gen(options));
    return std::shared_ptr<const AttendSpec>(std::make_shared<LongGenSpec>(std::string(text), parsed));
  }
  if (name == "minference") return parse_minference(std::string(text), options, files);
  if (name == "lserve") {
    ONSET_ASSIGN(LServeRequest request, parse_lserve(options, LServeNames::all, files == AttendFiles::read));
    return std::shared_ptr<const AttendSpec>(std::make_shared<LServeSpec>(std::string(text), std::move(request)));
  }
  return error(Code::invalid_argument,
               "is not known: expected dense, window:SIZE[:SINK], minference[:TABLE][:NAME=NUMBER...], lserve[:TABLE][:NAME=NUMBER...] or "
               "longgen:FULL[:NAME=TOKENS...]");
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
    // Most blocks see all of what they visit but the last of it.
    const auto least = std::min_element(positions.begin() + block.row_begin, positions.begin() + block.row_end);
    if (pattern.window == 0 && (block.columns.empty() || block.columns.back() <= *least)) {
      const int64_t rows = block.row_end - block.row_begin;
      pairs += rows * static_cast<int64_t>(block.columns.size());
      for (const KeyRange& range : block.ranges) {
        const bool all = !pattern.causal || range.end <= *least + 1;
        for (int32_t row = block.row_begin; row < block.row_end; ++row) {
          pairs += all ? rows * (range.end - range.begin) : seen_in(pattern, range, positions[row]);
          if (all) break;
        }
      }
      continue;
    }
    for (int32_t row = block.row_begin; row < block.row_end; ++row) {
      for (const KeyRange& range : block.ranges) pairs += seen_in(pattern, range, positions[row]);
      for (const int32_t column : block.columns) pairs += seen_in(pattern, {column, column + 1}, positions[row]);
    }
  }
  return pairs;
}

}  // namespace

Result<std::shared_ptr<const AttendSpec>> parse_attend(std::string_view text, AttendFiles files) {
  constexpr size_t longest = 4096;
  if (text.size() > longest) return error(Code::invalid_argument, "attend has {} characters, expected {} at most", text.size(), longest);
  auto spec = parse_known(text, files);
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
