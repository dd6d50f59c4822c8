// The server: OpenAI's API over HTTP/1.1, with or without TLS, for one or several models.
//
//     ONSET_ASSIGN(auto server, Server::create(options));
//     ONSET_ASSIGN(auto host, ModelHost::create("a", std::move(engine), server->deliver(), server->metrics().model("a")));
//     server->add(std::move(host));
//     ONSET_TRY(server->listen());
//     ONSET_TRY(server->run());
//
// One thread does all that has to do with sockets; prompts are rendered and tokenised on a second one; each model has its own. A client
// that reads slowly costs the memory of the text that it has not read, up to a limit; a client that goes away takes its requests along.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"
#include "onset/serve/metrics.h"
#include "onset/serve/model_host.h"

namespace onset::serve {

struct Limits {
  int64_t body_bytes = 8 << 20;      // of one request
  double header_seconds = 10;        // from a request's first byte to the end of its headers, and for a TLS handshake
  double idle_seconds = 75;          // between requests of a connection, for a request's body, and for a write to make progress
  int32_t connections = 4096;        // open at a time
  int32_t requests = 256;            // calls that engines work on at a time; more get 429
  int64_t tokens_in_flight = 0;      // prompt and answer tokens that these may come to, for each model; 0: 8 × its context
  int64_t waiting_bytes = 48 << 10;  // of each of an answer's choices that its reader has not taken; more ends the request
};

struct ServeOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;                           // 0: the system chooses
  std::filesystem::path api_keys = {};         // a file with one key on each line; empty: everybody may ask
  std::filesystem::path certificate, key;      // PEM files; both or none
  bool share_prefixes = false;                 // among all keys: the prefix cache then tells one key's users what others have asked
  std::vector<std::string> cors_origins = {};  // origins whose pages may ask ("https://example.org", "*"); none by default
  double drain_seconds = 30;                   // how long running requests may take after SIGTERM
  Limits limits = {};
};

// Keys that clients may have. Their SHA-256 is kept, and every one is compared in full, so that the time tells nothing.
class ApiKeys {
 public:
  // Errors: those of reading the file, invalid_argument for one without keys or with a key that is no single word.
  static Result<ApiKeys> read(const std::filesystem::path& path);
  // The value of an Authorization header: the identity of the key in it (its SHA-256), or nothing if nobody has such a key.
  std::optional<std::string> find(std::string_view authorization) const;

 private:
  std::vector<std::string> digests_;
};

class Server {
 public:
  // Binds the address and reads keys and certificate. Errors: those of ApiKeys, invalid_argument for limits that make no sense, a
  // certificate or key that cannot be read or do not belong together, failed for an address that cannot be bound.
  static Result<std::unique_ptr<Server>> create(ServeOptions options);
  ~Server();

  uint16_t port() const;
  std::string url() const;
  Metrics& metrics();
  Deliver deliver();
  // Before run(). Errors: invalid_argument for a name that is taken.
  Status add(std::unique_ptr<ModelHost> host);

  // Clients can connect from now on. Errors: failed for an address that somebody else has taken meanwhile.
  Status listen();
  // Serves until SIGTERM, SIGINT or stop(): then takes no new requests, lets running ones end for up to drain_seconds, tells the others why
  // they do not, and returns. A second signal does not wait.
  Status run();
  void stop();  // any thread

  struct State;

 private:
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace onset::serve
