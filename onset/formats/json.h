// JSON files from outside, and their fields with checked types.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"

namespace onset {

// Parses `text`; `name` stands for the file in errors. A name that stands in one object twice is an error, so
// that no two readers can disagree about which one counts.
Result<nlohmann::json> parse_json(std::string_view text, const std::string& name);

// Reads and parses a file of at most 512 MiB. Errors: not_found, invalid_argument.
Result<nlohmann::json> read_json(const std::filesystem::path& path);

// An object inside a JSON file with the file's name, so that a missing field or a wrong type makes a full
// sentence. Absent fields and null are the same. Does not own the JSON.
class JsonObject {
 public:
  // `what` names the object itself in errors ("config.json", "config.json: rope_scaling").
  // Errors: invalid_argument if it is no object.
  static Result<JsonObject> of(const nlohmann::json& json, std::string what);

  const nlohmann::json* find(std::string_view field) const;  // none if absent or null
  bool has(std::string_view field) const { return find(field) != nullptr; }

  Result<int64_t> integer(std::string_view field) const;
  Result<double> real(std::string_view field) const;
  Result<std::string> text(std::string_view field) const;
  Result<int64_t> integer_or(std::string_view field, int64_t otherwise) const;
  Result<double> real_or(std::string_view field, double otherwise) const;
  Result<bool> boolean_or(std::string_view field, bool otherwise) const;
  Result<std::string> text_or(std::string_view field, std::string_view otherwise) const;
  // An integer between `least` and `most`.
  Result<int64_t> integer_within(std::string_view field, int64_t least, int64_t most) const;
  Result<JsonObject> object(std::string_view field) const;

  const std::string& what() const { return what_; }
  const nlohmann::json& value() const { return *json_; }

 private:
  JsonObject(const nlohmann::json& json, std::string what) : json_(&json), what_(std::move(what)) {}
  Result<const nlohmann::json*> need(std::string_view field) const;
  Status wrong_type(std::string_view field, const nlohmann::json& found, const char* expected) const;

  const nlohmann::json* json_;
  std::string what_;
};

}  // namespace onset
