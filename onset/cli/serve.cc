// onset serve: an OpenAI-compatible server.
#include "onset/serve/server.h"

#include <sys/resource.h>

#include "onset/cli/commands.h"
#include "onset/cli/output.h"
#include "onset/cli/served_models.h"

namespace onset::cli {
namespace {

struct ServeFlags {
  ServedModels models;
  serve::ServeOptions serve;
};

void declare(CLI::App& command, ServeFlags& flags) {
  serve::ServeOptions& options = flags.serve;
  serve::Limits& limits = options.limits;
  command.add_option("--host", options.host, "the address to listen at; 0.0.0.0: every one of this machine")->capture_default_str();
  options.port = 8080;
  command.add_option("--port", options.port, "0: the system chooses one")->capture_default_str();
  command.add_option("--api-keys", options.api_keys, "a file with one key on each line; without it everybody may ask");
  command.add_flag("--share-prefixes", options.share_prefixes,
                   "prompts of different keys share the prefix cache; their users can then tell what others have asked");
  command.add_option("--tls-certificate", options.certificate, "certificate chain (PEM); with it the server speaks https");
  command.add_option("--tls-key", options.key, "its private key (PEM)");
  command.add_option("--cors", options.cors_origins, "an origin whose pages may ask, or *; may be repeated (default: none)")
      ->allow_extra_args(false);
  command.add_option("--drain", options.drain_seconds, "seconds that running requests may take after SIGTERM")->capture_default_str();

  const std::string group = "Limits";
  command.add_option("--max-body", limits.body_bytes, "bytes of a request's body")->capture_default_str()->group(group);
  command.add_option("--header-time", limits.header_seconds, "seconds for a request's headers")->capture_default_str()->group(group);
  command.add_option("--idle-time", limits.idle_seconds, "seconds without progress after which a connection is closed")
      ->capture_default_str()
      ->group(group);
  command.add_option("--max-connections", limits.connections, "open connections")->capture_default_str()->group(group);
  command.add_option("--max-requests", limits.requests, "requests worked on at a time; more are told to try again")
      ->capture_default_str()
      ->group(group);
  command
      .add_option("--max-tokens-in-flight", limits.tokens_in_flight,
                  "prompt and answer tokens that these may come to, for each model; 0: 8 x its context")
      ->capture_default_str()
      ->group(group);

  add_served_models(command, flags.models);
  set_examples(command,
               "  onset serve\n"
               "  onset serve --model a=smollm2-135m-instruct --model b=model.gguf --port 8000\n"
               "  onset serve --host 0.0.0.0 --api-keys keys.txt --tls-certificate cert.pem --tls-key key.pem\n\n"
               "  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\\n"
               "    -d '{\"model\": \"smollm2-135m-instruct\", \"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'");
}

// Many connections need many file descriptors.
void allow_many_files() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

Status run(const ServeFlags& flags) {
  allow_many_files();
  ONSET_ASSIGN(const std::vector<NamedModel> models, find_served_models(flags.models));
  // Before the models are loaded: an address that is taken is said at once.
  ONSET_ASSIGN(const auto server, serve::Server::create(flags.serve));
  std::string names;
  for (const NamedModel& model : models) {
    ONSET_ASSIGN(auto host, load_served_model(flags.models, model, server->deliver(), server->metrics()));
    ONSET_TRY(server->add(std::move(host)));
    names += (names.empty() ? "" : ", ") + model.name;
  }
  ONSET_TRY(server->listen());
  note(fmt::format("listening at {} (model{} {})", server->url(), models.size() > 1 ? "s" : "", names));
  return server->run();
}

}  // namespace

void add_serve(CLI::App& app, Action& action) {
  add_command<ServeFlags>(app, action, "serve", "an OpenAI-compatible server", declare, run);
}

}  // namespace onset::cli
