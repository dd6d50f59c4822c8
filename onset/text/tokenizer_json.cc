#include "onset/text/tokenizer_json.h"

#include <algorithm>
#include <array>
#include <limits>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "onset/base/mapped_file.h"
#include "onset/formats/json.h"
#include "onset/text/normalizer.h"

namespace onset {
namespace {

using Json = nlohmann::json;

constexpr size_t kLargestGap = 65536;  // ids that belong to no token

// The Split patterns of published tokenizers and the pre-tokenizer that each one is.
struct KnownPattern {
  std::string_view pattern, pre_tokenizer;
};
constexpr std::array<KnownPattern, 2> kPatterns = {{
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)", "llama-bpe"},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)", "qwen2"},
}};

template <typename... Args>
Status invalid(fmt::format_string<Args...> format, Args&&... args) {
  return error(Code::invalid_argument, format, std::forward<Args>(args)...);
}
template <typename... Args>
Status unsupported(fmt::format_string<Args...> format, Args&&... args) {
  return error(Code::unsupported, format, std::forward<Args>(args)...);
}

// The member of an object, or null where it is absent.
const Json& member(const Json& object, const char* name) {
  static const Json kNull;
  const auto found = object.find(name);
  return found == object.end() ? kNull : *found;
}

// Typed members; absent and null give `otherwise`.
Result<bool> flag(const Json& object, const char* name, bool otherwise) {
  const Json& value = member(object, name);
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) return invalid("'{}' should be true or false, but is {}", name, value.type_name());
  return value.get<bool>();
}

Result<std::string> text(const Json& object, const char* name, const char* otherwise) {
  const Json& value = member(object, name);
  if (value.is_null() && otherwise != nullptr) return std::string(otherwise);
  if (!value.is_string()) return invalid("'{}' should be a string, but is {}", name, value.type_name());
  return value.get<std::string>();
}

Result<TokenId> token_id(const Json& value, std::string_view what) {
  if (!value.is_number_integer()) return invalid("the id of {} should be a whole number, but is {}", what, value.type_name());
  const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<TokenId>::max())
                                               : value.get<int64_t>() >= 0;
  if (!fits) return invalid("the id of {} is {}, which is no token id", what, value.dump());
  return static_cast<TokenId>(value.get<int64_t>());
}

// `name` stands for the file in errors.
Result<Json> parse_object(const std::string& text, const std::string& name) {
  ONSET_ASSIGN(Json value, parse_json(text, name));
  if (!value.is_object()) return invalid("{}: should be a JSON object, but is {}", name, value.type_name());
  return value;
}

// A normalizer, pre-tokenizer, decoder or post-processor, as a list of its steps: Sequences are laid flat.
struct Step {
  std::string type;
  const Json* value;
};
Status collect_steps(const Json& node, const char* what, const char* members, int depth, std::vector<Step>& steps) {
  if (node.is_null()) return {};
  if (!node.is_object()) return invalid("'{}' should be an object, but is {}", what, node.type_name());
  ONSET_ASSIGN(std::string type, text(node, "type", nullptr));
  if (type != "Sequence") {
    steps.push_back({std::move(type), &node});
    return {};
  }
  const Json& parts = member(node, members);
  if (!parts.is_array()) return invalid("'{}' of the {} should be a list, but is {}", members, what, parts.type_name());
  if (depth == 8) return invalid("the {} is nested too deeply", what);
  for (const Json& part : parts) ONSET_TRY(collect_steps(part, what, members, depth + 1, steps));
  return {};
}

// Reads the files into a spec; each function one part of tokenizer.json, or one of the configs behind it.
class Loader {
 public:
  Status read_tokenizer(const Json& root) {
    ONSET_TRY(find_steps(root));
    const bool byte_level =
        std::any_of(pre_tokenizers_.begin(), pre_tokenizers_.end(), [](const Step& step) { return step.type == "ByteLevel"; });
    spec_.kind = byte_level ? TokenizerKind::byte_level_bpe : TokenizerKind::sentencepiece_bpe;
    ONSET_TRY(read_model(member(root, "model")));
    ONSET_TRY(read_added(member(root, "added_tokens")));
    ONSET_TRY(set_unknown(member(root, "model")));
    ONSET_TRY(byte_level ? read_byte_level_steps() : read_spaced_steps());
    for (AddedToken& token : spec_.added) {
      if (token.normalized) token.content = normalize(spec_, token.content);
    }
    ONSET_TRY(check_decoders());
    return read_post_processors();
  }

  Status read_config(const Json& config) {
    ONSET_TRY(read_special(config, "bos_token", spec_.add_bos, spec_.bos));
    ONSET_TRY(read_special(config, "eos_token", spec_.add_eos, spec_.eos));
    ONSET_TRY(read_special(config, "pad_token", false, spec_.padding));
    if (!spec_.unknown) ONSET_TRY(read_special(config, "unk_token", false, spec_.unknown));
    if (has_template_) return {};
    ONSET_ASSIGN(spec_.add_bos, flag(config, "add_bos_token", false));
    ONSET_ASSIGN(spec_.add_eos, flag(config, "add_eos_token", false));
    return {};
  }

  Status read_generation_config(const Json& config) {
    const Json& value = member(config, "eos_token_id");
    const Json list = value.is_array() ? value : value.is_null() ? Json::array() : Json::array({value});
    for (const Json& each : list) {
      ONSET_ASSIGN(const TokenId id, token_id(each, "eos_token_id"));
      spec_.end_of_generation.push_back(id);
    }
    return {};
  }

  TokenizerSpec take_spec() { return std::move(spec_); }

 private:
  Status find_steps(const Json& root) {
    ONSET_TRY(collect_steps(member(root, "normalizer"), "normalizer", "normalizers", 0, normalizers_));
    ONSET_TRY(collect_steps(member(root, "pre_tokenizer"), "pre_tokenizer", "pretokenizers", 0, pre_tokenizers_));
    ONSET_TRY(collect_steps(member(root, "post_processor"), "post_processor", "processors", 0, post_processors_));
    return collect_steps(member(root, "decoder"), "decoder", "decoders", 0, decoders_);
  }

  Status read_model(const Json& model) {
    if (!model.is_object()) return invalid("'model' should be an object, but is {}", model.type_name());
    ONSET_ASSIGN(const std::string type, text(model, "type", "BPE"));
    if (type != "BPE") return unsupported("unknown tokenizer model '{}' (known: BPE)", type);
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      ONSET_ASSIGN(const std::string value, text(model, name, ""));
      if (!value.empty()) return unsupported("the model's {} '{}' is not known", name, value);
    }
    if (const Json& dropout = member(model, "dropout"); !dropout.is_null() && dropout != 0) {
      return unsupported("the model's dropout makes its ids random");
    }
    ONSET_ASSIGN(spec_.byte_fallback, flag(model, "byte_fallback", false));
    ONSET_ASSIGN(spec_.fuse_unknown, flag(model, "fuse_unk", false));
    ONSET_ASSIGN(spec_.ignore_merges, flag(model, "ignore_merges", false));
    if (spec_.ignore_merges && spec_.kind == TokenizerKind::sentencepiece_bpe) {
      return unsupported("ignore_merges is known for byte-level tokenizers only");
    }
    ONSET_TRY(read_vocabulary(member(model, "vocab")));
    return read_merges(member(model, "merges"));
  }

  Status place(std::string content, TokenId id, TokenType type, size_t expected) {
    if (content.empty()) return invalid("token {} has no text", id);
    if (static_cast<size_t>(id) >= expected + kLargestGap) {
      return invalid("token '{}' has id {}, too large for a vocabulary of {} tokens", content, id, expected);
    }
    if (static_cast<size_t>(id) >= spec_.tokens.size()) {
      spec_.tokens.resize(static_cast<size_t>(id) + 1);
      spec_.types.resize(static_cast<size_t>(id) + 1, TokenType::unused);
    }
    std::string& text = spec_.tokens[static_cast<size_t>(id)];
    if (!text.empty() && text != content) return invalid("id {} is given to '{}' and to '{}'", id, text, content);
    text = std::move(content);
    spec_.types[static_cast<size_t>(id)] = type;
    return {};
  }

  Status read_vocabulary(const Json& vocabulary) {
    if (!vocabulary.is_object()) return invalid("the model's 'vocab' should be an object, but is {}", vocabulary.type_name());
    const bool bytes = spec_.byte_fallback && spec_.kind == TokenizerKind::sentencepiece_bpe;
    for (const auto& [content, value] : vocabulary.items()) {
      ONSET_ASSIGN(const TokenId id, token_id(value, "token '" + content + "'"));
      const bool is_byte = bytes && content.size() == 6 && content.starts_with("<0x") && content.ends_with(">") &&
                           content.find_first_not_of("0123456789ABCDEF", 3) == 5;
      ONSET_TRY(place(content, id, is_byte ? TokenType::byte : TokenType::normal, vocabulary.size()));
    }
    return {};
  }

  Status read_merges(const Json& merges) {
    if (!merges.is_array()) return invalid("the model's 'merges' should be a list, but is {}", merges.type_name());
    spec_.merges.reserve(merges.size());
    for (const Json& merge : merges) {
      const size_t number = spec_.merges.size();
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        spec_.merges.push_back({merge[0].get<std::string>(), merge[1].get<std::string>()});
        continue;
      }
      const std::string pair = merge.is_string() ? merge.get<std::string>() : "";
      const size_t space = pair.find(' ');
      if (space == std::string::npos || pair.find(' ', space + 1) != std::string::npos) {
        return invalid("merge {} should be two tokens, as a list or with a space between", number);
      }
      spec_.merges.push_back({pair.substr(0, space), pair.substr(space + 1)});
    }
    return {};
  }

  Status read_added(const Json& list) {
    if (list.is_null()) return {};
    if (!list.is_array()) return invalid("'added_tokens' should be a list, but is {}", list.type_name());
    std::unordered_map<std::string_view, TokenId> ids;
    for (size_t i = 0; i < spec_.tokens.size(); ++i) ids.emplace(spec_.tokens[i], static_cast<TokenId>(i));
    std::unordered_set<std::string> seen;
    const size_t expected = spec_.tokens.size() + list.size();
    std::vector<AddedToken> added;
    for (const Json& entry : list) {
      ONSET_ASSIGN(AddedToken token, read_added_token(entry));
      if (!seen.insert(token.content).second) return invalid("'added_tokens' lists '{}' twice", token.content);
      if (const auto known = ids.find(token.content); known != ids.end() && known->second != token.id) {
        return invalid("'{}' has id {} in 'added_tokens', but {} in the vocabulary", token.content, token.id, known->second);
      }
      added.push_back(std::move(token));
    }
    for (const AddedToken& token : added) {
      ONSET_TRY(place(token.content, token.id, token.special ? TokenType::control : TokenType::user_defined, expected));
    }
    spec_.added = std::move(added);
    return {};
  }

  static Result<AddedToken> read_added_token(const Json& entry) {
    if (!entry.is_object()) return invalid("an entry of 'added_tokens' should be an object, but is {}", entry.type_name());
    AddedToken token;
    ONSET_ASSIGN(token.content, text(entry, "content", nullptr));
    ONSET_ASSIGN(token.id, token_id(member(entry, "id"), "added token '" + token.content + "'"));
    ONSET_ASSIGN(token.special, flag(entry, "special", false));
    ONSET_ASSIGN(token.normalized, flag(entry, "normalized", !token.special));
    ONSET_ASSIGN(token.strip_left, flag(entry, "lstrip", false));
    ONSET_ASSIGN(token.strip_right, flag(entry, "rstrip", false));
    ONSET_ASSIGN(token.single_word, flag(entry, "single_word", false));
    return token;
  }

  // The id of a token that some field names.
  Result<TokenId> named(const std::string& content, const char* field) const {
    const auto found = std::find(spec_.tokens.begin(), spec_.tokens.end(), content);
    if (content.empty() || found == spec_.tokens.end()) return invalid("'{}' names '{}', which is not in the vocabulary", field, content);
    return static_cast<TokenId>(found - spec_.tokens.begin());
  }

  Status set_unknown(const Json& model) {
    spec_.use_unknown = !member(model, "unk_token").is_null();
    if (!spec_.use_unknown) return {};
    ONSET_ASSIGN(const std::string content, text(model, "unk_token", nullptr));
    ONSET_ASSIGN(spec_.unknown, named(content, "unk_token"));
    return {};
  }

  Status read_byte_level_steps() {
    for (const Step& step : normalizers_) {
      if (step.type != "NFC") return unsupported("unknown normalizer '{}' before byte-level BPE (known: NFC)", step.type);
      spec_.normalize_nfc = true;
    }
    const Step& last = pre_tokenizers_.back();
    if (last.type != "ByteLevel" || pre_tokenizers_.size() > 2) return unknown_pre_tokenizer();
    ONSET_ASSIGN(const bool own_pattern, flag(*last.value, "use_regex", true));
    ONSET_ASSIGN(spec_.add_prefix_space, flag(*last.value, "add_prefix_space", true));
    if (pre_tokenizers_.size() == 1) {
      if (!own_pattern) return unknown_pre_tokenizer();
      spec_.pre_tokenizer = "gpt2";
      return {};
    }
    if (spec_.add_prefix_space) return unsupported("add_prefix_space is known for the gpt2 pre-tokenizer only");
    const Step& first = pre_tokenizers_.front();
    if (first.type == "Digits" && own_pattern) {
      ONSET_ASSIGN(const bool individual, flag(*first.value, "individual_digits", false));
      if (!individual) return unknown_pre_tokenizer();
      spec_.pre_tokenizer = "smollm";
      return {};
    }
    if (first.type != "Split" || own_pattern) return unknown_pre_tokenizer();
    return read_split(*first.value);
  }

  Status read_split(const Json& split) {
    const Json& pattern = member(split, "pattern");
    const Json& regex = pattern.is_object() ? member(pattern, "Regex") : pattern;
    if (!pattern.is_object() || !regex.is_string()) return unknown_pre_tokenizer();
    ONSET_ASSIGN(const std::string behavior, text(split, "behavior", nullptr));
    ONSET_ASSIGN(const bool invert, flag(split, "invert", false));
    // The patterns match everything, so keeping the matches only is the same as cutting around them.
    const bool cuts = (behavior == "Isolated" && !invert) || (behavior == "Removed" && invert);
    for (const KnownPattern& known : kPatterns) {
      if (cuts && regex.get_ref<const std::string&>() == known.pattern) spec_.pre_tokenizer = known.pre_tokenizer;
    }
    if (!spec_.pre_tokenizer.empty()) return {};
    return unsupported("unknown pre-tokenizer pattern '{}' ({})", regex.get<std::string>(), behavior);
  }

  Status unknown_pre_tokenizer() const {
    std::string names;
    for (const Step& step : pre_tokenizers_) names += (names.empty() ? "" : ", ") + step.type;
    return unsupported("unknown pre-tokenizer [{}] (known: those of gpt2, llama-bpe, qwen2, smollm, and Metaspace)", names);
  }

  Status read_spaced_steps() {
    bool replaces = false;
    for (const Step& step : normalizers_) {
      const Json& value = *step.value;
      if (step.type == "Prepend" && member(value, "prepend") == kSpaceMark) {
        spec_.space_prefix = SpacePrefix::every_section;
      } else if (const Json& pattern = member(value, "pattern"); step.type == "Replace" && pattern.is_object() &&
                                                                 member(pattern, "String") == " " &&
                                                                 member(value, "content") == kSpaceMark) {
        replaces = true;
      } else {
        return unsupported("unknown normalizer '{}' (known: NFC before byte-level BPE; Prepend of and Replace by U+2581)", step.type);
      }
    }
    for (const Step& step : pre_tokenizers_) {
      const Json& pattern = member(*step.value, "pattern");
      if (step.type == "Metaspace" && pre_tokenizers_.size() == 1) {
        ONSET_TRY(read_metaspace(*step.value));
        replaces = true;
      } else if (!(replaces && step.type == "Split" && pattern.is_object() && member(pattern, "String") == " ")) {
        // A split at spaces finds none behind the Replace.
        return unknown_pre_tokenizer();
      }
    }
    if (!replaces) return unsupported("the tokenizer neither spells bytes (ByteLevel) nor spaces as U+2581 (Replace, Metaspace)");
    return {};
  }

  Status read_metaspace(const Json& step) {
    ONSET_ASSIGN(const std::string replacement, text(step, "replacement", "\u2581"));
    if (replacement != kSpaceMark) return unsupported("Metaspace with the replacement '{}' is not known", replacement);
    ONSET_ASSIGN(const bool legacy_prefix, flag(step, "add_prefix_space", true));
    ONSET_ASSIGN(const std::string scheme, text(step, "prepend_scheme", legacy_prefix ? "always" : "never"));
    ONSET_ASSIGN(spec_.split_at_spaces, flag(step, "split", true));
    if (scheme == "always") {
      spec_.space_prefix = SpacePrefix::every_unspaced_section;
    } else if (scheme == "first") {
      spec_.space_prefix = SpacePrefix::unspaced_text;
    } else if (scheme != "never") {
      return invalid("Metaspace's prepend_scheme should be always, first or never, but is '{}'", scheme);
    }
    return {};
  }

  // Decoding follows from the kind; a decoder of another kind would be another tokenizer.
  Status check_decoders() const {
    constexpr std::array<std::string_view, 6> kKnown = {"ByteLevel", "Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"};
    for (const Step& step : decoders_) {
      if (std::find(kKnown.begin(), kKnown.end(), step.type) == kKnown.end()) {
        return unsupported("unknown decoder '{}' (known: ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace)", step.type);
      }
    }
    return {};
  }

  Status read_post_processors() {
    for (const Step& step : post_processors_) {
      if (step.type == "ByteLevel") continue;
      if (step.type != "TemplateProcessing") {
        return unsupported("unknown post-processor '{}' (known: ByteLevel, TemplateProcessing)", step.type);
      }
      ONSET_TRY(read_template(member(*step.value, "single")));
    }
    return {};
  }

  // A template for one text: special tokens before it (BOS) and behind it (EOS).
  Status read_template(const Json& parts) {
    if (!parts.is_array()) return invalid("the post-processor's 'single' should be a list, but is {}", parts.type_name());
    has_template_ = true;
    bool behind_text = false;
    for (const Json& part : parts) {
      if (part.is_object() && part.contains("Sequence")) {
        behind_text = true;
        continue;
      }
      const Json& special = part.is_object() ? member(part, "SpecialToken") : part;
      if (!special.is_object()) return invalid("the post-processor's 'single' holds neither a SpecialToken nor a Sequence");
      ONSET_ASSIGN(const std::string content, text(special, "id", nullptr));
      bool& adds = behind_text ? spec_.add_eos : spec_.add_bos;
      if (adds) return unsupported("the post-processor adds more than one token at one end of the text ('{}')", content);
      adds = true;
      ONSET_ASSIGN((behind_text ? spec_.eos : spec_.bos), named(content, "post_processor"));
    }
    return {};
  }

  // A special token of the config: a string, or an object with its content.
  Status read_special(const Json& config, const char* field, bool fixed, std::optional<TokenId>& id) const {
    const Json& value = member(config, field);
    if (value.is_null()) return {};
    const Json& content = value.is_object() ? member(value, "content") : value;
    if (!content.is_string()) return invalid("'{}' should be a string or an object with 'content'", field);
    ONSET_ASSIGN(const TokenId found, named(content.get<std::string>(), field));
    if (!fixed) {
      id = found;
    } else if (id != found) {
      return unsupported("'{}' is '{}', but tokenizer.json's post-processor adds '{}'", field, content.get<std::string>(),
                         spec_.tokens[static_cast<size_t>(*id)]);
    }
    return {};
  }

  TokenizerSpec spec_;
  std::vector<Step> normalizers_, pre_tokenizers_, post_processors_, decoders_;
  bool has_template_ = false;
};

Result<std::string> read_if_there(const std::filesystem::path& path) {
  Result<std::string> text = read_file(path);
  if (!text.ok() && text.status().code() == Code::not_found) return std::string();
  return text;
}

}  // namespace

Result<TokenizerSpec> tokenizer_spec_from_json(const TokenizerFiles& files) {
  Loader loader;
  ONSET_ASSIGN(const Json tokenizer, parse_object(files.tokenizer, files.source));
  ONSET_TRY(loader.read_tokenizer(tokenizer).within(files.source));
  if (!files.config.empty()) {
    const std::string name = files.source + ": tokenizer_config.json";
    ONSET_ASSIGN(const Json config, parse_object(files.config, name));
    ONSET_TRY(loader.read_config(config).within(name));
  }
  if (!files.generation_config.empty()) {
    const std::string name = files.source + ": generation_config.json";
    ONSET_ASSIGN(const Json config, parse_object(files.generation_config, name));
    ONSET_TRY(loader.read_generation_config(config).within(name));
  }
  TokenizerSpec spec = loader.take_spec();
  spec.source = files.source;
  return spec;
}

Result<Tokenizer> load_tokenizer(const std::filesystem::path& folder) {
  TokenizerFiles files;
  files.source = (folder / "tokenizer.json").string();
  ONSET_ASSIGN(files.tokenizer, read_file(files.source));
  ONSET_ASSIGN(files.config, read_if_there(folder / "tokenizer_config.json"));
  ONSET_ASSIGN(files.generation_config, read_if_there(folder / "generation_config.json"));
  ONSET_ASSIGN(TokenizerSpec spec, tokenizer_spec_from_json(files));
  return Tokenizer::create(std::move(spec));
}

}  // namespace onset
