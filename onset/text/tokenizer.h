// Text to token ids and back, for byte-level BPE (GPT-2, SmolLM, Llama 3, Qwen2) and SentencePiece-style BPE
// (Llama 2, Gemma) vocabularies.
//
// Load one with load_tokenizer (tokenizer_gguf.h, tokenizer_json.h), or create it from plain data. Ids equal
// those of the Hugging Face tokenizers package.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "onset/base/status.h"
#include "onset/text/tokenizer_spec.h"

namespace onset {

struct EncodeOptions {
  bool add_special = true;    // begin with BOS and end with EOS where the tokenizer says so
  bool parse_special = true;  // "<|im_end|>" in the text is that token; false for text that is not to be trusted
};

struct DecodeOptions {
  bool special = true;     // write special tokens as their text; false leaves them out
  bool text_start = true;  // the ids begin a text, so the space that encoding put before it is taken off;
                           // false where they continue one (an answer behind a prompt)
};

// Immutable and cheap to copy (copies share the tables); every function may be called from any number of
// threads.
class Tokenizer {
 public:
  // Checks the spec. Errors: invalid_argument (tables of different lengths, an id outside the vocabulary, a
  // token that comes twice, a merge of unknown tokens, a score that is not a number), unsupported (an unknown
  // pre-tokenizer); each names spec.source and the entry.
  static Result<Tokenizer> create(TokenizerSpec spec);

  // The ids of a text of any bytes. Text that is not UTF-8 is encoded all the same: ill-formed bytes are
  // words of their own for byte-level kinds, and byte tokens (or the unknown token) for SentencePiece-style
  // ones. A byte or character for which the vocabulary has neither a token, nor byte tokens, nor an unknown
  // token is left out, as the reference does (SmolLM2 lacks some control characters and bytes that no
  // assigned character uses). Errors: resource_exhausted for a text of 256 MiB or more.
  Result<std::vector<TokenId>> encode(std::string_view text, const EncodeOptions& options = {}) const;

  // The bytes that the ids stand for. They are UTF-8 whenever the ids come from encoding UTF-8; ids of
  // another origin may cut characters (replace_ill_formed() in unicode.h, or Detokenizer for streams).
  // Errors: invalid_argument for an id outside the vocabulary.
  Result<std::string> decode(std::span<const TokenId> ids, const DecodeOptions& options = {}) const;

  // What decode() writes for one more id, one that is in the vocabulary (nothing otherwise). `text_start`
  // says that nothing was written yet and is cleared once something is. Valid while a copy of this tokenizer
  // lives.
  std::string_view decode_next(TokenId id, const DecodeOptions& options, bool& text_start) const;

  int32_t vocabulary_size() const;
  bool has(TokenId id) const { return id >= 0 && id < vocabulary_size(); }
  // For ids in the vocabulary (empty or normal otherwise): the text as the vocabulary spells it ("Ġthe",
  // "▁the", "<0x0A>"), and the bytes it stands for (" the", "\n").
  std::string_view text(TokenId id) const;
  std::string_view piece(TokenId id) const;
  TokenType type(TokenId id) const;
  bool is_special(TokenId id) const;  // control and unknown tokens
  // The token that the vocabulary spells this way.
  std::optional<TokenId> find(std::string_view text) const;

  std::optional<TokenId> bos() const;
  std::optional<TokenId> eos() const;
  std::optional<TokenId> end_of_turn() const;  // "<|im_end|>", "<|eot_id|>", "<end_of_turn>"
  std::optional<TokenId> unknown() const;
  std::optional<TokenId> padding() const;
  bool add_bos() const;
  bool add_eos() const;
  // Ids after which a model has nothing more to say: eos, end of turn, end of text; ascending.
  std::span<const TokenId> end_of_generation() const;
  bool is_end_of_generation(TokenId id) const;

 private:
  struct Tables;
  class Encoder;
  explicit Tokenizer(std::shared_ptr<const Tables> tables) : tables_(std::move(tables)) {}
  std::shared_ptr<const Tables> tables_;
};

}  // namespace onset
