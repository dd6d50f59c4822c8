// onset bench offline: prompts that are all known beforehand, read padded, ordered by length, prepacked and ragged.
#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

#include "onset/cli/commands.h"
#include "onset/cli/lengths.h"
#include "onset/cli/output.h"
#include "onset/engine/benchmark.h"
#include "onset/engine/offline.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct OfflineFlags {
  EngineFlags engine;
  std::string trace;
  std::vector<int32_t> lengths;
  int32_t prompts = 64;
  double scale = 1;
  int32_t most = 0;
  int32_t batch = 16;
  int32_t new_tokens = 1;
  int32_t repeat = 1;
  uint64_t seed = 1;
  std::vector<std::string> policies = offline_policy_names();
  bool data_set = false, omit_last = false, each_batch = false, json = false;
};

void declare(CLI::App& command, OfflineFlags& options) {
  auto* lengths = command.add_option("--lengths", options.lengths, "prompt lengths in tokens, separated by commas")
                      ->delimiter(',')
                      ->allow_extra_args(false)
                      ->check(CLI::Range(1, 1 << 24));
  command
      .add_option("--trace", options.trace,
                  "draw prompt lengths from this trace: CSV (num_prefill_tokens or ContextTokens) or JSON lines (input_length)")
      ->excludes(lengths);
  command.add_option("--prompts", options.prompts, "with --trace: how many")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  command.add_option("--scale", options.scale, "with --trace: lengths times this")->check(CLI::Range(1e-6, 1e6))->capture_default_str();
  command
      .add_option("--most", options.most, "with --trace: cut longer prompts to this many tokens (default: what the context has room for)")
      ->check(CLI::Range(1, 1 << 24));
  command.add_option("--batch", options.batch, "prompts in a batch")->check(CLI::Range(1, 1 << 16))->capture_default_str();
  command.add_option("-n,--new", options.new_tokens, "tokens to generate for each prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--repeat", options.repeat, "how often each policy runs, in turns")->check(CLI::Range(1, 1000))->capture_default_str();
  command.add_option("--policy", options.policies, "padded, length-ordered, prepack, ragged; separated by commas")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember(offline_policy_names()))
      ->capture_default_str();
  command.add_flag("--data-set", options.data_set, "prepack: pack all prompts at once, not batch by batch");
  command.add_flag("--omit-last", options.omit_last, "read a prompt's last token in a step of its own, as the paper's code does");
  command.add_flag("--each-batch", options.each_batch,
                   "with --json: the seconds (the shortest of the runs) and the lines of each batch, too");
  command.add_option("--seed", options.seed, "decides tokens, and which lengths are drawn")->capture_default_str();
  command.add_flag("--json", options.json, "print one JSON object");
  add_engine_flags(command, options.engine);
  set_examples(command,
               "  onset bench offline --lengths 700,30,120,80,15,300,45,60 --batch 8\n"
               "  onset bench offline --trace splitwise_conv.csv --prompts 128 --scale 0.25 --batch 16 --json");
}

Result<std::vector<int32_t>> lengths_of(const OfflineFlags& options) {
  if (!options.lengths.empty()) return options.lengths;
  if (options.trace.empty()) return error(Code::invalid_argument, "prompt lengths are missing: give them with --lengths or --trace");
  ONSET_ASSIGN(const std::vector<RequestLength> all, read_lengths(options.trace));
  std::vector<int32_t> lengths;
  for (const RequestLength& length : sample_lengths(all, options.prompts, options.scale, options.seed)) {
    lengths.push_back(options.most > 0 ? std::min(length.prompt, options.most) : length.prompt);
  }
  return lengths;
}

// One policy's runs.
struct Measured {
  std::string policy;
  std::vector<double> prefill_seconds, seconds;
  std::vector<double> shortest;  // of each batch
  OfflineRun last;
};

Json to_json(const OfflineFlags& options, const std::vector<Measured>& all) {
  Json list = Json::array();
  for (const Measured& one : all) {
    const double prefill = median(one.prefill_seconds);
    Json json{{"policy", one.policy},
              {"prefill_seconds", one.prefill_seconds},
              {"seconds", one.seconds},
              {"packing_seconds", one.last.packing_seconds},
              {"prompt_tokens", one.last.prompt_tokens},
              {"computed_rows", one.last.computed_rows},
              {"most_rows", one.last.most_rows},
              {"batches", one.last.batches},
              {"lines", one.last.lines},
              {"tokens_per_second", static_cast<double>(one.last.prompt_tokens) / prefill},
              {"first_token_seconds", median(one.last.batch_seconds)},
              {"equal", one.last.tokens == all.front().last.tokens}};
    if (options.each_batch) {
      json["batch_seconds"] = one.shortest;
      json["batch_lines"] = one.last.batch_lines;
    }
    list.push_back(std::move(json));
  }
  return {
      {"batch", options.batch}, {"prompts", all.front().last.tokens.size()}, {"peak_rss_bytes", peak_memory_bytes()}, {"policies", list}};
}

Status print_table(const std::vector<Measured>& all) {
  std::vector<std::vector<std::string>> rows = {{"", "tokens/s", "rows computed", "batch ms", "against the first", "same answers"}};
  const double first = median(all.front().prefill_seconds);
  for (const Measured& one : all) {
    const double prefill = median(one.prefill_seconds);
    rows.push_back({one.policy, fmt::format("{:.0f}", static_cast<double>(one.last.prompt_tokens) / prefill),
                    std::to_string(one.last.computed_rows), fmt::format("{:.1f}", 1e3 * median(one.last.batch_seconds)),
                    fmt::format("{:.2f} x", first / prefill), one.last.tokens == all.front().last.tokens ? "yes" : "no"});
  }
  return write_out(fmt::format("{} prompts, {} tokens in {} batches\n\n{}", all.front().last.tokens.size(), all.front().last.prompt_tokens,
                               all.front().last.batches, table_text(rows)));
}

Status run(const OfflineFlags& options) {
  ONSET_ASSIGN(std::vector<int32_t> lengths, lengths_of(options));
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, 1));
  const int32_t room = engine->model().config().context - options.new_tokens + 1;
  std::mt19937_64 random(options.seed);
  std::vector<std::vector<int32_t>> prompts;
  for (int32_t& length : lengths) {
    if (options.lengths.empty()) length = std::min(length, std::max(1, room));
    auto& prompt = prompts.emplace_back(length);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random() % static_cast<uint64_t>(engine->model().config().vocabulary));
  }
  std::vector<Measured> all;
  for (const std::string& policy : options.policies)
    all.push_back({.policy = policy, .prefill_seconds = {}, .seconds = {}, .shortest = {}, .last = {}});
  ProgressBar bar("reading");
  const double runs = static_cast<double>(all.size()) * options.repeat;
  double done = 0;
  for (int32_t i = 0; i < options.repeat; ++i) {
    for (Measured& one : all) {
      ONSET_ASSIGN(const OfflinePolicy policy, offline_policy(one.policy));
      ONSET_ASSIGN(one.last, run_offline(*engine, prompts,
                                         {.policy = policy,
                                          .batch = options.batch,
                                          .whole_data_set = options.data_set,
                                          .new_tokens = options.new_tokens,
                                          .omit_last = options.omit_last,
                                          .progress = [&](double share) { bar.update((done + share) / runs, one.policy); }}));
      one.prefill_seconds.push_back(one.last.prefill_seconds);
      one.seconds.push_back(one.last.seconds);
      one.shortest.resize(one.last.batch_seconds.size(), std::numeric_limits<double>::infinity());
      for (size_t batch = 0; batch < one.shortest.size(); ++batch) {
        one.shortest[batch] = std::min(one.shortest[batch], one.last.batch_seconds[batch]);
      }
      ++done;
    }
  }
  if (options.json) return write_json(to_json(options, all));
  return print_table(all);
}

}  // namespace

void add_bench_offline(CLI::App& bench, Action& action) {
  add_command<OfflineFlags>(bench, action, "offline", "known prompts in batches: padded, ordered, prepacked, ragged", declare, run);
}

}  // namespace onset::cli
