#include "onset/attend/block_sparse.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace onset {
namespace {

Result<int32_t> number_of(std::string_view name, std::string_view text, int32_t most) {
  int32_t value = -1;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem == std::errc() && end == text.data() + text.size() && value >= 0 && value <= most) return value;
  return error(Code::invalid_argument, "{} is {}, expected a number from 0 to {}", name, text.empty() ? "empty" : text, most);
}

// A number of tokens in blocks.
Result<int32_t> blocks_of(std::string_view name, std::string_view text) {
  ONSET_ASSIGN(const int32_t tokens, number_of(name, text, 1 << 27));
  if (tokens % page_tokens == 0) return tokens / page_tokens;
  return error(Code::invalid_argument, "{} is {} tokens, expected a multiple of the block of {}", name, tokens, page_tokens);
}

// Blocks of one pattern for rows in one query block: neighbours are joined.
std::vector<KeyRange> ranges_of(const BlockPattern& pattern, int32_t query_block, int32_t length) {
  std::vector<KeyRange> ranges;
  const auto add = [&](int32_t begin_block, int32_t end_block) {
    const int32_t begin = begin_block * page_tokens, end = std::min(end_block * page_tokens, length);
    if (begin >= end) return;
    if (!ranges.empty() && ranges.back().end >= begin) {
      ranges.back().end = std::max(ranges.back().end, end);
    } else {
      ranges.push_back({begin, end});
    }
  };
  const int32_t near = std::max(0, query_block - pattern.local + 1), sinks = std::min(pattern.sink, near);
  add(0, sinks);
  if (pattern.stride > 0) {
    const int32_t first = (pattern.stride - pattern.offset % pattern.stride) % pattern.stride;
    for (int32_t block = first; block < near; block += pattern.stride) {
      if (block >= sinks) add(block, block + 1);
    }
  }
  add(near, query_block + 1);
  return ranges;
}

}  // namespace

Result<LongGenOptions> parse_long_gen(std::string_view text) {
  LongGenOptions options;
  size_t at = std::min(text.find(':'), text.size());
  ONSET_ASSIGN(options.full_layers, number_of("the number of full layers", text.substr(0, at), 1024));
  bool window = false;
  while (at < text.size()) {
    const size_t end = std::min(text.find(':', at + 1), text.size());
    const std::string_view part = text.substr(at + 1, end - at - 1);
    const size_t equals = std::min(part.find('='), part.size());
    const std::string_view name = part.substr(0, equals), value = part.substr(std::min(equals + 1, part.size()));
    int32_t* place = name == "sink"     ? &options.pattern.sink
                     : name == "window" ? &options.pattern.local
                     : name == "stride" ? &options.pattern.stride
                     : name == "offset" ? &options.pattern.offset
                     : name == "step"   ? &options.head_step
                                        : nullptr;
    if (place == nullptr) {
      return error(Code::invalid_argument,
                   "{} is not known: expected sink=, window=, stride=, offset= or step=", part.empty() ? "an empty option" : part);
    }
    ONSET_ASSIGN(*place, blocks_of(name, value));
    window = window || name == "window";
    at = end;
  }
  if (options.pattern.local < 1) return error(Code::invalid_argument, "window is 0, expected one block of {} tokens or more", page_tokens);
  if (options.pattern.stride == 0 && (options.pattern.offset != 0 || options.head_step != 0)) {
    return error(Code::invalid_argument, "offset and step need a stride");
  }
  // With stripes there is no sink unless one is asked for, and half of the 2,048 tokens are near.
  if (options.pattern.stride > 0 && !window) options.pattern.local = 16;
  if (options.pattern.stride > 0 && text.find(":sink=") == std::string_view::npos) options.pattern.sink = 0;
  return options;
}

bool long_gen_full(const LongGenOptions& options, int32_t layers, int32_t layer) {
  const int32_t start = (layers - options.full_layers) / 2;
  return start <= layer && layer < start + options.full_layers;
}

Status check_long_gen(const LongGenOptions& options, int32_t layers) {
  if (options.full_layers >= 0 && options.full_layers <= layers) return {};
  return error(Code::invalid_argument, "{} full layers, expected 0 to the {} that the model has", options.full_layers, layers);
}

AttentionPlan block_plan(const BlockPattern& pattern, const AttendContext& context, int32_t head_step) {
  const int32_t length = context.cache->length(context.layer, context.group);
  const int32_t kv_heads = context.cache->layout().heads_per_group;
  const int32_t heads_of_one = std::max(1, context.query_heads / kv_heads);
  AttentionPlan plan;
  plan.pattern_of_head.assign(static_cast<size_t>(context.query_heads), 0);
  const int32_t patterns = head_step > 0 ? kv_heads : 1;
  for (int32_t head = 0; head < patterns; ++head) {
    BlockPattern own = pattern;
    if (head_step > 0) own.offset += head_step * (context.group * kv_heads + head);
    AttentionPattern& made = plan.patterns.emplace_back(AttentionPattern{.scale = context.scale, .window = context.window, .blocks = {}});
    for (size_t row = 0; row < context.positions.size();) {
      const int32_t block = context.positions[row] / page_tokens;
      size_t end = row + 1;
      while (end < context.positions.size() && context.positions[end] / page_tokens == block) ++end;
      made.blocks.push_back({.row_begin = static_cast<int32_t>(row),
                             .row_end = static_cast<int32_t>(end),
                             .ranges = ranges_of(own, block, length),
                             .columns = {}});
      row = end;
    }
    if (head_step == 0) continue;
    for (int32_t query = head * heads_of_one; query < (head + 1) * heads_of_one; ++query) plan.pattern_of_head[query] = head;
  }
  return plan;
}

const AttentionPlan& LongGenAttend::plan(const AttendContext& context) {
  if (long_gen_full(options_, layers_, context.layer)) return dense_.plan(context);
  plan_ = block_plan(options_.pattern, context, options_.head_step);
  return plan_;
}

}  // namespace onset
