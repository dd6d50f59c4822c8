// What templates find ready-made: filters, tests, attributes and methods of values, and arithmetic.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "onset/text/jinja_ast.h"
#include "onset/text/jinja_value.h"

namespace onset::jinja {

// The evaluated arguments of a call.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;
};

// Arguments given to a function's parameters, by place or by name. Fails, as Python's call would, for too
// many, unknown or repeated ones and for a required one that is missing.
class Parameters {
 public:
  // Of `names` the first `required` must be given.
  Parameters(std::string_view function, const Arguments& arguments, std::initializer_list<std::string_view> names, size_t required);

  bool has(size_t index) const { return values_[index] != nullptr; }
  const Value& at(size_t index) const { return *values_[index]; }
  Value value_or(size_t index, Value otherwise) const { return has(index) ? at(index) : std::move(otherwise); }
  bool truth_or(size_t index, bool otherwise) const { return has(index) ? truth(at(index)) : otherwise; }
  // None counts as not given.
  bool given(size_t index) const { return has(index) && !at(index).is_none(); }
  // Fails if the argument is neither an int nor a bool.
  int64_t integer_or(size_t index, int64_t otherwise) const;
  // Fails if the argument is not a text.
  std::string_view text(size_t index) const;

 private:
  std::string_view function_;
  std::vector<std::string_view> names_;
  std::vector<const Value*> values_;
};

int64_t to_integer(const Value& value);

// --- filters and tests

bool is_filter(std::string_view name);
bool is_jinja_filter(std::string_view name);  // also those that are not supported here
bool is_test(std::string_view name);
// "No filter named 'x'." or, for what only jinja2 has, that it is not supported.
std::string unknown_name(std::string_view what, std::string_view name);

Value apply_filter(Heap& heap, std::string_view name, const Value& value, const Arguments& arguments);
bool apply_test(Heap& heap, std::string_view name, const Value& value, const Arguments& arguments);

using Filter = Value (*)(Heap& heap, const Value& value, const Arguments& arguments);
// The filters that work on one text or number, and those that walk a sequence; null for other names.
Filter find_scalar_filter(std::string_view name);
Filter find_sequence_filter(std::string_view name);

// --- attributes, items and methods, with jinja2's order: value.name prefers Python's attribute, value[key]
// the item.

Value get_attribute(Heap& heap, const Value& value, const Value& name);
Value get_item(Heap& heap, const Value& value, const Value& key);
// value[start:stop:step]; each bound may be None.
Value get_slice(Heap& heap, const Value& value, const Value& start, const Value& stop, const Value& step);
// "a.b.0" as map, sort and others take it; a path of None is the value itself. `otherwise`, unless None,
// stands in for what is undefined on the way.
Value get_path(Heap& heap, const Value& value, const Value& path, const Value& otherwise = Value::none());
// Whether Python's type has this attribute, which then hides a key of that name.
bool has_python_attribute(const Value& value, std::string_view name);

Value call_method(Heap& heap, const Value& self, std::string_view name, const Arguments& arguments);
Value call_text_method(Heap& heap, const Value& self, std::string_view name, const Arguments& arguments);

// --- operators and formatting

Value arithmetic(Heap& heap, Operator op, const Value& left, const Value& right);
Value negate(const Value& value);
Value plus(const Value& value);

// &, <, >, ' and " as entities; markup stays as it is.
std::string escape(Heap& heap, const Value& value);
// left + right for texts of which one is markup, and other joins, escape what is not.
std::string text_for(Heap& heap, const Value& value, bool in_markup);

// str.replace; count < 0 replaces all.
std::string replace_text(Heap& heap, std::string_view text, std::string_view from, std::string_view to, int64_t count);
std::string pad_text(Heap& heap, std::string_view text, std::string_view fill, int64_t before, int64_t after);

// int(text, base) and float(text); false where Python raises ValueError.
bool parse_integer(std::string_view text, int base, int64_t& out);
bool parse_real(std::string_view text, double& out);
// int(real): fails outside 64 bits.
int64_t truncate(double value);

// format % value, and format.format(arguments).
std::string format_percent(Heap& heap, std::string_view format, const Value& value, bool markup);
std::string format_braces(Heap& heap, std::string_view format, const Arguments& arguments, bool markup);

}  // namespace onset::jinja
