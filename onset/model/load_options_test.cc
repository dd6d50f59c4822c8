#include "onset/model/load_options.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "onset/attend/block_sparse.h"
#include "onset/model/rotary.h"
#include "onset/model/testing.h"

namespace onset {
namespace {

using testing::open_shared;

ModelConfig small_config(float base, int32_t dimensions, int32_t context) {
  ModelConfig config;
  config.layers = 6;
  config.context = context;
  config.ropes = {{.base = base, .dimensions = dimensions, .frequency_factors = {}}};
  config.layer.assign(6, {});
  return config;
}

// tests/fixtures/rope_scaling/make_frequencies.py makes the numbers.
TEST(RopeScaling, FrequenciesAreThoseOfHuggingFace) {
  std::ifstream file(std::filesystem::path(ONSET_SOURCE_DIR) / "tests/fixtures/rope_scaling/frequencies.txt");
  int lines = 0;
  for (std::string line; std::getline(file, line); ++lines) {
    std::istringstream words(line);
    std::string scaling;
    float base = 0, attention_factor = 0;
    int32_t dimensions = 0, context = 0;
    words >> scaling >> base >> dimensions >> context >> attention_factor;
    ModelConfig config = small_config(base, dimensions, context);
    ASSERT_TRUE(apply_load_options(scaling, "", config).ok()) << line;
    EXPECT_NEAR(config.ropes[0].attention_factor, attention_factor, 1e-6) << scaling;
    EXPECT_EQ(config.context, context * std::stoi(scaling.substr(scaling.find(':') + 1))) << scaling;
    for (const float frequency : rotary_frequencies(config.ropes[0])) {
      float want = 0;
      ASSERT_TRUE(words >> want);
      EXPECT_NEAR(frequency, want, 2e-6 * want) << scaling << " base " << base << " dimensions " << dimensions;
    }
  }
  EXPECT_EQ(lines, 18);
}

TEST(RopeScaling, LeavesRopesOfWindowsAlone) {
  ModelConfig config = small_config(10000, 64, 2048);
  config.ropes.push_back(config.ropes[0]);
  config.layer[0].window = 512, config.layer[0].rope = 1;
  ASSERT_TRUE(apply_load_options("linear:4", "", config).ok());
  EXPECT_EQ(config.ropes[0].scaling, RopeConfig::Scaling::linear);
  EXPECT_EQ(config.ropes[1].scaling, RopeConfig::Scaling::none);
  EXPECT_EQ(apply_load_options("linear:4", "", config).code(), Code::unsupported) << "twice";
}

TEST(RopeScaling, RefusesWhatMakesNoSense) {
  for (const char* text : {"linear", "linear:", "linear:0.5", "linear:2:3", "linear:x", "linear:nan", "linear:1e9", "cubic:4", "yarn:4:32",
                           "yarn:4:1:32", "llama3:8:4:1", "llama3:8:4:4", ":", "ntk:4:", "ntk:-1"}) {
    ModelConfig config = small_config(10000, 64, 2048);
    const Status status = apply_load_options(text, "", config);
    EXPECT_EQ(status.code(), Code::invalid_argument) << text;
    EXPECT_NE(status.message().find("rope scaling"), std::string::npos) << status.message();
  }
}

TEST(Layers, LongGenGivesAllButTheMiddleLayersAPattern) {
  ModelConfig config = small_config(10000, 64, 2048);
  ASSERT_TRUE(apply_load_options("", "longgen:2:sink=64:window=128", config).ok());
  const std::vector<bool> sparse = {true, true, false, false, true, true};
  for (int layer = 0; layer < 6; ++layer) EXPECT_EQ(config.layer[layer].blocks.any(), sparse[layer]) << layer;
  EXPECT_EQ(config.layer[0].blocks, (BlockPattern{.sink = 1, .local = 2}));
  for (const char* text : {"longgen:7", "longgen", "window:5", "longgen:2:window=100", "longgen:2:stride=128:step=64", "longgen:-1",
                           "lserve:nobody", "lserve:sink=100", "lserve:budget=64", "lserve"}) {
    EXPECT_FALSE(apply_load_options("", text, config).ok()) << text;
  }
}

// LongGen, checks 1 and 5: chunks of any size, and rings that hold what the formula says.
class Patterns : public ::testing::TestWithParam<const char*> {};

struct Loaded {
  explicit Loaded(const std::string& layers)
      : workers(2),
        model(testing::value_or_throw(Model::load(open_shared(testing::fixture_models() / "stories260K.gguf"),
                                                  {.precision = Precision::fast, .isa = *choose_isa(), .layers = layers}, workers))),
        layout(model.cache_layout(KvType::int8)),
        pool(testing::value_or_throw(PagePool::create(layout_page_bytes(layout), 1000))),
        executor(workers) {}
  // The logits of each row, and how many pages are held at the end.
  std::vector<std::vector<float>> read(int32_t tokens, int32_t chunk, int64_t* pages = nullptr) {
    SequenceCache cache(layout, pool);
    std::vector<std::vector<float>> all;
    for (int32_t first = 0; first < tokens; first += chunk) {
      Batch batch;
      for (int32_t i = first; i < std::min(tokens, first + chunk); ++i) {
        batch.outputs.push_back({.row = batch.rows()});
        batch.tokens.push_back(3 + i * 7919 % 500);
        batch.positions.push_back(i);
      }
      batch.sequences.push_back({.row_begin = 0, .row_end = batch.rows(), .cache = &cache});
      testing::Collect sink(batch.outputs.size());
      EXPECT_TRUE(model.forward(batch, executor, sink).ok());
      EXPECT_LE(cache.pages_held(), pages_needed(layout, first + chunk, chunk));
      for (auto& row : sink.values) all.push_back(std::move(row));
    }
    if (pages != nullptr) *pages = cache.pages_held();
    return all;
  }
  ThreadPool workers;
  Model model;
  CacheLayout layout;
  PagePool pool;
  CpuExecutor executor;
};

TEST_P(Patterns, RingsChangeNoBitWhateverTheChunk) {
  Loaded sparse(GetParam());
  const auto whole = sparse.read(500, 500);
  for (const int32_t chunk : {1, 7, 64, 333}) EXPECT_EQ(sparse.read(500, chunk), whole) << chunk;
  EXPECT_NE(Loaded("").read(500, 500), whole);
}
INSTANTIATE_TEST_SUITE_P(Longgen, Patterns,
                         ::testing::Values("longgen:1:sink=64:window=128", "longgen:1:window=64:stride=192", "longgen:0:sink=0:window=64"));
INSTANTIATE_TEST_SUITE_P(Lserve, Patterns, ::testing::Values("lserve:sparsity=1:sink=64:local=128", "lserve:sparsity=1:sink=0:local=64"));

// A table of the story model's 5 layers and 4 KV heads, whose first two heads stream.
std::string streaming_table_file() {
  const std::string path = ::testing::TempDir() + "layers_streaming.tsv";
  std::ofstream file(path);
  for (int layer = 0; layer < 5; ++layer) file << "0\t0.1\t0.9\t1\n";
  return path;
}

TEST(Layers, AtTheirLimitsArePlain) {
  const auto plain = Loaded("").read(300, 100);
  EXPECT_EQ(Loaded("longgen:5").read(300, 100), plain);
  EXPECT_EQ(Loaded("longgen:0:sink=0:window=320").read(300, 100), plain);
  EXPECT_EQ(Loaded("longgen:0:window=64:stride=64").read(300, 100), plain);
  EXPECT_EQ(Loaded("lserve:sparsity=0").read(300, 100), plain);
  EXPECT_EQ(Loaded("lserve:sparsity=1:local=320").read(300, 100), plain);
}

// LServe, checks 3 and 4: streaming heads hold their sink and what is near, however long the text; the others everything.
TEST(Layers, StreamingHeadsHoldTheSameHoweverLongTheText) {
  Loaded streams("lserve:" + streaming_table_file() + ":sink=64:local=128");
  EXPECT_EQ(streams.layout.head_groups, 4);
  const auto whole = streams.read(500, 500);
  for (const int32_t chunk : {1, 7, 333}) EXPECT_EQ(streams.read(500, chunk), whole) << chunk;
  for (const int32_t tokens : {385, 449, 500}) {
    int64_t pages = 0;
    streams.read(tokens, 1, &pages);
    EXPECT_EQ(pages, 5 * 2 * ((tokens + 63) / 64) + 5 * 2 * (1 + 3)) << tokens;
    EXPECT_EQ(pages, pages_needed(streams.layout, tokens, 1));
  }
}

TEST(Layers, HoldTheFormulasPages) {
  Loaded sparse("longgen:1:sink=64:window=128");
  const int64_t layers = sparse.layout.layers;
  int64_t pages = 0;
  sparse.read(449, 1, &pages);
  EXPECT_EQ(pages, 8 + (layers - 1) * 3);
  EXPECT_EQ(pages, pages_needed(sparse.layout, 449, 1));
  Loaded striped("longgen:1:window=64:stride=192");
  striped.read(449, 1, &pages);
  EXPECT_EQ(pages, 8 + (layers - 1) * (3 + 1));
  EXPECT_EQ(pages, pages_needed(striped.layout, 449, 1));
}

// Llama 2 7B at 131,072 tokens: 26.5 of 69.2 GB.
TEST(Layers, KeepTheShareOfLongGensPaper) {
  CacheLayout layout{.type = KvType::f16, .layers = 32, .heads_per_group = 32, .head_size = 128, .windows = std::vector<int32_t>(32, 0)};
  const int64_t all = pages_needed(layout, 131072, 1);
  layout.patterns.resize(32);
  for (int32_t layer = 0; layer < 32; ++layer) {
    if (!long_gen_full({.full_layers = 12}, 32, layer)) layout.patterns[layer] = {.sink = 1, .local = 31};
  }
  const int64_t kept = pages_needed(layout, 131072, 1);
  EXPECT_EQ(kept, 12 * 2048 + 20 * 32);
  EXPECT_NEAR(static_cast<double>(kept) / static_cast<double>(all), 0.385, 0.001);
}

}  // namespace
}  // namespace onset
