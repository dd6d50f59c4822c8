// An interpreter for the part of the Jinja template language that chat templates use, with Python's
// semantics.
//
// The reference is the Python package jinja2 as Hugging Face transformers sets it up: an immutable sandbox,
// trim_blocks and lstrip_blocks on, `break` and `continue`, `{% generation %}`, a `tojson` that keeps
// non-ASCII text, and the functions raise_exception, strftime_now, range, dict and namespace. Output is equal
// byte for byte; tests/fixtures/templates holds the cases that jinja2 itself made.
//
// Outside the subset, each an error that names it and its line: template inheritance and inclusion (block,
// extends, include, import, from), autoescape, and a few filters and methods nobody writes chat templates
// with (urlize, pprint, random, xmlattr, striptags, wordwrap, ...). Integers have 64 bits: arithmetic that
// leaves them is an error, and a larger integer in the variables becomes a floating-point number.
//
// Templates come with models, so they are untrusted: parsing and rendering stop with an error at the limits
// below.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "onset/base/status.h"

namespace onset::jinja {

// What a template may use up. Beside these, fixed: 150 levels of nesting in the source, 600 levels of
// evaluation (a macro that calls itself takes about five), 200 levels of lists in lists.
struct Limits {
  size_t source_bytes = size_t{1} << 20;    // the template's text
  size_t text_bytes = size_t{64} << 20;     // the output, and each text made on the way
  size_t memory_bytes = size_t{256} << 20;  // values alive at one time
  uint64_t steps = 50'000'000;              // evaluated expressions, loop turns, and 64-byte pieces of text
};

struct Program;  // a parsed template (jinja_ast.h)

// A template that parsed. Copies share the parsed program, which never changes: one template may be rendered
// by many threads at once.
class Template {
 public:
  // Errors, as "template line 12: what is wrong": invalid_argument (syntax), unsupported (outside the
  // subset), resource_exhausted.
  static Result<Template> parse(std::string_view source, const Limits& limits = {});

  // Renders with the members of `variables` (a JSON object) as the template's variables. `now` is what
  // strftime_now tells; without it, the local time of the call. Errors: invalid_argument: the message given
  // to raise_exception as it is, or "template line 12: what is wrong"; unsupported; resource_exhausted: a
  // limit.
  Result<std::string> render(const nlohmann::ordered_json& variables, std::optional<std::tm> now = {}) const;

 private:
  Template(std::shared_ptr<const Program> program, const Limits& limits) : program_(std::move(program)), limits_(limits) {}

  std::shared_ptr<const Program> program_;
  Limits limits_;
};

}  // namespace onset::jinja
