// The inside of a Tokenizer: its spec, checked and indexed. Only tokenizer.cc and tokenizer_tables.cc include
// this.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"
#include "onset/text/added_tokens.h"
#include "onset/text/pre_tokenizer.h"
#include "onset/text/token_index.h"
#include "onset/text/tokenizer.h"
#include "onset/text/tokenizer_spec.h"

namespace onset {

struct Tokenizer::Tables {
  TokenizerSpec spec;
  std::vector<uint32_t> piece_ends;  // piece i is piece_bytes[piece_ends[i - 1], piece_ends[i])
  std::string piece_bytes;
  // SentencePiece-style: every token by its text. Byte-level: tokens spelled in bytes by those; `literals`
  // has the other tokens by their texts.
  TextIndex index, literals;
  PairIndex pairs;
  std::vector<uint32_t> score_ranks;       // SentencePiece-style with scores
  std::array<TokenId, 256> byte_tokens{};  // the token of one byte, or kNoToken
  // SentencePiece-style: last bytes of characters behind which a token goes on with a space; only there may a
  // token reach across the front of a space, so that text can be cut into words in front of all other spaces.
  std::array<bool, 256> joins_space{};
  std::optional<PreTokenizer> pre_tokenizer;
  AddedTokenMatcher added_raw, added_normalized;
  std::vector<TokenId> end_of_generation;
  std::optional<TokenId> end_of_turn;

  bool byte_level() const { return spec.kind == TokenizerKind::byte_level_bpe; }
  bool by_score() const { return !byte_level() && !spec.scores.empty(); }
  bool in_range(TokenId id) const { return id >= 0 && static_cast<size_t>(id) < spec.tokens.size(); }
  TokenType type(TokenId id) const { return spec.types.empty() ? TokenType::normal : spec.types[static_cast<size_t>(id)]; }
  // Tokens that ordinary text may become.
  bool ordinary(TokenId id) const {
    const TokenType of = type(id);
    return of == TokenType::normal || of == TokenType::user_defined || of == TokenType::unused;
  }
  std::string_view piece(TokenId id) const {
    const size_t i = static_cast<size_t>(id);
    const uint32_t begin = i == 0 ? 0 : piece_ends[i - 1];
    return std::string_view(piece_bytes).substr(begin, piece_ends[i] - begin);
  }

  // Checks the spec and fills the rest; the spec's merges and added tokens move to where they are used.
  Status fill();
  Status check_sizes() const;
  Status check_id(std::optional<TokenId> id, const char* what) const;
  Status fill_pieces(std::vector<bool>& spelled);
  Status fill_index(const std::vector<bool>& spelled);
  Status fill_merges();
  void fill_scores();
  void fill_joins();
  void fill_added();
  void fill_ends();
  TokenId find(std::string_view text) const;
};

}  // namespace onset
