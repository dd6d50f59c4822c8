// Errors as values: a Status says what went wrong in one sentence, a Result is a value or a Status.
//
// Functions that can fail on input return one of these; no exception crosses a room's border.
#pragma once

#include <fmt/format.h>

#include <cassert>
#include <optional>
#include <string>
#include <utility>

namespace onset {

enum class Code {
  ok,
  invalid_argument,    // an option, request or file says something that makes no sense
  not_found,           // a file, model, tensor or name that does not exist
  unsupported,         // valid, but this program cannot do it
  resource_exhausted,  // memory, pages, disk
  failed,              // the system refused: input/output errors and the like
  cancelled,
};

// A short name for a code ("invalid argument"), for logs and JSON.
const char* code_name(Code code);

// The outcome of an operation that has no value. The message is one sentence that names the file,
// field or option and what was expected.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::ok; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

  // The same error with "context: " in front, as in "model.gguf: tensor 3: ...".
  Status within(const std::string& context) const { return ok() ? *this : Status(code_, context + ": " + message_); }

 private:
  Code code_ = Code::ok;
  std::string message_;
};

// error(Code::not_found, "{}: no such file", path)
template <typename... Args>
Status error(Code code, fmt::format_string<Args...> format, Args&&... args) {
  return Status(code, fmt::format(format, std::forward<Args>(args)...));
}

// A value, or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}                                  // NOLINT: implicit on purpose
  Result(Status status) : status_(std::move(status)) { assert(!status_.ok()); }  // NOLINT

  bool ok() const { return value_.has_value(); }
  const Status& status() const { return status_; }

  T& value() & {
    assert(ok());
    return *value_;
  }
  const T& value() const& {
    assert(ok());
    return *value_;
  }
  T&& value() && {
    assert(ok());
    return std::move(*value_);
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::optional<T> value_;
  Status status_;
};

}  // namespace onset

#define ONSET_CONCAT_(a, b) a##b
#define ONSET_CONCAT(a, b) ONSET_CONCAT_(a, b)

// Leaves the function with the error if `expression` (a Status) is one.
#define ONSET_TRY(expression)                                                                    \
  do {                                                                                           \
    if (::onset::Status onset_status_ = (expression); !onset_status_.ok()) return onset_status_; \
  } while (false)

// ONSET_ASSIGN(auto file, MappedFile::open(path)): the value, or leaves the function with the error.
#define ONSET_ASSIGN(target, expression) ONSET_ASSIGN_(target, expression, ONSET_CONCAT(onset_result_, __LINE__))
#define ONSET_ASSIGN_(target, expression, result) \
  auto result = (expression);                     \
  if (!result.ok()) return result.status();       \
  target = *std::move(result)
