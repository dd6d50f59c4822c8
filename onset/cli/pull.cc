// onset pull: fetching models, by name or from an address.
#include "onset/store/pull.h"

#include <unistd.h>

#include <iostream>

#include "onset/cli/commands.h"
#include "onset/cli/output.h"

namespace onset::cli {
namespace {

using Json = nlohmann::ordered_json;

struct PullOptions {
  std::string what, sha256;
  std::string output;
  bool accept = false, list = false, json = false;
};

void declare(CLI::App& command, PullOptions& options) {
  command.add_option("MODEL", options.what, "a name of the list, or an https address");
  command.add_flag("-l,--list", options.list, "the models that can be named");
  command.add_flag("--json", options.json, "with --list: print one JSON object");
  command.add_flag("--accept-licence,--accept-license", options.accept, "you have read the model's licence and accept it");
  command.add_option("--sha256", options.sha256, "with an address: the checksum the file must have");
  command.add_option("-o,--output", options.output, "with an address: where to (default: its file name, in the folder of models)");
  set_examples(command,
               "  onset pull --list\n"
               "  onset pull smollm2-135m-instruct\n"
               "  onset pull --accept-licence gemma-3-270m\n"
               "  onset pull --sha256 0123...cdef https://example.org/model.gguf");
}

Status print_list(bool json) {
  std::vector<std::vector<std::string>> rows = {{"name", "size", "licence", "file"}};
  Json object = Json::object();
  std::error_code ignored;
  for (const NamedModel& model : named_models()) {
    const bool there = std::filesystem::exists(models_folder() / model.file, ignored);
    rows.push_back({model.name, bytes_text(static_cast<double>(model.bytes)), model.licence, model.file + (there ? " (here)" : "")});
    object[model.name] = {{"file", model.file},
                          {"bytes", model.bytes},
                          {"sha256", model.sha256},
                          {"licence", model.licence},
                          {"licence_text", model.licence_text},
                          {"must_accept", model.must_accept},
                          {"here", there}};
  }
  return json ? write_json(object) : write_out(table_text(rows));
}

// A licence that has to be accepted is shown and asked about; without a terminal only --accept-licence says yes.
Status accept_licence(const NamedModel& model, bool accepted) {
  std::fprintf(stderr, "%s\n", model.licence_text.c_str());
  if (accepted || !model.must_accept) return {};
  if (isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1) {
    std::fputs("Do you accept this licence? [y/n] ", stderr);
    std::string answer;
    std::getline(std::cin, answer);
    if (answer == "y" || answer == "Y" || answer == "yes") return {};
  }
  return error(Code::invalid_argument, "fetching {} means accepting its licence: read it and say so with --accept-licence", model.name);
}

PullProgress progress_on(ProgressBar& bar) {
  return [&bar](const std::string& what, int64_t done, int64_t total) {
    const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
    bar.update(share, fmt::format("{} of {} {}", bytes_text(static_cast<double>(done)),
                                  total > 0 ? bytes_text(static_cast<double>(total)) : "an unknown size", what));
    return !interrupted;
  };
}

Status pull_address(const PullOptions& options) {
  std::filesystem::path destination = options.output;
  if (destination.empty()) {
    ONSET_ASSIGN(const std::string name, file_name_of(options.what));
    destination = models_folder() / name;
  }
  std::error_code ignored;
  if (std::filesystem::exists(destination, ignored)) {
    return error(Code::invalid_argument, "{} exists: delete it first, or name another with --output", destination.string());
  }
  {
    ProgressBar bar("downloading");
    ONSET_TRY(download(options.what, destination, options.sha256, progress_on(bar)));
  }
  if (options.sha256.empty()) note("no --sha256 was given, so nothing vouches for this file");
  return write_out(destination.string() + "\n");
}

Status pull_name(const PullOptions& options) {
  std::string names;
  for (const NamedModel& model : named_models()) {
    names += (names.empty() ? "" : ", ") + model.name;
    if (model.name != options.what) continue;
    if (!options.sha256.empty() || !options.output.empty()) {
      return error(Code::invalid_argument, "--sha256 and --output belong to an address; {} has both already", model.name);
    }
    std::error_code ignored;
    const bool there = std::filesystem::exists(models_folder() / model.file, ignored);
    if (!there) ONSET_TRY(accept_licence(model, options.accept));
    std::filesystem::path path;
    {
      ProgressBar bar("fetching");
      ONSET_ASSIGN(path, pull_named(model, models_folder(), progress_on(bar)));
    }
    return write_out(path.string() + "\n");
  }
  return error(Code::not_found, "there is no model named {}; known: {}; or give an https address", options.what, names);
}

Status run(const PullOptions& options) {
  if (options.list) return print_list(options.json);
  if (options.what.empty()) return error(Code::invalid_argument, "name a model or an address (onset pull --list shows names)");
  catch_interrupts();
  return options.what.find("://") != std::string::npos ? pull_address(options) : pull_name(options);
}

}  // namespace

void add_pull(CLI::App& app, Action& action) {
  add_command<PullOptions>(app, action, "pull", "fetch a model", declare, run);
}

}  // namespace onset::cli
