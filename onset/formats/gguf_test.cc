#include "onset/formats/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "onset/formats/testing.h"
#include "onset/tensor/block_formats.h"

namespace onset {
namespace {

using namespace testing;

const std::vector<GgufTensorInfo> three_tensors = {
    {"a.weight", DType::f32, {3, 5}}, {"b.weight", DType::q4_0, {2, 64}}, {"c.weight", DType::bf16, {7}}};

// The header of a file with one entry and one tensor, field by field, so that tests can get each of them
// wrong.
struct Parts {
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t tensors = 1, entries = 1;
  std::string key = "general.alignment";
  uint32_t value_type = 4;
  std::string value = raw<uint32_t>(32);
  std::string name = "weight";
  std::vector<uint64_t> extents = {8, 2};
  uint32_t tensor_type = 0;
  uint64_t offset = 0;
  size_t data = 64;

  std::string file() const {
    std::string text = magic + raw(version) + raw(tensors) + raw(entries);
    text += raw<uint64_t>(key.size()) + key + raw(value_type) + value;
    text += raw<uint64_t>(name.size()) + name + raw(static_cast<uint32_t>(extents.size()));
    for (const uint64_t extent : extents) text += raw(extent);
    text += raw(tensor_type) + raw(offset);
    text.resize((text.size() + 31) / 32 * 32);
    return text + std::string(data, '\0');
  }
};

Status parse(const Parts& parts) {
  return parse_gguf(bytes_of(parts.file()), "m.gguf").status();
}

TEST(Gguf, ReadsWhatTheGgufPackageWrote) {
  const ModelFile file = value_of(open_gguf(fixtures / "formats/small.gguf"));
  EXPECT_EQ(value_of(file.text("general.architecture")), "llama");
  EXPECT_EQ(value_of(file.integer("test.uint8")), 255);
  EXPECT_EQ(value_of(file.integer("test.int8")), -128);
  EXPECT_EQ(value_of(file.integer("test.uint16")), 65535);
  EXPECT_EQ(value_of(file.integer("test.int16")), -32768);
  EXPECT_EQ(value_of(file.integer("test.uint32")), 4294967295);
  EXPECT_EQ(value_of(file.integer("test.int32")), std::numeric_limits<int32_t>::min());
  EXPECT_EQ(value_of(file.integer("test.int64")), std::numeric_limits<int64_t>::min());
  expect_error(file.integer("test.uint64").status(), Code::invalid_argument, "test.uint64 has a number above 2^63 - 1");
  EXPECT_EQ(value_of(file.real("test.uint64")), std::ldexp(1.0, 64));
  EXPECT_EQ(value_of(file.real("test.float32")), static_cast<double>(0.1f));
  EXPECT_EQ(value_of(file.real("test.float64")), 0.1);
  EXPECT_EQ(value_of(file.real("test.int8")), -128.0);
  EXPECT_TRUE(value_of(file.boolean("test.bool")));
  EXPECT_EQ(value_of(file.text("test.text")), "größer 🚀");
  EXPECT_EQ(value_of(file.texts("test.texts")), (std::vector<std::string_view>{"", "a", "größer"}));
  EXPECT_EQ(value_of(file.reals("test.reals")), (std::vector<float>{1.5f, -2.25f}));
  EXPECT_EQ(value_of(file.integers("test.booleans")), (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(value_of(file.integers("test.bytes")), (std::vector<int64_t>{1, 255}));

  ASSERT_EQ(file.tensors().size(), 4u);
  EXPECT_EQ(value_of(file.tensor("cube"))->shape, (std::vector<int64_t>{2, 3, 4}));
  EXPECT_EQ(value_of(file.tensor("cube"))->dtype, DType::i32);
  for (const char* name : {"plain", "half", "blocks"}) {
    const StoredTensor* tensor = value_of(file.tensor(name, std::vector<int64_t>{3, 64}));
    std::vector<float> row(64);
    dequantize_row(tensor->dtype, tensor->row(2).data(), row);
    for (int i = 0; i < 64; ++i) EXPECT_NEAR(row[static_cast<size_t>(i)], 128 - 100 + i, 0.4) << name;
  }
}

TEST(Gguf, ReadersSayWhatIsMissingOrOfAnotherType) {
  const ModelFile file = value_of(open_gguf(fixtures / "formats/small.gguf"));
  expect_error(file.integer("llama.block_count").status(), Code::not_found,
               "small.gguf: key llama.block_count is absent, expected an integer");
  expect_error(file.text("test.uint8").status(), Code::invalid_argument, "small.gguf: key test.uint8 has type u8, expected a text");
  expect_error(file.integer("test.texts").status(), Code::invalid_argument, "key test.texts has type array of text, expected an integer");
  expect_error(file.texts("test.reals").status(), Code::invalid_argument,
               "key test.reals has type array of f32, expected an array of texts");
  expect_error(file.boolean("test.float32").status(), Code::invalid_argument, "expected a boolean");
  EXPECT_EQ(value_of(file.integer_or("absent", 7)), 7);
  EXPECT_EQ(value_of(file.real_or("absent", 0.5)), 0.5);
  EXPECT_EQ(value_of(file.text_or("absent", "x")), "x");
  EXPECT_TRUE(value_of(file.boolean_or("absent", true)));
  EXPECT_FALSE(file.integer_or("test.text", 7).ok());
  expect_error(file.tensor("output.weight").status(), Code::not_found, "small.gguf: tensor output.weight is absent");
  expect_error(file.tensor("plain", std::vector<int64_t>{64, 3}).status(), Code::invalid_argument,
               "tensor plain has shape [3, 64], expected [64, 3]");
}

TEST(Gguf, WhatIsWrittenIsReadBack) {
  const TemporaryFolder folder;
  GgufMetadata metadata;
  metadata.set_u32("u32", 7);
  metadata.set_u16("u16", 65535);
  metadata.set_i32("i32", -7);
  metadata.set_u64("u64", 1ull << 40);
  metadata.set_f32("f32", 0.25f);
  metadata.set_boolean("boolean", true);
  metadata.set_text("text", "first");
  metadata.set_text("text", "second");
  metadata.set_i32s("i32s", std::vector<int32_t>{1, -2});
  metadata.set_f32s("f32s", std::vector<float>{});
  metadata.set_booleans("booleans", {true, false});
  metadata.set_texts("texts", std::vector<std::string>{"a", std::string("b\0c", 3)});
  metadata.set_u32("gone", 1);
  metadata.remove("gone");
  const auto paths = write_gguf(folder / "m.gguf", metadata, three_tensors);
  EXPECT_EQ(paths, std::vector{folder / "m.gguf"});

  const ModelFile file = value_of(open_gguf(folder / "m.gguf"));
  EXPECT_EQ(file.metadata().size(), 11u);
  EXPECT_EQ(value_of(file.integer("u32")), 7);
  EXPECT_EQ(value_of(file.integer("u16")), 65535);
  EXPECT_EQ(value_of(file.integer("i32")), -7);
  EXPECT_EQ(value_of(file.integer("u64")), int64_t{1} << 40);
  EXPECT_EQ(value_of(file.real("f32")), 0.25);
  EXPECT_TRUE(value_of(file.boolean("boolean")));
  EXPECT_EQ(value_of(file.text("text")), "second");
  EXPECT_EQ(value_of(file.integers("i32s")), (std::vector<int64_t>{1, -2}));
  EXPECT_TRUE(value_of(file.reals("f32s")).empty());
  EXPECT_EQ(value_of(file.integers("booleans")), (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(value_of(file.texts("texts"))[1], std::string_view("b\0c", 3));
  ASSERT_EQ(file.tensors().size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(file.tensors()[i].name, three_tensors[i].name);
    EXPECT_EQ(file.tensors()[i].shape, three_tensors[i].shape);
    EXPECT_EQ(file.tensors()[i].dtype, three_tensors[i].dtype);
    for (const std::byte byte : file.tensors()[i].bytes) ASSERT_EQ(byte, static_cast<std::byte>(i + 1));
  }
  // An entry copied out of a file is the same entry.
  GgufMetadata copy;
  for (const MetadataEntry& entry : file.metadata()) copy.set(entry);
  write_gguf(folder / "copy.gguf", copy, three_tensors);
  EXPECT_EQ(slurp(folder / "copy.gguf"), slurp(folder / "m.gguf"));
}

TEST(Gguf, VersionTwoIsReadToo) {
  Parts parts;
  parts.version = 2;
  EXPECT_TRUE(parse(parts).ok());
}

TEST(Gguf, WriterRefusesWhatCannotBe) {
  const TemporaryFolder folder;
  const auto refuse = [&](std::vector<GgufTensorInfo> tensors, const GgufSplit& split, const std::string& part) {
    expect_error(GgufWriter::create(folder / "m.gguf", {}, std::move(tensors), split).status(), Code::invalid_argument, part);
  };
  refuse({{"a", DType::f32, {1}}, {"a", DType::f32, {1}}}, {}, "a tensor cannot be named \"a\"");
  refuse({{"a", DType::q4_k, {2, 128}}}, {}, "tensor a of type Q4_K cannot have shape [2, 128]");
  refuse({{"a", DType::f32, {1, 1, 1, 1, 1}}}, {}, "cannot have shape");
  std::vector<GgufTensorInfo> many;
  for (int i = 0; i < 600; ++i) many.push_back({std::to_string(i), DType::f32, {1}});
  refuse(many, {.part_tensors = 1}, "would be split into 600 parts, at most 512 are allowed");
  {
    GgufWriter writer = value_of(GgufWriter::create(folder / "m.gguf", {}, three_tensors));
    expect_error(writer.commit(), Code::invalid_argument, "the bytes of tensor a.weight are missing");
    expect_error(writer.write(std::vector<std::byte>(61)), Code::invalid_argument, "more bytes than tensor a.weight has");
  }
  EXPECT_TRUE(folder.empty());  // nothing half-written stays
}

TEST(Gguf, SplitModelsOpenFromAnyPart) {
  const TemporaryFolder folder;
  GgufMetadata metadata;
  metadata.set_text("general.architecture", "llama");
  const auto by_count = write_gguf(folder / "m.gguf", metadata, three_tensors, {.part_tensors = 1});
  ASSERT_EQ(by_count.size(), 3u);
  EXPECT_EQ(by_count[1], folder / "m-00002-of-00003.gguf");
  for (const auto& path : by_count) {
    const ModelFile file = value_of(open_gguf(path));
    EXPECT_EQ(value_of(file.text("general.architecture")), "llama");
    ASSERT_EQ(file.tensors().size(), 3u);
    for (size_t i = 0; i < 3; ++i) EXPECT_EQ(file.tensors()[i].bytes[0], static_cast<std::byte>(i + 1));
  }
  // 60, 72 and 14 bytes, padded to 64, 96 and 32.
  EXPECT_EQ(write_gguf(folder / "two.gguf", metadata, three_tensors, {.part_bytes = 160}).size(), 2u);
  EXPECT_EQ(write_gguf(folder / "one.gguf", metadata, three_tensors, {.part_bytes = 192}).size(), 1u);
}

TEST(Gguf, SplitModelsWithPartsMissingOrMixedUp) {
  const TemporaryFolder folder;
  write_gguf(folder / "m.gguf", {}, three_tensors, {.part_tensors = 1});
  const auto part = [&](int i) { return folder / ("m-0000" + std::to_string(i) + "-of-00003.gguf"); };
  const std::string second = slurp(part(2)), third = slurp(part(3));

  std::filesystem::remove(part(3));
  expect_error(open_gguf(part(1)).status(), Code::not_found, "m-00003-of-00003.gguf: cannot be opened");
  std::filesystem::create_symlink(part(1), part(3));  // a circle: the last part leads back to the first
  expect_error(open_gguf(part(1)).status(), Code::invalid_argument, "its keys say part 1 of 3");
  expect_error(open_gguf(part(3)).status(), Code::invalid_argument, "the file's name does not");
  std::filesystem::remove(part(3));
  spill(part(3), second);
  expect_error(open_gguf(part(1)).status(), Code::invalid_argument, "its keys say part 2 of 3");
  spill(part(3), third);
  ASSERT_TRUE(open_gguf(part(2)).ok());

  std::filesystem::rename(part(2), folder / "renamed.gguf");
  expect_error(open_gguf(folder / "renamed.gguf").status(), Code::invalid_argument,
               "keys split.no and split.count say part 2 of 3, the file's name does not");
  expect_error(parse_gguf(bytes_of(second), "m.gguf").status(), Code::unsupported, "part 2 of 3 of a split model");

  // A part that has a tensor of another part, and one that has too few.
  write_gguf(folder / "x.gguf", {}, {{"a.weight", DType::f32, {3, 5}}, {"z", DType::f32, {1}}, {"c.weight", DType::bf16, {7}}},
             {.part_tensors = 1});
  std::filesystem::rename(folder / "x-00001-of-00003.gguf", part(2));
  expect_error(open_gguf(part(1)).status(), Code::invalid_argument, "its keys say part 1 of 3");
  std::string claims_two = slurp(folder / "x-00002-of-00003.gguf");
  claims_two.replace(claims_two.find("split.tensors.count") + 19 + 4, 4, raw<int32_t>(4));
  spill(part(2), claims_two);
  expect_error(open_gguf(part(1)).status(), Code::invalid_argument, "of a model of 4 tensors");
}

TEST(Gguf, EveryFieldOfADamagedHeaderHasItsSentence) {
  ASSERT_TRUE(parse({}).ok()) << parse({}).message();
  const auto refuse = [](Code code, const std::string& sentence, auto change) {
    Parts parts;
    change(parts);
    expect_error(parse(parts), code, "m.gguf: " + sentence);
  };
  const Code bad = Code::invalid_argument;
  const uint64_t huge = ~uint64_t{0};
  refuse(bad, "not a GGUF file", [](Parts& p) { p.magic = "GGML"; });
  refuse(Code::unsupported, "GGUF version 1; versions 2 and 3 can be read", [](Parts& p) { p.version = 1; });
  refuse(Code::unsupported, "GGUF version 4", [](Parts& p) { p.version = 4; });
  refuse(Code::unsupported, "a big-endian GGUF file", [](Parts& p) { p.version = 0x03000000; });
  refuse(bad, "the header claims 18446744073709551615 tensors", [=](Parts& p) { p.tensors = huge; });
  refuse(bad, "the header claims 1 tensors and 1099511627776 metadata entries", [](Parts& p) { p.entries = 1ull << 40; });
  refuse(bad, "the key of metadata entry 0 claims 70000 bytes, at most 65535", [](Parts& p) { p.key.resize(70000); });
  refuse(bad, "key general.alignment has type 77, which is no metadata type", [](Parts& p) { p.value_type = 77; });
  refuse(bad, "key general.alignment has type text, expected an integer",
         [](Parts& p) { p.value_type = 8, p.value = raw<uint64_t>(1) + "x"; });
  refuse(bad, "key general.alignment is 24, expected a power of two", [](Parts& p) { p.value = raw<uint32_t>(24); });
  refuse(bad, "key general.alignment is 0", [](Parts& p) { p.value = raw<uint32_t>(0); });
  refuse(bad, "key general.alignment claims 4611686018427387904 elements",
         [](Parts& p) { p.value_type = 9, p.value = raw<uint32_t>(4) + raw<uint64_t>(1ull << 62); });
  refuse(Code::unsupported, "key general.alignment is an array of arrays",
         [](Parts& p) { p.value_type = 9, p.value = raw<uint32_t>(9) + raw<uint64_t>(1); });
  refuse(bad, "the file ends at byte 192 within key x: it is truncated or damaged",
         [=](Parts& p) { p.key = "x", p.value_type = 9, p.value = raw<uint32_t>(8) + raw<uint64_t>(3) + raw(huge); });
  refuse(bad, "tensor weight claims 0 dimensions, expected 1 to 4", [](Parts& p) { p.extents.clear(); });
  refuse(bad, "tensor weight claims 5 dimensions", [](Parts& p) { p.extents = {1, 1, 1, 1, 1}; });
  refuse(bad, "tensor weight claims an extent of 0", [](Parts& p) { p.extents = {0, 2}; });
  refuse(bad, "tensor weight claims an extent of 18446744073709551615", [=](Parts& p) { p.extents = {huge}; });
  refuse(bad, "tensor weight of type F32 cannot have shape", [](Parts& p) { p.extents = {1ull << 62, 1ull << 62}; });
  refuse(bad, "tensor weight of type Q4_0 cannot have shape [2, 8]", [](Parts& p) { p.tensor_type = 2; });
  refuse(Code::unsupported, "tensor weight has element type 16 (IQ2_XXS)", [](Parts& p) { p.tensor_type = 16; });
  refuse(Code::unsupported, "tensor weight has element type 999 (unknown)", [](Parts& p) { p.tensor_type = 999; });
  refuse(bad, "tensor weight has offset 4, expected a multiple of 32", [](Parts& p) { p.offset = 4; });
  refuse(bad, "tensor weight needs 64 bytes at offset 32, but the file has 64 bytes of tensors", [](Parts& p) { p.offset = 32; });
  refuse(bad, "tensor weight needs 64 bytes at offset 18446744073709551584", [=](Parts& p) { p.offset = huge - 31; });
  refuse(bad, "tensor weight needs 64 bytes at offset 0, but the file has 63", [](Parts& p) { p.data = 63; });
  refuse(bad, "the name of tensor 0 claims 2000 bytes, at most 1024", [](Parts& p) { p.name.resize(2000); });
}

TEST(Gguf, DuplicatesAndOverlapsAreRefused) {
  const TemporaryFolder folder;
  GgufMetadata metadata;
  metadata.set_u32("key1", 1);
  metadata.set_u32("key2", 2);
  write_gguf(folder / "m.gguf", metadata, {{"tensor1", DType::f32, {16}}, {"tensor2", DType::f32, {16}}});
  const std::string file = slurp(folder / "m.gguf");
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string copy = file;
    copy.replace(copy.find(from), from.size(), to);
    return parse_gguf(bytes_of(copy), "m.gguf").status();
  };
  expect_error(changed("key2", "key1"), Code::invalid_argument, "m.gguf: key key1 stands there twice");
  expect_error(changed("tensor2", "tensor1"), Code::invalid_argument, "m.gguf: tensor tensor1 stands there twice");
  // The second tensor's offset, 64, becomes 32.
  const std::string declaration = "tensor2" + raw<uint32_t>(1) + raw<uint64_t>(16) + raw<uint32_t>(0);
  expect_error(changed(declaration + raw<uint64_t>(64), declaration + raw<uint64_t>(32)), Code::invalid_argument,
               "m.gguf: tensors tensor1 and tensor2 overlap");
}

TEST(Gguf, EveryTruncationAndFlippedByteIsSurvived) {
  const std::string file = slurp(fixtures / "formats/small.gguf");
  for (size_t size = 0; size < file.size(); ++size) {
    const std::string part = file.substr(0, size);
    const Status status = parse_gguf(bytes_of(part), "m.gguf").status();
    ASSERT_FALSE(status.ok()) << size;
    ASSERT_NE(status.message(), "");
  }
  for (size_t at = 0; at < file.size(); ++at) {
    for (const int bit : {0, 3, 7}) {
      std::string damaged = file;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      const auto model = parse_gguf(bytes_of(damaged), "m.gguf");
      if (!model.ok()) continue;
      for (const StoredTensor& tensor : model->tensors()) {
        ASSERT_GE(tensor.bytes.data(), bytes_of(damaged).data());
        ASSERT_LE(tensor.bytes.data() + tensor.bytes.size(), bytes_of(damaged).data() + damaged.size());
      }
    }
  }
}

TEST(Gguf, AbsentFilesAndFolders) {
  const TemporaryFolder folder;
  expect_error(open_gguf(folder / "absent.gguf").status(), Code::not_found, "absent.gguf: cannot be opened");
  expect_error(open_gguf(folder.path()).status(), Code::invalid_argument, "expected a regular file");
  spill(folder / "empty.gguf", "");
  expect_error(open_gguf(folder / "empty.gguf").status(), Code::invalid_argument, "the file ends at byte 0 within the header");
}

TEST(Gguf, NotANumberIsFoundByName) {
  const TemporaryFolder folder;
  write_gguf(folder / "m.gguf", {}, three_tensors);
  std::string file = slurp(folder / "m.gguf");
  const ModelFile sound = value_of(parse_gguf(bytes_of(file), "m.gguf"));
  for (const StoredTensor& tensor : sound.tensors()) EXPECT_TRUE(check_finite(tensor).ok());
  const size_t second_block = static_cast<size_t>(sound.tensors()[1].bytes.data() - bytes_of(file).data()) + 18;
  file.replace(second_block, 2, raw<uint16_t>(0x7e00));
  const ModelFile damaged = value_of(parse_gguf(bytes_of(file), "m.gguf"));
  expect_error(check_finite(damaged.tensors()[1]), Code::invalid_argument,
               "tensor b.weight holds values that are infinite or not a number");
}

}  // namespace
}  // namespace onset
