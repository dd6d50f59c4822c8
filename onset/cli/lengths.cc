#include "onset/cli/lengths.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <string_view>

#include "onset/base/mapped_file.h"

namespace onset::cli {
namespace {

constexpr int32_t most_tokens = 1 << 24;

std::vector<std::string_view> split(std::string_view line) {
  std::vector<std::string_view> fields;
  for (size_t begin = 0; begin <= line.size();) {
    const size_t end = std::min(line.find(',', begin), line.size());
    fields.push_back(line.substr(begin, end - begin));
    begin = end + 1;
  }
  return fields;
}

int32_t column_of(const std::vector<std::string_view>& names, std::string_view one, std::string_view other) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == one || names[i] == other) return static_cast<int32_t>(i);
  }
  return -1;
}

bool read_number(std::string_view text, int32_t& value) {
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  return problem == std::errc() && end == text.data() + text.size() && value >= 0 && value <= most_tokens;
}

bool read_json(std::string_view line, RequestLength& length) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto number = [&](const char* name, int32_t& value) {
    const auto found = json.find(name);
    if (found == json.end() || !found->is_number_unsigned() || found->get<uint64_t>() > most_tokens) return false;
    value = found->get<int32_t>();
    return true;
  };
  return json.is_object() && number("input_length", length.prompt) && number("output_length", length.answer);
}

}  // namespace

Result<std::vector<RequestLength>> read_lengths(const std::string& path) {
  ONSET_ASSIGN(const std::string text, read_file(path));
  std::vector<RequestLength> lengths;
  int32_t prompt_column = -1, answer_column = -1;
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line(text.data() + begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    RequestLength length;
    if (line.front() == '{') {
      if (!read_json(line, length)) {
        return error(Code::invalid_argument, "{}:{}: expected a JSON object with input_length and output_length", path, number);
      }
    } else if (prompt_column < 0) {
      const auto names = split(line);
      prompt_column = column_of(names, "num_prefill_tokens", "ContextTokens");
      answer_column = column_of(names, "num_decode_tokens", "GeneratedTokens");
      if (prompt_column < 0 || answer_column < 0) {
        return error(Code::invalid_argument,
                     "{}:{}: expected columns num_prefill_tokens and num_decode_tokens, or ContextTokens and GeneratedTokens", path,
                     number);
      }
      continue;
    } else {
      const auto fields = split(line);
      const auto most = static_cast<size_t>(std::max(prompt_column, answer_column));
      if (fields.size() <= most || !read_number(fields[prompt_column], length.prompt) ||
          !read_number(fields[answer_column], length.answer)) {
        return error(Code::invalid_argument, "{}:{}: expected whole numbers of tokens", path, number);
      }
    }
    lengths.push_back(length);
  }
  if (lengths.empty()) return error(Code::invalid_argument, "{}: has no requests", path);
  return lengths;
}

std::vector<RequestLength> sample_lengths(const std::vector<RequestLength>& all, int32_t count, double scale, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<RequestLength> chosen;
  const auto scaled = [scale](int32_t length) { return std::max(1, static_cast<int32_t>(std::lround(scale * length))); };
  for (int32_t i = 0; i < count; ++i) {
    const RequestLength& length = all[random() % all.size()];
    chosen.push_back({scaled(length.prompt), scaled(length.answer)});
  }
  return chosen;
}

}  // namespace onset::cli
