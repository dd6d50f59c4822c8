// The methods of texts: Python's str.
#include <algorithm>
#include <array>

#include "onset/text/jinja_builtins.h"
#include "onset/text/jinja_text.h"

namespace onset::jinja {
namespace {

// A text and what calling a method on it needs.
struct Call {
  Heap& heap;
  const Value& self;
  std::string_view name;
  const Arguments& arguments;

  std::string_view text() const { return self.as_text(); }
  Value make(std::string_view result) const { return heap.text(result, self.is_markup()); }
  Value make(std::string result) const { return heap.text(std::move(result), self.is_markup()); }
  // Python takes the arguments of most methods of str only by place.
  Parameters positional(std::initializer_list<std::string_view> names, size_t required) const {
    if (!arguments.keywords.empty()) fail("str.{}() takes no keyword arguments", name);
    return Parameters(name, arguments, names, required);
  }
  void take_none() const { positional({}, 0); }
};

using Method = Value (*)(const Call& call);

template <std::string (*function)(std::string_view)>
Value mapped(const Call& call) {
  call.take_none();
  call.heap.check_text(call.text().size() * 3);
  return call.make(function(call.text()));
}

template <bool (*function)(std::string_view)>
Value tested(const Call& call) {
  call.take_none();
  call.heap.work_on(call.text().size());
  return Value::boolean(function(call.text()));
}

template <CharacterClass which>
bool all_of(std::string_view text) {
  return all_of_class(text, which);
}

bool all_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

bool all_printable(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (!is_printable(take_code_point(text, at))) return false;
  }
  return true;
}

bool is_title(std::string_view text) {
  return (is_lower(lower(text)) || is_upper(upper(text))) && title(text) == text;
}

template <bool left, bool right>
Value stripped(const Call& call) {
  const Parameters parameters = call.positional({"chars"}, 0);
  call.heap.work_on(call.text().size());
  if (!parameters.given(0)) return call.make(strip(call.text(), left, right));
  const std::string_view characters = parameters.text(0);
  call.heap.work(call.text().size() * (characters.size() / 64));
  return call.make(strip(call.text(), characters, left, right));
}

// --- splitting

size_t rfind_text(Heap& heap, std::string_view text, std::string_view part, size_t end) {
  // Backwards there is no linear search in the C library; counting the product keeps hostile texts in bounds.
  heap.work_on(end);
  if (part.size() > 64) heap.work_on(end / 64 * part.size());
  return part.size() > end ? std::string_view::npos : text.rfind(part, end - part.size());
}

void split_at_separator(const Call& call, std::string_view separator, int64_t limit, ListBuilder& out) {
  size_t begin = 0;
  for (size_t at; limit != 0 && (at = find_text(call.heap, call.text(), separator, begin)) != std::string_view::npos; --limit) {
    out.push(call.make(call.text().substr(begin, at - begin)));
    begin = at + separator.size();
  }
  out.push(call.make(call.text().substr(begin)));
}

void rsplit_at_separator(const Call& call, std::string_view separator, int64_t limit, ListBuilder& out) {
  size_t end = call.text().size();
  for (size_t at; limit != 0 && (at = rfind_text(call.heap, call.text(), separator, end)) != std::string_view::npos; --limit) {
    out.push(call.make(call.text().substr(at + separator.size(), end - at - separator.size())));
    end = at;
  }
  out.push(call.make(call.text().substr(0, end)));
  std::reverse(out.items().begin(), out.items().end());
}

bool space_at(std::string_view text, size_t at) {
  return is_python_space(take_code_point(text, at));
}

void split_at_space(const Call& call, int64_t limit, ListBuilder& out) {
  std::string_view rest = strip(call.text(), true, false);
  while (!rest.empty()) {
    call.heap.work();
    size_t end = 0;
    if (limit-- == 0) {
      out.push(call.make(strip(rest, false, false)));
      return;
    }
    while (end < rest.size() && !space_at(rest, end)) take_code_point(rest, end);
    out.push(call.make(rest.substr(0, end)));
    rest = strip(rest.substr(end), true, false);
  }
}

void rsplit_at_space(const Call& call, int64_t limit, ListBuilder& out) {
  std::string_view rest = strip(call.text(), false, true);
  while (!rest.empty()) {
    call.heap.work();
    if (limit-- == 0) {
      out.push(call.make(rest));
      break;
    }
    size_t begin = rest.size();
    while (begin > 0) {
      size_t before = begin - 1;
      while ((static_cast<unsigned char>(rest[before]) & 0xc0) == 0x80) --before;
      if (space_at(rest, before)) break;
      begin = before;
    }
    out.push(call.make(rest.substr(begin)));
    rest = strip(rest.substr(0, begin), false, true);
  }
  std::reverse(out.items().begin(), out.items().end());
}

template <bool from_right>
Value split(const Call& call) {
  const Parameters parameters(call.name, call.arguments, {"sep", "maxsplit"}, 0);
  const int64_t limit = parameters.integer_or(1, -1);
  call.heap.work_on(call.text().size());
  ListBuilder out(call.heap);
  if (!parameters.given(0)) {
    from_right ? rsplit_at_space(call, limit, out) : split_at_space(call, limit, out);
  } else {
    const std::string_view separator = parameters.text(0);
    if (separator.empty()) fail("empty separator");
    from_right ? rsplit_at_separator(call, separator, limit, out) : split_at_separator(call, separator, limit, out);
  }
  return call.heap.list(out.take());
}

Value splitlines(const Call& call) {
  const Parameters parameters(call.name, call.arguments, {"keepends"}, 0);
  const bool keep_ends = parameters.truth_or(0, false);
  call.heap.work_on(call.text().size());
  ListBuilder out(call.heap);
  for (size_t at = 0; at < call.text().size();) out.push(call.make(take_line(call.text(), at, keep_ends)));
  return call.heap.list(out.take());
}

template <bool from_right>
Value partition(const Call& call) {
  const std::string_view separator = call.positional({"sep"}, 1).text(0), text = call.text();
  if (separator.empty()) fail("empty separator");
  const size_t at = from_right ? rfind_text(call.heap, text, separator, text.size()) : find_text(call.heap, text, separator);
  if (at == std::string_view::npos) {
    const Value empty = call.make(std::string_view()), whole = call.make(text);
    return call.heap.tuple(from_right ? std::vector<Value>{empty, empty, whole} : std::vector<Value>{whole, empty, empty});
  }
  return call.heap.tuple({call.make(text.substr(0, at)), call.make(separator), call.make(text.substr(at + separator.size()))});
}

// --- searching

// The part of the text between the code points that the arguments `first` and `first + 1` name, and where it
// begins.
struct Window {
  std::string_view text;
  int64_t begin = 0;  // in code points
  bool is_valid = true;
};

Window window_of(const Call& call, const Parameters& parameters, size_t first) {
  const int64_t size = length(call.self);
  const auto bound = [&](size_t index, int64_t otherwise) {
    const int64_t at = parameters.given(index) ? parameters.integer_or(index, 0) : otherwise;
    return at < 0 ? std::max<int64_t>(at + size, 0) : at;
  };
  const int64_t begin = bound(first, 0), end = std::min(bound(first + 1, size), size);
  if (begin > end) return {{}, 0, false};
  call.heap.work_on(call.text().size());
  const size_t from = byte_of_code_point(call.text(), static_cast<size_t>(begin));
  const std::string_view rest = call.text().substr(from);
  return {rest.substr(0, byte_of_code_point(rest, static_cast<size_t>(end - begin))), begin, true};
}

template <bool from_right, bool must_exist>
Value find(const Call& call) {
  const Parameters parameters = call.positional({"sub", "start", "end"}, 1);
  const std::string_view part = parameters.text(0);
  const Window window = window_of(call, parameters, 1);
  const size_t at = !window.is_valid ? std::string_view::npos
                    : from_right     ? rfind_text(call.heap, window.text, part, window.text.size())
                                     : find_text(call.heap, window.text, part);
  if (at != std::string_view::npos) {
    return Value::integer(window.begin + static_cast<int64_t>(count_code_points(window.text.substr(0, at))));
  }
  if (must_exist) fail("substring not found");
  return Value::integer(-1);
}

Value count(const Call& call) {
  const Parameters parameters = call.positional({"sub", "start", "end"}, 1);
  const std::string_view part = parameters.text(0);
  const Window window = window_of(call, parameters, 1);
  if (!window.is_valid) return Value::integer(0);
  if (part.empty()) return Value::integer(static_cast<int64_t>(count_code_points(window.text)) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = find_text(call.heap, window.text, part, at)) != std::string_view::npos; at += part.size()) {
    ++count;
  }
  return Value::integer(count);
}

template <bool at_end>
Value has_affix(const Call& call) {
  const Parameters parameters = call.positional({"affix", "start", "end"}, 1);
  const Window window = window_of(call, parameters, 1);
  const auto matches = [&](const Value& affix) {
    if (!affix.is_text()) {
      fail("{} first arg must be str or a tuple of str, not {}", call.name, type_name(affix));
    }
    const std::string_view text = affix.as_text();
    return window.is_valid && (at_end ? window.text.ends_with(text) : window.text.starts_with(text));
  };
  const Value& affix = parameters.at(0);
  if (!affix.is_sequence() || affix.as_sequence().flavor != Flavor::tuple) return Value::boolean(matches(affix));
  for (const Value& one : affix.as_sequence().items) {
    call.heap.work();
    if (matches(one)) return Value::boolean(true);
  }
  return Value::boolean(false);
}

// --- making new texts

Value replace(const Call& call) {
  const Parameters parameters = call.positional({"old", "new", "count"}, 2);
  std::string to(parameters.text(1));
  if (call.self.is_markup()) to = escape(call.heap, parameters.at(1));
  return call.make(replace_text(call.heap, call.text(), parameters.text(0), to, parameters.integer_or(2, -1)));
}

Value join(const Call& call) {
  const Parameters parameters = call.positional({"iterable"}, 1);
  TextBuilder out(call.heap);
  Iterator items(call.heap, parameters.at(0));
  size_t number = 0;
  for (Value item; items.next(item); ++number) {
    if (number != 0) out.append(call.text());
    if (!item.is_text() && !call.self.is_markup()) {
      fail("sequence item {}: expected str instance, {} found", number, type_name(item));
    }
    out.append(text_for(call.heap, item, call.self.is_markup()));
  }
  return call.make(out.take());
}

// center, ljust and rjust.
template <bool left, bool right>
Value padded(const Call& call) {
  const Parameters parameters = call.positional({"width", "fillchar"}, 1);
  const Value fill = parameters.value_or(1, call.heap.text(" "));
  if (!fill.is_text() || length(fill) != 1) fail("The fill character must be exactly one character long");
  const std::string filler = text_for(call.heap, fill, call.self.is_markup());
  const int64_t width = parameters.integer_or(0, 0), size = length(call.self);
  if (width <= size) return call.self;
  const int64_t missing = width - size;
  // Where both sides get some, an odd one goes to the left only if the width is odd, too.
  const int64_t before = !left ? 0 : !right ? missing : missing / 2 + (missing & width & 1);
  return call.make(pad_text(call.heap, call.text(), filler, before, missing - before));
}

Value zfill(const Call& call) {
  const int64_t width = call.positional({"width"}, 1).integer_or(0, 0), size = length(call.self);
  std::string_view text = call.text();
  std::string sign;
  if (text.starts_with('-') || text.starts_with('+')) {
    sign = text.substr(0, 1);
    text.remove_prefix(1);
  }
  if (width <= size) return call.self;
  return call.make(sign + pad_text(call.heap, text, "0", width - size, 0));
}

template <bool at_end>
Value without_affix(const Call& call) {
  const std::string_view affix = call.positional({"affix"}, 1).text(0), text = call.text();
  if (affix.empty() || !(at_end ? text.ends_with(affix) : text.starts_with(affix))) return call.self;
  return call.make(at_end ? text.substr(0, text.size() - affix.size()) : text.substr(affix.size()));
}

Value expandtabs(const Call& call) {
  const int64_t size = std::max<int64_t>(Parameters("expandtabs", call.arguments, {"tabsize"}, 0).integer_or(0, 8), 0);
  TextBuilder out(call.heap);
  int64_t column = 0;
  for (const char c : call.text()) {
    if (c == '\t') {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      out.append_repeated(" ", static_cast<size_t>(spaces));
      column += spaces;
      continue;
    }
    out.append(c);
    if (c == '\n' || c == '\r') {
      column = 0;
    } else {
      column += (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }
  }
  return call.make(out.take());
}

Value format(const Call& call) {
  return call.make(format_braces(call.heap, call.text(), call.arguments, call.self.is_markup()));
}

Value format_map(const Call& call) {
  const Parameters parameters = call.positional({"mapping"}, 1);
  Arguments arguments;
  if (!parameters.at(0).is_dictionary()) fail("format_map() needs a dictionary");
  for (const auto& [key, value] : parameters.at(0).as_dictionary().table.entries()) {
    call.heap.work();
    if (key.is_text()) arguments.keywords.emplace_back(key.as_text(), value);
  }
  return call.make(format_braces(call.heap, call.text(), arguments, call.self.is_markup()));
}

struct NamedMethod {
  std::string_view name;
  Method method;
};

constexpr NamedMethod kMethods[] = {{"capitalize", mapped<capitalize>},
                                    {"casefold", mapped<casefold>},
                                    {"center", padded<true, true>},
                                    {"count", count},
                                    {"endswith", has_affix<true>},
                                    {"expandtabs", expandtabs},
                                    {"find", find<false, false>},
                                    {"format", format},
                                    {"format_map", format_map},
                                    {"index", find<false, true>},
                                    {"isalnum", tested<all_of<CharacterClass::alphanumeric>>},
                                    {"isalpha", tested<all_of<CharacterClass::alphabetic>>},
                                    {"isascii", tested<all_ascii>},
                                    {"isdecimal", tested<all_of<CharacterClass::decimal>>},
                                    {"isdigit", tested<all_of<CharacterClass::digit>>},
                                    {"isidentifier", tested<is_identifier>},
                                    {"islower", tested<is_lower>},
                                    {"isnumeric", tested<all_of<CharacterClass::numeric>>},
                                    {"isprintable", tested<all_printable>},
                                    {"isspace", tested<all_of<CharacterClass::space>>},
                                    {"istitle", tested<is_title>},
                                    {"isupper", tested<is_upper>},
                                    {"join", join},
                                    {"ljust", padded<false, true>},
                                    {"lower", mapped<lower>},
                                    {"lstrip", stripped<true, false>},
                                    {"partition", partition<false>},
                                    {"removeprefix", without_affix<false>},
                                    {"removesuffix", without_affix<true>},
                                    {"replace", replace},
                                    {"rfind", find<true, false>},
                                    {"rindex", find<true, true>},
                                    {"rjust", padded<true, false>},
                                    {"rpartition", partition<true>},
                                    {"rsplit", split<true>},
                                    {"rstrip", stripped<false, true>},
                                    {"split", split<false>},
                                    {"splitlines", splitlines},
                                    {"startswith", has_affix<false>},
                                    {"strip", stripped<true, true>},
                                    {"swapcase", mapped<swap_case>},
                                    {"title", mapped<title>},
                                    {"upper", mapped<upper>},
                                    {"zfill", zfill}};

}  // namespace

Value call_text_method(Heap& heap, const Value& self, std::string_view name, const Arguments& arguments) {
  for (const NamedMethod& entry : kMethods) {
    if (entry.name == name) return entry.method({heap, self, name, arguments});
  }
  fail_unsupported("the method '{}' of texts is not supported", name);
}

}  // namespace onset::jinja
