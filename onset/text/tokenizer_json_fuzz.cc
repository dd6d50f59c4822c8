// Loads an untrusted tokenizer.json and uses what comes of it. The input is tokenizer.json, a text,
// tokenizer_config.json and generation_config.json with NUL between; the later parts may be absent.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "onset/text/detokenizer.h"
#include "onset/text/tokenizer_json.h"
#include "onset/text/unicode.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::array<std::string, 4> parts;
  for (std::string& part : parts) {
    const size_t end = rest.find('\0');
    part = rest.substr(0, end);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  }
  const onset::TokenizerFiles files{.tokenizer = parts[0], .config = parts[2], .generation_config = parts[3]};
  auto spec = onset::tokenizer_spec_from_json(files);
  if (!spec.ok()) {
    require(!spec.status().message().empty());
    return 0;
  }
  const auto tokenizer = onset::Tokenizer::create(*std::move(spec));
  if (!tokenizer.ok()) return 0;
  for (const bool parse_special : {true, false}) {
    const auto ids = tokenizer->encode(parts[1], {.parse_special = parse_special});
    require(ids.ok());
    const auto text = tokenizer->decode(*ids);
    require(text.ok());
    onset::Detokenizer detokenizer(*tokenizer);
    std::string streamed;
    for (const onset::TokenId id : *ids) streamed += detokenizer.push(id);
    require(streamed + detokenizer.finish() == onset::replace_ill_formed(*text));
  }
  return 0;
}
