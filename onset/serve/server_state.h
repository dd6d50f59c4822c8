// What connections and the server share. Internal to this room: it brings Boost.Asio. Everything here belongs to the network's thread.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "onset/serve/api_error.h"
#include "onset/serve/server.h"

namespace onset::serve {

namespace net = boost::asio;

// A connection, as far as the server has to do with it.
class OpenConnection {
 public:
  virtual ~OpenConnection() = default;
  virtual bool idle() const = 0;  // between two requests
  virtual void close() = 0;       // now, whatever it does
};

// A call that an engine works on.
class ActiveCall {
 public:
  virtual ~ActiveCall() = default;
  virtual void end(ApiError error) = 0;  // takes its requests from the engine and tells the client why
};

// A plain answer.
struct Response {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers = {};
};
Response response_of(const ApiError& error);

struct Server::State {
  explicit State(ServeOptions options_) : options(std::move(options_)) {}

  // Takes a place among the requests for so many tokens of a model, or says that there is none now.
  std::optional<ApiError> take_place(const ModelHost& host, int64_t tokens);
  void give_place(const ModelHost& host, int64_t tokens, double seconds);
  std::optional<ApiError> no_place() const;  // whether a new call would find none
  int64_t tokens_limit(const ModelHost& host) const;
  ModelHost* find(const std::string& name) const;
  // Whether the client may ask, and whose texts may share pages with its own.
  struct Client {
    bool may_ask = true;
    std::string space;
  };
  Client client_of(std::string_view authorization) const;
  // The origin if its pages may ask.
  std::optional<std::string> allowed_origin(std::string_view origin) const;

  void accept_one(net::ip::tcp::socket socket);
  net::awaitable<void> accept();
  void drain();
  void finish_if_idle();
  void connection_ended(OpenConnection* connection);

  ServeOptions options;
  Metrics metrics;
  std::optional<ApiKeys> keys;
  net::io_context network{1};
  net::thread_pool preparing{1};
  std::optional<net::ssl::context> tls;
  net::ip::tcp::acceptor acceptor{network};
  net::signal_set signals{network};  // caught from listen() on: whoever reads the address may send one at once
  net::steady_timer deadline{network};
  std::map<std::string, std::unique_ptr<ModelHost>> hosts;

  std::set<OpenConnection*> connections;
  std::set<ActiveCall*> calls;
  std::map<const ModelHost*, int64_t> tokens_in_flight;
  int32_t requests = 0;
  int64_t body_bytes = 0;    // of bodies that are being read
  double usual_seconds = 1;  // a moving average of how long calls take
  bool draining = false;
  bool stopped = false;
};

// Serves one connection to its end. (connection.cc)
void serve_connection(Server::State& server, net::ip::tcp::socket socket);

// Answers that need no engine: models, health, metrics, the page, the steps. Nothing for a path that is none of these. (routes.cc)
struct Target {
  std::string path;                          // decoded, without the query
  std::map<std::string, std::string> query;  // likewise
};
Target parse_target(std::string_view target);
std::optional<Response> plain_answer(const Server::State& server, const Target& target);
// Paths that anybody may read: the page, the description, health.
bool is_public(const std::string& path);
// "GET, HEAD" or "POST" for a path that exists, empty for others; and its name in metrics.
std::string allowed_methods(const std::string& path);
std::string route_name(const std::string& path);

}  // namespace onset::serve
