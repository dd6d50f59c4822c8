// How values print: str(), repr() and JSON, as Python writes them.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "onset/text/jinja_interpreter.h"
#include "onset/text/jinja_text.h"
#include "onset/text/jinja_value.h"

namespace onset::jinja {
namespace {

// Namespaces can hold themselves, so nesting is counted here and not only when values are made.
constexpr int kMaxReprDepth = kMaxValueDepth + 50;

void append_text_repr(std::string_view text, TextBuilder& out) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  out.append(quote);
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = take_code_point(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out.append('\\');
      out.append(static_cast<char>(c));
    } else if (c == '\n') {
      out.append("\\n");
    } else if (c == '\r') {
      out.append("\\r");
    } else if (c == '\t') {
      out.append("\\t");
    } else if (is_printable(c)) {
      out.append(text.substr(begin, at - begin));
    } else if (c < 0x100) {
      out.append(fmt::format("\\x{:02x}", static_cast<uint32_t>(c)));
    } else if (c < 0x10000) {
      out.append(fmt::format("\\u{:04x}", static_cast<uint32_t>(c)));
    } else {
      out.append(fmt::format("\\U{:08x}", static_cast<uint32_t>(c)));
    }
  }
  out.append(quote);
}

void append_repr(Heap& heap, const Value& value, TextBuilder& out, int depth);

void append_items(Heap& heap, const std::vector<Value>& items, TextBuilder& out, int depth) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i != 0) out.append(", ");
    append_repr(heap, items[i], out, depth + 1);
  }
}

void append_sequence_repr(Heap& heap, const SequenceObject& sequence, TextBuilder& out, int depth) {
  const auto wrapped = [&](std::string_view before, std::string_view after) {
    out.append(before);
    append_items(heap, sequence.items, out, depth);
    out.append(after);
  };
  switch (sequence.flavor) {
    case Flavor::list:
      return wrapped("[", "]");
    case Flavor::tuple:
      return wrapped("(", sequence.items.size() == 1 ? ",)" : ")");
    case Flavor::keys:
      return wrapped("dict_keys([", "])");
    case Flavor::values:
      return wrapped("dict_values([", "])");
    case Flavor::items:
      return wrapped("dict_items([", "])");
    case Flavor::range:
      out.append(fmt::format("range({}, {}", sequence.start, sequence.stop));
      if (sequence.step != 1) out.append(fmt::format(", {}", sequence.step));
      out.append(")");
      return;
  }
}

void append_table_repr(Heap& heap, const Table& table, TextBuilder& out, int depth) {
  out.append("{");
  for (size_t i = 0; i < table.size(); ++i) {
    const auto& [key, value] = table.entries()[i];
    if (i != 0) out.append(", ");
    append_repr(heap, key, out, depth + 1);
    out.append(": ");
    append_repr(heap, value, out, depth + 1);
  }
  out.append("}");
}

void append_repr(Heap& heap, const Value& value, TextBuilder& out, int depth) {
  heap.work();
  if (depth > kMaxReprDepth) throw Failure{Code::resource_exhausted, "a value nested too deep to print"};
  switch (value.kind()) {
    case Kind::undefined:
    case Kind::missing:
      return out.append("Undefined");
    case Kind::none:
      return out.append("None");
    case Kind::boolean:
      return out.append(value.as_integer() != 0 ? "True" : "False");
    case Kind::integer:
      return out.append(std::to_string(value.as_integer()));
    case Kind::real:
      return out.append(real_repr(value.as_real()));
    case Kind::text:
      if (value.is_markup()) out.append("Markup(");
      append_text_repr(value.as_text(), out);
      if (value.is_markup()) out.append(")");
      return;
    case Kind::sequence:
      return append_sequence_repr(heap, value.as_sequence(), out, depth);
    case Kind::dictionary:
      return append_table_repr(heap, value.as_dictionary().table, out, depth);
    case Kind::name_space:
      out.append("<Namespace ");
      append_table_repr(heap, value.object<NamespaceObject>().table, out, depth);
      return out.append(">");
    case Kind::macro:
      return out.append(fmt::format("<Macro '{}'>", macro_name(value)));
    // Python adds the address of the object, which no template can want.
    case Kind::generator:
      return out.append(fmt::format("<{} object>", type_name(value)));
    case Kind::function:
      return out.append(fmt::format("<function {}>", value.object<FunctionObject>().name));
    case Kind::loop:
      return out.append("<LoopContext>");
  }
}

// --- JSON

void append_json_text(std::string_view text, bool ensure_ascii, TextBuilder& out) {
  out.append('"');
  size_t plain = 0;  // start of the characters not yet written that stand for themselves
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = take_code_point(text, at);
    if (c >= 0x20 && c != '"' && c != '\\' && (!ensure_ascii || c < 0x7f)) continue;
    out.append(text.substr(plain, begin - plain));
    plain = at;
    switch (c) {
      case '"':
        out.append("\\\"");
        break;
      case '\\':
        out.append("\\\\");
        break;
      case '\n':
        out.append("\\n");
        break;
      case '\r':
        out.append("\\r");
        break;
      case '\t':
        out.append("\\t");
        break;
      case '\b':
        out.append("\\b");
        break;
      case '\f':
        out.append("\\f");
        break;
      default:
        if (c < 0x10000) {
          out.append(fmt::format("\\u{:04x}", static_cast<uint32_t>(c)));
        } else {
          const uint32_t rest = static_cast<uint32_t>(c) - 0x10000;
          out.append(fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (rest >> 10), 0xdc00 + (rest & 0x3ff)));
        }
    }
  }
  out.append(text.substr(plain));
  out.append('"');
}

std::string json_real(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return real_repr(value);
}

std::string json_key(const Value& key) {
  switch (key.kind()) {
    case Kind::text:
      return std::string(key.as_text());
    case Kind::none:
      return "null";
    case Kind::boolean:
      return key.as_integer() != 0 ? "true" : "false";
    case Kind::integer:
      return std::to_string(key.as_integer());
    case Kind::real:
      return json_real(key.as_real());
    default:
      fail("keys must be str, int, float, bool or None, not {}", type_name(key));
  }
}

class JsonWriter {
 public:
  JsonWriter(Heap& heap, const JsonStyle& style) : heap_(heap), style_(style), out_(heap) {}

  void write(const Value& value, int depth) {
    heap_.work();
    switch (value.kind()) {
      case Kind::none:
        return out_.append("null");
      case Kind::boolean:
        return out_.append(value.as_integer() != 0 ? "true" : "false");
      case Kind::integer:
        return out_.append(std::to_string(value.as_integer()));
      case Kind::real:
        return out_.append(json_real(value.as_real()));
      case Kind::text:
        return append_json_text(value.as_text(), style_.ensure_ascii, out_);
      case Kind::dictionary:
        return write_object(value.as_dictionary().table, depth);
      case Kind::sequence:
        if (value.as_sequence().flavor == Flavor::list || value.as_sequence().flavor == Flavor::tuple) {
          return write_array(value.as_sequence().items, depth);
        }
        [[fallthrough]];
      default:
        fail("Object of type {} is not JSON serializable", type_name(value));
    }
  }

  std::string take() { return out_.take(); }

 private:
  void separate(bool first, int depth) {
    if (!first) out_.append(style_.item_separator);
    new_line(depth);
  }

  void new_line(int depth) {
    if (!style_.pretty) return;
    out_.append('\n');
    out_.append_repeated(style_.indent, static_cast<size_t>(depth));
  }

  void write_array(const std::vector<Value>& items, int depth) {
    if (items.empty()) return out_.append("[]");
    out_.append('[');
    for (size_t i = 0; i < items.size(); ++i) {
      separate(i == 0, depth + 1);
      write(items[i], depth + 1);
    }
    new_line(depth);
    out_.append(']');
  }

  void write_object(const Table& table, int depth) {
    if (table.size() == 0) return out_.append("{}");
    std::vector<std::pair<Value, Value>> entries = table.entries();
    if (style_.sort_keys) sort_by_key(heap_, entries, false);
    out_.append('{');
    for (size_t i = 0; i < entries.size(); ++i) {
      separate(i == 0, depth + 1);
      append_json_text(json_key(entries[i].first), style_.ensure_ascii, out_);
      out_.append(style_.key_separator);
      write(entries[i].second, depth + 1);
    }
    new_line(depth);
    out_.append('}');
  }

  Heap& heap_;
  const JsonStyle& style_;
  TextBuilder out_;
};

}  // namespace

std::string real_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[32];
  const auto [end, error] = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  (void)error;  // 32 characters hold every double
  const std::string_view scientific(buffer, static_cast<size_t>(end - buffer));
  const size_t e = scientific.find('e');
  const int exponent = std::stoi(std::string(scientific.substr(e + 1)));
  const bool negative = scientific[0] == '-';
  std::string digits;
  for (char c : scientific.substr(negative, e - negative)) {
    if (c != '.') digits.push_back(c);
  }
  std::string out = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits.substr(0, 1);
    if (digits.size() > 1) out += "." + digits.substr(1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() < whole) digits.append(whole - digits.size(), '0');
  out += digits.substr(0, whole) + ".";
  return out + (digits.size() > whole ? digits.substr(whole) : "0");
}

void append_text(Heap& heap, const Value& value, TextBuilder& out) {
  if (value.is_text()) return out.append(value.as_text());
  if (value.is_undefined()) return;
  append_repr(heap, value, out, 0);
}

std::string to_text(Heap& heap, const Value& value) {
  TextBuilder out(heap);
  append_text(heap, value, out);
  return out.take();
}

std::string repr(Heap& heap, const Value& value) {
  TextBuilder out(heap);
  append_repr(heap, value, out, 0);
  return out.take();
}

std::string to_json(Heap& heap, const Value& value, const JsonStyle& style) {
  JsonWriter writer(heap, style);
  writer.write(value, 0);
  return writer.take();
}

}  // namespace onset::jinja
