#include "onset/cost/step_fit.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>

namespace onset {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Vector = Eigen::VectorXd;

constexpr int64_t plain_weights = 7;  // per step, prefill and decode rows, prefill and decode slots, prefill keys, output rows

std::vector<double> features_of(const StepShape& shape, std::span<const double> bends) {
  std::vector<double> features = {1.0,
                                  static_cast<double>(shape.prefill_row_layers),
                                  static_cast<double>(shape.decode_row_layers),
                                  static_cast<double>(shape.prefill_slots),
                                  static_cast<double>(shape.decode_slots),
                                  static_cast<double>(shape.prefill_keys),
                                  static_cast<double>(shape.output_rows)};
  const auto rows = static_cast<double>(shape.prefill_row_layers + shape.decode_row_layers);
  for (const double bend : bends) features.push_back(std::max(0.0, rows - bend));
  return features;
}

// The unconstrained least squares over the columns in `passive`, 0 elsewhere.
Vector solve_over(const Matrix& a, const Vector& b, const std::vector<bool>& passive) {
  std::vector<Eigen::Index> columns;
  for (size_t i = 0; i < passive.size(); ++i) {
    if (passive[i]) columns.push_back(static_cast<Eigen::Index>(i));
  }
  const Vector part = a(Eigen::all, columns).colPivHouseholderQr().solve(b);
  Vector x = Vector::Zero(a.cols());
  for (size_t i = 0; i < columns.size(); ++i) x[columns[i]] = part[static_cast<Eigen::Index>(i)];
  return x;
}

}  // namespace

std::vector<double> non_negative_least_squares(std::span<const double> values, std::span<const double> targets, int64_t columns) {
  const auto rows = static_cast<Eigen::Index>(targets.size());
  Matrix a = Eigen::Map<const Matrix>(values.data(), rows, columns);
  const Vector b = Eigen::Map<const Vector>(targets.data(), rows);
  // Columns of one length: what "close to 0" means is then the same for all.
  Vector lengths = a.colwise().norm().transpose();
  for (double& length : lengths) length = length > 0 ? length : 1.0;
  a = a * lengths.cwiseInverse().asDiagonal();
  const double tolerance = 1e-12 * std::max(1e-300, b.norm());

  Vector x = Vector::Zero(columns);
  std::vector<bool> passive(columns, false);
  for (int64_t round = 0; round < 10 * columns; ++round) {
    const Vector gradient = a.transpose() * (b - a * x);
    Eigen::Index best = -1;
    for (Eigen::Index i = 0; i < columns; ++i) {
      if (!passive[i] && gradient[i] > tolerance && (best < 0 || gradient[i] > gradient[best])) best = i;
    }
    if (best < 0) break;
    passive[best] = true;
    for (;;) {
      const Vector wanted = solve_over(a, b, passive);
      double step = 1.0;
      for (Eigen::Index i = 0; i < columns; ++i) {
        if (passive[i] && wanted[i] <= 0 && x[i] - wanted[i] > 0) step = std::min(step, x[i] / (x[i] - wanted[i]));
      }
      x += step * (wanted - x);
      bool left = false;
      for (Eigen::Index i = 0; i < columns; ++i) {
        if (!passive[i] || x[i] > tolerance) continue;
        left = left || wanted[i] <= 0;
        if (wanted[i] <= 0) passive[i] = false, x[i] = 0;
      }
      if (!left) break;
    }
  }
  x = x.cwiseQuotient(lengths);
  return {x.data(), x.data() + columns};
}

Result<StepFit> fit_step_cost(std::span<const StepSample> samples, std::span<const double> bends) {
  const int64_t columns = plain_weights + static_cast<int64_t>(bends.size());
  if (static_cast<int64_t>(samples.size()) < columns) {
    return error(Code::invalid_argument, "{} measured steps are too few for {} weights", samples.size(), columns);
  }
  std::vector<double> a, b;
  for (const StepSample& sample : samples) {
    if (!(sample.seconds > 0) || !std::isfinite(sample.seconds)) {
      return error(Code::invalid_argument, "a measured step took {} seconds, expected more than 0", sample.seconds);
    }
    // Relative errors count: each line is divided by its time.
    for (const double feature : features_of(sample.shape, bends)) a.push_back(feature / sample.seconds);
    b.push_back(1.0);
  }
  // A step that something interrupted says little about steps: beyond an error of a twentieth, errors count by their size and no
  // longer by their square (Huber's estimate, by weighted least squares).
  std::vector<double> x = non_negative_least_squares(a, b, columns);
  for (int round = 0; round < 10; ++round) {
    std::vector<double> weighted_a(a), weighted_b(b);
    for (size_t i = 0; i < b.size(); ++i) {
      double error_of = -b[i];
      for (int64_t c = 0; c < columns; ++c) error_of += a[i * columns + c] * x[c];
      const double weight = std::sqrt(std::min(1.0, 0.05 / std::max(1e-12, std::abs(error_of))));
      for (int64_t c = 0; c < columns; ++c) weighted_a[i * columns + c] *= weight;
      weighted_b[i] *= weight;
    }
    x = non_negative_least_squares(weighted_a, weighted_b, columns);
  }
  StepWeights weights{.per_step = x[0],
                      .per_prefill_row_layer = x[1],
                      .per_decode_row_layer = x[2],
                      .per_prefill_slot = x[3],
                      .per_decode_slot = x[4],
                      .per_prefill_key = x[5],
                      .per_output_row = x[6]};
  for (size_t i = 0; i < bends.size(); ++i) {
    if (x[plain_weights + i] > 0) weights.bends.push_back({bends[i], x[plain_weights + i]});
  }
  return judge_step_cost(weights, samples);
}

StepFit judge_step_cost(const StepWeights& weights, std::span<const StepSample> samples) {
  StepFit fit{.weights = weights, .samples = static_cast<int64_t>(samples.size())};
  if (samples.empty()) return fit;
  const LinearStepCost cost(weights);
  std::vector<double> ratios;
  for (const StepSample& sample : samples) {
    ratios.push_back(sample.seconds / std::max(1e-12, cost.seconds(sample.shape)));
    fit.mean_error += std::abs(ratios.back() - 1) / static_cast<double>(samples.size());
  }
  std::sort(ratios.begin(), ratios.end());
  const auto rank = [&](double share) { return ratios[static_cast<size_t>(std::ceil(share * static_cast<double>(ratios.size()))) - 1]; };
  fit.ratio_50 = rank(0.5);
  fit.ratio_99 = rank(0.99);
  return fit;
}

}  // namespace onset
