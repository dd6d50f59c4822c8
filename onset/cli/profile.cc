// onset profile: where the time of one prefill goes, or that of an answer.
#include "onset/engine/profile.h"

#include <random>

#include "onset/base/mapped_file.h"
#include "onset/cli/commands.h"
#include "onset/cli/output.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct ProfileOptions {
  EngineFlags engine;
  TextSource text;
  int32_t prompt = 512;
  int32_t behind = 0, generate = 64;
  std::string trace;
  bool json = false;
};

void declare(CLI::App& command, ProfileOptions& options) {
  auto* file = command.add_option("-f,--file", options.text.file, "the prompt, - for standard input (default: random tokens)");
  command.add_option("--prompt", options.prompt, "number of random tokens")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str()
      ->excludes(file);
  auto* behind = command
                     .add_option("--behind", options.behind,
                                 "an answer instead, behind a context of so many random tokens, which see their neighbours alone")
                     ->check(CLI::Range(1, 1 << 30))
                     ->excludes(file);
  command.add_option("--generate", options.generate, "with --behind: tokens of the answer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str()
      ->needs(behind);
  command.add_option("-o,--trace", options.trace, "also write the time line for chrome://tracing or Perfetto to this file");
  command.add_flag("--json", options.json, "print one JSON object");
  add_engine_flags(command, options.engine);
  set_examples(command,
               "  onset profile --prompt 2048\n  onset profile --file prompt.txt --trace prefill.json\n"
               "  onset profile --behind 4096 --generate 64 --attend lserve");
}

Result<std::vector<int32_t>> tokens_of(const Engine& engine, const ProfileOptions& options) {
  if (options.text.file.empty()) {
    std::mt19937 random(1);
    std::uniform_int_distribution<int32_t> token(0, engine.model().config().vocabulary - 1);
    std::vector<int32_t> tokens(options.prompt);
    for (int32_t& value : tokens) value = token(random);
    return tokens;
  }
  ONSET_ASSIGN(const std::string text, read_text(options.text, "the prompt"));
  if (engine.tokenizer() == nullptr) return error(Code::unsupported, "{} has no tokenizer", engine.model().file().path().string());
  return engine.tokenizer()->encode(text);
}

Status print_table(const Profile& profile) {
  std::vector<std::vector<std::string>> rows = {{"operation", "calls", "ms", "share"}};
  double counted = 0;
  const auto add = [&](const std::string& name, const std::string& calls, double seconds) {
    rows.push_back({name, calls, fmt::format("{:.3f}", 1e3 * seconds), fmt::format("{:.1f} %", 100 * seconds / profile.seconds)});
  };
  for (const OperationTotal& total : operation_totals(profile)) {
    add(total.name, std::to_string(total.calls), total.seconds);
    counted += total.seconds;
  }
  add("between them", "", profile.seconds - counted);
  add("all", std::to_string(profile.operations.size()), profile.seconds);
  return write_out(fmt::format("{} tokens in {} steps, {:.0f} tokens/s with every operation timed by itself\n\n{}", profile.tokens,
                               profile.steps, profile.tokens / profile.seconds, table_text(rows)));
}

Status run(const ProfileOptions& options) {
  const int32_t random = options.behind > 0 ? options.behind + options.generate + 2 : options.prompt;
  ONSET_ASSIGN(const auto engine, load_engine(options.engine, options.text.file.empty() ? random : 0));
  Profile profile;
  if (options.behind > 0) {
    ONSET_ASSIGN(profile, profile_decode(*engine, options.behind, options.generate));
  } else {
    ONSET_ASSIGN(const std::vector<int32_t> tokens, tokens_of(*engine, options));
    ONSET_ASSIGN(profile, profile_prefill(*engine, tokens));
  }
  if (!options.trace.empty()) {
    ONSET_ASSIGN(AtomicFile file, AtomicFile::create(options.trace));
    ONSET_TRY(file.write(chrome_trace(profile)));
    ONSET_TRY(file.commit());
  }
  if (!options.json) return print_table(profile);
  Json totals = Json::array();
  for (const OperationTotal& total : operation_totals(profile)) {
    totals.push_back({{"name", total.name}, {"calls", total.calls}, {"seconds", total.seconds}});
  }
  return write_json({{"tokens", profile.tokens}, {"steps", profile.steps}, {"seconds", profile.seconds}, {"operations", totals}});
}

}  // namespace

void add_profile(CLI::App& app, Action& action) {
  add_command<ProfileOptions>(app, action, "profile", "one prefill, or an answer, as a time line", declare, run);
}

}  // namespace onset::cli
