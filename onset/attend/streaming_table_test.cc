#include "onset/attend/streaming_table.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace onset {
namespace {

int64_t count_of(const StreamingHeads& heads) {
  int64_t count = 0;
  for (const auto& layer : heads) count += std::count(layer.begin(), layer.end(), true);
  return count;
}

TEST(StreamingTable, ReadsBothForms) {
  const auto json = parse_streaming_table(R"({"model": "m", "streaming": [[0.25, 1], [], [0, 0.5]]})", "t");
  ASSERT_TRUE(json.ok()) << json.status().message();
  EXPECT_EQ(json->layers, (std::vector<std::vector<double>>{{0.25, 1}, {}, {0, 0.5}}));
  const auto again = parse_streaming_table(streaming_table_json(*json), "t");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->layers, json->layers);
  EXPECT_EQ(again->model, "m");
  const auto lines = parse_streaming_table("0.25\t1.0\r\n1e-3\t0.5\n\n", "t");
  ASSERT_TRUE(lines.ok()) << lines.status().message();
  EXPECT_EQ(lines->layers, (std::vector<std::vector<double>>{{0.25, 1}, {0.001, 0.5}}));
}

// LServe, check 12.
TEST(StreamingTable, ClampsAndRefuses) {
  const auto wide = parse_streaming_table("-0.5\t1.25\t0.5\n", "t");
  ASSERT_TRUE(wide.ok());
  EXPECT_EQ(wide->layers[0], (std::vector<double>{0, 1, 0.5}));
  EXPECT_EQ(wide->clamped, 2);
  const auto sentence = [](std::string_view text) { return parse_streaming_table(text, "t").status().message(); };
  EXPECT_EQ(sentence("0.5\tmany\n"), "t: layer 0: head 1: many is no number");
  EXPECT_EQ(sentence("0.5\n0.1\tnan\n"), "t: layer 1: head 1: nan is no number from 0 to 1");
  EXPECT_EQ(sentence("\n\n"), "t: expected a line of numbers for each layer");
  EXPECT_EQ(sentence("{}"), "t: expected \"streaming\", a list with a list of numbers for each layer");
  EXPECT_EQ(sentence(R"({"streaming": [[1], 2]})"), "t: layer 1: expected a list of numbers");
  EXPECT_EQ(sentence(R"({"streaming": [[1, "x"]]})"), "t: layer 0: head 1: \"x\" is no number");
  EXPECT_EQ(check_streaming_table(*wide, 2, 3).message(), "the table has 1 layers, the model 2");
  EXPECT_EQ(check_streaming_table(*wide, 1, 2).message(), "layer 0 of the table has 3 KV heads, the model 2");
}

// The quantile gives exactly the share that is asked for, the smallest numbers first, equals by the seed.
TEST(StreamingTable, StreamsTheShareThatIsAskedFor) {
  StreamingTable table;
  for (int layer = 0; layer < 10; ++layer) table.layers.push_back({layer * 0.1, 0.95, 0.95});
  for (const int count : {0, 5, 10, 15, 29, 30}) EXPECT_EQ(count_of(streaming_heads(table, count / 30.0, 1)), count);
  const StreamingHeads ten = streaming_heads(table, 1.0 / 3, 1);
  for (const auto& layer : ten) EXPECT_EQ(layer, (std::vector<bool>{true, false, false}));
  EXPECT_EQ(streaming_heads(table, 0.5, 1), streaming_heads(table, 0.5, 1));
  EXPECT_NE(streaming_heads(table, 0.5, 1), streaming_heads(table, 0.5, 2));
}

TEST(StreamingTable, BuiltInOnesAreWhole) {
  EXPECT_EQ(shipped_streaming_table_names().front(), "smollm2-135m");
  for (const std::string& name : shipped_streaming_table_names()) {
    const StreamingTable* table = shipped_streaming_table(name);
    ASSERT_NE(table, nullptr);
    EXPECT_EQ(table->clamped, 0);
  }
  ASSERT_NE(shipped_streaming_table(30, 3), nullptr);
  ASSERT_NE(shipped_streaming_table(18, 1), nullptr);
  EXPECT_EQ(shipped_streaming_table(31, 3), nullptr);
}

}  // namespace
}  // namespace onset
