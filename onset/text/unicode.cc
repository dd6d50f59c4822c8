#include "onset/text/unicode.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <algorithm>
#include <array>

namespace onset {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

// The byte alphabet both ways; 256 means that no byte is spelled by that character.
struct ByteAlphabet {
  std::array<char32_t, 256> character{};
  std::array<uint16_t, 256 + 68> byte{};

  constexpr ByteAlphabet() {
    byte.fill(256);
    char32_t next = 256;
    for (unsigned value = 0; value < 256; ++value) {
      const bool printable = (value >= 0x21 && value <= 0x7e) || (value >= 0xa1 && value != 0xad);
      character[value] = printable ? value : next++;
      byte[character[value]] = static_cast<uint16_t>(value);
    }
  }
};

constexpr ByteAlphabet kAlphabet;

}  // namespace

Utf8Unit next_utf8_unit(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = at(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xc2 || lead > 0xf4) return {1, false, false};
  const unsigned length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte's range shuts out overlong forms, surrogates and code points past U+10FFFF.
  const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (unsigned i = 1; i < length; ++i) {
    if (i == text.size()) return {static_cast<uint8_t>(i), false, true};
    if (at(i) < (i == 1 ? low : 0x80) || at(i) > (i == 1 ? high : 0xbf)) return {static_cast<uint8_t>(i), false, false};
  }
  return {static_cast<uint8_t>(length), true, false};
}

char32_t decode_utf8(std::string_view text) {
  const auto at = [&](size_t i) { return static_cast<char32_t>(static_cast<uint8_t>(text[i])); };
  if (at(0) < 0x80) return at(0);
  if (at(0) < 0xe0) return (at(0) & 0x1f) << 6 | (at(1) & 0x3f);
  if (at(0) < 0xf0) return (at(0) & 0x0f) << 12 | (at(1) & 0x3f) << 6 | (at(2) & 0x3f);
  return (at(0) & 0x07) << 18 | (at(1) & 0x3f) << 12 | (at(2) & 0x3f) << 6 | (at(3) & 0x3f);
}

void append_utf8(char32_t code_point, std::string& out) {
  const auto put = [&](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xc0 | code_point >> 6);
    put(0x80 | (code_point & 0x3f));
  } else if (code_point < 0x10000) {
    put(0xe0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3f));
    put(0x80 | (code_point & 0x3f));
  } else {
    put(0xf0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3f));
    put(0x80 | (code_point >> 6 & 0x3f));
    put(0x80 | (code_point & 0x3f));
  }
}

size_t well_formed_prefix(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    if (static_cast<uint8_t>(text[end]) < 0x80) {
      ++end;
      continue;
    }
    const Utf8Unit unit = next_utf8_unit(text.substr(end));
    if (!unit.well_formed) break;
    end += unit.length;
  }
  return end;
}

std::string replace_ill_formed(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t good = well_formed_prefix(text);
    out.append(text.substr(0, good));
    text.remove_prefix(good);
    if (text.empty()) break;
    out.append(kReplacement);
    text.remove_prefix(next_utf8_unit(text).length);
  }
  return out;
}

std::string_view to_nfc(std::string_view text, std::string& storage) {
  const bool ascii = std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; });
  if (ascii) return text;
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = icu::Normalizer2::getNFCInstance(status);
  const icu::StringPiece piece(text.data(), static_cast<int32_t>(text.size()));
  if (U_FAILURE(status) || normalizer->isNormalizedUTF8(piece, status)) return text;
  storage.clear();
  icu::StringByteSink<std::string> sink(&storage, piece.size());
  normalizer->normalizeUTF8(0, piece, sink, nullptr, status);
  return U_FAILURE(status) ? text : std::string_view(storage);
}

bool is_space(char32_t code_point) {
  return u_isUWhiteSpace(static_cast<UChar32>(code_point));
}

bool is_word_character(char32_t code_point) {
  const auto c = static_cast<UChar32>(code_point);
  constexpr uint32_t kCategories = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || (U_GET_GC_MASK(c) & kCategories) != 0 || u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL);
}

bool append_bytes_of_byte_level_text(std::string_view text, std::string& out) {
  const size_t before = out.size();
  while (!text.empty()) {
    const Utf8Unit unit = next_utf8_unit(text);
    const char32_t code_point = unit.well_formed ? decode_utf8(text) : 0;
    if (code_point >= kAlphabet.byte.size() || kAlphabet.byte[code_point] > 255) {
      out.resize(before);
      return false;
    }
    out.push_back(static_cast<char>(kAlphabet.byte[code_point]));
    text.remove_prefix(unit.length);
  }
  return true;
}

void append_byte_level_text(std::string_view bytes, std::string& out) {
  for (const char byte : bytes) append_utf8(kAlphabet.character[static_cast<uint8_t>(byte)], out);
}

}  // namespace onset
