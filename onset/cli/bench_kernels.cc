// onset bench kernels: each kernel at the shapes of the loaded model.
#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/engine/kernel_benchmark.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct KernelOptions {
  EngineFlags engine;
  std::vector<int32_t> rows = {1, 512};
  int32_t keys = 2048;
  bool json = false;
};

void declare(CLI::App& command, KernelOptions& options) {
  command.add_option("--rows", options.rows, "numbers of rows, separated by commas; 1 is a decode step")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--keys", options.keys, "earlier tokens that attention sees")->check(CLI::Range(1, 1 << 24))->capture_default_str();
  command.add_flag("--json", options.json, "print one JSON list");
  add_engine_flags(command, options.engine);
  set_examples(command, "  onset bench kernels --rows 1,16,512\n  ONSET_ISA=avx2 onset bench kernels --model model.gguf");
}

std::string share_text(double share) {
  return share > 0 ? fmt::format("{:.1f} %", 100 * share) : "";
}

Status run(const KernelOptions& options) {
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, 1));
  ThreadPool pool(engine->threads());
  std::vector<KernelTiming> timings;
  {
    ProgressBar bar("measuring");
    double done = 0;
    ONSET_ASSIGN(timings,
                 benchmark_kernels(*engine, pool, {.rows = options.rows, .keys = options.keys, .progress = [&](const std::string& what) {
                                                     ++done;
                                                     bar.update(done / (done + 5), what);  // how many will come is not known
                                                   }}));
  }
  if (options.json) {
    Json list = Json::array();
    for (const KernelTiming& timing : timings) {
      list.push_back({{"name", timing.name},
                      {"shape", timing.shape},
                      {"seconds", timing.seconds},
                      {"operations", timing.operations},
                      {"bytes", timing.bytes},
                      {"share_of_arithmetic", timing.share_of_arithmetic},
                      {"share_of_reading", timing.share_of_reading}});
    }
    return write_json(list);
  }
  std::vector<std::vector<std::string>> rows = {{"kernel", "shape", "us", "of arithmetic", "of reading"}};
  for (const KernelTiming& timing : timings) {
    rows.push_back({timing.name, timing.shape, fmt::format("{:.1f}", 1e6 * timing.seconds), share_text(timing.share_of_arithmetic),
                    share_text(timing.share_of_reading)});
  }
  return write_out(fmt::format("{} threads, {}, {} precision, {} keys and values; shares of the peaks of onset bench machine\n\n{}",
                               engine->threads(), isa_name(engine->model().isa()), precision_name(engine->model().precision()),
                               kv_type_name(engine->kv_type()), table_text(rows)));
}

}  // namespace

void add_bench_kernels(CLI::App& bench, Action& action) {
  add_command<KernelOptions>(bench, action, "kernels", "each kernel at the shapes of the loaded model", declare, run);
}

}  // namespace onset::cli
