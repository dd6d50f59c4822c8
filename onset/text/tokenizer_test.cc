// Properties of tokenizers on random text, and what is said about specs and files that make no sense.
#include "onset/text/tokenizer.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "onset/base/mapped_file.h"
#include "onset/formats/gguf.h"
#include "onset/text/detokenizer.h"
#include "onset/text/normalizer.h"
#include "onset/text/tokenizer_gguf.h"
#include "onset/text/tokenizer_json.h"
#include "onset/text/unicode.h"

namespace onset {
namespace {

using Ids = std::vector<TokenId>;
using Json = nlohmann::json;

const std::filesystem::path kFixtures = std::filesystem::path(ONSET_SOURCE_DIR) / "tests" / "fixtures" / "text";

// Pieces that reach every branch of the pre-tokenizers and of UTF-8, whole and broken.
rc::Gen<std::string> any_bytes() {
  const auto piece = rc::gen::oneOf(rc::gen::elementOf(std::vector<std::string>{" ",
                                                                                "  ",
                                                                                "\n",
                                                                                "\r\n",
                                                                                "\t",
                                                                                "'s",
                                                                                "'LL",
                                                                                "the",
                                                                                "word",
                                                                                "12",
                                                                                "²",
                                                                                "é",
                                                                                "e\u0301",
                                                                                "日本",
                                                                                "😀",
                                                                                "\u00a0",
                                                                                "<|im_end|>",
                                                                                "<s>",
                                                                                "\xff",
                                                                                "\xe2\x82",
                                                                                "\xf0\x9f\x98",
                                                                                "\xc3",
                                                                                "\x80",
                                                                                "\xed\xa0\x80",
                                                                                "\xf4\x90\x80\x80",
                                                                                "▁"}),
                                    rc::gen::map(rc::gen::arbitrary<char>(), [](char c) { return std::string(1, c); }),
                                    rc::gen::container<std::string>(rc::gen::inRange('a', 'z')));
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(piece), [](const std::vector<std::string>& pieces) {
    std::string text;
    for (const std::string& each : pieces) text += each;
    return text;
  });
}

Tokenizer fixture(const char* name) {
  Result<Tokenizer> tokenizer = load_tokenizer(kFixtures / name);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return tokenizer.value();
}

RC_GTEST_PROP(Tokenizer, ByteLevelIdsDecodeToTheBytesTheyCameFrom, ()) {
  static const std::vector<Tokenizer> kTokenizers = {fixture("gpt2"), fixture("llama-bpe")};
  const std::string text = *any_bytes();
  // Tokens that take the white space beside them do not give it back.
  if (text.find("<mask>") != std::string::npos || text.find("<right>") != std::string::npos) return;
  for (const Tokenizer& tokenizer : kTokenizers) {
    const Ids ids = tokenizer.encode(text, {.add_special = false}).value();
    RC_ASSERT(tokenizer.decode(ids).value() == text);
    const Ids unparsed = tokenizer.encode(text, {.add_special = false, .parse_special = false}).value();
    RC_ASSERT(tokenizer.decode(unparsed).value() == text);
    for (const TokenId id : unparsed) RC_ASSERT(!tokenizer.is_special(id));
  }
}

RC_GTEST_PROP(Tokenizer, ByteFallbackIdsDecodeToTheBytesTheyCameFrom, ()) {
  static const std::vector<Tokenizer> kTokenizers = {fixture("llama2"), fixture("gemma")};
  const std::string text = replace_all(*any_bytes(), kSpaceMark, "");  // it decodes as a space
  for (const Tokenizer& tokenizer : kTokenizers) {
    const Ids ids = tokenizer.encode(text, {.add_special = true, .parse_special = false}).value();
    RC_ASSERT(tokenizer.decode(ids, {.special = false}).value() == text);
  }
}

RC_GTEST_PROP(Tokenizer, StreamedTextIsTheDecodedTextInWholeCharacters, ()) {
  static const std::vector<Tokenizer> kTokenizers = {fixture("qwen2"), fixture("llama2"), fixture("metaspace")};
  for (const Tokenizer& tokenizer : kTokenizers) {
    const Ids ids = *rc::gen::container<Ids>(rc::gen::inRange<TokenId>(0, tokenizer.vocabulary_size()));
    const DecodeOptions options{.special = *rc::gen::arbitrary<bool>(), .text_start = *rc::gen::arbitrary<bool>()};
    Detokenizer detokenizer(tokenizer, options);
    for (int round = 0; round < 2; ++round) {  // finish() begins anew
      std::string streamed;
      for (const TokenId id : ids) {
        const std::string part = detokenizer.push(id);
        RC_ASSERT(well_formed_prefix(part) == part.size());
        streamed += part;
      }
      streamed += detokenizer.finish();
      RC_ASSERT(streamed == replace_ill_formed(tokenizer.decode(ids, options).value()));
    }
  }
}

// The scored merge, as its definition says it: look at all pairs, merge the best, begin again.
Ids merge_slowly(const TokenizerSpec& spec, const std::string& text) {
  std::vector<std::string> parts;
  for (size_t at = 0; at < text.size();) {
    const size_t length = next_utf8_unit(std::string_view(text).substr(at)).length;
    parts.push_back(text.substr(at, length));
    at += length;
  }
  const auto id_of = [&](const std::string& part) {
    for (size_t i = 0; i < spec.tokens.size(); ++i) {
      if (spec.tokens[i] == part && spec.types[i] == TokenType::normal) return static_cast<TokenId>(i);
    }
    return -1;
  };
  while (true) {
    size_t best = parts.size();
    float best_score = -std::numeric_limits<float>::infinity();
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const TokenId id = id_of(parts[i] + parts[i + 1]);
      if (id < 0 || spec.scores[static_cast<size_t>(id)] <= best_score) continue;
      best = i;
      best_score = spec.scores[static_cast<size_t>(id)];
    }
    if (best == parts.size()) break;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
  }
  Ids ids;
  for (const std::string& part : parts) {
    if (id_of(part) >= 0) {
      ids.push_back(id_of(part));
      continue;
    }
    for (const char byte : part) ids.push_back(3 + static_cast<uint8_t>(byte));
  }
  return ids;
}

TokenizerSpec scored_spec(std::vector<std::pair<std::string, float>> tokens) {
  TokenizerSpec spec;
  spec.kind = TokenizerKind::sentencepiece_bpe;
  spec.tokens = {"<unk>", "<s>", "</s>"};
  spec.types = {TokenType::unknown, TokenType::control, TokenType::control};
  for (int byte = 0; byte < 256; ++byte) spec.tokens.push_back(fmt::format("<0x{:02X}>", byte));
  spec.types.resize(spec.tokens.size(), TokenType::byte);
  spec.scores.resize(spec.tokens.size(), 0.0f);
  for (const auto& [token, score] : tokens) {
    spec.tokens.push_back(token);
    spec.types.push_back(TokenType::normal);
    spec.scores.push_back(score);
  }
  return spec;
}

RC_GTEST_PROP(Tokenizer, ScoredMergesFollowTheirDefinition, ()) {
  // Few letters, spaces inside of tokens, equal scores: words that cannot be cut at spaces, and ties.
  const auto letters = rc::gen::container<std::string>(rc::gen::elementOf(std::string("ab_")));
  std::vector<std::pair<std::string, float>> tokens;
  std::vector<std::string> texts = {"a", "b"};
  for (std::string& text : *rc::gen::container<std::vector<std::string>>(letters)) texts.push_back(std::move(text));
  std::sort(texts.begin(), texts.end());
  texts.erase(std::unique(texts.begin(), texts.end()), texts.end());
  const auto spaced = [](const std::string& text) { return replace_all(text, "_", kSpaceMark); };
  for (const std::string& text : texts) {
    if (!text.empty()) tokens.emplace_back(spaced(text), static_cast<float>(*rc::gen::inRange(-3, 3)));
  }
  const TokenizerSpec spec = scored_spec(tokens);
  const Tokenizer tokenizer = Tokenizer::create(spec).value();
  std::string text;
  for (const std::string& each : *rc::gen::container<std::vector<std::string>>(letters)) text += each;
  RC_ASSERT(tokenizer.encode(spaced(text)).value() == merge_slowly(spec, spaced(text)));
}

TEST(Tokenizer, OfTheSmallestLlamaReadsItsVocabulary) {
  const std::filesystem::path path = std::filesystem::path(ONSET_SOURCE_DIR) / ".." / "shared" / "data" / "models" / "tok512.bin";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there";
  const std::string bytes = read_file(path).value();
  std::vector<std::pair<std::string, float>> tokens;
  size_t number = 0;
  for (size_t at = 4; at < bytes.size(); ++number) {
    float score;
    int32_t length;
    std::memcpy(&score, &bytes[at], 4);
    std::memcpy(&length, &bytes[at + 4], 4);
    const std::string text = bytes.substr(at + 8, static_cast<size_t>(length));
    if (number >= 259) tokens.emplace_back(replace_all(text, " ", kSpaceMark), score);
    at += 8 + static_cast<size_t>(length);
  }
  TokenizerSpec spec = scored_spec(tokens);
  spec.space_prefix = SpacePrefix::every_section;
  spec.bos = 1;
  spec.add_bos = true;
  const Tokenizer tokenizer = Tokenizer::create(spec).value();
  EXPECT_EQ(tokenizer.vocabulary_size(), 512);
  for (const std::string text : {"Once upon a time, there was a little girl named Lily.", "Zoë saw 3 cats\nand\u2028a 😀"}) {
    Ids expected = merge_slowly(spec, std::string(kSpaceMark).append(replace_all(text, " ", kSpaceMark)));
    expected.insert(expected.begin(), 1);
    EXPECT_EQ(tokenizer.encode(text).value(), expected);
    EXPECT_EQ(tokenizer.decode(expected, {.special = false}).value(), text);
  }
}

TEST(Tokenizer, LongWordsTakeNoQuadraticTime) {
  // A merge that looked at all pairs again would need 10^12 steps; the test would not end.
  const Tokenizer tokenizer = fixture("gpt2");
  const Tokenizer spaced = fixture("metaspace");
  std::string text;
  for (int i = 0; i < 1'000'000; ++i) text.push_back(static_cast<char>('a' + (i * 7 + i / 26) % 26));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text).value()).value(), text);
  EXPECT_EQ(spaced.decode(spaced.encode(text).value()).value(), text);
  const std::string spaces(1'000'000, ' ');
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(spaces + "x").value()).value(), spaces + "x");
}

TEST(Tokenizer, AnswersContinueTheirPromptWithTheirSpace) {
  const Tokenizer tokenizer = fixture("llama2");
  const Ids ids = tokenizer.encode("the king", {.add_special = false}).value();
  EXPECT_EQ(tokenizer.decode(ids).value(), "the king");
  EXPECT_EQ(tokenizer.decode(ids, {.text_start = false}).value(), " the king");
}

TEST(Tokenizer, IdsOutsideTheVocabularyAreNamedOrEmpty) {
  const Tokenizer tokenizer = fixture("gpt2");
  const TokenId size = tokenizer.vocabulary_size();
  for (const TokenId id : {-1, size, std::numeric_limits<TokenId>::min()}) {
    EXPECT_EQ(tokenizer.decode(Ids{id}).status().message(), fmt::format("token id {} is outside the vocabulary of {} tokens", id, size));
    EXPECT_EQ(tokenizer.text(id), "");
    EXPECT_EQ(tokenizer.piece(id), "");
    EXPECT_FALSE(tokenizer.has(id));
    EXPECT_FALSE(tokenizer.is_special(id));
    EXPECT_FALSE(tokenizer.is_end_of_generation(id));
    EXPECT_EQ(Detokenizer(tokenizer).push(id), "");
  }
}

// --- specs that make no sense
// -------------------------------------------------------------------------------------

TokenizerSpec small_spec() {
  TokenizerSpec spec;
  spec.source = "small";
  spec.pre_tokenizer = "gpt2";
  spec.tokens = {"a", "b", "ab", "<end>"};
  spec.types = {TokenType::normal, TokenType::normal, TokenType::normal, TokenType::control};
  spec.merges = {{"a", "b"}};
  spec.added = {{.id = 3, .content = "<end>", .special = true}};
  return spec;
}

struct BadSpec {
  const char* message;
  std::function<void(TokenizerSpec&)> spoil;
};

TEST(Tokenizer, SaysWhatIsWrongWithASpec) {
  const std::vector<BadSpec> all = {
      {"small: the vocabulary is empty", [](auto& s) { s.tokens.clear(); }},
      {"small: 2 token types were given for 4 tokens", [](auto& s) { s.types.resize(2); }},
      {"small: 5 token scores were given for 4 tokens", [](auto& s) { s.kind = TokenizerKind::sentencepiece_bpe, s.scores.resize(5); }},
      {"small: the score of token 2 is not a finite number",
       [](auto& s) { s.kind = TokenizerKind::sentencepiece_bpe, s.scores = {0, 0, NAN, 0}; }},
      {"small: unknown pre-tokenizer 'nonsense' (known: gpt2, llama-bpe, qwen2, smollm)", [](auto& s) { s.pre_tokenizer = "nonsense"; }},
      {"small: tokens 1 and 2 have the same text 'b'", [](auto& s) { s.tokens[2].assign(s.tokens[1]); }},
      {"small: tokens 0 and 3 have the same text '<end>'", [](auto& s) { s.tokens[0] = "<end>", s.merges.clear(); }},
      {"small: merge 1 ('a' 'c') names 'c', which is not in the vocabulary", [](auto& s) { s.merges.push_back({"a", "c"}); }},
      {"small: merge 1 ('b' 'a') names 'ba', which is not in the vocabulary", [](auto& s) { s.merges.push_back({"b", "a"}); }},
      {"small: BOS token id 4 is outside the vocabulary of 4 tokens", [](auto& s) { s.bos = 4; }},
      {"small: EOS token id -1 is outside the vocabulary of 4 tokens", [](auto& s) { s.eos = -1; }},
      {"small: unknown token id 9 is outside the vocabulary of 4 tokens", [](auto& s) { s.unknown = 9; }},
      {"small: added token id 7 is outside the vocabulary of 4 tokens", [](auto& s) { s.added[0].id = 7; }},
      {"small: end-of-generation token id 5 is outside the vocabulary of 4 tokens", [](auto& s) { s.end_of_generation = {5}; }},
      {"small: a BOS token is to be added, but no BOS token is named", [](auto& s) { s.add_bos = true; }},
      {"small: an EOS token is to be added, but no EOS token is named", [](auto& s) { s.add_eos = true; }},
      {"small: token 1 is a byte token, but is spelled 'b', not like <0x41>", [](auto& s) { s.types[1] = TokenType::byte; }},
  };
  ASSERT_TRUE(Tokenizer::create(small_spec()).ok());
  for (const BadSpec& bad : all) {
    TokenizerSpec spec = small_spec();
    bad.spoil(spec);
    const Result<Tokenizer> tokenizer = Tokenizer::create(spec);
    ASSERT_FALSE(tokenizer.ok()) << bad.message;
    EXPECT_EQ(tokenizer.status().message(), bad.message);
  }
}

TEST(Tokenizer, RefusesTextsThatAreTooLong) {
  const Tokenizer tokenizer = Tokenizer::create(small_spec()).value();
  const std::string text(size_t{1} << 28, 'a');
  EXPECT_EQ(tokenizer.encode(text).status().message(), "a text of 268435456 bytes is too long to tokenize at once");
}

// --- files that make no sense
// -------------------------------------------------------------------------------------

Json small_json() {
  return Json::parse(R"({
    "added_tokens": [{"id": 4, "content": "<end>", "special": true, "normalized": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": null, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": [["a", "b"]]}})");
}

struct BadJson {
  const char* pointer;  // what is replaced
  const char* value;
  const char* message;
};

TEST(TokenizerJson, SaysWhatIsWrongWithAFile) {
  const std::vector<BadJson> all = {
      {"/model", "3", "'model' should be an object, but is number"},
      {"/model/type", "\"Unigram\"", "unknown tokenizer model 'Unigram' (known: BPE)"},
      {"/model/type", "[]", "'type' should be a string, but is array"},
      {"/model/vocab", "[1]", "the model's 'vocab' should be an object, but is array"},
      {"/model/vocab/a", "\"x\"", "the id of token 'a' should be a whole number, but is string"},
      {"/model/vocab/a", "1.5", "the id of token 'a' should be a whole number, but is number"},
      {"/model/vocab/a", "-1", "the id of token 'a' is -1, which is no token id"},
      {"/model/vocab/a", "18446744073709551615", "the id of token 'a' is 18446744073709551615, which is no token id"},
      {"/model/vocab/a", "2000000000", "token 'a' has id 2000000000, too large for a vocabulary of 4 tokens"},
      {"/model/vocab/a", "1", "id 1 is given to 'a' and to 'b'"},
      {"/model/vocab/", "9", "token 9 has no text"},
      {"/model/merges", "{}", "the model's 'merges' should be a list, but is object"},
      {"/model/merges/0", "[\"a\"]", "merge 0 should be two tokens, as a list or with a space between"},
      {"/model/merges/0", "\"a b c\"", "merge 0 should be two tokens, as a list or with a space between"},
      {"/model/merges/0", "\"a d\"", "merge 0 ('a' 'd') names 'd', which is not in the vocabulary"},
      {"/model/dropout", "0.1", "the model's dropout makes its ids random"},
      {"/model/end_of_word_suffix", "\"</w>\"", "the model's end_of_word_suffix '</w>' is not known"},
      {"/model/byte_fallback", "1", "'byte_fallback' should be true or false, but is number"},
      {"/model/unk_token", "\"<unk>\"", "'unk_token' names '<unk>', which is not in the vocabulary"},
      {"/added_tokens", "true", "'added_tokens' should be a list, but is boolean"},
      {"/added_tokens/0", "true", "an entry of 'added_tokens' should be an object, but is boolean"},
      {"/added_tokens/0/content", "\"\"", "token 4 has no text"},
      {"/added_tokens/0/content", "\"b\"", "'b' has id 4 in 'added_tokens', but 1 in the vocabulary"},
      {"/added_tokens/0/id", "null", "the id of added token '<end>' should be a whole number, but is null"},
      {"/added_tokens/0/id", "2", "id 2 is given to 'ab' and to '<end>'"},
      {"/added_tokens/1", R"({"id": 5, "content": "<end>"})", "'added_tokens' lists '<end>' twice"},
      {"/added_tokens/0/lstrip", "\"no\"", "'lstrip' should be true or false, but is string"},
      {"/normalizer", R"({"type": "NFKC"})", "unknown normalizer 'NFKC' before byte-level BPE (known: NFC)"},
      {"/normalizer", R"({"type": "Sequence", "normalizers": 3})", "'normalizers' of the normalizer should be a list, but is number"},
      {"/pre_tokenizer", "\"ByteLevel\"", "'pre_tokenizer' should be an object, but is string"},
      {"/pre_tokenizer", "null", "the tokenizer neither spells bytes (ByteLevel) nor spaces as U+2581 (Replace, Metaspace)"},
      {"/pre_tokenizer/use_regex", "false",
       "unknown pre-tokenizer [ByteLevel] (known: those of gpt2, llama-bpe, qwen2, smollm, and Metaspace)"},
      {"/pre_tokenizer", R"({"type": "Whitespace"})",
       "unknown pre-tokenizer [Whitespace] (known: those of gpt2, llama-bpe, qwen2, smollm, and Metaspace)"},
      {"/pre_tokenizer",
       R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated"},
           {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})",
       "unknown pre-tokenizer pattern 'x+' (Isolated)"},
      {"/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, {"type": "ByteLevel"}]})",
       "add_prefix_space is known for the gpt2 pre-tokenizer only"},
      {"/pre_tokenizer", R"({"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {"type": "ByteLevel", "add_prefix_space": false}]})",
       "unknown pre-tokenizer [Digits, ByteLevel] (known: those of gpt2, llama-bpe, qwen2, smollm, and "
       "Metaspace)"},
      {"/pre_tokenizer", R"({"type": "Metaspace", "prepend_scheme": "last"})",
       "Metaspace's prepend_scheme should be always, first or never, but is 'last'"},
      {"/pre_tokenizer", R"({"type": "Metaspace", "replacement": "_"})", "Metaspace with the replacement '_' is not known"},
      {"/post_processor", R"({"type": "BertProcessing"})",
       "unknown post-processor 'BertProcessing' (known: ByteLevel, TemplateProcessing)"},
      {"/post_processor", R"({"type": "TemplateProcessing", "single": 3})",
       "the post-processor's 'single' should be a list, but is number"},
      {"/post_processor", R"({"type": "TemplateProcessing", "single": [{"Word": {}}]})",
       "the post-processor's 'single' holds neither a SpecialToken nor a Sequence"},
      {"/post_processor", R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}]})",
       "'post_processor' names '<s>', which is not in the vocabulary"},
      {"/post_processor",
       R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<end>"}}, {"SpecialToken": {"id": "<end>"}}]})",
       "the post-processor adds more than one token at one end of the text ('<end>')"},
      {"/decoder", R"({"type": "WordPiece"})",
       "unknown decoder 'WordPiece' (known: ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace)"},
  };
  const TokenizerFiles good{.tokenizer = small_json().dump(), .source = "f"};
  const Result<TokenizerSpec> spec = tokenizer_spec_from_json(good);
  ASSERT_TRUE(spec.ok()) << spec.status().message();
  ASSERT_TRUE(Tokenizer::create(*spec).ok());
  for (const BadJson& bad : all) {
    Json json = small_json();
    json[Json::json_pointer(bad.pointer)] = Json::parse(bad.value);
    const Result<TokenizerSpec> read = tokenizer_spec_from_json({.tokenizer = json.dump(), .source = "f"});
    const Status status = read.ok() ? Tokenizer::create(*read).status() : read.status();
    EXPECT_EQ(status.message(), std::string("f: ") + bad.message);
  }
  std::string nested = "null";
  for (int i = 0; i < 12; ++i) nested = R"({"type":"Sequence","normalizers":[)" + nested + "]}";
  Json json = small_json();
  json["normalizer"] = Json::parse(nested);
  EXPECT_EQ(tokenizer_spec_from_json({.tokenizer = json.dump(), .source = "f"}).status().message(),
            "f: the normalizer is nested too deeply");
  EXPECT_EQ(tokenizer_spec_from_json({.tokenizer = "{\"a\": ", .source = "f"}).status().message(), "f: not valid JSON near byte 7");
  EXPECT_EQ(tokenizer_spec_from_json({.tokenizer = R"({"model": {"vocab": {"a": 0, "a": 1}}})", .source = "f"}).status().message(),
            "f: field \"a\" stands there twice");
  EXPECT_EQ(tokenizer_spec_from_json({.tokenizer = "[]", .source = "f"}).status().message(), "f: should be a JSON object, but is array");
}

TEST(TokenizerJson, ReadsTheConfigsBesideIt) {
  TokenizerFiles files{.tokenizer = small_json().dump(), .source = "f"};
  files.config = R"({"bos_token": "a", "eos_token": {"content": "<end>"}, "add_bos_token": true, "pad_token": null})";
  files.generation_config = R"({"eos_token_id": [4, 3]})";
  const Tokenizer tokenizer = Tokenizer::create(tokenizer_spec_from_json(files).value()).value();
  EXPECT_EQ(tokenizer.encode("ab").value(), (Ids{0, 2}));
  EXPECT_EQ(tokenizer.eos(), 4);
  EXPECT_EQ(tokenizer.padding(), std::nullopt);
  EXPECT_EQ(Ids(tokenizer.end_of_generation().begin(), tokenizer.end_of_generation().end()), (Ids{3, 4}));
  const std::vector<std::pair<std::string, std::string>> bad = {
      {R"({"bos_token": 3})", "'bos_token' should be a string or an object with 'content'"},
      {R"({"eos_token": "<x>"})", "'eos_token' names '<x>', which is not in the vocabulary"},
      {R"({"add_bos_token": "yes"})", "'add_bos_token' should be true or false, but is string"},
      {"nonsense", "not valid JSON near byte 2"},
  };
  for (const auto& [config, message] : bad) {
    files.config = config;
    EXPECT_EQ(tokenizer_spec_from_json(files).status().message(), "f: tokenizer_config.json: " + message);
  }
  files.config.clear();
  files.generation_config = R"({"eos_token_id": "x"})";
  EXPECT_EQ(tokenizer_spec_from_json(files).status().message(),
            "f: generation_config.json: the id of eos_token_id should be a whole number, but is string");
}

TEST(TokenizerJson, TemplateAndConfigMustAgree) {
  Json json = small_json();
  json["post_processor"] =
      Json::parse(R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "<end>"}}]})");
  TokenizerFiles files{.tokenizer = json.dump(), .source = "f"};
  const Tokenizer tokenizer = Tokenizer::create(tokenizer_spec_from_json(files).value()).value();
  EXPECT_EQ(tokenizer.encode("ab").value(), (Ids{2, 4}));
  EXPECT_EQ(tokenizer.encode("ab", {.add_special = false}).value(), (Ids{2}));
  files.config = R"({"eos_token": "c"})";
  EXPECT_EQ(tokenizer_spec_from_json(files).status().message(),
            "f: tokenizer_config.json: 'eos_token' is 'c', but tokenizer.json's post-processor adds '<end>'");
}

TEST(TokenizerJson, FoldersWithoutOneSaySo) {
  const Result<Tokenizer> tokenizer = load_tokenizer(kFixtures / "nothing-here");
  EXPECT_EQ(tokenizer.status().code(), Code::not_found);
  EXPECT_NE(tokenizer.status().message().find("nothing-here/tokenizer.json: cannot be opened"), std::string::npos);
}

// What the message says after the name of the (temporary) file.
std::string gguf_error(const std::function<void(GgufMetadata&)>& spoil) {
  GgufMetadata metadata;
  metadata.set_text("tokenizer.ggml.model", "gpt2");
  metadata.set_text("tokenizer.ggml.pre", "gpt2");
  metadata.set_texts("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "ab", "<end>"});
  metadata.set_i32s("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 1, 3});
  metadata.set_texts("tokenizer.ggml.merges", std::vector<std::string>{"a b"});
  spoil(metadata);
  const std::filesystem::path path = std::filesystem::temp_directory_path() / fmt::format("onset-bad-{}.gguf", getpid());
  Result<GgufWriter> writer = GgufWriter::create(path, metadata, {});
  EXPECT_TRUE(writer.ok() && writer->commit().ok());
  const Result<ModelFile> file = open_gguf(path);
  std::filesystem::remove(path);
  const Status status = load_tokenizer(file.value()).status();
  EXPECT_TRUE(status.ok() || status.message().starts_with(path.string() + ": ")) << status.message();
  return status.ok() ? "" : status.message().substr(path.string().size() + 2);
}

TEST(TokenizerGguf, SaysWhatIsWrongWithAFile) {
  const auto error_of = gguf_error;
  EXPECT_EQ(error_of([](auto&) {}), "");
  EXPECT_EQ(error_of([](auto& m) { m.set_text("tokenizer.ggml.model", "bert"); }),
            "tokenizer.ggml.model: unknown tokenizer model 'bert' (known: gpt2, llama)");
  EXPECT_EQ(error_of([](auto& m) { m.set_text("tokenizer.ggml.pre", "tekken"); }),
            "tokenizer.ggml.pre: unknown pre-tokenizer 'tekken' (known: gpt2, llama-bpe, qwen2, smollm)");
  EXPECT_EQ(error_of([](auto& m) { m.set_i32s("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 1, 7}); }),
            "tokenizer.ggml.token_type: 7 is not a token type (entry 3)");
  EXPECT_EQ(error_of([](auto& m) { m.set_i32s("tokenizer.ggml.token_type", std::vector<int32_t>{1}); }),
            "1 token types were given for 4 tokens");
  EXPECT_EQ(error_of([](auto& m) { m.set_texts("tokenizer.ggml.merges", std::vector<std::string>{"a b", "ab"}); }),
            "tokenizer.ggml.merges: entry 1 ('ab') is not two tokens with a space between");
  EXPECT_EQ(error_of([](auto& m) { m.set_u32("tokenizer.ggml.bos_token_id", 4); }), "BOS token id 4 is outside the vocabulary of 4 tokens");
  EXPECT_EQ(error_of([](auto& m) { m.set_u64("tokenizer.ggml.eos_token_id", 1ull << 40); }),
            "tokenizer.ggml.eos_token_id: 1099511627776 is not a token id");
  EXPECT_EQ(error_of([](auto& m) { m.set_boolean("tokenizer.ggml.add_bos_token", true); }),
            "a BOS token is to be added, but no BOS token is named");
  for (const char* key : {"model", "pre", "tokens", "merges"}) {
    const std::string name = std::string("tokenizer.ggml.") + key;
    EXPECT_NE(error_of([&](auto& m) { m.remove(name); }).find(name), std::string::npos);
    EXPECT_NE(error_of([&](auto& m) { m.set_u32(name, 1); }).find(name), std::string::npos);
  }
  EXPECT_NE(error_of([](auto& m) { m.set_text("tokenizer.ggml.model", "llama"); }).find("tokenizer.ggml.scores"), std::string::npos);
}

}  // namespace
}  // namespace onset
