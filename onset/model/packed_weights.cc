#include "onset/model/packed_weights.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <atomic>
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

// Memory of one's own, from the system, so that large pages can serve it.
Result<std::shared_ptr<std::byte>> allocate(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return error(Code::resource_exhausted, "packed weights: {} bytes of memory cannot be had", bytes);
  madvise(memory, bytes, MADV_HUGEPAGE);
  return std::shared_ptr<std::byte>(static_cast<std::byte*>(memory), [bytes](std::byte* data) { munmap(data, bytes); });
}

// Frees the pages that packing has read: they are not needed again before the file is opened anew.
void forget_pages(const WeightPlan& plan) {
  constexpr uintptr_t page = 4096;
  for (const WeightPart& part : plan.parts) {
    const auto begin = (reinterpret_cast<uintptr_t>(part.tensor->bytes.data()) + page - 1) & ~(page - 1);
    const auto end = reinterpret_cast<uintptr_t>(part.tensor->bytes.data() + part.tensor->bytes.size()) & ~(page - 1);
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_COLD);
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

// The mapped matrices, or null if the file is absent or holds something else.
std::shared_ptr<const MappedFile> map_cache(const std::filesystem::path& path, const std::string& identity, size_t total) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok() || file->bytes().size() != header_bytes + total) return nullptr;
  const std::byte* bytes = file->bytes().data();
  Header header;
  std::memcpy(&header, bytes, sizeof header);
  if (std::memcmp(header.magic, magic, sizeof magic) != 0 || header.total_bytes != total ||
      header.identity_bytes != identity.size() ||
      std::memcmp(bytes + sizeof header, identity.data(), identity.size()) != 0) {
    return nullptr;
  }
  // Reading ahead overlaps with the rest of the start.
  madvise(const_cast<std::byte*>(bytes), file->bytes().size(), MADV_WILLNEED);
  madvise(const_cast<std::byte*>(bytes), file->bytes().size(), MADV_POPULATE_READ);
  return std::make_shared<const MappedFile>(*std::move(file));
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
  struct stat info {};
  stat(absolute.c_str(), &info);
  size_t bytes = 0;
  for (const StoredTensor& tensor : file.tensors()) bytes += tensor.bytes.size();
  return fmt::format("{}\nbytes {} of {}\nchanged {}.{:09}\nprecision {}\nlayout {}\nshard {}/{}\n", absolute.string(), bytes,
                     info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec, precision_name(precision),
                     linear_layout_version(), shard_index, shard_count);
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
    if (const auto file = map_cache(cache_file, identity, weights.bytes_); file != nullptr) {
      data = file->bytes().data() + header_bytes;
      weights.memory_ = file;
      weights.from_cache_ = true;
    }
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
