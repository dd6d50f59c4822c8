#include "onset/kv/chunk_redis.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <hiredis/hiredis.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "onset/kv/chunk_testing.h"

namespace onset {
namespace {

int free_port() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address));
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  close(listener);
  return ntohs(address.sin_port);
}

// A Redis of the test's own, without files.
class RedisServer {
 public:
  explicit RedisServer(int port) : port_(port) {
    process_ = fork();
    if (process_ == 0) {
      const std::string number = std::to_string(port);
      // This program is the server when it goes by that name; redis-tools brings it without the service.
      execlp("redis-check-rdb", "redis-server", "--port", number.c_str(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--loglevel", "warning", "--logfile", "/dev/null", nullptr);
      _exit(127);
    }
    for (int i = 0; i < 500 && !answers(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  ~RedisServer() {
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
  }
  bool answers() const {
    redisContext* context = redisConnect("127.0.0.1", port_);
    const bool connected = context != nullptr && context->err == 0;
    redisFree(context);
    return connected;
  }
  // The number that the answer is, 0 where it is none.
  int64_t command(const char* words) const {
    redisContext* context = redisConnect("127.0.0.1", port_);
    auto* reply = static_cast<redisReply*>(redisCommand(context, words));
    const int64_t number = reply != nullptr && reply->type == REDIS_REPLY_INTEGER ? reply->integer : 0;
    freeReplyObject(reply);
    redisFree(context);
    return number;
  }

 private:
  int port_;
  pid_t process_;
};

std::string url_of(int port) {
  return "redis://127.0.0.1:" + std::to_string(port);
}

TEST(ChunkRedis, UrlsAreChecked) {
  for (const char* url : {"redis://localhost", "redis://:secret@localhost:7000/3", "redis://[::1]:6379", "redis://10.0.0.1/"}) {
    EXPECT_TRUE(ChunkRedis::open(url).ok()) << url;
  }
  for (const char* url : {"", "rediss://localhost", "localhost:6379", "redis://", "redis://localhost:99999", "redis://localhost:6379/x",
                          "redis://user:secret@localhost"}) {
    const auto opened = ChunkRedis::open(url);
    ASSERT_FALSE(opened.ok()) << url;
    EXPECT_EQ(opened.status().code(), Code::invalid_argument);
    EXPECT_EQ(opened.status().message().find("secret"), std::string::npos) << "passwords stay out of messages";
  }
}

TEST(ChunkRedis, HostsFindWhatOthersPut) {
  const int port = free_port();
  const RedisServer server(port);
  const auto here = *ChunkRedis::open(url_of(port)), there = *ChunkRedis::open(url_of(port));
  ASSERT_TRUE(here->ping().ok()) << here->ping().message();
  const NumberedChunk chunk(1), missing(2);
  ASSERT_TRUE(here->put(chunk.chunk).ok());
  EXPECT_EQ(*read_all(*there, chunk), chunk.bytes);
  EXPECT_TRUE(read_all(*there, missing)->empty());
  ChunkIdentity foreign = small_identity();
  foreign.model = "another";
  EXPECT_EQ(there->find(chunk.key, foreign), nullptr);
  EXPECT_EQ(there->statistics().hits, 1);
  EXPECT_EQ(there->statistics().misses, 2);
  EXPECT_EQ(*there->keys(), std::vector<std::string>{chunk.key});
  const auto text = there->text(chunk.key, small_identity());
  ASSERT_TRUE(text.ok()) << text.status().message();
  EXPECT_EQ(std::pair(text->lead, text->tokens), std::pair(chunk.chunk.text.lead, chunk.chunk.text.tokens));
  EXPECT_EQ(there->text(chunk.key, foreign).status().code(), Code::not_found);
  EXPECT_EQ(there->text(missing.key, small_identity()).status().code(), Code::not_found);
}

TEST(ChunkRedis, WhatIsDamagedOrGoneIsAMissOrAnError) {
  const int port = free_port();
  const RedisServer server(port);
  const auto store = *ChunkRedis::open(url_of(port));
  const NumberedChunk chunk(1);
  const std::string name = "onset:chunk:" + chunk.key;
  for (const std::string& harm : {"DEL " + name, "DEL " + name + ":1", "APPEND " + name + ":2 x", "SETRANGE " + name + ":0 40 xyz",
                                  "SETRANGE " + name + " 90 zzzz", "SET " + name + " short", std::string("FLUSHALL")}) {
    ASSERT_TRUE(store->put(chunk.chunk).ok());
    ASSERT_EQ(*read_all(*store, chunk), chunk.bytes);
    server.command(harm.c_str());
    const auto read = read_all(*store, chunk);
    EXPECT_TRUE(!read.ok() || read->empty()) << harm;
    EXPECT_EQ(store->find(chunk.key, chunk.chunk.identity), nullptr) << harm;
  }
  // Of another type than it was.
  server.command(("DEL " + name).c_str());
  server.command(("LPUSH " + name + " x").c_str());
  EXPECT_TRUE(read_all(*store, chunk)->empty());
}

TEST(ChunkRedis, AServerThatStopsIsAMissAndReturns) {
  const int port = free_port();
  const NumberedChunk chunk(1);
  const auto store = *ChunkRedis::open(url_of(port));
  EXPECT_EQ(store->find(chunk.key, chunk.chunk.identity), nullptr);
  EXPECT_EQ(store->put(chunk.chunk).code(), Code::failed);
  const auto returned = [&] {
    for (int i = 0; i < 200; ++i) {
      if (store->ping().ok()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  };
  std::unique_ptr<StoredChunk> open;
  {
    const RedisServer server(port);
    ASSERT_TRUE(returned());
    ASSERT_TRUE(store->put(chunk.chunk).ok());
    open = store->find(chunk.key, chunk.chunk.identity);
    ASSERT_NE(open, nullptr);
  }
  std::vector<std::byte> bytes(chunk.bytes.size() / 3);
  std::vector<std::byte*> pages;
  for (size_t at = 0; at < bytes.size(); at += chunk.chunk.identity.page_bytes()) pages.push_back(bytes.data() + at);
  EXPECT_EQ(open->read_layer(0, pages).code(), Code::failed);
  EXPECT_EQ(store->find(chunk.key, chunk.chunk.identity), nullptr);
  const RedisServer server(port);
  ASSERT_TRUE(returned());
  EXPECT_TRUE(read_all(*store, chunk)->empty()) << "it has begun anew";
  ASSERT_TRUE(store->put(chunk.chunk).ok());
  EXPECT_EQ(*read_all(*store, chunk), chunk.bytes);
}

TEST(ChunkRedis, WhatIsErasedLeavesNothing) {
  const int port = free_port();
  const RedisServer server(port);
  const NumberedChunk chunk(1), other(2);
  const auto store = *ChunkRedis::open(url_of(port));
  ASSERT_TRUE(store->put(chunk.chunk).ok());
  ASSERT_TRUE(store->put(other.chunk).ok());
  ASSERT_TRUE(store->erase(chunk.key, chunk.chunk.identity.layers).ok());
  EXPECT_TRUE(read_all(*store, chunk)->empty());
  EXPECT_EQ(*read_all(*store, other), other.bytes);
  EXPECT_EQ(server.command("DBSIZE"), 1 + other.chunk.identity.layers);
}

TEST(ChunkRedis, AMemoryLimitIsAnErrorAndNeverHalfAChunk) {
  const int port = free_port();
  const RedisServer server(port);
  server.command("CONFIG SET maxmemory 3mb");
  const auto store = *ChunkRedis::open(url_of(port));
  int stored = 0, refused = 0;
  for (int i = 0; i < 100; ++i) {
    const NumberedChunk chunk(i, 500);
    const Status status = store->put(chunk.chunk);
    stored += status.ok();
    refused += status.code() == Code::resource_exhausted;
    const auto read = read_all(*store, chunk);
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(*read, status.ok() ? chunk.bytes : std::vector<std::byte>());
  }
  EXPECT_GT(stored, 0);
  EXPECT_EQ(stored + refused, 100);
  EXPECT_GT(refused, 0);
}

}  // namespace
}  // namespace onset
