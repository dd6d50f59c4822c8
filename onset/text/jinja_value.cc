#include "onset/text/jinja_value.h"

#include <algorithm>
#include <cmath>
#include <compare>
#include <cstring>

#include "onset/text/jinja_text.h"

namespace onset::jinja {
namespace {

constexpr double kTwoTo63 = 9223372036854775808.0;

std::partial_ordering reverse(std::partial_ordering order) {
  return order == std::partial_ordering::less      ? std::partial_ordering::greater
         : order == std::partial_ordering::greater ? std::partial_ordering::less
                                                   : order;
}

// Exact, as in Python: no integer is rounded on the way.
std::partial_ordering order_integer_real(int64_t left, double right) {
  if (std::isnan(right)) return std::partial_ordering::unordered;
  if (right >= kTwoTo63) return std::partial_ordering::less;
  if (right < -kTwoTo63) return std::partial_ordering::greater;
  const double whole = std::floor(right);
  const auto floor = static_cast<int64_t>(whole);
  if (left != floor) return left <=> floor;
  return right > whole ? std::partial_ordering::less : std::partial_ordering::equivalent;
}

std::partial_ordering order_numbers(const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) return left.as_integer() <=> right.as_integer();
  if (left.is_integral()) return order_integer_real(left.as_integer(), right.as_real());
  if (right.is_integral()) return reverse(order_integer_real(right.as_integer(), left.as_real()));
  return left.as_real() <=> right.as_real();
}

bool holds(Comparison how, std::partial_ordering order) {
  switch (how) {
    case Comparison::equal:
      return order == 0;
    case Comparison::not_equal:
      return order != 0;
    case Comparison::less:
      return order < 0;
    case Comparison::less_equal:
      return order <= 0;
    case Comparison::greater:
      return order > 0;
    case Comparison::greater_equal:
      return order >= 0;
  }
  return false;
}

const char* symbol(Comparison how) {
  switch (how) {
    case Comparison::equal:
      return "==";
    case Comparison::not_equal:
      return "!=";
    case Comparison::less:
      return "<";
    case Comparison::less_equal:
      return "<=";
    case Comparison::greater:
      return ">";
    case Comparison::greater_equal:
      return ">=";
  }
  return "";
}

bool equal_tables(Heap& heap, const Table& left, const Table& right) {
  if (left.size() != right.size()) return false;
  for (const auto& [key, value] : left.entries()) {
    const Value* other = right.find(heap, key);
    if (other == nullptr || !equal(heap, value, *other)) return false;
  }
  return true;
}

// A generator may meet itself among its own items.
bool next_of(GeneratorObject& generator, Value& out) {
  if (generator.is_running) fail("generator already executing");
  struct Running {
    bool& flag;
    explicit Running(bool& is_running) : flag(is_running) { flag = true; }
    ~Running() { flag = false; }
  } running(generator.is_running);
  return generator.next(out);
}

bool is_ordered_flavor(Flavor flavor) {
  return flavor == Flavor::list || flavor == Flavor::tuple;
}

}  // namespace

std::string_view Value::as_text() const {
  return object<TextObject>().text;
}
const SequenceObject& Value::as_sequence() const {
  return object<SequenceObject>();
}
const DictionaryObject& Value::as_dictionary() const {
  return object<DictionaryObject>();
}

const char* type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::missing:
      return "Undefined";
    case Kind::none:
      return "NoneType";
    case Kind::boolean:
      return "bool";
    case Kind::integer:
      return "int";
    case Kind::real:
      return "float";
    case Kind::text:
      return value.is_markup() ? "Markup" : "str";
    case Kind::sequence:
      switch (value.as_sequence().flavor) {
        case Flavor::list:
          return "list";
        case Flavor::tuple:
          return "tuple";
        case Flavor::range:
          return "range";
        case Flavor::keys:
          return "dict_keys";
        case Flavor::values:
          return "dict_values";
        case Flavor::items:
          return "dict_items";
      }
      break;
    case Kind::dictionary:
      return "dict";
    case Kind::generator:
      return value.object<GeneratorObject>().type;
    case Kind::name_space:
      return "Namespace";
    case Kind::function:
      return "builtin_function_or_method";
    case Kind::macro:
      return "Macro";
    case Kind::loop:
      return "LoopContext";
  }
  return "object";
}

std::string describe(const Value& value) {
  if (value.is_none()) return "None";
  return fmt::format("{} object", type_name(value));
}

std::string undefined_message(const Value& value) {
  return value.pointer() ? value.object<UndefinedObject>().message : "a value is undefined";
}

void require_defined(const Value& value) {
  if (value.is_undefined()) fail("{}", undefined_message(value));
}

bool truth(const Value& value) {
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::missing:
    case Kind::none:
      return false;
    case Kind::boolean:
    case Kind::integer:
      return value.as_integer() != 0;
    case Kind::real:
      return value.as_real() != 0;
    case Kind::text:
      return !value.as_text().empty();
    case Kind::sequence:
      return !value.as_sequence().items.empty();
    case Kind::dictionary:
      return value.as_dictionary().table.size() != 0;
    default:
      return true;
  }
}

bool equal(Heap& heap, const Value& left, const Value& right) {
  heap.work();
  if (left.is_number() && right.is_number()) return order_numbers(left, right) == 0;
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Kind::undefined:
    case Kind::missing:
    case Kind::none:
      return true;
    case Kind::text:
      heap.work_on(std::min(left.as_text().size(), right.as_text().size()));
      return left.as_text() == right.as_text();
    case Kind::sequence: {
      const SequenceObject &a = left.as_sequence(), &b = right.as_sequence();
      if (a.flavor != b.flavor || a.items.size() != b.items.size()) return false;
      if (a.flavor == Flavor::values) return &a == &b;
      for (size_t i = 0; i < a.items.size(); ++i) {
        if (!equal(heap, a.items[i], b.items[i])) return false;
      }
      return true;
    }
    case Kind::dictionary:
      return equal_tables(heap, left.as_dictionary().table, right.as_dictionary().table);
    case Kind::function: {
      const auto &a = left.object<FunctionObject>(), &b = right.object<FunctionObject>();
      return a.name == b.name && a.self.pointer() == b.self.pointer();
    }
    default:
      return left.pointer() == right.pointer();
  }
}

bool compare(Heap& heap, Comparison how, const Value& left, const Value& right) {
  if (how == Comparison::equal) return equal(heap, left, right);
  if (how == Comparison::not_equal) return !equal(heap, left, right);
  heap.work();
  require_defined(left);
  require_defined(right);
  if (left.is_number() && right.is_number()) return holds(how, order_numbers(left, right));
  if (left.is_text() && right.is_text()) {
    heap.work_on(std::min(left.as_text().size(), right.as_text().size()));
    return holds(how, left.as_text().compare(right.as_text()) <=> 0);
  }
  if (left.is_sequence() && right.is_sequence() && left.as_sequence().flavor == right.as_sequence().flavor &&
      is_ordered_flavor(left.as_sequence().flavor)) {
    const auto &a = left.as_sequence().items, &b = right.as_sequence().items;
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
      if (!equal(heap, a[i], b[i])) return compare(heap, how, a[i], b[i]);
    }
    return holds(how, a.size() <=> b.size());
  }
  fail("'{}' not supported between instances of '{}' and '{}'", symbol(how), type_name(left), type_name(right));
}

void sort_by_key(Heap& heap, std::vector<std::pair<Value, Value>>& pairs, bool reverse) {
  // A merge sort from the bottom up.
  std::vector<std::pair<Value, Value>> merged(pairs.size());
  for (size_t width = 1; width < pairs.size(); width *= 2) {
    for (size_t begin = 0; begin < pairs.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, pairs.size()), end = std::min(begin + 2 * width, pairs.size());
      size_t left = begin, right = middle;
      for (size_t to = begin; to < end; ++to) {
        const bool take_right =
            left == middle || (right < end && (reverse ? compare(heap, Comparison::less, pairs[left].first, pairs[right].first)
                                                       : compare(heap, Comparison::less, pairs[right].first, pairs[left].first)));
        merged[to] = std::move(pairs[take_right ? right++ : left++]);
      }
    }
    std::swap(pairs, merged);
  }
}

bool contains(Heap& heap, const Value& container, const Value& needle) {
  switch (container.kind()) {
    case Kind::text:
      if (!needle.is_text()) fail("'in <string>' requires string as left operand, not {}", type_name(needle));
      return find_text(heap, container.as_text(), needle.as_text()) != std::string_view::npos;
    case Kind::dictionary:
      return container.as_dictionary().table.find(heap, needle) != nullptr;
    case Kind::sequence:
    case Kind::generator:
    case Kind::undefined: {
      Iterator items(heap, container);
      for (Value item; items.next(item);) {
        if (equal(heap, item, needle)) return true;
      }
      return false;
    }
    default:
      fail("argument of type '{}' is not iterable", type_name(container));
  }
}

size_t find_text(Heap& heap, std::string_view text, std::string_view part, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  const void* found = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  const size_t at = found == nullptr ? std::string_view::npos : static_cast<const char*>(found) - text.data();
  heap.work_on((found == nullptr ? text.size() : at) - from);
  return at;
}

bool has_length(const Value& value) {
  return value.is_text() || value.is_sequence() || value.is_dictionary() || value.is_undefined();
}

int64_t length(const Value& value) {
  switch (value.kind()) {
    case Kind::text:
      return static_cast<int64_t>(value.object<TextObject>().code_points);
    case Kind::sequence:
      return static_cast<int64_t>(value.as_sequence().items.size());
    case Kind::dictionary:
      return static_cast<int64_t>(value.as_dictionary().table.size());
    case Kind::undefined:
      return 0;
    default:
      fail("object of type '{}' has no len()", type_name(value));
  }
}

bool is_iterable(const Value& value) {
  return has_length(value) || value.kind() == Kind::generator;
}

Iterator::Iterator(Heap& heap, Value source) : heap_(&heap), source_(std::move(source)) {
  if (!is_iterable(source_)) fail("'{}' object is not iterable", type_name(source_));
}

bool Iterator::next(Value& out) {
  heap_->work();
  switch (source_.kind()) {
    case Kind::text: {
      const std::string_view text = source_.as_text();
      if (at_ >= text.size()) return false;
      const size_t begin = at_;
      take_code_point(text, at_);
      out = heap_->text(text.substr(begin, at_ - begin), source_.is_markup());
      return true;
    }
    case Kind::sequence: {
      const auto& items = source_.as_sequence().items;
      if (at_ >= items.size()) return false;
      out = items[at_++];
      return true;
    }
    case Kind::dictionary: {
      const auto& entries = source_.as_dictionary().table.entries();
      if (at_ >= entries.size()) return false;
      out = entries[at_++].first;
      return true;
    }
    case Kind::generator:
      return next_of(source_.object<GeneratorObject>(), out);
    default:
      return false;
  }
}

std::vector<Value> to_items(Heap& heap, const Value& iterable) {
  ListBuilder items(heap);
  Iterator source(heap, iterable);
  for (Value item; source.next(item);) items.push(std::move(item));
  return items.take();
}

}  // namespace onset::jinja
