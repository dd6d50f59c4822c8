// The select seat: policies that say which tokens go on through each layer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "onset/tensor/attention_plan.h"

namespace onset {

class AttendPolicy;  // attend/policy.h

// A row of the sequence that is not running comes in at a layer, with the hidden state it has there.
struct RejoiningRow {
  int32_t row = 0;            // numbered within the sequence's rows of this step
  std::vector<float> hidden;  // [hidden size]
};

struct Selection {
  std::vector<int32_t> keep;         // of the running rows, ascending, numbered within the sequence's rows of this step
  std::vector<RejoiningRow> rejoin;  // rows that were not running, ascending
};

// Keys and values of rows, one after another.
struct KeyValueRows {
  int64_t width = 0;  // KV heads * head size
  std::vector<float> keys, values;
  float* key(int64_t row) { return keys.data() + row * width; }
  float* value(int64_t row) { return values.data() + row * width; }
};

// What keys (as they are before their rotary embedding) and values of several rows have in common.
struct KeyValueShift {
  std::vector<float> key, value;  // [KV heads * head size]
};

// A layer's keys and values of the running rows before the layer runs, for selectors that compare them.
class KeyValueProbe {
 public:
  virtual ~KeyValueProbe() = default;
  // As the layer will make them from the rows' hidden states, and what is in their slots already (SequenceCache::hold). Row k belongs
  // to running[k]; keys have their rotary embedding.
  virtual void compare(KeyValueRows& fresh, KeyValueRows& stored) = 0;
  // Puts the keys and values of some running rows (by their indices among `running`) into their slots although they do not run on.
  virtual void store(std::span<const int32_t> indices, KeyValueRows& fresh) = 0;
  // The mean of fresh - stored over some running rows (one or more, by their indices among `running`).
  virtual KeyValueShift mean_shift(std::span<const int32_t> indices, KeyValueRows& fresh, KeyValueRows& stored) = 0;
  // Adds it to what lies in the slots of these positions.
  virtual void shift(KeyRange positions, const KeyValueShift& shift) = 0;
};

// What a selector sees before a layer runs.
struct SelectContext {
  int layer = 0;
  std::span<const int32_t> running;    // rows that ran at the previous layer (those that came in with it at layer 0)
  std::span<const int32_t> positions;  // of all the sequence's rows of this step
  // The hidden state of a running row: hidden[k] belongs to running[k].
  std::span<const float* const> hidden;
  int64_t hidden_size = 0;
  KeyValueProbe* probe = nullptr;  // null at the end of the last layer
};

// What has become of a request's rows by now.
struct SelectReport {
  std::string policy;                // as the request named it
  std::vector<int32_t> prompt_rows;  // for each layer: prompt tokens that ran through it before the first token
  std::vector<int32_t> rows_by_now;  // for each layer: prompt tokens that have run through it since
  int64_t rejoined = 0;              // rows that left and came back
  int64_t stored_rows = 0;           // rows whose hidden state waits for that
  int64_t stored_bytes = 0;          // memory of these
};

// One object serves one sequence and may keep state between steps (what a leaving row's hidden state was, say).
class SelectPolicy {
 public:
  virtual ~SelectPolicy() = default;
  // Whether select() wants to be asked before `layer`; layers without a question cost nothing.
  virtual bool asks(int layer) const = 0;
  virtual Selection select(const SelectContext& context) = 0;
  // Rows of the step that do not run from the first layer on but wait for their rejoining.
  virtual bool waits(int32_t /*row*/) const { return false; }
  // Rows of earlier steps that may rejoin in the next one: their positions, ascending, valid until the step has run. The step holds them
  // before its own rows, and waits() says so of them.
  virtual std::span<const int32_t> earlier() { return {}; }
  // Whether all rows of a prompt have to run together. The scheduler then hands them on by layers where they are many.
  virtual bool whole_prompt() const { return false; }
  // Whom the rows see, for a policy that limits that too; null: as the request says. Owned by the policy.
  virtual AttendPolicy* attend() { return nullptr; }
  // Whether a step that has failed may run again (nothing that it has changed matters).
  virtual bool repeats() const { return true; }
  // Null: nothing to say. What it points to changes as the request goes on.
  virtual std::shared_ptr<const SelectReport> report() const { return nullptr; }
};

// No policy at all is the dense case: every row goes through every layer (a null SelectPolicy).

}  // namespace onset
