#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "onset/load/chart.h"
#include "onset/load/client.h"
#include "onset/load/event_stream.h"
#include "onset/load/report.h"
#include "onset/load/statistics.h"
#include "onset/load/workload.h"

namespace onset {
namespace {

class Traces : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) {
    const std::filesystem::path path = std::filesystem::path(::testing::TempDir()) / "onset-trace-test";
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  std::string message(const std::string& text) {
    const auto trace = read_trace(write(text));
    EXPECT_FALSE(trace.ok());
    return trace.ok() ? "" : trace.status().message();
  }
};

TEST_F(Traces, OfEveryKindAreRead) {
  auto trace =
      read_trace(write("num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\r\n74,918,992,0."
                       "08\r\n290,905,1195,0.3\r\n0,5,5,0\r\n"));
  ASSERT_TRUE(trace.ok()) << trace.status().message();
  ASSERT_EQ(trace->size(), 2u);  // no tokens, no request
  EXPECT_EQ((*trace)[1].prompt_tokens, 290);
  EXPECT_EQ((*trace)[1].output_tokens, 905);
  EXPECT_FALSE((*trace)[1].arrival_seconds);
  trace = read_trace(write("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,4808,10\n0.052,3180,8"));
  ASSERT_TRUE(trace.ok());
  EXPECT_DOUBLE_EQ(*(*trace)[1].arrival_seconds, 0.052);
  trace =
      read_trace(write("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-30 "
                       "23:59:59.5000000,4808,10\n2023-12-01 00:00:01.2500000,3180,8\n"));
  ASSERT_TRUE(trace.ok());
  EXPECT_NEAR(*(*trace)[1].arrival_seconds - *(*trace)[0].arrival_seconds, 1.75, 1e-4);
  trace =
      read_trace(write("{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [0, "
                       "1]}\n{\"timestamp\": 2500, \"input_length\": 7, \"output_length\": 9}\n"));
  ASSERT_TRUE(trace.ok());
  EXPECT_EQ((*trace)[0].blocks, (std::vector<int64_t>{0, 1}));
  EXPECT_DOUBLE_EQ(*(*trace)[1].arrival_seconds, 2.5);
}

TEST_F(Traces, WrongOnesNameTheirLine) {
  EXPECT_NE(message("a,b\n1,2\n").find("expected JSON lines, or CSV with"), std::string::npos);
  EXPECT_NE(message("num_prefill_tokens,num_decode_tokens\n5,6\n5,x\n").find("line 3: expected lengths and times as numbers"),
            std::string::npos);
  EXPECT_NE(message("num_prefill_tokens,num_decode_tokens\n-5,6\n").find("line 2"), std::string::npos);
  EXPECT_NE(message("{\"timestamp\": 0, \"input_length\": -1, \"output_length\": 5}").find("input_length"), std::string::npos);
  EXPECT_NE(message("{\"timestamp\": 0").find("line 1"), std::string::npos);
  EXPECT_FALSE(read_trace("/nowhere").ok());
}

std::vector<TraceEntry> hundred() {
  std::vector<TraceEntry> trace;
  for (int i = 1; i <= 100; ++i) trace.push_back({.arrival_seconds = i * 2.0, .prompt_tokens = 4 * i, .output_tokens = i});
  return trace;
}

TEST(Workload, IsTheSameForOneSeedAndAnotherForAnother) {
  const auto lengths = [](uint64_t seed) {
    const auto requests = make_workload(hundred(), {.requests = 30, .divide_lengths = 4, .rate = 2, .seed = seed});
    EXPECT_TRUE(requests.ok());
    std::vector<double> all;
    for (const LoadRequest& each : *requests)
      all.insert(all.end(), {each.arrival_seconds, double(each.prompt_tokens), double(each.output_tokens), double(each.seed)});
    return all;
  };
  EXPECT_EQ(lengths(1), lengths(1));
  EXPECT_NE(lengths(1), lengths(2));
}

TEST(Workload, PoissonArrivalsHaveTheirRate) {
  std::vector<TraceEntry> trace(5000, {.prompt_tokens = 8, .output_tokens = 8});
  const auto requests = make_workload(trace, {.requests = 5000, .rate = 4, .seed = 3});
  ASSERT_TRUE(requests.ok());
  const double mean = requests->back().arrival_seconds / 4999;
  EXPECT_NEAR(mean, 0.25, 0.02);
  double squares = 0;
  for (size_t i = 1; i < requests->size(); ++i)
    squares += std::pow((*requests)[i].arrival_seconds - (*requests)[i - 1].arrival_seconds - mean, 2);
  EXPECT_NEAR(std::sqrt(squares / 4999), 0.25, 0.03);  // exponential: the deviation is the mean
}

// Brief of arXiv:2403.02310, check 9: the paper's generator cuts gaps at three times their mean, which makes them 0.9502 of it.
TEST(Workload, GapsMayBeCutAsThePaperDoes) {
  std::vector<TraceEntry> trace(200000, {.prompt_tokens = 8, .output_tokens = 8});
  const auto mean = [&](double most_gap) {
    const auto requests = make_workload(trace, {.requests = 200000, .rate = 4, .most_gap = most_gap, .seed = 3});
    double longest = 0;
    for (size_t i = 1; i < requests->size(); ++i)
      longest = std::max(longest, (*requests)[i].arrival_seconds - (*requests)[i - 1].arrival_seconds);
    if (most_gap > 0) {
      EXPECT_LE(longest, most_gap / 4 + 1e-9);
    }
    return requests->back().arrival_seconds / 199999;
  };
  EXPECT_NEAR(mean(0), 1.0 / 4, 0.02 / 4);
  EXPECT_NEAR(mean(3), 0.9502 / 4, 0.02 * 0.9502 / 4);
  EXPECT_EQ(make_workload(trace, {.requests = 1, .most_gap = -1}).status().message(), "most-gap is -1, expected 0 (none) or more");
}

TEST(Workload, LengthsAreDividedCutAndPassedOver) {
  const auto requests =
      make_workload(hundred(), {.requests = 10, .divide_lengths = 4, .most_prompt_tokens = 10, .most_output_tokens = 2, .in_order = true});
  ASSERT_TRUE(requests.ok());
  std::set<int32_t> prompts;
  for (const LoadRequest& each : *requests) {
    prompts.insert(each.prompt_tokens);
    EXPECT_LE(each.output_tokens, 2);
    EXPECT_GE(each.output_tokens, 1);
  }
  EXPECT_EQ(prompts, (std::set<int32_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(make_workload(hundred(), {.requests = 101}).status().message(),
            "101 requests were asked for, the trace has 100 of the wanted lengths");
  EXPECT_EQ(make_workload(hundred(), {.requests = 1, .rate = 0}).status().message(), "rate is 0, expected more than 0");
}

TEST(Workload, TheTracesOwnArrivalsCanBeMadeFaster) {
  const auto requests = make_workload(hundred(), {.requests = 3, .trace_arrivals = true, .speed = 4});
  ASSERT_TRUE(requests.ok());
  EXPECT_DOUBLE_EQ((*requests)[0].arrival_seconds, 0);
  EXPECT_DOUBLE_EQ((*requests)[2].arrival_seconds, 1);
  std::vector<TraceEntry> timeless(3, {.prompt_tokens = 1, .output_tokens = 1});
  EXPECT_EQ(make_workload(timeless, {.requests = 3, .trace_arrivals = true}).status().message(),
            "the trace has no arrival times: expected --rate");
}

TEST(Workload, EqualBlocksAreEqualText) {
  const LoadRequest one{.prompt_tokens = 1100, .blocks = {7, 8, 9}, .seed = 1}, two{.prompt_tokens = 1100, .blocks = {7, 8, 10}, .seed = 2};
  const std::vector<int32_t> a = prompt_ids(one, 100, 199), b = prompt_ids(two, 100, 199);
  ASSERT_EQ(a.size(), 1100u);
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 1024, b.begin()));
  EXPECT_FALSE(std::equal(a.begin() + 1024, a.end(), b.begin() + 1024));
  for (const int32_t id : a) EXPECT_TRUE(id >= 100 && id <= 199);
  const std::string words = prompt_words({.prompt_tokens = 12});
  EXPECT_EQ(std::count(words.begin(), words.end(), ' '), 11);
}

TEST(LoadStatisticsOf, PercentilesGapsAndGoodput) {
  EXPECT_DOUBLE_EQ(percentile({}, 0.5), 0);
  EXPECT_DOUBLE_EQ(percentile({1, 2, 3, 4}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(percentile({1, 2, 3, 4}, 1), 4);
  const std::vector<LoadRecord> records{
      {.arrival = 1, .sent = 1, .tokens = {2, 2.1, 2.2}, .finished = 2.5, .prompt_tokens = 10, .output_tokens = 3},
      {.arrival = 2, .sent = 2, .tokens = {2.5, 3.5}, .finished = 3.5, .prompt_tokens = 20, .output_tokens = 2},
      {.arrival = 3, .sent = 3, .finished = 5, .prompt_tokens = 30, .problem = "status 429"}};
  const LoadStatistics all = load_statistics(records, {.first_token = 2, .between_tokens = 0.2});
  EXPECT_EQ(all.requests, 3);
  EXPECT_EQ(all.failed, 1);
  EXPECT_EQ(all.within_limits, 1);  // the second one's gap is a second
  EXPECT_DOUBLE_EQ(all.seconds, 4);
  EXPECT_DOUBLE_EQ(all.first_token.p50, 0.75);
  EXPECT_DOUBLE_EQ(all.between_tokens.most, 1);
  EXPECT_NEAR(all.between_tokens.p50, 0.1, 1e-12);
  EXPECT_DOUBLE_EQ(all.normalised_latency.p50, (0.5 + 0.75) / 2);
  EXPECT_DOUBLE_EQ(all.output_tokens_per_second, 5.0 / 4);
  EXPECT_DOUBLE_EQ(all.tokens_per_second, 35.0 / 4);
  EXPECT_DOUBLE_EQ(all.goodput, 0.25);
  EXPECT_DOUBLE_EQ(load_statistics(records, {.first_token = 0.6}).within_limits, 1);
  EXPECT_EQ(load_statistics({}).requests, 0);
}

// A server that keeps its limits up to some rate.
TEST(CapacityOf, IsFoundFromBelowAndFromAbove) {
  for (const double truth : {0.3, 1.0, 7.7, 90.0}) {
    const auto probe = [&](double rate) -> Result<LoadStatistics> {
      LoadStatistics statistics;
      statistics.requests = 10;
      statistics.first_token.p50 = rate > truth ? 5 : 1;
      return statistics;
    };
    const auto found = find_capacity({.limits = {.first_token = 2}, .first_rate = 1}, probe);
    ASSERT_TRUE(found.ok());
    EXPECT_LE(found->rate, truth);
    EXPECT_GE(found->rate, truth / 1.06);
    EXPECT_LT(found->probes.size(), 16u);
  }
  const auto never = [](double) -> Result<LoadStatistics> {
    LoadStatistics statistics;
    statistics.requests = statistics.failed = 1;
    return statistics;
  };
  const auto none = find_capacity({.limits = {.first_token = 2}}, never);
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->rate, 0);
  EXPECT_FALSE(find_capacity({}, never).ok());
}

TEST(EventStreams, ComeInAnyPieces) {
  const std::string text = "data: one\n\n: comment\nevent: x\r\ndata: two\r\ndata:  three\r\n\r\n\ndata: four\n\ndata: cut";
  for (size_t piece = 1; piece < text.size(); ++piece) {
    EventStream stream;
    std::vector<std::string> events;
    for (size_t at = 0; at < text.size(); at += piece) {
      for (std::string& event : stream.push(std::string_view(text).substr(at, piece))) events.push_back(std::move(event));
    }
    EXPECT_EQ(events, (std::vector<std::string>{"one", "two\n three", "four"})) << piece;
  }
}

TEST(EventStreams, SayWhatTheyAreAbout) {
  EXPECT_TRUE(read_completion_event("[DONE]").end);
  EXPECT_TRUE(read_completion_event(R"({"choices": [{"text": "a", "finish_reason": null}]})").piece);
  EXPECT_TRUE(read_completion_event(R"({"choices": [{"text": "", "finish_reason": null}]})").piece);  // half a character
  EXPECT_FALSE(read_completion_event(R"({"choices": [{"text": "", "finish_reason": "stop"}]})").piece);
  EXPECT_TRUE(read_completion_event(R"({"choices": [{"text": "z", "finish_reason": "length"}]})").piece);
  EXPECT_FALSE(read_completion_event(R"({"choices": [{"delta": {"role": "assistant", "content": ""}}]})").piece);
  EXPECT_TRUE(read_completion_event(R"({"choices": [{"delta": {"content": "x"}}]})").piece);
  const CompletionEvent usage = read_completion_event(R"({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})");
  EXPECT_FALSE(usage.piece);
  EXPECT_EQ(usage.prompt_tokens, 3);
  EXPECT_EQ(usage.output_tokens, 4);
  EXPECT_EQ(read_completion_event(R"({"error": {"message": "too many"}})").problem, "too many");
  EXPECT_FALSE(read_completion_event("nonsense").problem.empty());
}

TEST(LoadAddresses, AreParsed) {
  const auto address = [](const char* url) {
    const auto found = LoadAddress::of(url);
    return found.ok() ? found->host + " " + found->port + " " + found->path : found.status().message();
  };
  EXPECT_EQ(address("http://localhost:8080"), "localhost 8080 /v1/completions");
  EXPECT_EQ(address("http://localhost/"), "localhost 80 /v1/completions");
  EXPECT_EQ(address("http://[::1]:99/api/v1"), "::1 99 /api/v1/completions");
  EXPECT_EQ(address("http://a:1/v1/completions"), "a 1 /v1/completions");
  EXPECT_EQ(address("https://a"), "a 443 /v1/completions");
  EXPECT_TRUE(LoadAddress::of("https://a")->tls && !LoadAddress::of("http://a")->tls);
  EXPECT_EQ(LoadAddress::of("http://a/v1", true)->path, "/v1/chat/completions");
  EXPECT_EQ(LoadAddress::of("http://a/v1/chat/completions", true)->path, "/v1/chat/completions");
  EXPECT_EQ(address("http://a/v1/chat/completions"), "url is http://a/v1/chat/completions, which is not the endpoint of completions");
  EXPECT_EQ(LoadAddress::of("http://a/v1/completions", true).status().message(),
            "url is http://a/v1/completions, which is not the endpoint of chats");
  EXPECT_EQ(address("ftp://a"), "url is ftp://a, expected http://HOST:PORT or https://HOST");
  EXPECT_EQ(address("http://a:b"), "url is http://a:b, expected http://HOST:PORT or https://HOST");
}

TEST(RequestBodies, SayWhatIsWanted) {
  const LoadRequest request{.prompt_tokens = 5, .output_tokens = 7};
  auto body = request_body({.model = "m", .banned = {2}, .more = "{\"ignore_eos\": true}"}, request);
  ASSERT_TRUE(body.ok());
  const auto json = nlohmann::json::parse(*body);
  EXPECT_EQ(json["prompt"].size(), 5u);
  EXPECT_EQ(json["max_tokens"], 7);
  EXPECT_EQ(json["logit_bias"]["2"], -100);
  EXPECT_EQ(json["ignore_eos"], true);
  EXPECT_EQ(json["stream_options"]["include_usage"], true);
  EXPECT_FALSE(request_body({.more = "[]"}, request).ok());
  const auto chat = nlohmann::json::parse(*request_body({.chat = true}, request));
  EXPECT_EQ(chat["messages"][0]["role"], "user");
  EXPECT_EQ(chat["messages"][0]["content"], prompt_words(request));
  EXPECT_FALSE(chat.contains("prompt"));
}

TEST(Pictures, AreDrawnOfAnything) {
  const std::vector<LoadRecord> records{{.tokens = {1, 1.1, 1.3}, .finished = 2, .output_tokens = 3}, {.problem = "x"}};
  for (const auto& some : {records, std::vector<LoadRecord>()}) {
    const std::string svg = load_picture(some, {.first_token = 2, .between_tokens = 0.1}, "a < b");
    EXPECT_TRUE(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
    EXPECT_EQ(svg.find("nan"), std::string::npos);
    EXPECT_EQ(svg.find("inf"), std::string::npos);
  }
  EXPECT_NE(
      capacity_picture({.rate = 1, .probes = {{.rate = 1, .statistics = {}, .meets = true}}}, {.first_token = 2}, "t").find("capacity"),
      std::string::npos);
}

}  // namespace
}  // namespace onset
