// Limits hold exactly: ten thousand requests of every kind in a pool and a chunk folder that are too small for them, counted after every
// step.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <mutex>
#include <random>

#include "onset/engine/engine.h"
#include "onset/engine/testing.h"
#include "onset/kv/chunk_folder.h"

namespace onset {
namespace {

namespace fs = std::filesystem;
using namespace onset::testing;

// A folder of chunks whose files can be counted: nobody changes them meanwhile.
class CountedFolder : public ChunkStore {
 public:
  explicit CountedFolder(int64_t capacity) : capacity_(capacity) {
    std::string name = (fs::temp_directory_path() / "onset-limits-XXXXXX").string();
    path_ = mkdtemp(name.data());
    open();
  }
  ~CountedFolder() override {
    folder_.reset();
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  // Closes it and takes up what is there.
  void open() {
    folder_.reset();
    auto opened = ChunkFolder::open(path_ / "chunks", capacity_);
    ASSERT_TRUE(opened.ok()) << opened.status().message();
    folder_ = *std::move(opened);
  }

  const char* tier() const override { return folder_->tier(); }
  Result<std::vector<std::string>> keys() override { return folder_->keys(); }
  Result<ChunkText> text(const std::string& key, const ChunkIdentity& identity) override { return folder_->text(key, identity); }
  std::unique_ptr<StoredChunk> find(const std::string& key, const ChunkIdentity& identity) override {
    const std::lock_guard lock(mutex_);
    auto found = folder_->find(key, identity);
    return found ? std::make_unique<CountedChunk>(mutex_, std::move(found)) : nullptr;
  }
  Status put(const ChunkToStore& chunk) override {
    const std::lock_guard lock(mutex_);
    return folder_->put(chunk);
  }
  ChunkStoreStatistics statistics() const override { return folder_->statistics(); }

  void check() {
    const std::lock_guard lock(mutex_);
    const ChunkStoreStatistics counts = folder_->statistics();
    int64_t bytes = 0, files = 0;
    for (const auto& entry : fs::directory_iterator(path_ / "chunks")) {
      if (entry.path().filename().string().starts_with("index.")) continue;
      ASSERT_EQ(entry.path().extension(), ".kv");
      bytes += static_cast<int64_t>(entry.file_size());
      ++files;
    }
    ASSERT_LE(bytes, capacity_);
    ASSERT_EQ(bytes, counts.bytes);
    ASSERT_EQ(files, counts.chunks);
  }
  // Changes a byte of some chunk's layers.
  void damage(std::mt19937& random) {
    const std::lock_guard lock(mutex_);
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(path_ / "chunks")) {
      if (entry.path().extension() == ".kv") files.push_back(entry.path());
    }
    if (files.empty()) return;
    const fs::path& path = files[random() % files.size()];
    const auto at = static_cast<std::streamoff>(fs::file_size(path) / 2 + random() % 4000);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const char byte = static_cast<char>(file.get());
    file.seekp(at);
    file.put(static_cast<char>(~byte));
  }

 private:
  struct CountedChunk : StoredChunk {
    CountedChunk(std::mutex& its_mutex, std::unique_ptr<StoredChunk> its_chunk) : mutex(its_mutex), chunk(std::move(its_chunk)) {}
    int64_t bytes() const override { return chunk->bytes(); }
    Status read_layer(int32_t layer, std::span<std::byte* const> pages) override {
      const std::lock_guard lock(mutex);
      return chunk->read_layer(layer, pages);
    }
    std::mutex& mutex;
    std::unique_ptr<StoredChunk> chunk;
  };

  const int64_t capacity_;
  fs::path path_;
  std::mutex mutex_;
  std::unique_ptr<ChunkFolder> folder_;
};

std::vector<int32_t> document(uint32_t number) {
  return random_tokens(4 + static_cast<int32_t>(number * 37 % 88), 1000 + number);
}

// Prompts that begin alike, contexts of thirty documents, some more often than others, in every way they are read, keys that share nothing.
Request random_request(std::mt19937& random) {
  const auto one_in = [&](uint32_t n) { return random() % n == 0; };
  Request request{.tokens = random_tokens(1 + static_cast<int32_t>(random() % 10), random() % 50),
                  .most_new_tokens = static_cast<int32_t>(random() % 5),
                  .ignore_end = true,
                  .priority = one_in(8) ? 1 : 0};
  if (one_in(5)) request.space = "another key";
  if (one_in(12)) request.prefix_cache = false;
  if (one_in(50)) request.deadline_seconds = 1e-3;
  std::vector<std::vector<int32_t>> texts;
  for (uint32_t i = 0; i < 1 + random() % 3; ++i) texts.push_back(document(std::min(random() % 30, random() % 30)));
  const std::vector<int32_t> prefix = random_tokens(static_cast<int32_t>(random() % 3) * 20, 7);
  switch (random() % 5) {
    case 0:  // one text, as the prefix cache knows it
      texts[0].insert(texts[0].end(), request.tokens.begin(), request.tokens.end());
      request.tokens = texts[0];
      break;
    case 1:
      request.contexts = {prefix, texts, ParallelContextsOptions()};
      break;
    case 2:
      request.contexts = {prefix, texts, CacheBlendOptions{.ratio = 0}};
      break;
    case 3:
      request.contexts = {prefix, texts, CacheBlendOptions{.ratio = 0.3f, .hide_loading = one_in(3)}};
      break;
    default:  // short, and an answer that grows
      request.most_new_tokens = 1 + static_cast<int32_t>(random() % 60);
  }
  return request;
}

class Workload {
 public:
  Workload(std::shared_ptr<CountedFolder> folder, EngineOptions options, uint32_t seed) : folder_(std::move(folder)), random_(seed) {
    options.threads = 1;
    options.pool_tokens = 640;
    options.scheduling.token_budget = 48;
    options.scheduling.watermark = 0;
    options.chunk_stores = {folder_};
    engine_ = make_engine(std::move(options));
  }

  void run(int requests) {
    for (int i = 0; i < requests; ++i) {
      ASSERT_NO_FATAL_FAILURE(submit());
      if (random_() % 20 == 0) folder_->damage(random_);
      for (uint32_t steps = random_() % 4; steps > 0 || told_.size() - ended_ > 24; steps -= steps > 0) {
        if (!engine_->has_work()) break;
        ASSERT_NO_FATAL_FAILURE(step());
      }
      if (random_() % 12 != 0 || told_.empty()) continue;
      engine_->cancel(told_[told_.size() - 1 - random_() % std::min<size_t>(told_.size(), 20)]->id);
      ASSERT_NO_FATAL_FAILURE(check());
    }
    while (engine_->has_work()) ASSERT_NO_FATAL_FAILURE(step());
    expect_no_pages(*engine_);
    for (const auto& told : told_) ASSERT_EQ(told->ends, 1);
  }

  const Engine& engine() const { return *engine_; }
  int64_t tokens(const std::string& tier) { return tokens_[tier]; }
  int ended(Finish finish) { return finishes_[finish]; }

 private:
  struct Answer {
    RequestId id = 0;
    int ends = 0;
  };

  void submit() {
    auto told = std::make_unique<Answer>();
    Answer& answer = *told;
    const auto id = engine_->submit(random_request(random_), [this, &answer](const Event& event) {
      if (event.finish == Finish::none) return;
      ++answer.ends;
      ++ended_;
      ++finishes_[event.finish];
      // Nothing fails but what needs more pages than there are.
      if (event.finish == Finish::failed) {
        EXPECT_EQ(event.status.code(), Code::resource_exhausted) << event.status.message();
      }
      if (!event.contexts) return;
      for (const auto& [tier, tokens] : event.contexts->tokens) tokens_[tier] += tokens;
    });
    ASSERT_TRUE(id.ok()) << id.status().message();
    answer.id = *id;
    told_.push_back(std::move(told));
  }

  void step() {
    const Status status = engine_->step();
    ASSERT_TRUE(status.ok()) << status.message();
    check();
  }

  void check() {
    const Status right = engine_->audit();
    ASSERT_TRUE(right.ok()) << right.message();
    const EngineStatistics now = engine_->statistics();
    ASSERT_LE(now.reserved_pages, now.pages);
    ASSERT_LE(now.pages - now.free_pages, now.reserved_pages);
    folder_->check();
  }

  std::shared_ptr<CountedFolder> folder_;
  std::mt19937 random_;
  std::unique_ptr<Engine> engine_;
  std::vector<std::unique_ptr<Answer>> told_;
  size_t ended_ = 0;
  std::map<std::string, int64_t> tokens_;
  std::map<Finish, int> finishes_;
};

// A chunk of these documents takes 24 to 44 KiB: the folder has room for a third of them.
TEST(Limits, HoldExactlyUnderTenThousandRequests) {
  const auto folder = std::make_shared<CountedFolder>(360 << 10);
  int64_t failures = 0;
  for (uint32_t part = 0; part < 4; ++part) {
    SCOPED_TRACE(part);
    if (part > 0) folder->open();
    EngineOptions options = test_options();
    options.scheduling.preemption = part % 2 == 0 ? PreemptionKind::recompute : PreemptionKind::swap;
    if (part == 2) options.chunk_bytes_per_second = 3e8;  // loads last for several steps
    if (part == 3) options.prefix_cache = false;          // everything known comes from the folder
    Workload workload(folder, std::move(options), part);
    ASSERT_NO_FATAL_FAILURE(workload.run(2500));
    // All of it has happened.
    const EngineStatistics counts = workload.engine().statistics();
    EXPECT_GT(part % 2 == 0 ? counts.preempted_to_recompute : counts.preempted_to_file, 0);
    for (const char* tier : {"read", "disk"}) EXPECT_GT(workload.tokens(tier), 0) << tier;
    EXPECT_EQ(workload.tokens("memory") > 0, part < 3);
    for (const Finish finish : {Finish::length, Finish::cancelled, Finish::expired}) EXPECT_GT(workload.ended(finish), 0);
    EXPECT_LT(workload.ended(Finish::failed), 25);
    EXPECT_GT(folder->statistics().evicted, 0);
    failures += counts.context_failures;
  }
  EXPECT_GT(failures, 0);
}

}  // namespace
}  // namespace onset
