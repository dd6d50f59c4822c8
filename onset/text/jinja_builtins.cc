#include "onset/text/jinja_builtins.h"

#include <algorithm>
#include <array>

#include "onset/text/jinja_text.h"

namespace onset::jinja {

Parameters::Parameters(std::string_view function, const Arguments& arguments, std::initializer_list<std::string_view> names,
                       size_t required)
    : function_(function), names_(names), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names_.size()) {
    fail("{}() takes at most {} arguments ({} given)", function_, names_.size(), arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.keywords) {
    const auto at = std::find(names_.begin(), names_.end(), name);
    if (at == names_.end()) fail("{}() got an unexpected keyword argument '{}'", function_, name);
    const Value*& place = values_[static_cast<size_t>(at - names_.begin())];
    if (place != nullptr) fail("{}() got multiple values for argument '{}'", function_, name);
    place = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) fail("{}() missing a required argument: '{}'", function_, names_[i]);
  }
}

int64_t to_integer(const Value& value) {
  require_defined(value);
  if (!value.is_integral()) fail("'{}' object cannot be interpreted as an integer", type_name(value));
  return value.as_integer();
}

int64_t Parameters::integer_or(size_t index, int64_t otherwise) const {
  return has(index) ? to_integer(at(index)) : otherwise;
}

std::string_view Parameters::text(size_t index) const {
  if (!at(index).is_text()) fail("{}() argument '{}' must be str, not {}", function_, names_[index], type_name(at(index)));
  return at(index).as_text();
}

// --- names

namespace {

constexpr std::array<std::string_view, 54> kJinjaFilters{
    "abs",      "attr",       "batch",          "capitalize", "center",     "count",       "d",        "default", "dictsort",
    "e",        "escape",     "filesizeformat", "first",      "float",      "forceescape", "format",   "groupby", "indent",
    "int",      "join",       "last",           "length",     "list",       "lower",       "items",    "map",     "min",
    "max",      "pprint",     "random",         "reject",     "rejectattr", "replace",     "reverse",  "round",   "safe",
    "select",   "selectattr", "slice",          "sort",       "string",     "striptags",   "sum",      "title",   "trim",
    "truncate", "unique",     "upper",          "urlencode",  "urlize",     "wordcount",   "wordwrap", "xmlattr", "tojson"};

// What Python's types have, so that value.name finds these before a key. Those of the sandbox's blacklist are
// here too.
constexpr std::array<std::string_view, 47> kTextAttributes{
    "capitalize",   "casefold", "center",   "count",   "encode",    "endswith",   "expandtabs",   "find",      "format",    "format_map",
    "index",        "isalnum",  "isalpha",  "isascii", "isdecimal", "isdigit",    "isidentifier", "islower",   "isnumeric", "isprintable",
    "isspace",      "istitle",  "isupper",  "join",    "ljust",     "lower",      "lstrip",       "maketrans", "partition", "removeprefix",
    "removesuffix", "replace",  "rfind",    "rindex",  "rjust",     "rpartition", "rsplit",       "rstrip",    "split",     "splitlines",
    "startswith",   "strip",    "swapcase", "title",   "translate", "upper",      "zfill"};
constexpr std::array<std::string_view, 3> kMarkupAttributes{"escape", "striptags", "unescape"};
constexpr std::array<std::string_view, 11> kListAttributes{"append", "clear", "copy",   "count",   "extend", "index",
                                                           "insert", "pop",   "remove", "reverse", "sort"};
constexpr std::array<std::string_view, 8> kListMutators{"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"};
constexpr std::array<std::string_view, 2> kTupleAttributes{"count", "index"};
constexpr std::array<std::string_view, 5> kRangeAttributes{"count", "index", "start", "step", "stop"};
constexpr std::array<std::string_view, 11> kDictionaryAttributes{"clear", "copy",    "fromkeys",   "get",    "items", "keys",
                                                                 "pop",   "popitem", "setdefault", "update", "values"};
constexpr std::array<std::string_view, 5> kDictionaryMutators{"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::array<std::string_view, 8> kIntegerAttributes{"as_integer_ratio", "bit_count", "bit_length", "conjugate",
                                                             "from_bytes",       "imag",      "numerator",  "real"};
constexpr std::array<std::string_view, 7> kRealAttributes{"as_integer_ratio", "conjugate", "fromhex", "hex", "imag", "is_integer", "real"};
constexpr std::array<std::string_view, 2> kViewAttributes{"isdisjoint", "mapping"};

template <size_t N>
bool has(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_mutator(const Value& value, std::string_view name) {
  if (value.is_dictionary()) return has(kDictionaryMutators, name);
  return value.is_sequence() && value.as_sequence().flavor == Flavor::list && has(kListMutators, name);
}

Value missing_attribute(Heap& heap, const Value& value, const Value& name) {
  if (name.is_text()) {
    return heap.undefined(fmt::format("'{}' has no attribute {}", describe(value), repr(heap, name)));
  }
  return heap.undefined(fmt::format("{} has no element {}", describe(value), repr(heap, name)));
}

// The attribute if Python's type has it: a method, or undefined because the sandbox forbids it. False if it
// does not.
bool find_attribute(Heap& heap, const Value& value, std::string_view name, Value& out) {
  if (value.kind() == Kind::name_space) {
    if (const Value* member = value.object<NamespaceObject>().table.find(name)) {
      out = *member;
      if (!name.starts_with('_')) return true;
    } else if (!has_python_attribute(value, name)) {
      return false;
    }
  } else if (!has_python_attribute(value, name)) {
    return false;
  }
  if (name.starts_with('_') || is_mutator(value, name)) {
    out = heap.undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(value)));
    return true;
  }
  out = heap.function(std::string(name), value);
  return true;
}

// value[key] where Python has it.
bool find_item(Heap& heap, const Value& value, const Value& key, Value& out) {
  if (value.is_dictionary()) {
    if (key.is_dictionary() || (key.is_sequence() && key.as_sequence().flavor == Flavor::list)) return false;
    const Value* found = value.as_dictionary().table.find(heap, key);
    if (found != nullptr) out = *found;
    return found != nullptr;
  }
  if (!key.is_integral()) return false;
  const bool is_list = value.is_sequence() && value.as_sequence().flavor <= Flavor::range;
  if (!is_list && !value.is_text()) return false;
  const int64_t size = length(value);
  int64_t index = key.as_integer();
  if (index < 0) index += size;
  if (index < 0 || index >= size) return false;
  if (is_list) {
    out = value.as_sequence().items[static_cast<size_t>(index)];
    return true;
  }
  const auto& object = value.object<TextObject>();
  auto begin = static_cast<size_t>(index);
  if (!object.ascii()) {
    heap.work_on(object.text.size());
    begin = byte_of_code_point(object.text, begin);
  }
  size_t end = begin;
  take_code_point(object.text, end);
  out = heap.text(std::string_view(object.text).substr(begin, end - begin), value.is_markup());
  return true;
}

// Where a slice goes, by Python's rules (PySlice_AdjustIndices).
struct SliceRange {
  int64_t start = 0, step = 1;
  size_t count = 0;
  // Of the item number `place` < count.
  size_t index(size_t place) const { return static_cast<size_t>(start + static_cast<int64_t>(place) * step); }
};

SliceRange adjust_slice(int64_t size, const Value& start, const Value& stop, const Value& step) {
  const auto bound = [](const Value& value) {
    if (!value.is_integral()) {
      require_defined(value);
      fail("slice indices must be integers or None or have an __index__ method");
    }
    return value.as_integer();
  };
  SliceRange out;
  out.step = step.is_none() ? 1 : std::max(bound(step), -INT64_MAX);
  if (out.step == 0) fail("slice step cannot be zero");
  const bool is_backward = out.step < 0;
  const auto adjust = [&](const Value& value, int64_t otherwise) {
    if (value.is_none()) return otherwise;
    int64_t at = bound(value);
    if (at < 0) at = std::max(at + size, static_cast<int64_t>(is_backward ? -1 : 0));
    return std::min(at, is_backward ? size - 1 : size);
  };
  out.start = adjust(start, is_backward ? size - 1 : 0);
  const int64_t end = adjust(stop, is_backward ? -1 : size);
  if (!is_backward && out.start < end) {
    out.count = static_cast<size_t>((end - out.start - 1) / out.step + 1);
  } else if (is_backward && out.start > end) {
    out.count = static_cast<size_t>((out.start - end - 1) / -out.step + 1);
  }
  return out;
}

Value slice_text(Heap& heap, const Value& value, const SliceRange& range) {
  const auto& object = value.object<TextObject>();
  const std::string_view text = object.text;
  heap.work_on(text.size());
  if (range.count == 0) return heap.text(std::string_view(), value.is_markup());
  if (range.step == 1) {
    const auto first = static_cast<size_t>(range.start);
    const size_t begin = object.ascii() ? first : byte_of_code_point(text, first);
    const size_t size = object.ascii() ? range.count : byte_of_code_point(text.substr(begin), range.count);
    return heap.text(text.substr(begin, size), value.is_markup());
  }
  // Where each character begins, to pick them in any order.
  heap.check_room(object.code_points * sizeof(uint32_t));
  std::vector<uint32_t> begins;
  begins.reserve(object.code_points);
  for (size_t at = 0; at < text.size(); take_code_point(text, at)) begins.push_back(static_cast<uint32_t>(at));
  TextBuilder out(heap);
  for (size_t i = 0; i < range.count; ++i) {
    const size_t begin = begins[range.index(i)];
    size_t end = begin;
    take_code_point(text, end);
    out.append(text.substr(begin, end - begin));
  }
  return heap.text(out.take(), value.is_markup());
}

}  // namespace

bool is_jinja_filter(std::string_view name) {
  return has(kJinjaFilters, name);
}

std::string unknown_name(std::string_view what, std::string_view name) {
  if (what == "filter" && is_jinja_filter(name)) return fmt::format("the filter '{}' is not supported", name);
  return fmt::format("No {} named '{}'.", what, name);
}

bool is_filter(std::string_view name) {
  return find_scalar_filter(name) != nullptr || find_sequence_filter(name) != nullptr;
}

Value apply_filter(Heap& heap, std::string_view name, const Value& value, const Arguments& arguments) {
  heap.work();
  Filter filter = find_scalar_filter(name);
  if (filter == nullptr) filter = find_sequence_filter(name);
  if (filter == nullptr) {
    throw Failure{is_jinja_filter(name) ? Code::unsupported : Code::invalid_argument, unknown_name("filter", name)};
  }
  return filter(heap, value, arguments);
}

// --- attributes and items

bool has_python_attribute(const Value& value, std::string_view name) {
  if (name.size() > 4 && name.starts_with("__") && name.ends_with("__")) return true;
  switch (value.kind()) {
    case Kind::text:
      return has(kTextAttributes, name) || (value.is_markup() && has(kMarkupAttributes, name));
    case Kind::dictionary:
      return has(kDictionaryAttributes, name);
    case Kind::boolean:
    case Kind::integer:
      return has(kIntegerAttributes, name) || name == "denominator" || name == "to_bytes";
    case Kind::real:
      return has(kRealAttributes, name);
    case Kind::sequence:
      switch (value.as_sequence().flavor) {
        case Flavor::list:
          return has(kListAttributes, name);
        case Flavor::tuple:
          return has(kTupleAttributes, name);
        case Flavor::range:
          return has(kRangeAttributes, name);
        default:
          return has(kViewAttributes, name);
      }
    default:
      return false;
  }
}

Value get_attribute(Heap& heap, const Value& value, const Value& name) {
  heap.work();
  require_defined(value);
  Value out;
  if (find_attribute(heap, value, name.as_text(), out) || find_item(heap, value, name, out)) return out;
  return missing_attribute(heap, value, name);
}

Value get_item(Heap& heap, const Value& value, const Value& key) {
  heap.work();
  require_defined(value);
  Value out;
  if (find_item(heap, value, key, out)) return out;
  if (key.is_text() && find_attribute(heap, value, key.as_text(), out)) return out;
  return missing_attribute(heap, value, key);
}

Value get_slice(Heap& heap, const Value& value, const Value& start, const Value& stop, const Value& step) {
  require_defined(value);
  if (value.is_text()) {
    return slice_text(heap, value, adjust_slice(length(value), start, stop, step));
  }
  if (!value.is_sequence() || value.as_sequence().flavor > Flavor::range) {
    if (value.is_dictionary()) fail("unhashable type: 'slice'");
    fail("'{}' object is not subscriptable", type_name(value));
  }
  const SequenceObject& sequence = value.as_sequence();
  const SliceRange range = adjust_slice(static_cast<int64_t>(sequence.items.size()), start, stop, step);
  heap.check_room(range.count * sizeof(Value));
  heap.work(range.count / 8);
  std::vector<Value> items;
  items.reserve(range.count);
  for (size_t i = 0; i < range.count; ++i) items.push_back(sequence.items[range.index(i)]);
  if (sequence.flavor != Flavor::range) return heap.sequence(sequence.flavor, std::move(items));
  if (items.empty()) return heap.range(0, 0, 1);
  const int64_t first = items.front().as_integer(), last = items.back().as_integer();
  const int64_t stride = items.size() > 1 ? items[1].as_integer() - first : 1;
  return heap.range(first, stride > 0 ? last + 1 : last - 1, stride);
}

Value get_path(Heap& heap, const Value& value, const Value& path, const Value& otherwise) {
  if (path.is_none()) return value;
  const auto step = [&](const Value& from, const Value& key) {
    Value found = get_item(heap, from, key);
    return found.is_undefined() && !otherwise.is_none() ? otherwise : found;
  };
  if (!path.is_text()) return step(value, path);
  Value out = value;
  const std::string_view text = path.as_text();
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('.', begin), text.size());
    const std::string_view part = text.substr(begin, end - begin);
    const bool is_index = !part.empty() && part.find_first_not_of("0123456789") == std::string_view::npos;
    int64_t index = 0;
    if (is_index) parse_integer(part, 10, index);
    out = step(out, is_index ? Value::integer(index) : heap.text(part));
    begin = end + 1;
  }
  return out;
}

}  // namespace onset::jinja
