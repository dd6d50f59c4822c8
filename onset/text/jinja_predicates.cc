// What may stand behind `is`: jinja2 calls them tests.
#include <array>
#include <cmath>

#include "onset/text/jinja_builtins.h"
#include "onset/text/jinja_text.h"

namespace onset::jinja {
namespace {

using Test = bool (*)(Heap& heap, const Value& value, const Arguments& arguments);

void take_none(const Arguments& arguments) {
  Parameters("test", arguments, {}, 0);
}

const Value& one_argument(const Arguments& arguments) {
  return Parameters("test", arguments, {"other"}, 1).at(0);
}

template <bool (*function)(const Value&)>
bool plain(Heap&, const Value& value, const Arguments& arguments) {
  take_none(arguments);
  return function(value);
}

template <Comparison how>
bool compares(Heap& heap, const Value& value, const Arguments& arguments) {
  return compare(heap, how, value, one_argument(arguments));
}

bool remainder_is(Heap& heap, const Value& value, const Value& divisor, int64_t wanted) {
  return equal(heap, arithmetic(heap, Operator::modulo, value, divisor), Value::integer(wanted));
}

bool test_odd(Heap& heap, const Value& value, const Arguments& arguments) {
  take_none(arguments);
  return remainder_is(heap, value, Value::integer(2), 1);
}

bool test_even(Heap& heap, const Value& value, const Arguments& arguments) {
  take_none(arguments);
  return remainder_is(heap, value, Value::integer(2), 0);
}

bool test_divisible_by(Heap& heap, const Value& value, const Arguments& arguments) {
  return remainder_is(heap, value, Parameters("divisibleby", arguments, {"num"}, 1).at(0), 0);
}

bool test_in(Heap& heap, const Value& value, const Arguments& arguments) {
  return contains(heap, Parameters("in", arguments, {"seq"}, 1).at(0), value);
}

bool test_same_as(Heap&, const Value& value, const Arguments& arguments) {
  const Value& other = Parameters("sameas", arguments, {"other"}, 1).at(0);
  if (value.kind() != other.kind()) return false;
  switch (value.kind()) {
    case Kind::none:
      return true;
    case Kind::boolean:
    case Kind::integer:
      return value.as_integer() == other.as_integer();
    case Kind::real:
      return value.as_real() == other.as_real();
    default:
      return value.pointer() == other.pointer();
  }
}

bool test_lower(Heap& heap, const Value& value, const Arguments& arguments) {
  take_none(arguments);
  return is_lower(to_text(heap, value));
}

bool test_upper(Heap& heap, const Value& value, const Arguments& arguments) {
  take_none(arguments);
  return is_upper(to_text(heap, value));
}

bool test_filter(Heap&, const Value& value, const Arguments& arguments) {
  take_none(arguments);
  return value.is_text() && is_jinja_filter(value.as_text());
}

bool test_test(Heap&, const Value& value, const Arguments& arguments) {
  take_none(arguments);
  return value.is_text() && is_test(value.as_text());
}

bool is_sequence(const Value& value) {
  return has_length(value) && !(value.is_sequence() && value.as_sequence().flavor > Flavor::range);
}

bool is_callable(const Value& value) {
  return value.kind() == Kind::function || value.kind() == Kind::macro || value.kind() == Kind::loop || value.is_undefined();
}

bool is_true(const Value& value) {
  return value.kind() == Kind::boolean && truth(value);
}
bool is_false(const Value& value) {
  return value.kind() == Kind::boolean && !truth(value);
}
bool is_boolean(const Value& value) {
  return value.kind() == Kind::boolean;
}
bool is_integer(const Value& value) {
  return value.kind() == Kind::integer;
}
bool is_real(const Value& value) {
  return value.kind() == Kind::real;
}
bool is_number(const Value& value) {
  return value.is_number();
}
bool is_text(const Value& value) {
  return value.is_text();
}
bool is_mapping(const Value& value) {
  return value.is_dictionary();
}
bool is_none(const Value& value) {
  return value.is_none();
}
bool is_defined(const Value& value) {
  return !value.is_undefined();
}
bool is_undefined(const Value& value) {
  return value.is_undefined();
}
bool is_escaped(const Value& value) {
  return value.is_markup();
}
bool can_iterate(const Value& value) {
  return is_iterable(value) || value.kind() == Kind::loop;
}

struct NamedTest {
  std::string_view name;
  Test test;
};

constexpr NamedTest kTests[] = {{"!=", compares<Comparison::not_equal>},
                                {"<", compares<Comparison::less>},
                                {"<=", compares<Comparison::less_equal>},
                                {"==", compares<Comparison::equal>},
                                {">", compares<Comparison::greater>},
                                {">=", compares<Comparison::greater_equal>},
                                {"boolean", plain<is_boolean>},
                                {"callable", plain<is_callable>},
                                {"defined", plain<is_defined>},
                                {"divisibleby", test_divisible_by},
                                {"eq", compares<Comparison::equal>},
                                {"equalto", compares<Comparison::equal>},
                                {"escaped", plain<is_escaped>},
                                {"even", test_even},
                                {"false", plain<is_false>},
                                {"filter", test_filter},
                                {"float", plain<is_real>},
                                {"ge", compares<Comparison::greater_equal>},
                                {"greaterthan", compares<Comparison::greater>},
                                {"gt", compares<Comparison::greater>},
                                {"in", test_in},
                                {"integer", plain<is_integer>},
                                {"iterable", plain<can_iterate>},
                                {"le", compares<Comparison::less_equal>},
                                {"lessthan", compares<Comparison::less>},
                                {"lower", test_lower},
                                {"lt", compares<Comparison::less>},
                                {"mapping", plain<is_mapping>},
                                {"ne", compares<Comparison::not_equal>},
                                {"none", plain<is_none>},
                                {"number", plain<is_number>},
                                {"odd", test_odd},
                                {"sameas", test_same_as},
                                {"sequence", plain<is_sequence>},
                                {"string", plain<is_text>},
                                {"test", test_test},
                                {"true", plain<is_true>},
                                {"undefined", plain<is_undefined>},
                                {"upper", test_upper}};

const NamedTest* find_test(std::string_view name) {
  for (const NamedTest& entry : kTests) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

}  // namespace

bool is_test(std::string_view name) {
  return find_test(name) != nullptr;
}

bool apply_test(Heap& heap, std::string_view name, const Value& value, const Arguments& arguments) {
  heap.work();
  const NamedTest* entry = find_test(name);
  if (entry == nullptr) fail("{}", unknown_name("test", name));
  return entry->test(heap, value, arguments);
}

}  // namespace onset::jinja
