// Everything that defines a tokenizer, as plain data: what the loaders (tokenizer_gguf.h, tokenizer_json.h)
// fill in and Tokenizer::create() checks.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace onset {

using TokenId = int32_t;

enum class TokenizerKind {
  // GPT-2's scheme: the text is cut into words by a pre-tokenizer, words are bytes, bytes are merged by rank.
  // Token texts spell bytes in the byte alphabet (unicode.h).
  byte_level_bpe,
  // SentencePiece's scheme: spaces become U+2581, the text's characters are merged by best score if the spec
  // has scores, by rank of its merges otherwise; characters without a token become byte tokens "<0x41>" or
  // unknown.
  sentencepiece_bpe,
};

// The numbers are those of tokenizer.ggml.token_type.
enum class TokenType : uint8_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

// Where SentencePiece-style tokenizers write a space before text that has none.
enum class SpacePrefix {
  never,
  every_section,           // before the text and after each special token inside it, whatever the text begins with
  every_unspaced_section,  // the same, but not before a text that begins with a space
  unspaced_text,           // only at the beginning of the text, and not if it begins with a space
};

// A token that is found in the text before anything else (longest at the leftmost place first).
struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool special = false;      // found only when special tokens are parsed; left out of decoded text on request
  bool normalized = false;   // looked for in normalised text; `content` is normalised too
  bool strip_left = false;   // takes the white space before it
  bool strip_right = false;  // takes the white space after it
  bool single_word = false;  // only where no word character stands beside it
};

// Tokens `left` and `right`, by their texts, become the token that is both texts in a row.
struct Merge {
  std::string left, right;
};

struct TokenizerSpec {
  std::string source = "tokenizer";  // names the tokenizer in errors: a path
  TokenizerKind kind = TokenizerKind::byte_level_bpe;
  std::string pre_tokenizer;        // byte-level: a name of pre_tokenizer.h
  std::vector<std::string> tokens;  // by id, as the vocabulary spells them; empty: no such token
  std::vector<float> scores;        // SentencePiece-style: one per token, or none
  std::vector<TokenType> types;     // one per token, or empty: all normal
  std::vector<Merge> merges;        // the earlier, the sooner merged
  std::vector<AddedToken> added;

  bool ignore_merges = false;                     // byte-level: a word that is itself a token is that token
  bool normalize_nfc = false;                     // byte-level
  bool add_prefix_space = false;                  // byte-level: a space before text that does not begin with one
  SpacePrefix space_prefix = SpacePrefix::never;  // SentencePiece-style
  bool split_at_spaces = false;                   // SentencePiece-style: no token reaches across the front of a space
  bool byte_fallback = true;                      // SentencePiece-style: characters without a token become byte tokens
  bool use_unknown = true;                        // what has no token becomes `unknown`; otherwise it is left out
  bool fuse_unknown = true;                       // neighbouring unknown characters become one unknown token

  bool add_bos = false, add_eos = false;
  std::optional<TokenId> bos, eos, end_of_turn, unknown, padding;
  std::vector<TokenId> end_of_generation;  // besides eos and end_of_turn
};

}  // namespace onset
