// Methods of lists, tuples and dictionaries; those of texts are in jinja_text_methods.cc.
#include "onset/text/jinja_builtins.h"

namespace onset::jinja {
namespace {

Value view(Heap& heap, const DictionaryObject& dictionary, Flavor flavor) {
  ListBuilder items(heap);
  for (const auto& [key, value] : dictionary.table.entries()) {
    items.push(flavor == Flavor::keys ? key : flavor == Flavor::values ? value : heap.tuple({key, value}));
  }
  return heap.sequence(flavor, items.take());
}

Value call_dictionary_method(Heap& heap, const Value& self, std::string_view name, const Arguments& arguments) {
  const DictionaryObject& dictionary = self.as_dictionary();
  if (name == "get") {
    if (!arguments.keywords.empty()) fail("dict.get() takes no keyword arguments");
    const Parameters parameters("get", arguments, {"key", "default"}, 1);
    const Value* found = dictionary.table.find(heap, parameters.at(0));
    return found != nullptr ? *found : parameters.value_or(1, Value::none());
  }
  if (name == "items" || name == "keys" || name == "values") {
    Parameters(name, arguments, {}, 0);
    return view(heap, dictionary, name == "items" ? Flavor::items : name == "keys" ? Flavor::keys : Flavor::values);
  }
  if (name == "copy") {
    Parameters("copy", arguments, {}, 0);
    return self;  // nothing can tell a copy from what never changes
  }
  fail_unsupported("the method '{}' of dictionaries is not supported", name);
}

Value call_sequence_method(Heap& heap, const Value& self, std::string_view name, const Arguments& arguments) {
  const std::vector<Value>& items = self.as_sequence().items;
  if (name == "count") {
    const Parameters parameters("count", arguments, {"value"}, 1);
    int64_t count = 0;
    for (const Value& item : items) count += equal(heap, item, parameters.at(0));
    return Value::integer(count);
  }
  if (name == "index") {
    const Parameters parameters("index", arguments, {"value", "start", "stop"}, 1);
    const auto size = static_cast<int64_t>(items.size());
    const auto clamp = [&](int64_t at) { return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size); };
    const int64_t end = clamp(parameters.integer_or(2, size));
    for (int64_t at = clamp(parameters.integer_or(1, 0)); at < end; ++at) {
      if (equal(heap, items[static_cast<size_t>(at)], parameters.at(0))) return Value::integer(at);
    }
    fail("{} is not in list", repr(heap, parameters.at(0)));
  }
  if (name == "copy") {
    Parameters("copy", arguments, {}, 0);
    return self;
  }
  fail_unsupported("the method '{}' of '{}' is not supported", name, type_name(self));
}

}  // namespace

Value call_method(Heap& heap, const Value& self, std::string_view name, const Arguments& arguments) {
  heap.work();
  switch (self.kind()) {
    case Kind::text:
      return call_text_method(heap, self, name, arguments);
    case Kind::dictionary:
      return call_dictionary_method(heap, self, name, arguments);
    case Kind::sequence:
      return call_sequence_method(heap, self, name, arguments);
    default:
      fail_unsupported("the method '{}' of '{}' is not supported", name, type_name(self));
  }
}

}  // namespace onset::jinja
