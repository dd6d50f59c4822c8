#include "onset/text/normalizer.h"

#include "onset/text/unicode.h"

namespace onset {

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size() + text.size() / 2);
  for (size_t found; (found = text.find(from)) != std::string_view::npos; text.remove_prefix(found + from.size())) {
    out.append(text.substr(0, found)).append(to);
  }
  return out.append(text);
}

std::string normalize(const TokenizerSpec& spec, std::string_view text) {
  if (spec.kind == TokenizerKind::sentencepiece_bpe) {
    const bool prefixed = spec.space_prefix == SpacePrefix::every_section && !text.empty();
    return std::string(prefixed ? kSpaceMark : "").append(replace_all(text, " ", kSpaceMark));
  }
  std::string storage;
  const bool composes = spec.normalize_nfc && well_formed_prefix(text) == text.size();
  return std::string(composes ? to_nfc(text, storage) : text);
}

}  // namespace onset
