#include "onset/text/tokenizer.h"

#include <algorithm>
#include <deque>
#include <unordered_map>

#include "onset/text/added_tokens.h"
#include "onset/text/merge.h"
#include "onset/text/normalizer.h"
#include "onset/text/tokenizer_tables.h"
#include "onset/text/unicode.h"

namespace onset {
namespace {

// 32 bits count a text's bytes even when normalising triples them.
constexpr size_t kLargestText = size_t{1} << 28;
constexpr size_t kLargestCachedWord = 64;

}  // namespace

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
    if (tables_.spec.add_prefix_space && text[0] != ' ') text = kept_.emplace_back(" ").append(text);
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
      if (wanted && !part.starts_with(kSpaceMark)) part = kept_.emplace_back(kSpaceMark).append(part);
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

  // A character that has no token: its byte tokens if there are all of them, else the unknown token. Returns
  // whether it became unknown.
  bool without_token(std::string_view character, bool after_unknown) {
    const auto byte_token = [&](char c) { return tables_.byte_tokens[static_cast<uint8_t>(c)]; };
    const bool in_bytes =
        tables_.spec.byte_fallback && std::none_of(character.begin(), character.end(), [&](char c) { return byte_token(c) == kNoToken; });
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

int32_t Tokenizer::vocabulary_size() const {
  return static_cast<int32_t>(tables_->spec.tokens.size());
}

std::string_view Tokenizer::text(TokenId id) const {
  return has(id) ? std::string_view(tables_->spec.tokens[static_cast<size_t>(id)]) : std::string_view();
}
std::string_view Tokenizer::piece(TokenId id) const {
  return has(id) ? tables_->piece(id) : std::string_view();
}
TokenType Tokenizer::type(TokenId id) const {
  return has(id) ? tables_->type(id) : TokenType::normal;
}
bool Tokenizer::is_special(TokenId id) const {
  return type(id) == TokenType::control || type(id) == TokenType::unknown;
}

std::optional<TokenId> Tokenizer::find(std::string_view text) const {
  const TokenId id = tables_->find(text);
  return id == kNoToken ? std::nullopt : std::optional(id);
}

std::optional<TokenId> Tokenizer::bos() const {
  return tables_->spec.bos;
}
std::optional<TokenId> Tokenizer::eos() const {
  return tables_->spec.eos;
}
std::optional<TokenId> Tokenizer::end_of_turn() const {
  return tables_->end_of_turn;
}
std::optional<TokenId> Tokenizer::unknown() const {
  return tables_->spec.unknown;
}
std::optional<TokenId> Tokenizer::padding() const {
  return tables_->spec.padding;
}
bool Tokenizer::add_bos() const {
  return tables_->spec.add_bos;
}
bool Tokenizer::add_eos() const {
  return tables_->spec.add_eos;
}
std::span<const TokenId> Tokenizer::end_of_generation() const {
  return tables_->end_of_generation;
}
bool Tokenizer::is_end_of_generation(TokenId id) const {
  return std::binary_search(tables_->end_of_generation.begin(), tables_->end_of_generation.end(), id);
}

}  // namespace onset
