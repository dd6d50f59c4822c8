// The tokenizer of a GGUF file, from its tokenizer.ggml.* entries.
#pragma once

#include "onset/base/status.h"
#include "onset/formats/model_file.h"
#include "onset/text/tokenizer.h"

namespace onset {

// Reads tokenizer.ggml.model "gpt2" (byte-level; tokenizer.ggml.pre names the pre-tokenizer) or "llama"
// (SentencePiece-style by score). Control and unknown tokens are special; user-defined ones are always found
// in text. Where a flag is absent llama.cpp's default holds: BOS and a space prefix for "llama", BOS for
// llama-bpe. Errors: not_found or invalid_argument for an entry that is missing or malformed, unsupported for
// another model or pre-tokenizer; each names the file and the entry.
Result<TokenizerSpec> tokenizer_spec_from_gguf(const ModelFile& file);

// The same, made ready for use.
Result<Tokenizer> load_tokenizer(const ModelFile& file);

}  // namespace onset
