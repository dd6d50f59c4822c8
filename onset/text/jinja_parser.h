// From the text of a template to its Program.
#pragma once

#include <memory>
#include <string_view>

#include "onset/text/jinja_ast.h"

namespace onset::jinja {

// `source` must be well-formed UTF-8. Throws Failure for syntax errors and for constructs outside the subset,
// each with its line.
std::shared_ptr<const Program> parse_program(std::string_view source);

}  // namespace onset::jinja
