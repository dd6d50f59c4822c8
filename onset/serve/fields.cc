#include "onset/serve/fields.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

#include "onset/text/unicode.h"

namespace onset::serve {
namespace {

constexpr int deepest = 64;
// Objects that keep their order look fields up one after another: many more would take quadratic time.
constexpr size_t most_fields = 512;

}  // namespace

std::string shown(const Json& value) {
  if (value.is_structured()) return value.is_array() ? "a list" : "an object";
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() <= 60) return text;
  text.resize(56);
  text.resize(well_formed_prefix(text));
  return text + "...";
}

Fields::Fields(const Json& object, std::string within, Errors& errors) : object_(object), within_(std::move(within)), errors_(errors) {
  if (!object.is_object()) errors.add({.message = fmt::format("{}: expected an object, got {}", within_, shown(object)), .param = within_});
}

std::string Fields::path(std::string_view name) const {
  return within_.empty() ? std::string(name) : fmt::format("{}.{}", within_, name);
}

void Fields::fail(std::string_view name, const std::string& sentence, std::string code) {
  const std::string full = path(name);
  errors_.add({.message = fmt::format("{}: {}", full, sentence), .param = full, .code = std::move(code)});
}

const Json* Fields::find(std::string_view name) {
  known_.push_back(name);
  if (!object_.is_object()) return nullptr;
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

const Json* Fields::need(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr && object_.is_object()) fail(name, "is missing", "missing_required_parameter");
  return value;
}

std::optional<bool> Fields::boolean(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return {};
  if (value->is_boolean()) return value->get<bool>();
  fail(name, fmt::format("expected true or false, got {}", shown(*value)), "invalid_type");
  return {};
}

std::optional<int64_t> Fields::integer(std::string_view name, int64_t least, int64_t most) {
  const Json* value = find(name);
  if (value == nullptr) return {};
  const bool fits = value->is_number_integer() && !(value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX);
  if (fits && value->get<int64_t>() >= least && value->get<int64_t>() <= most) return value->get<int64_t>();
  fail(name, fmt::format("expected an integer from {} to {}, got {}", least, most, shown(*value)), "invalid_value");
  return {};
}

std::optional<double> Fields::number(std::string_view name, double least, double most) {
  const Json* value = find(name);
  if (value == nullptr) return {};
  if (value->is_number() && value->get<double>() >= least && value->get<double>() <= most) return value->get<double>();
  fail(name, fmt::format("expected a number from {} to {}, got {}", least, most, shown(*value)), "invalid_value");
  return {};
}

std::optional<std::string> Fields::text(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  fail(name, fmt::format("expected a string, got {}", shown(*value)), "invalid_type");
  return {};
}

void Fields::only(std::string_view name, const Json& value) {
  const Json* found = find(name);
  if (found != nullptr && *found != value) {
    fail(name, fmt::format("only {} is supported, got {}", shown(value), shown(*found)), "unsupported_value");
  }
}

void Fields::finish() {
  if (!object_.is_object()) return;
  for (const auto& [name, value] : object_.items()) {
    if (std::find(known_.begin(), known_.end(), name) == known_.end()) {
      const std::string full = path(shown(name).substr(1, shown(name).size() - 2));
      errors_.add({.message = fmt::format("{}: unknown field", full), .param = full, .code = "unknown_parameter"});
    }
  }
}

Checked<Json> parse_body(std::string_view text) {
  std::vector<std::unordered_set<std::string>> open;  // the fields of objects that are open
  std::string twice;
  bool too_deep = false, too_wide = false;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    too_deep = too_deep || depth > deepest;
    too_wide = too_wide || (event == Json::parse_event_t::key && open.back().size() == most_fields);
    if (too_deep || too_wide) return false;  // nothing more is kept
    if (event == Json::parse_event_t::object_start) open.emplace_back();
    if (event == Json::parse_event_t::object_end) open.pop_back();
    if (event == Json::parse_event_t::key && !open.back().insert(parsed.get_ref<const std::string&>()).second) {
      twice = parsed.get_ref<const std::string&>();
    }
    return true;
  };
  // The parser reports through exceptions; they end here.
  try {
    Json parsed = Json::parse(text.begin(), text.end(), watch);
    if (too_deep) return ApiError{.message = fmt::format("the body is nested more than {} levels deep", deepest)};
    if (too_wide) return ApiError{.message = fmt::format("an object of the body has more than {} fields", most_fields)};
    if (!twice.empty()) return ApiError{.message = fmt::format("the field {} stands twice in one object", shown(twice)), .param = twice};
    if (!parsed.is_object()) return ApiError{.message = fmt::format("the body: expected a JSON object, got {}", shown(parsed))};
    return parsed;
  } catch (const Json::parse_error& problem) {
    return ApiError{.message = fmt::format("the body is not valid JSON near byte {}", problem.byte), .code = "invalid_json"};
  } catch (const Json::exception& problem) {
    return ApiError{.message = fmt::format("the body is not valid JSON: {}", problem.what()), .code = "invalid_json"};
  }
}

}  // namespace onset::serve
