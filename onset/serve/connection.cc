// One connection: requests are read, answered and written one after another, until somebody has enough.
//
// While an engine works on an answer, the connection is also read from, only to notice that the client has gone.
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <sstream>

#include "onset/serve/prepare.h"
#include "onset/serve/server_state.h"

namespace onset::serve {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;
using net::ip::tcp;
using namespace net::experimental::awaitable_operators;

constexpr auto as_tuple = net::as_tuple(net::use_awaitable);
constexpr uint32_t most_header_bytes = 16 << 10;
constexpr size_t most_early_bytes = 8 << 10;  // of the next request, read while this one is answered
constexpr int send_buffer_bytes = 16 << 10;   // the kernel's share of what a slow reader has not taken

using PlainStream = beast::tcp_stream;
using TlsStream = beast::ssl_stream<beast::tcp_stream>;
using Parser = http::request_parser<http::string_body>;

std::chrono::nanoseconds duration_of(double seconds) {
  return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
}

// Runs `work` on the thread that prepares, and goes on here with what it returns.
template <typename Work>
net::awaitable<std::invoke_result_t<Work>> prepare_with(net::thread_pool& pool, Work work) {
  co_return co_await net::co_spawn(
      pool, [](Work mine) -> net::awaitable<std::invoke_result_t<Work>> { co_return mine(); }(std::move(work)), net::use_awaitable);
}

// An answer that is being made, between the engine's events and the coroutine that writes it.
template <typename Answer>
class Call : public Receiver, public ActiveCall, public std::enable_shared_from_this<Call<Answer>> {
 public:
  Call(Server::State& server, ModelHost& host, Answer its_answer, int64_t tokens)
      : answer(std::move(its_answer)),
        server_(server),
        host_(host),
        tokens_(tokens),
        changed_(server.network, net::steady_timer::time_point::max()) {
    server_.calls.insert(this);
  }
  ~Call() override { server_.calls.erase(this); }

  void start(std::vector<Request> requests) {
    choices_ = requests.size();
    host_.submit(std::move(requests), this->shared_from_this());
  }
  // The place among the requests is free again; what the engine still does for this call is cancelled.
  void finish() {
    if (std::exchange(finished_, true)) return;
    server_.give_place(host_, tokens_, seconds_since(began_));
    if (!ended_) host_.cancel(this->shared_from_this());
  }
  void receive(int choice, Event event) override {
    answer.add(choice, std::move(event));
    if constexpr (std::is_same_v<Answer, StreamedAnswer>) {
      if (answer.waiting_bytes() > choices_ * static_cast<size_t>(server_.options.limits.waiting_bytes)) {
        return end({.status = 408, .message = "the client reads too slowly: what waits for it has become too much", .code = "slow_reader"});
      }
    }
    tell();
  }
  void end(ApiError error) override {
    answer.fail(std::move(error));
    host_.cancel(this->shared_from_this());
    tell();
  }
  // Waits until something has changed.
  net::awaitable<void> change() { co_await changed_.async_wait(as_tuple); }

  Answer answer;

 private:
  size_t choices_ = 1;  // each may keep its own share of bytes waiting
  void tell() {
    if (answer.done() && !answer.failed()) ended_ = true;
    changed_.cancel();
  }

  Server::State& server_;
  ModelHost& host_;
  int64_t tokens_;
  net::steady_timer changed_;
  Clock::time_point began_ = Clock::now();
  bool ended_ = false, finished_ = false;
};

// What is left of a request once its body was taken.
struct Head {
  http::verb method = http::verb::get;
  Target target;
  std::string origin, wanted_headers;
  std::string space = {};                  // of the prefix cache
  bool keep_alive = false, chunks = true;  // HTTP/1.1 knows chunks
};

template <typename Stream>
class Connection : public OpenConnection, public std::enable_shared_from_this<Connection<Stream>> {
 public:
  Connection(Server::State& server, Stream stream) : server_(server), stream_(std::move(stream)) { server_.connections.insert(this); }
  ~Connection() override { server_.connection_ended(this); }

  bool idle() const override { return idle_; }
  void close() override {
    boost::system::error_code ignored;
    socket().close(ignored);
  }
  net::awaitable<void> run();

 private:
  tcp::socket& socket() { return beast::get_lowest_layer(stream_).socket(); }
  void allow(double seconds) { beast::get_lowest_layer(stream_).expires_after(duration_of(seconds)); }

  net::awaitable<bool> shake_hands();
  net::awaitable<void> part();
  net::awaitable<bool> serve_one();
  net::awaitable<bool> read_head(Parser& parser);
  net::awaitable<bool> read_body(Parser& parser);
  net::awaitable<bool> refuse(const Head& head, const ApiError& error);
  net::awaitable<bool> answer(const Head& head, std::string body);
  net::awaitable<bool> generate(const Head& head, std::string body, bool chat);
  net::awaitable<bool> embed(const Head& head, std::string body);
  net::awaitable<bool> stream_answer(const Head& head, ModelHost& host, Prepared prepared);
  net::awaitable<bool> whole_answer(const Head& head, ModelHost& host, Prepared prepared);
  net::awaitable<void> until_gone();
  template <typename Answer>
  net::awaitable<void> until_done(Call<Answer>& call);
  net::awaitable<void> write_stream(const Head& head, Call<StreamedAnswer>& call, bool& complete);

  http::response<http::string_body> frame(const Head& head, Response response);
  net::awaitable<bool> send(const Head& head, Response response);
  net::awaitable<bool> write(std::string_view bytes);

  Server::State& server_;
  Stream stream_;
  beast::flat_buffer buffer_;
  bool idle_ = true;
};

// --- reading ------------------------------------------------------------------------------------------------------

template <typename Stream>
net::awaitable<void> Connection<Stream>::run() {
  const auto self = this->shared_from_this();
  boost::system::error_code ignored;
  socket().set_option(tcp::no_delay(true), ignored);
  socket().set_option(net::socket_base::send_buffer_size(send_buffer_bytes), ignored);
  if (co_await shake_hands()) {
    while (co_await serve_one()) {
    }
    co_await part();
  }
}

template <typename Stream>
net::awaitable<bool> Connection<Stream>::shake_hands() {
  if constexpr (std::is_same_v<Stream, TlsStream>) {
    allow(server_.options.limits.header_seconds);
    const auto [problem] = co_await stream_.async_handshake(net::ssl::stream_base::server, as_tuple);
    co_return !problem;
  }
  co_return true;
}

// Says that nothing more comes, and lets the client read what was said: a socket that is closed with bytes unread would throw away
// what the client has not read yet.
template <typename Stream>
net::awaitable<void> Connection<Stream>::part() {
  idle_ = false;
  if (!socket().is_open()) co_return;
  allow(2);
  if constexpr (std::is_same_v<Stream, TlsStream>) {
    co_await stream_.async_shutdown(as_tuple);
  } else {
    boost::system::error_code ignored;
    socket().shutdown(tcp::socket::shutdown_send, ignored);
    for (size_t dropped = 0; dropped < (1 << 20);) {
      buffer_.clear();
      const auto [problem, count] = co_await stream_.async_read_some(buffer_.prepare(4096), as_tuple);
      if (problem) break;
      dropped += count;
    }
  }
  close();
}

// False: the connection has ended, or what came was no request and was answered.
template <typename Stream>
net::awaitable<bool> Connection<Stream>::read_head(Parser& parser) {
  parser.header_limit(most_header_bytes);
  parser.body_limit(static_cast<uint64_t>(server_.options.limits.body_bytes));
  if (buffer_.size() == 0) {
    allow(server_.options.limits.idle_seconds);
    const auto [problem, count] = co_await stream_.async_read_some(buffer_.prepare(2048), as_tuple);
    if (problem) co_return false;
    buffer_.commit(count);
  }
  idle_ = false;
  allow(server_.options.limits.header_seconds);
  const auto [problem, count] = co_await http::async_read_header(stream_, buffer_, parser, as_tuple);
  if (!problem) co_return true;
  const Head unknown;
  if (problem == http::error::body_limit) {
    co_await refuse(unknown, {.status = 413,
                              .message = fmt::format("the body is larger than {} bytes", server_.options.limits.body_bytes),
                              .code = "body_too_large"});
  } else if (problem == http::error::header_limit) {
    co_await refuse(unknown, {.status = 431, .message = fmt::format("the headers are larger than {} bytes", most_header_bytes)});
  } else if (problem == beast::error::timeout) {
    // The stream was closed when the time was over.
  } else if (problem.category() == http::make_error_code(http::error::bad_method).category() && problem != http::error::end_of_stream &&
             problem != http::error::partial_message) {
    co_await refuse(unknown, {.status = 400, .message = fmt::format("this is not HTTP/1.1: {}", problem.message())});
  }
  co_return false;
}

template <typename Stream>
net::awaitable<bool> Connection<Stream>::read_body(Parser& parser) {
  if (beast::iequals(parser.get()[http::field::expect], "100-continue") && !co_await write("HTTP/1.1 100 Continue\r\n\r\n"))
    co_return false;
  allow(server_.options.limits.idle_seconds);
  const auto [problem, count] = co_await http::async_read(stream_, buffer_, parser, as_tuple);
  if (!problem) co_return true;
  if (problem == http::error::body_limit) {
    co_await refuse({}, {.status = 413,
                         .message = fmt::format("the body is larger than {} bytes", server_.options.limits.body_bytes),
                         .code = "body_too_large"});
  } else if (problem.category() == http::make_error_code(http::error::bad_method).category() && problem != http::error::partial_message) {
    co_await refuse({}, {.status = 400, .message = fmt::format("the body is not HTTP/1.1: {}", problem.message())});
  }
  co_return false;
}

// Memory for a body, given back when the body is gone.
class BodyMemory {
 public:
  BodyMemory(int64_t& taken, int64_t bytes) : taken_(taken), bytes_(bytes) { taken_ += bytes_; }
  ~BodyMemory() { taken_ -= bytes_; }
  BodyMemory(const BodyMemory&) = delete;

 private:
  int64_t& taken_;
  int64_t bytes_;
};

// One request. False: the connection is not to be used again.
template <typename Stream>
net::awaitable<bool> Connection<Stream>::serve_one() {
  idle_ = true;
  if (server_.draining) co_return false;
  std::optional<Parser> parser(std::in_place);
  if (!co_await read_head(*parser)) co_return false;
  const auto& message = parser->get();
  Head head{.method = message.method(),
            .target = parse_target(message.target()),
            .origin = std::string(message[http::field::origin]),
            .wanted_headers = std::string(message[http::field::access_control_request_headers]),
            .keep_alive = message.keep_alive() && !server_.draining,
            .chunks = message.version() >= 11};
  // A body that is not to be read ends the connection.
  const bool has_body = !parser->is_done();
  Head last = head;
  last.keep_alive = head.keep_alive && !has_body;
  const std::string methods = allowed_methods(head.target.path);
  if (head.method == http::verb::options && server_.allowed_origin(head.origin)) {
    Response allowed{.status = 204, .content_type = "", .body = ""};
    allowed.headers = {{"Access-Control-Allow-Methods", "GET, HEAD, POST"}, {"Access-Control-Max-Age", "600"}};
    co_return co_await send(last, std::move(allowed));
  }
  Server::State::Client client = server_.client_of(message[http::field::authorization]);
  head.space = std::move(client.space);
  if (!is_public(head.target.path) && !client.may_ask) {
    co_return co_await refuse(
        last,
        {.status = 401, .message = "the API key is missing or not known: expected Authorization: Bearer KEY", .code = "invalid_api_key"});
  }
  if (methods.empty())
    co_return co_await refuse(last, {.status = 404, .message = "there is nothing at " + shown(head.target.path), .code = "unknown_url"});
  const bool post = methods == "POST";
  if (post ? head.method != http::verb::post : head.method != http::verb::get && head.method != http::verb::head) {
    Response response =
        response_of({.status = 405, .message = fmt::format("{} takes {}", head.target.path, methods), .code = "method_not_supported"});
    response.headers.emplace_back("Allow", methods);
    co_return co_await send(last, std::move(response));
  }
  if (!post) {
    if (has_body) head.keep_alive = false;
    co_return co_await send(head, *plain_answer(server_, head.target));
  }
  if (auto full = server_.no_place()) co_return co_await refuse(last, *full);
  if (!beast::iequals(std::string_view(message[http::field::content_type]).substr(0, 16), "application/json")) {
    co_return co_await refuse(last, {.status = 415, .message = "expected Content-Type: application/json"});
  }
  const auto bytes = static_cast<int64_t>(parser->content_length().value_or(static_cast<uint64_t>(server_.options.limits.body_bytes)));
  if (server_.body_bytes + bytes > 16 * server_.options.limits.body_bytes) {
    co_return co_await refuse(last, {.status = 429,
                                     .message = "too many bodies are being read at once",
                                     .code = "rate_limit_exceeded",
                                     .type = "rate_limit_error",
                                     .retry_after_seconds = 1});
  }
  const BodyMemory memory(server_.body_bytes, bytes);
  if (!co_await read_body(*parser)) co_return false;
  std::string body = std::move(parser->get().body());
  parser.reset();
  buffer_.shrink_to_fit();
  co_return co_await answer(head, std::move(body));
}

// --- answering ----------------------------------------------------------------------------------------------------

template <typename Stream>
net::awaitable<bool> Connection<Stream>::answer(const Head& head, std::string body) {
  const std::string& path = head.target.path;
  if (path == "/v1/chat/completions") co_return co_await generate(head, std::move(body), true);
  if (path == "/v1/completions") co_return co_await generate(head, std::move(body), false);
  if (path == "/v1/embeddings") co_return co_await embed(head, std::move(body));
  const Server::State& server = server_;
  const auto work = [&server, &path, &body]() -> Checked<std::string> {
    const Checked<Json> json = parse_body(body);
    if (!json.ok()) return json.error();
    // Where there is one model, these need not name it.
    const auto host_of = [&server](const std::string& name) {
      return name.empty() && server.hosts.size() == 1 ? server.hosts.begin()->second.get() : server.find(name);
    };
    if (path == "/tokenize") {
      const auto request = parse_tokenize(*json);
      if (!request.ok()) return request.error();
      const ModelHost* host = host_of(request->model);
      if (host == nullptr) return unknown_model(request->model);
      return tokenize_body(*host, *request);
    }
    const auto request = parse_detokenize(*json);
    if (!request.ok()) return request.error();
    const ModelHost* host = host_of(request->model);
    if (host == nullptr) return unknown_model(request->model);
    return detokenize_body(*host, *request);
  };
  Checked<std::string> made = co_await prepare_with(server_.preparing, work);
  if (!made.ok()) co_return co_await refuse(head, made.error());
  co_return co_await send(head, {.body = *std::move(made)});
}

template <typename Stream>
net::awaitable<bool> Connection<Stream>::generate(const Head& head, std::string body, bool chat) {
  const Server::State& server = server_;
  const auto work = [&server, &body, chat, &head] { return ready_generation(server.hosts, parse_body(body), chat, head.space); };
  Checked<Ready<Prepared>> ready = co_await prepare_with(server_.preparing, work);
  body = {};
  if (!ready.ok()) co_return co_await refuse(head, ready.error());
  if (auto full = server_.take_place(*ready->host, ready->prepared.tokens)) co_return co_await refuse(head, *full);
  ModelHost& host = *ready->host;
  Prepared prepared = std::move(ready->prepared);
  for (Request& request : prepared.requests) request.space = head.space;
  if (prepared.stream) co_return co_await stream_answer(head, host, std::move(prepared));
  co_return co_await whole_answer(head, host, std::move(prepared));
}

// Returns when the client has gone; bytes that it sends meanwhile are kept for its next request.
template <typename Stream>
net::awaitable<void> Connection<Stream>::until_gone() {
  beast::get_lowest_layer(stream_).expires_never();
  while (buffer_.size() < most_early_bytes) {
    const auto [problem, count] = co_await stream_.async_read_some(buffer_.prepare(512), as_tuple);
    if (problem) co_return;
    buffer_.commit(count);
  }
  // It will be noticed when something is written.
  net::steady_timer never(server_.network, net::steady_timer::time_point::max());
  co_await never.async_wait(as_tuple);
}

template <typename Stream>
template <typename Answer>
net::awaitable<void> Connection<Stream>::until_done(Call<Answer>& call) {
  while (!call.answer.done()) co_await call.change();
}

template <typename Stream>
net::awaitable<bool> Connection<Stream>::whole_answer(const Head& head, ModelHost& host, Prepared prepared) {
  const auto call = std::make_shared<Call<WholeAnswer>>(server_, host, WholeAnswer(std::move(prepared.form)), prepared.tokens);
  call->start(std::move(prepared.requests));
  const auto first = co_await (until_gone() || until_done(*call));
  call->finish();
  if (first.index() == 0) co_return false;
  Checked<std::string> body = call->answer.body();
  if (!body.ok()) co_return co_await refuse(head, body.error());
  co_return co_await send(head, {.body = *std::move(body)});
}

template <typename Stream>
net::awaitable<bool> Connection<Stream>::stream_answer(const Head& head, ModelHost& host, Prepared prepared) {
  const auto call = std::make_shared<Call<StreamedAnswer>>(server_, host, StreamedAnswer(std::move(prepared.form)), prepared.tokens);
  call->start(std::move(prepared.requests));
  prepared = {};
  bool complete = false;
  co_await (until_gone() || write_stream(head, *call, complete));
  call->finish();
  co_return complete&& head.keep_alive&& head.chunks && !server_.draining;
}

// Writes what there is, waits for more, to the end. `complete`: the client got everything.
template <typename Stream>
net::awaitable<void> Connection<Stream>::write_stream(const Head& head, Call<StreamedAnswer>& call, bool& complete) {
  StreamedAnswer& answer = call.answer;
  while (!answer.ready()) co_await call.change();
  if (answer.error()) {
    complete = co_await refuse(head, *answer.error());
    co_return;
  }
  server_.metrics.answered(route_name(head.target.path), 200);
  auto message = frame(
      head, {.content_type = "text/event-stream", .body = "", .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}});
  message.erase(http::field::content_length);
  if (head.chunks) message.set(http::field::transfer_encoding, "chunked");
  std::ostringstream text;
  text << message.base();
  std::string out = text.str();
  for (std::string events; true; events.clear()) {
    answer.write(events);
    out += head.chunks ? fmt::format("{:x}\r\n{}\r\n", events.size(), events) : events;
    if (answer.done() && head.chunks) out += "0\r\n\r\n";
    const bool last = answer.done();
    // While this is under way, more may come and wait.
    if (!co_await write(out)) co_return;
    out.clear();
    if (last) break;
    while (!answer.ready()) co_await call.change();
  }
  complete = true;
}

template <typename Stream>
net::awaitable<bool> Connection<Stream>::embed(const Head& head, std::string body) {
  const Server::State& server = server_;
  const auto work = [&server, &body] { return ready_embedding(server.hosts, parse_body(body)); };
  Checked<Ready<PreparedEmbedding>> ready = co_await prepare_with(server_.preparing, work);
  body = {};
  if (!ready.ok()) co_return co_await refuse(head, ready.error());
  PreparedEmbedding& prepared = ready->prepared;
  if (auto full = server_.take_place(*ready->host, prepared.tokens)) co_return co_await refuse(head, *full);
  const auto call =
      std::make_shared<Call<EmbeddingAnswer>>(server_, *ready->host, EmbeddingAnswer(prepared.requests.size()), prepared.tokens);
  call->start(std::move(prepared.requests));
  const auto first = co_await (until_gone() || until_done(*call));
  call->finish();
  if (first.index() == 0) co_return false;
  if (call->answer.error()) co_return co_await refuse(head, *call->answer.error());
  Checked<std::string> made = co_await prepare_with(server_.preparing, [&prepared] { return embedding_body(prepared); });
  if (!made.ok()) co_return co_await refuse(head, made.error());
  co_return co_await send(head, {.body = *std::move(made)});
}

// --- writing ------------------------------------------------------------------------------------------------------

template <typename Stream>
net::awaitable<bool> Connection<Stream>::refuse(const Head& head, const ApiError& error) {
  co_return co_await send(head, response_of(error));
}

template <typename Stream>
http::response<http::string_body> Connection<Stream>::frame(const Head& head, Response response) {
  http::response<http::string_body> message(static_cast<http::status>(response.status), head.chunks ? 11 : 10);
  message.set(http::field::server, "onset");
  if (!response.content_type.empty()) message.set(http::field::content_type, response.content_type);
  message.set("X-Content-Type-Options", "nosniff");
  for (const auto& [name, value] : response.headers) message.set(name, value);
  if (const auto origin = server_.allowed_origin(head.origin); origin && !head.origin.empty()) {
    message.set(http::field::access_control_allow_origin, head.origin);
    message.set(http::field::vary, "Origin");
    // The names come from a header, so they may stand in one.
    if (!head.wanted_headers.empty()) message.set(http::field::access_control_allow_headers, head.wanted_headers);
  }
  message.keep_alive(head.keep_alive && !server_.draining);
  message.body() = std::move(response.body);
  if (response.status != 204) message.content_length(message.body().size());
  if (head.method == http::verb::head) message.body().clear();
  return message;
}

// True if the connection can be used again.
template <typename Stream>
net::awaitable<bool> Connection<Stream>::send(const Head& head, Response response) {
  server_.metrics.answered(route_name(head.target.path), response.status);
  auto message = frame(head, std::move(response));
  allow(server_.options.limits.idle_seconds);
  if (head.method == http::verb::head) {
    http::response_serializer<http::string_body> serializer(message);
    serializer.split(true);
    const auto [problem, count] = co_await http::async_write_header(stream_, serializer, as_tuple);
    co_return !problem && message.keep_alive();
  }
  const auto [problem, count] = co_await http::async_write(stream_, message, as_tuple);
  co_return !problem && message.keep_alive();
}

// Each piece that the kernel takes is progress.
template <typename Stream>
net::awaitable<bool> Connection<Stream>::write(std::string_view bytes) {
  while (!bytes.empty()) {
    allow(server_.options.limits.idle_seconds);
    const auto [problem, count] = co_await stream_.async_write_some(net::buffer(bytes), as_tuple);
    if (problem) co_return false;
    bytes.remove_prefix(count);
  }
  co_return true;
}

template <typename Stream>
void start(Server::State& server, Stream stream) {
  auto connection = std::make_shared<Connection<Stream>>(server, std::move(stream));
  Connection<Stream>& running = *connection;
  // Whatever goes wrong in one connection ends that connection.
  net::co_spawn(server.network, running.run(), [connection](const std::exception_ptr&) {});
}

}  // namespace

void serve_connection(Server::State& server, tcp::socket socket) {
  if (server.tls) {
    start(server, TlsStream(beast::tcp_stream(std::move(socket)), *server.tls));
  } else {
    start(server, PlainStream(std::move(socket)));
  }
}

}  // namespace onset::serve
