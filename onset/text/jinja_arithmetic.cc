// Python's operators on template values.
#include <charconv>
#include <cmath>

#include "onset/text/jinja_builtins.h"
#include "onset/text/jinja_text.h"

namespace onset::jinja {
namespace {

const char* symbol(Operator op) {
  switch (op) {
    case Operator::add:
      return "+";
    case Operator::subtract:
      return "-";
    case Operator::multiply:
      return "*";
    case Operator::divide:
      return "/";
    case Operator::floor_divide:
      return "//";
    case Operator::modulo:
      return "%";
    case Operator::power:
      return "** or pow()";
    default:
      return "?";
  }
}

[[noreturn]] void fail_overflow() {
  fail("an integer does not fit in 64 bits");
}

int64_t integer_power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) fail_overflow();
    exponent >>= 1;
    // The last square is not used, and may be too large.
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) fail_overflow();
  }
  return result;
}

Value power(const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral() && right.as_integer() >= 0) {
    return Value::integer(integer_power(left.as_integer(), right.as_integer()));
  }
  const double base = left.as_real(), exponent = right.as_real();
  if (base == 0 && exponent < 0) fail("0.0 cannot be raised to a negative power");
  if (base < 0 && std::isfinite(exponent) && exponent != std::floor(exponent)) {
    fail_unsupported("complex numbers are not supported");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent)) fail("Result too large");
  return Value::real(result);
}

Value integer_arithmetic(Operator op, int64_t left, int64_t right) {
  int64_t result = 0;
  switch (op) {
    case Operator::add:
      if (__builtin_add_overflow(left, right, &result)) fail_overflow();
      return Value::integer(result);
    case Operator::subtract:
      if (__builtin_sub_overflow(left, right, &result)) fail_overflow();
      return Value::integer(result);
    case Operator::multiply:
      if (__builtin_mul_overflow(left, right, &result)) fail_overflow();
      return Value::integer(result);
    case Operator::divide:
      if (right == 0) fail("division by zero");
      return Value::real(static_cast<double>(left) / static_cast<double>(right));
    default:
      break;
  }
  if (right == 0) fail("integer division or modulo by zero");
  if (right == -1) {  // the one quotient that can overflow
    if (op == Operator::modulo) return Value::integer(0);
    if (__builtin_sub_overflow(int64_t{0}, left, &result)) fail_overflow();
    return Value::integer(result);
  }
  // Python rounds down, C++ toward zero.
  int64_t quotient = left / right, remainder = left % right;
  if (remainder != 0 && (remainder < 0) != (right < 0)) {
    --quotient;
    remainder += right;
  }
  return Value::integer(op == Operator::floor_divide ? quotient : remainder);
}

Value real_arithmetic(Operator op, double left, double right) {
  switch (op) {
    case Operator::add:
      return Value::real(left + right);
    case Operator::subtract:
      return Value::real(left - right);
    case Operator::multiply:
      return Value::real(left * right);
    case Operator::divide:
      if (right == 0) fail("float division by zero");
      return Value::real(left / right);
    default:
      break;
  }
  if (right == 0) fail("float floor division by zero");
  // As CPython's float_divmod.
  double remainder = std::fmod(left, right);
  double quotient = (left - remainder) / right;
  if (remainder != 0) {
    if ((right < 0) != (remainder < 0)) {
      remainder += right;
      quotient -= 1;
    }
  } else {
    remainder = std::copysign(0.0, right);
  }
  if (op == Operator::modulo) return Value::real(remainder);
  if (quotient == 0) return Value::real(std::copysign(0.0, left / right));
  const double floored = std::floor(quotient);
  return Value::real(quotient - floored > 0.5 ? floored + 1 : floored);
}

Value repeat(Heap& heap, const Value& value, int64_t count) {
  const auto times = static_cast<size_t>(std::max<int64_t>(count, 0));
  if (value.is_text()) {
    TextBuilder out(heap);
    out.append_repeated(value.as_text(), times);
    return heap.text(out.take(), value.is_markup());
  }
  const SequenceObject& sequence = value.as_sequence();
  size_t total, bytes;
  if (__builtin_mul_overflow(sequence.items.size(), times, &total) || __builtin_mul_overflow(total, sizeof(Value), &bytes)) {
    bytes = SIZE_MAX / 2;
  }
  heap.check_room(bytes);
  ListBuilder items(heap);
  if (!sequence.items.empty()) {
    for (size_t i = 0; i < times; ++i) {
      for (const Value& item : sequence.items) items.push(item);
    }
  }
  return heap.sequence(sequence.flavor, items.take());
}

bool can_repeat(const Value& value) {
  return value.is_text() ||
         (value.is_sequence() && (value.as_sequence().flavor == Flavor::list || value.as_sequence().flavor == Flavor::tuple));
}

Value join_sequences(Heap& heap, const SequenceObject& left, const SequenceObject& right) {
  heap.check_room((left.items.size() + right.items.size()) * sizeof(Value));
  heap.work((left.items.size() + right.items.size()) / 8);
  std::vector<Value> items = left.items;
  items.insert(items.end(), right.items.begin(), right.items.end());
  return heap.sequence(left.flavor, std::move(items));
}

}  // namespace

Value arithmetic(Heap& heap, Operator op, const Value& left, const Value& right) {
  // A text formats whatever is on its right, even what is undefined.
  if (op == Operator::modulo && left.is_text()) {
    return heap.text(format_percent(heap, left.as_text(), right, left.is_markup()), left.is_markup());
  }
  require_defined(left);
  require_defined(right);
  if (left.is_number() && right.is_number()) {
    if (op == Operator::power) return power(left, right);
    if (left.is_integral() && right.is_integral()) return integer_arithmetic(op, left.as_integer(), right.as_integer());
    return real_arithmetic(op, left.as_real(), right.as_real());
  }
  if (op == Operator::add && left.is_text() && right.is_text()) {
    const bool markup = left.is_markup() || right.is_markup();
    TextBuilder out(heap);
    out.append(text_for(heap, left, markup));
    out.append(text_for(heap, right, markup));
    return heap.text(out.take(), markup);
  }
  if (op == Operator::add && left.is_sequence() && right.is_sequence() && can_repeat(left) &&
      left.as_sequence().flavor == right.as_sequence().flavor) {
    return join_sequences(heap, left.as_sequence(), right.as_sequence());
  }
  if (op == Operator::multiply && can_repeat(left) && right.is_integral()) {
    return repeat(heap, left, right.as_integer());
  }
  if (op == Operator::multiply && left.is_integral() && can_repeat(right)) {
    return repeat(heap, right, left.as_integer());
  }
  if (op == Operator::add && left.is_text()) {
    fail("can only concatenate str (not \"{}\") to str", type_name(right));
  }
  fail("unsupported operand type(s) for {}: '{}' and '{}'", symbol(op), type_name(left), type_name(right));
}

Value negate(const Value& value) {
  require_defined(value);
  if (value.kind() == Kind::real) return Value::real(-value.as_real());
  if (!value.is_integral()) fail("bad operand type for unary -: '{}'", type_name(value));
  int64_t result;
  if (__builtin_sub_overflow(int64_t{0}, value.as_integer(), &result)) fail_overflow();
  return Value::integer(result);
}

Value plus(const Value& value) {
  require_defined(value);
  if (value.kind() == Kind::real) return value;
  if (!value.is_integral()) fail("bad operand type for unary +: '{}'", type_name(value));
  return Value::integer(value.as_integer());
}

int64_t truncate(double value) {
  if (std::isnan(value)) fail("cannot convert float NaN to integer");
  if (std::isinf(value)) fail("cannot convert float infinity to integer");
  if (!(value >= -9223372036854775808.0 && value < 9223372036854775808.0)) fail_overflow();
  return static_cast<int64_t>(value);
}

bool parse_integer(std::string_view text, int base, int64_t& out) {
  if (base != 0 && (base < 2 || base > 36)) fail("int() base must be >= 2 and <= 36, or 0");
  text = strip(text, true, true);
  const bool is_negative = text.starts_with('-');
  if (is_negative || text.starts_with('+')) text.remove_prefix(1);
  const bool has_zero = text.size() >= 2 && text[0] == '0';
  const char marker = has_zero ? static_cast<char>(text[1] | 0x20) : '\0';
  const int marked = marker == 'x' ? 16 : marker == 'o' ? 8 : marker == 'b' ? 2 : 0;
  bool allow_underscore = false;
  if (marked != 0 && (base == marked || base == 0)) {
    text.remove_prefix(2);
    base = marked;
    allow_underscore = true;
  } else if (base == 0) {
    base = 10;
    if (has_zero && text.find_first_not_of("0_") != std::string_view::npos) return false;
  }
  std::string digits = is_negative ? "-" : "";
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      digits.push_back(text[i]);
      allow_underscore = true;
    } else if (!allow_underscore || i + 1 == text.size()) {
      return false;
    } else {
      allow_underscore = false;
    }
  }
  if (text.empty() || text[0] == '-') return false;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), out, base);
  if (end != digits.data() + digits.size() || error == std::errc::invalid_argument) return false;
  if (error == std::errc::result_out_of_range) fail_overflow();
  return true;
}

bool parse_real(std::string_view text, double& out) {
  text = strip(text, true, true);
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto is_digit = [&](size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '9'; };
    if (text[i] != '_') {
      digits.push_back(text[i]);
    } else if (i == 0 || !is_digit(i - 1) || !is_digit(i + 1)) {
      return false;
    }
  }
  const std::string word = lower(std::string_view(digits).substr(digits.starts_with('-') || digits.starts_with('+')));
  const bool is_word = word == "inf" || word == "infinity" || word == "nan";
  if (!is_word && digits.find_first_not_of("+-.0123456789eE") != std::string::npos) return false;
  if (digits.empty()) return false;
  return read_real(digits, out);
}

}  // namespace onset::jinja
