#include "onset/text/jinja_lexer.h"

#include <algorithm>
#include <charconv>

#include "onset/text/jinja_text.h"
#include "onset/text/jinja_value.h"
#include "onset/text/unicode.h"

namespace onset::jinja {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

int hex_digit(char c) {
  if (is_digit(c)) return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Line breaks of any kind become \n, and one at the very end goes (keep_trailing_newline is off).
std::string normalize_lines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalize_lines(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) take_data_and_tag();
    add(TokenKind::end);
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail_here(const std::string& message) {
    count_lines();
    throw Failure{Code::invalid_argument, fmt::format("line {}: {}", line_, message)};
  }

  bool starts_with(std::string_view text) const { return std::string_view(source_).substr(at_).starts_with(text); }

  // Brings line_ to at_.
  void count_lines() {
    line_ += static_cast<int>(
        std::count(source_.begin() + static_cast<ptrdiff_t>(counted_), source_.begin() + static_cast<ptrdiff_t>(at_), '\n'));
    counted_ = at_;
  }

  Token& add(TokenKind kind, std::string text = {}) {
    count_lines();
    return tokens_.emplace_back(Token{kind, line_, std::move(text)});
  }

  // Whether what was read last ended with a line break: only then can a tag at once after it stand first on
  // its line.
  bool line_starting() const { return at_ == 0 || source_[at_ - 1] == '\n'; }

  void skip_space() {
    while (at_ < source_.size()) {
      size_t next = at_;
      if (!is_python_space(take_code_point(source_, next))) return;
      at_ = next;
    }
  }

  // Text in front of a tag, without the white space that the tag takes away.
  void add_data(std::string_view text, char sign, bool is_variable, bool starts_line) {
    if (sign == '-') {
      text = strip(text, false, true);
    } else if (sign != '+' && !is_variable) {
      const size_t line_break = text.rfind('\n');
      const size_t line_begin = line_break == std::string_view::npos ? 0 : line_break + 1;
      if ((line_begin > 0 || starts_line) && strip(text.substr(line_begin), true, true).empty()) {
        text = text.substr(0, line_begin);
      }
    }
    if (!text.empty()) add(TokenKind::data, std::string(text));
  }

  void take_data_and_tag() {
    const bool starts_line = line_starting();
    size_t tag = at_;
    while ((tag = source_.find('{', tag)) != std::string::npos) {
      const char next = tag + 1 < source_.size() ? source_[tag + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') break;
      ++tag;
    }
    if (tag == std::string::npos) {
      add(TokenKind::data, source_.substr(at_));
      at_ = source_.size();
      return;
    }
    const char kind = source_[tag + 1];
    const char after = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const char sign = after == '-' || after == '+' ? after : '\0';
    add_data(std::string_view(source_).substr(at_, tag - at_), sign, kind == '{', starts_line);
    at_ = tag + 2 + (sign != '\0');
    if (kind == '#') return skip_comment();
    if (kind == '%' && take_raw()) return;
    add(kind == '{' ? TokenKind::variable_begin : TokenKind::block_begin);
    take_tag(kind == '{');
  }

  void skip_comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail_here("Missing end of comment tag");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    at_ = end + 2;
    after_block(sign);
  }

  // What the end of a comment or block takes with it: all white space after -, else one line break unless
  // after +.
  void after_block(char sign) {
    if (sign == '-') {
      skip_space();
    } else if (sign != '+' && starts_with("\n")) {
      ++at_;
    }
  }

  // {% raw %} ... {% endraw %}, at_ being behind the sign of the opening. False leaves at_ where it was.
  bool take_raw() {
    const size_t begin = at_;
    skip_space();
    bool is_raw = starts_with("raw");
    if (is_raw) {
      at_ += 3;
      skip_space();
      const bool minus = starts_with("-%}");
      is_raw = minus || starts_with("%}");
      at_ += minus ? 3 : 2;
      if (is_raw && minus) skip_space();
    }
    if (!is_raw) {
      at_ = begin;
      return false;
    }
    const size_t body = at_;
    const bool starts_line = line_starting();
    for (size_t tag = body; (tag = source_.find("{%", tag)) != std::string::npos; ++tag) {
      at_ = tag + 2;
      const char sign = starts_with("-") || starts_with("+") ? source_[at_++] : '\0';
      skip_space();
      if (!starts_with("endraw")) continue;
      at_ += 6;
      skip_space();
      const char end_sign = starts_with("-%}") || starts_with("+%}") ? source_[at_] : '\0';
      if (end_sign == '\0' && !starts_with("%}")) continue;
      const size_t end = at_ + (end_sign == '\0' ? 2 : 3);
      at_ = tag;
      add_data(std::string_view(source_).substr(body, tag - body), sign, false, starts_line);
      at_ = end;
      after_block(end_sign);
      return true;
    }
    at_ = body;
    if (body == source_.size()) return true;  // jinja2 misses the end only of what has begun
    fail_here("Missing end of raw directive");
  }

  // The tokens of one tag, up to its end or that of the text.
  void take_tag(bool is_variable) {
    std::string open;  // closing brackets still expected
    while (at_ < source_.size()) {
      if (open.empty() && take_tag_end(is_variable)) return;
      size_t next = at_;
      if (is_python_space(take_code_point(source_, next))) {
        skip_space();
      } else if (!take_number() && !take_name() && !take_text()) {
        take_symbol(open);
      }
    }
  }

  bool take_tag_end(bool is_variable) {
    const std::string_view end = is_variable ? "}}" : "%}";
    char sign = '\0';
    if (starts_with("-") || (!is_variable && starts_with("+"))) sign = source_[at_];
    if (std::string_view(source_).substr(at_ + (sign != '\0'), 2) != end) return false;
    add(is_variable ? TokenKind::variable_end : TokenKind::block_end);
    at_ += (sign != '\0') + 2;
    if (!is_variable) {
      after_block(sign);
    } else if (sign == '-') {
      skip_space();
    }
    return true;
  }

  // (\d+_)*\d+ from `at`: where it ends, or `at` itself.
  size_t digits_end(size_t at) const {
    size_t end = at;
    while (end < source_.size() && is_digit(source_[end])) {
      while (end < source_.size() && is_digit(source_[end])) ++end;
      if (end + 1 < source_.size() && source_[end] == '_' && is_digit(source_[end + 1])) ++end;
    }
    return end;
  }

  bool take_number() {
    if (!is_digit(source_[at_])) return false;
    // A number behind a dot is an index: a.0.1 has no float in it.
    if (at_ == 0 || source_[at_ - 1] != '.') {
      size_t end = digits_end(at_);
      bool is_real = false;
      if (end < source_.size() && source_[end] == '.' && digits_end(end + 1) > end + 1) {
        end = digits_end(end + 1);
        is_real = true;
      }
      if (end < source_.size() && (source_[end] | 0x20) == 'e') {
        size_t exponent = end + 1;
        if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
        if (digits_end(exponent) > exponent) {
          end = digits_end(exponent);
          is_real = true;
        }
      }
      if (is_real) {
        std::string digits = source_.substr(at_, end - at_);
        std::erase(digits, '_');
        read_real(digits, add(TokenKind::real).real);
        at_ = end;
        return true;
      }
    }
    take_integer();
    return true;
  }

  void take_integer() {
    const char marker = at_ + 1 < source_.size() ? static_cast<char>(source_[at_ + 1] | 0x20) : '\0';
    int base = source_[at_] != '0' ? 10 : marker == 'x' ? 16 : marker == 'o' ? 8 : marker == 'b' ? 2 : 0;
    size_t at = at_ + (base == 10 || base == 0 ? 0 : 2);
    std::string digits;
    const auto is_one = [&](size_t place) {
      if (place >= source_.size()) return false;
      const int digit = hex_digit(source_[place]);
      return digit >= 0 && digit < (base == 0 ? 1 : base);
    };
    while (is_one(at) || (at < source_.size() && source_[at] == '_' && is_one(at + 1) && (!digits.empty() || (base != 10 && base != 0)))) {
      if (source_[at] != '_') digits.push_back(source_[at]);
      ++at;
    }
    if (digits.empty()) {  // 0x without digits is a zero and a name
      digits.push_back('0');
      at = at_ + 1;
      base = 0;
    }
    Token& token = add(TokenKind::integer);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), token.integer, base == 0 ? 10 : base);
    if (error != std::errc() || end != digits.data() + digits.size()) {
      fail_here(fmt::format("the integer {} does not fit in 64 bits", source_.substr(at_, std::min<size_t>(at - at_, 40))));
    }
    at_ = at;
  }

  bool take_name() {
    size_t end = at_;
    while (end < source_.size()) {
      size_t next = end;
      const char32_t c = take_code_point(source_, next);
      if (!continues_identifier(c) && !is_word(c)) break;
      end = next;
    }
    if (end == at_) return false;
    std::string name = source_.substr(at_, end - at_);
    if (!is_identifier(name)) fail_here("Invalid character in identifier");
    add(TokenKind::name, std::move(name));
    at_ = end;
    return true;
  }

  bool take_text() {
    const char quote = source_[at_];
    if (quote != '\'' && quote != '"') return false;
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return false;  // the quote itself is then an unexpected character
    std::string text = unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1));
    add(TokenKind::text, std::move(text));
    at_ = end + 1;
    return true;
  }

  // Python's .encode("ascii", "backslashreplace").decode("unicode-escape"), which is how jinja2 reads a
  // literal.
  std::string unescape(std::string_view literal) {
    std::string out;
    for (size_t at = 0; at < literal.size();) {
      if (literal[at] != '\\') {
        out.push_back(literal[at++]);
        continue;
      }
      const char c = literal[at + 1];  // a literal never ends with a lone backslash
      at += 2;
      constexpr std::string_view names = "\\'\"abfnrtv", meanings = "\\'\"\a\b\f\n\r\t\v";
      if (const size_t index = names.find(c); index != names.npos) {
        out.push_back(meanings[index]);
        continue;
      }
      switch (c) {
        case '\n':
          break;
        case 'x':
          append_hex(literal, at, 2, out);
          break;
        case 'u':
          append_hex(literal, at, 4, out);
          break;
        case 'U':
          append_hex(literal, at, 8, out);
          break;
        case 'N':
          fail_here("character names (\\N{...}) in a string are not supported");
        default:
          if (c >= '0' && c <= '7') {
            char32_t code = static_cast<char32_t>(c - '0');
            for (int i = 0; i < 2 && at < literal.size() && literal[at] >= '0' && literal[at] <= '7'; ++i) {
              code = code * 8 + static_cast<char32_t>(literal[at++] - '0');
            }
            append_utf8(code, out);
          } else if (static_cast<unsigned char>(c) >= 0x80) {
            // The backslash meets the one that stands for the character: both become the character's number,
            // spelled out.
            --at;
            const auto code = static_cast<uint32_t>(take_code_point(literal, at));
            out += code < 0x100     ? fmt::format("\\x{:02x}", code)
                   : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                                    : fmt::format("\\U{:08x}", code);
          } else {
            out.push_back('\\');
            out.push_back(c);
          }
      }
    }
    return out;
  }

  void append_hex(std::string_view literal, size_t& at, int digits, std::string& out) {
    uint32_t code = 0;
    for (int i = 0; i < digits; ++i, ++at) {
      const int digit = at < literal.size() ? hex_digit(literal[at]) : -1;
      if (digit < 0) fail_here("truncated \\x, \\u or \\U escape in a string");
      code = code << 4 | static_cast<uint32_t>(digit);
    }
    if (code > 0x10ffff) fail_here("illegal Unicode character in a string");
    if (code >= 0xd800 && code < 0xe000) fail_here("half a surrogate pair in a string");
    append_utf8(code, out);
  }

  void take_symbol(std::string& open) {
    static constexpr std::string_view kDoubles[] = {"//", "**", "==", "!=", ">=", "<="};
    static constexpr std::string_view kSingles = "+-/*%~[](){}><=.:|,;";
    for (const std::string_view symbol : kDoubles) {
      if (!starts_with(symbol)) continue;
      add(TokenKind::symbol, std::string(symbol));
      at_ += 2;
      return;
    }
    const char c = source_[at_];
    if (kSingles.find(c) == std::string_view::npos) {
      size_t end = at_;
      take_code_point(source_, end);
      fail_here(fmt::format("unexpected char '{}'", source_.substr(at_, end - at_)));
    }
    if (c == '(' || c == '[' || c == '{') open.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) fail_here(fmt::format("unexpected '{}'", c));
      if (open.back() != c) fail_here(fmt::format("unexpected '{}', expected '{}'", c, open.back()));
      open.pop_back();
    }
    add(TokenKind::symbol, std::string(1, c));
    ++at_;
  }

  const std::string source_;
  size_t at_ = 0;
  size_t counted_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) {
  return Lexer(source).run();
}

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::data:
      return "template data / text";
    case TokenKind::variable_begin:
      return "begin of print statement";
    case TokenKind::variable_end:
      return "end of print statement";
    case TokenKind::block_begin:
      return "begin of statement block";
    case TokenKind::block_end:
      return "end of statement block";
    case TokenKind::name:
      return token.text;
    case TokenKind::text:
      return "string";
    case TokenKind::integer:
      return "integer";
    case TokenKind::real:
      return "float";
    case TokenKind::symbol:
      return token.text;
    case TokenKind::end:
      return "end of template";
  }
  return {};
}

}  // namespace onset::jinja
