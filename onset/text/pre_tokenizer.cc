#include "onset/text/pre_tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

namespace onset {
namespace {

// White_Space. PCRE2's own \s also takes U+180E, which left that property in Unicode 6.3.
#define SPACES R"(\t-\r\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
#define SPACE "[" SPACES "]"
#define NOT_SPACE "[^" SPACES "]"
#define CONTRACTIONS "'s|'t|'re|'ve|'m|'ll|'d"

// The end of the patterns of GPT-2's successors: symbols with the line breaks behind them, line breaks with
// the space before them, other space (its last character goes with the word that follows).
#define SYMBOLS_AND_SPACES "| ?[^" SPACES R"(\p{L}\p{N}]+[\r\n]*|)" SPACE R"(*[\r\n]+|)" SPACE "+(?!" NOT_SPACE ")|" SPACE "+"

struct NamedPattern {
  const char* name;
  const char* pattern;
};

constexpr std::array<NamedPattern, 4> kPatterns = {{
    {"gpt2", CONTRACTIONS R"(| ?\p{L}+| ?\p{N}+| ?[^)" SPACES R"(\p{L}\p{N}]+|)" SPACE "+(?!" NOT_SPACE ")|" SPACE "+"},
    {"llama-bpe", "(?i:" CONTRACTIONS R"()|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})" SYMBOLS_AND_SPACES},
    {"qwen2", "(?i:" CONTRACTIONS R"()|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})" SYMBOLS_AND_SPACES},
    // Published as two steps, each digit by itself and then gpt2 on what lies between; so the look-ahead
    // takes a digit for the end of the text.
    {"smollm", R"(\p{N}|)" CONTRACTIONS R"(| ?\p{L}+| ?[^)" SPACES R"(\p{L}\p{N}]+|)" SPACE "+(?![^" SPACES R"(\p{N}])|)" SPACE "+"},
}};

}  // namespace

struct PreTokenizer::Pattern {
  pcre2_code* code = nullptr;
  bool compiled_to_machine_code = false;

  Pattern() = default;
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;
  ~Pattern() { pcre2_code_free(code); }
};

Result<PreTokenizer> PreTokenizer::create(std::string_view name) {
  for (const NamedPattern& known : kPatterns) {
    if (name != known.name) continue;
    int reason = 0;
    PCRE2_SIZE offset = 0;
    auto pattern = std::make_shared<Pattern>();
    pattern->code =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(known.pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &reason, &offset, nullptr);
    if (pattern->code == nullptr) {
      return error(Code::failed, "pre-tokenizer '{}': PCRE2 refused its pattern (error {} at {})", name, reason, offset);
    }
    pattern->compiled_to_machine_code = pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE) == 0;
    return PreTokenizer(std::move(pattern));
  }
  return error(Code::unsupported, "unknown pre-tokenizer '{}' (known: {})", name, known_pre_tokenizers());
}

Status PreTokenizer::split(std::string_view text, std::vector<std::string_view>& words) const {
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(pcre2_match_data_create(1, nullptr), pcre2_match_data_free);
  if (match == nullptr) return error(Code::resource_exhausted, "no memory to cut text into words");
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match.get());
  for (size_t done = 0; done < text.size();) {
    const int found = pattern_->compiled_to_machine_code
                          ? pcre2_jit_match(pattern_->code, subject, text.size(), done, 0, match.get(), nullptr)
                          : pcre2_match(pattern_->code, subject, text.size(), done, PCRE2_NO_UTF_CHECK, match.get(), nullptr);
    if (found == PCRE2_ERROR_NOMATCH) {
      words.push_back(text.substr(done));
      break;
    }
    if (found < 0) {
      return error(Code::resource_exhausted, "the pre-tokenizer's pattern gave up at byte {} (PCRE2 error {})", done, found);
    }
    if (bounds[0] > done) words.push_back(text.substr(done, bounds[0] - done));
    words.push_back(text.substr(bounds[0], bounds[1] - bounds[0]));
    done = bounds[1];
  }
  return {};
}

std::string known_pre_tokenizers() {
  std::string names;
  for (const NamedPattern& known : kPatterns) names += (names.empty() ? "" : ", ") + std::string(known.name);
  return names;
}

}  // namespace onset
