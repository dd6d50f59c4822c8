// Requests that compete: policies, preemption, priorities, deadlines.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <random>

#include "onset/engine/engine.h"
#include "onset/engine/testing.h"

namespace onset {
namespace {

using namespace onset::testing;

// Many small steps: a second thread only costs time where it has to be waited for.
EngineOptions one_thread() {
  EngineOptions options = test_options();
  options.threads = 1;
  return options;
}

// Every second request draws its tokens, so that the state of samplers matters too.
Request request_number(int i) {
  Request request{.tokens = random_tokens(1 + i * 7 % 150, i), .most_new_tokens = 1 + i * 5 % 90, .ignore_end = true};
  if (i % 2 == 1) request.sampling = {.temperature = 0.9f, .seed = uint64_t(i)};
  return request;
}

struct Outcome {
  std::vector<std::vector<int32_t>> tokens;
  EngineStatistics statistics;
  std::vector<int> events;
};

Outcome run_requests(EngineOptions options, int requests) {
  const auto engine = make_engine(std::move(options));
  std::vector<Told> told(requests);
  for (int i = 0; i < requests; ++i) EXPECT_TRUE(engine->submit(request_number(i), listen(told[i])).ok());
  run_all(*engine);
  expect_no_pages(*engine);
  Outcome outcome{.tokens = {}, .statistics = engine->statistics(), .events = {}};
  for (int i = 0; i < requests; ++i) {
    EXPECT_EQ(told[i].last.finish, Finish::length) << told[i].last.status.message();
    EXPECT_EQ(told[i].last.new_tokens, 1 + i * 5 % 90);
    outcome.tokens.push_back(told[i].tokens);
    outcome.events.push_back(told[i].events);
  }
  return outcome;
}

// Brief of arXiv:2403.02310, check 1: the same tokens under all policies, any budget, and with forced preemption (640 tokens of
// pool, 40 blocks of 16 there, for 64 requests of up to 240).
TEST(EngineScheduling, TheSameTokensUnderEveryPolicyAndPreemption) {
  EngineOptions roomy = one_thread();
  roomy.pool_tokens = 64 * 256;
  const Outcome alone = run_requests(std::move(roomy), 64);
  EXPECT_EQ(alone.statistics.preempted_to_recompute, 0);
  for (const std::string& policy : schedule_policy_names()) {
    for (const int32_t budget : {5, 64}) {
      for (const PreemptionKind kind : {PreemptionKind::recompute, PreemptionKind::swap}) {
        if (budget == 5 && kind == PreemptionKind::swap) continue;
        EngineOptions options = one_thread();
        options.policy = policy;
        options.scheduling = {.token_budget = budget, .watermark = 0, .preemption = kind};
        options.pool_tokens = 640;
        const Outcome outcome = run_requests(std::move(options), 64);
        EXPECT_EQ(outcome.tokens, alone.tokens) << policy << " " << budget;
        const int64_t preempted = outcome.statistics.preempted_to_recompute + outcome.statistics.preempted_to_file;
        const bool reserves = policy == "orca" || policy == "request-level" || policy == "sarathi";
        if (reserves) {
          EXPECT_EQ(preempted, 0) << policy;
        }
        if (!reserves && budget == 64) {
          EXPECT_GT(preempted, 0) << policy;
        }
        if (kind == PreemptionKind::swap) {
          EXPECT_EQ(outcome.statistics.preempted_to_recompute, 0) << policy;
        }
        EXPECT_EQ(outcome.statistics.swap_failures, 0);
      }
    }
  }
}

// Brief of arXiv:2308.16369, check 2: 32 requests together give what 32 runs alone give.
TEST(EngineScheduling, InterleavedRequestsEqualIsolatedRuns) {
  EngineOptions options = one_thread();
  options.policy = "sarathi";
  options.scheduling = {.token_budget = 24, .row_block = 12};
  const Outcome together = run_requests(std::move(options), 32);
  const auto engine = make_engine(one_thread());
  for (int i = 0; i < 32; ++i) EXPECT_EQ(answer(*engine, request_number(i)).tokens, together.tokens[i]) << i;
}

TEST(EngineScheduling, APreemptedRequestsFirstTokenKeepsItsTimeAndRequestsTheirPlace) {
  EngineOptions options = one_thread();
  options.pool_tokens = 192;
  options.scheduling.watermark = 0;
  const auto engine = make_engine(std::move(options));
  std::vector<Told> told(4);
  std::vector<std::vector<double>> first_token(4);
  std::vector<RequestId> preempted;
  engine->set_step_hook([&](const StepReport& report) {
    for (const Preemption& gone : report.step.preempt) preempted.push_back(gone.id);
  });
  for (int i = 0; i < 4; ++i) {
    const auto listener = listen(told[i]);
    ASSERT_TRUE(engine
                    ->submit({.tokens = random_tokens(30, i), .most_new_tokens = 100, .ignore_end = true},
                             [&, i, listener](const Event& event) {
                               first_token[i].push_back(event.first_token_seconds);
                               listener(event);
                             })
                    .ok());
  }
  run_all(*engine);
  // Three fit with a page each; as the first needs a second one, the youngest of the three goes.
  ASSERT_FALSE(preempted.empty());
  EXPECT_EQ(preempted.front(), 3);
  EXPECT_EQ(std::count(preempted.begin(), preempted.end(), 1), 0);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(told[i].last.new_tokens, 100);
    EXPECT_EQ(told[i].events, 100);
    for (const double seconds : first_token[i]) EXPECT_EQ(seconds, first_token[i].front());
  }
  EXPECT_EQ(engine->statistics().preempted_to_recompute, static_cast<int64_t>(preempted.size()));
}

TEST(EngineScheduling, AFullDiskMeansReadingAgainAndIsReported) {
  EngineOptions options = one_thread();
  options.pool_tokens = 640;
  options.scheduling = {.token_budget = 64, .watermark = 0, .preemption = PreemptionKind::swap};
  const auto engine = make_engine(std::move(options));
  // A file that may not grow stands for a full disk.
  const auto before_signal = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit limit{engine->statistics().page_bytes * 7, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  std::vector<Told> told(64);
  for (int i = 0; i < 64; ++i) ASSERT_TRUE(engine->submit(request_number(i), listen(told[i])).ok());
  run_all(*engine);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, before_signal);
  const EngineStatistics statistics = engine->statistics();
  EXPECT_GT(statistics.swap_failures, 0);
  EXPECT_NE(statistics.swap_failure.find("cannot be written"), std::string::npos) << statistics.swap_failure;
  EXPECT_NE(statistics.swap_failure.find("are read again instead"), std::string::npos) << statistics.swap_failure;
  EXPECT_EQ(statistics.preempted_to_recompute, statistics.swap_failures);
  expect_no_pages(*engine);
  const Outcome alone = run_requests(one_thread(), 64);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(told[i].tokens, alone.tokens[i]) << i;
}

TEST(EngineScheduling, ASwapFileWithoutRoomIsNotUsed) {
  EngineOptions options = one_thread();
  options.pool_tokens = 640;
  options.scheduling = {.token_budget = 64, .watermark = 0, .preemption = PreemptionKind::swap};
  options.swap_bytes = 1;  // one page
  const Outcome outcome = run_requests(std::move(options), 64);
  EXPECT_EQ(outcome.statistics.preempted_to_file, 0);
  EXPECT_GT(outcome.statistics.preempted_to_recompute, 0);
  EXPECT_EQ(outcome.statistics.swap_failures, 0);  // nobody was sent there
}

TEST(EngineScheduling, CancellingAPreemptedRequestFreesWhatItHas) {
  for (const PreemptionKind kind : {PreemptionKind::recompute, PreemptionKind::swap}) {
    EngineOptions options = one_thread();
    options.pool_tokens = 256;  // four pages in each layer: the second that needs another takes the third's
    options.scheduling = {.watermark = 0, .preemption = kind};
    const auto engine = make_engine(std::move(options));
    std::vector<Told> told(3);
    std::vector<RequestId> ids;
    for (int i = 0; i < 3; ++i) {
      ids.push_back(*engine->submit({.tokens = random_tokens(30, i), .most_new_tokens = 100, .ignore_end = true}, listen(told[i])));
    }
    do {
      ASSERT_TRUE(engine->step().ok());
    } while (engine->statistics().waiting == 0);
    EXPECT_EQ(engine->statistics().swapped, kind == PreemptionKind::swap ? 1 : 0);
    engine->cancel(ids[2]);
    EXPECT_EQ(told[2].last.finish, Finish::cancelled);
    EXPECT_EQ(engine->statistics().waiting + engine->statistics().swapped, 0);
    run_all(*engine);
    EXPECT_EQ(told[0].last.new_tokens, 100);
    expect_no_pages(*engine);
  }
}

// Rows that somebody listens to, and those of sessions, run once.
TEST(EngineScheduling, WhoseRowsAreWatchedIsNotPreempted) {
  EngineOptions options = one_thread();
  options.pool_tokens = 640;
  options.scheduling.watermark = 0;
  const auto engine = make_engine(std::move(options));
  std::vector<Told> told(12);
  std::vector<int> rows(100);
  const int64_t session = engine->open_session();
  for (int i = 0; i < 12; ++i) {
    Request request{.tokens = random_tokens(60, i), .most_new_tokens = 60, .ignore_end = true};
    if (i == 5) request.session = session;
    if (i == 7) request.on_hidden = [&](int32_t position, std::span<const float>) { ++rows[position]; };
    ASSERT_TRUE(engine->submit(std::move(request), listen(told[i])).ok());
  }
  std::vector<RequestId> preempted;
  engine->set_step_hook([&](const StepReport& report) {
    for (const Preemption& gone : report.step.preempt) preempted.push_back(gone.id);
  });
  run_all(*engine);
  EXPECT_FALSE(preempted.empty());
  EXPECT_EQ(std::count(preempted.begin(), preempted.end(), 6) + std::count(preempted.begin(), preempted.end(), 8), 0);
  EXPECT_EQ(std::count(rows.begin(), rows.end(), 1), 60);
  for (const Told& each : told) EXPECT_EQ(each.last.new_tokens, 60);
  EXPECT_EQ(engine->session_tokens(session).size(), 120u);
}

TEST(EngineScheduling, HigherPrioritiesGoFirst) {
  EngineOptions options = one_thread();
  options.most_running = 1;
  const auto engine = make_engine(std::move(options));
  std::vector<int> order;
  for (const int priority : {0, 2, 1, 2}) {
    ASSERT_TRUE(engine
                    ->submit({.tokens = {5}, .most_new_tokens = 1, .priority = priority},
                             [&order, number = static_cast<int>(order.size()), priority](const Event&) {
                               static_cast<void>(number);
                               order.push_back(priority);
                             })
                    .ok());
  }
  run_all(*engine);
  EXPECT_EQ(order, (std::vector<int>{2, 2, 1, 0}));
}

TEST(EngineScheduling, AHigherPriorityTakesTheOnlyPlaceAndBothAreAnsweredInFull) {
  for (const PreemptionKind kind : {PreemptionKind::recompute, PreemptionKind::swap}) {
    EngineOptions options = one_thread();
    options.most_running = 1;
    options.scheduling.preemption = kind;
    const auto engine = make_engine(std::move(options));
    const auto request = [](uint32_t seed, int32_t priority) {
      return Request{.tokens = random_tokens(30, seed), .most_new_tokens = 40, .ignore_end = true, .priority = priority};
    };
    Told low, high;
    ASSERT_TRUE(engine->submit(request(1, 0), listen(low)).ok());
    while (low.events < 10) ASSERT_TRUE(engine->step().ok());
    ASSERT_TRUE(engine->submit(request(2, 1), listen(high)).ok());
    while (high.ends == 0) ASSERT_TRUE(engine->step().ok());
    EXPECT_EQ(low.events, 10);  // it waited meanwhile
    run_all(*engine);
    EXPECT_EQ(engine->statistics().preempted_to_recompute, kind == PreemptionKind::recompute);
    EXPECT_EQ(engine->statistics().preempted_to_file, kind == PreemptionKind::swap);
    const auto alone = make_engine(one_thread());
    EXPECT_EQ(low.tokens, answer(*alone, request(1, 0)).tokens);
    EXPECT_EQ(high.tokens, answer(*alone, request(2, 0)).tokens);
    expect_no_pages(*engine);
  }
}

TEST(EngineScheduling, ADeadlineEndsARequestWhereverItIs) {
  EngineOptions options = one_thread();
  options.most_running = 1;
  options.cost = std::make_shared<LinearStepCost>(StepWeights{.per_prefill_row_layer = 1.0});
  const auto engine = make_engine(std::move(options));
  Told running, waiting, hopeless, free;
  ASSERT_TRUE(engine->submit({.tokens = {5}, .most_new_tokens = 400, .ignore_end = true}, listen(running)).ok());
  ASSERT_TRUE(engine->submit({.tokens = random_tokens(10, 1), .deadline_seconds = 49}, listen(hopeless)).ok());
  ASSERT_TRUE(
      engine->submit({.tokens = {5}, .most_new_tokens = 400, .ignore_end = true, .deadline_seconds = 5.0 + 1e-3}, listen(waiting)).ok());
  ASSERT_TRUE(engine->submit({.tokens = {5}, .most_new_tokens = 2, .deadline_seconds = 3600}, listen(free)).ok());
  run_all(*engine);
  EXPECT_EQ(running.last.finish, Finish::length);
  EXPECT_EQ(hopeless.last.finish, Finish::expired);
  EXPECT_EQ(hopeless.last.status.message(), "the deadline of 49 s cannot be met: the prompt takes 50 s");
  EXPECT_EQ(waiting.last.finish, Finish::expired);  // five predicted seconds for its row, and some time has passed
  EXPECT_EQ(free.last.new_tokens, 2);
  EXPECT_EQ(engine->statistics().expired, 2);
  EXPECT_EQ(engine->submit({.tokens = {5}, .deadline_seconds = -1}, {}).status().message(),
            "deadline_seconds is -1, expected 0 (none) or more");

  const auto plain = make_engine(one_thread());
  Told late;
  ASSERT_TRUE(plain->submit({.tokens = {5}, .most_new_tokens = 400, .ignore_end = true, .deadline_seconds = 1e-9}, listen(late)).ok());
  ASSERT_TRUE(plain->step().ok());
  EXPECT_EQ(late.last.finish, Finish::expired);
  EXPECT_EQ(late.last.status.message(), "the deadline of 1e-09 s has passed");
  EXPECT_FALSE(plain->has_work());
  expect_no_pages(*plain);
}

TEST(EngineScheduling, StatisticsSayHowItStands) {
  EngineOptions options = one_thread();
  options.scheduling.token_budget = 16;
  options.cost = std::make_shared<LinearStepCost>(StepWeights{.per_step = 0.5});
  const auto engine = make_engine(std::move(options));
  Told told[3];
  ASSERT_TRUE(engine->submit({.tokens = random_tokens(4, 1), .most_new_tokens = 50, .ignore_end = true}, listen(told[0])).ok());
  ASSERT_TRUE(engine->step().ok());
  ASSERT_TRUE(engine->submit({.tokens = random_tokens(40, 1), .most_new_tokens = 5}, listen(told[1])).ok());
  ASSERT_TRUE(engine->submit({.tokens = random_tokens(40, 2), .most_new_tokens = 5}, listen(told[2])).ok());
  EXPECT_EQ(engine->statistics().waiting, 2);
  ASSERT_TRUE(engine->step().ok());
  const EngineStatistics statistics = engine->statistics();
  EXPECT_EQ(statistics.running, 2);
  EXPECT_EQ(statistics.waiting, 1);
  EXPECT_EQ(statistics.steps, 2);
  EXPECT_EQ(statistics.last.number, 1);
  EXPECT_EQ(statistics.last.prompt_rows, 15);
  EXPECT_EQ(statistics.last.answer_rows, 1);
  EXPECT_EQ(statistics.last.prompts, 1);
  EXPECT_EQ(statistics.last.predicted_seconds, 0.5);
  EXPECT_GT(statistics.last.seconds, 0);
  EXPECT_GT(statistics.last.begin_seconds, 0);
}

TEST(EngineScheduling, BadOptionsSaySo) {
  const auto refused = [](EngineOptions options) { return Engine::create(std::move(options)).status().message(); };
  EngineOptions options = one_thread();
  options.policy = "fifo";
  EXPECT_EQ(refused(std::move(options)).find("there is no schedule policy fifo"), 0u);
  options = one_thread();
  options.scheduling.preemption = PreemptionKind::swap;
  options.swap_folder = "/no/such/folder";
  EXPECT_EQ(refused(std::move(options)), "/no/such/folder: no swap file can be made there: No such file or directory");
  options = one_thread();
  options.swap_bytes = 0;
  EXPECT_EQ(refused(std::move(options)), "swap_bytes is 0, expected 1 to 35184372088832");
}

}  // namespace
}  // namespace onset
