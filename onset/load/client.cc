#include "onset/load/client.h"

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <chrono>
#include <nlohmann/json.hpp>

#include "onset/load/event_stream.h"

namespace onset {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using Tcp = asio::ip::tcp;
using TlsStream = beast::ssl_stream<beast::tcp_stream>;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr auto errors_as_values = asio::as_tuple(asio::use_awaitable);
constexpr size_t most_error_bytes = 4096;

Clock::duration seconds(double value) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(value));
}

// One load: what all its requests share.
struct Load {
  const LoadTarget& target;
  LoadAddress address;
  std::optional<asio::ssl::context> tls = {};
  Tcp::resolver::results_type endpoints = {};
  Clock::time_point began = {};
  int32_t done = 0;

  double now() const { return std::chrono::duration<double>(Clock::now() - began).count(); }
};

http::request<http::string_body> http_request(const Load& load, std::string body) {
  http::request<http::string_body> request{http::verb::post, load.address.path, 11};
  request.set(http::field::host, load.address.host + ":" + load.address.port);
  request.set(http::field::content_type, "application/json");
  request.set(http::field::accept, "text/event-stream");
  request.set(http::field::connection, "close");
  if (!load.target.api_key.empty()) request.set(http::field::authorization, "Bearer " + load.target.api_key);
  request.body() = std::move(body);
  request.prepare_payload();
  return request;
}

// What a refusal says: OpenAI's error object, or the beginning of whatever it is.
std::string refusal(unsigned status, const std::string& body) {
  const CompletionEvent event = read_completion_event(body);
  const bool told = !event.problem.empty() && Json::accept(body);
  return fmt::format("status {}: {}", status, told ? event.problem : body.substr(0, 200));
}

// Reads the answer's body to its end. Returns the problem, if there was one.
template <typename Stream>
asio::awaitable<std::string> read_answer(Load& load, Stream& stream, LoadRecord& record) {
  beast::flat_buffer buffer;
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(boost::none);
  if (auto [problem, count] = co_await http::async_read_header(stream, buffer, parser, errors_as_values); problem) {
    co_return problem.message();
  }
  const unsigned status = parser.get().result_int();
  std::array<char, 16384> piece;
  EventStream events;
  std::string refused;
  while (!parser.is_done()) {
    parser.get().body().data = piece.data();
    parser.get().body().size = piece.size();
    parser.get().body().more = true;
    auto [problem, count] = co_await http::async_read_some(stream, buffer, parser, errors_as_values);
    if (problem && problem != http::error::need_buffer && problem != http::error::end_of_stream) co_return problem.message();
    const std::string_view text(piece.data(), piece.size() - parser.get().body().size);
    const double now = load.now();
    if (status != 200) {
      refused += text.substr(0, most_error_bytes - std::min(most_error_bytes, refused.size()));
      continue;
    }
    for (const std::string& data : events.push(text)) {
      const CompletionEvent event = read_completion_event(data);
      if (!event.problem.empty()) co_return event.problem;
      if (event.piece) record.tokens.push_back(now);
      if (event.prompt_tokens) record.prompt_tokens = *event.prompt_tokens;
      if (event.output_tokens) record.output_tokens = *event.output_tokens;
    }
    if (problem == http::error::end_of_stream) break;
  }
  co_return status == 200 ? std::string() : refusal(status, refused);
}

template <typename Stream>
asio::awaitable<std::string> exchange(Load& load, Stream& stream, std::string body, LoadRecord& record) {
  const auto request = http_request(load, std::move(body));
  if (auto [problem, count] = co_await http::async_write(stream, request, errors_as_values); problem) co_return problem.message();
  co_return co_await read_answer(load, stream, record);
}

asio::awaitable<std::string> send(Load& load, std::string body, LoadRecord& record) {
  const LoadAddress& address = load.address;
  beast::tcp_stream stream(co_await asio::this_coro::executor);
  stream.expires_after(seconds(load.target.timeout_seconds));
  if (auto [problem, endpoint] = co_await stream.async_connect(load.endpoints, errors_as_values); problem) {
    co_return fmt::format("{}:{}: {}", address.host, address.port, problem.message());
  }
  beast::error_code ignored;
  stream.socket().set_option(Tcp::no_delay(true), ignored);
  if (!load.tls) co_return co_await exchange(load, stream, std::move(body), record);

  TlsStream secure(std::move(stream), *load.tls);
  secure.set_verify_callback(asio::ssl::host_name_verification(address.host));
  asio::ip::make_address(address.host, ignored);  // numbers are no server name
  if (ignored) SSL_set_tlsext_host_name(secure.native_handle(), address.host.c_str());
  if (auto [problem] = co_await secure.async_handshake(asio::ssl::stream_base::client, errors_as_values); problem) {
    const long verified = SSL_get_verify_result(secure.native_handle());
    const char* reason = verified == X509_V_OK ? nullptr : X509_verify_cert_error_string(verified);
    co_return fmt::format("{}:{}: the TLS handshake failed: {}", address.host, address.port,
                          reason != nullptr ? reason : problem.message());
  }
  co_return co_await exchange(load, secure, std::move(body), record);
}

asio::awaitable<void> run_one(Load& load, std::string body, LoadRecord& record, const LoadWatch& watch, int32_t all) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  timer.expires_at(load.began + seconds(record.arrival));
  co_await timer.async_wait(errors_as_values);
  record.sent = load.now();
  record.problem = co_await send(load, std::move(body), record);
  record.finished = load.now();
  if (record.problem.empty() && record.tokens.empty()) record.problem = "the answer has no tokens";
  if (record.output_tokens == 0) record.output_tokens = static_cast<int32_t>(record.tokens.size());
  ++load.done;
  if (watch.progress) watch.progress(load.done, all);
}

asio::awaitable<void> watch_stop(asio::io_context& context, Load& load, const std::atomic<bool>& stop, int32_t all) {
  asio::steady_timer timer(context);
  while (load.done < all) {
    if (stop) context.stop();
    timer.expires_after(std::chrono::milliseconds(50));
    co_await timer.async_wait(errors_as_values);
  }
}

// Only servers whose certificates are trusted.
Result<asio::ssl::context> client_tls(const std::string& ca_file) {
  asio::ssl::context context(asio::ssl::context::tls_client);
  context.set_verify_mode(asio::ssl::verify_peer);
  beast::error_code problem;
  context.set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 | asio::ssl::context::no_sslv3 |
                          asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1,
                      problem);
  if (ca_file.empty()) {
    context.set_default_verify_paths(problem);
    if (problem) return error(Code::failed, "the system's certificates cannot be read: {}", problem.message());
  } else {
    context.load_verify_file(ca_file, problem);
    if (problem) return error(Code::invalid_argument, "{}: expected a file of trusted certificates in PEM: {}", ca_file, problem.message());
  }
  return context;
}

}  // namespace

Result<LoadAddress> LoadAddress::of(const std::string& url, bool chat) {
  const bool tls = url.starts_with("https://");
  if (!tls && !url.starts_with("http://"))
    return error(Code::invalid_argument, "url is {}, expected http://HOST:PORT or https://HOST", url);
  const std::string rest = url.substr(tls ? 8 : 7);
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string authority = rest.substr(0, slash);
  LoadAddress address{.host = authority, .port = tls ? "443" : "80", .path = rest.substr(slash), .tls = tls};
  const size_t bracket = authority.find(']');  // an IPv6 address
  const size_t colon = authority.find(':', bracket == std::string::npos ? 0 : bracket);
  if (colon != std::string::npos) {
    address.host = authority.substr(0, colon);
    address.port = authority.substr(colon + 1);
  }
  if (address.host.starts_with('[') && address.host.ends_with(']')) address.host = address.host.substr(1, address.host.size() - 2);
  const bool digits =
      !address.port.empty() && address.port.size() <= 5 && address.port.find_first_not_of("0123456789") == std::string::npos;
  if (address.host.empty() || !digits) return error(Code::invalid_argument, "url is {}, expected http://HOST:PORT or https://HOST", url);
  while (address.path.ends_with('/')) address.path.pop_back();
  if (!address.path.ends_with("completions")) {
    address.path += fmt::format("{}{}/completions", address.path.ends_with("/v1") ? "" : "/v1", chat ? "/chat" : "");
  } else if (address.path.ends_with("/chat/completions") != chat) {
    return error(Code::invalid_argument, "url is {}, which is not the endpoint of {}", url, chat ? "chats" : "completions");
  }
  return address;
}

Result<std::string> request_body(const LoadTarget& target, const LoadRequest& request) {
  Json body = Json::object();
  if (!target.model.empty()) body["model"] = target.model;
  if (target.chat) {
    body["messages"] = {{{"role", "user"}, {"content", prompt_words(request)}}};
  } else if (target.words) {
    body["prompt"] = prompt_words(request);
  } else {
    body["prompt"] = prompt_ids(request, target.first_id, target.last_id);
  }
  body["max_tokens"] = request.output_tokens;
  body["temperature"] = 0;
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  for (const int32_t id : target.banned) body["logit_bias"][std::to_string(id)] = -100;
  if (!target.more.empty()) {
    const Json more = Json::parse(target.more, nullptr, false);
    if (!more.is_object()) return error(Code::invalid_argument, "further members are {}, expected a JSON object", target.more);
    body.update(more);
  }
  return body.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<std::vector<LoadRecord>> run_load(const LoadTarget& target, const std::vector<LoadRequest>& requests, const LoadWatch& watch) {
  ONSET_ASSIGN(LoadAddress address, LoadAddress::of(target.url, target.chat));
  if (target.first_id < 0 || target.last_id < target.first_id) {
    return error(Code::invalid_argument, "prompt ids from {} to {} make no range", target.first_id, target.last_id);
  }
  std::vector<std::string> bodies;
  for (const LoadRequest& request : requests) {
    ONSET_ASSIGN(std::string body, request_body(target, request));
    bodies.push_back(std::move(body));
  }
  asio::io_context context(1);
  Load load{.target = target, .address = std::move(address)};
  if (load.address.tls) {
    ONSET_ASSIGN(load.tls, client_tls(target.ca_file));
  }
  beast::error_code problem;
  load.endpoints = Tcp::resolver(context).resolve(load.address.host, load.address.port, problem);
  if (problem) return error(Code::failed, "{}:{}: {}", load.address.host, load.address.port, problem.message());

  std::vector<LoadRecord> records(requests.size());
  const auto all = static_cast<int32_t>(requests.size());
  load.began = Clock::now();
  for (size_t i = 0; i < requests.size(); ++i) {
    records[i].arrival = requests[i].arrival_seconds;
    records[i].prompt_tokens = requests[i].prompt_tokens;
    records[i].problem = "the load was ended before its answer";  // overwritten when it has come
    asio::co_spawn(context, run_one(load, std::move(bodies[i]), records[i], watch, all), asio::detached);
  }
  if (watch.stop != nullptr) asio::co_spawn(context, watch_stop(context, load, *watch.stop, all), asio::detached);
  context.run();
  for (LoadRecord& record : records) {
    if (record.finished == 0) record.finished = load.now();
  }
  return records;
}

}  // namespace onset
