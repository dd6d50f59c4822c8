// What a client is told when its request cannot be answered: OpenAI's error object and an HTTP status.
#pragma once

#include <cassert>
#include <optional>
#include <string>
#include <utility>

#include "onset/base/status.h"

namespace onset::serve {

struct ApiError {
  int status = 400;                            // HTTP
  std::string message;                         // one sentence that names the field and what was expected
  std::string param = {};                      // the field, as "messages[2].role"; empty: none
  std::string code = {};                       // a word for programs, as "model_not_found"; empty: none
  std::string type = "invalid_request_error";  // OpenAI's kind of error
  int retry_after_seconds = 0;                 // 0: nothing is said about it

  // {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}
  std::string body() const;
};

// The error for a request that the engine refused or that failed in it.
ApiError error_of(const Status& status);
// An error of the server's own: the client did nothing wrong.
ApiError server_error(std::string message);

// A value, or why there is none.
template <typename T>
class Checked {
 public:
  Checked() = default;                                   // what coroutines hold before there is a value
  Checked(T value) : value_(std::move(value)) {}         // NOLINT: implicit on purpose
  Checked(ApiError error) : error_(std::move(error)) {}  // NOLINT

  bool ok() const { return value_.has_value(); }
  const ApiError& error() const { return error_; }
  T& operator*() & {
    assert(ok());
    return *value_;
  }
  const T& operator*() const& {
    assert(ok());
    return *value_;
  }
  T&& operator*() && {
    assert(ok());
    return *std::move(value_);
  }
  T* operator->() { return &**this; }
  const T* operator->() const { return &**this; }

 private:
  std::optional<T> value_;
  ApiError error_;
};

}  // namespace onset::serve
