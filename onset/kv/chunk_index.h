// What a folder of chunks holds and when each was last used: a SQLite table that several processes share.
//
// The files are the truth; the table only says which of them go first. It is made again from them where it is lost.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "onset/base/status.h"

struct sqlite3;
struct sqlite3_stmt;

namespace onset {

struct ChunkRow {
  std::string key;
  int64_t bytes = 0;
  int64_t used = 0;            // when it was last used: grows with each use in any process
  std::string temporary = {};  // the file that is being written; empty: it is there
};

// For one thread at a time. Errors of all functions: failed, naming the file and SQLite's reason.
class ChunkIndex {
 public:
  static Result<ChunkIndex> open(const std::filesystem::path& path);
  ChunkIndex(ChunkIndex&& other) noexcept;
  ~ChunkIndex();

  // Nobody else changes the table until commit(); what is not committed is undone.
  Status begin();
  Status commit();
  void roll_back();

  Status put(const ChunkRow& row);  // also over an earlier row; `used` is set to now
  Status touch(const std::string& key);
  Status erase(const std::string& key);
  Result<int64_t> total_bytes() const;                               // of all rows
  Result<std::vector<ChunkRow>> rows(const std::string& key) const;  // that one's, if there is one
  Result<std::vector<ChunkRow>> all() const;                         // the least recently used first

 private:
  explicit ChunkIndex(std::filesystem::path path) : path_(std::move(path)) {}
  Status problem(const char* what) const;
  Status run(const char* sql) const;
  Result<sqlite3_stmt*> prepared(const char* sql) const;
  Status finish(sqlite3_stmt* statement) const;
  Result<std::vector<ChunkRow>> read(sqlite3_stmt* statement) const;

  std::filesystem::path path_;
  sqlite3* database_ = nullptr;
};

}  // namespace onset
