// All subcommands, each in the file of its name.
#pragma once

#include "onset/cli/command.h"

namespace onset::cli {

void add_run(CLI::App& app, Action& action);
void add_chat(CLI::App& app, Action& action);
void add_bench(CLI::App& app, Action& action);  // also the commands below it
void add_bench_machine(CLI::App& bench, Action& action);
void add_bench_kernels(CLI::App& bench, Action& action);
void add_bench_steps(CLI::App& bench, Action& action);
void add_bench_schedule(CLI::App& bench, Action& action);
void add_bench_offline(CLI::App& bench, Action& action);
void add_bench_reuse(CLI::App& bench, Action& action);
void add_bench_fidelity(CLI::App& bench, Action& action);
void add_bench_break_even(CLI::App& bench, Action& action);
void add_serve(CLI::App& app, Action& action);
void add_batch(CLI::App& app, Action& action);
void add_profile(CLI::App& app, Action& action);
void add_score(CLI::App& app, Action& action);
void add_perplexity(CLI::App& app, Action& action);
void add_tokenize(CLI::App& app, Action& action);
void add_inspect(CLI::App& app, Action& action);
void add_convert(CLI::App& app, Action& action);
void add_kv_deviation(CLI::App& app, Action& action);
void add_tune_ape(CLI::App& app, Action& action);
void add_search_heads(CLI::App& app, Action& action);
void add_long_bench(CLI::App& app, Action& action);
void add_map(CLI::App& app, Action& action);
void add_store(CLI::App& app, Action& action);  // also the commands below it
void add_load(CLI::App& app, Action& action);
void add_pull(CLI::App& app, Action& action);

}  // namespace onset::cli
