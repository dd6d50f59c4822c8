#include "onset/formats/convert.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <random>

#include "onset/formats/open_model.h"
#include "onset/formats/testing.h"
#include "onset/tensor/block_formats.h"

namespace onset {
namespace {

using namespace testing;

// A model of Gaussian weights in memory: enough layers to tell the sensitive ones.
class MadeModel {
 public:
  explicit MadeModel(int64_t columns, bool tied = true, int layers = 8) : model_("made.gguf") {
    metadata_.set_text("general.architecture", "llama");
    metadata_.set_u32("llama.block_count", static_cast<uint32_t>(layers));
    metadata_.set_u32("general.alignment", 64);
    metadata_.set_text("quantize.imatrix.file", "x");
    entries_ = metadata_.entries();
    for (const MetadataEntry& entry : entries_) EXPECT_TRUE(model_.add_metadata(entry).ok());
    add("token_embd.weight", {16, columns});
    add("output_norm.weight", {columns});
    if (!tied) add("output.weight", {16, columns});
    for (int i = 0; i < layers; ++i) {
      const std::string block = "blk." + std::to_string(i) + ".";
      add(block + "attn_q.weight", {8, columns});
      add(block + "attn_q.bias", {8});
      add(block + "attn_v.weight", {8, columns});
      add(block + "ffn_down.weight", {8, columns});
    }
  }
  const ModelFile& model() const { return model_; }
  std::vector<float>& values(const std::string& name) {
    for (auto& [known, values] : values_) {
      if (known == name) return *values;
    }
    throw std::runtime_error(name);
  }

 private:
  void add(const std::string& name, std::vector<int64_t> shape) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(count));
    std::normal_distribution<float> normal(0.0f, 0.05f);
    for (float& value : *values) value = normal(random_);
    EXPECT_TRUE(model_.add_tensor({name, DType::f32, std::move(shape), std::as_bytes(std::span(*values))}).ok());
    values_.emplace_back(name, values);
  }
  GgufMetadata metadata_;
  std::vector<MetadataEntry> entries_;
  std::vector<std::pair<std::string, std::shared_ptr<std::vector<float>>>> values_;
  std::mt19937 random_{1};
  ModelFile model_;
};

double relative_error(const StoredTensor& tensor, const StoredTensor& original) {
  std::vector<float> found(static_cast<size_t>(tensor.columns())), truth(found.size());
  double error = 0, square = 0;
  for (int64_t row = 0; row < tensor.rows(); ++row) {
    dequantize_row(tensor.dtype, tensor.row(row).data(), found);
    dequantize_row(original.dtype, original.row(row).data(), truth);
    for (size_t i = 0; i < found.size(); ++i) {
      error += std::pow(static_cast<double>(found[i]) - truth[i], 2);
      square += std::pow(static_cast<double>(truth[i]), 2);
    }
  }
  return std::sqrt(error / square);
}

std::string types_of(const ModelFile& model, const ConvertOptions& options) {
  std::string text;
  for (const StoredTensor& tensor : model.tensors()) {
    if (tensor.shape.size() == 1) continue;
    text += std::string(text.empty() ? "" : " ") + dtype_name(choose_type(model, tensor, options).used);
  }
  return text;
}

TEST(Convert, EveryTypeFromEveryFixtureModelComesBack) {
  const TemporaryFolder folder;
  ThreadPool pool(2);
  for (const char* name : {"llama", "llama3", "llama_yarn", "mistral", "qwen2", "qwen3", "gemma3"}) {
    const ModelFile source = value_of(open_model(fixtures / "models" / name));
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::q4_0, DType::q4_1, DType::q5_0, DType::q5_1, DType::q8_0,
                              DType::q4_k, DType::q5_k, DType::q6_k}) {
      const std::string file = std::string(name) + dtype_name(dtype) + ".gguf";
      const ConvertReport report = value_of(convert(source, folder / file, {.dtype = dtype}, pool));
      const ModelFile made = value_of(open_gguf(folder / file));
      ASSERT_EQ(made.tensors().size(), source.tensors().size());
      EXPECT_EQ(report.tensors, static_cast<int64_t>(made.tensors().size()));
      for (const StoredTensor& tensor : made.tensors()) {
        const StoredTensor* original = value_of(source.tensor(tensor.name, tensor.shape));
        const double limit = dtype == DType::f32 || tensor.shape.size() == 1 ? 0.0 : 0.1;
        EXPECT_LE(relative_error(tensor, *original), limit) << file << " " << tensor.name;
      }
      for (const MetadataEntry& entry : source.metadata()) EXPECT_TRUE(made.has(entry.key)) << entry.key;
    }
  }
}

TEST(Convert, TypesAreChosenAsLlamaQuantizeDoes) {
  // Embedding (tied), then q, v, down of each of 8 layers; layers 0, 3, 6 and 7 are the sensitive ones.
  const MadeModel wide(256);
  EXPECT_EQ(types_of(wide.model(), {.dtype = DType::q4_k}),
            "Q6_K Q4_K Q6_K Q6_K Q4_K Q4_K Q4_K Q4_K Q4_K Q4_K Q4_K Q6_K Q6_K Q4_K Q4_K Q4_K Q4_K Q4_K Q4_K "
            "Q4_K Q6_K "
            "Q6_K Q4_K Q6_K Q6_K");
  EXPECT_EQ(types_of(wide.model(), {.dtype = DType::q4_0}).substr(0, 9), "Q6_K Q4_0");
  EXPECT_EQ(types_of(wide.model(), {.dtype = DType::q8_0}).substr(0, 9), "Q8_0 Q8_0");
  EXPECT_EQ(types_of(wide.model(), {.dtype = DType::q5_k, .pure = true}).find("Q6_K"), std::string::npos);
  EXPECT_EQ(types_of(wide.model(), {.dtype = DType::bf16}).substr(0, 9), "BF16 BF16");
  const MadeModel untied(256, false);
  EXPECT_EQ(types_of(untied.model(), {.dtype = DType::q4_k}).substr(0, 14), "Q4_K Q6_K Q4_K");
  // Rows that are no multiple of 256, and none of 32.
  const MadeModel narrow(96);
  EXPECT_EQ(types_of(narrow.model(), {.dtype = DType::q4_k}).substr(0, 24), "Q8_0 Q5_0 Q8_0 Q8_0 Q5_0");
  EXPECT_EQ(types_of(narrow.model(), {.dtype = DType::q5_k, .pure = true}).substr(0, 9), "Q5_1 Q5_1");
  EXPECT_EQ(types_of(narrow.model(), {.dtype = DType::q6_k, .pure = true}).substr(0, 9), "Q8_0 Q8_0");
  const MadeModel odd(36);
  EXPECT_EQ(types_of(odd.model(), {.dtype = DType::q4_k, .pure = true}).substr(0, 7), "F16 F16");
}

TEST(Convert, ReportsFallbacksAndProgress) {
  const TemporaryFolder folder;
  ThreadPool pool(1);
  const MadeModel narrow(96);
  ConvertProgress last;
  const ConvertReport report =
      value_of(convert(narrow.model(), folder / "m.gguf",
                       {.dtype = DType::q4_k, .pure = true, .progress = [&](const ConvertProgress& progress) { last = progress; }}, pool));
  ASSERT_EQ(report.fallbacks.size(), 25u);
  EXPECT_EQ(report.fallbacks[0].tensor, "token_embd.weight");
  EXPECT_EQ(report.fallbacks[0].meant, DType::q4_k);
  EXPECT_EQ(report.fallbacks[0].used, DType::q5_0);
  EXPECT_EQ(report.fallbacks[0].columns, 96);
  EXPECT_EQ(last.tensor, "blk.7.ffn_down.weight");
  EXPECT_EQ(last.bytes_done, report.bytes);
  EXPECT_EQ(last.bytes_total, report.bytes);
  const ModelFile made = value_of(open_gguf(folder / "m.gguf"));
  EXPECT_EQ(value_of(made.integer("general.quantization_version")), 2);
  EXPECT_EQ(value_of(made.integer("general.file_type")), 14);
  EXPECT_FALSE(made.has("general.alignment"));
  EXPECT_FALSE(made.has("quantize.imatrix.file"));
}

TEST(Convert, RequantisingKeepsEqualTypesAndSplits) {
  const TemporaryFolder folder;
  ThreadPool pool(2);
  const MadeModel made(256);
  ASSERT_TRUE(convert(made.model(), folder / "a.gguf", {.dtype = DType::q4_1}, pool).ok());
  const ModelFile first = value_of(open_gguf(folder / "a.gguf"));
  const ConvertReport report = value_of(convert(first, folder / "b.gguf", {.dtype = DType::q4_1, .split = {.part_tensors = 10}}, pool));
  EXPECT_EQ(report.requantised, 0);
  EXPECT_EQ(report.files.size(), 4u);
  const ModelFile second = value_of(open_gguf(report.files[2]));
  for (const StoredTensor& tensor : first.tensors()) {
    const StoredTensor* copy = value_of(second.tensor(tensor.name));
    EXPECT_TRUE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), copy->bytes.begin(), copy->bytes.end()));
  }
  EXPECT_EQ(value_of(convert(first, folder / "c.gguf", {.dtype = DType::q8_0}, pool)).requantised, 25);
  // A model may be replaced by its own conversion: the mapped source stays readable until it is done.
  ASSERT_TRUE(convert(first, folder / "a.gguf", {.dtype = DType::q4_0}, pool).ok());
  EXPECT_EQ(value_of(value_of(open_gguf(folder / "a.gguf")).tensor("blk.0.attn_q.weight"))->dtype, DType::q4_0);
}

TEST(Convert, ResultDoesNotDependOnThreads) {
  const TemporaryFolder folder;
  const MadeModel made(256);
  ThreadPool one(1), three(3);
  ASSERT_TRUE(convert(made.model(), folder / "a.gguf", {.dtype = DType::q4_k}, one).ok());
  ASSERT_TRUE(convert(made.model(), folder / "b.gguf", {.dtype = DType::q4_k}, three).ok());
  EXPECT_EQ(slurp(folder / "a.gguf"), slurp(folder / "b.gguf"));
}

TEST(Convert, BadValuesAreFoundByName) {
  const TemporaryFolder folder;
  ThreadPool pool(1);
  MadeModel made(256);
  made.values("blk.2.attn_v.weight")[700] = std::nanf("");
  expect_error(convert(made.model(), folder / "m.gguf", {.dtype = DType::q4_k}, pool).status(), Code::invalid_argument,
               "made.gguf: tensor blk.2.attn_v.weight holds values that are infinite or not a number");
  made.values("blk.2.attn_v.weight")[700] = 1e5f;
  expect_error(convert(made.model(), folder / "m.gguf", {.dtype = DType::f16}, pool).status(), Code::invalid_argument,
               "tensor blk.2.attn_v.weight holds values above 65504, too large for F16: choose BF16 or F32");
  EXPECT_TRUE(convert(made.model(), folder / "ok.gguf", {.dtype = DType::bf16}, pool).ok());
  expect_error(convert(made.model(), folder / "m.gguf", {.dtype = DType::i32}, pool).status(), Code::invalid_argument,
               "a model cannot be converted to I32");
  EXPECT_FALSE(std::filesystem::exists(folder / "m.gguf"));
}

TEST(Convert, AFullDiskLeavesNothingBehind) {
  const TemporaryFolder folder;
  ThreadPool pool(1);
  const MadeModel made(256);
  // A limit on the size of files fails the write as a full disk does; the signal that comes with it is not
  // wanted.
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 20000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = convert(made.model(), folder / "m.gguf", {.dtype = DType::f32}, pool).status();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("m.gguf: cannot be written: "), std::string::npos) << status.message();
  EXPECT_TRUE(folder.empty());
}

}  // namespace
}  // namespace onset
