// Making values and keeping account of them.
#include <nlohmann/json.hpp>

#include "onset/text/jinja_text.h"
#include "onset/text/jinja_value.h"
#include "onset/text/unicode.h"

namespace onset::jinja {
namespace {

int depth_of(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return depth + 1;
}

int checked_depth(int depth) {
  if (depth > kMaxValueDepth) {
    throw Failure{Code::resource_exhausted, fmt::format("values nested more than {} deep", kMaxValueDepth)};
  }
  return depth;
}

size_t hash_of_text(std::string_view text) {
  return std::hash<std::string_view>()(text);
}

// The value's own object, filled, but counted by no heap.
template <typename T>
std::shared_ptr<T> uncounted() {
  return std::make_shared<T>();
}

}  // namespace

Object::~Object() {
  if (heap != nullptr) heap->live_bytes_ -= bytes;
}

void Heap::out_of_steps() const {
  throw Failure{Code::resource_exhausted, fmt::format("takes more than {} steps", limits_.steps)};
}

void Heap::check_room(size_t bytes) {
  if (bytes > limits_.memory_bytes || live_bytes_ > limits_.memory_bytes - bytes) {
    throw Failure{Code::resource_exhausted, fmt::format("needs more than {} bytes of memory", limits_.memory_bytes)};
  }
}

void Heap::check_text(size_t bytes) {
  if (bytes > limits_.text_bytes) {
    throw Failure{Code::resource_exhausted, fmt::format("makes a text of more than {} bytes", limits_.text_bytes)};
  }
  check_room(bytes);
  work_on(bytes);
}

Value Heap::text(std::string text, bool markup) {
  check_text(text.size());
  auto object = make<TextObject>(sizeof(TextObject) + text.capacity());
  object->code_points = count_code_points(text);
  object->text = std::move(text);
  return Value(Kind::text, std::move(object), markup);
}

Value constant_text(std::string text) {
  auto object = uncounted<TextObject>();
  object->code_points = count_code_points(text);
  object->text = std::move(text);
  return Value(Kind::text, std::move(object));
}

Value Heap::sequence(Flavor flavor, std::vector<Value> items) {
  work(1 + items.size() / 8);
  const int depth = checked_depth(depth_of(items));
  auto object = make<SequenceObject>(sizeof(SequenceObject) + items.capacity() * sizeof(Value));
  object->flavor = flavor;
  object->depth = depth;
  object->items = std::move(items);
  return Value(Kind::sequence, std::move(object));
}

Value Heap::range(int64_t start, int64_t stop, int64_t step) {
  constexpr int64_t kMaxItems = 100'000;  // as jinja2's sandbox
  if (step == 0) fail("range() arg 3 must not be zero");
  ListBuilder items(*this);
  for (int64_t at = start; step > 0 ? at < stop : at > stop;) {
    if (static_cast<int64_t>(items.items().size()) == kMaxItems) {
      fail("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMaxItems);
    }
    items.push(Value::integer(at));
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  Value out = sequence(Flavor::range, items.take());
  auto& object = out.object<SequenceObject>();
  object.start = start;
  object.stop = stop;
  object.step = step;
  return out;
}

Value Heap::dictionary(Table table) {
  work(1 + table.size() / 8);
  int depth = 0;
  for (const auto& [key, value] : table.entries()) depth = std::max({depth, key.depth(), value.depth()});
  depth = checked_depth(depth + 1);
  auto object = make<DictionaryObject>(sizeof(DictionaryObject) + table.size() * (2 * sizeof(Value) + 48));
  object->depth = depth;
  object->table = std::move(table);
  return Value(Kind::dictionary, std::move(object));
}

Value Heap::undefined(std::string message) {
  auto object = make<UndefinedObject>(sizeof(UndefinedObject) + message.capacity());
  object->message = std::move(message);
  return Value(Kind::undefined, std::move(object));
}

Value Heap::function(std::string name, Value self) {
  auto object = make<FunctionObject>(sizeof(FunctionObject) + name.capacity());
  object->depth = checked_depth(self.depth() + 1);
  object->name = std::move(name);
  object->self = std::move(self);
  return Value(Kind::function, std::move(object));
}

Value Heap::generator(const char* type, int depth, size_t captured, std::function<bool(Value&)> next) {
  auto object = make<GeneratorObject>(sizeof(GeneratorObject) + 512 + captured * sizeof(Value));
  object->depth = checked_depth(depth + 1);
  object->type = type;
  object->next = std::move(next);
  return Value(Kind::generator, std::move(object));
}

Value Heap::from_json(const nlohmann::ordered_json& json, int depth) {
  checked_depth(depth);
  const auto text_of = [](const std::string& text) {
    if (well_formed_prefix(text) != text.size()) fail("the variables hold text that is not valid UTF-8");
    return constant_text(text);
  };
  switch (json.type()) {
    case nlohmann::ordered_json::value_t::null:
      return Value::none();
    case nlohmann::ordered_json::value_t::boolean:
      return Value::boolean(json.get<bool>());
    case nlohmann::ordered_json::value_t::number_integer:
      return Value::integer(json.get<int64_t>());
    case nlohmann::ordered_json::value_t::number_unsigned: {
      const auto number = json.get<uint64_t>();
      if (number > static_cast<uint64_t>(INT64_MAX)) return Value::real(static_cast<double>(number));
      return Value::integer(static_cast<int64_t>(number));
    }
    case nlohmann::ordered_json::value_t::number_float:
      return Value::real(json.get<double>());
    case nlohmann::ordered_json::value_t::string:
      return text_of(json.get_ref<const std::string&>());
    case nlohmann::ordered_json::value_t::array: {
      auto object = uncounted<SequenceObject>();
      object->items.reserve(json.size());
      for (const auto& item : json) object->items.push_back(from_json(item, depth + 1));
      object->depth = depth_of(object->items);
      return Value(Kind::sequence, std::move(object));
    }
    case nlohmann::ordered_json::value_t::object: {
      auto object = uncounted<DictionaryObject>();
      for (const auto& [key, member] : json.items()) {
        Value value = from_json(member, depth + 1);
        object->depth = std::max(object->depth, value.depth());
        object->table.set(*this, text_of(key), std::move(value));
      }
      ++object->depth;
      return Value(Kind::dictionary, std::move(object));
    }
    default:
      fail("the variables hold binary data, which templates cannot use");
  }
}

// --- tables

size_t hash_of(Heap& heap, const Value& value) {
  heap.work();
  switch (value.kind()) {
    case Kind::none:
      return 0x9e3779b97f4a7c15u;
    case Kind::boolean:
    case Kind::integer:
      return std::hash<int64_t>()(value.as_integer());
    case Kind::real: {
      // Equal numbers hash alike: 1 == 1.0 == true.
      const double real = value.as_real();
      if (real >= -9.2e18 && real <= 9.2e18 && real == static_cast<double>(static_cast<int64_t>(real))) {
        return std::hash<int64_t>()(static_cast<int64_t>(real));
      }
      return std::hash<double>()(real);
    }
    case Kind::text:
      heap.work_on(value.as_text().size());
      return hash_of_text(value.as_text());
    case Kind::sequence: {
      const SequenceObject& sequence = value.as_sequence();
      if (sequence.flavor != Flavor::tuple && sequence.flavor != Flavor::range) break;
      size_t hash = sequence.items.size();
      for (const Value& item : sequence.items) hash = hash * 1'000'003u ^ hash_of(heap, item);
      return hash;
    }
    case Kind::dictionary:
      break;
    case Kind::undefined:
    case Kind::missing:
      return 1;
    default:
      return std::hash<const void*>()(value.pointer().get());
  }
  fail("unhashable type: '{}'", type_name(value));
}

const Value* Table::find(Heap& heap, const Value& key) const {
  const auto [first, last] = index_.equal_range(hash_of(heap, key));
  for (auto at = first; at != last; ++at) {
    if (equal(heap, entries_[at->second].first, key)) return &entries_[at->second].second;
  }
  return nullptr;
}

const Value* Table::find(std::string_view key) const {
  const auto [first, last] = index_.equal_range(hash_of_text(key));
  for (auto at = first; at != last; ++at) {
    const auto& [name, value] = entries_[at->second];
    if (name.is_text() && name.as_text() == key) return &value;
  }
  return nullptr;
}

void Table::set(Heap& heap, Value key, Value value) {
  if (const Value* found = find(heap, key)) {
    const_cast<Value&>(*found) = std::move(value);
    return;
  }
  index_.emplace(hash_of(heap, key), static_cast<uint32_t>(entries_.size()));
  entries_.emplace_back(std::move(key), std::move(value));
}

void Table::set(std::string_view key, Value value) {
  if (const Value* found = find(key)) {
    const_cast<Value&>(*found) = std::move(value);
    return;
  }
  index_.emplace(hash_of_text(key), static_cast<uint32_t>(entries_.size()));
  entries_.emplace_back(constant_text(std::string(key)), std::move(value));
}

void Table::clear() {
  index_.clear();
  entries_.clear();
}

// --- builders

void TextBuilder::check(size_t bytes) {
  const size_t wanted = bytes > SIZE_MAX / 4 ? bytes : text_.size() + bytes;
  heap_->check_text(wanted);
  // More than is needed now, so that most appends ask nothing.
  const size_t next = std::max(wanted, std::min(wanted + wanted / 2 + 256, heap_->limits().text_bytes));
  heap_->check_room(next - checked_);
  heap_->live_bytes_ += next - checked_;
  checked_ = next;
}

void ListBuilder::check() {
  constexpr size_t kBytes = 1024 * sizeof(Value);
  heap_->check_room(kBytes);
  heap_->live_bytes_ += kBytes;
  counted_ += kBytes;
}

void TextBuilder::append_repeated(std::string_view text, size_t count) {
  if (text.empty() || count == 0) return;
  size_t total;
  if (__builtin_mul_overflow(text.size(), count, &total)) total = SIZE_MAX / 2;
  grow(total);
  heap_->work(count / 64);
  for (size_t i = 0; i < count; ++i) text_.append(text);
}

}  // namespace onset::jinja
