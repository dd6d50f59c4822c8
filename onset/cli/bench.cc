// onset bench: prefill and decode speed of a model, as the comparison with other engines reads it.
#include "onset/engine/benchmark.h"

#include <algorithm>

#include "onset/cli/commands.h"
#include "onset/cli/output.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct BenchOptions {
  EngineFlags engine;
  std::vector<int32_t> prompts = {512}, contexts;
  int32_t generate = 64;
  int32_t repeat = 3;
  std::string select = "all";
  bool json = false;
};

void declare(CLI::App& command, BenchOptions& options) {
  command.require_subcommand(0, 1);
  command.add_option("--prompt", options.prompts, "prompt lengths in tokens, separated by commas")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command.add_option("--generate", options.generate, "single tokens to decode after one; 0: none")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command
      .add_option("--behind", options.contexts,
                  "also decode behind contexts of so many tokens, separated by commas, whose own tokens see their neighbours alone")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1 << 30));
  command.add_option("--repeat", options.repeat, "how often each is measured (one run before that is thrown away)")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  add_select_flag(command, options.select);
  command.add_flag("--json", options.json, "print one JSON object");
  add_engine_flags(command, options.engine);
  set_examples(command,
               "  onset bench --model model.gguf --prompt 512,2048 --generate 64 --threads 2\n"
               "  onset bench machine\n"
               "  onset bench kernels --model model.gguf\n"
               "  onset bench steps\n"
               "  onset bench schedule --policies sarathi-serve,vllm\n"
               "  onset bench offline --lengths 700,30,120,80\n"
               "  onset bench break-even");
}

int64_t tensor_bytes(const Engine& engine) {
  int64_t bytes = 0;
  for (const StoredTensor& tensor : engine.model().file().tensors()) bytes += static_cast<int64_t>(tensor.bytes.size());
  return bytes;
}

Json to_json(const BenchOptions& options, const Engine& engine, const Benchmark& benchmark, double load_seconds) {
  Json prefill = Json::array();
  for (const PrefillSpeed& speed : benchmark.prefill) {
    prefill.push_back({{"tokens", speed.tokens}, {"tokens_per_second", speed.tokens_per_second}});
  }
  Json behind = Json::array();
  for (const PrefillSpeed& speed : benchmark.decode_behind) {
    behind.push_back({{"context", speed.tokens}, {"tokens_per_second", speed.tokens_per_second}});
  }
  const EngineStatistics statistics = engine.statistics();
  return {{"engine", "onset " ONSET_VERSION},
          {"model", options.engine.model.empty() ? engine.model().file().path().string() : options.engine.model},
          {"threads", engine.threads()},
          {"isa", isa_name(engine.model().isa())},
          {"precision", precision_name(engine.model().precision())},
          {"kv", kv_type_name(engine.kv_type())},
          {"select", options.select},
          {"prefill", prefill},
          {"decode", {{"tokens", benchmark.decode.tokens}, {"tokens_per_second", benchmark.decode.tokens_per_second}}},
          {"decode_behind", behind},
          {"load_seconds", load_seconds},
          {"peak_rss_bytes", peak_memory_bytes()},
          {"packed_weight_bytes", engine.model().packed_bytes()},
          {"tensor_bytes", tensor_bytes(engine)},
          {"pool_bytes", statistics.pages * static_cast<int64_t>(statistics.page_bytes)}};
}

std::vector<std::string> row_of(const std::string& name, int32_t tokens, const PrefillSpeed& speed) {
  const auto [least, most] = std::minmax_element(speed.tokens_per_second.begin(), speed.tokens_per_second.end());
  const double middle = median(speed.tokens_per_second);
  return {fmt::format("{} {}", name, speed.tokens), fmt::format("{:.1f}", middle), fmt::format("{:.1f}", *least),
          fmt::format("{:.1f}", *most), fmt::format("{:.2f}", 1e3 * tokens / middle)};
}

Status print_table(const Engine& engine, const Benchmark& benchmark, double load_seconds) {
  std::vector<std::vector<std::string>> rows = {{"", "tokens/s", "least", "most", "ms"}};
  for (const PrefillSpeed& speed : benchmark.prefill) rows.push_back(row_of("prefill", speed.tokens, speed));
  if (!benchmark.decode.tokens_per_second.empty()) rows.push_back(row_of("decode", benchmark.decode.tokens, benchmark.decode));
  for (const PrefillSpeed& speed : benchmark.decode_behind) rows.push_back(row_of("decode behind", benchmark.decode.tokens, speed));
  return write_out(fmt::format("{}\n{} threads, {}, {} precision, {} keys and values; loaded in {:.2f} s; {} of memory\n\n{}",
                               engine.model().file().path().string(), engine.threads(), isa_name(engine.model().isa()),
                               precision_name(engine.model().precision()), kv_type_name(engine.kv_type()), load_seconds,
                               bytes_text(static_cast<double>(peak_memory_bytes())), table_text(rows)));
}

Status run(const BenchOptions& options) {
  const auto began = std::chrono::steady_clock::now();
  int32_t longest = options.generate + 1;
  for (const int32_t prompt : options.prompts) longest = std::max(longest, prompt);
  for (const int32_t context : options.contexts) longest = std::max(longest, context + options.generate + 2);
  ONSET_ASSIGN(const auto select, select_of(options.select));
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, longest));
  ONSET_TRY(first_token_seconds(*engine).status());
  const double load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  Benchmark benchmark;
  {
    ProgressBar bar("measuring");
    ONSET_ASSIGN(benchmark, run_benchmark(*engine, {.prompts = options.prompts,
                                                    .contexts = options.contexts,
                                                    .generate = options.generate,
                                                    .repeat = options.repeat,
                                                    .select = select,
                                                    .progress = [&](const std::string& what, double share) { bar.update(share, what); }}));
  }
  if (options.json) return write_json(to_json(options, *engine, benchmark, load_seconds));
  return print_table(*engine, benchmark, load_seconds);
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  CLI::App* bench = add_command<BenchOptions>(app, action, "bench", "measure a model, this machine, or the kernels", declare, run);
  add_bench_machine(*bench, action);
  add_bench_kernels(*bench, action);
  add_bench_steps(*bench, action);
  add_bench_schedule(*bench, action);
  add_bench_offline(*bench, action);
  add_bench_reuse(*bench, action);
  add_bench_fidelity(*bench, action);
  add_bench_break_even(*bench, action);
}

}  // namespace onset::cli
