#include "onset/kv/chunk_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <mutex>
#include <optional>
#include <set>

#include "onset/kv/chunk_header.h"
#include "onset/kv/chunk_index.h"

namespace onset {
namespace {

namespace fs = std::filesystem;

constexpr char suffix[] = ".kv";
constexpr char temporary_prefix[] = "writing-";

// A descriptor that is closed at the end.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }
  bool valid() const { return number_ >= 0; }

 private:
  int number_;
};

Status system_error(const fs::path& path, const char* what, int number) {
  const bool full = number == ENOSPC || number == EFBIG || number == EDQUOT;
  return error(full ? Code::resource_exhausted : Code::failed, "{}: {}: {}", path.string(), what, std::strerror(number));
}

bool read_at(int file, std::byte* target, size_t size, size_t offset) {
  while (size > 0) {
    const ssize_t count = ::pread(file, target, size, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    target += count;
    offset += static_cast<size_t>(count);
    size -= static_cast<size_t>(count);
  }
  return true;
}

Status write_at(const fs::path& path, int file, std::span<const std::byte> bytes, size_t offset) {
  while (!bytes.empty()) {
    const ssize_t count = ::pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return system_error(path, "the chunk cannot be written", count == 0 ? ENOSPC : errno);
    offset += static_cast<size_t>(count);
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  return {};
}

bool is_key(const std::string& name) {
  return name.size() == 64 && name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// The header at the beginning of a file; none where there is none.
std::optional<ChunkHeader> read_header(int file, size_t* header_bytes) {
  std::vector<std::byte> bytes(16);
  if (!read_at(file, bytes.data(), bytes.size(), 0)) return std::nullopt;
  *header_bytes = chunk_header_bytes(bytes);
  struct stat status;
  if (::fstat(file, &status) != 0 || *header_bytes == 0 || *header_bytes > static_cast<size_t>(status.st_size)) return std::nullopt;
  bytes.resize(*header_bytes);
  if (!read_at(file, bytes.data(), bytes.size(), 0)) return std::nullopt;
  auto header = decode_chunk_header(bytes);
  if (!header.ok()) return std::nullopt;
  return *std::move(header);
}

}  // namespace

struct ChunkFolder::State {
  State(fs::path its_folder, int64_t its_capacity) : folder(std::move(its_folder)), capacity(its_capacity) {}

  fs::path file_of(const std::string& key) const { return folder / (key + suffix); }
  fs::path index_path() const { return folder / "index.sqlite"; }
  Status open_index();
  Status take_up();
  Status make_room(int64_t bytes);
  Status forget(const std::string& key);
  bool abandoned(const std::string& temporary) const;
  Status reserve(const std::string& key, int64_t bytes, const std::string& temporary, bool* known);
  Status write(const ChunkToStore& chunk, const ChunkHeader& header, int64_t bytes);
  Status put_in_place(const std::string& key, const std::string& path, int64_t bytes);
  void lost(const std::string& key, int file, const std::string& why);
  void adopt(const std::string& key, int64_t bytes);

  const fs::path folder;
  const int64_t capacity;
  mutable std::mutex mutex;  // of all below
  std::optional<ChunkIndex> index;
  ChunkStoreStatistics counts;
  std::mutex writing;  // one chunk at a time
};

// A file that was found, and what its header says of it.
class FileChunk : public StoredChunk {
 public:
  FileChunk(std::shared_ptr<ChunkFolder::State> store, Descriptor file, ChunkHeader header, size_t header_bytes)
      : store_(std::move(store)), file_(std::move(file)), header_(std::move(header)), header_bytes_(header_bytes) {}

  int64_t bytes() const override { return static_cast<int64_t>(header_.layer_bytes()) * header_.identity.layers; }

  Status read_layer(int32_t layer, std::span<std::byte* const> pages) override {
    const size_t size = header_.identity.page_bytes();
    size_t offset = chunk_layer_offset(header_, header_bytes_, layer);
    bool read = pages.size() == header_.layer_pages();
    for (size_t page = 0; read && page < pages.size(); ++page, offset += size) read = read_at(file_.get(), pages[page], size, offset);
    if (read && chunk_checksum(pages, size) == header_.checksums[layer]) return {};
    const std::string why = fmt::format("{}: layer {} is not what was written", store_->file_of(header_.key).string(), layer);
    store_->lost(header_.key, file_.get(), why);
    return error(Code::failed, "{}", why);
  }

 private:
  std::shared_ptr<ChunkFolder::State> store_;
  Descriptor file_;
  ChunkHeader header_;
  size_t header_bytes_;
};

Result<std::unique_ptr<ChunkFolder>> ChunkFolder::open(const fs::path& folder, int64_t capacity_bytes) {
  if (capacity_bytes < 1) {
    return error(Code::invalid_argument, "the chunk store's capacity is {} bytes, expected 1 or more", capacity_bytes);
  }
  std::error_code failed;
  if (folder.has_parent_path()) fs::create_directories(folder.parent_path(), failed);
  if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) return system_error(folder, "the folder cannot be made", errno);
  if (!fs::is_directory(folder, failed)) return error(Code::failed, "{}: the chunk store needs a folder, this is none", folder.string());
  auto state = std::make_shared<State>(folder, capacity_bytes);
  ONSET_TRY(state->open_index());
  ONSET_TRY(state->take_up());
  return std::unique_ptr<ChunkFolder>(new ChunkFolder(std::move(state)));
}

ChunkFolder::~ChunkFolder() = default;

Status ChunkFolder::State::open_index() {
  if (auto opened = ChunkIndex::open(index_path()); opened.ok()) {
    index.emplace(*std::move(opened));
    return {};
  }
  // The files tell what it said, but for the order.
  for (const char* part : {"", "-wal", "-shm"}) {
    const std::string name = index_path().string() + part;
    if (std::rename(name.c_str(), (name + ".damaged").c_str()) != 0 && errno != ENOENT) {
      return system_error(name, "the damaged index cannot be set aside", errno);
    }
  }
  ONSET_ASSIGN(ChunkIndex opened, ChunkIndex::open(index_path()));
  index.emplace(std::move(opened));
  return {};
}

// Whether a file that is being written is nobody's: its writer holds a lock on it.
bool ChunkFolder::State::abandoned(const std::string& temporary) const {
  const Descriptor file(::open((folder / temporary).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return errno == ENOENT;
  return ::flock(file.get(), LOCK_EX | LOCK_NB) == 0;
}

// Makes index and files agree, as they may not after a process was killed.
Status ChunkFolder::State::take_up() {
  ONSET_TRY(index->begin());
  const auto agree = [&]() -> Status {
    std::set<std::string> known;
    ONSET_ASSIGN(const std::vector<ChunkRow> rows, index->all());
    for (const ChunkRow& row : rows) {
      struct stat file;
      const bool there = ::stat(file_of(row.key).c_str(), &file) == 0;
      if (there && row.temporary.empty() && file.st_size == row.bytes) {
        known.insert(row.key);
      } else if (!row.temporary.empty() && !abandoned(row.temporary)) {
        known.insert(row.key);
      } else {
        ONSET_TRY(index->erase(row.key));
      }
    }
    std::error_code failed;
    for (fs::directory_iterator entry(folder, failed), end; !failed && entry != end; entry.increment(failed)) {
      const std::string name = entry->path().filename().string();
      if (name.starts_with(temporary_prefix) && abandoned(name)) ::unlink(entry->path().c_str());
      const std::string key = entry->path().stem().string();
      if (entry->path().extension() != suffix || !is_key(key) || known.contains(key)) continue;
      const auto size = entry->file_size(failed);
      if (!failed) ONSET_TRY(index->put({.key = key, .bytes = static_cast<int64_t>(size)}));
    }
    if (failed) return error(Code::failed, "{}: the folder cannot be read: {}", folder.string(), failed.message());
    return make_room(0);
  };
  const Status status = agree();
  if (!status.ok()) {
    index->roll_back();
    return status;
  }
  return index->commit();
}

// Within a transaction: forgets the least recently used ones until `bytes` more fit. What is being written stays.
Status ChunkFolder::State::make_room(int64_t bytes) {
  ONSET_ASSIGN(int64_t total, index->total_bytes());
  if (total + bytes <= capacity) return {};
  ONSET_ASSIGN(const std::vector<ChunkRow> rows, index->all());
  for (const ChunkRow& row : rows) {
    if (total + bytes <= capacity) return {};
    if (!row.temporary.empty()) {
      if (!abandoned(row.temporary)) continue;
      ::unlink((folder / row.temporary).c_str());
    }
    ONSET_TRY(forget(row.key));
    total -= row.bytes;
    ++counts.evicted;
  }
  if (total + bytes <= capacity) return {};
  return error(Code::resource_exhausted, "{}: {} bytes do not fit beside what is being written, the capacity is {}", folder.string(), bytes,
               capacity);
}

// The file first: one without a row is taken up again, a row without a file would be counted for nothing.
Status ChunkFolder::State::forget(const std::string& key) {
  if (::unlink(file_of(key).c_str()) != 0 && errno != ENOENT) return system_error(file_of(key), "the chunk cannot be removed", errno);
  return index->erase(key);
}

// A chunk is damaged: it goes, unless a good one has taken its place meanwhile.
void ChunkFolder::State::lost(const std::string& key, int file, const std::string& why) {
  const std::lock_guard lock(mutex);
  ++counts.failures;
  counts.failure = why;
  struct stat opened, now;
  if (::fstat(file, &opened) != 0 || ::stat(file_of(key).c_str(), &now) != 0 || opened.st_ino != now.st_ino) return;
  if (const Status status = forget(key); !status.ok()) counts.failure = status.message();
}

// A file that the index does not know (another one was made meanwhile).
void ChunkFolder::State::adopt(const std::string& key, int64_t bytes) {
  if (!index->begin().ok()) return;
  const bool done = make_room(bytes).ok() && index->put({.key = key, .bytes = bytes}).ok() && index->commit().ok();
  if (!done) index->roll_back();
}

std::unique_ptr<StoredChunk> ChunkFolder::find(const std::string& key, const ChunkIdentity& identity) {
  State& state = *state_;
  Descriptor file(is_key(key) ? ::open(state.file_of(key).c_str(), O_RDONLY | O_CLOEXEC) : -1);
  size_t header_bytes = 0;
  std::optional<ChunkHeader> header;
  struct stat status = {};
  bool right = false;
  if (file.valid()) {
    header = read_header(file.get(), &header_bytes);
    right = header && header->key == key && ::fstat(file.get(), &status) == 0 &&
            static_cast<size_t>(status.st_size) == chunk_layer_offset(*header, header_bytes, header->identity.layers);
    if (!right) state.lost(key, file.get(), fmt::format("{}: it is no whole chunk of this name", state.file_of(key).string()));
  }
  const std::lock_guard lock(state.mutex);
  if (!right || header->identity != identity) {
    ++state.counts.misses;
    return nullptr;
  }
  ++state.counts.hits;
  if (const auto rows = state.index->rows(key); rows.ok() && rows->empty()) {
    state.adopt(key, status.st_size);
  } else {
    // Who does not find it in the index uses it all the same.
    (void)state.index->touch(key).ok();
  }
  return std::make_unique<FileChunk>(state_, std::move(file), *std::move(header), header_bytes);
}

// Takes the chunk's bytes out of the capacity before they are written. known: it is there already.
Status ChunkFolder::State::reserve(const std::string& key, int64_t bytes, const std::string& temporary, bool* known) {
  const std::lock_guard lock(mutex);
  ONSET_TRY(index->begin());
  const auto change = [&]() -> Status {
    ONSET_ASSIGN(const std::vector<ChunkRow> rows, index->rows(key));
    if (!rows.empty() && rows.front().temporary.empty() && fs::exists(file_of(key))) {
      *known = true;
      return index->touch(key);
    }
    if (!rows.empty() && !rows.front().temporary.empty() && !abandoned(rows.front().temporary)) {
      return error(Code::failed, "{}: another process writes this chunk now", file_of(key).string());
    }
    ONSET_TRY(index->erase(key));
    ONSET_TRY(make_room(bytes));
    return index->put({.key = key, .bytes = bytes, .temporary = temporary});
  };
  Status status = change();
  if (status.ok()) status = index->commit();
  if (!status.ok()) index->roll_back();
  return status;
}

// In one transaction: nobody else takes the file for one whose writer is gone.
Status ChunkFolder::State::put_in_place(const std::string& key, const std::string& path, int64_t bytes) {
  const std::lock_guard lock(mutex);
  ONSET_TRY(index->begin());
  const auto change = [&]() -> Status {
    if (std::rename(path.c_str(), file_of(key).c_str()) != 0) return system_error(path, "the chunk cannot be put in place", errno);
    const Descriptor place(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!place.valid() || ::fsync(place.get()) != 0) return system_error(folder, "the folder cannot be written", errno);
    ONSET_TRY(index->put({.key = key, .bytes = bytes}));
    return index->commit();
  };
  const Status status = change();
  if (!status.ok()) index->roll_back();
  return status;
}

Status ChunkFolder::State::write(const ChunkToStore& chunk, const ChunkHeader& header, int64_t bytes) {
  std::string path = (folder / temporary_prefix).string() + "XXXXXX";
  const Descriptor file(::mkostemp(path.data(), O_CLOEXEC));
  if (!file.valid()) return system_error(folder, "no chunk can be written there", errno);
  const std::string name = fs::path(path).filename().string();
  bool known = false;
  const auto written = [&]() -> Status {
    if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) return system_error(path, "the chunk cannot be locked", errno);
    ONSET_TRY(reserve(header.key, bytes, name, &known));
    if (known) return {};
    const std::vector<std::byte> head = encode(header);
    ONSET_TRY(write_at(path, file.get(), head, 0));
    for (int32_t layer = 0; layer < header.identity.layers; ++layer) {
      const auto pages = chunk.pages.subspan(layer * header.layer_bytes(), header.layer_bytes());
      ONSET_TRY(write_at(path, file.get(), pages, chunk_layer_offset(header, head.size(), layer)));
    }
    // The last layer ends before the next multiple of 4 KiB.
    if (::ftruncate(file.get(), bytes) != 0 || ::fsync(file.get()) != 0) return system_error(path, "the chunk cannot be written", errno);
    return put_in_place(header.key, path, bytes);
  };
  const Status status = written();
  if (!status.ok() || known) ::unlink(path.c_str());
  const std::lock_guard lock(mutex);
  if (status.ok()) {
    counts.stored += !known;
    return {};
  }
  ++counts.failures;
  counts.failure = status.message();
  if (const auto rows = index->rows(header.key); rows.ok() && !rows->empty() && rows->front().temporary == name) {
    (void)index->erase(header.key).ok();
  }
  return status;
}

Status ChunkFolder::put(const ChunkToStore& chunk) {
  State& state = *state_;
  const ChunkHeader header = chunk_header(chunk);
  const auto bytes = static_cast<int64_t>(chunk_layer_offset(header, encode(header).size(), header.identity.layers));
  if (bytes > state.capacity) {
    return error(Code::resource_exhausted, "{}: a chunk of {} bytes, the capacity is {}", state.folder.string(), bytes, state.capacity);
  }
  const std::lock_guard lock(state.writing);
  return state.write(chunk, header, bytes);
}

ChunkStoreStatistics ChunkFolder::statistics() const {
  const std::lock_guard lock(state_->mutex);
  ChunkStoreStatistics now = state_->counts;
  if (const auto rows = state_->index->all(); rows.ok()) {
    for (const ChunkRow& row : *rows) {
      now.chunks += row.temporary.empty();
      now.bytes += row.bytes;
    }
  }
  return now;
}

Result<std::vector<std::string>> ChunkFolder::keys() {
  const std::lock_guard lock(state_->mutex);
  ONSET_ASSIGN(const std::vector<ChunkRow> rows, state_->index->all());
  std::vector<std::string> keys;
  for (const ChunkRow& row : rows) {
    if (row.temporary.empty()) keys.push_back(row.key);
  }
  return keys;
}

Result<ChunkText> ChunkFolder::text(const std::string& key, const ChunkIdentity& identity) {
  const Descriptor file(is_key(key) ? ::open(state_->file_of(key).c_str(), O_RDONLY | O_CLOEXEC) : -1);
  size_t header_bytes = 0;
  auto header = file.valid() ? read_header(file.get(), &header_bytes) : std::nullopt;
  if (header && header->key == key && header->identity == identity) {
    return ChunkText{.space = {}, .lead = std::move(header->lead), .tokens = std::move(header->tokens)};
  }
  return error(Code::not_found, "{}: no such chunk of this model", state_->file_of(key).string());
}

Result<std::vector<ChunkFileInfo>> ChunkFolder::list() const {
  std::vector<ChunkFileInfo> files;
  const std::lock_guard lock(state_->mutex);
  ONSET_ASSIGN(const std::vector<ChunkRow> rows, state_->index->all());
  for (const ChunkRow& row : rows) {
    const Descriptor file(::open(state_->file_of(row.key).c_str(), O_RDONLY | O_CLOEXEC));
    size_t header_bytes = 0;
    struct stat status;
    if (!file.valid() || ::fstat(file.get(), &status) != 0) continue;
    const auto header = read_header(file.get(), &header_bytes);
    if (!header) continue;
    files.push_back({.key = row.key,
                     .model = header->identity.model,
                     .lead = static_cast<int32_t>(header->lead.size()),
                     .tokens = static_cast<int32_t>(header->tokens.size()),
                     .bytes = row.bytes,
                     .age_seconds = std::max(0.0, std::difftime(std::time(nullptr), status.st_mtime))});
  }
  return files;
}

Status ChunkFolder::verify(const std::string& key) {
  const Descriptor file(::open(state_->file_of(key).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return error(Code::not_found, "{}: no such chunk", state_->file_of(key).string());
  size_t header_bytes = 0;
  const auto header = read_header(file.get(), &header_bytes);
  const auto chunk = find(key, header ? header->identity : ChunkIdentity());
  if (!chunk) return error(Code::failed, "{}: it is no whole chunk of this name", state_->file_of(key).string());
  std::vector<std::byte> bytes(header->layer_bytes());
  std::vector<std::byte*> pages;
  for (size_t page = 0; page < header->layer_pages(); ++page) pages.push_back(bytes.data() + page * header->identity.page_bytes());
  for (int32_t layer = 0; layer < header->identity.layers; ++layer) ONSET_TRY(chunk->read_layer(layer, pages));
  return {};
}

Result<bool> ChunkFolder::drop_from_memory(const std::string& key) const {
  const fs::path path = state_->file_of(key);
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return error(Code::not_found, "{}: no such chunk", path.string());
  struct stat status;
  if (::fstat(file.get(), &status) != 0) return system_error(path, "the file cannot be looked at", errno);
  // What is written is synchronised already: all its pages can go.
  if (const int failed = ::posix_fadvise(file.get(), 0, 0, POSIX_FADV_DONTNEED); failed != 0) {
    return system_error(path, "the system keeps the file in memory", failed);
  }
  const auto size = static_cast<size_t>(status.st_size);
  void* mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (mapped == MAP_FAILED) return system_error(path, "the file cannot be looked at", errno);
  std::vector<unsigned char> there((size + 4095) / 4096);
  const int failed = ::mincore(mapped, size, there.data());
  ::munmap(mapped, size);
  if (failed != 0) return system_error(path, "the file cannot be looked at", errno);
  return std::none_of(there.begin(), there.end(), [](unsigned char page) { return (page & 1) != 0; });
}

Result<int64_t> ChunkFolder::prune(int64_t bytes) {
  State& state = *state_;
  const std::lock_guard lock(state.mutex);
  ONSET_TRY(state.index->begin());
  int64_t gone = 0;
  const auto change = [&]() -> Status {
    ONSET_ASSIGN(int64_t total, state.index->total_bytes());
    ONSET_ASSIGN(const std::vector<ChunkRow> rows, state.index->all());
    for (const ChunkRow& row : rows) {
      if (total <= bytes) break;
      if (!row.temporary.empty()) continue;
      ONSET_TRY(state.forget(row.key));
      total -= row.bytes;
      ++gone;
    }
    return state.index->commit();
  };
  const Status status = change();
  if (!status.ok()) {
    state.index->roll_back();
    return status;
  }
  state.counts.evicted += gone;
  return gone;
}

}  // namespace onset
