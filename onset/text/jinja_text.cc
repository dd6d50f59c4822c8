#include "onset/text/jinja_text.h"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <charconv>
#include <limits>

#include "onset/text/unicode.h"

namespace onset::jinja {
namespace {

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

char32_t code_point_before(std::string_view text, size_t& end) {
  do --end;
  while ((static_cast<unsigned char>(text[end]) & 0xc0) == 0x80);
  size_t at = end;
  return take_code_point(text, at);
}

icu::UnicodeString to_icu(std::string_view text) {
  return icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
}

std::string from_icu(const icu::UnicodeString& text) {
  std::string out;
  text.toUTF8String(out);
  return out;
}

bool is_line_break(char32_t c) {
  return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool has_class(char32_t c, CharacterClass which) {
  const auto type = static_cast<UCharCategory>(u_charType(static_cast<UChar32>(c)));
  const auto numeric = static_cast<UNumericType>(u_getIntPropertyValue(static_cast<UChar32>(c), UCHAR_NUMERIC_TYPE));
  switch (which) {
    case CharacterClass::alphabetic:
      return type >= U_UPPERCASE_LETTER && type <= U_OTHER_LETTER;
    case CharacterClass::alphanumeric:
      return (type >= U_UPPERCASE_LETTER && type <= U_OTHER_LETTER) || numeric != U_NT_NONE;
    case CharacterClass::decimal:
      return numeric == U_NT_DECIMAL;
    case CharacterClass::digit:
      return numeric == U_NT_DECIMAL || numeric == U_NT_DIGIT;
    case CharacterClass::numeric:
      return numeric != U_NT_NONE;
    case CharacterClass::space:
      return is_python_space(c);
  }
  return false;
}

std::string title_of(char32_t code_point) {
  icu::UnicodeString one(static_cast<UChar32>(code_point));
  // Without a break iterator a single character is a word of its own; U_TITLECASE_NO_BREAK_ADJUSTMENT takes
  // it as it is.
  return from_icu(one.toTitle(nullptr, icu::Locale::getRoot(), U_TITLECASE_NO_BREAK_ADJUSTMENT));
}

bool is_cased(char32_t c) {
  return u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_CASED);
}

bool is_title_case(char32_t c) {
  return u_charType(static_cast<UChar32>(c)) == U_TITLECASE_LETTER;
}

}  // namespace

char32_t take_code_point(std::string_view text, size_t& at) {
  const auto byte = [&](size_t index) { return static_cast<unsigned char>(text[index]); };
  const unsigned char first = byte(at);
  if (first < 0x80) return text[at++];
  if (first < 0xe0) {
    at += 2;
    return (first & 0x1fu) << 6 | (byte(at - 1) & 0x3fu);
  }
  if (first < 0xf0) {
    at += 3;
    return (first & 0x0fu) << 12 | (byte(at - 2) & 0x3fu) << 6 | (byte(at - 1) & 0x3fu);
  }
  at += 4;
  return (first & 0x07u) << 18 | (byte(at - 3) & 0x3fu) << 12 | (byte(at - 2) & 0x3fu) << 6 | (byte(at - 1) & 0x3fu);
}

size_t count_code_points(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

size_t byte_of_code_point(std::string_view text, size_t index) {
  for (size_t at = 0; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xc0) != 0x80 && index-- == 0) return at;
  }
  return text.size();
}

bool is_python_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_printable(char32_t c) {
  if (c < 0x80) return c >= 0x20 && c != 0x7f;
  switch (u_charType(static_cast<UChar32>(c))) {
    case U_UNASSIGNED:
    case U_CONTROL_CHAR:
    case U_FORMAT_CHAR:
    case U_PRIVATE_USE_CHAR:
    case U_SURROGATE:
    case U_LINE_SEPARATOR:
    case U_PARAGRAPH_SEPARATOR:
    case U_SPACE_SEPARATOR:
      return false;
    default:
      return true;
  }
}

bool continues_identifier(char32_t c) {
  return c == '_' || u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_XID_CONTINUE);
}

bool is_identifier(std::string_view name) {
  if (name.empty()) return false;
  size_t at = 0;
  const char32_t first = take_code_point(name, at);
  if (first != '_' && !u_hasBinaryProperty(static_cast<UChar32>(first), UCHAR_XID_START)) return false;
  while (at < name.size()) {
    if (!continues_identifier(take_code_point(name, at))) return false;
  }
  return true;
}

bool is_word(char32_t c) {
  return c == '_' || has_class(c, CharacterClass::alphanumeric);
}

std::string_view strip(std::string_view text, bool left, bool right) {
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!is_python_space(take_code_point(text, next))) break;
    begin = next;
  }
  while (right && begin < end) {
    size_t before = end;
    if (!is_python_space(code_point_before(text, before))) break;
    end = before;
  }
  return text.substr(begin, end - begin);
}

std::string_view strip(std::string_view text, std::string_view characters, bool left, bool right) {
  // UTF-8 is self-synchronising, so a whole encoded character is found in `characters` only as itself.
  size_t begin = 0, end = text.size();
  while (left && begin < end) {
    size_t next = begin;
    take_code_point(text, next);
    if (characters.find(text.substr(begin, next - begin)) == std::string_view::npos) break;
    begin = next;
  }
  while (right && begin < end) {
    size_t before = end;
    code_point_before(text, before);
    if (characters.find(text.substr(before, end - before)) == std::string_view::npos) break;
    end = before;
  }
  return text.substr(begin, end - begin);
}

std::string upper(std::string_view text) {
  if (!is_ascii(text)) return from_icu(to_icu(text).toUpper(icu::Locale::getRoot()));
  std::string out(text);
  for (char& c : out) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
  return out;
}

std::string lower(std::string_view text) {
  if (!is_ascii(text)) return from_icu(to_icu(text).toLower(icu::Locale::getRoot()));
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

std::string casefold(std::string_view text) {
  return from_icu(to_icu(text).foldCase());
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return {};
  size_t at = 0;
  const char32_t first = take_code_point(text, at);
  // Lower the whole text, so that a final sigma still knows what stands before it.
  const std::string lowered = lower(text), lowered_first = lower(text.substr(0, at));
  return title_of(first) + lowered.substr(lowered_first.size());
}

std::string swap_case(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = take_code_point(text, at);
    const std::string_view one = text.substr(begin, at - begin);
    if (u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_UPPERCASE)) {
      out += lower(one);
    } else if (u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_LOWERCASE)) {
      out += upper(one);
    } else {
      out += one;
    }
  }
  return out;
}

std::string title(std::string_view text) {
  std::string out;
  bool after_cased = false;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = take_code_point(text, at);
    out += after_cased ? lower(text.substr(begin, at - begin)) : title_of(c);
    after_cased = is_cased(c);
  }
  return out;
}

bool is_lower(std::string_view text) {
  bool any = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = take_code_point(text, at);
    if (u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_UPPERCASE) || is_title_case(c)) return false;
    any = any || u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_LOWERCASE);
  }
  return any;
}

bool is_upper(std::string_view text) {
  bool any = false;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = take_code_point(text, at);
    if (u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_LOWERCASE) || is_title_case(c)) return false;
    any = any || u_hasBinaryProperty(static_cast<UChar32>(c), UCHAR_UPPERCASE);
  }
  return any;
}

bool all_of_class(std::string_view text, CharacterClass which) {
  for (size_t at = 0; at < text.size();) {
    if (!has_class(take_code_point(text, at), which)) return false;
  }
  return !text.empty();
}

std::string_view take_line(std::string_view text, size_t& at, bool keep_end) {
  const size_t begin = at;
  while (at < text.size()) {
    const size_t line_end = at;
    const char32_t c = take_code_point(text, at);
    if (!is_line_break(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    return text.substr(begin, (keep_end ? at : line_end) - begin);
  }
  return text.substr(begin);
}

bool read_real(std::string_view text, double& out) {
  const bool is_negative = text.starts_with('-');
  if (is_negative || text.starts_with('+')) text.remove_prefix(1);
  if (text.starts_with('-')) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (error == std::errc::invalid_argument || end != text.data() + text.size()) return false;
  if (error == std::errc::result_out_of_range) {
    // from_chars does not say on which side: with that many digits, the sign of the exponent does.
    const size_t exponent = text.find_first_of("eE");
    const bool is_small = exponent != std::string_view::npos ? text.substr(exponent).find('-') != std::string_view::npos
                                                             : text.starts_with('0') || text.starts_with('.');
    out = is_small ? 0.0 : std::numeric_limits<double>::infinity();
  }
  if (is_negative) out = -out;
  return true;
}

}  // namespace onset::jinja
