// Cuts a template into text and the tokens of its tags, with jinja2's rules for white space around tags.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace onset::jinja {

enum class TokenKind : uint8_t {
  data,            // text outside of tags
  variable_begin,  // {{
  variable_end,
  block_begin,  // {%
  block_end,
  name,
  text,  // a string literal, unescaped
  integer,
  real,
  symbol,  // an operator or a bracket
  end,
};

struct Token {
  TokenKind kind = TokenKind::end;
  int line = 1;
  std::string text;
  int64_t integer = 0;
  double real = 0;
};

// The tokens of a well-formed UTF-8 text, ended by one of kind `end`. Comments and raw markers are gone.
// Throws Failure.
std::vector<Token> tokenize(std::string_view source);

// How messages name a token: "end of statement block", "'foo'".
std::string describe(const Token& token);

}  // namespace onset::jinja
