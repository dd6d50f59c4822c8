// Small tokenizers of every kind against the ids and texts that the reference packages (Hugging Face
// tokenizers, SentencePiece) gave for tricky strings; tests/fixtures/text/make_tokenizers.py made both.
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "onset/base/mapped_file.h"
#include "onset/formats/gguf.h"
#include "onset/text/detokenizer.h"
#include "onset/text/tokenizer.h"
#include "onset/text/tokenizer_gguf.h"
#include "onset/text/tokenizer_json.h"
#include "onset/text/unicode.h"

namespace onset {
namespace {

using Ids = std::vector<TokenId>;

const std::filesystem::path kFixtures = std::filesystem::path(ONSET_SOURCE_DIR) / "tests" / "fixtures" / "text";

nlohmann::json read_json_fixture(const std::filesystem::path& path) {
  const Result<std::string> text = read_file(path);
  if (!text.ok()) {
    ADD_FAILURE() << text.status().message();
    return nlohmann::json::object();
  }
  return nlohmann::json::parse(text.value());
}

std::string streamed(const Tokenizer& tokenizer, const Ids& ids, const DecodeOptions& options) {
  Detokenizer detokenizer(tokenizer, options);
  std::string text;
  for (const TokenId id : ids) text += detokenizer.push(id);
  return text + detokenizer.finish();
}

void expect_same_as_reference(const Tokenizer& tokenizer, const nlohmann::json& cases) {
  ASSERT_GT(cases.size(), 40u);
  for (const auto& one : cases) {
    const auto text = one["text"].get<std::string>();
    SCOPED_TRACE(nlohmann::json(text.substr(0, well_formed_prefix(text.substr(0, 100)))).dump());
    const auto expected = one["ids"].get<Ids>();
    const Result<Ids> plain = tokenizer.encode(text, {.add_special = false});
    ASSERT_TRUE(plain.ok()) << plain.status().message();
    EXPECT_EQ(*plain, expected);
    if (one.contains("added_front")) {
      auto with_special = one["added_front"].get<Ids>();
      with_special.insert(with_special.end(), expected.begin(), expected.end());
      EXPECT_EQ(tokenizer.encode(text).value(), with_special);
    }
    if (one.contains("unparsed")) {
      const Ids unparsed = one["unparsed"].is_null() ? expected : one["unparsed"].get<Ids>();
      EXPECT_EQ(tokenizer.encode(text, {.add_special = false, .parse_special = false}).value(), unparsed);
    }
    for (const char* field : {"decoded", "skipped"}) {
      if (!one.contains(field)) continue;
      const DecodeOptions options{.special = field == std::string("decoded")};
      EXPECT_EQ(replace_ill_formed(tokenizer.decode(expected, options).value()), one[field].get<std::string>()) << field;
      EXPECT_EQ(streamed(tokenizer, expected, options), one[field].get<std::string>()) << field << ", streamed";
    }
  }
}

class TokenizerJson : public ::testing::TestWithParam<const char*> {};

TEST_P(TokenizerJson, GivesTheReferencesIdsAndTexts) {
  const Result<Tokenizer> tokenizer = load_tokenizer(kFixtures / GetParam());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  expect_same_as_reference(*tokenizer, read_json_fixture(kFixtures / GetParam() / "cases.json")["cases"]);
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerJson,
                         ::testing::Values("gpt2", "gpt2-prefix-space", "smollm", "llama-bpe", "qwen2", "llama2", "gemma", "mistral",
                                           "metaspace"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// A GGUF file with nothing but metadata, opened.
Result<ModelFile> gguf_with(const GgufMetadata& metadata, const std::string& name) {
  const std::filesystem::path path = std::filesystem::temp_directory_path() / fmt::format("onset-{}-{}.gguf", name, getpid());
  Result<GgufWriter> writer = GgufWriter::create(path, metadata, {});
  if (!writer.ok()) return writer.status();
  ONSET_TRY(writer->commit());
  Result<ModelFile> file = open_gguf(path);
  std::filesystem::remove(path);  // the mapping stays
  return file;
}

class SentencePieceGguf : public ::testing::TestWithParam<const char*> {};

TEST_P(SentencePieceGguf, GivesSentencePiecesIds) {
  const nlohmann::json fixture = read_json_fixture(kFixtures / (std::string(GetParam()) + ".json"));
  GgufMetadata metadata;
  metadata.set_text("tokenizer.ggml.model", "llama");
  metadata.set_texts("tokenizer.ggml.tokens", fixture["tokens"].get<std::vector<std::string>>());
  metadata.set_f32s("tokenizer.ggml.scores", fixture["scores"].get<std::vector<float>>());
  metadata.set_i32s("tokenizer.ggml.token_type", fixture["types"].get<std::vector<int32_t>>());
  metadata.set_boolean("tokenizer.ggml.add_space_prefix", fixture["add_space_prefix"].get<bool>());
  metadata.set_u32("tokenizer.ggml.bos_token_id", fixture["bos"].get<uint32_t>());
  metadata.set_u32("tokenizer.ggml.eos_token_id", fixture["eos"].get<uint32_t>());
  const Result<ModelFile> file = gguf_with(metadata, GetParam());
  ASSERT_TRUE(file.ok()) << file.status().message();
  const Result<Tokenizer> tokenizer = load_tokenizer(*file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  expect_same_as_reference(*tokenizer, fixture["cases"]);
  for (const auto& one : fixture["cases"]) {
    const auto text = one["text"].get<std::string>();
    if (text.find("▁") != std::string::npos) continue;  // decodes as a space
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text).value(), {.special = false}).value(), text);
  }
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->unknown(), 0);
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_TRUE(tokenizer->is_end_of_generation(2));
}

INSTANTIATE_TEST_SUITE_P(All, SentencePieceGguf, ::testing::Values("sentencepiece-prefix", "sentencepiece-symbols"),
                         [](const auto& info) { return info.param == std::string("sentencepiece-prefix") ? "prefix" : "symbols"; });

TEST(DefaultModelsTokenizer, GivesTheReferencesIdsAndTexts) {
  const std::filesystem::path path = cache_folder() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there (tools/start fetches the default model)";
  const Result<ModelFile> file = open_gguf(path);
  ASSERT_TRUE(file.ok()) << file.status().message();
  const Result<Tokenizer> tokenizer = load_tokenizer(*file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  expect_same_as_reference(*tokenizer, read_json_fixture(kFixtures / "smollm2.cases.json")["cases"]);
  EXPECT_EQ(tokenizer->vocabulary_size(), 49152);
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  EXPECT_EQ(tokenizer->end_of_turn(), 2);
  const Ids ends(tokenizer->end_of_generation().begin(), tokenizer->end_of_generation().end());
  EXPECT_EQ(ends, (Ids{0, 2}));
  EXPECT_EQ(tokenizer->find("<|im_start|>"), 1);
  EXPECT_EQ(tokenizer->find("Ġthe"), tokenizer->encode(" the").value()[0]);
  EXPECT_EQ(tokenizer->piece(*tokenizer->find("Ġthe")), " the");
}

// A byte-level GGUF of each pre-tokenizer, written from the tokenizer.json of the same, gives the same ids.
TEST(ByteLevelGguf, GivesTheIdsOfTokenizerJson) {
  for (const char* name : {"gpt2", "llama-bpe", "qwen2"}) {
    SCOPED_TRACE(name);
    const nlohmann::json json = read_json_fixture(kFixtures / name / "tokenizer.json");
    std::vector<std::string> tokens(json["model"]["vocab"].size() + json["added_tokens"].size());
    std::vector<int32_t> types(tokens.size(), 1);
    for (const auto& [token, id] : json["model"]["vocab"].items()) tokens[id.get<size_t>()] = token;
    for (const auto& token : json["added_tokens"]) {
      tokens[token["id"].get<size_t>()] = token["content"].get<std::string>();
      types[token["id"].get<size_t>()] = token["special"].get<bool>() ? 3 : 4;
    }
    std::vector<std::string> merges;
    for (const auto& merge : json["model"]["merges"]) {
      merges.push_back(merge.is_string() ? merge.get<std::string>() : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
    }
    GgufMetadata metadata;
    metadata.set_text("tokenizer.ggml.model", "gpt2");
    metadata.set_text("tokenizer.ggml.pre", name);
    metadata.set_texts("tokenizer.ggml.tokens", tokens);
    metadata.set_i32s("tokenizer.ggml.token_type", types);
    metadata.set_texts("tokenizer.ggml.merges", merges);
    const Result<ModelFile> file = gguf_with(metadata, name);
    ASSERT_TRUE(file.ok()) << file.status().message();
    const Result<Tokenizer> tokenizer = load_tokenizer(*file);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
    const nlohmann::json reference = read_json_fixture(kFixtures / name / "cases.json");
    ASSERT_GT(reference["cases"].size(), 40u);
    for (const auto& one : reference["cases"]) {
      const auto text = one["text"].get<std::string>();
      // Flags of added tokens (strips, single words) are not in GGUF.
      if (text.find("word") != std::string::npos || text.find("mask") != std::string::npos) continue;
      EXPECT_EQ(tokenizer->encode(text, {.add_special = false}).value(), one["ids"].get<Ids>()) << text.substr(0, 60);
    }
  }
}

}  // namespace
}  // namespace onset
