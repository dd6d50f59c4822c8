// The filters that walk a sequence. As in jinja2, those that make a new sequence item by item give a
// generator: always true, without a length, read once.
#include <algorithm>
#include <optional>

#include "onset/text/jinja_builtins.h"
#include "onset/text/jinja_text.h"

namespace onset::jinja {
namespace {

Value ignore_case(Heap& heap, const Value& value) {
  return value.is_text() ? heap.text(lower(value.as_text())) : value;
}

// The key by which an item is compared: an attribute or the item itself, texts in lower case unless told
// otherwise.
struct KeyFunction {
  Value path = Value::none();
  bool case_sensitive = false;

  Value operator()(Heap& heap, const Value& item) const {
    Value key = get_path(heap, item, path);
    return case_sensitive ? key : ignore_case(heap, key);
  }
};

Value filter_first(Heap& heap, const Value& value, const Arguments& arguments) {
  Parameters("first", arguments, {}, 0);
  Value out;
  return Iterator(heap, value).next(out) ? out : heap.undefined("No first item, sequence was empty.");
}

// The items from the last to the first, for what reversed() takes.
Value reversed(Heap& heap, const Value& value) {
  Value items = heap.list(to_items(heap, value));
  const size_t size = items.as_sequence().items.size();
  return heap.generator("list_reverseiterator", value.depth(), 0, [items = std::move(items), left = size](Value& out) mutable {
    if (left == 0) return false;
    out = items.as_sequence().items[--left];
    return true;
  });
}

Value filter_last(Heap& heap, const Value& value, const Arguments& arguments) {
  Parameters("last", arguments, {}, 0);
  if (!has_length(value)) fail("'{}' object is not reversible", type_name(value));
  const int64_t size = length(value);
  if (size == 0) return heap.undefined("No last item, sequence was empty.");
  if (value.is_dictionary()) return value.as_dictionary().table.entries().back().first;
  if (value.is_sequence()) return value.as_sequence().items.back();
  return get_item(heap, value, Value::integer(size - 1));
}

Value filter_reverse(Heap& heap, const Value& value, const Arguments& arguments) {
  Parameters("reverse", arguments, {}, 0);
  if (value.is_text()) return get_slice(heap, value, Value::none(), Value::none(), Value::integer(-1));
  if (has_length(value)) return reversed(heap, value);
  if (!is_iterable(value)) fail("argument must be iterable");
  std::vector<Value> items = to_items(heap, value);
  std::reverse(items.begin(), items.end());
  return heap.list(std::move(items));
}

Value filter_list(Heap& heap, const Value& value, const Arguments& arguments) {
  Parameters("list", arguments, {}, 0);
  return heap.list(to_items(heap, value));
}

Value filter_join(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("join", arguments, {"d", "attribute"}, 0);
  const std::string between = parameters.has(0) ? to_text(heap, parameters.at(0)) : "";
  const Value path = parameters.value_or(1, Value::none());
  TextBuilder out(heap);
  Iterator items(heap, value);
  bool is_first = true;
  for (Value item; items.next(item); is_first = false) {
    if (!is_first) out.append(between);
    append_text(heap, get_path(heap, item, path), out);
  }
  return heap.text(out.take());
}

Value filter_items(Heap& heap, const Value& value, const Arguments& arguments) {
  Parameters("items", arguments, {}, 0);
  if (!value.is_dictionary() && !value.is_undefined()) fail("Can only get item pairs from a mapping.");
  ListBuilder pairs(heap);
  if (value.is_dictionary()) {
    for (const auto& [key, member] : value.as_dictionary().table.entries()) pairs.push(heap.tuple({key, member}));
  }
  return heap.list(pairs.take());
}

Value filter_dictsort(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("dictsort", arguments, {"case_sensitive", "by", "reverse"}, 0);
  const std::string_view by = parameters.has(1) ? parameters.text(1) : "key";
  if (by != "key" && by != "value") fail("You can only sort by either \"key\" or \"value\"");
  require_defined(value);
  if (!value.is_dictionary()) fail("'{}' object has no attribute 'items'", type_name(value));
  const KeyFunction key_of{Value::none(), parameters.truth_or(0, false)};
  std::vector<std::pair<Value, Value>> keyed;
  for (const auto& [key, member] : value.as_dictionary().table.entries()) {
    Value pair = heap.tuple({key, member});
    keyed.emplace_back(key_of(heap, by == "key" ? key : member), std::move(pair));
  }
  sort_by_key(heap, keyed, parameters.truth_or(2, false));
  ListBuilder out(heap);
  for (auto& [key, pair] : keyed) out.push(std::move(pair));
  return heap.list(out.take());
}

Value filter_sort(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("sort", arguments, {"reverse", "case_sensitive", "attribute"}, 0);
  KeyFunction key_of{Value::none(), parameters.truth_or(1, false)};
  // Several attributes, separated by commas, compare one after the other.
  std::vector<Value> paths;
  const Value attribute = parameters.value_or(2, Value::none());
  if (attribute.is_text()) {
    const std::string_view text = attribute.as_text();
    for (size_t begin = 0; begin <= text.size();) {
      const size_t end = std::min(text.find(',', begin), text.size());
      paths.push_back(heap.text(text.substr(begin, end - begin)));
      begin = end + 1;
    }
  } else {
    paths.push_back(attribute);
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : to_items(heap, value)) {
    std::vector<Value> keys;
    for (const Value& path : paths) {
      key_of.path = path;
      keys.push_back(key_of(heap, item));
    }
    keyed.emplace_back(heap.list(std::move(keys)), std::move(item));
  }
  sort_by_key(heap, keyed, parameters.truth_or(0, false));
  ListBuilder out(heap);
  for (auto& [key, item] : keyed) out.push(std::move(item));
  return heap.list(out.take());
}

Value filter_unique(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("unique", arguments, {"case_sensitive", "attribute"}, 0);
  const KeyFunction key_of{parameters.value_or(1, Value::none()), parameters.truth_or(0, false)};
  Table seen;
  ListBuilder unique(heap);
  Iterator items(heap, value);
  for (Value item; items.next(item);) {
    Value key = key_of(heap, item);
    if (seen.find(heap, key) != nullptr) continue;
    heap.check_room(seen.size() * (2 * sizeof(Value) + 48));
    seen.set(heap, std::move(key), Value::none());
    unique.push(std::move(item));
  }
  return heap.list(unique.take());
}

Value extreme(Heap& heap, const Value& value, const Parameters& parameters, Comparison better) {
  const KeyFunction key_of{parameters.value_or(1, Value::none()), parameters.truth_or(0, false)};
  Iterator items(heap, value);
  Value best;
  if (!items.next(best)) return heap.undefined("No aggregated item, sequence was empty.");
  Value best_key = key_of(heap, best);
  for (Value item; items.next(item);) {
    Value key = key_of(heap, item);
    if (!compare(heap, better, key, best_key)) continue;
    best = std::move(item);
    best_key = std::move(key);
  }
  return best;
}

Value filter_min(Heap& heap, const Value& value, const Arguments& arguments) {
  return extreme(heap, value, Parameters("min", arguments, {"case_sensitive", "attribute"}, 0), Comparison::less);
}

Value filter_max(Heap& heap, const Value& value, const Arguments& arguments) {
  return extreme(heap, value, Parameters("max", arguments, {"case_sensitive", "attribute"}, 0), Comparison::greater);
}

Value filter_sum(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("sum", arguments, {"attribute", "start"}, 0);
  const Value path = parameters.value_or(0, Value::none());
  Value total = parameters.value_or(1, Value::integer(0));
  if (total.is_text()) fail("sum() can't sum strings [use ''.join(seq) instead]");
  Iterator items(heap, value);
  for (Value item; items.next(item);) total = arithmetic(heap, Operator::add, total, get_path(heap, item, path));
  return total;
}

Value filter_batch(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("batch", arguments, {"linecount", "fill_with"}, 1);
  const int64_t size = parameters.integer_or(0, 1);
  const Value fill = parameters.value_or(1, Value::none());
  ListBuilder out(heap);
  std::vector<Value> batch;
  Iterator items(heap, value);
  for (Value item; items.next(item);) {
    if (static_cast<int64_t>(batch.size()) == size) out.push(heap.list(std::exchange(batch, {})));
    if (batch.size() % 1024 == 1023) heap.check_room(batch.size() * sizeof(Value));
    batch.push_back(std::move(item));
  }
  if (batch.empty()) return heap.list(out.take());
  ListBuilder last(heap);
  for (Value& item : batch) last.push(std::move(item));
  while (!fill.is_none() && static_cast<int64_t>(last.items().size()) < size) last.push(fill);
  out.push(heap.list(last.take()));
  return heap.list(out.take());
}

Value filter_slice(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("slice", arguments, {"slices", "fill_with"}, 1);
  const int64_t slices = parameters.integer_or(0, 1);
  const Value fill = parameters.value_or(1, Value::none());
  if (slices == 0) fail("integer division or modulo by zero");
  const std::vector<Value> items = to_items(heap, value);
  const auto size = static_cast<int64_t>(items.size());
  auto next = items.begin();
  ListBuilder out(heap);
  for (int64_t number = 0; number < slices; ++number) {
    const bool has_extra = number < size % slices;
    ListBuilder slice(heap);
    for (int64_t i = 0; i < size / slices + has_extra; ++i) slice.push(*next++);
    if (!has_extra && !fill.is_none()) slice.push(fill);
    out.push(heap.list(slice.take()));
  }
  return heap.list(out.take());
}

Value filter_groupby(Heap& heap, const Value& value, const Arguments& arguments) {
  const Parameters parameters("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  const bool case_sensitive = parameters.truth_or(2, false);
  std::vector<std::pair<Value, Value>> keyed;
  const Value otherwise = parameters.value_or(1, Value::none());
  const auto real_key = [&](const Value& item) { return get_path(heap, item, parameters.at(0), otherwise); };
  for (Value& item : to_items(heap, value)) {
    Value key = real_key(item);
    keyed.emplace_back(case_sensitive ? key : ignore_case(heap, key), std::move(item));
  }
  sort_by_key(heap, keyed, false);
  ListBuilder groups(heap);
  for (size_t begin = 0, end = 0; begin < keyed.size(); begin = end) {
    ListBuilder members(heap);
    for (end = begin; end < keyed.size() && equal(heap, keyed[begin].first, keyed[end].first); ++end) {
      members.push(keyed[end].second);
    }
    if (end == begin) end = begin + 1;  // a key that does not equal itself (not a number)
    Value name = real_key(keyed[begin].second);
    groups.push(heap.tuple({std::move(name), heap.list(members.take())}));
  }
  return heap.list(groups.take());
}

Value filter_map(Heap& heap, const Value& value, const Arguments& arguments) {
  Arguments rest = arguments;
  Value path = Value::none(), otherwise = Value::none();
  std::string name;
  const auto take_keyword = [&](std::string_view keyword, Value& out) {
    const auto at = std::find_if(rest.keywords.begin(), rest.keywords.end(), [&](const auto& entry) { return entry.first == keyword; });
    if (at == rest.keywords.end()) return false;
    out = at->second;
    rest.keywords.erase(at);
    return true;
  };
  if (rest.positional.empty() && take_keyword("attribute", path)) {
    take_keyword("default", otherwise);
    if (!rest.keywords.empty()) fail("Unexpected keyword argument '{}'", rest.keywords[0].first);
  } else {
    if (rest.positional.empty()) fail("map requires a filter argument");
    if (!rest.positional[0].is_text()) fail("No filter named {}.", repr(heap, rest.positional[0]));
    name = rest.positional[0].as_text();
    rest.positional.erase(rest.positional.begin());
  }
  const Value source = truth(value) ? value : heap.list({});
  const size_t captured = rest.positional.size() + rest.keywords.size() * 2;
  return heap.generator("generator", source.depth() + 1, captured,
                        [&heap, name, path, otherwise, rest = std::move(rest), items = Iterator(heap, source)](Value& out) mutable {
                          Value item;
                          if (!items.next(item)) return false;
                          out = name.empty() ? get_path(heap, item, path, otherwise) : apply_filter(heap, name, item, rest);
                          return true;
                        });
}

// select, reject, selectattr and rejectattr: the items, or an attribute of theirs, that pass a test or do
// not.
Value select(Heap& heap, const Value& value, const Arguments& arguments, bool by_attribute, bool wanted) {
  Arguments rest = arguments;
  Value path = Value::none();
  std::optional<std::string> test;
  if (by_attribute) {
    if (rest.positional.empty()) fail("Missing parameter for attribute name");
    path = rest.positional[0];
    rest.positional.erase(rest.positional.begin());
  }
  if (!rest.positional.empty()) {
    if (!rest.positional[0].is_text()) fail("No test named {}.", repr(heap, rest.positional[0]));
    test = std::string(rest.positional[0].as_text());
    rest.positional.erase(rest.positional.begin());
  }
  const Value source = truth(value) ? value : heap.list({});
  const size_t captured = rest.positional.size() + rest.keywords.size() * 2;
  return heap.generator("generator", source.depth() + 1, captured,
                        [&heap, path, test, rest = std::move(rest), wanted, items = Iterator(heap, source)](Value& out) mutable {
                          while (items.next(out)) {
                            const Value subject = get_path(heap, out, path);
                            const bool passes = test ? apply_test(heap, *test, subject, rest) : truth(subject);
                            if (passes == wanted) return true;
                          }
                          return false;
                        });
}

Value filter_select(Heap& heap, const Value& value, const Arguments& arguments) {
  return select(heap, value, arguments, false, true);
}
Value filter_reject(Heap& heap, const Value& value, const Arguments& arguments) {
  return select(heap, value, arguments, false, false);
}
Value filter_selectattr(Heap& heap, const Value& value, const Arguments& arguments) {
  return select(heap, value, arguments, true, true);
}
Value filter_rejectattr(Heap& heap, const Value& value, const Arguments& arguments) {
  return select(heap, value, arguments, true, false);
}

// In jinja2 these filters are generator functions: nothing happens, and nothing can fail, before the first
// item is wanted.
template <Filter filter>
Value lazily(Heap& heap, const Value& value, const Arguments& arguments) {
  const size_t captured = arguments.positional.size() + 2 * arguments.keywords.size();
  return heap.generator("generator", value.depth(), captured,
                        [&heap, value, arguments, items = std::optional<Iterator>()](Value& out) mutable {
                          if (!items) items.emplace(heap, filter(heap, value, arguments));
                          return items->next(out);
                        });
}

struct NamedFilter {
  std::string_view name;
  Filter filter;
};

constexpr NamedFilter kFilters[] = {{"batch", lazily<filter_batch>},
                                    {"dictsort", filter_dictsort},
                                    {"first", filter_first},
                                    {"groupby", filter_groupby},
                                    {"items", lazily<filter_items>},
                                    {"join", filter_join},
                                    {"last", filter_last},
                                    {"list", filter_list},
                                    {"map", lazily<filter_map>},
                                    {"max", filter_max},
                                    {"min", filter_min},
                                    {"reject", lazily<filter_reject>},
                                    {"rejectattr", lazily<filter_rejectattr>},
                                    {"reverse", filter_reverse},
                                    {"select", lazily<filter_select>},
                                    {"selectattr", lazily<filter_selectattr>},
                                    {"slice", lazily<filter_slice>},
                                    {"sort", filter_sort},
                                    {"sum", filter_sum},
                                    {"unique", lazily<filter_unique>}};

}  // namespace

Filter find_sequence_filter(std::string_view name) {
  for (const NamedFilter& entry : kFilters) {
    if (entry.name == name) return entry.filter;
  }
  return nullptr;
}

}  // namespace onset::jinja
