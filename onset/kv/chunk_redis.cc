#include "onset/kv/chunk_redis.h"

#include <hiredis/hiredis.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>
#include <mutex>
#include <optional>

#include "onset/kv/chunk_header.h"

namespace onset {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr timeval connect_timeout{.tv_sec = 0, .tv_usec = 500000}, command_timeout{.tv_sec = 5, .tv_usec = 0};
constexpr Seconds shortest_pause{0.5}, longest_pause{10};
constexpr size_t most_command_bytes = 512 << 20;  // Redis takes no longer values

struct FreeReply {
  void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
using Reply = std::unique_ptr<redisReply, FreeReply>;

struct FreeContext {
  void operator()(redisContext* context) const { redisFree(context); }
};

struct Address {
  std::string host, password, shown;
  int port = 6379, database = 0;
};

Result<int> number_within(const std::string& text, int most, const std::string& url, const char* what) {
  int number = -1;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failed == std::errc() && end == text.data() + text.size() && number >= 0 && number <= most) return number;
  return error(Code::invalid_argument, "{}: the {} is \"{}\", expected 0 to {}", url, what, text, most);
}

Result<Address> address_of(const std::string& url) {
  constexpr std::string_view scheme = "redis://";
  Address address;
  const auto wrong = [](const std::string& shown) {
    return error(Code::invalid_argument, "{} is no Redis server, expected redis://[:PASSWORD@]HOST[:PORT][/DATABASE]", shown);
  };
  if (!url.starts_with(scheme)) return wrong(url);
  std::string rest = url.substr(scheme.size());
  if (const size_t at = rest.rfind('@'); at != std::string::npos) {
    const size_t colon = rest.find(':');
    if (colon == std::string::npos || colon > at || colon > 0) return wrong("redis://...@" + rest.substr(at + 1));
    address.password = rest.substr(1, at - 1);
    rest = rest.substr(at + 1);
  }
  address.shown = std::string(scheme) + rest;  // never the password
  if (const size_t slash = rest.find('/'); slash != std::string::npos) {
    if (slash + 1 < rest.size()) {
      ONSET_ASSIGN(address.database, number_within(rest.substr(slash + 1), 1 << 20, address.shown, "database"));
    }
    rest = rest.substr(0, slash);
  }
  if (const size_t colon = rest.rfind(':'); colon != std::string::npos && rest.find(']', colon) == std::string::npos) {
    ONSET_ASSIGN(address.port, number_within(rest.substr(colon + 1), 65535, address.shown, "port"));
    rest = rest.substr(0, colon);
  }
  if (rest.size() > 2 && rest.front() == '[' && rest.back() == ']') rest = rest.substr(1, rest.size() - 2);
  if (rest.empty()) return wrong(address.shown);
  address.host = rest;
  return address;
}

const std::string name_prefix = "onset:chunk:";
constexpr size_t key_length = 64;

std::string header_name(const std::string& key) {
  return name_prefix + key;
}
std::string layer_name(const std::string& key, int32_t layer) {
  return fmt::format("{}{}:{}", name_prefix, key, layer);
}

std::span<const std::byte> bytes_of(const redisReply& reply) {
  return {reinterpret_cast<const std::byte*>(reply.str), reply.type == REDIS_REPLY_STRING ? reply.len : 0};
}

}  // namespace

struct ChunkRedis::State {
  explicit State(Address its_address) : address(std::move(its_address)) {}

  Status connect();
  Status ask(std::span<const std::span<const std::byte>> words, Reply& reply);
  Status ask_words(std::initializer_list<std::string> words, Reply& reply);
  Status unreachable(const std::string& why);
  void lost(const std::string& key, const std::string& why);

  const Address address;
  mutable std::mutex mutex;  // of all below
  std::unique_ptr<redisContext, FreeContext> context;
  Clock::time_point not_before{};
  Seconds pause = shortest_pause;
  ChunkStoreStatistics counts;
};

// The server is left alone for a while.
Status ChunkRedis::State::unreachable(const std::string& why) {
  context.reset();
  not_before = Clock::now() + std::chrono::duration_cast<Clock::duration>(pause);
  pause = std::min(2 * pause, longest_pause);
  ++counts.failures;
  counts.failure = fmt::format("{}: {}", address.shown, why);
  return error(Code::failed, "{}", counts.failure);
}

Status ChunkRedis::State::connect() {
  if (context) return {};
  if (Clock::now() < not_before) return error(Code::failed, "{}: not asked again yet, after: {}", address.shown, counts.failure);
  context.reset(redisConnectWithTimeout(address.host.c_str(), address.port, connect_timeout));
  if (!context) return unreachable("no memory for a connection");
  if (context->err != 0) return unreachable(context->errstr);
  redisSetTimeout(context.get(), command_timeout);
  Reply reply;
  if (!address.password.empty()) ONSET_TRY(ask_words({"AUTH", address.password}, reply));
  if (address.database != 0) ONSET_TRY(ask_words({"SELECT", fmt::format("{}", address.database)}, reply));
  pause = shortest_pause;
  return {};
}

// One command. What Redis refuses (no memory left, say) is an error, and the connection stays.
Status ChunkRedis::State::ask(std::span<const std::span<const std::byte>> words, Reply& reply) {
  ONSET_TRY(connect());
  std::vector<const char*> begins;
  std::vector<size_t> sizes;
  for (const auto& word : words) {
    begins.push_back(reinterpret_cast<const char*>(word.data()));
    sizes.push_back(word.size());
  }
  reply.reset(static_cast<redisReply*>(redisCommandArgv(context.get(), static_cast<int>(begins.size()), begins.data(), sizes.data())));
  if (!reply) return unreachable(context->err != 0 ? context->errstr : "no answer");
  if (reply->type != REDIS_REPLY_ERROR) return {};
  const std::string why(reply->str, reply->len);
  // It is still loading, or wants a password: nothing will go better at once.
  if (why.starts_with("LOADING") || why.starts_with("NOAUTH") || why.starts_with("WRONGPASS")) return unreachable(why);
  ++counts.failures;
  counts.failure = fmt::format("{}: {}", address.shown, why);
  return error(why.starts_with("OOM") ? Code::resource_exhausted : Code::failed, "{}", counts.failure);
}

Status ChunkRedis::State::ask_words(std::initializer_list<std::string> words, Reply& reply) {
  std::vector<std::span<const std::byte>> parts;
  for (const std::string& word : words) parts.push_back(std::as_bytes(std::span(word.data(), word.size())));
  return ask(parts, reply);
}

// What is not whole is not looked at again.
void ChunkRedis::State::lost(const std::string& key, const std::string& why) {
  Reply reply;
  (void)ask_words({"DEL", header_name(key)}, reply).ok();
  ++counts.failures;
  counts.failure = fmt::format("{}: {}", address.shown, why);
}

class RedisChunk : public StoredChunk {
 public:
  RedisChunk(std::shared_ptr<ChunkRedis::State> store, ChunkHeader header) : store_(std::move(store)), header_(std::move(header)) {}

  int64_t bytes() const override { return static_cast<int64_t>(header_.layer_bytes()) * header_.identity.layers; }

  Status read_layer(int32_t layer, std::span<std::byte* const> pages) override {
    const std::lock_guard lock(store_->mutex);
    Reply reply;
    ONSET_TRY(store_->ask_words({"GET", layer_name(header_.key, layer)}, reply));
    const std::span<const std::byte> bytes = bytes_of(*reply);
    const size_t size = header_.identity.page_bytes();
    if (bytes.size() != header_.layer_bytes() || pages.size() * size != bytes.size() || chunk_checksum(bytes) != header_.checksums[layer]) {
      const std::string why = fmt::format("layer {} of chunk {} is not what was written", layer, header_.key);
      store_->lost(header_.key, why);
      return error(Code::failed, "{}: {}", store_->address.shown, why);
    }
    for (size_t page = 0; page < pages.size(); ++page) std::memcpy(pages[page], bytes.data() + page * size, size);
    return {};
  }

 private:
  std::shared_ptr<ChunkRedis::State> store_;
  ChunkHeader header_;
};

Result<std::unique_ptr<ChunkRedis>> ChunkRedis::open(const std::string& url) {
  ONSET_ASSIGN(Address address, address_of(url));
  return std::unique_ptr<ChunkRedis>(new ChunkRedis(std::make_shared<State>(std::move(address))));
}

ChunkRedis::~ChunkRedis() = default;

Status ChunkRedis::ping() {
  const std::lock_guard lock(state_->mutex);
  Reply reply;
  return state_->ask_words({"PING"}, reply);
}

std::unique_ptr<StoredChunk> ChunkRedis::find(const std::string& key, const ChunkIdentity& identity) {
  State& state = *state_;
  const std::lock_guard lock(state.mutex);
  Reply reply;
  std::optional<ChunkHeader> header;
  if (state.ask_words({"GET", header_name(key)}, reply).ok() && reply->type == REDIS_REPLY_STRING) {
    auto read = decode_chunk_header(bytes_of(*reply));
    if (read.ok() && read->key == key) {
      if (read->identity == identity) header = *std::move(read);
    } else {
      state.lost(key, fmt::format("the header of chunk {} is not what was written", key));
    }
  }
  ++(header ? state.counts.hits : state.counts.misses);
  if (!header) return nullptr;
  return std::make_unique<RedisChunk>(state_, *std::move(header));
}

Status ChunkRedis::put(const ChunkToStore& chunk) {
  State& state = *state_;
  const ChunkHeader header = chunk_header(chunk);
  if (header.layer_bytes() > most_command_bytes) {
    return error(Code::resource_exhausted, "{}: a layer of {} bytes, Redis takes {} at most", state.address.shown, header.layer_bytes(),
                 most_command_bytes);
  }
  const auto set = [&](const std::string& name, std::span<const std::byte> value) {
    const std::lock_guard lock(state.mutex);  // one after the other: whoever wants to read comes between
    const std::string command = "SET";
    const std::span<const std::byte> words[] = {std::as_bytes(std::span(command.data(), command.size())),
                                                std::as_bytes(std::span(name.data(), name.size())), value};
    Reply reply;
    return state.ask(words, reply);
  };
  for (int32_t layer = 0; layer < header.identity.layers; ++layer) {
    ONSET_TRY(set(layer_name(header.key, layer), chunk.pages.subspan(layer * header.layer_bytes(), header.layer_bytes())));
  }
  const std::vector<std::byte> head = encode(header);
  ONSET_TRY(set(header_name(header.key), head));
  const std::lock_guard lock(state.mutex);
  ++state.counts.stored;
  ++state.counts.chunks;
  state.counts.bytes += static_cast<int64_t>(chunk.pages.size());
  return {};
}

// The header first: without it nobody looks for the layers.
Status ChunkRedis::erase(const std::string& key, int32_t layers) {
  const std::lock_guard lock(state_->mutex);
  Reply reply;
  ONSET_TRY(state_->ask_words({"DEL", header_name(key)}, reply));
  for (int32_t layer = 0; layer < layers; ++layer) ONSET_TRY(state_->ask_words({"DEL", layer_name(key, layer)}, reply));
  return {};
}

// In steps, between which others are served.
Result<std::vector<std::string>> ChunkRedis::keys() {
  State& state = *state_;
  std::vector<std::string> keys;
  std::string cursor = "0";
  do {
    const std::lock_guard lock(state.mutex);
    Reply reply;
    ONSET_TRY(state.ask_words({"SCAN", cursor, "MATCH", name_prefix + "*", "COUNT", "1000"}, reply));
    const bool two = reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 && reply->element[0]->type == REDIS_REPLY_STRING &&
                     reply->element[1]->type == REDIS_REPLY_ARRAY;
    if (!two) return error(Code::failed, "{}: SCAN was answered with something else than a list", state.address.shown);
    cursor.assign(reply->element[0]->str, reply->element[0]->len);
    for (size_t i = 0; i < reply->element[1]->elements; ++i) {
      const redisReply& name = *reply->element[1]->element[i];
      // Names of layers are longer.
      if (name.type == REDIS_REPLY_STRING && name.len == name_prefix.size() + key_length) {
        keys.emplace_back(name.str + name_prefix.size(), key_length);
      }
    }
  } while (cursor != "0");
  return keys;
}

Result<ChunkText> ChunkRedis::text(const std::string& key, const ChunkIdentity& identity) {
  const std::lock_guard lock(state_->mutex);
  Reply reply;
  ONSET_TRY(state_->ask_words({"GET", header_name(key)}, reply));
  auto header = decode_chunk_header(bytes_of(*reply));
  if (header.ok() && header->key == key && header->identity == identity) {
    return ChunkText{.space = {}, .lead = std::move(header->lead), .tokens = std::move(header->tokens)};
  }
  return error(Code::not_found, "{}: no chunk {} of this model", state_->address.shown, key);
}

ChunkStoreStatistics ChunkRedis::statistics() const {
  const std::lock_guard lock(state_->mutex);
  return state_->counts;
}

}  // namespace onset
