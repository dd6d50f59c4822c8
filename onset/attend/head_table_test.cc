#include "onset/attend/head_table.h"

#include <gtest/gtest.h>

#include "onset/attend/shipped_tables.h"

namespace onset {
namespace {

TEST(HeadTable, GoesThroughJsonAndBack) {
  HeadTable table{.model = "a \"model\"", .reference_length = 4096, .layers = {}};
  table.layers = {{{HeadShape::a_shape, 64, 960, 0.5}, {HeadShape::block_sparse, 16, 0, 0.25}},
                  {},
                  {{HeadShape::vertical_slash, 30, 800, 0.125}, {HeadShape::dense, 0, 0, 0}}};
  const auto read = parse_head_table(head_table_json(table), "t");
  ASSERT_TRUE(read.ok()) << read.status().message();
  EXPECT_EQ(read->model, table.model);
  EXPECT_EQ(read->reference_length, 4096);
  ASSERT_EQ(read->layers.size(), 3u);
  EXPECT_TRUE(read->layers[1].empty());
  for (const size_t layer : {size_t{0}, size_t{2}}) {
    for (size_t head = 0; head < 2; ++head) {
      EXPECT_EQ(read->layers[layer][head].shape, table.layers[layer][head].shape);
      EXPECT_EQ(read->layers[layer][head].first, table.layers[layer][head].first);
      EXPECT_EQ(read->layers[layer][head].second, table.layers[layer][head].second);
      EXPECT_EQ(read->layers[layer][head].score, table.layers[layer][head].score);
    }
  }
  table.reference_length = 0;
  const auto official = parse_head_table(head_table_json(table), "t");
  ASSERT_TRUE(official.ok()) << official.status().message();
  EXPECT_EQ(official->reference_length, 0);
  EXPECT_EQ(official->layers.size(), 3u);
}

TEST(HeadTable, RefusesWhatMakesNoSense) {
  const auto message = [](const char* json) {
    const auto table = parse_head_table(json, "t");
    return table.ok() ? std::string() : table.status().message();
  };
  EXPECT_EQ(message(R"([{"0":["round",1,2,3]}])"),
            R"(t: layer 0: head 0: the type is "round", expected stream_llm, vertical_and_slash, block_sparse or dense)");
  EXPECT_EQ(message(R"([{}, {"1":["dense",1,2,3]}])"), "t: layer 1: head 0 of 1 is missing");
  EXPECT_EQ(message(R"([{"0":["vertical_and_slash",30,0,1]}])"),
            "t: layer 0: head 0: the number of diagonals is 0, expected a whole number from 1 to 134217728");
  EXPECT_EQ(message(R"([{"0":["block_sparse",0,0,1]}])"),
            "t: layer 0: head 0: the number of tiles is 0, expected a whole number from 1 to 134217728");
  EXPECT_EQ(message(R"([{"0":["stream_llm",0.5,1,1]}])"),
            "t: layer 0: head 0: the number of first tokens is 0.5, expected a whole number from 0 to 134217728");
  EXPECT_EQ(message(R"([{"0":[1]}])"), "t: layer 0: head 0: [1] is no pattern: expected [type, number, number, score]");
  EXPECT_EQ(message("[]"), "t: expected a list with an object for each layer");
  EXPECT_EQ(message("[1]"), "t: layer 0: expected an object with a pattern for each head");
  EXPECT_EQ(message(R"({"reference_length":64})"), "t: expected a list with an object for each layer");
  EXPECT_NE(message("{"), "");
}

TEST(HeadTable, BelongsToAModel) {
  const HeadTable table = *parse_head_table(R"([{"0":["dense",0,0,0]},{}])", "t");
  EXPECT_TRUE(check_head_table(table, 2, 1).ok());
  EXPECT_EQ(check_head_table(table, 3, 1).message(), "the table has 2 layers, the model 3");
  EXPECT_EQ(check_head_table(table, 2, 9).message(), "layer 0 of the table has 1 heads, the model 9");
}

TEST(HeadTable, ThoseBuiltInCanBeRead) {
  for (const ShippedTable& each : shipped_tables) {
    const auto table = parse_head_table(each.json, each.name);
    EXPECT_TRUE(table.ok()) << table.status().message();
    EXPECT_NE(shipped_head_table(each.name), nullptr);
  }
  EXPECT_EQ(shipped_head_table(30, 9), shipped_head_table("smollm2-135m"));
  EXPECT_EQ(shipped_head_table("somebody-else"), nullptr);
  EXPECT_EQ(shipped_head_table(1, 1), nullptr);
}

}  // namespace
}  // namespace onset
