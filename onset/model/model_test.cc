// The model against Hugging Face transformers (golden logits), and against itself however its work is cut.
#include "onset/model/model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <random>

#include "onset/formats/gguf.h"
#include "onset/model/testing.h"

namespace onset {
namespace {

using testing::Golden;
using testing::open_shared;
using testing::Runner;

Isa best_isa() {
  return *choose_isa();
}

class Architectures : public ::testing::TestWithParam<const char*> {
 protected:
  std::filesystem::path folder() const { return testing::fixture_models() / GetParam(); }
};

float largest_difference(const Golden& golden, const std::vector<std::vector<float>>& logits) {
  float largest = 0;
  for (size_t i = 0; i < golden.rows.size(); ++i) {
    for (int32_t token = 0; token < golden.vocabulary; ++token) {
      const float difference = std::fabs(golden.logits[i * golden.vocabulary + token] - logits[golden.rows[i]][token]);
      if (!(difference <= largest)) largest = difference;
    }
  }
  return largest;
}

TEST_P(Architectures, ReferenceEqualsHuggingFace) {
  const Golden golden = testing::read_golden(folder() / "golden.bin");
  for (const Isa isa : {Isa::generic, best_isa()}) {
    Runner runner(open_shared(folder()), Precision::reference, KvType::f32, 2, isa);
    EXPECT_LE(largest_difference(golden, runner.prefill(golden.tokens, 300)), 1e-4f) << isa_name(isa);
  }
}

// What the fast path rounds away stays small beside the logits, though random layers multiply it.
TEST_P(Architectures, FastIsNearReference) {
  const Golden golden = testing::read_golden(folder() / "golden.bin");
  Runner runner(open_shared(folder()), Precision::fast, KvType::int8, 2, best_isa());
  const auto logits = runner.prefill(golden.tokens, 300);
  double squares = 0, size = 0;
  for (size_t i = 0; i < golden.rows.size(); ++i) {
    for (int32_t token = 0; token < golden.vocabulary; ++token) {
      const double want = golden.logits[i * golden.vocabulary + token];
      squares += std::pow(want - logits[golden.rows[i]][token], 2), size += want * want;
    }
  }
  EXPECT_LE(std::sqrt(squares / size), 0.15);
}

TEST_P(Architectures, ChunksAndThreadsChangeNoBit) {
  const Golden golden = testing::read_golden(folder() / "golden.bin");
  for (const auto& [precision, type] : {std::pair(Precision::fast, KvType::int8), std::pair(Precision::fast, KvType::f16),
                                        std::pair(Precision::fast, KvType::bf16), std::pair(Precision::reference, KvType::f32)}) {
    Runner whole(open_shared(folder()), precision, type, 2, best_isa());
    const auto expected = whole.prefill(golden.tokens, 300);
    for (const auto& [chunk, threads] : {std::pair(1, 1), std::pair(7, 2), std::pair(64, 1), std::pair(133, 3)}) {
      Runner runner(open_shared(folder()), precision, type, threads, best_isa());
      EXPECT_EQ(expected, runner.prefill(golden.tokens, chunk))
          << "chunk " << chunk << ", threads " << threads << ", " << kv_type_name(type);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, Architectures,
                         ::testing::Values("llama", "llama3", "llama_linear", "llama_yarn", "mistral", "qwen2", "qwen3", "gemma3"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Model, CompanionsInTheBatchChangeNoBit) {
  const auto file = open_shared(testing::fixture_models() / "qwen3");
  Runner runner(file, Precision::fast, KvType::int8, 2, best_isa());
  std::mt19937 random(7);
  std::vector<std::vector<int32_t>> prompts(9);
  for (auto& prompt : prompts) {
    prompt.resize(1 + random() % 120);
    for (int32_t& token : prompt) token = static_cast<int32_t>(random() % 256);
  }
  std::vector<std::unique_ptr<SequenceCache>> caches;
  Batch batch;
  for (const auto& prompt : prompts) {
    caches.push_back(runner.cache());
    const int32_t begin = batch.rows();
    for (size_t i = 0; i < prompt.size(); ++i) {
      batch.tokens.push_back(prompt[i]);
      batch.positions.push_back(static_cast<int32_t>(i));
      batch.outputs.push_back({.row = begin + static_cast<int32_t>(i)});
    }
    batch.sequences.push_back({.row_begin = begin, .row_end = batch.rows(), .cache = caches.back().get()});
  }
  const auto together = runner.run(batch);
  size_t at = 0;
  for (const auto& prompt : prompts) {
    for (const auto& alone : runner.prefill(prompt, 1000)) EXPECT_EQ(alone, together[at++]);
  }
}

TEST(Model, PackedWeightsComeBackFromTheCache) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("onset-packed-{}", ::getpid());
  std::filesystem::remove_all(folder);
  const Golden golden = testing::read_golden(testing::fixture_models() / "llama" / "golden.bin");
  ThreadPool workers(2);
  std::vector<std::vector<float>> first;
  for (const bool cached : {false, true}) {
    const auto file = open_shared(testing::fixture_models() / "llama");
    auto model = testing::value_or_throw(
        Model::load(file, {.precision = Precision::fast, .isa = best_isa(), .shard = {}, .packed_cache = folder, .progress = {}}, workers));
    EXPECT_EQ(model.packed_from_cache(), cached);
    EXPECT_EQ(model.cache_warning(), "");
    const CacheLayout layout = model.cache_layout(KvType::int8);
    PagePool pool = testing::value_or_throw(PagePool::create(layout_page_bytes(layout), 100));
    SequenceCache cache(layout, pool);
    CpuExecutor executor(workers);
    Batch batch{.tokens = {1, 2, 3},
                .vectors = {},
                .positions = {0, 1, 2},
                .sequences = {{.row_begin = 0, .row_end = 3, .cache = &cache}},
                .outputs = {{.row = 2}}};
    testing::Collect sink(1);
    ASSERT_TRUE(model.forward(batch, executor, sink).ok());
    if (cached) {
      EXPECT_EQ(first, sink.values);
    }
    first = sink.values;
  }
  // A damaged or foreign file is packed again, not believed.
  for (const auto& entry : std::filesystem::directory_iterator(folder)) std::filesystem::resize_file(entry.path(), 5000);
  auto again = Model::load(open_shared(testing::fixture_models() / "llama"),
                           {.precision = Precision::fast, .isa = best_isa(), .shard = {}, .packed_cache = folder, .progress = {}}, workers);
  ASSERT_TRUE(again.ok());
  EXPECT_FALSE(again->packed_from_cache());
  // A cache that cannot be written is said, and the model runs all the same.
  std::filesystem::remove_all(folder);
  std::ofstream(folder) << "a file where a folder should be";
  auto unwritable =
      Model::load(open_shared(testing::fixture_models() / "llama"),
                  {.precision = Precision::fast, .isa = best_isa(), .shard = {}, .packed_cache = folder, .progress = {}}, workers);
  ASSERT_TRUE(unwritable.ok());
  EXPECT_NE(unwritable->cache_warning(), "");
  std::filesystem::remove_all(folder);
}

// Writes a copy of the llama fixture as GGUF, changed by `change`, and tries to load it.
Status load_changed(const std::function<void(GgufMetadata&, std::vector<GgufTensorInfo>&, std::vector<std::vector<std::byte>>&)>& change) {
  const auto file = open_shared(testing::fixture_models() / "llama");
  GgufMetadata metadata;
  for (const MetadataEntry& entry : file->metadata()) metadata.set(entry);
  std::vector<GgufTensorInfo> infos;
  std::vector<std::vector<std::byte>> bytes;
  for (const StoredTensor& tensor : file->tensors()) {
    infos.push_back({tensor.name, tensor.dtype, tensor.shape});
    bytes.emplace_back(tensor.bytes.begin(), tensor.bytes.end());
  }
  change(metadata, infos, bytes);
  const auto path = std::filesystem::temp_directory_path() / fmt::format("onset-changed-{}.gguf", ::getpid());
  auto writer = testing::value_or_throw(GgufWriter::create(path, metadata, infos));
  for (const auto& part : bytes) {
    if (const Status status = writer.write(part); !status.ok()) return status;
  }
  if (const Status status = writer.commit(); !status.ok()) return status;
  ThreadPool workers(1);
  auto opened = open_model(path);
  Status status = opened.status();
  if (opened.ok()) {
    const auto shared = std::make_shared<const ModelFile>(*std::move(opened));
    status =
        Model::load(shared, {.precision = Precision::fast, .isa = best_isa(), .shard = {}, .packed_cache = {}, .progress = {}}, workers)
            .status();
  }
  std::filesystem::remove(path);
  return status;
}

TEST(Model, DamagedModelsAreRefusedByName) {
  using Infos = std::vector<GgufTensorInfo>;
  using Bytes = std::vector<std::vector<std::byte>>;
  EXPECT_TRUE(load_changed([](GgufMetadata&, Infos&, Bytes&) {}).ok());
  const auto says = [](const Status& status, const std::string& text) {
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find(text), std::string::npos) << status.message();
  };
  says(load_changed([](GgufMetadata& metadata, Infos&, Bytes&) { metadata.set_text("general.architecture", "mamba"); }), "\"mamba\"");
  says(load_changed([](GgufMetadata& metadata, Infos&, Bytes&) { metadata.set_u32("llama.attention.head_count", 0); }),
       "llama.attention.head_count");
  says(load_changed([](GgufMetadata& metadata, Infos&, Bytes&) { metadata.set_u32("llama.attention.head_count_kv", 3); }), "cannot share");
  says(load_changed([](GgufMetadata& metadata, Infos&, Bytes&) { metadata.set_u32("llama.block_count", 4); }), "blk.3.");
  says(load_changed([](GgufMetadata& metadata, Infos&, Bytes&) { metadata.set_u32("llama.block_count", 2); }), "blk.2.");
  says(load_changed([](GgufMetadata& metadata, Infos&, Bytes&) { metadata.set_text("llama.rope.scaling.type", "strange"); }),
       "\"strange\"");
  says(load_changed([](GgufMetadata&, Infos& infos, Bytes&) { infos[3].name += ".new"; }), ".weight");
  says(load_changed([](GgufMetadata&, Infos& infos, Bytes& bytes) {
         for (size_t i = 0; i < infos.size(); ++i) {
           if (infos[i].name != "blk.1.ffn_down.weight") continue;
           const float wrong = std::nanf("");
           std::memcpy(bytes[i].data() + 40, &wrong, 4);
         }
       }),
       "blk.1.ffn_down.weight");
  says(load_changed([](GgufMetadata&, Infos& infos, Bytes& bytes) {
         for (size_t i = 0; i < infos.size(); ++i) {
           if (infos[i].name != "blk.0.attn_norm.weight") continue;
           const float wrong = INFINITY;
           std::memcpy(bytes[i].data(), &wrong, 4);
         }
       }),
       "blk.0.attn_norm.weight");
}

}  // namespace
}  // namespace onset
