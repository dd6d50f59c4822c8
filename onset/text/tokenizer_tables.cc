#include "onset/text/tokenizer_tables.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "onset/text/normalizer.h"
#include "onset/text/unicode.h"

namespace onset {
namespace {

constexpr size_t kLargestVocabulary = size_t{1} << 28;  // tokens, and bytes of their texts

// Texts that end a model's answer in the model families we know; the first four end a turn.
constexpr std::array<std::string_view, 8> kEndTexts = {"<|eot_id|>", "<|im_end|>",    "<end_of_turn>",   "<|end|>",
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

// Writes what each token stands for. `spelled` says which tokens of a byte-level vocabulary are written in
// the byte alphabet; special and added tokens stand for their text.
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
      if (byte < 0)
        return error(Code::invalid_argument, "token {} is a byte token, but is spelled '{}', not like <0x41>", i, replace_ill_formed(text));
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
    return error(Code::invalid_argument, "tokens {} and {} have the same text '{}'", earlier, i, replace_ill_formed(spec.tokens[i]));
  };
  for (size_t i = 0; i < count; ++i) {
    const auto id = static_cast<TokenId>(i);
    const std::string_view text = spec.tokens[i];
    if (text.empty()) continue;
    const TokenId earlier = !byte_level() ? index.insert(text, id) : spelled[i] ? index.insert(piece(id), id) : literals.insert(text, id);
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

}  // namespace onset
