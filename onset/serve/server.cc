#include "onset/serve/server.h"

#include <openssl/ssl.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <csignal>

#include "onset/base/mapped_file.h"
#include "onset/serve/server_state.h"

namespace onset::serve {
namespace {

using net::ip::tcp;
constexpr auto as_tuple = net::as_tuple(net::use_awaitable);

std::chrono::nanoseconds duration_of(double seconds) {
  return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
}

Status check_limits(const ServeOptions& options) {
  const Limits& limits = options.limits;
  const auto check = [](const char* name, double value, double least, double most) -> Status {
    if (value >= least && value <= most) return {};
    return error(Code::invalid_argument, "{} is {}, expected {} to {}", name, value, least, most);
  };
  ONSET_TRY(check("the limit of body bytes", static_cast<double>(limits.body_bytes), 1024, 1 << 30));
  ONSET_TRY(check("the header time", limits.header_seconds, 0.1, 3600));
  ONSET_TRY(check("the idle time", limits.idle_seconds, 0.1, 86400));
  ONSET_TRY(check("the limit of connections", limits.connections, 1, 1 << 20));
  ONSET_TRY(check("the limit of requests", limits.requests, 1, 1 << 16));
  ONSET_TRY(check("the limit of tokens in flight", static_cast<double>(limits.tokens_in_flight), 0, 1e15));
  ONSET_TRY(check("the limit of waiting bytes", static_cast<double>(limits.waiting_bytes), 1024, 1 << 30));
  return check("the drain time", options.drain_seconds, 0, 86400);
}

// Errors name the file.
Result<net::ssl::context> make_tls(const ServeOptions& options) {
  for (const auto& path : {options.certificate, options.key}) ONSET_TRY(read_file(path).status());
  net::ssl::context context(net::ssl::context::tls_server);
  boost::system::error_code problem;
  context.set_options(net::ssl::context::default_workarounds | net::ssl::context::no_sslv2 | net::ssl::context::no_sslv3 |
                          net::ssl::context::no_tlsv1 | net::ssl::context::no_tlsv1_1,
                      problem);
  context.use_certificate_chain_file(options.certificate.string(), problem);
  if (problem)
    return error(Code::invalid_argument, "{}: expected a certificate in PEM form ({})", options.certificate.string(), problem.message());
  context.use_private_key_file(options.key.string(), net::ssl::context::pem, problem);
  if (problem) {
    return error(Code::invalid_argument, "{}: expected the private key of {} in PEM form ({})", options.key.string(),
                 options.certificate.string(), problem.message());
  }
  // An idle connection then keeps no record buffers.
  SSL_CTX_set_mode(context.native_handle(), SSL_MODE_RELEASE_BUFFERS);
  return context;
}

Status bind(tcp::acceptor& acceptor, const ServeOptions& options) {
  boost::system::error_code problem;
  tcp::resolver resolver(acceptor.get_executor());
  const auto found = resolver.resolve(options.host, std::to_string(options.port), tcp::resolver::passive, problem);
  if (problem || found.empty()) return error(Code::invalid_argument, "host {}: {}", options.host, problem.message());
  const tcp::endpoint address = found.begin()->endpoint();
  acceptor.open(address.protocol(), problem);
  if (!problem) acceptor.set_option(tcp::acceptor::reuse_address(true), problem);
  if (!problem) acceptor.bind(address, problem);
  if (problem) return error(Code::failed, "{} port {}: {}", options.host, options.port, problem.message());
  return {};
}

}  // namespace

Response response_of(const ApiError& error) {
  Response response{.status = error.status, .body = error.body()};
  if (error.retry_after_seconds > 0) response.headers.emplace_back("Retry-After", std::to_string(error.retry_after_seconds));
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

// --- places -------------------------------------------------------------------------------------------------------

int64_t Server::State::tokens_limit(const ModelHost& host) const {
  return options.limits.tokens_in_flight > 0 ? options.limits.tokens_in_flight : int64_t{8} * host.context();
}

std::optional<ApiError> Server::State::no_place() const {
  if (draining) return ApiError{.status = 503, .message = "the server is shutting down", .code = "shutting_down", .type = "server_error"};
  if (requests < options.limits.requests) return {};
  return ApiError{.status = 429,
                  .message = fmt::format("the server works on {} requests and takes no more now", requests),
                  .code = "rate_limit_exceeded",
                  .type = "rate_limit_error",
                  .retry_after_seconds = std::clamp(static_cast<int>(usual_seconds + 0.5), 1, 60)};
}

std::optional<ApiError> Server::State::take_place(const ModelHost& host, int64_t tokens) {
  if (auto full = no_place()) return full;
  int64_t& taken = tokens_in_flight[&host];
  const int64_t limit = tokens_limit(host);
  // A call beyond the limit by itself may run alone: the engine's pool decides about it.
  if (taken > 0 && taken + tokens > limit) {
    return ApiError{
        .status = 429,
        .message = fmt::format("requests for {} tokens are in flight and this one needs {}: the limit is {}", taken, tokens, limit),
        .code = "rate_limit_exceeded",
        .type = "rate_limit_error",
        .retry_after_seconds = std::clamp(static_cast<int>(usual_seconds + 0.5), 1, 60)};
  }
  taken += tokens;
  ++requests;
  return {};
}

void Server::State::give_place(const ModelHost& host, int64_t tokens, double seconds) {
  tokens_in_flight[&host] -= tokens;
  --requests;
  usual_seconds += 0.1 * (seconds - usual_seconds);
}

ModelHost* Server::State::find(const std::string& name) const {
  const auto found = hosts.find(name);
  return found == hosts.end() ? nullptr : found->second.get();
}

Server::State::Client Server::State::client_of(std::string_view authorization) const {
  if (!keys) return {};
  std::optional<std::string> key = keys->find(authorization);
  return {.may_ask = key.has_value(), .space = options.share_prefixes ? std::string() : std::move(key).value_or("")};
}

std::optional<std::string> Server::State::allowed_origin(std::string_view origin) const {
  for (const std::string& allowed : options.cors_origins) {
    if (allowed == "*" || allowed == origin) return allowed;
  }
  return {};
}

// --- connections --------------------------------------------------------------------------------------------------

net::awaitable<void> Server::State::accept() {
  while (acceptor.is_open()) {
    auto [problem, socket] = co_await acceptor.async_accept(as_tuple);
    if (!problem) {
      if (static_cast<int32_t>(connections.size()) < options.limits.connections) {
        serve_connection(*this, std::move(socket));
        metrics.connections(static_cast<int64_t>(connections.size()));
      }
      continue;  // one too many is closed at once
    }
    if (problem == net::error::operation_aborted) co_return;
    // Out of file descriptors, most likely: others will end.
    net::steady_timer pause(network, std::chrono::milliseconds(50));
    co_await pause.async_wait(as_tuple);
  }
}

void Server::State::connection_ended(OpenConnection* connection) {
  connections.erase(connection);
  metrics.connections(static_cast<int64_t>(connections.size()));
  finish_if_idle();
}

void Server::State::finish_if_idle() {
  if (draining && connections.empty() && !stopped) {
    stopped = true;
    deadline.cancel();
    network.stop();
  }
}

// The second call, or the deadline, does not wait.
void Server::State::drain() {
  const auto close_all = [this] {
    for (OpenConnection* connection : std::set(connections)) connection->close();
    finish_if_idle();
  };
  if (draining) return close_all();
  draining = true;
  boost::system::error_code ignored;
  acceptor.close(ignored);
  for (OpenConnection* connection : std::set(connections)) {
    if (connection->idle()) connection->close();
  }
  finish_if_idle();
  deadline.expires_after(duration_of(options.drain_seconds));
  deadline.async_wait([this, close_all](const boost::system::error_code& problem) {
    if (problem) return;
    for (ActiveCall* call : std::set(calls)) {
      call->end({.status = 503,
                 .message = "the server is shutting down and the request took too long",
                 .code = "shutting_down",
                 .type = "server_error"});
    }
    // What they are told needs a moment to get out.
    deadline.expires_after(std::chrono::seconds(2));
    deadline.async_wait([close_all](const boost::system::error_code& late) {
      if (!late) close_all();
    });
  });
}

// --- the server ---------------------------------------------------------------------------------------------------

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() {
  // Engines first: their deliveries go to a network that still exists.
  for (auto& [name, host] : state_->hosts) host->stop();
  state_->preparing.join();
}

Result<std::unique_ptr<Server>> Server::create(ServeOptions options) {
  ONSET_TRY(check_limits(options));
  auto state = std::make_unique<State>(std::move(options));
  const ServeOptions& chosen = state->options;
  if (!chosen.api_keys.empty()) {
    ONSET_ASSIGN(state->keys, ApiKeys::read(chosen.api_keys));
  }
  if (chosen.certificate.empty() != chosen.key.empty()) {
    return error(Code::invalid_argument, "a TLS certificate and its key belong together: expected both or none");
  }
  if (!chosen.certificate.empty()) {
    ONSET_ASSIGN(state->tls, make_tls(chosen));
  }
  ONSET_TRY(bind(state->acceptor, chosen));
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

uint16_t Server::port() const {
  boost::system::error_code ignored;
  return state_->acceptor.local_endpoint(ignored).port();
}

std::string Server::url() const {
  const std::string& host = state_->options.host;
  return fmt::format("{}://{}:{}", state_->tls ? "https" : "http", host.find(':') == std::string::npos ? host : "[" + host + "]", port());
}

Metrics& Server::metrics() {
  return state_->metrics;
}

Deliver Server::deliver() {
  return [state = state_.get()](std::vector<Delivery> deliveries) {
    net::post(state->network, [deliveries = std::move(deliveries)]() mutable {
      for (Delivery& delivery : deliveries) delivery.receiver->receive(delivery.choice, std::move(delivery.event));
    });
  };
}

Status Server::add(std::unique_ptr<ModelHost> host) {
  const std::string name = host->name();
  if (!state_->hosts.try_emplace(name, std::move(host)).second) return error(Code::invalid_argument, "two models are named {}", name);
  return {};
}

Status Server::listen() {
  boost::system::error_code problem;
  for (const int signal : {SIGTERM, SIGINT}) {
    state_->signals.add(signal, problem);
    if (problem) return error(Code::failed, "signal {} cannot be waited for: {}", signal, problem.message());
  }
  state_->acceptor.listen(net::socket_base::max_listen_connections, problem);
  if (problem) return error(Code::failed, "{} port {}: {}", state_->options.host, port(), problem.message());
  return {};
}

Status Server::run() {
  State& state = *state_;
  const std::function<void()> wait_for_signal = [&] {
    state.signals.async_wait([&](const boost::system::error_code& aborted, int) {
      if (aborted) return;
      wait_for_signal();
      state.drain();
    });
  };
  wait_for_signal();
  net::co_spawn(state.network, state.accept(), net::detached);
  state.network.run();
  return {};
}

void Server::stop() {
  net::post(state_->network, [state = state_.get()] { state->drain(); });
}

}  // namespace onset::serve
