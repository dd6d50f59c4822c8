// Text as Python's str treats it, over well-formed UTF-8: white space, case, lines, code points.
//
// For the Jinja interpreter only; what tokenizers need of Unicode is in unicode.h.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace onset::jinja {

// The code point at byte `at`, which moves behind it. The text must be well-formed and hold one there.
char32_t take_code_point(std::string_view text, size_t& at);
size_t count_code_points(std::string_view text);
// Where the code point number `index` begins; text.size() when there are no more than `index`.
size_t byte_of_code_point(std::string_view text, size_t index);

// str.isspace, which is also \s of Python's regular expressions (and not quite Unicode's White_Space).
bool is_python_space(char32_t code_point);
// str.isprintable: what repr() does not escape.
bool is_printable(char32_t code_point);
// Whether str.isidentifier holds for a whole name, and the characters that can continue one.
bool is_identifier(std::string_view name);
bool continues_identifier(char32_t code_point);
// \w of Python's regular expressions.
bool is_word(char32_t code_point);

// str.strip and its halves: white space, or any of the characters in `characters`.
std::string_view strip(std::string_view text, bool left, bool right);
std::string_view strip(std::string_view text, std::string_view characters, bool left, bool right);

// Full case mappings without a locale, as Python's.
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string casefold(std::string_view text);
std::string capitalize(std::string_view text);
std::string swap_case(std::string_view text);
// str.title: a letter after a character without case is title case, others lower.
std::string title(std::string_view text);
// str.islower, str.isupper.
bool is_lower(std::string_view text);
bool is_upper(std::string_view text);

// str.isalpha and its kin: true when the text is not empty and every character has the property.
enum class CharacterClass { alphabetic, alphanumeric, decimal, digit, numeric, space };
bool all_of_class(std::string_view text, CharacterClass which);

// One step of str.splitlines: the line that begins at byte `at`, which moves behind its break. The breaks are
// \n \r \r\n \v \f \x1c \x1d \x1e U+0085 U+2028 U+2029.
std::string_view take_line(std::string_view text, size_t& at, bool keep_end);

// A whole text as a number (digits with a point and an exponent, inf, nan), whatever the locale. False if it
// is none; too large is infinity and too small zero.
bool read_real(std::string_view text, double& out);

}  // namespace onset::jinja
