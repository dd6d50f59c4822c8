#include "onset/kv/chunk_transfer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>

#include "onset/kv/chunk_testing.h"

namespace onset {
namespace {

// A store in memory, whose layers can be held back and can fail.
class PlainStore : public ChunkStore {
 public:
  explicit PlainStore(const char* tier = "plain") : tier_(tier) {}
  const char* tier() const override { return tier_; }
  Status put(const ChunkToStore& chunk) override {
    const std::lock_guard lock(mutex_);
    chunks_[chunk_key(chunk.identity, chunk.text)].assign(chunk.pages.begin(), chunk.pages.end());
    return {};
  }
  std::unique_ptr<StoredChunk> find(const std::string& key, const ChunkIdentity& identity) override {
    const std::lock_guard lock(mutex_);
    const auto found = chunks_.find(key);
    if (found == chunks_.end()) return nullptr;
    return std::make_unique<Chunk>(*this, found->second, identity);
  }
  ChunkStoreStatistics statistics() const override { return {}; }
  Result<std::vector<std::string>> keys() override { return std::vector<std::string>(); }
  Result<ChunkText> text(const std::string&, const ChunkIdentity&) override { return error(Code::not_found, "it keeps no texts"); }
  size_t chunks() const {
    const std::lock_guard lock(mutex_);
    return chunks_.size();
  }

  std::atomic<int32_t> allowed = INT32_MAX;  // layers that may be read
  std::atomic<int32_t> fails_at = INT32_MAX;

 private:
  class Chunk : public StoredChunk {
   public:
    Chunk(PlainStore& store, std::vector<std::byte> bytes, ChunkIdentity identity)
        : store_(store), bytes_(std::move(bytes)), identity_(std::move(identity)) {}
    int64_t bytes() const override { return static_cast<int64_t>(bytes_.size()); }
    Status read_layer(int32_t layer, std::span<std::byte* const> pages) override {
      while (layer >= store_.allowed) std::this_thread::yield();
      if (layer >= store_.fails_at) return error(Code::failed, "layer {} is gone", layer);
      for (size_t page = 0; page < pages.size(); ++page) {
        const size_t size = identity_.page_bytes();
        std::copy_n(bytes_.data() + (layer * pages.size() + page) * size, size, pages[page]);
      }
      return {};
    }

   private:
    PlainStore& store_;
    std::vector<std::byte> bytes_;
    ChunkIdentity identity_;
  };
  const char* tier_;
  mutable std::mutex mutex_;
  std::map<std::string, std::vector<std::byte>> chunks_;
};

struct Target {
  explicit Target(const NumberedChunk& chunk) : bytes(chunk.bytes.size()) {
    const ChunkIdentity& identity = chunk.chunk.identity;
    const size_t of_layer = bytes.size() / identity.layers;
    for (int32_t layer = 0; layer < identity.layers; ++layer) {
      auto& here = pages.emplace_back();
      for (size_t at = 0; at < of_layer; at += identity.page_bytes()) here.push_back(bytes.data() + layer * of_layer + at);
    }
  }
  std::vector<std::byte> bytes;
  ChunkLoad::Pages pages;
};

OwnedChunk owned(const NumberedChunk& chunk) {
  return {.identity = chunk.chunk.identity, .text = chunk.chunk.text, .pages = chunk.bytes};
}

TEST(ChunkTransfer, BringsLayersInTheirOrderAndSaysFromWhere) {
  const auto near = std::make_shared<PlainStore>("near"), far = std::make_shared<PlainStore>("far");
  const NumberedChunk one(1), two(2), missing(3);
  ASSERT_TRUE(near->put(one.chunk).ok());
  ASSERT_TRUE(far->put(two.chunk).ok());
  ChunkTransfer transfer({near, far}, 0);
  const auto load = transfer.look_up({one.key, missing.key, two.key}, small_identity());
  load->wait_for_look_up();
  EXPECT_STREQ(load->tier(0), "near");
  EXPECT_EQ(load->tier(1), nullptr);
  EXPECT_STREQ(load->tier(2), "far");
  Target first(one), second(two);
  far->allowed = 2;
  transfer.begin(load, {first.pages, {}, second.pages}, {0, 0, 0});
  EXPECT_TRUE(load->wait(1, 1).ok());
  EXPECT_FALSE(load->complete());
  far->allowed = 3;
  EXPECT_TRUE(load->wait(2, 1).ok());
  EXPECT_TRUE(load->complete());
  EXPECT_EQ(first.bytes, one.bytes);
  EXPECT_EQ(second.bytes, two.bytes);
  EXPECT_EQ(load->loaded_bytes(), static_cast<int64_t>(one.bytes.size() + two.bytes.size()));
}

// What is computed first does not wait for what is computed later.
TEST(ChunkTransfer, GroupsComeOneAfterTheOther) {
  const auto near = std::make_shared<PlainStore>("near"), far = std::make_shared<PlainStore>("far");
  const NumberedChunk one(1), two(2);
  ASSERT_TRUE(near->put(one.chunk).ok());
  ASSERT_TRUE(far->put(two.chunk).ok());
  ChunkTransfer transfer({near, far}, 0);
  const auto load = transfer.look_up({two.key, one.key}, small_identity());
  load->wait_for_look_up();
  EXPECT_FALSE(load->complete());
  Target first(one), second(two);
  far->allowed = 0;
  transfer.begin(load, {second.pages, first.pages}, {1, 0});
  EXPECT_TRUE(load->wait(2, 1).ok());
  EXPECT_EQ(first.bytes, one.bytes);
  EXPECT_FALSE(load->complete());
  far->allowed = 3;
  EXPECT_TRUE(load->wait(2, 2).ok());
  EXPECT_EQ(second.bytes, two.bytes);
  EXPECT_TRUE(load->complete());
}

TEST(ChunkTransfer, AFailureIsTheLoadsEnd) {
  const auto store = std::make_shared<PlainStore>();
  const NumberedChunk chunk(1);
  ASSERT_TRUE(store->put(chunk.chunk).ok());
  store->fails_at = 1;
  ChunkTransfer transfer({store}, 0);
  const auto load = transfer.look_up({chunk.key}, small_identity());
  load->wait_for_look_up();
  Target target(chunk);
  transfer.begin(load, {target.pages}, {0});
  EXPECT_TRUE(load->wait(0, 1).ok());
  EXPECT_EQ(load->wait(1, 1).message(), "layer 1 is gone");
  EXPECT_EQ(load->wait(2, 1).code(), Code::failed);
  EXPECT_TRUE(load->failed());
}

TEST(ChunkTransfer, NobodyWritesToPagesAfterAStop) {
  const auto store = std::make_shared<PlainStore>();
  const NumberedChunk chunk(1);
  ASSERT_TRUE(store->put(chunk.chunk).ok());
  ChunkTransfer transfer({store}, 0);
  for (int i = 0; i < 50; ++i) {
    const auto load = transfer.look_up({chunk.key}, small_identity());
    load->wait_for_look_up();
    Target target(chunk);
    transfer.begin(load, {target.pages}, {0});
    if (i % 2 == 0) {
      EXPECT_TRUE(load->wait(0, 1).ok());
    }
    load->stop();
    const std::vector<std::byte> now = target.bytes;
    std::this_thread::yield();
    EXPECT_EQ(target.bytes, now);
  }
}

TEST(ChunkTransfer, ASlowDeviceIsWaitedFor) {
  const auto store = std::make_shared<PlainStore>();
  const NumberedChunk chunk(1);
  ASSERT_TRUE(store->put(chunk.chunk).ok());
  const double seconds = 0.1;
  ChunkTransfer transfer({store}, static_cast<double>(chunk.bytes.size()) / seconds);
  const auto load = transfer.look_up({chunk.key}, small_identity());
  load->wait_for_look_up();
  Target target(chunk);
  transfer.begin(load, {target.pages}, {0});
  EXPECT_TRUE(load->wait(2, 1).ok());
  EXPECT_GE(load->load_seconds(), seconds);
}

TEST(ChunkTransfer, KeepsInTheBackgroundInEveryStore) {
  const auto near = std::make_shared<PlainStore>("near"), far = std::make_shared<PlainStore>("far");
  {
    ChunkTransfer transfer({near, far}, 0);
    for (int i = 0; i < 5; ++i) transfer.keep(owned(NumberedChunk(i)));
    transfer.wait_until_kept();
    EXPECT_EQ(near->chunks(), 5u);
    EXPECT_EQ(far->chunks(), 5u);
    for (int i = 5; i < 10; ++i) transfer.keep(owned(NumberedChunk(i)));
  }
  EXPECT_EQ(far->chunks(), 10u) << "what waits at the end is kept too";
  ChunkTransfer narrow({near}, 0, 10);
  narrow.keep(owned(NumberedChunk(20)));
  EXPECT_EQ(narrow.not_kept(), 1);
}

}  // namespace
}  // namespace onset
