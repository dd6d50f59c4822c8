// Any bytes as a chunk's header: an error, or a header that is written as it was read, whose layers have a place.
//
// A header has a checksum at its end, which no fuzzer guesses: each input is read as it is, and with the checksum (and the length before
// it) that its bytes should have.
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "onset/kv/chunk_header.h"

namespace {

void read(std::span<const std::byte> bytes) {
  const auto header = onset::decode_chunk_header(bytes);
  if (!header.ok()) return;
  const size_t size = onset::chunk_header_bytes(bytes);
  const std::vector<std::byte> written = onset::encode(*header);
  if (size > bytes.size() || written.size() != size || std::memcmp(written.data(), bytes.data(), size) != 0) std::abort();
  // What a file of it would look like: layers one after the other, each as long as its pages.
  const size_t first = onset::chunk_layer_offset(*header, size, 0), second = onset::chunk_layer_offset(*header, size, 1);
  if (first < size || first % onset::chunk_alignment != 0 || second - first < header->layer_bytes()) std::abort();
  // Its key is of its text only where it is whole, but any text has one.
  const onset::ChunkText text{.space = {}, .lead = header->lead, .tokens = header->tokens};
  if (onset::chunk_key(header->identity, text).size() != 64) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> bytes(size);
  if (size > 0) std::memcpy(bytes.data(), data, size);
  read(bytes);
  constexpr size_t magic_bytes = 8;
  if (size < magic_bytes + sizeof(uint32_t) + sizeof(uint64_t)) return 0;
  const auto length = static_cast<uint32_t>(size);
  std::memcpy(bytes.data() + magic_bytes, &length, sizeof(length));
  const uint64_t sum = onset::chunk_checksum(std::span(bytes).first(size - sizeof(uint64_t)));
  std::memcpy(bytes.data() + size - sizeof(sum), &sum, sizeof(sum));
  read(bytes);
  return 0;
}
