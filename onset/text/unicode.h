// What the text room needs of Unicode: walking UTF-8 that may be ill-formed, normalisation form C, the
// character properties that tokenizers ask for, and the byte alphabet of byte-level vocabularies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace onset {

// The next unit of a text: one well-formed UTF-8 character, or one maximal ill-formed part (Unicode 15,
// section 3.9, table 3-8: the longest start of a character, or one byte). `incomplete` says that an
// ill-formed part reaches the end of the text and could still become a character.
struct Utf8Unit {
  uint8_t length = 0;  // bytes; at least 1
  bool well_formed = false;
  bool incomplete = false;
};

// text must not be empty.
Utf8Unit next_utf8_unit(std::string_view text);

// The code point of a text that begins with a well-formed character.
char32_t decode_utf8(std::string_view text);
void append_utf8(char32_t code_point, std::string& out);

// Bytes at the front of `text` that are whole well-formed characters.
size_t well_formed_prefix(std::string_view text);

// `text` with each maximal ill-formed part replaced by U+FFFD (what Python's errors="replace" does).
std::string replace_ill_formed(std::string_view text);

// Normalisation form C of a well-formed text, into `storage` only if that differs from `text`. The result is
// a view of one of the two.
std::string_view to_nfc(std::string_view text, std::string& storage);

// White_Space, and \w of the Unicode regular expression standard (letters, marks, digits, connectors).
bool is_space(char32_t code_point);
bool is_word_character(char32_t code_point);

// Byte-level vocabularies spell each byte as one printable character (GPT-2's bytes_to_unicode): printable
// Latin-1 stands for itself, the other 68 bytes are U+0100..U+0143 in order. Appends the bytes that `text`
// spells; false, with nothing appended, if it holds any other character.
bool append_bytes_of_byte_level_text(std::string_view text, std::string& out);
void append_byte_level_text(std::string_view bytes, std::string& out);

}  // namespace onset
