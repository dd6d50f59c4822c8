// The filters that work on one text, number or value as a whole.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "onset/text/jinja_builtins.h"
#include "onset/text/jinja_text.h"

namespace onset::jinja {

std::string escape(Heap& heap, const Value& value) {
  if (value.is_markup()) return std::string(value.as_text());
  const std::string text = to_text(heap, value);
  TextBuilder out(heap);
  for (const char c : text) {
    switch (c) {
      case '&':
        out.append("&amp;");
        break;
      case '<':
        out.append("&lt;");
        break;
      case '>':
        out.append("&gt;");
        break;
      case '\'':
        out.append("&#39;");
        break;
      case '"':
        out.append("&#34;");
        break;
      default:
        out.append(c);
    }
  }
  return out.take();
}

std::string text_for(Heap& heap, const Value& value, bool in_markup) {
  return in_markup ? escape(heap, value) : to_text(heap, value);
}

std::string replace_text(Heap& heap, std::string_view text, std::string_view from, std::string_view to, int64_t count) {
  TextBuilder out(heap);
  size_t done = 0;
  if (from.empty()) {
    // An empty text is found in front of every character and at the end.
    for (size_t at = 0; count != 0; --count) {
      out.append(to);
      if (at == text.size()) break;
      take_code_point(text, at);
      out.append(text.substr(done, at - done));
      done = at;
    }
  } else {
    for (size_t at; count != 0 && (at = find_text(heap, text, from, done)) != std::string_view::npos; --count) {
      out.append(text.substr(done, at - done));
      out.append(to);
      done = at + from.size();
    }
  }
  out.append(text.substr(done));
  return out.take();
}

std::string pad_text(Heap& heap, std::string_view text, std::string_view fill, int64_t before, int64_t after) {
  TextBuilder out(heap);
  out.append_repeated(fill, static_cast<size_t>(std::max<int64_t>(before, 0)));
  out.append(text);
  out.append_repeated(fill, static_cast<size_t>(std::max<int64_t>(after, 0)));
  return out.take();
}

namespace {

// jinja2's soft_str: a text stays as it is (markup, too), other values are printed.
Value soft_text(Heap& heap, const Value& value) {
  return value.is_text() ? value : heap.text(to_text(heap, value));
}

// A filter from text to text that keeps markup.
template <std::string (*function)(std::string_view)>
Value text_filter(Heap& heap, const Value& value, const Arguments& arguments) {
  Parameters("filter", arguments, {}, 0);
  const Value text = soft_text(heap, value);
  heap.check_text(text.as_text().size() * 3);  // no mapping makes more of a text than that
  return heap.text(function(text.as_text()), text.is_markup());
}

Value filter_trim(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("trim", arguments, {"chars"}, 0);
  const Value text = soft_text(heap, value);
  if (!parameters.given(0)) return heap.text(strip(text.as_text(), true, true), text.is_markup());
  const std::string_view characters = parameters.text(0);
  heap.work(text.as_text().size() * (characters.size() / 64));
  return heap.text(strip(text.as_text(), characters, true, true), text.is_markup());
}

// Words begin after white space and the brackets and hyphens of a regular expression, unlike in str.title.
Value filter_title(Heap& heap, const Value& value, const Arguments& arguments) {
  Parameters("title", arguments, {}, 0);
  const Value held = soft_text(heap, value);
  const std::string_view text = held.as_text();
  heap.check_text(text.size() * 3);
  TextBuilder out(heap);
  const auto separates = [](char32_t c) { return is_python_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<'; };
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (separates(take_code_point(text, at))) {
      out.append(text.substr(begin, at - begin));
      continue;
    }
    const size_t first_end = at;
    size_t end = at;
    while (at < text.size() && !separates(take_code_point(text, at))) end = at;
    at = end;
    out.append(upper(text.substr(begin, first_end - begin)));
    out.append(lower(text.substr(first_end, end - first_end)));
  }
  return heap.text(out.take());
}

Value filter_center(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("center", arguments, {"width"}, 0);
  Arguments width;
  width.positional.push_back(Value::integer(parameters.integer_or(0, 80)));
  return call_text_method(heap, soft_text(heap, value), "center", width);
}

Value filter_string(Heap& heap, const Value& value, const Arguments& arguments) {
  Parameters("string", arguments, {}, 0);
  return soft_text(heap, value);
}

Value filter_safe(Heap& heap, const Value& value, const Arguments& arguments) {
  Parameters("safe", arguments, {}, 0);
  return heap.text(to_text(heap, value), true);
}

Value filter_escape(Heap& heap, const Value& value, const Arguments& arguments) {
  Parameters("escape", arguments, {}, 0);
  return heap.text(escape(heap, value), true);
}

// Escapes markup again, too.
Value filter_forceescape(Heap& heap, const Value& value, const Arguments& arguments) {
  Parameters("forceescape", arguments, {}, 0);
  return heap.text(escape(heap, heap.text(to_text(heap, value))), true);
}

Value filter_replace(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("replace", arguments, {"old", "new", "count"}, 2);
  const std::string text = to_text(heap, value);
  const std::string from = to_text(heap, parameters.at(0)), to = to_text(heap, parameters.at(1));
  const int64_t count = parameters.given(2) ? parameters.integer_or(2, -1) : -1;
  return heap.text(replace_text(heap, text, from, to, count));
}

Value filter_format(Heap& heap, const Value& value, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.keywords.empty()) {
    fail("can't handle positional and keyword arguments at the same time");
  }
  Value values;
  if (arguments.keywords.empty()) {
    values = heap.tuple(arguments.positional);
  } else {
    Table table;
    for (const auto& [name, argument] : arguments.keywords) table.set(heap, heap.text(name), argument);
    values = heap.dictionary(std::move(table));
  }
  return arithmetic(heap, Operator::modulo, soft_text(heap, value), values);
}

Value filter_indent(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("indent", arguments, {"width", "first", "blank"}, 0);
  require_defined(value);
  if (!value.is_text()) fail("the filter 'indent' needs a text, not '{}'", type_name(value));
  TextBuilder indent(heap);
  if (parameters.has(0) && parameters.at(0).is_text()) {
    indent.append(parameters.text(0));
  } else {
    indent.append_repeated(" ", static_cast<size_t>(std::max<int64_t>(parameters.integer_or(0, 4), 0)));
  }
  const bool first = parameters.truth_or(1, false), blank = parameters.truth_or(2, false);
  TextBuilder lines(heap);
  lines.append(value.as_text());
  lines.append('\n');  // so that a last empty line counts
  TextBuilder out(heap);
  size_t at = 0;
  for (bool is_first = true; at < lines.size(); is_first = false) {
    heap.work();
    const std::string_view line = take_line(lines.text(), at, false);
    if (!is_first) out.append('\n');
    if (is_first ? first : blank || !line.empty()) out.append(indent.text());
    out.append(line);
  }
  return heap.text(out.take(), value.is_markup());
}

Value filter_truncate(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("truncate", arguments, {"length", "killwords", "end", "leeway"}, 0);
  const int64_t size = length(value);
  const Value end = parameters.value_or(2, heap.text("..."));
  const int64_t limit = parameters.integer_or(0, 255), leeway = parameters.given(3) ? parameters.integer_or(3, 5) : 5;
  if (limit < length(end)) fail("expected length >= {}, got {}", length(end), limit);
  if (leeway < 0) fail("expected leeway >= 0, got {}", leeway);
  if (size <= limit || size - limit <= leeway) return value;
  Value kept = get_slice(heap, value, Value::none(), Value::integer(limit - length(end)), Value::none());
  if (!parameters.truth_or(1, false)) {
    if (!kept.is_text()) fail("the filter 'truncate' needs a text, not '{}'", type_name(value));
    kept = heap.text(kept.as_text().substr(0, kept.as_text().rfind(' ')), kept.is_markup());
  }
  return arithmetic(heap, Operator::add, kept, end);
}

Value filter_wordcount(Heap& heap, const Value& value, const Arguments& arguments) {
  Parameters("wordcount", arguments, {}, 0);
  const std::string text = to_text(heap, value);
  int64_t words = 0;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const bool is_part = is_word(take_code_point(text, at));
    words += is_part && !in_word;
    in_word = is_part;
  }
  return Value::integer(words);
}

Value filter_length(Heap&, const Value& value, const Arguments& arguments) {
  Parameters("length", arguments, {}, 0);
  return Value::integer(length(value));
}

Value filter_default(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("default", arguments, {"default_value", "boolean"}, 0);
  const bool use_default = value.is_undefined() || (parameters.truth_or(1, false) && !truth(value));
  return use_default ? parameters.value_or(0, heap.text("")) : value;
}

Value filter_attr(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("attr", arguments, {"name"}, 1);
  const std::string_view name = parameters.text(0);
  if (value.kind() == Kind::name_space || has_python_attribute(value, name)) {
    return get_attribute(heap, value, parameters.at(0));
  }
  require_defined(value);
  return heap.undefined(fmt::format("'{}' has no attribute {}", describe(value), repr(heap, parameters.at(0))));
}

Value filter_tojson(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"}, 0);
  JsonStyle style;
  style.ensure_ascii = parameters.truth_or(0, false);
  style.sort_keys = parameters.truth_or(3, false);
  style.pretty = parameters.given(1);
  if (style.pretty) {
    style.item_separator = ",";
    if (parameters.at(1).is_text()) {
      style.indent = parameters.text(1);
    } else {
      const auto width = static_cast<size_t>(std::max<int64_t>(parameters.integer_or(1, 0), 0));
      heap.check_text(width);
      style.indent.assign(width, ' ');
    }
  }
  if (parameters.given(2)) {
    const std::vector<Value> separators = to_items(heap, parameters.at(2));
    if (separators.size() != 2 || !separators[0].is_text() || !separators[1].is_text()) {
      fail("tojson needs two texts as separators");
    }
    style.item_separator = separators[0].as_text();
    style.key_separator = separators[1].as_text();
  }
  return heap.text(to_json(heap, value, style));
}

// --- numbers

Value filter_abs(Heap&, const Value& value, const Arguments& arguments) {
  Parameters("abs", arguments, {}, 0);
  if (value.kind() == Kind::real) return Value::real(std::fabs(value.as_real()));
  if (!value.is_integral()) {
    require_defined(value);
    fail("bad operand type for abs(): '{}'", type_name(value));
  }
  return value.as_integer() < 0 ? negate(value) : plus(value);
}

Value filter_int(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("int", arguments, {"default", "base"}, 0);
  const Value otherwise = parameters.value_or(0, Value::integer(0));
  require_defined(value);
  if (value.is_integral()) return Value::integer(value.as_integer());
  if (value.kind() == Kind::real) {
    return std::isfinite(value.as_real()) ? Value::integer(truncate(value.as_real())) : otherwise;
  }
  if (!value.is_text()) return otherwise;
  heap.work_on(value.as_text().size());
  int64_t integer;
  const int64_t base = std::clamp<int64_t>(parameters.integer_or(1, 10), -1, 37);
  if (parse_integer(value.as_text(), static_cast<int>(base), integer)) return Value::integer(integer);
  double real;
  if (parse_real(value.as_text(), real) && std::isfinite(real)) return Value::integer(truncate(real));
  return otherwise;
}

Value filter_float(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("float", arguments, {"default"}, 0);
  require_defined(value);
  if (value.is_number()) return Value::real(value.as_real());
  double real;
  if (value.is_text()) {
    heap.work_on(value.as_text().size());
    if (parse_real(value.as_text(), real)) return Value::real(real);
  }
  return parameters.value_or(0, Value::real(0));
}

// round(value, digits) for a float: to the nearest decimal, exact halves to even.
double round_real(double value, int64_t digits) {
  if (!std::isfinite(value) || digits > 330) return value;
  if (digits < -310) return std::copysign(0.0, value);
  if (digits < 0) {
    const double scale = std::pow(10.0, static_cast<double>(-digits));
    return std::isfinite(scale) ? std::nearbyint(value / scale) * scale : std::copysign(0.0, value);
  }
  char buffer[1024];  // 309 digits, a point and 330 decimals fit
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed, static_cast<int>(digits));
  (void)error;
  double rounded = value;
  read_real(std::string_view(buffer, static_cast<size_t>(end - buffer)), rounded);
  return rounded;
}

// round(value, digits) for an int, where negative digits round to tens.
Value round_integer(int64_t value, int64_t digits) {
  if (digits >= 0) return Value::integer(value);
  if (digits < -18) return Value::integer(0);
  int64_t scale = 1;
  for (; digits < 0; ++digits) scale *= 10;
  int64_t quotient = value / scale;
  const int64_t remainder = std::abs(value % scale), half = scale / 2;
  if (remainder > half || (remainder == half && quotient % 2 != 0)) quotient += value < 0 ? -1 : 1;
  int64_t result;
  if (__builtin_mul_overflow(quotient, scale, &result)) fail("an integer does not fit in 64 bits");
  return Value::integer(result);
}

Value filter_round(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("round", arguments, {"precision", "method"}, 0);
  const std::string_view method = parameters.has(1) && parameters.at(1).is_text() ? parameters.text(1) : parameters.has(1) ? "?" : "common";
  if (method != "common" && method != "ceil" && method != "floor") fail("method must be common, ceil or floor");
  require_defined(value);
  if (!value.is_number()) fail("type {} doesn't define __round__ method", type_name(value));
  if (method == "common") {
    const bool whole = parameters.has(0) && parameters.at(0).is_none();
    const int64_t digits = whole ? 0 : parameters.integer_or(0, 0);
    if (value.is_integral()) return round_integer(value.as_integer(), digits);
    if (whole) return Value::integer(truncate(std::nearbyint(value.as_real())));
    return Value::real(round_real(value.as_real(), digits));
  }
  const Value scale = arithmetic(heap, Operator::power, Value::integer(10), Value::integer(parameters.integer_or(0, 0)));
  const double scaled = arithmetic(heap, Operator::multiply, value, scale).as_real();
  const double rounded = method == "ceil" ? std::ceil(scaled) : std::floor(scaled);
  return arithmetic(heap, Operator::divide, Value::integer(truncate(rounded)), scale);
}

struct NamedFilter {
  std::string_view name;
  Filter filter;
};

constexpr NamedFilter kFilters[] = {{"abs", filter_abs},
                                    {"attr", filter_attr},
                                    {"capitalize", text_filter<capitalize>},
                                    {"center", filter_center},
                                    {"count", filter_length},
                                    {"d", filter_default},
                                    {"default", filter_default},
                                    {"e", filter_escape},
                                    {"escape", filter_escape},
                                    {"float", filter_float},
                                    {"forceescape", filter_forceescape},
                                    {"format", filter_format},
                                    {"indent", filter_indent},
                                    {"int", filter_int},
                                    {"length", filter_length},
                                    {"lower", text_filter<lower>},
                                    {"replace", filter_replace},
                                    {"round", filter_round},
                                    {"safe", filter_safe},
                                    {"string", filter_string},
                                    {"title", filter_title},
                                    {"tojson", filter_tojson},
                                    {"trim", filter_trim},
                                    {"truncate", filter_truncate},
                                    {"upper", text_filter<upper>},
                                    {"wordcount", filter_wordcount}};

}  // namespace

Filter find_scalar_filter(std::string_view name) {
  for (const NamedFilter& entry : kFilters) {
    if (entry.name == name) return entry.filter;
  }
  return nullptr;
}

}  // namespace onset::jinja
