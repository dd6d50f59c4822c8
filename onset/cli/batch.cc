// onset batch: a file of requests in OpenAI's batch form.
#include "onset/serve/batch.h"

#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/cli/served_models.h"

namespace onset::cli {
namespace {

struct BatchFlags {
  ServedModels models;
  serve::BatchOptions batch;
  bool json = false;
};

void declare(CLI::App& command, BatchFlags& flags) {
  command.add_option("INPUT", flags.batch.input, "requests, one JSON object on each line: custom_id, method, url, body")->required();
  command.add_option("OUTPUT", flags.batch.output, "answers are appended here; those that it has are not asked again")->required();
  command.add_option("--in-flight", flags.batch.in_flight, "requests worked on at a time")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command.add_flag("--json", flags.json, "print one JSON object of figures at the end");
  add_served_models(command, flags.models);
  set_examples(command,
               "  onset batch requests.jsonl answers.jsonl\n"
               "  onset batch --model a=model.gguf requests.jsonl answers.jsonl\n\n"
               "  {\"custom_id\": \"1\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\",\n"
               "   \"body\": {\"model\": \"smollm2-135m-instruct\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}}  (on "
               "one line)\n\n"
               "A run that was stopped goes on when it is started again.");
}

Status run(const BatchFlags& flags) {
  ONSET_ASSIGN(const std::vector<NamedModel> models, find_served_models(flags.models));
  serve::Metrics metrics;
  serve::Hosts hosts;
  for (const NamedModel& model : models) {
    ONSET_ASSIGN(hosts[model.name], load_served_model(flags.models, model, serve::deliver_at_once(), metrics));
  }
  catch_interrupts();
  ProgressBar bar("answering");
  serve::BatchOptions options = flags.batch;
  options.interrupted = &interrupted;
  options.progress = [&bar](double share) { bar.update(share); };
  ONSET_ASSIGN(const serve::BatchReport report, serve::run_batch(hosts, options));
  if (flags.json) {
    return write_json({{"requests", report.requests},
                       {"answered", report.answered},
                       {"done_before", report.done_before},
                       {"refused", report.refused},
                       {"new_tokens", report.new_tokens},
                       {"seconds", report.seconds}});
  }
  note(fmt::format("{} requests: {} answered now, {} before, {} refused (their answers say why)", report.requests, report.answered,
                   report.done_before, report.refused));
  return {};
}

}  // namespace

void add_batch(CLI::App& app, Action& action) {
  add_command<BatchFlags>(app, action, "batch", "answer a file of requests", declare, run);
}

}  // namespace onset::cli
