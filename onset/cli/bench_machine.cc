// onset bench machine: what the machine can do at best, for 1 to n threads.
#include <sched.h>

#include <algorithm>

#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/compute/machine.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct MachineOptions {
  EngineFlags engine;
  bool json = false;
};

void declare(CLI::App& command, MachineOptions& options) {
  add_threads_flag(command, options.engine);
  command.add_flag("--json", options.json, "print one JSON object: the figures at most threads, and all of them in \"by_threads\"");
  set_examples(command, "  onset bench machine --threads 2\n  ONSET_ISA=avx2 onset bench machine --json");
}

Json to_json(const MachinePeaks& peaks) {
  return {{"threads", peaks.threads},
          {"int8", peaks.int8_operations_per_second},
          {"bf16", peaks.bf16_operations_per_second},
          {"float32", peaks.float32_operations_per_second},
          {"read", peaks.read_bytes_per_second}};
}

Status run(const MachineOptions& options) {
  ONSET_ASSIGN(const Isa isa, choose_isa());
  cpu_set_t set;
  const int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  const std::vector<MachinePeaks> all = measure_machine(isa, options.engine.threads > 0 ? options.engine.threads : cores);
  if (options.json) {
    Json json{{"isa", isa_name(isa)}};
    json.update(to_json(all.back()));
    for (const MachinePeaks& peaks : all) json["by_threads"].push_back(to_json(peaks));
    return write_json(json);
  }
  std::vector<std::vector<std::string>> rows = {{"threads", "int8 Tops", "bf16 TFLOP/s", "float32 TFLOP/s", "read GB/s"}};
  for (const MachinePeaks& peaks : all) {
    rows.push_back({std::to_string(peaks.threads), fmt::format("{:.3f}", peaks.int8_operations_per_second / 1e12),
                    peaks.bf16_operations_per_second > 0 ? fmt::format("{:.3f}", peaks.bf16_operations_per_second / 1e12) : "-",
                    fmt::format("{:.3f}", peaks.float32_operations_per_second / 1e12),
                    fmt::format("{:.1f}", peaks.read_bytes_per_second / 1e9)});
  }
  return write_out(fmt::format("{}; a multiplication and an addition count as two\n\n{}", isa_name(isa), table_text(rows)));
}

}  // namespace

void add_bench_machine(CLI::App& bench, Action& action) {
  add_command<MachineOptions>(bench, action, "machine", "peaks of arithmetic and memory, by number of threads", declare, run);
}

}  // namespace onset::cli
