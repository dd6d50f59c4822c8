// The program `onset`: reads the command line, runs one subcommand, and says in one sentence what went wrong.
#include <csignal>
#include <cstdio>

#include "onset/cli/commands.h"
#include "onset/cli/output.h"

namespace {

constexpr int status_ok = 0, status_failed = 1, status_usage = 2, status_interrupted = 130;

// CLI11's messages end in a line feed now and then, and can have several lines.
std::string one_line(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  for (char& c : text) c = c == '\n' ? ' ' : c;
  return text;
}

// CLI11 would only say that a command is missing.
std::optional<std::string> unknown_command(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return {};
  const std::string wanted = argv[1];
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == wanted) return {};
  }
  return "there is no command " + wanted;
}

void declare(CLI::App& app, onset::cli::Action& action) {
  using namespace onset::cli;
  app.require_subcommand(1);
  app.set_version_flag("--version", "onset " ONSET_VERSION);
  app.get_formatter()->column_width(36);
  app.footer("\nonset COMMAND --help describes a command. Models are kept in ${XDG_CACHE_HOME:-~/.cache}/onset/models.");
  add_run(app, action);
  add_chat(app, action);
  add_serve(app, action);
  add_batch(app, action);
  add_score(app, action);
  add_perplexity(app, action);
  add_tokenize(app, action);
  add_bench(app, action);
  add_profile(app, action);
  add_inspect(app, action);
  add_convert(app, action);
  add_kv_deviation(app, action);
  add_tune_ape(app, action);
  add_search_heads(app, action);
  add_long_bench(app, action);
  add_map(app, action);
  add_store(app, action);
  add_load(app, action);
  add_pull(app, action);
}

}  // namespace

int main(int argc, char** argv) {
  // Both become errors of the write itself: a reader that has gone, a file that may not grow further.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);
  CLI::App app("Runs transformer models on this machine's CPU; prompts are read fast.", "onset");
  onset::cli::Action action;
  declare(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wish) {  // --help, --version
    return app.exit(wish);
  } catch (const CLI::ParseError& problem) {
    onset::cli::note(unknown_command(app, argc, argv).value_or(one_line(problem.what())) + " (onset --help, onset COMMAND --help)");
    return status_usage;
  }
  const onset::Status status = action();
  if (status.ok()) return status_ok;
  if (status.code() == onset::Code::cancelled) {
    if (status.message().empty()) return status_ok;  // the reader of the output has enough
    onset::cli::note(status.message());
    return status_interrupted;
  }
  onset::cli::note(status.message());
  return status_failed;
}
