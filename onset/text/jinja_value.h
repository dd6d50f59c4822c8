// Values of the Jinja interpreter: Python's types as templates meet them, counted while they live.
//
// Texts, lists, tuples and dictionaries never change once made (the sandbox forbids it), so they are shared;
// only namespaces and generators have state. Operations throw Failure, which parse() and render() turn into a
// Status: it never leaves this room.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "onset/base/status.h"
#include "onset/text/jinja.h"

namespace onset::jinja {

struct Failure {
  Code code = Code::invalid_argument;
  std::string message;
  bool from_template = false;  // raise_exception: the message stands for itself
};

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure{Code::invalid_argument, fmt::format(format, std::forward<Args>(args)...)};
}

template <typename... Args>
[[noreturn]] void fail_unsupported(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure{Code::unsupported, fmt::format(format, std::forward<Args>(args)...)};
}

// How deep lists may stand in lists (Python's own repr and json give up at about 1,000).
constexpr int kMaxValueDepth = 200;

enum class Kind : uint8_t {
  undefined,
  missing,  // a macro's parameter before it has a value; templates see it as undefined
  none,
  boolean,
  integer,
  real,
  text,
  sequence,  // list, tuple, range and the views of a dictionary
  dictionary,
  generator,
  name_space,
  function,
  macro,
  loop,
};

enum class Flavor : uint8_t { list, tuple, range, keys, values, items };

class Heap;

// What a Value points to. `bytes` were counted by `heap` (none for the constants of a template) and go back
// to it.
struct Object {
  virtual ~Object();
  Heap* heap = nullptr;
  size_t bytes = 0;
  int depth = 0;  // how many containers stand in one another inside
};

struct TextObject;
struct SequenceObject;
struct DictionaryObject;

class Value {
 public:
  Value() = default;  // undefined without a name

  static Value none() { return Value(Kind::none); }
  static Value missing() { return Value(Kind::missing); }
  static Value boolean(bool value) {
    Value out(Kind::boolean);
    out.integer_ = value;
    return out;
  }
  static Value integer(int64_t value) {
    Value out(Kind::integer);
    out.integer_ = value;
    return out;
  }
  static Value real(double value) {
    Value out(Kind::real);
    out.real_ = value;
    return out;
  }
  Value(Kind kind, std::shared_ptr<Object> object, bool markup = false) : kind_(kind), markup_(markup), object_(std::move(object)) {}

  Kind kind() const { return kind_; }
  bool is_undefined() const { return kind_ == Kind::undefined; }
  bool is_none() const { return kind_ == Kind::none; }
  bool is_text() const { return kind_ == Kind::text; }
  bool is_sequence() const { return kind_ == Kind::sequence; }
  bool is_dictionary() const { return kind_ == Kind::dictionary; }
  // Python's bool is an int.
  bool is_integral() const { return kind_ == Kind::integer || kind_ == Kind::boolean; }
  bool is_number() const { return is_integral() || kind_ == Kind::real; }
  // The filters `safe` and `escape` make text that escapes what is joined to it.
  bool is_markup() const { return markup_; }

  // For integer and boolean, for any number, and for the kinds with an object.
  int64_t as_integer() const { return integer_; }
  double as_real() const { return kind_ == Kind::real ? real_ : static_cast<double>(integer_); }
  std::string_view as_text() const;
  const SequenceObject& as_sequence() const;
  const DictionaryObject& as_dictionary() const;
  template <typename T>
  T& object() const {
    return static_cast<T&>(*object_);
  }
  const std::shared_ptr<Object>& pointer() const { return object_; }
  int depth() const { return object_ ? object_->depth : 0; }

 private:
  explicit Value(Kind kind) : kind_(kind) {}

  Kind kind_ = Kind::undefined;
  bool markup_ = false;
  union {
    int64_t integer_ = 0;
    double real_;
  };
  std::shared_ptr<Object> object_;
};

// A hash that agrees with equal(). Fails for lists, dictionaries and other values that Python cannot hash.
size_t hash_of(Heap& heap, const Value& value);

// Members in order of insertion, found by key; a later value for a key takes the earlier one's place.
class Table {
 public:
  const Value* find(Heap& heap, const Value& key) const;
  const Value* find(std::string_view key) const;
  void set(Heap& heap, Value key, Value value);
  void set(std::string_view key, Value value);
  const std::vector<std::pair<Value, Value>>& entries() const { return entries_; }
  size_t size() const { return entries_.size(); }
  void clear();

 private:
  std::vector<std::pair<Value, Value>> entries_;
  std::unordered_multimap<size_t, uint32_t> index_;  // from hash to position
};

struct UndefinedObject : Object {
  std::string message;
};

struct TextObject : Object {
  std::string text;
  size_t code_points = 0;
  bool ascii() const { return code_points == text.size(); }
};

struct SequenceObject : Object {
  Flavor flavor = Flavor::list;
  std::vector<Value> items;
  int64_t start = 0, stop = 0, step = 1;  // of a range
};

struct DictionaryObject : Object {
  Table table;
};

struct NamespaceObject : Object {
  Table table;
};

// Gives its values once. `type` is Python's name for it.
struct GeneratorObject : Object {
  std::function<bool(Value&)> next;
  const char* type = "generator";
  bool is_running = false;
};

// A global function (self undefined) or a method bound to `self`.
struct FunctionObject : Object {
  Value self;
  std::string name;
};

// Makes values and keeps account of memory and steps; every value that it made must die before it.
class Heap {
 public:
  explicit Heap(const Limits& limits) : limits_(limits) {}
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  const Limits& limits() const { return limits_; }

  // Counts work; fails when the budget is spent.
  void work(uint64_t steps = 1) {
    steps_ += steps;
    if (steps_ > limits_.steps) out_of_steps();
  }
  // Counts a pass over `bytes` of text.
  void work_on(size_t bytes) { work(1 + bytes / 64); }
  // Fails if a text of `bytes` may not be made, or `bytes` more cannot live. Also counts the work to make it.
  void check_text(size_t bytes);
  void check_room(size_t bytes);

  Value text(std::string text, bool markup = false);
  Value text(std::string_view text, bool markup = false) { return this->text(std::string(text), markup); }
  Value text(const char* text) { return this->text(std::string(text)); }
  Value list(std::vector<Value> items) { return sequence(Flavor::list, std::move(items)); }
  Value tuple(std::vector<Value> items) { return sequence(Flavor::tuple, std::move(items)); }
  Value sequence(Flavor flavor, std::vector<Value> items);
  Value range(int64_t start, int64_t stop, int64_t step);
  Value dictionary(Table table);
  Value undefined(std::string message);
  Value function(std::string name, Value self = {});
  // `depth` is that of the values it draws from; `captured` counts the values that `next` holds beside those.
  Value generator(const char* type, int depth, size_t captured, std::function<bool(Value&)> next);
  // A context's JSON (not counted against memory: it is the caller's). Fails for text that is not UTF-8.
  Value from_json(const nlohmann::ordered_json& json, int depth = 0);

  // Counts `bytes` more for an object that this heap made.
  void grow(Object& object, size_t bytes) {
    check_room(bytes);
    object.bytes += bytes;
    live_bytes_ += bytes;
  }

  // An object of a type of its own, counted as `bytes`.
  template <typename T>
  std::shared_ptr<T> make(size_t bytes) {
    check_room(bytes);
    auto object = std::make_shared<T>();
    object->heap = this;
    object->bytes = bytes;
    live_bytes_ += bytes;
    return object;
  }

 private:
  friend struct Object;
  friend class TextBuilder;
  friend class ListBuilder;
  [[noreturn]] void out_of_steps() const;

  Limits limits_;
  uint64_t steps_ = 0;
  size_t live_bytes_ = 0;
};

// A text that belongs to a template and is counted by no heap.
Value constant_text(std::string text);

// A text being made, checked against the limits and counted as it grows.
class TextBuilder {
 public:
  explicit TextBuilder(Heap& heap) : heap_(&heap) {}
  ~TextBuilder() { heap_->live_bytes_ -= checked_; }
  TextBuilder(const TextBuilder&) = delete;
  TextBuilder& operator=(const TextBuilder&) = delete;

  void append(std::string_view text) {
    grow(text.size());
    text_.append(text);
  }
  void append(char c) {
    grow(1);
    text_.push_back(c);
  }
  void append_repeated(std::string_view text, size_t count);
  size_t size() const { return text_.size(); }
  const std::string& text() const { return text_; }
  std::string take() { return std::move(text_); }

 private:
  void grow(size_t bytes) {
    if (bytes > checked_ - text_.size()) check(bytes);
  }
  void check(size_t bytes);

  Heap* heap_;
  std::string text_;
  size_t checked_ = 0;  // how long it may get without asking again: at least its size
};

// A list being made, checked against the limits and counted as it grows.
class ListBuilder {
 public:
  explicit ListBuilder(Heap& heap) : heap_(&heap) {}
  ~ListBuilder() { heap_->live_bytes_ -= counted_; }
  ListBuilder(const ListBuilder&) = delete;
  ListBuilder& operator=(const ListBuilder&) = delete;

  void push(Value value) {
    heap_->work();
    if (items_.size() % 1024 == 1023) check();
    items_.push_back(std::move(value));
  }
  std::vector<Value> take() { return std::move(items_); }
  std::vector<Value>& items() { return items_; }

 private:
  void check();

  Heap* heap_;
  std::vector<Value> items_;
  size_t counted_ = 0;
};

// Python's name of the type: "str", "dict", "NoneType".
const char* type_name(const Value& value);
// As jinja2 names it in messages: "dict object", "None".
std::string describe(const Value& value);
// Why a value is undefined.
std::string undefined_message(const Value& value);
// Fails with that message if the value is undefined.
void require_defined(const Value& value);

bool truth(const Value& value);
bool equal(Heap& heap, const Value& left, const Value& right);
enum class Comparison : uint8_t { equal, not_equal, less, less_equal, greater, greater_equal };
// Python's comparisons; fails where two types have no order.
bool compare(Heap& heap, Comparison how, const Value& left, const Value& right);
// Sorts pairs by their first values, equal ones (in the order of `reverse`, too) staying as they are.
// Whatever the comparison says, also of numbers that are none, this ends and keeps all pairs.
void sort_by_key(Heap& heap, std::vector<std::pair<Value, Value>>& pairs, bool reverse);
// `needle in container`.
bool contains(Heap& heap, const Value& container, const Value& needle);

// The first place of `part` in `text` at or after byte `from`, npos if none. Linear whatever the two are (a
// naive search takes the product of their lengths on texts made for it).
size_t find_text(Heap& heap, std::string_view text, std::string_view part, size_t from = 0);

// len(value): fails for what has none.
int64_t length(const Value& value);
bool has_length(const Value& value);
bool is_iterable(const Value& value);

// Walks a text's characters, a sequence, a dictionary's keys or a generator. Fails for what cannot be
// iterated.
class Iterator {
 public:
  Iterator(Heap& heap, Value source);
  bool next(Value& out);

 private:
  Heap* heap_;
  Value source_;
  size_t at_ = 0;
};
std::vector<Value> to_items(Heap& heap, const Value& iterable);

// str(value) and repr(value).
std::string to_text(Heap& heap, const Value& value);
void append_text(Heap& heap, const Value& value, TextBuilder& out);
std::string repr(Heap& heap, const Value& value);
// repr(float): the shortest digits that read back as the same number.
std::string real_repr(double value);

// json.dumps. `indent`, `separators` and the rest as Hugging Face's tojson filter passes them on.
struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool pretty = false;  // an indent was given
  std::string indent;   // one level of it
  std::string item_separator = ", ", key_separator = ": ";
};
std::string to_json(Heap& heap, const Value& value, const JsonStyle& style);

}  // namespace onset::jinja
