// What the tests of this room share: a folder that goes away, bytes in files, and failing with a certain
// sentence.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include "onset/base/status.h"
#include "onset/formats/gguf.h"

namespace onset::testing {

inline const std::filesystem::path fixtures = std::filesystem::path(ONSET_SOURCE_DIR) / "tests/fixtures";

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "onset-formats-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }
  bool empty() const { return std::filesystem::is_empty(path_); }

 private:
  std::filesystem::path path_;
};

inline std::string slurp(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void spill(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

template <typename T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

template <typename T>
T value_of(Result<T> result) {
  EXPECT_TRUE(result.ok()) << result.status().message();
  if (!result.ok()) throw std::runtime_error(result.status().message());
  return *std::move(result);
}

inline void expect_error(const Status& status, Code code, const std::string& part) {
  EXPECT_EQ(code_name(status.code()), std::string(code_name(code))) << status.message();
  EXPECT_NE(status.message().find(part), std::string::npos) << "found: " << status.message() << "\nexpected: " << part;
}

// Writes a GGUF file of these tensors; every byte of tensor i is i + 1.
inline std::vector<std::filesystem::path> write_gguf(const std::filesystem::path& path, const GgufMetadata& metadata,
                                                     const std::vector<GgufTensorInfo>& tensors, const GgufSplit& split = {}) {
  GgufWriter writer = value_of(GgufWriter::create(path, metadata, tensors, split));
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<std::byte> bytes(*tensor_bytes(tensors[i].dtype, tensors[i].shape), static_cast<std::byte>(i + 1));
    EXPECT_TRUE(writer.write(bytes).ok());
  }
  const Status status = writer.commit();
  EXPECT_TRUE(status.ok()) << status.message();
  return writer.paths();
}

}  // namespace onset::testing
