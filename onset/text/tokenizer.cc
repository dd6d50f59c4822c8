#include "onset/text/tokenizer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <deque>
#include <unordered_map>

#include "onset/text/added_tokens.h"
#include "onset/text/merge.h"
#include "onset/text/normalizer.h"
#include "onset/text/pre_tokenizer.h"
#include "onset/text/token_index.h"
#include "onset/text/unicode.h"

namespace onset {
namespace {

constexpr size_t kLargestText = size_t{1} << 28;         // 32 bits count its bytes even when normalising triples them
constexpr size_t kLargestVocabulary = size_t{1} << 28;   // tokens, and bytes of their texts
constexpr size_t kLargestCachedWord = 64;

// Texts that end a model's answer in the model families we know; the first four end a turn.
constexpr std::array<std::string_view, 8> kEndTexts = {"<|eot_id|>",  "<|im_end|>",    "<end_of_turn>",     "<|end|>",
                                                       "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "<EOT>"};
constexpr size_t kTurnEndTexts = 4;

// "<0x41>" is the byte token of 'A'; -1 for any other text.
int byte_of_text(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return -1;
    value = 16 * value + digit;
  }
  return value;
}

// A number that is smaller for a better score.
uint32_t rank_of_score(float score) {
  const uint32_t bits = std::bit_cast<uint32_t>(score + 0.0f);  // + 0 makes one zero of the two
  return ~((bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u);
}

}  // namespace

// The spec, checked and indexed.
struct Tokenizer::Tables {
  TokenizerSpec spec;
  std::vector<uint32_t> piece_ends;  // piece i is piece_bytes[piece_ends[i - 1], piece_ends[i])
  std::string piece_bytes;
  TextIndex index;     // byte-level: tokens spelled in bytes, by those; SentencePiece-style: every token by its text
  TextIndex literals;  // byte-level: the other tokens, by their texts
  PairIndex pairs;
  std::vector<uint32_t> score_ranks;       // SentencePiece-style with scores
  std::array<TokenId, 256> byte_tokens{};  // the token of one byte, or kNoToken
  // SentencePiece-style: last bytes of characters behind which a token goes on with a space; only there may a token
  // reach across the front of a space, so that text can be cut into words in front of all other spaces.
  std::array<bool, 256> joins_space{};
  std::optional<PreTokenizer> pre_tokenizer;
  AddedTokenMatcher added_raw, added_normalized;
  std::vector<TokenId> end_of_generation;
  std::optional<TokenId> end_of_turn;

  bool byte_level() const { return spec.kind == TokenizerKind::byte_level_bpe; }
  bool by_score() const { return !byte_level() && !spec.scores.empty(); }
  bool in_range(TokenId id) const { return id >= 0 && static_cast<size_t>(id) < spec.tokens.size(); }
  TokenType type(TokenId id) const {
    return spec.types.empty() ? TokenType::normal : spec.types[static_cast<size_t>(id)];
  }
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

Status Tokenizer::Tables::check_id(std::optional<TokenId> id, const char* what) const {
  if (!id || in_range(*id)) return {};
  return error(Code::invalid_argument, "{} token id {} is outside the vocabulary of {} tokens", what, *id, spec.tokens.size());
}

Status Tokenizer::Tables::check_sizes() const {
  const size_t count = spec.tokens.size();
  if (count == 0) return error(Code::invalid_argument, "the vocabulary is empty");
  if (count > kLargestVocabulary) return error(Code::invalid_argument, "a vocabulary of {} tokens is too large", count);
  size_t bytes = 0;
  for (const std::string& token : spec.tokens) bytes += token.size();
  if (bytes > kLargestVocabulary) return error(Code::invalid_argument, "token texts of {} bytes together are too large", bytes);
  if (!spec.types.empty() && spec.types.size() != count) {
    return error(Code::invalid_argument, "{} token types were given for {} tokens", spec.types.size(), count);
  }
  if (by_score() && spec.scores.size() != count) {
    return error(Code::invalid_argument, "{} token scores were given for {} tokens", spec.scores.size(), count);
  }
  for (size_t i = 0; by_score() && i < count; ++i) {
    if (!std::isfinite(spec.scores[i])) return error(Code::invalid_argument, "the score of token {} is not a finite number", i);
  }
  ONSET_TRY(check_id(spec.bos, "BOS"));
  ONSET_TRY(check_id(spec.eos, "EOS"));
  ONSET_TRY(check_id(spec.end_of_turn, "end-of-turn"));
  ONSET_TRY(check_id(spec.unknown, "unknown"));
  ONSET_TRY(check_id(spec.padding, "padding"));
  for (const TokenId id : spec.end_of_generation) ONSET_TRY(check_id(id, "end-of-generation"));
  for (const AddedToken& token : spec.added) ONSET_TRY(check_id(token.id, "added"));
  if (spec.add_bos && !spec.bos) return error(Code::invalid_argument, "a BOS token is to be added, but no BOS token is named");
  if (spec.add_eos && !spec.eos) return error(Code::invalid_argument, "an EOS token is to be added, but no EOS token is named");
  return {};
}

Status Tokenizer::Tables::fill() {
  ONSET_TRY(check_sizes());
  if (byte_level()) {
    ONSET_ASSIGN(pre_tokenizer, PreTokenizer::create(spec.pre_tokenizer));
  }
  std::vector<bool> spelled;
  ONSET_TRY(fill_pieces(spelled));
  ONSET_TRY(fill_index(spelled));
  ONSET_TRY(fill_merges());
  if (by_score()) fill_scores();
  if (!byte_level()) fill_joins();
  fill_added();
  fill_ends();
  return {};
}

// Writes what each token stands for. `spelled` says which tokens of a byte-level vocabulary are written in the byte
// alphabet; special and added tokens stand for their text.
Status Tokenizer::Tables::fill_pieces(std::vector<bool>& spelled) {
  const size_t count = spec.tokens.size();
  std::vector<bool> literal(count);
  for (const AddedToken& token : spec.added) literal[static_cast<size_t>(token.id)] = true;
  spelled.assign(count, false);
  byte_tokens.fill(kNoToken);
  piece_ends.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const std::string& text = spec.tokens[i];
    const TokenType of = type(static_cast<TokenId>(i));
    if (of == TokenType::byte) {
      const int byte = byte_of_text(text);
      if (byte < 0) return error(Code::invalid_argument, "token {} is a byte token, but is spelled '{}', not like <0x41>", i, replace_ill_formed(text));
      byte_tokens[static_cast<size_t>(byte)] = static_cast<TokenId>(i);
      piece_bytes.push_back(static_cast<char>(byte));
    } else if (of == TokenType::control || of == TokenType::unknown) {
      piece_bytes += text;
    } else if (!byte_level()) {
      piece_bytes += replace_all(text, kSpaceMark, " ");
    } else if (!literal[i] && append_bytes_of_byte_level_text(text, piece_bytes)) {
      spelled[i] = !text.empty();
    } else {
      piece_bytes += text;
    }
    piece_ends[i] = static_cast<uint32_t>(piece_bytes.size());
  }
  return {};
}

Status Tokenizer::Tables::fill_index(const std::vector<bool>& spelled) {
  const size_t count = spec.tokens.size();
  const auto spelled_count = static_cast<size_t>(std::count(spelled.begin(), spelled.end(), true));
  index = TextIndex(byte_level() ? spelled_count : count);
  literals = TextIndex(byte_level() ? count - spelled_count : 0);
  const auto twice = [&](TokenId earlier, size_t i) {
    return error(Code::invalid_argument, "tokens {} and {} have the same text '{}'", earlier, i,
                 replace_ill_formed(spec.tokens[i]));
  };
  for (size_t i = 0; i < count; ++i) {
    const auto id = static_cast<TokenId>(i);
    const std::string_view text = spec.tokens[i];
    if (text.empty()) continue;
    const TokenId earlier = !byte_level()  ? index.insert(text, id)
                            : spelled[i] ? index.insert(piece(id), id)
                                         : literals.insert(text, id);
    if (earlier != kNoToken) return twice(earlier, i);
  }
  for (size_t i = 0; byte_level() && i < count; ++i) {
    std::string bytes;
    if (spelled[i] || spec.tokens[i].empty() || !append_bytes_of_byte_level_text(spec.tokens[i], bytes)) continue;
    if (const TokenId other = index.find(bytes); other != kNoToken) return twice(other, i);
  }
  for (size_t byte = 0; byte_level() && byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    byte_tokens[byte] = index.find(std::string_view(&text, 1));
  }
  return {};
}

Status Tokenizer::Tables::fill_merges() {
  pairs = PairIndex(spec.merges.size());
  uint32_t rank = 0;
  std::string joined;  // in the index's spelling
  for (const Merge& merge : spec.merges) {
    joined.clear();
    // Appends a half and gives its token.
    const auto token_of = [&](const std::string& half) {
      const size_t begin = joined.size();
      if (!byte_level()) {
        joined += half;
      } else if (!append_bytes_of_byte_level_text(half, joined)) {
        return kNoToken;
      }
      return index.find(std::string_view(joined).substr(begin));
    };
    const TokenId left = token_of(merge.left);
    const TokenId right = token_of(merge.right);
    const TokenId result = index.find(joined);
    if (left == kNoToken || right == kNoToken || result == kNoToken) {
      const std::string missing = left == kNoToken ? merge.left : right == kNoToken ? merge.right : merge.left + merge.right;
      return error(Code::invalid_argument, "merge {} ('{}' '{}') names '{}', which is not in the vocabulary", rank,
                   replace_ill_formed(merge.left), replace_ill_formed(merge.right), replace_ill_formed(missing));
    }
    pairs.insert(left, right, {rank++, result});
  }
  spec.merges.clear();
  spec.merges.shrink_to_fit();
  return {};
}

void Tokenizer::Tables::fill_scores() {
  score_ranks.reserve(spec.scores.size());
  for (const float score : spec.scores) score_ranks.push_back(rank_of_score(score));
}

void Tokenizer::Tables::fill_joins() {
  for (size_t i = 0; i < spec.tokens.size(); ++i) {
    const std::string_view text = spec.tokens[i];
    if (!ordinary(static_cast<TokenId>(i))) continue;
    for (size_t at = text.find(kSpaceMark); at != std::string_view::npos; at = text.find(kSpaceMark, at + 1)) {
      if (at > 0 && !text.substr(0, at).ends_with(kSpaceMark)) joins_space[static_cast<uint8_t>(text[at - 1])] = true;
    }
  }
}

void Tokenizer::Tables::fill_added() {
  std::vector<AddedToken> raw, normalized;
  for (AddedToken& token : spec.added) (token.normalized ? normalized : raw).push_back(std::move(token));
  spec.added.clear();
  added_raw = AddedTokenMatcher(std::move(raw));
  added_normalized = AddedTokenMatcher(std::move(normalized));
}

void Tokenizer::Tables::fill_ends() {
  end_of_turn = spec.end_of_turn;
  end_of_generation = spec.end_of_generation;
  if (spec.eos) end_of_generation.push_back(*spec.eos);
  if (spec.end_of_turn) end_of_generation.push_back(*spec.end_of_turn);
  for (size_t i = 0; i < kEndTexts.size(); ++i) {
    const TokenId id = find(kEndTexts[i]);
    if (id == kNoToken || type(id) == TokenType::normal) continue;
    end_of_generation.push_back(id);
    if (i < kTurnEndTexts && !end_of_turn) end_of_turn = id;
  }
  std::sort(end_of_generation.begin(), end_of_generation.end());
  end_of_generation.erase(std::unique(end_of_generation.begin(), end_of_generation.end()), end_of_generation.end());
}

TokenId Tokenizer::Tables::find(std::string_view text) const {
  if (text.empty()) return kNoToken;
  if (!byte_level()) return index.find(text);
  if (const TokenId id = literals.find(text); id != kNoToken) return id;
  std::string bytes;
  return append_bytes_of_byte_level_text(text, bytes) ? index.find(bytes) : kNoToken;
}

// One call of encode(): where the data goes from text to ids.
class Tokenizer::Encoder {
 public:
  Encoder(const Tables& tables, const EncodeOptions& options) : tables_(tables), options_(options) {}

  Status encode(std::string_view text) {
    const bool byte_level = tables_.byte_level();
    return between_tokens(tables_.added_raw, text, [&](std::string_view section) {
      const bool text_start = section.data() == text.data();
      return byte_level ? byte_level_section(section) : spaced_section(section, text_start);
    });
  }

  std::vector<TokenId>& ids() { return ids_; }

 private:
  // Writes the ids of the added tokens in `text` and hands the stretches between them to encode_section.
  template <typename EncodeSection>
  Status between_tokens(const AddedTokenMatcher& matcher, std::string_view text, const EncodeSection& encode_section) {
    size_t done = 0;
    for (const AddedTokenMatch& match : matcher.find_all(text, options_.parse_special)) {
      if (match.begin > done) ONSET_TRY(encode_section(text.substr(done, match.begin - done)));
      add(match.id);
      done = match.end;
    }
    return done < text.size() ? encode_section(text.substr(done)) : Status();
  }

  void add(TokenId id) { ids_.push_back(id); }

  // Words found by the pre-tokenizer in well-formed text; ill-formed bytes between it are words of their own.
  Status byte_level_section(std::string_view section) {
    while (!section.empty()) {
      const size_t good = well_formed_prefix(section);
      if (good > 0) {
        std::string_view text = section.substr(0, good);
        if (tables_.spec.normalize_nfc) text = to_nfc(text, kept_.emplace_back());
        ONSET_TRY(between_tokens(tables_.added_normalized, text, [&](std::string_view part) { return words_of(part); }));
        section.remove_prefix(good);
      }
      size_t bad = 0;
      while (bad < section.size()) {
        const Utf8Unit unit = next_utf8_unit(section.substr(bad));
        if (unit.well_formed) break;
        bad += unit.length;
      }
      if (bad > 0) word(section.substr(0, bad));
      section.remove_prefix(bad);
    }
    return {};
  }

  Status words_of(std::string_view text) {
    if (tables_.spec.add_prefix_space && text[0] != ' ') text = kept_.emplace_back(" " + std::string(text));
    words_.clear();
    ONSET_TRY(tables_.pre_tokenizer->split(text, words_));
    for (const std::string_view each : words_) word(each);
    return {};
  }

  Status spaced_section(std::string_view section, bool text_start) {
    const std::string_view text = kept_.emplace_back(normalize(tables_.spec, section));
    return between_tokens(tables_.added_normalized, text, [&](std::string_view part) {
      const SpacePrefix prefix = tables_.spec.space_prefix;
      const bool wanted = prefix == SpacePrefix::every_unspaced_section ||
                          (prefix == SpacePrefix::unspaced_text && text_start && part.data() == text.data());
      if (wanted && !part.starts_with(kSpaceMark)) part = kept_.emplace_back(std::string(kSpaceMark) + std::string(part));
      spaced_words_of(part);
      return Status();
    });
  }

  // Cuts in front of spaces, where no token can reach across; what is left of the text is one word.
  void spaced_words_of(std::string_view text) {
    size_t begin = 0;
    for (size_t at = text.find(kSpaceMark); at != std::string_view::npos; at = text.find(kSpaceMark, at + kSpaceMark.size())) {
      if (at == begin) continue;
      const bool run = text.substr(begin, at - begin).ends_with(kSpaceMark);
      if (!tables_.spec.split_at_spaces && (run || tables_.joins_space[static_cast<uint8_t>(text[at - 1])])) continue;
      word(text.substr(begin, at - begin));
      begin = at;
    }
    if (begin < text.size()) word(text.substr(begin));
  }

  // The ids of one word, from the cache if it came before. Words stay where they are until the call ends.
  void word(std::string_view text) {
    if (text.size() > kLargestCachedWord) return merge(text);
    const auto [entry, is_new] = cache_.try_emplace(text);
    if (is_new) {
      const size_t begin = ids_.size();
      merge(text);
      entry->second.assign(ids_.begin() + static_cast<ptrdiff_t>(begin), ids_.end());
    } else {
      ids_.insert(ids_.end(), entry->second.begin(), entry->second.end());
    }
  }

  void merge(std::string_view text) {
    if (!tables_.byte_level()) return merge_characters(text);
    if (tables_.spec.ignore_merges) {
      if (const TokenId id = tables_.index.find(text); id != kNoToken) return add(id);
    }
    std::vector<Symbol>& symbols = merger_.symbols();
    symbols.clear();
    bool after_unknown = false;
    for (size_t i = 0; i < text.size(); ++i) {
      const TokenId id = tables_.byte_tokens[static_cast<uint8_t>(text[i])];
      const bool is_unknown = id == kNoToken;
      if (!is_unknown) {
        symbols.push_back({static_cast<uint32_t>(i), 1, id});
      } else if (unknown_token() != kNoToken && !(after_unknown && tables_.spec.fuse_unknown)) {
        symbols.push_back({static_cast<uint32_t>(i), 1, unknown_token()});
      }
      after_unknown = is_unknown;
    }
    merge_by_rank();
    for (const Symbol& symbol : symbols) {
      if (symbol.length > 0) add(symbol.id);
    }
  }

  void merge_by_rank() {
    merger_.merge([&](const Symbol& left, const Symbol& right) {
      return left.id == kNoToken || right.id == kNoToken ? PairMerge{} : tables_.pairs.find(left.id, right.id);
    });
  }

  void merge_characters(std::string_view text) {
    std::vector<Symbol>& symbols = merger_.symbols();
    symbols.clear();
    for (size_t at = 0; at < text.size();) {
      const uint32_t length = next_utf8_unit(text.substr(at)).length;
      symbols.push_back({static_cast<uint32_t>(at), length, ordinary_token(text.substr(at, length))});
      at += length;
    }
    if (!tables_.by_score()) {
      merge_by_rank();
    } else {
      merger_.merge([&](const Symbol& left, const Symbol& right) {
        const TokenId id = ordinary_token(text.substr(left.start, left.length + right.length));
        return id == kNoToken ? PairMerge{} : PairMerge{tables_.score_ranks[static_cast<size_t>(id)], id};
      });
    }
    bool after_unknown = false;
    for (const Symbol& symbol : symbols) {
      if (symbol.length == 0) continue;
      if (symbol.id != kNoToken) {
        add(symbol.id);
        after_unknown = false;
      } else {
        after_unknown = without_token(text.substr(symbol.start, symbol.length), after_unknown);
      }
    }
  }

  TokenId ordinary_token(std::string_view text) const {
    const TokenId id = tables_.index.find(text);
    return id != kNoToken && tables_.ordinary(id) ? id : kNoToken;
  }

  // A character that has no token: its byte tokens if there are all of them, else the unknown token. Returns whether
  // it became unknown.
  bool without_token(std::string_view character, bool after_unknown) {
    const auto byte_token = [&](char c) { return tables_.byte_tokens[static_cast<uint8_t>(c)]; };
    const bool in_bytes = tables_.spec.byte_fallback && std::none_of(character.begin(), character.end(), [&](char c) {
                            return byte_token(c) == kNoToken;
                          });
    if (in_bytes) {
      for (const char c : character) add(byte_token(c));
      return false;
    }
    const bool fused = after_unknown && tables_.spec.fuse_unknown;
    if (unknown_token() != kNoToken && !fused) add(unknown_token());
    return true;
  }

  TokenId unknown_token() const { return tables_.spec.use_unknown ? tables_.spec.unknown.value_or(kNoToken) : kNoToken; }

  const Tables& tables_;
  const EncodeOptions& options_;
  std::vector<TokenId> ids_;
  std::unordered_map<std::string_view, std::vector<TokenId>> cache_;
  std::deque<std::string> kept_;  // text that was rewritten; words and the cache's keys point into it
  std::vector<std::string_view> words_;
  Merger merger_;
};

Result<Tokenizer> Tokenizer::create(TokenizerSpec spec) {
  auto tables = std::make_shared<Tables>();
  tables->spec = std::move(spec);
  if (const Status status = tables->fill(); !status.ok()) return status.within(tables->spec.source);
  return Tokenizer(std::move(tables));
}

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() >= kLargestText) {
    return error(Code::resource_exhausted, "a text of {} bytes is too long to tokenize at once", text.size());
  }
  Encoder encoder(*tables_, options);
  std::vector<TokenId>& ids = encoder.ids();
  if (options.add_special && add_bos()) ids.push_back(*bos());
  ONSET_TRY(encoder.encode(text));
  if (options.add_special && add_eos()) ids.push_back(*eos());
  return std::move(ids);
}

std::string_view Tokenizer::decode_next(TokenId id, const DecodeOptions& options, bool& text_start) const {
  if (!has(id) || (!options.special && is_special(id))) return {};
  std::string_view piece = tables_->piece(id);
  const bool strips = !tables_->byte_level() && tables_->spec.space_prefix != SpacePrefix::never;
  if (text_start && strips && piece.starts_with(' ')) piece.remove_prefix(1);
  if (!tables_->piece(id).empty()) text_start = false;
  return piece;
}

Result<std::string> Tokenizer::decode(std::span<const TokenId> ids, const DecodeOptions& options) const {
  std::string text;
  bool text_start = options.text_start;
  for (const TokenId id : ids) {
    if (!has(id)) {
      return error(Code::invalid_argument, "token id {} is outside the vocabulary of {} tokens", id, vocabulary_size());
    }
    text += decode_next(id, options, text_start);
  }
  return text;
}

int32_t Tokenizer::vocabulary_size() const { return static_cast<int32_t>(tables_->spec.tokens.size()); }

std::string_view Tokenizer::text(TokenId id) const {
  return has(id) ? std::string_view(tables_->spec.tokens[static_cast<size_t>(id)]) : std::string_view();
}
std::string_view Tokenizer::piece(TokenId id) const { return has(id) ? tables_->piece(id) : std::string_view(); }
TokenType Tokenizer::type(TokenId id) const { return has(id) ? tables_->type(id) : TokenType::normal; }
bool Tokenizer::is_special(TokenId id) const {
  return type(id) == TokenType::control || type(id) == TokenType::unknown;
}

std::optional<TokenId> Tokenizer::find(std::string_view text) const {
  const TokenId id = tables_->find(text);
  return id == kNoToken ? std::nullopt : std::optional(id);
}

std::optional<TokenId> Tokenizer::bos() const { return tables_->spec.bos; }
std::optional<TokenId> Tokenizer::eos() const { return tables_->spec.eos; }
std::optional<TokenId> Tokenizer::end_of_turn() const { return tables_->end_of_turn; }
std::optional<TokenId> Tokenizer::unknown() const { return tables_->spec.unknown; }
std::optional<TokenId> Tokenizer::padding() const { return tables_->spec.padding; }
bool Tokenizer::add_bos() const { return tables_->spec.add_bos; }
bool Tokenizer::add_eos() const { return tables_->spec.add_eos; }
std::span<const TokenId> Tokenizer::end_of_generation() const { return tables_->end_of_generation; }
bool Tokenizer::is_end_of_generation(TokenId id) const {
  return std::binary_search(tables_->end_of_generation.begin(), tables_->end_of_generation.end(), id);
}

}  // namespace onset
