#include "onset/kv/chunk_transfer.h"

#include <algorithm>

namespace onset {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

// --- one load -----------------------------------------------------------------------------------------------------

ChunkLoad::~ChunkLoad() {
  stop();
}

bool ChunkLoad::looked_up() const {
  const std::lock_guard lock(mutex_);
  return looked_up_;
}

void ChunkLoad::wait_for_look_up() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return looked_up_ || stopped_; });
}

const char* ChunkLoad::tier(size_t index) const {
  const std::lock_guard lock(mutex_);
  return index < tiers_.size() ? tiers_[index] : nullptr;
}

Status ChunkLoad::wait(int32_t layer, int32_t groups) {
  std::unique_lock lock(mutex_);
  const auto began = Clock::now();
  const auto there = [&] {
    const auto end = layers_.begin() + std::min<std::ptrdiff_t>(groups, std::ssize(layers_));
    return std::all_of(layers_.begin(), end, [&](int32_t layers) { return layers > layer; });
  };
  changed_.wait(lock, [&] { return there() || !status_.ok() || stopped_; });
  waited_seconds_ += seconds_since(began);
  if (there()) return {};
  return status_.ok() ? error(Code::cancelled, "the loading of contexts was ended") : status_;
}

bool ChunkLoad::complete() const {
  const std::lock_guard lock(mutex_);
  return began_ && std::all_of(layers_.begin(), layers_.end(), [&](int32_t layers) { return layers == identity_.layers; });
}
bool ChunkLoad::failed() const {
  const std::lock_guard lock(mutex_);
  return !status_.ok();
}

void ChunkLoad::stop() {
  std::unique_lock lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
  changed_.wait(lock, [&] { return !reading_; });
}

int64_t ChunkLoad::loaded_bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}
double ChunkLoad::load_seconds() const {
  const std::lock_guard lock(mutex_);
  return load_seconds_;
}
double ChunkLoad::waited_seconds() const {
  const std::lock_guard lock(mutex_);
  return waited_seconds_;
}

// --- all of them --------------------------------------------------------------------------------------------------

ChunkTransfer::ChunkTransfer(std::vector<std::shared_ptr<ChunkStore>> stores, double bytes_per_second, int64_t most_waiting_bytes)
    : stores_(std::move(stores)),
      bytes_per_second_(bytes_per_second),
      most_waiting_bytes_(most_waiting_bytes),
      loader_([this] { load_in_turn(); }),
      keeper_([this] { keep_in_turn(); }) {}

ChunkTransfer::~ChunkTransfer() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
    for (const auto& load : loads_) load->stop();
    changed_.notify_all();
  }
  loader_.join();
  keeper_.join();
}

std::shared_ptr<ChunkLoad> ChunkTransfer::look_up(std::vector<std::string> keys, const ChunkIdentity& identity) {
  std::shared_ptr<ChunkLoad> load(new ChunkLoad(std::move(keys), identity));
  const std::lock_guard lock(mutex_);
  loads_.push_back(load);
  changed_.notify_all();
  return load;
}

void ChunkTransfer::begin(const std::shared_ptr<ChunkLoad>& load, std::vector<ChunkLoad::Pages> pages, std::vector<int32_t> groups) {
  {
    const std::lock_guard lock(load->mutex_);
    load->layers_.assign(groups.empty() ? 0 : *std::max_element(groups.begin(), groups.end()) + 1, 0);
    load->pages_ = std::move(pages);
    load->groups_ = std::move(groups);
    load->began_ = true;
    load->begin_ = Clock::now();
  }
  const std::lock_guard lock(mutex_);
  loads_.push_back(load);
  changed_.notify_all();
}

void ChunkTransfer::load_in_turn() {
  while (true) {
    std::shared_ptr<ChunkLoad> next;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return ends_ || !loads_.empty(); });
      if (ends_) return;
      next = std::move(loads_.front());
      loads_.pop_front();
    }
    bool began = false;
    {
      const std::lock_guard lock(next->mutex_);
      began = next->began_;
    }
    began ? load(*next) : find(*next);
  }
}

void ChunkTransfer::find(ChunkLoad& load) {
  std::vector<std::unique_ptr<StoredChunk>> chunks(load.keys_.size());
  std::vector<const char*> tiers(load.keys_.size(), nullptr);
  for (size_t i = 0; i < chunks.size(); ++i) {
    for (size_t store = 0; store < stores_.size() && !chunks[i]; ++store) {
      chunks[i] = stores_[store]->find(load.keys_[i], load.identity_);
      if (chunks[i]) tiers[i] = stores_[store]->tier();
    }
  }
  const std::lock_guard lock(load.mutex_);
  load.chunks_ = std::move(chunks);
  load.tiers_ = std::move(tiers);
  load.looked_up_ = true;
  load.changed_.notify_all();
}

// Of a group all texts' first layer, then all texts' second one: the order in which they are waited for.
void ChunkTransfer::load(ChunkLoad& load) {
  for (int32_t group = 0; group < static_cast<int32_t>(load.layers_.size()); ++group) {
    for (int32_t layer = 0; layer < load.identity_.layers; ++layer) {
      if (!load_layer(load, group, layer)) return;
    }
  }
}

// Whether there is more to do.
bool ChunkTransfer::load_layer(ChunkLoad& load, int32_t group, int32_t layer) {
  {
    const std::lock_guard lock(load.mutex_);
    if (load.stopped_) return false;
    load.reading_ = true;
  }
  Status status;
  int64_t bytes = 0;
  for (size_t i = 0; i < load.chunks_.size() && status.ok(); ++i) {
    if (load.pages_[i].empty() || load.groups_[i] != group) continue;
    status = load.chunks_[i]->read_layer(layer, load.pages_[i][layer]);
    bytes += static_cast<int64_t>(load.pages_[i][layer].size() * load.identity_.page_bytes());
  }
  std::unique_lock lock(load.mutex_);
  load.reading_ = false;
  load.changed_.notify_all();
  load.bytes_ += bytes;
  if (bytes_per_second_ > 0 && status.ok()) {
    // The layer comes when the slower device would have brought it.
    const std::chrono::duration<double> taken(static_cast<double>(load.bytes_) / bytes_per_second_);
    load.changed_.wait_until(lock, load.begin_ + std::chrono::duration_cast<Clock::duration>(taken), [&] { return load.stopped_; });
  }
  load.load_seconds_ = seconds_since(load.begin_);
  load.status_ = status;
  if (status.ok()) ++load.layers_[group];
  load.changed_.notify_all();
  return status.ok();
}

void ChunkTransfer::keep(OwnedChunk chunk) {
  const auto bytes = static_cast<int64_t>(chunk.pages.size());
  const std::lock_guard lock(mutex_);
  if (waiting_bytes_ + bytes > most_waiting_bytes_) {
    ++not_kept_;
    return;
  }
  waiting_bytes_ += bytes;
  kept_.push_back(std::move(chunk));
  changed_.notify_all();
}

void ChunkTransfer::keep_in_turn() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return ends_ || !kept_.empty(); });
    if (kept_.empty()) return;
    const OwnedChunk chunk = std::move(kept_.front());
    kept_.pop_front();
    keeping_ = true;
    lock.unlock();
    for (const auto& store : stores_) {
      // The store counts what it could not keep; the text is read again when it is wanted.
      (void)store->put({.identity = chunk.identity, .text = chunk.text, .pages = chunk.pages}).ok();
    }
    lock.lock();
    keeping_ = false;
    waiting_bytes_ -= static_cast<int64_t>(chunk.pages.size());
    changed_.notify_all();
  }
}

void ChunkTransfer::wait_until_kept() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return kept_.empty() && !keeping_; });
}

int64_t ChunkTransfer::not_kept() const {
  const std::lock_guard lock(mutex_);
  return not_kept_;
}

}  // namespace onset
