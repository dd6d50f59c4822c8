#include "onset/formats/json.h"

#include <cmath>
#include <unordered_set>

#include "onset/base/mapped_file.h"

namespace onset {
namespace {

using nlohmann::json;

constexpr size_t largest_file = size_t{512} << 20;
constexpr int deepest = 128;

}  // namespace

Result<json> parse_json(std::string_view text, const std::string& name) {
  // The parser reports through exceptions or not at all; they end here, so that its place and reason are not
  // lost.
  std::vector<std::unordered_set<std::string>> fields;  // of the objects that are open
  std::string twice;
  bool too_deep = false;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start) fields.emplace_back();
    if (event == json::parse_event_t::object_end) fields.pop_back();
    if (event == json::parse_event_t::key && !fields.back().insert(parsed.get_ref<const std::string&>()).second) {
      twice = parsed.get_ref<const std::string&>();
    }
    too_deep = too_deep || depth > deepest;
    return true;
  };
  try {
    json parsed = json::parse(text.begin(), text.end(), watch);
    if (too_deep) return error(Code::invalid_argument, "{}: nested more than {} levels deep", name, deepest);
    if (!twice.empty()) return error(Code::invalid_argument, "{}: field \"{}\" stands there twice", name, twice);
    return parsed;
  } catch (const json::parse_error& problem) {
    return error(Code::invalid_argument, "{}: not valid JSON near byte {}", name, problem.byte);
  } catch (const json::exception& problem) {
    return error(Code::invalid_argument, "{}: not valid JSON: {}", name, problem.what());
  }
}

Result<json> read_json(const std::filesystem::path& path) {
  ONSET_ASSIGN(const MappedFile file, MappedFile::open(path));
  if (file.bytes().size() > largest_file) {
    return error(Code::invalid_argument, "{}: {} bytes, at most {} are allowed", path.string(), file.bytes().size(), largest_file);
  }
  return parse_json({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path.string());
}

Result<JsonObject> JsonObject::of(const nlohmann::json& value, std::string what) {
  if (value.is_object()) return JsonObject(value, std::move(what));
  return error(Code::invalid_argument, "{}: expected an object, found {}", what, value.type_name());
}

const json* JsonObject::find(std::string_view field) const {
  const auto found = json_->find(field);
  return found == json_->end() || found->is_null() ? nullptr : &*found;
}

Result<const json*> JsonObject::need(std::string_view field) const {
  if (const json* found = find(field)) return found;
  return error(Code::invalid_argument, "{}: field {} is missing", what_, field);
}

Status JsonObject::wrong_type(std::string_view field, const json& found, const char* expected) const {
  return error(Code::invalid_argument, "{}: field {} is a JSON {}, expected {}", what_, field, found.type_name(), expected);
}

Result<int64_t> JsonObject::integer(std::string_view field) const {
  ONSET_ASSIGN(const json* found, need(field));
  if (found->is_number_unsigned() && found->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return error(Code::invalid_argument, "{}: field {} is above 2^63 - 1", what_, field);
  }
  if (!found->is_number_integer()) return wrong_type(field, *found, "an integer");
  return found->get<int64_t>();
}

Result<double> JsonObject::real(std::string_view field) const {
  ONSET_ASSIGN(const json* found, need(field));
  if (!found->is_number()) return wrong_type(field, *found, "a number");
  return found->get<double>();
}

Result<std::string> JsonObject::text(std::string_view field) const {
  ONSET_ASSIGN(const json* found, need(field));
  if (!found->is_string()) return wrong_type(field, *found, "a text");
  return found->get<std::string>();
}

Result<int64_t> JsonObject::integer_or(std::string_view field, int64_t otherwise) const {
  return has(field) ? integer(field) : otherwise;
}
Result<double> JsonObject::real_or(std::string_view field, double otherwise) const {
  return has(field) ? real(field) : otherwise;
}
Result<bool> JsonObject::boolean_or(std::string_view field, bool otherwise) const {
  const json* found = find(field);
  if (found == nullptr) return otherwise;
  if (!found->is_boolean()) return wrong_type(field, *found, "true or false");
  return found->get<bool>();
}
Result<std::string> JsonObject::text_or(std::string_view field, std::string_view otherwise) const {
  return has(field) ? text(field) : std::string(otherwise);
}

Result<int64_t> JsonObject::integer_within(std::string_view field, int64_t least, int64_t most) const {
  ONSET_ASSIGN(const int64_t value, integer(field));
  if (value >= least && value <= most) return value;
  return error(Code::invalid_argument, "{}: field {} is {}, expected {} to {}", what_, field, value, least, most);
}

Result<JsonObject> JsonObject::object(std::string_view field) const {
  ONSET_ASSIGN(const json* found, need(field));
  return of(*found, what_ + ": " + std::string(field));
}

}  // namespace onset
