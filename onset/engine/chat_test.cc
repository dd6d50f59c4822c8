#include "onset/engine/chat.h"

#include <unistd.h>

#include "onset/engine/testing.h"
#include "onset/formats/gguf.h"
#include "onset/formats/open_model.h"

namespace onset {
namespace {

using namespace onset::testing;

// stories260K with a chat template: a model that answers nonsense, but answers.
class ChatTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() / fmt::format("onset-chat-test-{}.gguf", getpid());
    const ModelFile source = *open_model(stories_model());
    GgufMetadata metadata;
    for (const MetadataEntry& entry : source.metadata()) metadata.set(entry);
    metadata.set_text(
        "tokenizer.chat_template",
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}");
    std::vector<GgufTensorInfo> tensors;
    for (const StoredTensor& tensor : source.tensors()) tensors.push_back({tensor.name, tensor.dtype, tensor.shape});
    auto writer = *GgufWriter::create(path_, metadata, tensors);
    for (const StoredTensor& tensor : source.tensors()) ASSERT_TRUE(writer.write(tensor.bytes).ok());
    ASSERT_TRUE(writer.commit().ok());
  }
  void TearDown() override { std::filesystem::remove(path_); }

  std::unique_ptr<Engine> engine(int64_t pool_tokens = 0) {
    EngineOptions options = test_options(path_);
    options.pool_tokens = pool_tokens;
    return make_engine(std::move(options));
  }

  // Asks and runs the answer to its end.
  static Told ask(Engine& engine, Chat& chat, const std::string& text, Chat::Turn* turn = nullptr) {
    Told told;
    const auto result = chat.ask(text, listen(told));
    EXPECT_TRUE(result.ok()) << result.status().message();
    if (result.ok() && turn != nullptr) *turn = *result;
    run_all(engine);
    return told;
  }

  std::filesystem::path path_;
};

TEST_F(ChatTest, ATurnReadsOnlyWhatIsNewAndAnswersAsIfAllWere) {
  const auto warm = engine();
  const auto chat = *Chat::create(*warm, {.system = "Be brief.", .most_new_tokens = 12});
  Chat::Turn turn;
  const Told first = ask(*warm, *chat, "Hello.", &turn);
  EXPECT_EQ(turn.reused_tokens, 0);
  const int64_t rows = warm->statistics().prompt_rows;
  const Told second = ask(*warm, *chat, "And then?", &turn);
  EXPECT_GT(turn.reused_tokens, 20);
  EXPECT_LT(warm->statistics().prompt_rows - rows, turn.prompt_tokens - 20);
  ASSERT_EQ(chat->messages().size(), 5u);
  EXPECT_EQ(chat->messages()[2].content, first.text);

  const auto cold = engine();
  const auto chat_template = **load_chat_template(*cold);
  const std::vector<ChatMessage> history(chat->messages().begin(), chat->messages().end() - 1);
  const Told whole = answer(*cold, {.tokens = *render_chat(*cold, chat_template, history), .most_new_tokens = 12});
  EXPECT_EQ(second.tokens, whole.tokens);
}

TEST_F(ChatTest, TheOldestTurnsGoWhenTheContextIsFull) {
  const auto small = engine(192);
  const auto chat = *Chat::create(*small, {.system = "Be brief.", .most_new_tokens = 30});
  int32_t dropped = 0;
  for (int i = 0; i < 8; ++i) {
    Chat::Turn turn;
    const Told told = ask(*small, *chat, "Tell me about the dog.", &turn);
    EXPECT_NE(told.last.finish, Finish::failed);
    EXPECT_LE(turn.prompt_tokens, 192 - 192 / 4);
    dropped += turn.dropped_messages;
  }
  EXPECT_GT(dropped, 0);
  EXPECT_EQ(chat->messages()[0].role, "system");

  const size_t before = chat->messages().size();
  const auto too_long = chat->ask(std::string(1000, 'x'), {});
  ASSERT_FALSE(too_long.ok());
  EXPECT_NE(too_long.status().message().find("the context of 192 has room for 144"), std::string::npos) << too_long.status().message();
  EXPECT_LE(chat->messages().size(), before);
  EXPECT_EQ(chat->messages().back().role == "user", false);
}

TEST_F(ChatTest, ACancelledAnswerStaysAsFarAsItCame) {
  const auto running = engine();
  const auto chat = *Chat::create(*running, {});
  Told told;
  const Chat::Turn turn = *chat->ask("Hello.", listen(told));
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(running->step().ok());
  running->cancel(turn.request);
  ASSERT_EQ(chat->messages().size(), 2u);
  EXPECT_EQ(chat->messages()[1].content, told.text);
  chat->reset();
  EXPECT_TRUE(chat->messages().empty());
  ask(*running, *chat, "Hello again.");
  EXPECT_EQ(chat->messages().size(), 2u);
}

TEST(Chat, AModelWithoutATemplateSaysSo) {
  const auto engine = make_engine(test_options());
  const auto chat = Chat::create(*engine, {});
  ASSERT_FALSE(chat.ok());
  EXPECT_NE(chat.status().message().find("has no chat template"), std::string::npos);
}

}  // namespace
}  // namespace onset
