#include "onset/attend/lserve_options.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

#include "onset/base/mapped_file.h"
#include "onset/tensor/key_value_view.h"

namespace onset {
namespace {

Status set_whole(std::string_view name, std::string_view text, int32_t least, int32_t most, int32_t& place) {
  int32_t value = -1;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size() || value < least || value > most) {
    return error(Code::invalid_argument, "{} is {}, expected a number from {} to {}", name, text.empty() ? "empty" : text, least, most);
  }
  place = value;
  return {};
}

Status set_option(std::string_view name, std::string_view value, LServeNames names, LServeOptions& options) {
  constexpr int32_t most = 1 << 27;
  if (name == "sparsity") {
    const auto [end, problem] = std::from_chars(value.data(), value.data() + value.size(), options.sparsity);
    if (problem == std::errc() && end == value.data() + value.size() && options.sparsity >= 0 && options.sparsity <= 1) return {};
    return error(Code::invalid_argument, "sparsity is {}, expected a number from 0 to 1", value.empty() ? "empty" : value);
  }
  if (name == "sink") return set_whole(name, value, 0, most, options.sink);
  if (name == "local") return set_whole(name, value, page_tokens, most, options.local);
  int32_t number = 0;
  if (name == "seed") {
    ONSET_TRY(set_whole(name, value, 0, most, number));
    options.seed = static_cast<uint64_t>(number);
    return {};
  }
  if (names == LServeNames::cache) {
    return error(Code::invalid_argument, "{} is not known: expected sparsity=, sink=, local= or seed=", name);
  }
  if (name == "prefill") return set_whole(name, value, page_tokens, most, options.prefill);
  if (name == "budget") return set_whole(name, value, page_tokens, most, options.budget);
  if (name == "interval") return set_whole(name, value, 1, page_tokens, options.interval);
  if (name == "logical") return set_whole(name, value, 1, page_tokens, options.logical);
  if (name == "group") {
    ONSET_TRY(set_whole(name, value, 0, 1, number));
    options.one_selection = number == 1;
    return {};
  }
  return error(Code::invalid_argument,
               "{} is not known: expected sparsity=, sink=, prefill=, local=, budget=, interval=, logical=, group= or seed=", name);
}

Status check_options(const LServeOptions& options) {
  struct Tokens {
    const char* name;
    int32_t value;
  };
  for (const auto& [name, value] : {Tokens{"sink", options.sink}, Tokens{"prefill", options.prefill}, Tokens{"local", options.local},
                                    Tokens{"budget", options.budget}}) {
    if (value % page_tokens != 0) {
      return error(Code::invalid_argument, "{} is {}, expected a multiple of the page of {} tokens", name, value, page_tokens);
    }
  }
  if (options.local > options.prefill) {
    return error(Code::invalid_argument, "local is {}, expected no more than the {} of prefill", options.local, options.prefill);
  }
  for (const auto& [name, value] : {Tokens{"interval", options.interval}, Tokens{"logical", options.logical}}) {
    if (page_tokens % value != 0) {
      return error(Code::invalid_argument, "{} is {}, expected a number that divides the page of {} tokens", name, value, page_tokens);
    }
  }
  return {};
}

Result<std::shared_ptr<const StreamingTable>> table_of(std::string_view name, bool files) {
  if (const StreamingTable* table = shipped_streaming_table(name)) {
    return std::shared_ptr<const StreamingTable>(table, [](const StreamingTable*) {});
  }
  if (!files) {
    return error(Code::invalid_argument, "there is no built-in table {}: expected {}", name,
                 fmt::join(shipped_streaming_table_names(), " or "));
  }
  ONSET_ASSIGN(const std::string text, read_file(std::string(name)));
  ONSET_ASSIGN(StreamingTable table, parse_streaming_table(text, std::string(name)));
  return std::shared_ptr<const StreamingTable>(std::make_shared<StreamingTable>(std::move(table)));
}

}  // namespace

Result<LServeRequest> parse_lserve(std::string_view text, LServeNames names, bool files) {
  LServeRequest request;
  // A cache keeps for prompts and answers alike.
  if (names == LServeNames::cache) request.options.local = request.options.prefill;
  for (bool first = true; !text.empty(); first = false) {
    const size_t colon = std::min(text.find(':'), text.size());
    const std::string_view part = text.substr(0, colon);
    text.remove_prefix(std::min(colon + 1, text.size()));
    const size_t equals = part.find('=');
    if (equals != std::string_view::npos) {
      ONSET_TRY(set_option(part.substr(0, equals), part.substr(equals + 1), names, request.options));
      continue;
    }
    if (!first) return error(Code::invalid_argument, "{} is no option: expected NAME=NUMBER", part.empty() ? "an empty part" : part);
    ONSET_ASSIGN(request.table, table_of(part, files));
  }
  if (names == LServeNames::cache) request.options.prefill = request.options.local;
  ONSET_TRY(check_options(request.options));
  return request;
}

Result<StreamingHeads> lserve_heads(const LServeRequest& request, int32_t layers, int32_t kv_heads) {
  const LServeOptions& options = request.options;
  const StreamingTable* table = request.table.get();
  if (table == nullptr && options.sparsity > 0 && options.sparsity < 1) {
    table = shipped_streaming_table(layers, kv_heads);
    if (table == nullptr) {
      return error(
          Code::invalid_argument,
          "no built-in table has the model's {} layers and {} KV heads, expected lserve:TABLE (onset search-heads --streaming makes "
          "one) or sparsity=0",
          layers, kv_heads);
    }
  }
  if (table == nullptr) {
    return StreamingHeads(static_cast<size_t>(layers), std::vector<bool>(static_cast<size_t>(kv_heads), options.sparsity > 0));
  }
  ONSET_TRY(check_streaming_table(*table, layers, kv_heads));
  return streaming_heads(*table, options.sparsity, options.seed);
}

}  // namespace onset
