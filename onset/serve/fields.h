// Reading a JSON object field by field, with an error that names the field and says what was expected.
//
//     Errors errors;
//     Fields fields(body, "", errors);
//     const auto top_p = fields.number("top_p", 0, 1);
//     fields.finish();                  // a field that nobody asked for is an error
//     if (errors.first) return *errors.first;
//
// After the first error every further one is kept quiet, so that parsing code reads straight down. A field that is null is a field
// that is absent.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "onset/serve/api_error.h"

namespace onset::serve {

using Json = nlohmann::ordered_json;  // the order of a schema's properties and of a message's fields is kept

struct Errors {
  std::optional<ApiError> first;
  void add(ApiError error) {
    if (!first) first = std::move(error);
  }
};

class Fields {
 public:
  // `within` stands in front of the fields' names in errors: "messages[2]", or nothing. Neither is owned.
  Fields(const Json& object, std::string within, Errors& errors);

  // The field's value, or null where it is absent. Asking for a field makes it a known one.
  const Json* find(std::string_view name);
  const Json* need(std::string_view name);  // absent: an error

  std::optional<bool> boolean(std::string_view name);
  std::optional<int64_t> integer(std::string_view name, int64_t least, int64_t most);
  std::optional<double> number(std::string_view name, double least, double most);
  std::optional<std::string> text(std::string_view name);

  // Fields that are accepted without any effect.
  void ignore(std::string_view name) { find(name); }
  // A field that may only have this value, which changes nothing.
  void only(std::string_view name, const Json& value);

  // An error about a field: "NAME: SENTENCE".
  void fail(std::string_view name, const std::string& sentence, std::string code = {});
  // Says which fields are unknown, if any.
  void finish();

  // "messages[2].role"
  std::string path(std::string_view name) const;

 private:
  const Json& object_;
  std::string within_;
  Errors& errors_;
  std::vector<std::string_view> known_;
};

// A request's body as an object. Errors: no JSON, no object, a field that stands twice in an object, more than
// 64 levels or 512 fields of one object.
Checked<Json> parse_body(std::string_view text);

// A short form of a value for errors: at most some 60 characters.
std::string shown(const Json& value);

}  // namespace onset::serve
