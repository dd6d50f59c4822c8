#include "onset/kv/chunk_index.h"

#include <sqlite3.h>

#include <utility>

namespace onset {
namespace {

constexpr int wait_milliseconds = 10000;  // for another process that has the table

constexpr char make_table[] =
    "CREATE TABLE IF NOT EXISTS chunks (key TEXT PRIMARY KEY, bytes INTEGER NOT NULL, used INTEGER NOT NULL, temporary TEXT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS chunks_used ON chunks (used)";

}  // namespace

Status ChunkIndex::problem(const char* what) const {
  return error(Code::failed, "{}: the index of the chunk store cannot be {}: {}", path_.string(), what,
               database_ != nullptr ? sqlite3_errmsg(database_) : "no memory");
}

Result<ChunkIndex> ChunkIndex::open(const std::filesystem::path& path) {
  ChunkIndex index(path);
  if (sqlite3_open(path.c_str(), &index.database_) != SQLITE_OK) return index.problem("opened");
  sqlite3_busy_timeout(index.database_, wait_milliseconds);
  // A commit may be lost with the machine's power, never with the process: the files tell what is there.
  ONSET_TRY(index.run("PRAGMA journal_mode = WAL"));
  ONSET_TRY(index.run("PRAGMA synchronous = NORMAL"));
  ONSET_TRY(index.run(make_table));
  ONSET_TRY(index.all().status());
  return index;
}

ChunkIndex::ChunkIndex(ChunkIndex&& other) noexcept : path_(std::move(other.path_)), database_(std::exchange(other.database_, nullptr)) {}

ChunkIndex::~ChunkIndex() {
  sqlite3_close(database_);
}

Status ChunkIndex::run(const char* sql) const {
  if (sqlite3_exec(database_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return problem("used");
  return {};
}

Status ChunkIndex::begin() {
  return run("BEGIN IMMEDIATE");
}
Status ChunkIndex::commit() {
  return run("COMMIT");
}
void ChunkIndex::roll_back() {
  (void)run("ROLLBACK").ok();
}

Result<sqlite3_stmt*> ChunkIndex::prepared(const char* sql) const {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(database_, sql, -1, &statement, nullptr) != SQLITE_OK) return problem("used");
  return statement;
}

// Runs a statement without rows.
Status ChunkIndex::finish(sqlite3_stmt* statement) const {
  const bool done = sqlite3_step(statement) == SQLITE_DONE;
  const Status status = done ? Status() : problem("changed");
  sqlite3_finalize(statement);
  return status;
}

Status ChunkIndex::put(const ChunkRow& row) {
  ONSET_ASSIGN(sqlite3_stmt * statement, prepared("INSERT OR REPLACE INTO chunks (key, bytes, used, temporary) VALUES "
                                                  "(?1, ?2, (SELECT COALESCE(MAX(used), 0) + 1 FROM chunks), ?3)"));
  sqlite3_bind_text(statement, 1, row.key.c_str(), -1, SQLITE_TRANSIENT);
  sqlite3_bind_int64(statement, 2, row.bytes);
  sqlite3_bind_text(statement, 3, row.temporary.c_str(), -1, SQLITE_TRANSIENT);
  return finish(statement);
}

Status ChunkIndex::touch(const std::string& key) {
  ONSET_ASSIGN(sqlite3_stmt * statement,
               prepared("UPDATE chunks SET used = (SELECT COALESCE(MAX(used), 0) + 1 FROM chunks) WHERE key = ?1"));
  sqlite3_bind_text(statement, 1, key.c_str(), -1, SQLITE_TRANSIENT);
  return finish(statement);
}

Status ChunkIndex::erase(const std::string& key) {
  ONSET_ASSIGN(sqlite3_stmt * statement, prepared("DELETE FROM chunks WHERE key = ?1"));
  sqlite3_bind_text(statement, 1, key.c_str(), -1, SQLITE_TRANSIENT);
  return finish(statement);
}

Result<std::vector<ChunkRow>> ChunkIndex::read(sqlite3_stmt* statement) const {
  std::vector<ChunkRow> rows;
  const auto text = [&](int column) {
    const auto* characters = reinterpret_cast<const char*>(sqlite3_column_text(statement, column));
    return std::string(characters != nullptr ? characters : "");
  };
  int result = SQLITE_ROW;
  while ((result = sqlite3_step(statement)) == SQLITE_ROW) {
    rows.push_back(
        {.key = text(0), .bytes = sqlite3_column_int64(statement, 1), .used = sqlite3_column_int64(statement, 2), .temporary = text(3)});
  }
  const Status status = result == SQLITE_DONE ? Status() : problem("read");
  sqlite3_finalize(statement);
  if (!status.ok()) return status;
  return rows;
}

Result<std::vector<ChunkRow>> ChunkIndex::rows(const std::string& key) const {
  ONSET_ASSIGN(sqlite3_stmt * statement, prepared("SELECT key, bytes, used, temporary FROM chunks WHERE key = ?1"));
  sqlite3_bind_text(statement, 1, key.c_str(), -1, SQLITE_TRANSIENT);
  return read(statement);
}

Result<std::vector<ChunkRow>> ChunkIndex::all() const {
  ONSET_ASSIGN(sqlite3_stmt * statement, prepared("SELECT key, bytes, used, temporary FROM chunks ORDER BY used, key"));
  return read(statement);
}

Result<int64_t> ChunkIndex::total_bytes() const {
  ONSET_ASSIGN(sqlite3_stmt * statement, prepared("SELECT COALESCE(SUM(bytes), 0) FROM chunks"));
  const bool row = sqlite3_step(statement) == SQLITE_ROW;
  const int64_t total = row ? sqlite3_column_int64(statement, 0) : 0;
  const Status status = row ? Status() : problem("read");
  sqlite3_finalize(statement);
  if (!status.ok()) return status;
  return total;
}

}  // namespace onset
