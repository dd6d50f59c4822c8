#include "onset/serve/api_error.h"

#include <nlohmann/json.hpp>

namespace onset::serve {

std::string ApiError::body() const {
  using Json = nlohmann::ordered_json;
  const auto text_or_null = [](const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); };
  const Json error{{"message", message}, {"type", type}, {"param", text_or_null(param)}, {"code", text_or_null(code)}};
  // What is quoted from a request may be no UTF-8.
  return Json{{"error", error}}.dump(-1, ' ', false, Json::error_handler_t::replace);
}

ApiError error_of(const Status& status) {
  switch (status.code()) {
    case Code::invalid_argument:
    case Code::unsupported:
    case Code::resource_exhausted:  // it can never fit: nothing to wait for
      return {.status = 400, .message = status.message()};
    default:
      return server_error(status.message());
  }
}

ApiError server_error(std::string message) {
  return {.status = 500, .message = std::move(message), .code = "internal_error", .type = "server_error"};
}

}  // namespace onset::serve
