#include "hub/load.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace contender {
namespace {

// Asked of the disk before they are needed: enough for it to stay busy while values are packed.
constexpr int64_t kReadAheadBytes = 64 << 20;

// One rectangle to fetch.
struct Item {
  int param;
  const ParamPiece* piece;
  const StoredTensor* stored;
  auto order() const { return std::tuple(stored->file, stored->data, piece->hf_row); }
  // Rows of the file's tensor under it: a column of our own is a row there.
  bool flat() const { return piece->hf_cols == 1 && stored->cols() != 1; }
  int64_t row() const { return flat() ? 0 : piece->hf_row; }
  int64_t rows() const { return flat() ? 1 : piece->rows; }
  int64_t bytes() const { return rows() * stored->row_bytes; }
};

void read(const ModelFiles& files, const std::string& name, const ParamPiece& p, std::vector<float>& values) {
  values.resize(static_cast<size_t>(p.rows * p.cols));
  files.read(name, p.hf_cols, p.hf_row, p.rows, p.hf_col, p.cols, values.data(), p.cols);
}

// The second copies that the files hold, by the name of the first.
std::map<std::string, std::vector<std::string>> copies_in(const ModelFiles& files, const ModelConfig& model) {
  std::map<std::string, std::vector<std::string>> copies;
  for (const ModelTensor& t : model_tensors(model))
    if (!t.copy_of.empty() && files.find(t.name)) copies[t.copy_of].push_back(t.name);
  return copies;
}

}  // namespace

void load_weights(const ModelFiles& files, const ModelConfig& model, WeightStore& w) {
  std::vector<Item> items;
  for (int p = 0; p < static_cast<int>(w.specs().size()); ++p) {
    for (const ParamPiece& piece : w.specs()[p].pieces) {
      const StoredTensor* stored = files.find(piece.hf_name);
      if (!stored) fail(ExitCode::kConfig, "{}: no tensor \"{}\"", files.path(), piece.hf_name);
      items.push_back({p, &piece, stored});
    }
  }
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.order() < b.order(); });
  std::map<std::string, std::vector<std::string>> copies = copies_in(files, model);
  std::vector<float> values, other;  // one buffer: fresh pages for every tensor take longer than its values
  std::vector<int> missing(w.specs().size());  // pieces of a parameter
  for (const Item& i : items) ++missing[i.param];
  size_t asked = 0;
  int64_t ahead = 0;  // bytes asked for, behind the item
  for (const Item& item : items) {
    ahead -= item.bytes();
    for (; asked < items.size() && ahead < kReadAheadBytes; ++asked) {
      items[asked].stored->will_need(items[asked].row(), items[asked].rows());
      ahead += items[asked].bytes();
    }
    CHECK(item.piece->cols == w.specs()[item.param].k, "{}", item.piece->hf_name);
    read(files, item.piece->hf_name, *item.piece, values);
    for (const std::string& copy : copies[item.piece->hf_name]) {
      read(files, copy, *item.piece, other);
      if (other != values)
        fail(ExitCode::kConfig,
             "{}: {} differs from {}: a module with tables of its own is not supported; set "
             "model.num_nextn_predict_layers = 0 to go without it",
             files.path(), copy, item.piece->hf_name);
    }
    w.set_master(item.param, item.piece->local_row, values);
    item.stored->done_with(item.row(), item.rows());
    if (--missing[item.param] == 0) w.repack(item.param);
  }
}

}  // namespace contender
