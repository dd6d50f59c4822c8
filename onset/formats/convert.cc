#include "onset/formats/convert.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>

#include "onset/tensor/block_formats.h"

namespace onset {
namespace {

constexpr size_t chunk_bytes = size_t{8} << 20;  // of the result, between two writes

bool is_quantisable(const StoredTensor& tensor) {
  return tensor.shape.size() >= 2 && is_weight_type(tensor.dtype) && tensor.name.ends_with("weight") &&
         !tensor.name.ends_with("_norm.weight") && !tensor.name.ends_with("ffn_gate_inp.weight");
}

// The N of "blk.N.SUFFIX".
std::optional<int64_t> layer_of(std::string_view name, std::string_view suffix) {
  if (!name.starts_with("blk.") || !name.ends_with(suffix)) return std::nullopt;
  const std::string_view rest = name.substr(4, name.size() - 4 - suffix.size());
  int64_t layer = 0;
  const auto [end, problem] = std::from_chars(rest.data(), rest.data() + rest.size(), layer);
  if (problem != std::errc() || end != rest.data() + rest.size() || layer < 0) return std::nullopt;
  return layer;
}

// The layers that llama-quantize's "_M" mixes give more bits.
bool is_sensitive_layer(int64_t layer, int64_t layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

int64_t architecture_integer(const ModelFile& model, const char* key, int64_t otherwise) {
  const auto name = model.text("general.architecture");
  if (!name.ok()) return otherwise;
  const auto value = model.integer(std::string(*name) + "." + key);
  return value.ok() ? *value : otherwise;
}

DType meant_type(const ModelFile& model, const StoredTensor& tensor, const ConvertOptions& options) {
  const DType dtype = options.dtype;
  if (options.pure || !is_block_format(dtype)) return dtype;
  const bool is_output =
      tensor.name == "output.weight" || (tensor.name == "token_embd.weight" && model.find_tensor("output.weight") == nullptr);
  if (is_output) return tensor.columns() % block_size(dtype) != 0 || dtype == DType::q8_0 ? DType::q8_0 : DType::q6_k;
  if (dtype != DType::q4_k && dtype != DType::q5_k) return dtype;
  const int64_t layers = architecture_integer(model, "block_count", 0);
  const auto value_layer = layer_of(tensor.name, ".attn_v.weight");
  const auto down_layer = layer_of(tensor.name, ".ffn_down.weight");
  if (value_layer && is_sensitive_layer(*value_layer, layers)) return DType::q6_k;
  if (down_layer && is_sensitive_layer(*down_layer, layers)) return DType::q6_k;
  // In the 70B models eight query heads share a value matrix, which is small and worth a bit more.
  const bool shared =
      layers == 80 && architecture_integer(model, "attention.head_count", 0) != architecture_integer(model, "attention.head_count_kv", 0);
  return value_layer && shared ? DType::q5_k : dtype;
}

DType type_for_columns(DType dtype, int64_t columns) {
  if (columns % block_size(dtype) == 0) return dtype;
  if (dtype == DType::q4_k) dtype = DType::q5_0;
  if (dtype == DType::q5_k) dtype = DType::q5_1;
  if (dtype == DType::q6_k) dtype = DType::q8_0;
  return columns % block_size(dtype) == 0 ? dtype : DType::f16;
}

// general.file_type of llama.cpp.
uint32_t file_type_number(const ConvertOptions& options) {
  switch (options.dtype) {
    case DType::f16:
      return 1;
    case DType::q4_0:
      return 2;
    case DType::q4_1:
      return 3;
    case DType::q8_0:
      return 7;
    case DType::q5_0:
      return 8;
    case DType::q5_1:
      return 9;
    case DType::q4_k:
      return options.pure ? 14 : 15;
    case DType::q5_k:
      return options.pure ? 16 : 17;
    case DType::q6_k:
      return 18;
    case DType::bf16:
      return 32;
    default:
      return 0;
  }
}

GgufMetadata metadata_of(const ModelFile& model, const ConvertOptions& options) {
  GgufMetadata metadata;
  for (const MetadataEntry& entry : model.metadata()) {
    // What an importance matrix did to the source says nothing about the result.
    if (!entry.key.starts_with("quantize.imatrix.")) metadata.set(entry);
  }
  metadata.set_u32("general.file_type", file_type_number(options));
  metadata.remove("general.quantization_version");
  if (is_block_format(options.dtype)) metadata.set_u32("general.quantization_version", 2);
  return metadata;
}

// Rows of `tensor` from `first` on, as `dtype`, into `rows` (whole rows). False if a value is too large for
// F16.
bool convert_rows(const StoredTensor& tensor, DType dtype, int64_t first, std::span<std::byte> rows, ThreadPool& pool) {
  const size_t size = row_bytes(dtype, tensor.columns());
  std::vector<std::vector<float>> values(static_cast<size_t>(pool.threads()));
  std::atomic<bool> too_large = false;
  pool.for_each(static_cast<int64_t>(rows.size() / size), [&](int64_t i, int worker) {
    std::vector<float>& row = values[static_cast<size_t>(worker)];
    row.resize(static_cast<size_t>(tensor.columns()));
    dequantize_row(tensor.dtype, tensor.row(first + i).data(), row);
    if (dtype == DType::f16) {
      for (const float value : row) {
        if (std::fabs(value) >= 65520.0f) too_large.store(true, std::memory_order_relaxed);
      }
    }
    quantize_row(dtype, row, rows.data() + static_cast<size_t>(i) * size);
  });
  return !too_large;
}

Status write_tensor(const StoredTensor& tensor, DType dtype, GgufWriter& writer, ConvertProgress& progress, const ConvertOptions& options,
                    ThreadPool& pool) {
  const auto report = [&](size_t bytes) {
    progress.bytes_done += bytes;
    if (options.progress) options.progress(progress);
  };
  progress.tensor = tensor.name;
  ONSET_TRY(check_finite(tensor));
  if (tensor.dtype == dtype) {
    for (size_t begin = 0; begin < tensor.bytes.size(); begin += chunk_bytes) {
      const auto part = tensor.bytes.subspan(begin, std::min(chunk_bytes, tensor.bytes.size() - begin));
      ONSET_TRY(writer.write(part));
      report(part.size());
    }
    return {};
  }
  const size_t size = row_bytes(dtype, tensor.columns());
  const int64_t rows_at_once = std::max<int64_t>(1, static_cast<int64_t>(chunk_bytes / size));
  std::vector<std::byte> buffer;
  for (int64_t first = 0; first < tensor.rows(); first += rows_at_once) {
    const int64_t count = std::min(rows_at_once, tensor.rows() - first);
    buffer.resize(static_cast<size_t>(count) * size);
    if (!convert_rows(tensor, dtype, first, buffer, pool)) {
      return error(Code::invalid_argument, "tensor {} holds values above 65504, too large for F16: choose BF16 or F32", tensor.name);
    }
    ONSET_TRY(writer.write(buffer));
    report(buffer.size());
  }
  return {};
}

Status check_space(const std::filesystem::path& destination, uint64_t bytes) {
  std::error_code problem;
  const auto folder = std::filesystem::absolute(destination, problem).parent_path();
  const std::filesystem::space_info space = std::filesystem::space(folder, problem);
  if (problem || space.available >= bytes) return {};  // what cannot be asked will show when it is written
  return error(Code::resource_exhausted, "{}: needs {} bytes, the disk has {} free", destination.string(), bytes, space.available);
}

}  // namespace

ChosenType choose_type(const ModelFile& model, const StoredTensor& tensor, const ConvertOptions& options) {
  if (!is_weight_type(tensor.dtype)) return {tensor.dtype, tensor.dtype};
  if (tensor.shape.size() == 1) return {DType::f32, DType::f32};
  if (options.dtype == DType::f32) return {DType::f32, DType::f32};
  if (!is_quantisable(tensor)) return {tensor.dtype, tensor.dtype};
  const DType meant = meant_type(model, tensor, options);
  return {meant, type_for_columns(meant, tensor.columns())};
}

Result<ConvertReport> convert(const ModelFile& model, const std::filesystem::path& destination, const ConvertOptions& options,
                              ThreadPool& pool) {
  if (!is_weight_type(options.dtype)) {
    return error(Code::invalid_argument, "a model cannot be converted to {}", dtype_name(options.dtype));
  }
  ConvertReport report;
  std::vector<GgufTensorInfo> infos;
  for (const StoredTensor& tensor : model.tensors()) {
    const ChosenType type = choose_type(model, tensor, options);
    if (type.meant != type.used) report.fallbacks.push_back({tensor.name, type.meant, type.used, tensor.columns()});
    if (is_block_format(tensor.dtype) && type.used != tensor.dtype) ++report.requantised;
    infos.push_back({tensor.name, type.used, tensor.shape});
    report.source_bytes += tensor.bytes.size();
    report.bytes += *tensor_bytes(type.used, tensor.shape);
  }
  report.tensors = static_cast<int64_t>(infos.size());
  ONSET_TRY(check_space(destination, report.bytes));
  ONSET_ASSIGN(GgufWriter writer, GgufWriter::create(destination, metadata_of(model, options), infos, options.split));
  ConvertProgress progress{{}, 0, report.bytes};
  for (size_t i = 0; i < infos.size(); ++i) {
    const StoredTensor& tensor = model.tensors()[i];
    ONSET_TRY(write_tensor(tensor, infos[i].dtype, writer, progress, options, pool).within(model.path().string()));
  }
  ONSET_TRY(writer.commit());
  report.files = writer.paths();
  return report;
}

}  // namespace onset
