#include "onset/kv/chunk_header.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "onset/compute/page_format.h"

namespace onset {
namespace {

constexpr char magic[] = "ONSETKV1";
constexpr size_t magic_bytes = 8, key_bytes = 64;
// Far beyond any model and any context: a header that says more is none.
constexpr uint32_t most_header_bytes = 1 << 28, most_layers = 1 << 16, most_heads = 1 << 16, most_head_size = 1 << 16;

class Writer {
 public:
  void put(const void* data, size_t size) {
    if (size == 0) return;
    bytes_.resize(bytes_.size() + size);
    std::memcpy(bytes_.data() + bytes_.size() - size, data, size);
  }
  template <typename Number>
  void number(Number value) {
    put(&value, sizeof(value));
  }
  void ids(std::span<const int32_t> tokens) { put(tokens.data(), tokens.size_bytes()); }
  std::vector<std::byte> bytes_;
};

// Reads past the end give zeros and are remembered.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  bool take(void* target, size_t size) {
    if (size > bytes_.size()) {
      failed_ = true;
      return false;
    }
    if (size > 0) std::memcpy(target, bytes_.data(), size);
    bytes_ = bytes_.subspan(size);
    return true;
  }
  template <typename Number>
  Number number() {
    Number value = 0;
    take(&value, sizeof(value));
    return value;
  }
  std::string text(size_t size) {
    std::string text(std::min(size, bytes_.size()), '\0');
    if (size > bytes_.size()) failed_ = true;
    take(text.data(), text.size());
    return text;
  }
  template <typename Number>
  std::vector<Number> numbers(size_t count) {
    if (count > bytes_.size() / sizeof(Number)) {
      failed_ = true;
      return {};
    }
    std::vector<Number> values(count);
    take(values.data(), count * sizeof(Number));
    return values;
  }
  bool failed() const { return failed_; }
  bool at_end() const { return bytes_.empty(); }

 private:
  std::span<const std::byte> bytes_;
  bool failed_ = false;
};

size_t aligned(size_t bytes) {
  return (bytes + chunk_alignment - 1) / chunk_alignment * chunk_alignment;
}

}  // namespace

size_t ChunkIdentity::page_bytes() const {
  return onset::page_bytes(type, heads_per_group, head_size);
}

ChunkIdentity chunk_identity(const std::string& model, const CacheLayout& layout) {
  return {.model = model,
          .type = layout.type,
          .layers = layout.layers,
          .head_groups = layout.head_groups,
          .heads_per_group = layout.heads_per_group,
          .head_size = layout.head_size};
}

// Every part is preceded by its length, so that nothing can pass from one to the next.
std::string chunk_key(const ChunkIdentity& identity, const ChunkText& text) {
  Writer all;
  all.put(magic, magic_bytes);
  for (const std::string& part : {identity.model, text.space}) {
    all.number<uint64_t>(part.size());
    all.put(part.data(), part.size());
  }
  for (const int32_t number : {static_cast<int32_t>(identity.type), identity.layers, identity.head_groups, identity.heads_per_group,
                               identity.head_size, page_tokens}) {
    all.number(number);
  }
  for (const auto& tokens : {std::span<const int32_t>(text.lead), std::span<const int32_t>(text.tokens)}) {
    all.number<uint64_t>(tokens.size());
    all.ids(tokens);
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_Digest(all.bytes_.data(), all.bytes_.size(), digest, &size, EVP_sha256(), nullptr);
  std::string key;
  for (unsigned int i = 0; i < size; ++i) key += fmt::format("{:02x}", digest[i]);
  return key;
}

uint64_t chunk_checksum(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

uint64_t chunk_checksum(std::span<std::byte* const> pages, size_t page_bytes) {
  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  for (const std::byte* page : pages) XXH3_64bits_update(state, page, page_bytes);
  const uint64_t sum = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return sum;
}

ChunkHeader chunk_header(const ChunkToStore& chunk) {
  ChunkHeader header{.key = chunk_key(chunk.identity, chunk.text),
                     .identity = chunk.identity,
                     .lead = chunk.text.lead,
                     .tokens = chunk.text.tokens,
                     .checksums = {}};
  for (int32_t layer = 0; layer < chunk.identity.layers; ++layer) {
    header.checksums.push_back(chunk_checksum(chunk.pages.subspan(layer * header.layer_bytes(), header.layer_bytes())));
  }
  return header;
}

std::vector<std::byte> encode(const ChunkHeader& header) {
  Writer all;
  all.put(magic, magic_bytes);
  all.number<uint32_t>(0);
  all.put(header.key.data(), key_bytes);
  all.number<uint32_t>(static_cast<uint32_t>(header.identity.model.size()));
  all.put(header.identity.model.data(), header.identity.model.size());
  const ChunkIdentity& identity = header.identity;
  for (const auto number :
       {static_cast<size_t>(identity.type), static_cast<size_t>(identity.layers), static_cast<size_t>(identity.head_groups),
        static_cast<size_t>(identity.heads_per_group), static_cast<size_t>(identity.head_size), header.lead.size(), header.tokens.size()}) {
    all.number<uint32_t>(static_cast<uint32_t>(number));
  }
  all.ids(header.lead);
  all.ids(header.tokens);
  all.put(header.checksums.data(), header.checksums.size() * sizeof(uint64_t));
  const auto size = static_cast<uint32_t>(all.bytes_.size() + sizeof(uint64_t));
  std::memcpy(all.bytes_.data() + magic_bytes, &size, sizeof(size));
  all.number<uint64_t>(chunk_checksum(all.bytes_));
  return std::move(all.bytes_);
}

size_t chunk_header_bytes(std::span<const std::byte> beginning) {
  if (beginning.size() < magic_bytes + sizeof(uint32_t) || std::memcmp(beginning.data(), magic, magic_bytes) != 0) return 0;
  uint32_t size = 0;
  std::memcpy(&size, beginning.data() + magic_bytes, sizeof(size));
  return size > most_header_bytes ? 0 : size;
}

Result<ChunkHeader> decode_chunk_header(std::span<const std::byte> bytes) {
  const auto wrong = [](const char* what) { return error(Code::invalid_argument, "no header of a chunk: {}", what); };
  const size_t size = chunk_header_bytes(bytes);
  if (size < magic_bytes + sizeof(uint32_t) + sizeof(uint64_t) || size > bytes.size()) return wrong("it is cut off, or something else");
  uint64_t sum = 0;
  std::memcpy(&sum, bytes.data() + size - sizeof(sum), sizeof(sum));
  bytes = bytes.first(size - sizeof(sum));
  if (chunk_checksum(bytes) != sum) return wrong("its checksum differs");
  Reader reader(bytes.subspan(magic_bytes + sizeof(uint32_t)));
  ChunkHeader header;
  header.key = reader.text(key_bytes);
  header.identity.model = reader.text(reader.number<uint32_t>());
  const auto type = reader.number<uint32_t>(), layers = reader.number<uint32_t>(), groups = reader.number<uint32_t>(),
             heads = reader.number<uint32_t>(), head_size = reader.number<uint32_t>(), lead = reader.number<uint32_t>(),
             tokens = reader.number<uint32_t>();
  header.lead = reader.numbers<int32_t>(lead);
  header.tokens = reader.numbers<int32_t>(tokens);
  const bool sizes = layers > 0 && layers <= most_layers && groups > 0 && groups <= most_heads && heads > 0 && heads <= most_heads &&
                     head_size > 0 && head_size <= most_head_size && type <= static_cast<uint32_t>(KvType::int4);
  if (reader.failed() || !sizes) return wrong("its numbers make no sense");
  header.checksums = reader.numbers<uint64_t>(layers);
  if (reader.failed() || !reader.at_end() || header.slots() == 0) return wrong("its numbers make no sense");
  header.identity.type = static_cast<KvType>(type);
  header.identity.layers = static_cast<int32_t>(layers);
  header.identity.head_groups = static_cast<int32_t>(groups);
  header.identity.heads_per_group = static_cast<int32_t>(heads);
  header.identity.head_size = static_cast<int32_t>(head_size);
  return header;
}

size_t chunk_layer_offset(const ChunkHeader& header, size_t header_bytes, int32_t layer) {
  return aligned(header_bytes) + static_cast<size_t>(layer) * aligned(header.layer_bytes());
}

}  // namespace onset
