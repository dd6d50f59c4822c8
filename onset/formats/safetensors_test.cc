#include "onset/formats/safetensors.h"

#include <gtest/gtest.h>

#include "onset/formats/testing.h"
#include "onset/tensor/block_formats.h"

namespace onset {
namespace {

using namespace testing;

std::string file_of(const std::string& header, size_t data) {
  return raw<uint64_t>(header.size()) + header + std::string(data, '\1');
}

// A file with one tensor whose fields tests replace.
std::string one_tensor(const std::string& dtype = "\"F32\"", const std::string& shape = "[2, 3]", const std::string& offsets = "[0, 24]",
                       size_t data = 24) {
  return file_of(
      R"({"__metadata__":{"format":"pt"},"weight":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
      data);
}

Status parse(const std::string& bytes) {
  return Safetensors::parse(bytes_of(bytes), "m.safetensors").status();
}

TEST(Safetensors, ReadsWhatThePackageWrote) {
  const Safetensors file = value_of(Safetensors::open(fixtures / "models/llama"));
  const StoredTensor* tensor = value_of(file.tensor("model.layers.0.mlp.gate_proj.weight"));
  EXPECT_EQ(tensor->dtype, DType::f32);
  EXPECT_EQ(tensor->shape, (std::vector<int64_t>{96, 64}));
  EXPECT_EQ(tensor->bytes.size(), 96u * 64u * 4u);
  EXPECT_TRUE(check_finite(*tensor).ok());
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(Safetensors, ShardsOpenAsOne) {
  const Safetensors whole = value_of(Safetensors::open(fixtures / "models/qwen2"));
  EXPECT_EQ(whole.files().size(), 4u);
  EXPECT_NE(whole.find("model.layers.0.self_attn.q_proj.bias"), nullptr);
  EXPECT_NE(whole.find("model.norm.weight"), nullptr);
}

TEST(Safetensors, ElementTypes) {
  EXPECT_TRUE(parse(one_tensor()).ok());
  EXPECT_TRUE(parse(one_tensor("\"BF16\"", "[2, 6]")).ok());
  const Safetensors scalar = value_of(Safetensors::parse(bytes_of(one_tensor("\"I64\"", "[]", "[0, 8]", 8)), "m"));
  EXPECT_EQ(scalar.find("weight")->shape, std::vector<int64_t>{1});

  const std::string eight_bits = one_tensor("\"F8_E4M3\"", "[24]");
  const Safetensors other = value_of(Safetensors::parse(bytes_of(eight_bits), "m.safetensors"));
  expect_error(other.tensor("weight").status(), Code::unsupported,
               "m.safetensors: tensor weight has element type F8_E4M3; F32, F16 and BF16 can be read");
  expect_error(other.tensor("bias").status(), Code::not_found, "m.safetensors: tensor bias is absent");
  const Safetensors empty = value_of(Safetensors::parse(bytes_of(one_tensor("\"F32\"", "[0, 3]", "[0, 0]", 0)), "m"));
  expect_error(empty.tensor("weight").status(), Code::unsupported, "element type empty F32");
}

TEST(Safetensors, DamagedHeaders) {
  const auto refuse = [](const std::string& bytes, const std::string& part) { expect_error(parse(bytes), Code::invalid_argument, part); };
  refuse("", "m.safetensors: 0 bytes are no safetensors file");
  refuse(raw<uint64_t>(1) + "", "the header claims 1 bytes, the file has 0");
  refuse(raw<uint64_t>(~0ull) + "{}", "the header claims 18446744073709551615 bytes");
  refuse(file_of("[]", 0), "m.safetensors: header: expected an object");
  refuse(file_of("{\"a\":", 0), "m.safetensors: header: not valid JSON near byte 6");
  refuse(file_of(R"({"a":{},"a":{}})", 0), "field \"a\" stands there twice");
  refuse(file_of(std::string(200, '[') + std::string(200, ']'), 0), "nested more than 128 levels deep");
  refuse(file_of(R"({"a":1})", 0), "m.safetensors: tensor a: expected an object, found number");
  refuse(file_of(R"({"__metadata__":1})", 0), "field __metadata__ is not an object");
  refuse(one_tensor("7"), "tensor weight: field dtype is a JSON number, expected a text");
  refuse(one_tensor("null"), "tensor weight: field dtype is missing");
  refuse(one_tensor("\"F32\"", "[2, -3]"), "tensor weight: field shape has the extent -3");
  refuse(one_tensor("\"F32\"", "[1,1,1,1,1,1,1,1,1]"), "field shape is not a list of at most 8 extents");
  refuse(one_tensor("\"F32\"", "[9223372036854775807, 9223372036854775807]"), "do not fit its 24 bytes");
  refuse(one_tensor("\"F32\"", "[2, 4]"), "tensor weight: F32 values [2, 4] do not fit its 24 bytes");
  refuse(one_tensor("\"F32\"", "[2, 3]", "[0, 25]"), "its bytes 0 to 25 lie outside of the file's 24 bytes");
  refuse(one_tensor("\"F32\"", "[2, 3]", "[24, 0]"), "its bytes 24 to 0 lie outside");
  refuse(one_tensor("\"F32\"", "[2, 3]", "[0, 18446744073709551615]"), "lie outside");
  refuse(one_tensor("\"F32\"", "[2, 3]", "[0]"), "field data_offsets is not a pair of offsets");
  refuse(file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12),
         "m.safetensors: tensors a and b overlap");
}

TEST(Safetensors, DamagedFolders) {
  const TemporaryFolder folder;
  expect_error(Safetensors::open(folder.path()).status(), Code::not_found, "model.safetensors: cannot be opened");
  const auto index = [&](const std::string& map) {
    spill(folder / "model.safetensors.index.json", R"({"weight_map":)" + map + "}");
    return Safetensors::open(folder.path()).status();
  };
  spill(folder / "a.safetensors", one_tensor());
  spill(folder / "b.safetensors", one_tensor());
  EXPECT_TRUE(index(R"({"weight":"a.safetensors"})").ok());
  expect_error(index("[]"), Code::invalid_argument, "index.json: weight_map: expected an object, found array");
  expect_error(index(R"({"weight":"../a.safetensors"})"), Code::invalid_argument, "is not in a safetensors file of this folder");
  expect_error(index(R"({"weight":3})"), Code::invalid_argument, "tensor weight is not in a safetensors file");
  expect_error(index(R"({"weight":"c.safetensors"})"), Code::not_found, "c.safetensors: cannot be opened");
  expect_error(index(R"({"bias":"a.safetensors"})"), Code::not_found, "tensor bias is not in a.safetensors");
  expect_error(index(R"({"weight":"a.safetensors","x":"b.safetensors"})"), Code::invalid_argument,
               "b.safetensors: tensor weight stands in another file too");
}

TEST(Safetensors, EveryTruncationAndFlippedByteIsSurvived) {
  const std::string file = one_tensor();
  for (size_t size = 0; size < file.size(); ++size) EXPECT_FALSE(parse(file.substr(0, size)).ok());
  for (size_t at = 0; at < file.size() - 24; ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = file;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      const auto result = Safetensors::parse(bytes_of(damaged), "m");
      if (!result.ok()) continue;
      for (const StoredTensor& tensor : result->tensors()) {
        ASSERT_LE(tensor.bytes.data() + tensor.bytes.size(), bytes_of(damaged).data() + damaged.size());
      }
    }
  }
}

}  // namespace
}  // namespace onset
