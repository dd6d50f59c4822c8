// tokenizer.json -> tokenizer.ggml.*: byte-level BPE ("gpt2" in GGUF) and SentencePiece-like BPE with byte
// fallback
// ("llama"), with the special tokens, flags and chat templates of the files around it.
#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

#include "onset/base/mapped_file.h"
#include "onset/formats/huggingface.h"
#include "onset/formats/json.h"

namespace onset {
namespace {

using nlohmann::json;

// Token types as GGUF numbers them.
enum TokenType : int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

const std::string lower_block = "\xe2\x96\x81";  // U+2581, SentencePiece's space

constexpr const char* llama3_pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";
constexpr const char* qwen2_pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+";

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (size_t at; (at = text.find(from)) != std::string_view::npos; text.remove_prefix(at + from.size())) {
    result.append(text.substr(0, at)).append(to);
  }
  return result.append(text);
}

// The steps of a normalizer or pre-tokenizer: the members of a "Sequence", or the single one; none for null.
std::vector<const json*> steps_of(const json* step, const char* list) {
  std::vector<const json*> steps;
  if (step == nullptr) return steps;
  if (step->is_object() && step->value("type", json()) == "Sequence") {
    if (const auto found = step->find(list); found != step->end() && found->is_array()) {
      for (const json& inner : *found) steps.push_back(&inner);
    }
    return steps;
  }
  steps.push_back(step);
  return steps;
}

bool is_step(const json& step, const char* type) {
  return step.is_object() && step.value("type", json()) == type;
}

bool flag(const json& step, const char* field, bool otherwise) {
  const auto found = step.find(field);
  return found != step.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}

std::string pattern_of(const json& step, const char* kind) {
  const auto pattern = step.find("pattern");
  if (pattern == step.end() || !pattern->is_object() || !pattern->contains(kind) || !(*pattern)[kind].is_string()) return "";
  return (*pattern)[kind].get<std::string>();
}

// A step that turns text into byte-level characters, with or without GPT-2's own splitting.
bool is_byte_level(const json& step, bool splits) {
  return is_step(step, "ByteLevel") && flag(step, "use_regex", true) == splits && !flag(step, "add_prefix_space", true);
}

// --- byte-level BPE ---

// tokenizer.ggml.pre for the pre-tokenizer that tokenizer.json defines.
Result<std::string> byte_level_pre(const JsonObject& tokenizer) {
  for (const json* step : steps_of(tokenizer.find("normalizer"), "normalizers")) {
    if (!is_step(*step, "NFC")) {  // Qwen's; the readers of GGUF do it or take the text to be normalised
      return error(Code::unsupported, "{}: normalizer {} is not known for byte-level BPE", tokenizer.what(), step->dump().substr(0, 200));
    }
  }
  const std::vector<const json*> steps = steps_of(tokenizer.find("pre_tokenizer"), "pretokenizers");
  if (steps.size() == 1 && is_byte_level(*steps[0], true)) return std::string("gpt-2");
  if (steps.size() == 2 && is_step(*steps[0], "Digits") && flag(*steps[0], "individual_digits", false) && is_byte_level(*steps[1], true)) {
    return std::string("smollm");
  }
  if (steps.size() == 2 && is_step(*steps[0], "Split") && steps[0]->value("behavior", json()) == "Isolated" &&
      !flag(*steps[0], "invert", false) && is_byte_level(*steps[1], false)) {
    const std::string pattern = pattern_of(*steps[0], "Regex");
    if (pattern == llama3_pattern) return std::string("llama-bpe");
    if (pattern == qwen2_pattern) return std::string("qwen2");
  }
  const json* found = tokenizer.find("pre_tokenizer");
  return error(Code::unsupported, "{}: the pre-tokenizer {} is not known; known are those of gpt2, smollm, llama-bpe and qwen2",
               tokenizer.what(), found == nullptr ? "null" : found->dump().substr(0, 300));
}

// --- SentencePiece-like BPE ---

// Whether a space is put before the text; an error for steps that "llama" tokenizers of GGUF do not have.
Result<bool> adds_space_prefix(const JsonObject& tokenizer) {
  bool prefix = false;
  for (const json* step : steps_of(tokenizer.find("normalizer"), "normalizers")) {
    if (is_step(*step, "Prepend") && step->value("prepend", json()) == lower_block) {
      prefix = true;
    } else if (!is_step(*step, "Replace") || pattern_of(*step, "String") != " " || step->value("content", json()) != lower_block) {
      return error(Code::unsupported, "{}: normalizer {} is not known for BPE with byte fallback", tokenizer.what(),
                   step->dump().substr(0, 200));
    }
  }
  for (const json* step : steps_of(tokenizer.find("pre_tokenizer"), "pretokenizers")) {
    if (is_step(*step, "Metaspace") && step->value("replacement", json()) == lower_block && !flag(*step, "split", true)) {
      prefix = prefix || step->value("prepend_scheme", json()) != "never";
    } else if (!is_step(*step, "Split") || pattern_of(*step, "String") != " ") {
      // Splitting at spaces that are no more, because the normalizer replaced them, changes nothing (Gemma).
      return error(Code::unsupported, "{}: pre-tokenizer {} is not known for BPE with byte fallback", tokenizer.what(),
                   step->dump().substr(0, 200));
    }
  }
  return prefix;
}

bool is_byte_token(std::string_view text) {
  const auto hexadecimal = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
  return text.size() == 6 && text.starts_with("<0x") && text[5] == '>' && hexadecimal(text[3]) && hexadecimal(text[4]);
}

// --- vocabulary ---

struct Vocabulary {
  std::vector<std::string> texts;
  std::vector<int32_t> types;
  std::unordered_map<std::string, int64_t> ids;  // by the text of tokenizer.json
};

// Tokens that their files forgot to mark as special: written like a control token.
bool looks_special(std::string_view text) {
  if (text == "<pad>" || text == "<mask>" || text == "<2mass>" || text == "[@BOS@]") return true;
  if (text.size() >= 4 && text.starts_with("<|") && text.ends_with("|>")) return true;
  return text.size() >= 8 && text.starts_with("<\xef\xbd\x9c") && text.ends_with("\xef\xbd\x9c>");  // U+FF5C
}

Status read_added_tokens(const JsonObject& tokenizer, Vocabulary& vocabulary) {
  const json* added = tokenizer.find("added_tokens");
  if (added == nullptr) return {};
  if (!added->is_array()) return error(Code::invalid_argument, "{}: field added_tokens is not a list", tokenizer.what());
  for (const json& entry : *added) {
    ONSET_ASSIGN(const JsonObject token, JsonObject::of(entry, tokenizer.what() + ": added_tokens"));
    ONSET_ASSIGN(const int64_t id, token.integer("id"));
    ONSET_ASSIGN(const std::string content, token.text("content"));
    ONSET_ASSIGN(const bool special, token.boolean_or("special", false));
    if (id < 0) return error(Code::invalid_argument, "{}: token \"{}\" has the id {}", token.what(), content, id);
    // A token without a row in the embedding (Gemma 3's image token in text models) cannot occur.
    if (id >= static_cast<int64_t>(vocabulary.texts.size())) continue;
    const auto index = static_cast<size_t>(id);
    const bool is_control = special || looks_special(content);
    vocabulary.ids.insert_or_assign(content, id);
    vocabulary.texts[index] = is_control ? content : replace_all(content, lower_block, " ");
    vocabulary.types[index] = is_control ? control : user_defined;
  }
  return {};
}

Result<Vocabulary> read_vocabulary(const JsonObject& tokenizer, const JsonObject& model, int64_t size, bool byte_fallback) {
  Vocabulary vocabulary;
  vocabulary.texts.resize(static_cast<size_t>(size));
  vocabulary.types.assign(static_cast<size_t>(size), unused);
  for (size_t i = 0; i < vocabulary.texts.size(); ++i) vocabulary.texts[i] = fmt::format("[PAD{}]", i);
  ONSET_ASSIGN(const JsonObject entries, model.object("vocab"));
  ONSET_ASSIGN(const std::string unknown_token, model.text_or("unk_token", ""));
  for (const auto& [text, value] : entries.value().items()) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() >= static_cast<uint64_t>(size)) {
      return error(Code::invalid_argument, "{}: token \"{}\" has the id {}, expected below the {} rows of the embedding", entries.what(),
                   text, value.dump(), size);
    }
    const auto id = value.get<size_t>();
    if (vocabulary.types[id] != unused) {
      return error(Code::invalid_argument, "{}: tokens \"{}\" and \"{}\" share the id {}", entries.what(), vocabulary.texts[id], text, id);
    }
    vocabulary.texts[id] = text;
    vocabulary.types[id] = byte_fallback && is_byte_token(text) ? byte : normal;
    if (!unknown_token.empty() && text == unknown_token) vocabulary.types[id] = unknown;
    vocabulary.ids.emplace(text, static_cast<int64_t>(id));
  }
  ONSET_TRY(read_added_tokens(tokenizer, vocabulary));
  // The unknown token is usually among the added ones too; its kind matters more than that it is special.
  if (const auto found = vocabulary.ids.find(unknown_token); byte_fallback && !unknown_token.empty() && found != vocabulary.ids.end()) {
    vocabulary.types[static_cast<size_t>(found->second)] = unknown;
  }
  return vocabulary;
}

using Merge = std::array<std::string, 2>;

// Merges in order of rank, written as "a b" or (since 2024) as ["a", "b"].
Result<std::vector<Merge>> read_merges(const JsonObject& model) {
  std::vector<Merge> merges;
  const json* list = model.find("merges");
  if (list == nullptr || !list->is_array()) {
    return error(Code::invalid_argument, "{}: field merges is not a list", model.what());
  }
  for (const json& entry : *list) {
    Merge merge;
    if (entry.is_string()) {
      const auto& text = entry.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space != std::string::npos) merge = {text.substr(0, space), text.substr(space + 1)};
    } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
      merge = {entry[0].get<std::string>(), entry[1].get<std::string>()};
    }
    if (merge[0].empty() || merge[1].empty()) {
      return error(Code::invalid_argument, "{}: merge {} is {}, expected two tokens", model.what(), merges.size(),
                   entry.dump().substr(0, 100));
    }
    merges.push_back(std::move(merge));
  }
  return merges;
}

// GGUF writes a merge as "a b", so spaces within a token become byte-level BPE's own sign for them (U+0120).
std::vector<std::string> merge_texts(const std::vector<Merge>& merges) {
  std::vector<std::string> texts;
  for (const Merge& merge : merges) {
    texts.push_back(fmt::format("{} {}", replace_all(merge[0], " ", "\xc4\xa0"), replace_all(merge[1], " ", "\xc4\xa0")));
  }
  return texts;
}

// SentencePiece joins the pair whose result has the best score: the score of a token is minus the rank of the
// first merge that makes it. Tokens that no merge makes come last.
std::vector<float> scores_of(const Vocabulary& vocabulary, const std::vector<Merge>& merges) {
  std::vector<float> scores(vocabulary.texts.size(), -1000.0f - static_cast<float>(merges.size()));
  std::vector<bool> known(scores.size(), false);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto found = vocabulary.ids.find(merges[rank][0] + merges[rank][1]);
    if (found == vocabulary.ids.end() || known[static_cast<size_t>(found->second)]) continue;
    known[static_cast<size_t>(found->second)] = true;
    scores[static_cast<size_t>(found->second)] = -static_cast<float>(rank);
  }
  return scores;
}

// --- special tokens and templates ---

// A JSON file of the folder that need not exist; an empty object then.
Result<json> optional_json(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return json::object();
  ONSET_ASSIGN(json value, read_json(path));
  ONSET_TRY(JsonObject::of(value, path.string()).status());
  return value;
}

// The text of bos_token and the like: a text or an object with "content".
std::string token_text(const JsonObject& config, const std::string& field) {
  const json* found = config.find(field);
  if (found == nullptr) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) {
    return (*found)["content"].get<std::string>();
  }
  return "";
}

// The ids in a field that is a number or a list of numbers, as far as they have a row in the embedding.
std::vector<int64_t> ids_in(const JsonObject& config, const std::string& field, size_t size) {
  std::vector<int64_t> ids;
  const json* found = config.find(field);
  if (found == nullptr) return ids;
  for (const json& value : found->is_array() ? *found : json::array({*found})) {
    if (value.is_number_unsigned() && value.get<uint64_t>() < size) ids.push_back(value.get<int64_t>());
  }
  return ids;
}

struct SpecialTokens {
  int64_t bos = -1, eos = -1;
};

// The ids come from the token texts of tokenizer_config.json, else from the numbers of config.json. Further
// tokens that end an answer, by generation_config.json or config.json, become end of turn and end of message.
SpecialTokens set_special_tokens(const JsonObject& tokenizer_config, const JsonObject& config, const JsonObject& generation,
                                 const Vocabulary& vocabulary, GgufMetadata& metadata) {
  constexpr std::array<std::array<const char*, 2>, 4> kinds = {
      {{"bos", "bos_token_id"}, {"eos", "eos_token_id"}, {"unk", "unknown_token_id"}, {"pad", "padding_token_id"}}};
  const size_t size = vocabulary.texts.size();
  SpecialTokens special;
  for (const auto& [kind, key] : kinds) {
    int64_t id = -1;
    const auto found = vocabulary.ids.find(token_text(tokenizer_config, std::string(kind) + "_token"));
    if (found != vocabulary.ids.end()) {
      id = found->second;
    } else if (const auto ids = ids_in(config, std::string(kind) + "_token_id", size); !ids.empty()) {
      id = ids.front();
    }
    if (id < 0) continue;
    metadata.set_u32(std::string("tokenizer.ggml.") + key, static_cast<uint32_t>(id));
    if (kind == std::string("bos")) special.bos = id;
    if (kind == std::string("eos")) special.eos = id;
  }
  std::vector<int64_t> ends = ids_in(generation, "eos_token_id", size);
  for (const int64_t id : ids_in(config, "eos_token_id", size)) {
    if (std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  }
  std::erase(ends, special.eos);
  if (!ends.empty()) metadata.set_u32("tokenizer.ggml.eot_token_id", static_cast<uint32_t>(ends[0]));
  if (ends.size() > 1) metadata.set_u32("tokenizer.ggml.eom_token_id", static_cast<uint32_t>(ends[1]));
  return special;
}

// Whether the template of a post-processor begins (or ends) with the token of that id.
bool template_has(const json& single, bool at_end, int64_t id, const Vocabulary& vocabulary) {
  if (!single.is_array() || single.empty()) return false;
  const json& item = at_end ? single.back() : single.front();
  if (!item.is_object() || !item.contains("SpecialToken") || !item["SpecialToken"].is_object()) return false;
  const auto name = item["SpecialToken"].find("id");
  if (name == item["SpecialToken"].end() || !name->is_string()) return false;
  const auto found = vocabulary.ids.find(name->get<std::string>());
  return found != vocabulary.ids.end() && found->second == id;
}

// add_bos_token and add_eos_token: what the post-processor does; where it has no template, what
// tokenizer_config.json says.
Status set_added(const JsonObject& tokenizer, const JsonObject& tokenizer_config, const Vocabulary& vocabulary,
                 const SpecialTokens& special, GgufMetadata& metadata) {
  ONSET_ASSIGN(bool bos, tokenizer_config.boolean_or("add_bos_token", false));
  ONSET_ASSIGN(bool eos, tokenizer_config.boolean_or("add_eos_token", false));
  for (const json* step : steps_of(tokenizer.find("post_processor"), "processors")) {
    if (!is_step(*step, "TemplateProcessing")) continue;
    const json single = step->value("single", json());
    bos = template_has(single, false, special.bos, vocabulary);
    eos = template_has(single, true, special.eos, vocabulary);
  }
  metadata.set_boolean("tokenizer.ggml.add_bos_token", bos && special.bos >= 0);
  metadata.set_boolean("tokenizer.ggml.add_eos_token", eos && special.eos >= 0);
  return {};
}

// The template in a file of its own, or the text or the named texts of tokenizer_config.json.
Status set_chat_templates(const std::filesystem::path& folder, const JsonObject& tokenizer_config, GgufMetadata& metadata) {
  std::error_code ignored;
  if (std::filesystem::exists(folder / "chat_template.jinja", ignored)) {
    ONSET_ASSIGN(const std::string text, read_file(folder / "chat_template.jinja"));
    metadata.set_text("tokenizer.chat_template", text);
    return {};
  }
  const json* found = tokenizer_config.find("chat_template");
  if (found == nullptr) return {};
  if (found->is_string()) {
    metadata.set_text("tokenizer.chat_template", found->get_ref<const std::string&>());
    return {};
  }
  if (!found->is_array()) {
    return error(Code::invalid_argument, "{}: field chat_template is neither a text nor a list", tokenizer_config.what());
  }
  std::vector<std::string> names;
  for (const json& entry : *found) {
    ONSET_ASSIGN(const JsonObject named, JsonObject::of(entry, tokenizer_config.what() + ": chat_template"));
    ONSET_ASSIGN(const std::string name, named.text("name"));
    ONSET_ASSIGN(const std::string text, named.text("template"));
    metadata.set_text(name == "default" ? "tokenizer.chat_template" : "tokenizer.chat_template." + name, text);
    if (name != "default") names.push_back(name);
  }
  if (!names.empty()) metadata.set_texts("tokenizer.chat_templates", names);
  return {};
}

}  // namespace

Status read_tokenizer(const std::filesystem::path& folder, int64_t vocabulary_size, GgufMetadata& metadata) {
  ONSET_ASSIGN(const json tokenizer_json, read_json(folder / "tokenizer.json"));
  ONSET_ASSIGN(const json tokenizer_config_json, optional_json(folder / "tokenizer_config.json"));
  ONSET_ASSIGN(const json config_json, optional_json(folder / "config.json"));
  ONSET_ASSIGN(const json generation_json, optional_json(folder / "generation_config.json"));
  ONSET_ASSIGN(const JsonObject tokenizer, JsonObject::of(tokenizer_json, (folder / "tokenizer.json").string()));
  ONSET_ASSIGN(const JsonObject tokenizer_config, JsonObject::of(tokenizer_config_json, (folder / "tokenizer_config.json").string()));
  ONSET_ASSIGN(const JsonObject config, JsonObject::of(config_json, (folder / "config.json").string()));
  ONSET_ASSIGN(const JsonObject generation, JsonObject::of(generation_json, (folder / "generation_config.json").string()));
  ONSET_ASSIGN(const JsonObject model, tokenizer.object("model"));
  ONSET_ASSIGN(const std::string type, model.text_or("type", "BPE"));
  if (type != "BPE") return error(Code::unsupported, "{}: type {} is not known, expected BPE", model.what(), type);
  ONSET_ASSIGN(const bool byte_fallback, model.boolean_or("byte_fallback", false));

  std::string pre = "default";
  bool space_prefix = false;
  if (byte_fallback) {
    ONSET_ASSIGN(space_prefix, adds_space_prefix(tokenizer));
  } else {
    ONSET_ASSIGN(pre, byte_level_pre(tokenizer));
  }
  ONSET_ASSIGN(const Vocabulary vocabulary, read_vocabulary(tokenizer, model, vocabulary_size, byte_fallback));
  ONSET_ASSIGN(const std::vector<Merge> merges, read_merges(model));

  metadata.set_text("tokenizer.ggml.model", byte_fallback ? "llama" : "gpt2");
  metadata.set_text("tokenizer.ggml.pre", pre);
  metadata.set_texts("tokenizer.ggml.tokens", vocabulary.texts);
  metadata.set_i32s("tokenizer.ggml.token_type", vocabulary.types);
  if (byte_fallback) {
    metadata.set_f32s("tokenizer.ggml.scores", scores_of(vocabulary, merges));
  } else {
    metadata.set_texts("tokenizer.ggml.merges", merge_texts(merges));
  }
  metadata.set_boolean("tokenizer.ggml.add_space_prefix", space_prefix);
  const SpecialTokens special = set_special_tokens(tokenizer_config, config, generation, vocabulary, metadata);
  ONSET_TRY(set_added(tokenizer, tokenizer_config, vocabulary, special, metadata));
  return set_chat_templates(folder, tokenizer_config, metadata);
}

}  // namespace onset
