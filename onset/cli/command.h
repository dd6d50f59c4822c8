// A subcommand: its options on the command line, and what it does. One file each; commands.h lists them.
#pragma once

#include <CLI/CLI.hpp>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "onset/base/status.h"
#include "onset/engine/engine.h"

namespace onset::cli {

// What the command line asks for: set while it is parsed, run afterwards.
using Action = std::function<Status()>;

// Adds a subcommand whose options live in an Options object. `declare(command, options)` adds them; when the command is given,
// `run(options)` becomes the action.
template <typename Options>
CLI::App* add_command(CLI::App& parent, Action& action, const std::string& name, const std::string& description,
                      void (*declare)(CLI::App&, Options&), Status (*run)(const Options&)) {
  CLI::App* command = parent.add_subcommand(name, description);
  const auto options = std::make_shared<Options>();
  declare(*command, *options);
  command->callback([command, options, run, &action] {
    if (command->get_subcommands().empty()) action = [options, run] { return run(*options); };
  });
  return command;
}

// Text below the options, as examples: shown as it is.
void set_examples(CLI::App& command, const std::string& examples);

// Options that make sense for more than one command.
struct EngineFlags {
  std::string model;
  std::string precision = "fast";
  std::string rope_scaling, layers, attend;
  int32_t threads = 0;
  std::string kv;
  std::string schedule = default_schedule_policy;
  int32_t budget = 1024;
  std::string tbt;  // a duration: "50ms"
  int64_t pool_tokens = 0;
  bool no_cache = false;
};
void add_model_flag(CLI::App& command, EngineFlags& flags);
void add_threads_flag(CLI::App& command, EngineFlags& flags);
void add_long_flags(CLI::App& command, EngineFlags& flags);    // for long texts: --attend, --layers, --rope-scaling
void add_engine_flags(CLI::App& command, EngineFlags& flags);  // all others too

// Which tokens go on through each layer, by the name of a select policy. Errors: those of named_select, naming the option.
void add_select_flag(CLI::App& command, std::string& select);
Result<std::shared_ptr<const SelectSpec>> select_of(const std::string& select);

// Line ends before the first context.
CLI::Option* add_newlines_flag(CLI::App& command, std::optional<int32_t>& newlines);

// Seconds of a duration: "50ms", "0.05s", "2m" or a number of seconds. Errors: invalid_argument naming the option.
Result<double> duration_of(const std::string& option, const std::string& text);

Precision precision_of(const std::string& name);
std::optional<KvType> kv_type_of(const std::string& name);

// Loads the model with a progress bar. `pool_tokens`: how much key/value cache is needed when --pool does not say. most_running: as in
// EngineOptions, 0 = its default. `also`: sets what else the command has options for.
Result<std::unique_ptr<Engine>> load_engine(const EngineFlags& flags, int64_t pool_tokens = 0, int32_t most_running = 0,
                                            const std::function<Status(EngineOptions&)>& also = {});

struct SamplingFlags {
  SamplingOptions options;
  std::vector<std::string> bias;  // ID:BIAS
  std::vector<std::string> stop;
  int32_t most_new_tokens = -1;
};
void add_sampling_flags(CLI::App& command, SamplingFlags& flags);
// Errors: invalid_argument for a bias that is not ID:NUMBER.
Result<SamplingOptions> sampling_of(const SamplingFlags& flags);

// Where a command's text comes from: arguments, a file ("-" is standard input), or standard input where neither is given.
struct TextSource {
  std::vector<std::string> words;
  std::string file;
};
// Errors: invalid_argument if both are given, or neither and standard input is a terminal; those of read_file.
Result<std::string> read_text(const TextSource& source, const char* what);

// Set by Ctrl-C after catch_interrupts(); whoever acts on it clears it.
extern std::atomic<bool> interrupted;
void catch_interrupts();

}  // namespace onset::cli
