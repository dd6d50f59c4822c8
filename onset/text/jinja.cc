#include "onset/text/jinja.h"

#include <new>
#include <nlohmann/json.hpp>

#include "onset/text/jinja_interpreter.h"
#include "onset/text/jinja_parser.h"
#include "onset/text/unicode.h"

namespace onset::jinja {
namespace {

// Messages quote names and values of the template, however long.
std::string shortened(const std::string& message) {
  constexpr size_t kMaxBytes = 500;
  if (message.size() <= kMaxBytes) return message;
  return message.substr(0, well_formed_prefix(std::string_view(message).substr(0, kMaxBytes))) + "...";
}

}  // namespace

Result<Template> Template::parse(std::string_view source, const Limits& limits) {
  if (source.size() > limits.source_bytes) {
    return error(Code::resource_exhausted, "a template of {} bytes; at most {} are read", source.size(), limits.source_bytes);
  }
  if (const size_t valid = well_formed_prefix(source); valid != source.size()) {
    return error(Code::invalid_argument, "the template is not valid UTF-8 at byte {}", valid);
  }
  try {
    return Template(parse_program(source), limits);
  } catch (const Failure& failure) {
    return error(failure.code, "template {}", shortened(failure.message));
  } catch (const std::bad_alloc&) {
    return error(Code::resource_exhausted, "not enough memory to parse the template");
  }
}

Result<std::string> Template::render(const nlohmann::ordered_json& variables, std::optional<std::tm> now) const {
  if (!variables.is_object()) return error(Code::invalid_argument, "the template's variables are not a JSON object");
  try {
    Interpreter interpreter(*program_, limits_, now);
    try {
      return interpreter.run(variables);
    } catch (const Failure& failure) {
      if (failure.from_template || interpreter.line() == 0) return Status(failure.code, failure.message);
      return error(failure.code, "template line {}: {}", interpreter.line(), shortened(failure.message));
    }
  } catch (const std::bad_alloc&) {
    return error(Code::resource_exhausted, "not enough memory to render the template");
  } catch (const Failure& failure) {
    return Status(failure.code, failure.message);
  }
}

}  // namespace onset::jinja
