#include "onset/text/tokenizer_gguf.h"

#include <algorithm>
#include <array>
#include <limits>

#include "onset/text/normalizer.h"
#include "onset/text/pre_tokenizer.h"
#include "onset/text/unicode.h"

namespace onset {
namespace {

// Names that llama.cpp writes for the pre-tokenizers we know.
//
// "smollm" is read as gpt2, as Hugging Face transformers reads such files (our golden ids come from there):
// its vocabulary joins no two digits, so that they come one by one all the same. Against the Digits step that
// SmolLM's tokenizer.json has in front of gpt2's pattern (the pre-tokenizer "smollm", which tokenizer_json.h
// recognises), a space before a digit may be merged otherwise: 8 of 305,000 tokens of WikiText-2.
struct Alias {
  std::string_view name, pre_tokenizer;
};
constexpr std::array<Alias, 9> kAliases = {{
    {"gpt2", "gpt2"},
    {"gpt-2", "gpt2"},
    {"smollm", "gpt2"},
    {"llama-bpe", "llama-bpe"},
    {"llama3", "llama-bpe"},
    {"llama-v3", "llama-bpe"},
    {"qwen2", "qwen2"},
    {"deepseek-r1-qwen", "qwen2"},
    {"qwen2.5", "qwen2"},
}};

std::string key(std::string_view name) {
  return "tokenizer.ggml." + std::string(name);
}

Status read_id(const ModelFile& file, std::string_view name, std::optional<TokenId>& id) {
  if (!file.has(key(name))) return {};
  ONSET_ASSIGN(const int64_t value, file.integer(key(name)));
  // Files without such a token write -1, some of them as an unsigned number.
  if (value == -1 || value == std::numeric_limits<uint32_t>::max()) return {};
  if (value < 0 || value > std::numeric_limits<TokenId>::max()) {
    return error(Code::invalid_argument, "{}: {}: {} is not a token id", file.path().string(), key(name), value);
  }
  id = static_cast<TokenId>(value);
  return {};
}

Status read_types(const ModelFile& file, TokenizerSpec& spec) {
  if (!file.has(key("token_type"))) return {};
  ONSET_ASSIGN(const std::vector<int64_t> types, file.integers(key("token_type")));
  spec.types.reserve(types.size());
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] < 0 || types[i] > 6) {
      return error(Code::invalid_argument, "{}: {}: {} is not a token type (entry {})", spec.source, key("token_type"), types[i], i);
    }
    // 0 is "undefined"; such tokens are treated as normal ones.
    spec.types.push_back(types[i] == 0 ? TokenType::normal : static_cast<TokenType>(types[i]));
  }
  return {};
}

Status read_merges(const ModelFile& file, TokenizerSpec& spec) {
  ONSET_ASSIGN(const std::vector<std::string_view> merges, file.texts(key("merges")));
  spec.merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t space = merges[i].find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == merges[i].size()) {
      return error(Code::invalid_argument, "{}: {}: entry {} ('{}') is not two tokens with a space between", spec.source, key("merges"), i,
                   replace_ill_formed(merges[i]));
    }
    spec.merges.push_back({std::string(merges[i].substr(0, space)), std::string(merges[i].substr(space + 1))});
  }
  return {};
}

Status read_byte_level(const ModelFile& file, TokenizerSpec& spec) {
  spec.kind = TokenizerKind::byte_level_bpe;
  spec.use_unknown = false;
  ONSET_ASSIGN(const std::string_view name, file.text(key("pre")));
  for (const Alias& alias : kAliases) {
    if (name == alias.name) spec.pre_tokenizer = alias.pre_tokenizer;
  }
  if (spec.pre_tokenizer.empty()) {
    return error(Code::unsupported, "{}: {}: unknown pre-tokenizer '{}' (known: {})", spec.source, key("pre"), replace_ill_formed(name),
                 known_pre_tokenizers());
  }
  spec.ignore_merges = spec.pre_tokenizer == "llama-bpe";
  spec.normalize_nfc = spec.pre_tokenizer == "qwen2";
  return read_merges(file, spec);
}

Status read_sentencepiece(const ModelFile& file, TokenizerSpec& spec) {
  spec.kind = TokenizerKind::sentencepiece_bpe;
  ONSET_ASSIGN(spec.scores, file.reals(key("scores")));
  ONSET_ASSIGN(const bool prefix, file.boolean_or(key("add_space_prefix"), true));
  spec.space_prefix = prefix ? SpacePrefix::every_section : SpacePrefix::never;
  const auto unknown = std::find(spec.types.begin(), spec.types.end(), TokenType::unknown);
  if (unknown != spec.types.end()) spec.unknown = static_cast<TokenId>(unknown - spec.types.begin());
  return {};
}

// Control, unknown and user-defined tokens are found in text as they are spelled, user-defined ones of
// SentencePiece vocabularies in normalised text, as SentencePiece does it.
void collect_added(TokenizerSpec& spec) {
  for (size_t i = 0; i < spec.types.size() && i < spec.tokens.size(); ++i) {
    const TokenType type = spec.types[i];
    if (type != TokenType::control && type != TokenType::unknown && type != TokenType::user_defined) continue;
    AddedToken token{.id = static_cast<TokenId>(i), .content = spec.tokens[i], .special = type != TokenType::user_defined};
    if (spec.kind == TokenizerKind::sentencepiece_bpe && type == TokenType::user_defined) {
      token.normalized = true;
      token.content = replace_all(token.content, " ", kSpaceMark);
    }
    spec.added.push_back(std::move(token));
  }
}

}  // namespace

Result<TokenizerSpec> tokenizer_spec_from_gguf(const ModelFile& file) {
  TokenizerSpec spec;
  spec.source = file.path().string();
  ONSET_ASSIGN(const std::string_view model, file.text(key("model")));
  ONSET_ASSIGN(const std::vector<std::string_view> tokens, file.texts(key("tokens")));
  spec.tokens.assign(tokens.begin(), tokens.end());
  ONSET_TRY(read_types(file, spec));
  if (model == "gpt2") {
    ONSET_TRY(read_byte_level(file, spec));
  } else if (model == "llama") {
    ONSET_TRY(read_sentencepiece(file, spec));
  } else {
    return error(Code::unsupported, "{}: {}: unknown tokenizer model '{}' (known: gpt2, llama)", spec.source, key("model"),
                 replace_ill_formed(model));
  }
  collect_added(spec);
  ONSET_TRY(read_id(file, "bos_token_id", spec.bos));
  ONSET_TRY(read_id(file, "eos_token_id", spec.eos));
  ONSET_TRY(read_id(file, "eot_token_id", spec.end_of_turn));
  ONSET_TRY(read_id(file, "unknown_token_id", spec.unknown));
  ONSET_TRY(read_id(file, "padding_token_id", spec.padding));
  std::optional<TokenId> end_of_message;
  ONSET_TRY(read_id(file, "eom_token_id", end_of_message));
  if (end_of_message) spec.end_of_generation.push_back(*end_of_message);
  const bool bos_by_default = spec.bos && (model == "llama" || spec.pre_tokenizer == "llama-bpe");
  ONSET_ASSIGN(spec.add_bos, file.boolean_or(key("add_bos_token"), bos_by_default));
  ONSET_ASSIGN(spec.add_eos, file.boolean_or(key("add_eos_token"), false));
  return spec;
}

Result<Tokenizer> load_tokenizer(const ModelFile& file) {
  ONSET_ASSIGN(TokenizerSpec spec, tokenizer_spec_from_gguf(file));
  return Tokenizer::create(std::move(spec));
}

}  // namespace onset
