#include "onset/kv/chunk_folder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <thread>

#include "onset/kv/chunk_header.h"
#include "onset/kv/chunk_testing.h"

namespace onset {
namespace {

namespace fs = std::filesystem;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "onset-chunks-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::unique_ptr<ChunkFolder> open_folder(const TemporaryFolder& folder, int64_t capacity = int64_t{1} << 30) {
  auto opened = ChunkFolder::open(folder.path() / "chunks", capacity);
  EXPECT_TRUE(opened.ok()) << opened.status().message();
  return *std::move(opened);
}

fs::path file_of(const TemporaryFolder& folder, const NumberedChunk& chunk) {
  return folder.path() / "chunks" / (chunk.key + ".kv");
}

void write_file(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}
std::string file_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(ChunkKey, IsOfEverythingThatMatters) {
  const NumberedChunk chunk(1);
  std::vector<std::string> keys = {chunk.key};
  const auto other = [&](auto&& change) {
    ChunkIdentity identity = chunk.chunk.identity;
    ChunkText text = chunk.chunk.text;
    change(identity, text);
    keys.push_back(chunk_key(identity, text));
  };
  other([](ChunkIdentity& identity, ChunkText&) { identity.model = "another model"; });
  other([](ChunkIdentity& identity, ChunkText&) { identity.type = KvType::int8; });
  other([](ChunkIdentity& identity, ChunkText&) { identity.head_size = 8; });
  other([](ChunkIdentity&, ChunkText& text) { text.space = "a key"; });
  other([](ChunkIdentity&, ChunkText& text) { text.tokens.back() += 1; });
  other([](ChunkIdentity&, ChunkText& text) { text.lead.clear(); });
  // The same tokens in a row, but another part of them is the lead.
  other([](ChunkIdentity&, ChunkText& text) {
    text.lead.push_back(text.tokens.front());
    text.tokens.erase(text.tokens.begin());
  });
  std::sort(keys.begin(), keys.end());
  EXPECT_EQ(std::unique(keys.begin(), keys.end()), keys.end());
  EXPECT_EQ(chunk_key(chunk.chunk.identity, chunk.chunk.text), chunk.key);
  EXPECT_EQ(chunk.key.size(), 64u);
}

TEST(ChunkHeader, ComesBackAsItWasAndOnlySo) {
  const NumberedChunk chunk(1);
  const ChunkHeader header = chunk_header(chunk.chunk);
  std::vector<std::byte> bytes = encode(header);
  EXPECT_EQ(chunk_header_bytes(bytes), bytes.size());
  const auto read = decode_chunk_header(bytes);
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->key, chunk.key);
  EXPECT_EQ(read->identity, header.identity);
  EXPECT_EQ(read->tokens, header.tokens);
  EXPECT_EQ(read->lead, header.lead);
  EXPECT_EQ(read->checksums, header.checksums);
  NumberedChunk without_lead(2);
  without_lead.chunk.text.lead.clear();
  EXPECT_TRUE(decode_chunk_header(encode(chunk_header(without_lead.chunk))).ok());
  for (size_t at = 0; at < bytes.size(); ++at) {
    bytes[at] ^= std::byte{4};
    EXPECT_FALSE(decode_chunk_header(bytes).ok()) << at;
    bytes[at] ^= std::byte{4};
    EXPECT_FALSE(decode_chunk_header(std::span(bytes).first(at)).ok()) << at;
  }
}

TEST(ChunkFolder, FindsWhatWasPutAndNothingElse) {
  const TemporaryFolder folder;
  const NumberedChunk one(1), two(2, 200), missing(3);
  {
    const auto store = open_folder(folder);
    ASSERT_TRUE(store->put(one.chunk).ok());
    ASSERT_TRUE(store->put(two.chunk).ok());
    ASSERT_TRUE(store->put(two.chunk).ok());
    EXPECT_EQ(store->statistics().stored, 2);
  }
  const auto store = open_folder(folder);
  for (const NumberedChunk* chunk : {&one, &two}) {
    const auto read = read_all(*store, *chunk);
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(*read, chunk->bytes);
  }
  EXPECT_TRUE(read_all(*store, missing)->empty());
  ChunkIdentity foreign = small_identity();
  foreign.model = "a model of the same shape";
  EXPECT_EQ(store->find(one.key, foreign), nullptr);
  const ChunkStoreStatistics counts = store->statistics();
  EXPECT_EQ(counts.hits, 2);
  EXPECT_EQ(counts.misses, 2);
  EXPECT_EQ(counts.chunks, 2);
  EXPECT_EQ(counts.failures, 0);
  const auto files = store->list();
  ASSERT_TRUE(files.ok());
  ASSERT_EQ(files->size(), 2u);
  EXPECT_EQ((*files)[1].tokens, 200);
}

TEST(ChunkFolder, DamageIsNoticedWhereverItIs) {
  const TemporaryFolder folder;
  const NumberedChunk chunk(1);
  const auto store = open_folder(folder);
  ASSERT_TRUE(store->put(chunk.chunk).ok());
  const fs::path path = file_of(folder, chunk);
  const std::string good = file_bytes(path);
  const size_t header = encode(chunk_header(chunk.chunk)).size();
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    std::string bad = good;
    const size_t at = random() % bad.size();
    if (i % 2 == 0) {
      bad[at] = static_cast<char>(bad[at] ^ (1 << (random() % 8)));
    } else {
      bad.resize(at);
    }
    write_file(path, bad);
    const auto read = read_all(*store, chunk);
    // Bytes between the layers are nobody's.
    const size_t layer =
        chunk_layer_offset(chunk_header(chunk.chunk), header, 1) - chunk_layer_offset(chunk_header(chunk.chunk), header, 0);
    const size_t first = chunk_layer_offset(chunk_header(chunk.chunk), header, 0);
    const bool matters = i % 2 == 1 || at < header || (at >= first && (at - first) % layer < chunk_header(chunk.chunk).layer_bytes());
    if (!matters) {
      ASSERT_TRUE(read.ok());
      EXPECT_EQ(*read, chunk.bytes);
    } else {
      EXPECT_TRUE(!read.ok() || read->empty()) << i << ", byte " << at;
      EXPECT_FALSE(fs::exists(path)) << "what is damaged goes";
      EXPECT_TRUE(read_all(*store, chunk)->empty());
      ASSERT_TRUE(store->put(chunk.chunk).ok());
      EXPECT_EQ(*read_all(*store, chunk), chunk.bytes);
    }
  }
  EXPECT_GT(store->statistics().failures, 50);
}

TEST(ChunkFolder, AFileThatIsCutOffWhileItIsOpenIsAnError) {
  const TemporaryFolder folder;
  const NumberedChunk chunk(1);
  const auto store = open_folder(folder);
  ASSERT_TRUE(store->put(chunk.chunk).ok());
  const auto found = store->find(chunk.key, chunk.chunk.identity);
  ASSERT_NE(found, nullptr);
  fs::resize_file(file_of(folder, chunk), 5000);
  std::vector<std::byte> bytes(chunk.bytes.size() / 3);
  std::vector<std::byte*> pages;
  for (size_t at = 0; at < bytes.size(); at += chunk.chunk.identity.page_bytes()) pages.push_back(bytes.data() + at);
  EXPECT_EQ(found->read_layer(2, pages).code(), Code::failed);
  EXPECT_EQ(store->find(chunk.key, chunk.chunk.identity), nullptr);
}

TEST(ChunkFolder, AnIndexThatIsLostOrDamagedIsMadeAgain) {
  const TemporaryFolder folder;
  const NumberedChunk one(1), two(2);
  {
    const auto store = open_folder(folder);
    ASSERT_TRUE(store->put(one.chunk).ok());
    ASSERT_TRUE(store->put(two.chunk).ok());
  }
  const fs::path index = folder.path() / "chunks" / "index.sqlite";
  write_file(index, "this is no database, and longer than a hundred bytes " + std::string(200, '.'));
  {
    const auto store = open_folder(folder);
    EXPECT_EQ(store->statistics().chunks, 2);
    EXPECT_EQ(*read_all(*store, one), one.bytes);
  }
  for (const char* part : {"", "-wal", "-shm"}) fs::remove(index.string() + part);
  const auto store = open_folder(folder);
  EXPECT_EQ(store->statistics().chunks, 2);
  EXPECT_EQ(*read_all(*store, two), two.bytes);
}

// 10,000 random operations beside a plain list that says what must be there.
TEST(ChunkFolder, KeepsItsCapacityExactlyAndTheLastUsedOnes) {
  const TemporaryFolder folder;
  std::vector<NumberedChunk> chunks;
  for (int i = 0; i < 12; ++i) chunks.emplace_back(i, 20 + 40 * (i % 4));
  std::map<std::string, int64_t> sizes;
  {
    const TemporaryFolder other;
    const auto store = open_folder(other);
    for (const NumberedChunk& chunk : chunks) {
      ASSERT_TRUE(store->put(chunk.chunk).ok());
      sizes[chunk.key] = static_cast<int64_t>(fs::file_size(file_of(other, chunk)));
    }
  }
  int64_t capacity = 0;
  for (int i = 0; i < 5; ++i) capacity += sizes[chunks[i].key];
  auto store = open_folder(folder, capacity);
  std::vector<std::string> kept;  // the least recently used first
  std::mt19937 random(7);
  const auto total = [&] {
    int64_t bytes = 0;
    for (const std::string& key : kept) bytes += sizes[key];
    return bytes;
  };
  for (int i = 0; i < 10000; ++i) {
    const NumberedChunk& chunk = chunks[random() % chunks.size()];
    const auto place = std::find(kept.begin(), kept.end(), chunk.key);
    const bool known = place != kept.end();
    switch (random() % 8) {
      case 0:
        store = open_folder(folder, capacity);
        break;
      case 1:
      case 2:
      case 3:
        ASSERT_TRUE(store->put(chunk.chunk).ok());
        if (known) kept.erase(place);
        while (total() + sizes[chunk.key] > capacity) kept.erase(kept.begin());
        kept.push_back(chunk.key);
        break;
      default:
        ASSERT_EQ(store->find(chunk.key, chunk.chunk.identity) != nullptr, known) << i;
        if (known) {
          kept.erase(place);
          kept.push_back(chunk.key);
        }
    }
    ASSERT_EQ(store->statistics().bytes, total()) << i;
  }
  int64_t on_disk = 0;
  for (const auto& entry : fs::directory_iterator(folder.path() / "chunks")) {
    if (entry.path().extension() == ".kv") on_disk += static_cast<int64_t>(entry.file_size());
  }
  EXPECT_EQ(on_disk, total());
  EXPECT_LE(on_disk, capacity);
}

TEST(ChunkFolder, AFullDiskIsAnErrorAndLeavesNothing) {
  const TemporaryFolder folder;
  const NumberedChunk small(1, 20), large(2, 4000);
  EXPECT_EQ(open_folder(folder, 20000)->put(large.chunk).code(), Code::resource_exhausted);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // No file may grow beyond this: what a full disk does, without one.
    const rlimit limit{.rlim_cur = 200000, .rlim_max = 200000};
    std::signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    auto store = ChunkFolder::open(folder.path() / "chunks", int64_t{1} << 30);
    if (!store.ok()) _exit(1);
    if ((*store)->put(large.chunk).code() != Code::resource_exhausted) _exit(2);
    if (!(*store)->put(small.chunk).ok()) _exit(3);
    if ((*store)->statistics().bytes > 100000) _exit(4);
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  const auto store = open_folder(folder);
  EXPECT_EQ(*read_all(*store, small), small.bytes);
  EXPECT_TRUE(read_all(*store, large)->empty());
  int files = 0;
  for (const auto& entry : fs::directory_iterator(folder.path() / "chunks")) files += entry.path().extension() == ".kv";
  EXPECT_EQ(files, 1);
}

// What was acknowledged is there; what was not is there whole or not at all.
TEST(ChunkFolder, LosesNothingThatItHasAcknowledgedWhenItIsKilled) {
  const TemporaryFolder folder;
  std::mt19937 random(3);
  int acknowledged_in_all = 0;
  for (int round = 0; round < 200; ++round) {
    int pipes[2];
    ASSERT_EQ(pipe(pipes), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto store = ChunkFolder::open(folder.path() / "chunks", int64_t{1} << 30);
      if (!store.ok()) _exit(1);
      for (int i = 0; i < 8; ++i) {
        const NumberedChunk chunk(round * 8 + i, 30);
        if (!(*store)->put(chunk.chunk).ok()) _exit(2);
        const char byte = static_cast<char>(i);
        if (write(pipes[1], &byte, 1) != 1) _exit(3);
      }
      _exit(0);
    }
    close(pipes[1]);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 12000));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    char acknowledged[8];
    const ssize_t count = read(pipes[0], acknowledged, sizeof(acknowledged));
    close(pipes[0]);
    const auto store = open_folder(folder);
    for (int i = 0; i < 8; ++i) {
      const NumberedChunk chunk(round * 8 + i, 30);
      const auto read = read_all(*store, chunk);
      ASSERT_TRUE(read.ok()) << read.status().message();
      if (i < count) {
        ASSERT_EQ(*read, chunk.bytes) << "acknowledged, and lost";
        ++acknowledged_in_all;
      } else {
        ASSERT_TRUE(read->empty() || *read == chunk.bytes);
      }
    }
    EXPECT_EQ(store->statistics().failures, 0);
    // Nothing half-written stays.
    for (const auto& entry : fs::directory_iterator(folder.path() / "chunks")) {
      ASSERT_FALSE(entry.path().filename().string().starts_with("writing-"));
    }
    store->prune(0).ok();
  }
  EXPECT_GT(acknowledged_in_all, 0);
}

TEST(ChunkFolder, DropsFilesFromMemoryWhereTheSystemCan) {
  const TemporaryFolder folder;
  const NumberedChunk chunk(1, 3000);
  const auto store = open_folder(folder);
  EXPECT_EQ(store->drop_from_memory(chunk.key).status().code(), Code::not_found);
  ASSERT_TRUE(store->put(chunk.chunk).ok());
  ASSERT_EQ(*read_all(*store, chunk), chunk.bytes);
  ASSERT_TRUE(store->drop_from_memory(chunk.key).ok());
  EXPECT_EQ(*read_all(*store, chunk), chunk.bytes);
  // A folder in memory has nowhere else to keep it.
  if (!fs::is_directory("/dev/shm")) return;
  std::string name = "/dev/shm/onset-chunks-XXXXXX";
  const fs::path shared = mkdtemp(name.data());
  {
    const auto in_memory = *ChunkFolder::open(shared, int64_t{1} << 30);
    ASSERT_TRUE(in_memory->put(chunk.chunk).ok());
    const auto dropped = in_memory->drop_from_memory(chunk.key);
    ASSERT_TRUE(dropped.ok()) << dropped.status().message();
    EXPECT_FALSE(*dropped);
  }
  fs::remove_all(shared);
}

TEST(ChunkFolder, ProcessesShareOne) {
  const TemporaryFolder folder;
  int64_t one = 0;
  {
    const TemporaryFolder other;
    const NumberedChunk chunk(0, 30);
    ASSERT_TRUE(open_folder(other)->put(chunk.chunk).ok());
    one = static_cast<int64_t>(fs::file_size(file_of(other, chunk)));
  }
  const int64_t capacity = 6 * one;
  std::vector<pid_t> children;
  for (uint32_t process = 0; process < 3; ++process) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child != 0) {
      children.push_back(child);
      continue;
    }
    auto store = ChunkFolder::open(folder.path() / "chunks", capacity);
    if (!store.ok()) _exit(1);
    std::mt19937 random(process);
    for (int i = 0; i < 100; ++i) {
      const NumberedChunk chunk(static_cast<int>(random() % 15), 30);
      if (random() % 2 == 0) {
        // Another process may be writing the same one.
        const Status status = (*store)->put(chunk.chunk);
        if (!status.ok() && status.message().find("another process") == std::string::npos) _exit(2);
      } else {
        const auto read = read_all(**store, chunk);
        if (!read.ok() || (!read->empty() && *read != chunk.bytes)) _exit(3);
      }
      if ((*store)->statistics().bytes > capacity) _exit(4);
    }
    _exit((*store)->statistics().failures > 100 ? 5 : 0);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << WEXITSTATUS(status);
  }
}

TEST(ChunkFolder, ThreadsReadWhileOthersWrite) {
  const TemporaryFolder folder;
  const auto store = open_folder(folder, 200000);
  std::vector<NumberedChunk> chunks;
  for (int i = 0; i < 6; ++i) chunks.emplace_back(i, 30);
  std::atomic<int> wrong = 0, found = 0;
  std::vector<std::thread> threads;
  for (uint32_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 60; ++i) {
        const NumberedChunk& chunk = chunks[random() % chunks.size()];
        if (t < 2) {
          wrong += !store->put(chunk.chunk).ok();
        } else {
          const auto read = read_all(*store, chunk);
          wrong += !read.ok() || (!read->empty() && *read != chunk.bytes);
          found += read.ok() && !read->empty();
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(store->statistics().failures, 0);
}

}  // namespace
}  // namespace onset
