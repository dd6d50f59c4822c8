// The tokenizer of a Hugging Face folder: tokenizer.json with tokenizer_config.json and
// generation_config.json.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "onset/base/status.h"
#include "onset/text/tokenizer.h"

namespace onset {

// The texts of the files; an absent one is empty. tokenizer.json is needed.
struct TokenizerFiles {
  std::string tokenizer = {};             // tokenizer.json
  std::string config = {};                // tokenizer_config.json: BOS, EOS, padding, whether they are added
  std::string generation_config = {};     // generation_config.json: further end-of-generation ids
  std::string source = "tokenizer.json";  // names tokenizer.json in errors
};

// Reads BPE tokenizers: byte-level ones with the pre-tokenizers gpt2, smollm, llama-bpe and qwen2 (recognised
// by their published configuration), and SentencePiece-style ones (Replace, Prepend, Metaspace). Ids equal
// those of the Hugging Face tokenizers package, which is also followed where the file holds a token or merge
// more than once in a harmless way. BOS and EOS are added if the post-processor's template says so, without a
// template if the config says so. Errors: invalid_argument for what is not JSON or has the wrong type or
// contradicts itself, unsupported for a model, normalizer, pre-tokenizer, post-processor or decoder that this
// program does not know, by its name.
Result<TokenizerSpec> tokenizer_spec_from_json(const TokenizerFiles& files);

// Reads the files of a folder and makes the tokenizer ready for use. Errors: also not_found, without
// tokenizer.json.
Result<Tokenizer> load_tokenizer(const std::filesystem::path& folder);

}  // namespace onset
