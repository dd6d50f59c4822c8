// onset load: how a server holds up under a load.
#include <csignal>
#include <fstream>

#include "onset/base/mapped_file.h"
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/load/client.h"
#include "onset/load/report.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct LoadOptions {
  LoadTarget target;
  WorkloadOptions workload;
  std::string trace, ids, key_file, svg, first_token, between_tokens, endpoint = "completions";
  int32_t prompt_tokens = 512, output_tokens = 128;
  bool capacity = false;
  double precision = 0.05;
  bool json = false;
  bool plan = false;
};

void declare_lengths(CLI::App& command, LoadOptions& options) {
  const std::string group = "Lengths and arrivals";
  auto* trace =
      command.add_option("--trace", options.trace, "file of recorded lengths and arrivals (ShareGPT, Azure, Mooncake, Splitwise, arXiv)")
          ->group(group);
  command.add_option("--prompt-tokens", options.prompt_tokens, "without a trace: length of every prompt")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 24))
      ->excludes(trace)
      ->group(group);
  command.add_option("--output-tokens", options.output_tokens, "without a trace: length of every answer")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 24))
      ->excludes(trace)
      ->group(group);
  command.add_option("-n,--requests", options.workload.requests, "how many")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20))
      ->group(group);
  command.add_option("--divide-lengths", options.workload.divide_lengths, "divides the lengths of a trace")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->group(group);
  command.add_option("--most-prompt-tokens", options.workload.most_prompt_tokens, "passes over requests with longer prompts; 0: none")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber)
      ->group(group);
  command.add_option("--most-output-tokens", options.workload.most_output_tokens, "cuts longer answers; 0: none")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber)
      ->group(group);
  command.add_flag("--in-order", options.workload.in_order, "the first requests of the trace instead of a random choice")->group(group);
  command.add_option("--most-gap", options.workload.most_gap, "cuts gaps between random arrivals to so many mean gaps; 0: none")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber)
      ->group(group);
  auto* rate = command
                   .add_option("--rate", options.workload.rate,
                               "requests a second, arriving at random (Poisson); with --capacity: the first that is tried")
                   ->capture_default_str()
                   ->check(CLI::PositiveNumber)
                   ->group(group);
  command.add_flag("--trace-arrivals", options.workload.trace_arrivals, "requests arrive as in the trace")
      ->excludes(rate)
      ->needs(trace)
      ->group(group);
  command.add_option("--speed", options.workload.speed, "makes the trace's arrivals this much faster")
      ->capture_default_str()
      ->check(CLI::PositiveNumber)
      ->group(group);
  command.add_option("--seed", options.workload.seed, "equal seeds make equal loads")->capture_default_str()->group(group);
}

void declare(CLI::App& command, LoadOptions& options) {
  command.add_option("--url", options.target.url, "the server, http or https; /v1/completions is added unless it is there")
      ->capture_default_str();
  command.add_option("--endpoint", options.endpoint, "chat asks /v1/chat/completions, with prompts as text")
      ->capture_default_str()
      ->check(CLI::IsMember({"completions", "chat"}));
  command.add_option("--ca-file", options.target.ca_file, "https: trust these certificates (PEM) instead of the system's");
  command.add_option("-m,--model", options.target.model, "the model's name, as the server knows it");
  command.add_option("--key-file", options.key_file, "file with the API key");
  auto* words =
      command.add_flag("--words", options.target.words, "prompts are text of common words, not token ids: lengths are not exact then");
  command.add_option("--ids", options.ids, "FIRST:LAST, the token ids that prompts are made of (default: 1000:9999)")->excludes(words);
  command
      .add_option("--ban-token", options.target.banned, "id of a token that answers must not have, as the end of answer; may be repeated")
      ->allow_extra_args(false);
  command.add_option("--more", options.target.more, "JSON object with further members of each request");
  command.add_option("--timeout", options.target.timeout_seconds, "seconds for one request")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command.add_option("--ttft", options.first_token, "limit of the time to the first token, as 2s");
  command.add_option("--tbt", options.between_tokens, "limit of the time between tokens, as 100ms");
  command.add_flag("--capacity", options.capacity,
                   "finds the highest rate at which the median time to the first token and the 99th percentile of the time "
                   "between tokens keep the limits");
  command.add_option("--precision", options.precision, "of the capacity, as a share of it")
      ->capture_default_str()
      ->check(CLI::Range(0.001, 0.9));
  command.add_flag("--json", options.json, "print one JSON object instead of a table");
  command.add_flag("--plan", options.plan, "send nothing: print the requests as JSON lines, with prompts as token ids");
  command.add_option("--svg", options.svg, "write a picture to this file");
  declare_lengths(command, options);
  set_examples(command,
               "  onset load --model smollm2 --prompt-tokens 256 --output-tokens 64 --rate 2 --requests 50\n"
               "  onset load --trace sharegpt.csv --divide-lengths 4 --rate 1.5 --ttft 2s --tbt 100ms --svg load.svg\n"
               "  onset load --trace AzureLLMInferenceTrace_conv.csv --trace-arrivals --speed 2 --requests 200\n"
               "  onset load --trace sharegpt.csv --divide-lengths 4 --capacity --ttft 2s --tbt 100ms");
}

// "2s", "100ms", "0.5s".
Result<std::optional<double>> duration(const char* name, const std::string& text) {
  if (text.empty()) return std::optional<double>();
  double value = 0;
  char unit[3] = {};
  int end = 0;
  const bool read = std::sscanf(text.c_str(), "%lf%2[a-z]%n", &value, unit, &end) == 2 && static_cast<size_t>(end) == text.size();
  const std::string_view seconds = unit;
  if (!read || !(value > 0) || (seconds != "s" && seconds != "ms")) {
    return error(Code::invalid_argument, "{} is {}, expected a time as 2s or 100ms", name, text);
  }
  return std::optional<double>(seconds == "s" ? value : value / 1e3);
}

Status read_ids(const std::string& text, LoadTarget& target) {
  if (text.empty()) return {};
  int end = 0;
  if (std::sscanf(text.c_str(), "%d:%d%n", &target.first_id, &target.last_id, &end) == 2 && static_cast<size_t>(end) == text.size())
    return {};
  return error(Code::invalid_argument, "--ids: {} is not FIRST:LAST, two token ids", text);
}

std::string milliseconds(double seconds) {
  return fmt::format("{:.{}f}", seconds * 1e3, seconds < 0.1 ? 1 : 0);
}

std::string table_of(const LoadStatistics& statistics) {
  std::vector<std::vector<std::string>> rows{{"milliseconds", "P50", "P90", "P99", "mean", "most"}};
  const auto add = [&](const char* name, const Distribution& each) {
    rows.push_back(
        {name, milliseconds(each.p50), milliseconds(each.p90), milliseconds(each.p99), milliseconds(each.mean), milliseconds(each.most)});
  };
  add("time to first token", statistics.first_token);
  add("time between tokens", statistics.between_tokens);
  add("latency per output token", statistics.normalised_latency);
  return table_text(rows) +
         fmt::format(
             "{} requests in {:.1f} s, {} failed: {:.2f} requests/s, {:.1f} output tokens/s, {:.1f} tokens/s in all; within the limits {}, "
             "{:.2f} requests/s\n",
             statistics.requests, statistics.seconds, statistics.failed, statistics.requests_per_second,
             statistics.output_tokens_per_second, statistics.tokens_per_second, statistics.within_limits, statistics.goodput);
}

std::string table_of(const Capacity& capacity) {
  std::vector<std::vector<std::string>> rows{
      {"requests/s", "TTFT P50 ms", "TTFT P99 ms", "TBT P50 ms", "TBT P99 ms", "output tokens/s", "failed", "limits"}};
  for (const CapacityProbe& probe : capacity.probes) {
    const LoadStatistics& each = probe.statistics;
    rows.push_back({fmt::format("{:.3f}", probe.rate), milliseconds(each.first_token.p50), milliseconds(each.first_token.p99),
                    milliseconds(each.between_tokens.p50), milliseconds(each.between_tokens.p99),
                    fmt::format("{:.1f}", each.output_tokens_per_second), std::to_string(each.failed), probe.meets ? "met" : "missed"});
  }
  return table_text(rows) + fmt::format("capacity: {:.3f} requests/s\n", capacity.rate);
}

Status write_picture(const std::string& path, const std::string& svg) {
  if (path.empty()) return {};
  std::ofstream file(path, std::ios::binary);
  if (file << svg && file.flush()) return {};
  return error(Code::failed, "{}: cannot be written", path);
}

Status check_records(const std::vector<LoadRecord>& records) {
  size_t failed = 0;
  std::string first;
  for (const LoadRecord& record : records) {
    if (record.problem.empty()) continue;
    if (failed++ == 0) first = record.problem;
  }
  if (failed == records.size()) return error(Code::failed, "every request failed; the first one: {}", first);
  if (failed > 0) note(fmt::format("{} of {} requests failed; the first one: {}", failed, records.size(), first));
  return {};
}

// A load in the making: the trace is read once, each rate makes its own workload of it.
struct Loader {
  const LoadOptions& options;
  std::vector<TraceEntry> trace;
  LoadTarget target;
  LoadLimits limits;

  Result<std::vector<LoadRecord>> run(double rate) const {
    WorkloadOptions workload = options.workload;
    workload.rate = rate;
    ONSET_ASSIGN(const std::vector<LoadRequest> requests, make_workload(trace, workload));
    ProgressBar bar(options.capacity ? fmt::format("{:.3f} requests/s", rate) : "requests");
    LoadWatch watch{.progress = [&bar](int32_t done, int32_t all) { bar.update(static_cast<double>(done) / all); }, .stop = &interrupted};
    ONSET_ASSIGN(std::vector<LoadRecord> records, run_load(target, requests, watch));
    if (interrupted) return error(Code::cancelled, "interrupted");
    ONSET_TRY(check_records(records));
    return records;
  }
};

Result<Loader> loader_of(const LoadOptions& options) {
  Loader loader{.options = options, .trace = {}, .target = options.target, .limits = {}};
  ONSET_ASSIGN(loader.limits.first_token, duration("--ttft", options.first_token));
  ONSET_ASSIGN(loader.limits.between_tokens, duration("--tbt", options.between_tokens));
  loader.target.chat = options.endpoint == "chat";
  if (loader.target.chat && !options.ids.empty()) return error(Code::invalid_argument, "--ids: a chat's prompts are text: expected none");
  ONSET_TRY(read_ids(options.ids, loader.target));
  if (!options.key_file.empty()) {
    ONSET_ASSIGN(std::string key, read_file(options.key_file));
    loader.target.api_key = key.substr(0, key.find_first_of("\r\n"));
  }
  if (options.trace.empty()) {
    loader.trace.assign(static_cast<size_t>(options.workload.requests),
                        {.prompt_tokens = options.prompt_tokens, .output_tokens = options.output_tokens});
  } else {
    ONSET_ASSIGN(loader.trace, read_trace(options.trace));
  }
  return loader;
}

Status write_plan(const Loader& loader) {
  ONSET_ASSIGN(const std::vector<LoadRequest> requests, make_workload(loader.trace, loader.options.workload));
  for (const LoadRequest& request : requests) {
    ONSET_TRY(write_json({{"arrival_seconds", request.arrival_seconds},
                          {"prompt_tokens", request.prompt_tokens},
                          {"output_tokens", request.output_tokens},
                          {"prompt", prompt_ids(request, loader.target.first_id, loader.target.last_id)}}));
  }
  return {};
}

Status run(const LoadOptions& options) {
  ONSET_ASSIGN(const Loader loader, loader_of(options));
  if (options.plan) return write_plan(loader);
  catch_interrupts();
  const std::string title = fmt::format("{}, {} requests",
                                        options.trace.empty() ? fmt::format("{} + {} tokens", options.prompt_tokens, options.output_tokens)
                                                              : std::filesystem::path(options.trace).stem().string(),
                                        options.workload.requests);
  if (!options.capacity) {
    ONSET_ASSIGN(const std::vector<LoadRecord> records, loader.run(options.workload.rate));
    const LoadStatistics statistics = load_statistics(records, loader.limits);
    ONSET_TRY(write_picture(options.svg, load_picture(records, loader.limits, title)));
    return options.json ? write_json(to_json(statistics)) : write_out(table_of(statistics));
  }
  if (options.workload.trace_arrivals) return error(Code::invalid_argument, "--capacity tries rates: expected no --trace-arrivals");
  CapacityOptions wanted{.limits = loader.limits, .first_rate = options.workload.rate, .precision = options.precision};
  wanted.least_rate = std::min(wanted.least_rate, wanted.first_rate);
  wanted.most_rate = std::max(wanted.most_rate, wanted.first_rate);
  ONSET_ASSIGN(const Capacity capacity, find_capacity(wanted, [&](double rate) -> Result<LoadStatistics> {
                 ONSET_ASSIGN(const std::vector<LoadRecord> records, loader.run(rate));
                 return load_statistics(records, loader.limits);
               }));
  ONSET_TRY(write_picture(options.svg, capacity_picture(capacity, loader.limits, title)));
  return options.json ? write_json(to_json(capacity)) : write_out(table_of(capacity));
}

}  // namespace

void add_load(CLI::App& app, Action& action) {
  add_command<LoadOptions>(app, action, "load", "measure a server under load", declare, run);
}

}  // namespace onset::cli
