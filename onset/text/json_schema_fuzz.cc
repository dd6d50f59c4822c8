// Compiles an untrusted JSON schema and follows a text and tokens through what comes of it. The input is the
// schema and a text with NUL between.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "onset/text/grammar_tokens.h"
#include "onset/text/json_schema.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

// Every byte, and some tokens that cross JSON's boundaries.
const onset::Tokenizer& tokenizer() {
  static const onset::Tokenizer tokenizer = [] {
    onset::TokenizerSpec spec;
    spec.kind = onset::TokenizerKind::sentencepiece_bpe;
    spec.tokens = {"<unk>", "</s>", "{\"", "\":", "\",\"", "},", "]}", "null", "12", "abc", "\":\""};
    spec.types.assign(spec.tokens.size(), onset::TokenType::normal);
    spec.types[0] = onset::TokenType::unknown;
    spec.types[1] = onset::TokenType::control;
    for (int byte = 0; byte < 256; ++byte) {
      spec.tokens.push_back(fmt::format("<0x{:02X}>", byte));
      spec.types.push_back(onset::TokenType::byte);
    }
    spec.unknown = 0;
    spec.eos = 1;
    auto made = onset::Tokenizer::create(std::move(spec));
    require(made.ok());
    return *std::move(made);
  }();
  return tokenizer;
}

bool any(std::span<const uint64_t> words) {
  for (const uint64_t word : words) {
    if (word != 0) return true;
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view schema = input.substr(0, input.find('\0'));
  const std::string_view text = input.substr(std::min(schema.size() + 1, input.size()));
  auto compiled = onset::compile_json_schema(schema, "schema", {.states = 2000});
  if (!compiled.ok()) {
    require(!compiled.status().message().empty());
    return 0;
  }
  static const auto trie = onset::TokenTrie::create(tokenizer());
  const auto grammar = std::make_shared<const onset::TokenGrammar>(*std::move(compiled), trie);
  onset::TokenConstraint constraint(grammar);
  onset::GrammarRun run(grammar->grammar());
  for (const char byte : text.substr(0, 200)) {
    // Every byte is a token here: there is always a way on, and the mask says exactly which bytes are one.
    const std::span<const uint64_t> allowed = constraint.allowed();
    require(any(allowed));
    const auto token = static_cast<onset::TokenId>(11 + static_cast<uint8_t>(byte));
    const bool may = allowed[static_cast<size_t>(token) / 64] >> (token % 64) & 1;
    require(may == run.accept(std::string_view(&byte, 1)));
    require(may == constraint.accept(token));
    if (!may) return 0;
    require(run.may_end() == constraint.may_end());
  }
  return 0;
}
