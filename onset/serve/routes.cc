// What is found under which path, and the answers that need no engine.
#include <charconv>

#include "onset/serve/assets.h"
#include "onset/serve/prepare.h"
#include "onset/serve/server_state.h"

namespace onset::serve {
namespace {

int hexadecimal(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hexadecimal(text[i + 1]) >= 0 && hexadecimal(text[i + 2]) >= 0) {
      out += static_cast<char>(hexadecimal(text[i + 1]) * 16 + hexadecimal(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

Json model_json(const ModelHost& host) {
  return {{"id", host.name()},
          {"object", "model"},
          {"created", host.created()},
          {"owned_by", "onset"},
          {"onset", {{"context", host.context()}, {"chat", host.chat_template().has_value()}, {"pool_pages", host.pages()}}}};
}

Response json_response(const Json& json, int status = 200) {
  return {.status = status, .body = json.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

Response models(const Server::State& server) {
  Json list = Json::array();
  for (const auto& [name, host] : server.hosts) list.push_back(model_json(*host));
  return json_response({{"object", "list"}, {"data", list}});
}

Response one_model(const Server::State& server, const std::string& name) {
  if (const ModelHost* host = server.find(name)) return json_response(model_json(*host));
  return response_of(unknown_model(name));
}

Response health(const Server::State& server) {
  for (const auto& [name, host] : server.hosts) {
    if (const Status status = host->status(); !status.ok()) {
      return json_response({{"status", "failed"}, {"reason", fmt::format("model {}: {}", name, status.message())}}, 503);
    }
  }
  if (server.draining) return json_response({{"status", "draining"}}, 503);
  return json_response({{"status", "ok"}});
}

// The engine's last steps, for the page's picture: those of one model after a number.
Response steps(const Server::State& server, const Target& target) {
  const auto asked = target.query.find("model");
  const ModelHost* host = asked != target.query.end() ? server.find(asked->second) : server.hosts.begin()->second.get();
  if (host == nullptr) {
    return response_of(unknown_model(asked->second));
  }
  int64_t after = 0;
  if (const auto from = target.query.find("after"); from != target.query.end()) {
    const std::string& text = from->second;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), after);
    if (problem != std::errc() || end != text.data() + text.size()) {
      return response_of(
          {.message = "after: expected the number of a step, got " + shown(text), .param = "after", .code = "invalid_value"});
    }
  }
  Json list = Json::array();
  for (const StepRecord& step : host->steps_after(after)) {
    list.push_back({{"number", step.number},
                    {"at", step.at_seconds},
                    {"seconds", step.seconds},
                    {"prompts", step.prompts},
                    {"answers", step.answers},
                    {"running", step.running},
                    {"waiting", step.waiting},
                    {"pages_used", step.pages_used}});
  }
  return json_response({{"model", host->name()}, {"pages", host->pages()}, {"steps", list}});
}

constexpr std::string_view models_prefix = "/v1/models/";
constexpr std::string_view read_paths[] = {"/health", "/v1/models", "/metrics", "/onset/steps"};
constexpr std::string_view written_paths[] = {"/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize"};

const Asset* find_asset(const std::string& path) {
  for (const Asset& asset : assets()) {
    if (asset.path == path) return &asset;
  }
  return nullptr;
}

Response asset_response(const Asset& asset) {
  // The page asks nobody but its own server.
  return {.content_type = std::string(asset.content_type),
          .body = std::string(asset.text),
          .headers = {{"Cache-Control", "no-cache"},
                      {"Content-Security-Policy", "default-src 'self'; frame-ancestors 'none'"},
                      {"Referrer-Policy", "no-referrer"}}};
}

}  // namespace

Target parse_target(std::string_view text) {
  Target target;
  text = text.substr(0, text.find('#'));
  const size_t mark = text.find('?');
  target.path = percent_decoded(text.substr(0, mark));
  if (mark == std::string_view::npos) return target;
  for (std::string_view rest = text.substr(mark + 1); !rest.empty();) {
    const std::string_view part = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), part.size() + 1));
    const size_t equals = std::min(part.find('='), part.size());
    target.query[percent_decoded(part.substr(0, equals))] = percent_decoded(part.substr(std::min(part.size(), equals + 1)));
  }
  return target;
}

bool is_public(const std::string& path) {
  return path == "/health" || find_asset(path) != nullptr;
}

std::string allowed_methods(const std::string& path) {
  for (const std::string_view known : written_paths) {
    if (path == known) return "POST";
  }
  for (const std::string_view known : read_paths) {
    if (path == known) return "GET, HEAD";
  }
  return path.starts_with(models_prefix) || find_asset(path) != nullptr ? "GET, HEAD" : "";
}

std::string route_name(const std::string& path) {
  if (path.starts_with(models_prefix)) return "/v1/models/{model}";
  return allowed_methods(path).empty() ? "other" : path;
}

std::optional<Response> plain_answer(const Server::State& server, const Target& target) {
  const std::string& path = target.path;
  if (path == "/health") return health(server);
  if (path == "/v1/models") return models(server);
  if (path.starts_with(models_prefix)) return one_model(server, path.substr(models_prefix.size()));
  if (path == "/metrics") return Response{.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = server.metrics.text()};
  if (path == "/onset/steps") return steps(server, target);
  if (const Asset* asset = find_asset(path)) return asset_response(*asset);
  return {};
}

}  // namespace onset::serve
