#include "onset/model/packed_weights.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <mutex>

#include "onset/tensor/block_formats.h"

namespace onset {
namespace {

constexpr char magic[8] = {'o', 'n', 's', 'e', 't', 'p', 'k', '1'};
constexpr size_t header_bytes = 4096;  // the matrices begin on a page, the identity fits before them

struct Header {
  char magic[8];
  uint64_t total_bytes;
  uint64_t identity_bytes;
};

// Where each matrix begins in the stretch.
std::vector<size_t> offsets_of(const std::vector<WeightPlan>& plans, Precision precision, size_t& total) {
  std::vector<size_t> offsets;
  total = 0;
  for (const WeightPlan& plan : plans) {
    offsets.push_back(total);
    total += linear_bytes(precision, plan.in(), plan.out());
  }
  return offsets;
}

bool all_finite(std::span<const float> values) {
  // x - x is 0 for every finite number and not a number otherwise; a sum keeps that without a branch for each.
  float sum = 0;
  for (const float value : values) sum += value - value;
  return sum == 0;
}

// Memory of one's own, from the system and in large pages where it has them: a decode step reads every weight once, and out of
// small pages (those of a mapped file, say) it does so 14 % slower.
Result<std::shared_ptr<std::byte>> allocate(size_t bytes) {
  constexpr size_t large_page = 2u << 20;
  const size_t reserved = bytes + large_page;
  void* memory = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return error(Code::resource_exhausted, "packed weights: {} bytes of memory cannot be had", bytes);
  const uintptr_t aligned = (reinterpret_cast<uintptr_t>(memory) + large_page - 1) / large_page * large_page;
  madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
  return std::shared_ptr<std::byte>(reinterpret_cast<std::byte*>(aligned), [memory, reserved](std::byte*) { munmap(memory, reserved); });
}

// Lets go of the mapped pages that packing has read: they are not needed again before the file is opened anew.
void forget_pages(const WeightPlan& plan) {
  constexpr uintptr_t page = 4096;
  for (const WeightPart& part : plan.parts) {
    const auto begin = (reinterpret_cast<uintptr_t>(part.tensor->bytes.data()) + page - 1) & ~(page - 1);
    const auto end = reinterpret_cast<uintptr_t>(part.tensor->bytes.data() + part.tensor->bytes.size()) & ~(page - 1);
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }
}

Status pack_all(const std::vector<WeightPlan>& plans, const std::vector<size_t>& offsets, Precision precision,
                const std::vector<Conditioning>& conditioning, std::byte* memory, ThreadPool& pool,
                const std::function<void(double)>& progress) {
  std::mutex mutex;
  std::string damaged;
  for (size_t i = 0; i < plans.size(); ++i) {
    const WeightPlan& plan = plans[i];
    const WeightRows rows = [&](int64_t row, std::span<float> values) {
      read_weight_row(plan, row, values);
      if (all_finite(values)) return;
      const std::lock_guard lock(mutex);
      damaged = fmt::format("tensor {} holds values that are not finite (row {})", plan.name, row);
    };
    InputConditioning inputs;
    if (!conditioning.empty()) inputs = {.shift = conditioning[i].shift, .inverse = conditioning[i].inverse};
    pack_linear(precision, plan.in(), plan.out(), rows, inputs, memory + offsets[i], pool);
    if (!damaged.empty()) return Status(Code::invalid_argument, damaged);
    forget_pages(plan);
    if (progress) progress(static_cast<double>(i + 1) / static_cast<double>(plans.size()));
  }
  return {};
}

Status write_cache(const std::filesystem::path& path, const std::string& identity, std::span<const std::byte> bytes) {
  ONSET_ASSIGN(AtomicFile file, AtomicFile::create(path));
  Header header{.magic = {}, .total_bytes = bytes.size(), .identity_bytes = identity.size()};
  std::memcpy(header.magic, magic, sizeof magic);
  std::string block(header_bytes, '\0');
  std::memcpy(block.data(), &header, sizeof header);
  std::memcpy(block.data() + sizeof header, identity.data(), identity.size());
  ONSET_TRY(file.write(block));
  ONSET_TRY(file.write(bytes));
  return file.commit();
}

// Reads `count` bytes at an offset; false if the file has fewer, or on any error.
bool read_at(int descriptor, void* to, size_t count, size_t offset) {
  auto* bytes = static_cast<char*>(to);
  while (count > 0) {
    const ssize_t got = pread(descriptor, bytes, count, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    bytes += got;
    offset += static_cast<size_t>(got);
    count -= static_cast<size_t>(got);
  }
  return true;
}

// Whether the file begins with the header of exactly these matrices and has their size.
bool holds(int descriptor, const std::string& identity, size_t total) {
  struct stat info{};
  if (fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode) || static_cast<size_t>(info.st_size) != header_bytes + total) return false;
  std::vector<char> block(header_bytes);
  if (!read_at(descriptor, block.data(), block.size(), 0)) return false;
  Header header;
  std::memcpy(&header, block.data(), sizeof header);
  return std::memcmp(header.magic, magic, sizeof magic) == 0 && header.total_bytes == total && header.identity_bytes == identity.size() &&
         std::memcmp(block.data() + sizeof header, identity.data(), identity.size()) == 0;
}

// The matrices of the file, read by all workers; null if the file is absent, cannot be read or holds something else: then they
// are packed anew. Errors: resource_exhausted.
Result<std::shared_ptr<std::byte>> read_cache(const std::filesystem::path& path, const std::string& identity, size_t total,
                                              ThreadPool& pool) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return std::shared_ptr<std::byte>();
  const auto close_file = std::unique_ptr<const int, void (*)(const int*)>(&descriptor, [](const int* file) { close(*file); });
  if (!holds(descriptor, identity, total)) return std::shared_ptr<std::byte>();
  ONSET_ASSIGN(std::shared_ptr<std::byte> memory, allocate(total));
  constexpr size_t piece = 4u << 20;
  std::atomic<bool> complete{true};
  pool.for_each(static_cast<int64_t>((total + piece - 1) / piece), [&](int64_t index, int) {
    const size_t at = static_cast<size_t>(index) * piece;
    if (!read_at(descriptor, memory.get() + at, std::min(piece, total - at), header_bytes + at)) complete = false;
  });
  if (!complete) memory.reset();
  return memory;
}

}  // namespace

void read_weight_row(const WeightPlan& plan, int64_t row, std::span<float> values) {
  for (const WeightPart& part : plan.parts) {
    const int64_t rows = part.row_end - part.row_begin;
    if (row >= rows) {
      row -= rows;
      continue;
    }
    const StoredTensor& tensor = *part.tensor;
    const std::byte* stored = tensor.row(part.row_begin + row).data();
    if (plan.in() == tensor.columns()) {
      dequantize_row(tensor.dtype, stored, values);
    } else {
      std::vector<float> whole(tensor.columns());
      dequantize_row(tensor.dtype, stored, whole);
      std::memcpy(values.data(), whole.data() + plan.column_begin, values.size_bytes());
    }
    return;
  }
}

std::string packed_identity(const ModelFile& file, Precision precision, int32_t shard_index, int32_t shard_count) {
  std::error_code ignored;
  const std::filesystem::path absolute = std::filesystem::absolute(file.path(), ignored);
  struct stat info{};
  stat(absolute.c_str(), &info);
  size_t bytes = 0;
  for (const StoredTensor& tensor : file.tensors()) bytes += tensor.bytes.size();
  return fmt::format("{}\nbytes {} of {}\nchanged {}.{:09}\nprecision {}\nlayout {}\nshard {}/{}\n", absolute.string(), bytes, info.st_size,
                     info.st_mtim.tv_sec, info.st_mtim.tv_nsec, precision_name(precision), linear_layout_version(), shard_index,
                     shard_count);
}

Result<PackedWeights> PackedWeights::make(const std::vector<WeightPlan>& plans, Precision precision,
                                          const std::filesystem::path& cache_file, const std::string& identity,
                                          const ConditioningSource& conditioning, ThreadPool& pool,
                                          const std::function<void(double)>& progress) {
  PackedWeights weights;
  const std::vector<size_t> offsets = offsets_of(plans, precision, weights.bytes_);
  const std::byte* data = nullptr;
  const bool cached = !cache_file.empty() && identity.size() + sizeof(Header) <= header_bytes;
  if (cached) {
    ONSET_ASSIGN(const std::shared_ptr<std::byte> memory, read_cache(cache_file, identity, weights.bytes_, pool));
    data = memory.get();
    weights.memory_ = memory;
    weights.from_cache_ = memory != nullptr;
  }
  if (data == nullptr) {
    ONSET_ASSIGN(const std::shared_ptr<std::byte> memory, allocate(weights.bytes_));
    std::vector<Conditioning> inputs;
    if (conditioning) {
      ONSET_ASSIGN(inputs, conditioning());
    }
    ONSET_TRY(pack_all(plans, offsets, precision, inputs, memory.get(), pool, progress));
    if (cached) {
      if (const Status status = write_cache(cache_file, identity, {memory.get(), weights.bytes_}); !status.ok()) {
        weights.warning_ = fmt::format("packed weights are not kept for the next start: {}", status.message());
      }
    }
    data = memory.get();
    weights.memory_ = memory;
  }
  for (size_t i = 0; i < plans.size(); ++i) {
    weights.linear_.push_back({.precision = precision, .in = plans[i].in(), .out = plans[i].out(), .data = data + offsets[i]});
  }
  return weights;
}

}  // namespace onset
