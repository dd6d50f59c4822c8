#include "onset/load/workload.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <string_view>

#include "onset/base/mapped_file.h"
#include "onset/formats/json.h"

namespace onset {
namespace {

constexpr int32_t block_tokens = 512;  // Mooncake's

// SplitMix64: the same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t below(uint64_t end) { return next() % end; }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = std::min(text.find(separator), text.size());
    parts.push_back(text.substr(0, end));
    if (end == text.size()) return parts;
    text.remove_prefix(end + 1);
  }
}

std::optional<double> number(std::string_view text) {
  double value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return {};
  return value;
}

// "2023-11-16 18:17:03.9799600" as seconds since some day.
std::optional<double> date_time(std::string_view text) {
  if (text.size() < 19 || text[4] != '-' || text[7] != '-' || text[10] != ' ' || text[13] != ':' || text[16] != ':') return {};
  const auto year = number(text.substr(0, 4)), month = number(text.substr(5, 2)), day = number(text.substr(8, 2));
  const auto hour = number(text.substr(11, 2)), minute = number(text.substr(14, 2)), second = number(text.substr(17));
  if (!year || !month || !day || !hour || !minute || !second) return {};
  // Days of the civil calendar since March of year 0 (H. Hinnant, chrono-compatible low-level date
  // algorithms).
  const double y = *month <= 2 ? *year - 1 : *year, m = *month <= 2 ? *month + 9 : *month - 3;
  const double days = 365 * y + std::floor(y / 4) - std::floor(y / 100) + std::floor(y / 400) + std::floor((153 * m + 2) / 5) + *day;
  return ((days * 24 + *hour) * 60 + *minute) * 60 + *second;
}

// Which columns of a CSV file say what.
struct Columns {
  int prompt = -1, output = -1, arrival = -1;
  bool date = false;
};

Columns columns_of(std::string_view header) {
  Columns columns;
  int index = 0;
  for (const std::string_view name : split(header, ',')) {
    if (name == "num_prefill_tokens" || name == "ContextTokens") columns.prompt = index;
    if (name == "num_decode_tokens" || name == "GeneratedTokens") columns.output = index;
    if (name == "arrived_at") columns.arrival = index;
    if (name == "TIMESTAMP") columns.arrival = index, columns.date = true;
    ++index;
  }
  return columns;
}

std::optional<int32_t> length(std::optional<double> value) {
  if (!value || *value < 0 || *value > 1e8) return {};
  return static_cast<int32_t>(*value);
}

std::optional<TraceEntry> csv_entry(std::string_view line, const Columns& columns) {
  const std::vector<std::string_view> fields = split(line, ',');
  const auto field = [&](int index) {
    return static_cast<size_t>(index) < fields.size() ? fields[static_cast<size_t>(index)] : std::string_view();
  };
  const auto prompt = length(number(field(columns.prompt))), output = length(number(field(columns.output)));
  if (!prompt || !output) return {};
  TraceEntry entry{.prompt_tokens = *prompt, .output_tokens = *output};
  if (columns.arrival < 0) return entry;
  entry.arrival_seconds = columns.date ? date_time(field(columns.arrival)) : number(field(columns.arrival));
  if (!entry.arrival_seconds) return {};
  return entry;
}

Result<TraceEntry> json_entry(std::string_view line, const std::string& where) {
  ONSET_ASSIGN(const nlohmann::json json, parse_json(line, where));
  ONSET_ASSIGN(const JsonObject object, JsonObject::of(json, where));
  TraceEntry entry;
  ONSET_ASSIGN(const double milliseconds, object.real("timestamp"));
  ONSET_ASSIGN(const int64_t prompt, object.integer_within("input_length", 0, 100000000));
  ONSET_ASSIGN(const int64_t output, object.integer_within("output_length", 0, 100000000));
  entry.arrival_seconds = milliseconds / 1e3;
  entry.prompt_tokens = static_cast<int32_t>(prompt);
  entry.output_tokens = static_cast<int32_t>(output);
  if (const nlohmann::json* blocks = object.find("hash_ids"); blocks != nullptr && blocks->is_array()) {
    for (const auto& block : *blocks) {
      if (!block.is_number_integer()) return error(Code::invalid_argument, "{}: hash_ids: expected integers", where);
      entry.blocks.push_back(block.get<int64_t>());
    }
  }
  return entry;
}

}  // namespace

Result<std::vector<TraceEntry>> read_trace(const std::filesystem::path& path) {
  ONSET_ASSIGN(const std::string text, read_file(path.string()));
  const std::vector<std::string_view> lines = split(text, '\n');
  const bool json = lines[0].starts_with('{');
  const Columns columns = columns_of(lines[0].substr(0, lines[0].find('\r')));
  if (!json && (columns.prompt < 0 || columns.output < 0)) {
    return error(Code::invalid_argument,
                 "{}: expected JSON lines, or CSV with num_prefill_tokens and num_decode_tokens or "
                 "ContextTokens and GeneratedTokens",
                 path.string());
  }
  std::vector<TraceEntry> trace;
  for (size_t i = json ? 0 : 1; i < lines.size(); ++i) {
    const std::string_view line = lines[i].substr(0, lines[i].find('\r'));
    if (line.empty()) continue;
    const std::string where = fmt::format("{}: line {}", path.string(), i + 1);
    std::optional<TraceEntry> entry;
    if (json) {
      ONSET_ASSIGN(entry, json_entry(line, where));
    } else {
      entry = csv_entry(line, columns);
    }
    if (!entry) return error(Code::invalid_argument, "{}: expected lengths and times as numbers", where);
    if (entry->prompt_tokens > 0 && entry->output_tokens > 0) trace.push_back(*std::move(entry));
  }
  return trace;
}

Result<std::vector<LoadRequest>> make_workload(const std::vector<TraceEntry>& trace, const WorkloadOptions& options) {
  const auto positive = [](const char* name, double value) -> Status {
    if (value > 0 && std::isfinite(value)) return {};
    return error(Code::invalid_argument, "{} is {}, expected more than 0", name, value);
  };
  ONSET_TRY(positive("requests", options.requests));
  ONSET_TRY(positive("divide-lengths", options.divide_lengths));
  ONSET_TRY(positive(options.trace_arrivals ? "speed" : "rate", options.trace_arrivals ? options.speed : options.rate));
  if (!(options.most_gap >= 0)) return error(Code::invalid_argument, "most-gap is {}, expected 0 (none) or more", options.most_gap);
  std::vector<size_t> chosen;
  const auto scaled = [&](int32_t tokens) { return std::max(1, static_cast<int32_t>(std::lround(tokens / options.divide_lengths))); };
  for (size_t i = 0; i < trace.size(); ++i) {
    if (options.most_prompt_tokens == 0 || scaled(trace[i].prompt_tokens) <= options.most_prompt_tokens) chosen.push_back(i);
  }
  const auto count = static_cast<size_t>(options.requests);
  if (chosen.size() < count) {
    return error(Code::invalid_argument, "{} requests were asked for, the trace has {} of the wanted lengths", count, chosen.size());
  }
  Random random(options.seed);
  if (!options.in_order && !options.trace_arrivals) {
    for (size_t i = 0; i < count; ++i) std::swap(chosen[i], chosen[i + random.below(chosen.size() - i)]);
  }
  chosen.resize(count);
  std::vector<LoadRequest> requests;
  double clock = 0;
  for (const size_t index : chosen) {
    const TraceEntry& entry = trace[index];
    if (options.trace_arrivals && !entry.arrival_seconds) {
      return error(Code::invalid_argument, "the trace has no arrival times: expected --rate");
    }
    LoadRequest request{.prompt_tokens = scaled(entry.prompt_tokens),
                        .output_tokens = scaled(entry.output_tokens),
                        .blocks = entry.blocks,
                        .seed = random.next()};
    if (options.most_output_tokens > 0) request.output_tokens = std::min(request.output_tokens, options.most_output_tokens);
    // The first comes at once; gaps of a Poisson process are exponential.
    double gap = -std::log1p(-random.uniform());
    if (options.most_gap > 0) gap = std::min(gap, options.most_gap);
    request.arrival_seconds = options.trace_arrivals ? (*entry.arrival_seconds - *trace[chosen[0]].arrival_seconds) / options.speed : clock;
    clock += gap / options.rate;
    requests.push_back(std::move(request));
  }
  std::sort(requests.begin(), requests.end(), [](const LoadRequest& a, const LoadRequest& b) {
    return a.arrival_seconds != b.arrival_seconds ? a.arrival_seconds < b.arrival_seconds : a.seed < b.seed;
  });
  return requests;
}

std::vector<int32_t> prompt_ids(const LoadRequest& request, int32_t first_id, int32_t last_id) {
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(request.prompt_tokens));
  const auto range = static_cast<uint64_t>(last_id - first_id) + 1;
  for (int32_t i = 0; i < request.prompt_tokens; ++i) {
    const auto block = static_cast<size_t>(i / block_tokens);
    // Lengths that were divided have more blocks than they need.
    const uint64_t seed = block < request.blocks.size() ? static_cast<uint64_t>(request.blocks[block]) : request.seed;
    Random random(seed * 0x2545f4914f6cdd1du + static_cast<uint64_t>(i));
    ids.push_back(first_id + static_cast<int32_t>(random.below(range)));
  }
  return ids;
}

std::string prompt_words(const LoadRequest& request) {
  static constexpr std::array<std::string_view, 24> words{"the", "time", "of",   "people", "and", "water", "in",   "work",
                                                          "to",  "day",  "a",    "house",  "is",  "year",  "on",   "world",
                                                          "for", "life", "with", "way",    "not", "old",   "that", "new"};
  std::string text;
  for (const int32_t id : prompt_ids(request, 0, static_cast<int32_t>(words.size()) - 1)) {
    if (!text.empty()) text += ' ';
    text += words[static_cast<size_t>(id)];
  }
  return text;
}

}  // namespace onset
