// From a parsed request to what the engine runs and how the answer will look: chat templates, tokens, seeds, limits of the model.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "onset/serve/answer.h"
#include "onset/serve/model_host.h"
#include "onset/serve/requests.h"

namespace onset::serve {

// A call that is ready to run.
struct Prepared {
  std::vector<Request> requests;  // one for each choice: the first prompt's choices, the second's, ...
  AnswerForm form;
  bool stream = false;
  int64_t tokens = 0;  // that it may come to hold: prompts and answers of all choices
};

// `host` must be the model that the request names. Errors: a prompt that does not fit the context (code context_length_exceeded), token
// ids that are not in the vocabulary, a chat template that refuses, a model without tokenizer or chat template. These may take
// milliseconds for long prompts and are called from threads that nobody waits for.
// `space`: whose request it is (Request::space); contexts are found by their names only there.
Checked<Prepared> prepare(const ModelHost& host, CompletionRequest request, const std::string& space);
Checked<Prepared> prepare(const ModelHost& host, ChatRequest request, const std::string& space);

// The mean of a prompt's last hidden states. Rows may come from several threads and in any order: sums of whole numbers do not depend
// on it, so that the mean never does.
class MeanPool {
 public:
  explicit MeanPool(size_t hidden) : sums_(hidden, 0) {}
  void add(std::span<const float> row);
  // Divided by its length; none if no row was added or a row was not finite.
  std::optional<std::vector<float>> normalised() const;

 private:
  mutable std::mutex mutex_;
  std::vector<int64_t> sums_;  // in units of 2^-24
  bool finite_ = true;
};

struct PreparedEmbedding {
  std::vector<Request> requests;  // one for each input
  std::vector<std::shared_ptr<MeanPool>> pools;
  std::string model;
  bool base64 = false;
  int64_t tokens = 0;  // of all inputs
};
Checked<PreparedEmbedding> prepare(const ModelHost& host, EmbeddingRequest request);
// Once all requests have ended well.
Checked<std::string> embedding_body(const PreparedEmbedding& prepared);

// Waits for the requests of one embedding call.
class EmbeddingAnswer {
 public:
  explicit EmbeddingAnswer(size_t requests) : left_(requests) {}
  void add(int, Event event) {
    if (event.finish == Finish::failed || event.finish == Finish::expired) fail(error_of(event.status));
    if (event.finish == Finish::cancelled) fail(server_error("the request was cancelled"));
    left_ -= event.finish != Finish::none;
  }
  void fail(ApiError error) {
    if (!done()) error_ = std::move(error);
  }
  bool failed() const { return error_.has_value(); }
  bool done() const { return left_ == 0 || failed(); }
  const std::optional<ApiError>& error() const { return error_; }

 private:
  size_t left_;
  std::optional<ApiError> error_;
};

// What belongs together once a body was parsed, its model found, and everything prepared.
template <typename P>
struct Ready {
  ModelHost* host = nullptr;
  P prepared;
};
using Hosts = std::map<std::string, std::unique_ptr<ModelHost>>;
Checked<Ready<Prepared>> ready_generation(const Hosts& hosts, const Checked<Json>& body, bool chat, const std::string& space);
Checked<Ready<PreparedEmbedding>> ready_embedding(const Hosts& hosts, const Checked<Json>& body);
ApiError unknown_model(const std::string& name);

Checked<std::string> tokenize_body(const ModelHost& host, const TokenizeRequest& request);
Checked<std::string> detokenize_body(const ModelHost& host, const DetokenizeRequest& request);

// A new id, as "chatcmpl-" and 24 random letters and digits.
std::string new_id(std::string_view prefix);

}  // namespace onset::serve
