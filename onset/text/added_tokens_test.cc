// Added tokens: which of several is found, and the white space that goes with it.
#include "onset/text/added_tokens.h"

#include <gtest/gtest.h>

namespace onset {
namespace {

// The matches, as "id:begin-end".
std::vector<std::string> found(const std::vector<AddedToken>& tokens, std::string_view text, bool parse_special = true) {
  std::vector<std::string> matches;
  for (const AddedTokenMatch& match : AddedTokenMatcher(tokens).find_all(text, parse_special)) {
    matches.push_back(std::to_string(match.id) + ":" + std::to_string(match.begin) + "-" + std::to_string(match.end));
  }
  return matches;
}

using Matches = std::vector<std::string>;

TEST(AddedTokens, TheLeftmostAndLongestIsFound) {
  const std::vector<AddedToken> tokens = {
      {.id = 1, .content = "ab"}, {.id = 2, .content = "bcde"}, {.id = 3, .content = "abc"}, {.id = 4, .content = ""}};
  EXPECT_EQ(found(tokens, "xabcde"), (Matches{"3:1-4"}));
  EXPECT_EQ(found(tokens, "ababcbcde"), (Matches{"1:0-2", "3:2-5", "2:5-9"}));
  EXPECT_EQ(found(tokens, "bcd"), Matches{});
  EXPECT_EQ(found({}, "abc"), Matches{});
}

TEST(AddedTokens, SpecialOnesOnlyWhereTheyAreParsed) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "<e>", .special = true}, {.id = 2, .content = "<"}};
  EXPECT_EQ(found(tokens, "<e>"), (Matches{"1:0-3"}));
  EXPECT_EQ(found(tokens, "<e>", false), (Matches{"2:0-1"}));
}

TEST(AddedTokens, TakeTheSpaceThatIsNobodyElses) {
  const std::vector<AddedToken> left = {{.id = 1, .content = "L", .strip_left = true}};
  EXPECT_EQ(found(left, "a \u3000LL L\n \tL"), (Matches{"1:1-6", "1:6-7", "1:7-9", "1:9-13"}));
  const std::vector<AddedToken> right = {{.id = 1, .content = "R", .strip_right = true}};
  EXPECT_EQ(found(right, " R \u00a0\nb R "), (Matches{"1:1-6", "1:8-10"}));
  EXPECT_EQ(found(left, " \xffL"), (Matches{"1:2-3"}));
}

TEST(AddedTokens, SingleWordsStandAlone) {
  const std::vector<AddedToken> tokens = {{.id = 1, .content = "cat", .single_word = true}};
  EXPECT_EQ(found(tokens, "cat,cat cats écat cat_ cat"), (Matches{"1:0-3", "1:4-7", "1:24-27"}));
}

}  // namespace
}  // namespace onset
