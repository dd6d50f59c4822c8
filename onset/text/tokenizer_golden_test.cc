// Whole files through the tokenizers of real models, against ids that an independent implementation gave.
#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "onset/base/mapped_file.h"
#include "onset/formats/gguf.h"
#include "onset/text/tokenizer.h"
#include "onset/text/tokenizer_gguf.h"
#include "onset/text/unicode.h"

namespace onset {
namespace {

const std::filesystem::path kShared = std::filesystem::path(ONSET_SOURCE_DIR) / ".." / "shared" / "data";

struct Model {
  const char* name;  // of the golden files
  const char* file;
};

class GoldenTokenIds : public ::testing::TestWithParam<Model> {
 protected:
  void SetUp() override {
    const std::filesystem::path path = cache_folder() / "models" / GetParam().file;
    if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there (tools/start fetches the default model)";
    if (!std::filesystem::exists(kShared / "golden" / "token-ids.json")) GTEST_SKIP() << kShared << " is not there";
    Result<ModelFile> file = open_gguf(path);
    ASSERT_TRUE(file.ok()) << file.status().message();
    Result<Tokenizer> tokenizer = load_tokenizer(*file);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().message();
    tokenizer_ = *tokenizer;
  }

  static nlohmann::json json(const std::string& name) {
    const Result<std::string> text = read_file(kShared / "golden" / name);
    EXPECT_TRUE(text.ok());
    return nlohmann::json::parse(text.value());
  }

  std::optional<Tokenizer> tokenizer_;
};

// The rule of token-ids.json: little-endian int32.
std::string sha256(const std::vector<TokenId>& ids) {
  static_assert(std::endian::native == std::endian::little);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  EVP_Digest(ids.data(), ids.size() * sizeof(TokenId), digest, &length, EVP_sha256(), nullptr);
  std::string hex;
  for (unsigned i = 0; i < length; ++i) hex += fmt::format("{:02x}", digest[i]);
  return hex;
}

std::string without_carriage_returns(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    out.push_back(text[i]);
  }
  return out;
}

TEST_P(GoldenTokenIds, OfWholeFilesAreEqual) {
  const nlohmann::json golden = json("token-ids.json")["models"][GetParam().name];
  ASSERT_EQ(golden.size(), 2u);
  for (const auto& [name, expected] : golden.items()) {
    const Result<std::string> raw = read_file(kShared / "text" / name);
    ASSERT_TRUE(raw.ok()) << raw.status().message();
    const std::string text = without_carriage_returns(*raw);
    const Result<std::vector<TokenId>> ids = tokenizer_->encode(text, {.add_special = false});
    ASSERT_TRUE(ids.ok()) << ids.status().message();
    const auto first = expected["first_16"].get<std::vector<TokenId>>();
    const auto last = expected["last_4"].get<std::vector<TokenId>>();
    ASSERT_GE(ids->size(), 16u);
    EXPECT_EQ(std::vector<TokenId>(ids->begin(), ids->begin() + 16), first) << name;
    EXPECT_EQ(std::vector<TokenId>(ids->end() - 4, ids->end()), last) << name;
    EXPECT_EQ(ids->size(), expected["count"].get<size_t>()) << name;
    EXPECT_EQ(sha256(*ids), expected["sha256_int32_le"].get<std::string>()) << name;
    const Result<std::string> back = tokenizer_->decode(*ids);
    ASSERT_TRUE(back.ok());
    EXPECT_TRUE(*back == text) << name << ": decoded text differs from the file";
  }
}

TEST_P(GoldenTokenIds, OfPromptsAreEqual) {
  const nlohmann::json golden = json(std::string(GetParam().name) + ".json");
  size_t checked = 0;
  for (const auto& [name, prompt] : golden["prompts"].items()) {
    const auto expected = prompt["ids"].get<std::vector<TokenId>>();
    const Result<std::vector<TokenId>> ids = tokenizer_->encode(prompt["text"].get<std::string>());
    ASSERT_TRUE(ids.ok());
    // The long prompt was cut to 1,500 tokens.
    ASSERT_GE(ids->size(), expected.size()) << name;
    if (expected.size() < 1500) {
      EXPECT_EQ(ids->size(), expected.size()) << name;
    }
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), ids->begin())) << name;
    const auto greedy = prompt["greedy_32"].get<std::vector<TokenId>>();
    const Result<std::string> answer = tokenizer_->decode(greedy, {.special = true, .text_start = false});
    ASSERT_TRUE(answer.ok());
    EXPECT_EQ(replace_ill_formed(*answer), prompt["greedy_text"].get<std::string>()) << name;
    ++checked;
  }
  EXPECT_EQ(checked, 4u);
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenTokenIds,
                         ::testing::Values(Model{"smollm2-135m-q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf"},
                                           Model{"gemma-3-270m-q4_k_m", "gemma-3-270m-q4_k_m.gguf"}),
                         [](const auto& info) { return std::string(info.param.name).substr(0, 5); });

}  // namespace
}  // namespace onset
