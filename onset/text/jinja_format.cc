// Formatting: "%5.2f" % value and "{:>8}".format(value), as Python's str has them.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "onset/text/jinja_builtins.h"
#include "onset/text/jinja_text.h"

namespace onset::jinja {
namespace {

constexpr int64_t kMaxPrecision = 1000;

// [[fill]align][sign][#][0][width][grouping][.precision][type]
struct Spec {
  std::string fill = " ";
  char align = '\0';  // < > ^ or = (behind the sign)
  char sign = '-';
  bool alternate = false;
  int64_t width = 0;
  char grouping = '\0';
  int64_t precision = -1;
  char type = '\0';
};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Digits from `at`, which moves behind them; -1 if there are none.
int64_t take_integer(std::string_view text, size_t& at) {
  int64_t value = -1;
  for (; at < text.size() && is_digit(text[at]); ++at) {
    value = std::max<int64_t>(value, 0) * 10 + (text[at] - '0');
    if (value > INT32_MAX) fail("Too many decimal digits in format string");
  }
  return value;
}

Spec parse_spec(std::string_view text) {
  Spec spec;
  size_t at = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (!text.empty()) {
    size_t after_fill = 0;
    take_code_point(text, after_fill);
    if (after_fill < text.size() && is_align(text[after_fill])) {
      spec.fill = text.substr(0, after_fill);
      spec.align = text[after_fill];
      at = after_fill + 1;
    } else if (is_align(text[0])) {
      spec.align = text[at++];
    }
  }
  const auto skip = [&](char c) { return at < text.size() && text[at] == c && (++at, true); };
  if (at < text.size() && (text[at] == '+' || text[at] == '-' || text[at] == ' ')) spec.sign = text[at++];
  spec.alternate = skip('#');
  if (at < text.size() && text[at] == '0') {
    if (spec.align == '\0') {
      spec.fill = "0";
      spec.align = '=';
    }
    ++at;
  }
  spec.width = std::max<int64_t>(take_integer(text, at), 0);
  if (at < text.size() && (text[at] == ',' || text[at] == '_')) spec.grouping = text[at++];
  if (skip('.')) {
    spec.precision = take_integer(text, at);
    if (spec.precision < 0) fail("Format specifier missing precision");
  }
  if (at < text.size()) spec.type = text[at++];
  if (at != text.size()) fail("Invalid format specifier");
  return spec;
}

std::string group_digits(std::string_view digits, char separator, size_t each) {
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i != 0 && (digits.size() - i) % each == 0) out.push_back(separator);
    out.push_back(digits[i]);
  }
  return out;
}

std::string align(Heap& heap, const Spec& spec, std::string_view sign, std::string_view body, char otherwise) {
  const char where = spec.align == '\0' ? otherwise : spec.align;
  const int64_t missing = spec.width - static_cast<int64_t>(count_code_points(sign) + count_code_points(body));
  if (missing <= 0) return std::string(sign) + std::string(body);
  const std::string whole = std::string(sign) + std::string(body);
  switch (where) {
    case '<':
      return pad_text(heap, whole, spec.fill, 0, missing);
    case '^':
      return pad_text(heap, whole, spec.fill, missing / 2, missing - missing / 2);
    case '=':
      return std::string(sign) + pad_text(heap, body, spec.fill, missing, 0);
    default:
      return pad_text(heap, whole, spec.fill, missing, 0);
  }
}

std::string sign_of(const Spec& spec, bool is_negative) {
  if (is_negative) return "-";
  return spec.sign == '-' ? "" : std::string(1, spec.sign);
}

std::string format_integer(Heap& heap, const Spec& spec, int64_t value) {
  const bool is_negative = value < 0;
  const uint64_t magnitude = is_negative ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  int base = 10;
  std::string prefix;
  switch (spec.type) {
    case 'x':
    case 'X':
      base = 16;
      prefix = spec.type == 'x' ? "0x" : "0X";
      break;
    case 'o':
      base = 8;
      prefix = "0o";
      break;
    case 'b':
      base = 2;
      prefix = "0b";
      break;
    default:
      break;
  }
  char buffer[72];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), magnitude, base);
  (void)error;  // 64 binary digits fit
  std::string digits(buffer, end);
  if (spec.type == 'X') digits = upper(digits);
  if (spec.precision > static_cast<int64_t>(digits.size())) {  // only % formatting gives integers one
    digits = pad_text(heap, digits, "0", spec.precision - static_cast<int64_t>(digits.size()), 0);
  }
  if (spec.grouping != '\0') digits = group_digits(digits, spec.grouping, base == 10 ? 3 : 4);
  return align(heap, spec, sign_of(spec, is_negative) + (spec.alternate ? prefix : ""), digits, '>');
}

std::string format_real(Heap& heap, const Spec& spec, double value) {
  const bool is_negative = std::signbit(value) && !std::isnan(value);
  const double magnitude = std::fabs(value);
  if (spec.precision > kMaxPrecision) fail("precision too big");
  const char kind = static_cast<char>(spec.type | 0x20);
  std::string digits;
  if (!std::isfinite(value)) {
    digits = std::isnan(value) ? "nan" : "inf";
  } else if (spec.type == '\0' && spec.precision < 0) {
    digits = real_repr(magnitude);
  } else {
    const auto style = kind == 'f' || spec.type == '%' ? std::chars_format::fixed
                       : kind == 'e'                   ? std::chars_format::scientific
                                                       : std::chars_format::general;
    int precision = static_cast<int>(spec.precision < 0 ? 6 : spec.precision);
    if (style == std::chars_format::general) precision = std::max(precision, 1);
    digits.resize(400 + static_cast<size_t>(precision));
    const double scaled = spec.type == '%' ? magnitude * 100 : magnitude;
    const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), scaled, style, precision);
    (void)error;  // 309 digits, the precision and an exponent fit
    digits.resize(static_cast<size_t>(end - digits.data()));
    if (spec.type == '\0' && digits.find_first_of(".e") == std::string::npos) digits += ".0";
    if (spec.type == '%') digits += "%";
  }
  if (spec.grouping != '\0') {
    const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
    digits = group_digits(std::string_view(digits).substr(0, whole), spec.grouping, 3) + digits.substr(whole);
  }
  if (spec.type == 'E' || spec.type == 'F' || spec.type == 'G') digits = upper(digits);
  return align(heap, spec, sign_of(spec, is_negative), digits, '>');
}

std::string format_text(Heap& heap, const Spec& spec, std::string_view text) {
  if (spec.precision >= 0) text = text.substr(0, byte_of_code_point(text, static_cast<size_t>(spec.precision)));
  return align(heap, spec, "", text, '<');
}

// format(value, spec)
std::string format_value(Heap& heap, const Value& value, std::string_view text) {
  if (text.empty()) return to_text(heap, value);
  const Spec spec = parse_spec(text);
  const bool is_integer_type = spec.type != '\0' && std::string_view("bcdoxXn").find(spec.type) != std::string_view::npos;
  const bool is_real_type = spec.type != '\0' && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
  if (value.is_text()) {
    if (spec.type != '\0' && spec.type != 's') fail("Unknown format code '{}' for object of type 'str'", spec.type);
    if (spec.align == '=') fail("'=' alignment not allowed in string format specifier");
    if (spec.sign != '-' || spec.grouping != '\0') fail("Invalid format specifier for a text");
    return format_text(heap, spec, value.as_text());
  }
  if (value.is_number()) {
    if (value.kind() == Kind::real || is_real_type) {
      if (is_integer_type || spec.type == 's') {
        fail("Unknown format code '{}' for object of type '{}'", spec.type, type_name(value));
      }
      return format_real(heap, spec, value.as_real());
    }
    if (spec.type != '\0' && !is_integer_type) {
      fail("Unknown format code '{}' for object of type 'int'", spec.type);
    }
    if (spec.precision >= 0) fail("Precision not allowed in integer format specifier");
    if (spec.type == 'c') fail_unsupported("the format code 'c' is not supported");
    return format_integer(heap, spec, value.as_integer());
  }
  fail("unsupported format string passed to {}.__format__", type_name(value));
}

// --- "..." % values

class PercentFormatter {
 public:
  PercentFormatter(Heap& heap, std::string_view format, const Value& values, bool markup)
      : heap_(heap), format_(format), values_(values), markup_(markup), out_(heap) {
    is_tuple_ = values.is_sequence() && values.as_sequence().flavor == Flavor::tuple;
  }

  std::string run() {
    while (at_ < format_.size()) {
      const size_t percent = std::min(format_.find('%', at_), format_.size());
      out_.append(format_.substr(at_, percent - at_));
      at_ = percent + 1;
      if (percent < format_.size()) directive();
    }
    // A mapping need not be used up; for Python lists and undefined values are mappings here.
    const bool is_mapping = values_.is_dictionary() || values_.is_undefined() || (values_.is_sequence() && !is_tuple_);
    const size_t given = is_tuple_ ? values_.as_sequence().items.size() : 1;
    if (!is_mapping && used_ < given) fail("not all arguments converted during string formatting");
    return out_.take();
  }

 private:
  char take() {
    if (at_ >= format_.size()) fail("incomplete format");
    return format_[at_++];
  }

  Value next_value() {
    const size_t given = is_tuple_ ? values_.as_sequence().items.size() : 1;
    if (used_ >= given) fail("not enough arguments for format string");
    return is_tuple_ ? values_.as_sequence().items[used_++] : (++used_, values_);
  }

  Value value_of_key() {
    if (!values_.is_dictionary()) fail("format requires a mapping");
    const size_t end = format_.find(')', at_);
    if (end == std::string_view::npos) fail("incomplete format key");
    const Value* found = values_.as_dictionary().table.find(format_.substr(at_, end - at_));
    if (found == nullptr) fail("KeyError: '{}'", format_.substr(at_, end - at_));
    at_ = end + 1;
    return *found;
  }

  // A number, or * for the next value; 0 if there is neither.
  int64_t take_size() {
    if (at_ < format_.size() && format_[at_] == '*') {
      ++at_;
      return std::clamp<int64_t>(to_integer(next_value()), -INT32_MAX, INT32_MAX);
    }
    return std::max<int64_t>(take_integer(format_, at_), 0);
  }

  void directive() {
    std::optional<Value> value;
    Spec spec;
    spec.align = '>';
    if (at_ < format_.size() && format_[at_] == '(') {
      ++at_;
      value = value_of_key();
    }
    bool zero = false;
    for (; at_ < format_.size(); ++at_) {
      const char flag = format_[at_];
      if (flag == '-') {
        spec.align = '<';
      } else if (flag == '+') {
        spec.sign = '+';
      } else if (flag == ' ') {
        if (spec.sign == '-') spec.sign = ' ';
      } else if (flag == '#') {
        spec.alternate = true;
      } else if (flag == '0') {
        zero = true;
      } else {
        break;
      }
    }
    spec.width = take_size();
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (at_ < format_.size() && format_[at_] == '.') {
      ++at_;
      spec.precision = std::max<int64_t>(take_size(), 0);
    }
    while (at_ < format_.size() && (format_[at_] == 'l' || format_[at_] == 'h' || format_[at_] == 'L')) ++at_;
    spec.type = take();
    if (spec.type == '%') return out_.append('%');
    if (!value) value = next_value();
    convert(*value, spec, zero && spec.align != '<');
  }

  void convert(const Value& value, Spec spec, bool zero) {
    const auto number = [&] {
      if (zero) {
        spec.fill = "0";
        spec.align = '=';
      }
      require_defined(value);
      if (!value.is_number()) fail("%{} format: a real number is required, not {}", spec.type, type_name(value));
    };
    switch (spec.type) {
      case 's':
        return out_.append(format_text(heap_, spec, text_for(heap_, value, markup_)));
      case 'r':
        return out_.append(format_text(heap_, spec, repr(heap_, value)));
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        number();
        if (value.kind() == Kind::real && (spec.type == 'x' || spec.type == 'X' || spec.type == 'o')) {
          fail("%{} format: an integer is required, not float", spec.type);
        }
        return out_.append(format_integer(heap_, spec, value.kind() == Kind::real ? truncate(value.as_real()) : value.as_integer()));
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        number();
        return out_.append(format_real(heap_, spec, value.as_real()));
      case 'c':
        if (value.is_text() && length(value) == 1) return out_.append(format_text(heap_, spec, value.as_text()));
        [[fallthrough]];
      default:
        fail("unsupported format character '{}'", spec.type);
    }
  }

  Heap& heap_;
  const std::string_view format_;
  const Value& values_;
  const bool markup_;
  bool is_tuple_ = false;
  size_t at_ = 0, used_ = 0;
  TextBuilder out_;
};

// --- "...".format(...)

class BraceFormatter {
 public:
  BraceFormatter(Heap& heap, const Arguments& arguments, bool markup) : heap_(heap), arguments_(arguments), markup_(markup) {}

  std::string run(std::string_view format, int depth = 0) {
    if (depth > 1) fail("Max string recursion exceeded");
    TextBuilder out(heap_);
    for (size_t at = 0; at < format.size();) {
      const size_t brace = std::min(format.find_first_of("{}", at), format.size());
      out.append(format.substr(at, brace - at));
      at = brace;
      if (at == format.size()) break;
      if (at + 1 < format.size() && format[at + 1] == format[at]) {
        out.append(format[at]);
        at += 2;
        continue;
      }
      if (format[at] == '}') fail("Single '}}' encountered in format string");
      const size_t end = field_end(format, at);
      out.append(field(format.substr(at + 1, end - at - 1), depth));
      at = end + 1;
    }
    return out.take();
  }

 private:
  static size_t field_end(std::string_view format, size_t begin) {
    int open = 0;
    for (size_t at = begin; at < format.size(); ++at) {
      if (format[at] == '{') ++open;
      if (format[at] == '}' && --open == 0) return at;
    }
    fail("expected '}}' before end of string");
  }

  // name!conversion:spec
  std::string field(std::string_view text, int depth) {
    heap_.work_on(text.size());
    // Brackets of an index may hold : and !.
    size_t name_end = 0;
    bool in_brackets = false;
    for (; name_end < text.size(); ++name_end) {
      const char c = text[name_end];
      in_brackets = c == '[' || (in_brackets && c != ']');
      if (!in_brackets && (c == '!' || c == ':')) break;
    }
    Value value = lookup(text.substr(0, name_end));
    size_t at = name_end;
    if (at < text.size() && text[at] == '!') {
      const char conversion = at + 1 < text.size() ? text[at + 1] : '\0';
      if (conversion != 'r' && conversion != 's') fail("Unknown conversion specifier '{}'", conversion);
      value = heap_.text(conversion == 'r' ? repr(heap_, value) : to_text(heap_, value));
      at += 2;
      if (at < text.size() && text[at] != ':') fail("expected ':' after conversion specifier");
    }
    const std::string spec = at < text.size() ? run(text.substr(at + 1), depth + 1) : "";
    const std::string formatted = format_value(heap_, value, spec);
    if (!markup_ || depth > 0 || (value.is_markup() && spec.empty())) return formatted;
    return escape(heap_, heap_.text(formatted));
  }

  Value lookup(std::string_view name) {
    size_t at = std::min(name.find_first_of(".["), name.size());
    Value value = first_value(name.substr(0, at));
    while (at < name.size()) {
      if (name[at] == '.') {
        const size_t end = std::min(name.find_first_of(".[", at + 1), name.size());
        value = get_attribute(heap_, value, heap_.text(name.substr(at + 1, end - at - 1)));
        at = end;
      } else if (name[at] == '[') {
        const size_t end = name.find(']', at);
        if (end == std::string_view::npos) fail("Missing ']' in format string");
        const std::string_view key = name.substr(at + 1, end - at - 1);
        size_t digits = 0;
        const int64_t index = take_integer(key, digits);
        value = get_item(heap_, value, index >= 0 && digits == key.size() ? Value::integer(index) : heap_.text(key));
        at = end + 1;
      } else {
        fail("Only '.' or '[' may follow ']' in format field specifier");
      }
    }
    return value;
  }

  Value first_value(std::string_view name) {
    size_t digits = 0;
    int64_t index = take_integer(name, digits);
    if (name.empty() || (index >= 0 && digits == name.size())) {
      if (numbering_ != '\0' && (numbering_ == 'a') != name.empty()) {
        fail("cannot switch between manual field specification and automatic field numbering");
      }
      numbering_ = name.empty() ? 'a' : 'm';
      if (name.empty()) index = next_++;
      if (index >= static_cast<int64_t>(arguments_.positional.size())) {
        fail("Replacement index {} out of range for positional args tuple", index);
      }
      return arguments_.positional[static_cast<size_t>(index)];
    }
    for (const auto& [key, value] : arguments_.keywords) {
      heap_.work();
      if (key == name) return value;
    }
    fail("KeyError: '{}'", name);
  }

  Heap& heap_;
  const Arguments& arguments_;
  const bool markup_;
  char numbering_ = '\0';
  int64_t next_ = 0;
};

}  // namespace

std::string format_percent(Heap& heap, std::string_view format, const Value& value, bool markup) {
  return PercentFormatter(heap, format, value, markup).run();
}

std::string format_braces(Heap& heap, std::string_view format, const Arguments& arguments, bool markup) {
  return BraceFormatter(heap, arguments, markup).run(format);
}

}  // namespace onset::jinja
